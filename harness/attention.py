"""Attention in which examples that lie behind one another see only themselves, by groups of examples of similar length.

A group's queries, keys and values are gathered from their slots into a small padded block and the outputs put back:
the score matrices are as small as the examples are short, however many share a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

HERE = {"cpu"}  # types of device for which this file computes by itself; `activations` adds "meta" for a while
LEVELS = 2**16  # an element is dropped where 16 random bits, as a number, are below a threshold


def drop(tensor: torch.Tensor, probability: float) -> torch.Tensor:
    """`functional.dropout` in training; on a CPU with the probability rounded to a multiple of 1/65536.

    Four elements share a draw of 64 bits from torch's default generator, so that a resumed run draws the same masks.
    """
    dropped = round(probability * LEVELS)
    if tensor.device.type not in HERE or dropped in (0, LEVELS):
        return functional.dropout(tensor, probability)
    draws = torch.empty(-(-tensor.numel() // 4), dtype=torch.int64, device=tensor.device).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: tensor.numel()].view(tensor.shape)
    return tensor * (bits >= dropped - LEVELS // 2).to(tensor.dtype).mul_(LEVELS / (LEVELS - dropped))


class Dropout(nn.Dropout):
    """nn.Dropout with `drop`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As nn.Dropout's."""
        return drop(input, self.p) if self.training else input


def replace_dropout(model: nn.Module) -> None:
    """Put `Dropout` in the place of every nn.Dropout of the model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))


@dataclass(frozen=True)
class Group:
    """Examples that attention takes together: b of at most T tokens."""

    places: torch.Tensor | None  # [b * T] their slots, short examples filled up with their last; None: rows as they are
    kept: torch.Tensor | None  # [tokens of the group] which of `places` are not filling
    # [b, 1, 1 or T, T]: bool, False where a token must not be seen, or what is added to scores; None: all are seen.
    mask: torch.Tensor | None
    longest: int  # T
    reach: int = 0  # by how much a window of local attention reaches farther than the number that its layer gives


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it (queries, keys, values: [R, heads, T, d]; output [R, T, heads, d]) by groups.

    Keys and values may have fewer heads, each of which then serves as many queries' heads (grouped-query attention). In
    `more`: `groups`, a list of Group, without which transformers' own attention computes; `sliding_window` w: a token
    sees those less than w + Group.reach places away; and `softcap` c: scores s become c * tanh(s / c).
    """
    groups, window, softcap = (more.pop(name, None) for name in ("groups", "sliding_window", "softcap"))
    if groups is None and softcap is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        # Its mask has the window in it already.
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return output, None
    if groups is None:
        groups, window = [Group(None, None, attention_mask, query.shape[2])], None
    parts = []
    for group in groups:
        q, k, v, mask = query, key, value, group.mask
        if group.places is not None:  # the group's examples as [b, heads, T, d]
            taken = (each.transpose(1, 2).flatten(0, 1).index_select(0, group.places) for each in (query, key, value))
            q, k, v = (each.view(-1, group.longest, *each.shape[1:]).transpose(1, 2) for each in taken)
        if k.shape[1] != q.shape[1]:
            k, v = (each.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for each in (k, v))
        if window is not None and group.longest > window + group.reach:
            place = torch.arange(group.longest, device=query.device)
            far = ((place[:, None] - place[None]).abs() >= window + group.reach)[None, None]
            if mask is None or mask.dtype == torch.bool:
                mask = ~far if mask is None else mask & ~far
            else:
                mask = mask.masked_fill(far, -torch.inf)
        if softcap is not None or (query.device.type in HERE and torch.is_grad_enabled()):
            # PyTorch computes masked attention with dropout in float32 from end to end here. Instead scores and
            # softmax are in float32, probabilities in the values' precision, as FlashAttention has them.
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            with torch.autocast("cuda" if query.is_cuda else "cpu", enabled=False):
                scores = (q.float() * scale) @ k.float().transpose(-1, -2)
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            if mask is not None and mask.dtype == torch.bool:
                unseen = torch.finfo(torch.float32).min
                scores += torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, unseen)
            elif mask is not None:
                scores += mask
            output = drop(scores.softmax(-1).to(v.dtype), dropout) @ v
            del scores  # as large as the next group's, which would lie beside them
        else:
            if mask is not None and mask.dtype != torch.bool:
                mask = mask.to(q.dtype)  # nothing to do but under autocast
            output = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)
        output = output.transpose(1, 2).flatten(0, 1)  # [b * T, heads, d]
        parts.append(output if group.kept is None else output.index_select(0, group.kept))
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)  # cat would copy a single one, too
    return whole.view(query.transpose(1, 2).shape), None

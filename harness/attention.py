"""Attention in which examples that lie behind one another see only themselves, by groups of examples of similar length.

A group's queries, keys and values are gathered from their slots into a small padded block and the outputs put back:
the score matrices are as small as the examples are short, however many share a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from harness.task import PAD_TO, moved

ATTENTION = "within_examples"  # the name under which `attend` is registered with transformers
CALL_COST = 4096  # what one more call of attention costs on a CPU beside its work, in entries of the score matrix
LEVELS = 2**16  # an element is dropped where 16 random bits, as a number, are below a threshold


def drop(tensor: torch.Tensor, probability: float) -> torch.Tensor:
    """`functional.dropout` in training; on a CPU with the probability rounded to a multiple of 1/65536.

    Four elements share a draw of 64 bits from torch's default generator, so that a resumed run draws the same masks.
    """
    dropped = round(probability * LEVELS)
    if tensor.device.type != "cpu" or dropped in (0, LEVELS):
        return functional.dropout(tensor, probability)
    draws = torch.empty(-(-tensor.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
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
    mask: torch.Tensor | None  # bool [b, 1, 1 or T, T], False where a token must not be seen; None: all are
    longest: int  # T


def partition(lengths: Sequence[int], cost: Callable[[int, int], float]) -> list[tuple[int, int]]:
    """[begin, end) of consecutive groups of `lengths`, longest first: those with the least sum of cost(count, longest).

    Groups begin only where the length, rounded up to a multiple of PAD_TO, changes.
    """
    rounded = [-(-length // PAD_TO) for length in lengths]
    ends = [i for i in range(1, len(lengths)) if rounded[i] != rounded[i - 1]]
    ends = [0, *ends, len(lengths)]
    best: list[tuple[float, int]] = [(0.0, 0)]  # for each of `ends`: the least cost up to it, and where to cut before
    for j in range(1, len(ends)):
        best.append(min((best[i][0] + cost(ends[j] - ends[i], lengths[ends[i]]), i) for i in range(j)))
    groups, j = [], len(ends) - 1
    while j:
        groups.append((ends[best[j][1]], ends[j]))
        j = best[j][1]
    return groups[::-1]


def group_by_length(starts: np.ndarray, lengths: np.ndarray) -> list[Group]:
    """Groups of similar length, on the CPU, of examples that begin at slots `starts` of one row, longest first."""
    groups = []
    for begin, end in partition(lengths.tolist(), lambda count, longest: CALL_COST + count * longest**2):
        longest, own = int(lengths[begin]), lengths[begin:end, None]
        place = np.arange(longest)[None]
        places = starts[begin:end, None] + np.minimum(place, own - 1)
        real = place < own
        even = bool(real.all())
        groups.append(
            Group(
                torch.from_numpy(places.ravel()),
                None if even else torch.from_numpy(np.flatnonzero(real)),
                None if even else torch.from_numpy(real)[:, None, None],
                longest,
            )
        )
    return groups


def whole_rows(owner: np.ndarray, device: torch.device) -> Group:
    """All rows as they are. `owner` [R, T]: number of each slot's example, -1 in empty slots.

    Empty slots see each other: with nothing to see, softmax would give NaN.
    """
    own = moved(torch.from_numpy(owner), device)
    return Group(None, None, own[:, None, :, None] == own[:, None, None, :], owner.shape[1])


def register() -> None:
    """Make `attend` known to transformers under the name ATTENTION."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


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

    In `more`: `groups`, a list of Group, without which transformers' own attention computes; and `sliding_window` w: a
    token sees those less than w places away.
    """
    groups, window = more.pop("groups", None), more.pop("sliding_window", None)
    if groups is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        # Its mask has the window in it already.
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return output, None
    parts = []
    for group in groups:
        mask = group.mask
        if window is not None and group.longest > window:
            place = torch.arange(group.longest, device=query.device)
            near = ((place[:, None] - place[None]).abs() < window)[None, None]
            mask = near if mask is None else mask & near
        q, k, v = (_take(tensor, group) for tensor in (query, key, value))
        if query.device.type == "cpu" and torch.is_grad_enabled():
            output = _by_products(q, k, v, mask, dropout, scaling)
        else:
            output = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)
        output = output.transpose(1, 2).flatten(0, 1)  # [b * T, heads, d]
        parts.append(output if group.kept is None else output.index_select(0, group.kept))
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)  # cat would copy a single one, too
    return whole.view(query.transpose(1, 2).shape), None


def _by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """For training on a CPU, where PyTorch computes masked attention with dropout in float32 from end to end.

    Here scores and softmax are in float32, probabilities in the values' precision, as FlashAttention has them.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):
        scores = (query.float() * scale) @ key.float().transpose(-1, -2)
    if mask is not None:
        scores += torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)
    return drop(scores.softmax(-1).to(value.dtype), dropout) @ value


def _take(tensor: torch.Tensor, group: Group) -> torch.Tensor:
    """[R, heads, T, d] -> the group's examples as [b, heads, T, d]."""
    if group.places is None:
        return tensor
    taken = tensor.transpose(1, 2).flatten(0, 1).index_select(0, group.places)  # [b * T, heads, d]
    return taken.view(-1, group.longest, *taken.shape[1:]).transpose(1, 2)

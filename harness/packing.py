"""Forward passes without padding: how the examples of a batch lie in the rows that the encoder sees.

Packed: examples lie one behind another, each with positions from its own beginning, and attend only to themselves. On
a CPU all of a batch lie in one row without a gap, and attention runs over groups of examples of similar length. On
other devices they fill rows of equal length under a block-diagonal mask (harness/rows.py). Bucketed: one pass
of the encoder for each group of examples of similar length, padded to the group's longest. Padded: one pass, padded to
the longest of all. Speed differs, and rounding; the mathematics does not.

Whether an encoder can be packed is found by trying: its outputs for a few made-up examples, packed, must equal those
of the padded ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn

from harness import attention, projections
from harness.attention import Group
from harness.data import collate
from harness.errors import UserError, first_line
from harness.rows import PackedBatch, Rows, equal_rows, in_rows, pack
from harness.task import PAD_TO, Batch, Encoded, moved

KINDS = {"packed": "packed rows", "bucketed": "length-bucketed padding", "padded": "padding"}
ATTENTION = "within_examples"  # the name under which `attend` is registered with transformers
ALWAYS_MASKED = "always_masked"
PASS_COST = 32  # what one more pass of the encoder costs on a CPU beside its work, in tokens
CALL_COST = 4096  # what one more call of attention costs on a CPU beside its work, in entries of the score matrix
FEW_TOKENS = 16  # of an example, where only the order of calls is looked at: a decoder's window has thousands
TOLERANCE = 1e-4  # between packed and padded outputs in float32, which are near 1


@dataclass(frozen=True)
class Encoding:
    """An encoder's output. Example e lies at hidden[starts[e] : starts[e] + its length], whatever the layout."""

    hidden: torch.Tensor  # [slots, width]
    starts: torch.Tensor  # [B] int64
    pooled: torch.Tensor | None  # [B, width], where the encoder has a pooler

    def mean(self, lengths: torch.Tensor) -> torch.Tensor:
        """[B, width]: the mean over each example's tokens, of which there are `lengths` [B]."""
        place = torch.arange(len(self.hidden), device=self.hidden.device) - self.starts[:, None]  # [B, slots]
        own = ((place >= 0) & (place < lengths[:, None])).to(self.hidden.dtype)
        if self.hidden.dtype == torch.float32:  # the product is in bf16 under autocast
            return (own @ self.hidden).float() / lengths[:, None]
        return (own / lengths[:, None].to(own.dtype)) @ self.hidden  # the sum of 512 tokens may be more than fp16 holds


@dataclass(frozen=True)
class Layout:
    """How one encoder is fed."""

    kind: str  # one of KINDS
    first_position: int = 0  # packed: position id of an example's first token
    reason: str = ""  # why it is not packed although that would have been taken
    few_shapes: bool = False  # packed: rows of fixed lengths on a CPU too, for layers that are compiled
    causal: bool = False  # packed: a token sees none behind it
    reach: int = 0  # packed: as in Group

    def __str__(self) -> str:
        return f"{KINDS[self.kind]}: {self.reason}" if self.reason else KINDS[self.kind]

    def in_one_pass(self) -> Layout:
        """The same, or padding where the number of the encoder's passes would depend on the batch.

        Under ZeRO-3 weights are gathered in every pass: ranks with unequal numbers of them would wait for ever.
        """
        return Layout("padded", reason="ZeRO-3 on several devices") if self.kind == "bucketed" else self

    def ready(self, batch: Batch | PackedBatch, device: torch.device) -> Batch | PackedBatch:
        """The batch as this layout feeds it on `device`, not moved there yet."""
        if self.kind != "packed" or isinstance(batch, PackedBatch):
            return batch
        lengths = np.asarray(batch.lengths or batch.attention_mask.sum(1).tolist())
        if device.type != "cpu" or self.few_shapes:
            return in_rows(batch, lengths, equal_rows(lengths), self.first_position)
        rows, groups = one_row(lengths, self.causal, self.reach)
        return replace(in_rows(batch, lengths, rows, self.first_position), groups=groups)

    def encode(self, encoder: Any, batch: Batch | PackedBatch) -> Encoding:
        """The encoder's output for a batch."""
        batch = self.ready(batch, batch.input_ids.device)
        if isinstance(batch, PackedBatch):
            return _packed(encoder, batch, self)
        lengths = np.asarray(batch.lengths or batch.attention_mask.sum(1).tolist())
        order, passes = np.arange(len(lengths)), [(0, len(lengths))]
        if self.kind == "bucketed":
            order = np.argsort(-lengths, kind="stable")
            passes = partition(lengths[order].tolist(), lambda count, longest: PASS_COST + count * longest)
        return _padded(encoder, batch, lengths, order, passes)


PADDED = Layout("padded")


def fit_to_device(network: Any, device: torch.device, whole_weights: bool) -> None:
    """Make a network fit for `device`, which may be bound by the operations that it is given.

    On a GPU one padded pass costs less than several; a mask is always made, where transformers asks the device in every
    pass whether it can do without; and layers with one input are joined, where their weights are whole. Attention that
    cannot be PyTorch's own (Gemma 2's, with capped scores) stays as it is.
    """
    if device.type == "cpu":
        return
    encoder, layout = network.encoder, network.layout
    if layout.kind == "bucketed":
        network.layout = Layout("padded", reason=layout.reason)
    if layout.kind != "packed":
        always_mask(encoder)
    if whole_weights:
        training, batch = encoder.training, _probe_batch(encoder.config, FEW_TOKENS).to(encoder.device)
        encoder.eval()
        projections.join(encoder, lambda: PADDED.encode(encoder, batch))
        encoder.train(training)


def always_mask(encoder: Any) -> None:
    """Have transformers make a mask in every pass, where the encoder's attention is PyTorch's own."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if encoder._can_set_attn_implementation() and encoder.config._attn_implementation == "sdpa":
        AttentionInterface.register(ALWAYS_MASKED, sdpa_attention_forward)
        AttentionMaskInterface.register(ALWAYS_MASKED, _always_mask)
        encoder.set_attn_implementation(ALWAYS_MASKED)


def _always_mask(**given: Any) -> Any:
    """transformers' boolean mask, also where attention could do without."""
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(**given | {"allow_is_bidirectional_skip": False, "allow_is_causal_skip": False})


def choose(encoder: Any, asked: str, causal: bool = False, longest: int | None = None) -> Layout:
    """The layout for a float32 encoder on the CPU; makes it ready for it. Raises UserError where `asked` cannot be.

    `causal`: a token of it sees none behind it. `longest`: tokens that an input has at most.
    """
    if asked in ("bucketed", "padded"):
        return Layout(asked)
    layout = probe(encoder, causal, longest)
    if layout.kind == "packed":
        return layout
    if asked == "packed":
        raise UserError(
            f"--packing packed: this {encoder.config.model_type} encoder cannot be packed ({layout.reason}); "
            "use --packing auto or bucketed"
        )
    return layout


def probe(encoder: Any, causal: bool = False, longest: int | None = None) -> Layout:
    """Packed, with the numbers that give the padded outputs, or bucketed with the reason; arguments as of `choose`.

    Leaves torch's random state as it was. An encoder that can be packed keeps `attend` as its attention.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    before, training = encoder.config._attn_implementation, encoder.training
    batch = _probe_batch(encoder.config, longest)
    window = int(getattr(encoder.config, "sliding_window", None) or 0)
    first_positions = {0, int(encoder.config.pad_token_id or 0) + 1}  # the second in RoBERTa and its relatives
    # Some architectures give their layers the window itself, others one more; all have the same mask.
    reaches = (0, 1) if 0 < window < max(batch.lengths) else (0,)
    encoder.eval()
    try:
        with torch.inference_mode():
            expected = _by_example(PADDED.encode(encoder, batch), batch)
            if not encoder._can_set_attn_implementation():
                return Layout("bucketed", reason="its attention cannot be exchanged")
            AttentionInterface.register(ATTENTION, attention.attend)
            AttentionMaskInterface.register(ATTENTION, _always_mask)
            encoder.set_attn_implementation(ATTENTION)
            for first_position, reach in product(sorted(first_positions), reaches):
                layout = Layout("packed", first_position, causal=causal, reach=reach)
                layouts = (layout, replace(layout, few_shapes=True))
                if all(_same(_by_example(each.encode(encoder, batch), batch), expected) for each in layouts):
                    before = ATTENTION
                    return layout
        return Layout("bucketed", reason="packed and padded outputs differ")
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError) as error:
        return Layout("bucketed", reason=first_line(error))
    finally:
        encoder.train(training)
        if encoder.config._attn_implementation != before:
            encoder.set_attn_implementation(before)


def _same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=0, atol=TOLERANCE) for a, b in zip(found, expected, strict=True))


def _probe_batch(settings: Any, longest: int | None = None) -> Batch:
    """A few examples of made-up ids, the longest just longer than a window of local attention.

    Not where no input, of `longest` tokens at most, is: Mistral's window is 4096 wide.
    """
    window = int(getattr(settings, "sliding_window", None) or 0)
    positions = int(getattr(settings, "max_position_embeddings", None) or 512)
    window = window if longest is None or longest > window else 0
    longest = min(window + 8, (positions if positions > 0 else 512) // 2)  # XLNet says -1
    draw, pad, size = np.random.default_rng(0), int(settings.pad_token_id or 0), settings.vocab_size
    drawn = [draw.integers(0, size, length) for length in (5, longest, 3, 9)]
    rows = [np.where(row == pad, (pad + 1) % size, row).tolist() for row in drawn]
    return collate(Encoded(rows, None, [0] * len(rows)), range(len(rows)), pad)


def _by_example(encoding: Encoding, batch: Batch) -> list[torch.Tensor]:
    """The outputs of each example's tokens, and what the pooler makes of the first ones."""
    spans = zip(encoding.starts.tolist(), batch.lengths, strict=True)
    rows = [encoding.hidden[start : start + length] for start, length in spans]
    return rows if encoding.pooled is None else [*rows, encoding.pooled]


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


def one_row(lengths: np.ndarray, causal: bool = False, reach: int = 0) -> tuple[Rows, list[Group]]:
    """All examples in one row without a gap, longest first, and groups of those of similar length; on the CPU."""
    order = np.argsort(-lengths, kind="stable")
    rows = pack(lengths.tolist(), [order.tolist()], int(lengths.sum()), 1)
    starts, lengths = rows.starts[order], lengths[order]
    groups = []
    for begin, end in partition(lengths.tolist(), lambda count, longest: CALL_COST + count * longest**2):
        longest, own = int(lengths[begin]), lengths[begin:end, None]
        place = np.arange(longest)[None]
        places = torch.from_numpy((starts[begin:end, None] + np.minimum(place, own - 1)).ravel())
        real = place < own
        kept = None if real.all() else torch.from_numpy(np.flatnonzero(real))
        mask = None if kept is None else torch.from_numpy(real)[:, None, None]
        if causal:  # what fills a short example up lies behind its tokens
            mask = torch.ones(1, 1, longest, longest, dtype=torch.bool).tril()
        groups.append(Group(places, kept, mask, longest, reach))
    return rows, groups


def _packed(encoder: Any, batch: PackedBatch, layout: Layout) -> Encoding:
    mask = None if batch.groups else batch.mask(encoder.dtype, layout.causal)
    groups = batch.groups or [Group(None, None, mask, batch.owner.shape[1], layout.reach)]
    # `attend` knows from `groups` who sees whom; a mask of four dimensions passes through transformers unread.
    inputs = {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "attention_mask": torch.zeros(1, 1, 1, 1, device=batch.input_ids.device),
        "groups": groups,
    }
    if batch.token_type_ids is not None:
        inputs["token_type_ids"] = batch.token_type_ids
    pooler, pooled = getattr(encoder, "pooler", None), None
    if pooler is not None:  # the encoder itself would apply it to a row's first token, not to each example's
        encoder.pooler = None
    try:
        hidden = encoder(**inputs).last_hidden_state.flatten(0, 1)
    finally:
        if pooler is not None:
            encoder.pooler = pooler
    if pooler is not None:
        first = hidden[batch.starts]
        # ALBERT's is the layer alone.
        alone = isinstance(getattr(pooler, "base_layer", pooler), nn.Linear)  # with an adapter it is inside one
        pooled = torch.tanh(pooler(first)) if alone else pooler(first[:, None])
    return Encoding(hidden, batch.starts, pooled)


def _padded(
    encoder: Any, batch: Batch, lengths: np.ndarray, order: np.ndarray, passes: Sequence[tuple[int, int]]
) -> Encoding:
    """A pass for each (begin, end) of `passes`: the examples order[begin:end], padded to the longest of them."""
    device = batch.input_ids.device
    starts = np.zeros(len(order), np.int64)
    hidden, pooled, slots = [], [], 0
    for begin, end in passes:
        longest = int(lengths[order[begin:end]].max())
        width = min(-(-longest // PAD_TO) * PAD_TO, batch.input_ids.shape[1])
        examples = moved(torch.from_numpy(order[begin:end]), device)
        inputs = {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "token_type_ids")}
        output = encoder(**{name: rows[examples, :width] for name, rows in inputs.items() if rows is not None})
        hidden.append(output.last_hidden_state.flatten(0, 1))
        if getattr(output, "pooler_output", None) is not None:
            pooled.append(output.pooler_output)
        starts[order[begin:end]] = slots + width * np.arange(end - begin)
        slots += width * (end - begin)
    back = moved(torch.from_numpy(np.argsort(order)), device)
    return Encoding(
        torch.cat(hidden),
        moved(torch.from_numpy(starts), device),
        torch.cat(pooled)[back] if pooled else None,
    )

"""Examples in rows of few different sizes, one behind another: how devices other than a CPU are fed without padding.

Few sizes are few shapes: kernels that are chosen, compiled or captured by shape are so once each. All numbers of a
batch lie in one buffer, which is one copy to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from harness.attention import Group
from harness.task import Batch, moved

# Rows are a multiple of ROW tokens long, and as many as 1, 2, 3, ... and then about GROWTH times the last: at most 5
# shapes in an epoch of any of the BLUE tasks at a batch of 32, with 13 % of the slots empty (benchmarks/notes.md).
ROW, GROWTH = 128, 1.15
IGNORED = -100  # a label of torch's cross_entropy


@dataclass(frozen=True)
class Rows:
    """Examples in rows: R x T slots, of which some may stay empty."""

    owner: np.ndarray  # [R, T] number of the slot's example in the batch, -1: empty
    position: np.ndarray  # [R, T] place of the slot in its example, 0 in empty slots
    starts: np.ndarray  # [B] slot of each example's first token, counted through all rows


@dataclass(frozen=True)
class PackedBatch:
    """A forward pass over B examples in R rows of T slots, with n rows of logits.

    Empty slots repeat the batch's first token: they see only each other, and nothing reads them.
    """

    input_ids: torch.Tensor  # [R, T] int64
    position_ids: torch.Tensor  # [R, T] int64
    owner: torch.Tensor  # [R, T] int64, number of the slot's example, -1: empty
    token_type_ids: torch.Tensor | None  # [R, T] int64
    starts: torch.Tensor  # [B] int64, slot of each example's first token, counted through all rows
    lengths: torch.Tensor  # [B] int64, tokens of each example
    scored: torch.Tensor | None  # tagging: [n] int64, slots of the scored words
    labels: torch.Tensor  # [n] int64 or float32, or [n, classes] float32
    windows: torch.Tensor | None = None  # [B] int64, as in Batch
    groups: Sequence[Group] = ()  # on a CPU: how attention takes the examples together

    def flatten(self) -> torch.Tensor:
        """All of it in one int64 tensor; float32 numbers lie in pairs."""
        parts = []
        for tensor in self._tensors().values():
            part = tensor.flatten()
            if part.is_floating_point():
                part = torch.cat([part, part.new_zeros(len(part) % 2)]).view(torch.int64)
            parts.append(part)
        return torch.cat(parts)

    def within(self, buffer: torch.Tensor) -> PackedBatch:
        """The same as views of a buffer that holds what `flatten` gave for a batch of these shapes."""
        views: dict[str, Any] = {}
        begin = 0
        for name, tensor in self._tensors().items():
            size = -(-tensor.numel() // 2) if tensor.is_floating_point() else tensor.numel()
            views[name] = buffer[begin : begin + size].view(tensor.dtype)[: tensor.numel()].view(tensor.shape)
            begin += size
        return replace(self, **views)

    def to(self, device: torch.device) -> PackedBatch:
        """The same on a device, by one copy."""
        return self if device == self.input_ids.device else self.within(moved(self.flatten(), device))

    def padded(self) -> PackedBatch:
        """In tagging with as many scored words as there are slots, so that there are few numbers of them as well.

        Those that are too many have the label that cross entropy ignores. Each is another slot: a GPU adds up the
        gradients of one slot one after another.
        """
        if self.scored is None:
            return self
        more = self.owner.numel() - len(self.scored)
        scored = torch.cat([self.scored, torch.arange(more, device=self.scored.device)])
        return replace(self, scored=scored, labels=torch.nn.functional.pad(self.labels, (0, more), value=IGNORED))

    def shapes(self) -> tuple[Any, ...]:
        """Equal for batches that need the same operations."""
        return tuple((name, tensor.shape) for name, tensor in self._tensors().items())

    def mask(self, dtype: torch.dtype, causal: bool = False) -> torch.Tensor:
        """[R, 1, T, T]: 0 where a token sees another one of its own example, else -inf. Empty slots see each other:
        with nothing to see, softmax would give NaN. Added to scores as it is, where a bool mask would be turned into
        this one in every layer. `causal`: none behind itself is seen."""
        others = self.owner[:, None, :, None] != self.owner[:, None, None, :]
        if causal:
            place = torch.arange(self.owner.shape[1], device=self.owner.device)
            others = others | (place[:, None] < place[None])
        return torch.zeros(others.shape, dtype=dtype, device=others.device).masked_fill_(others, -torch.inf)

    def _tensors(self) -> dict[str, torch.Tensor]:
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def first_fit(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """The numbers of the examples in each row: the longest first, each into the first row that has room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for example in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((r for r, left in enumerate(room) if left >= lengths[example]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(row_length)
        rows[row].append(example)
        room[row] -= lengths[example]
    return rows


def pack(lengths: Sequence[int], rows: Sequence[Sequence[int]], row_length: int, count: int) -> Rows:
    """Examples of the given lengths in `count` rows, of which the first hold what `rows` says."""
    owner = np.full(count * row_length, -1)
    starts = np.zeros(len(lengths), np.int64)
    for row, examples in enumerate(rows):
        place = row * row_length
        for example in examples:
            starts[example] = place
            owner[place : place + lengths[example]] = example
            place += lengths[example]
    position = np.where(owner < 0, 0, np.arange(len(owner)) - starts[owner])
    return Rows(owner.reshape(count, row_length), position.reshape(count, row_length), starts)


def equal_rows(lengths: np.ndarray) -> Rows:
    """Examples in rows of few different lengths and numbers."""
    row_length = -(-int(lengths.max()) // ROW) * ROW
    filled = first_fit(lengths.tolist(), row_length)
    count = 1
    while count < len(filled):
        count = max(count + 1, int(np.ceil(count * GROWTH)))
    return pack(lengths.tolist(), filled, row_length, count)


def in_rows(batch: Batch, lengths: np.ndarray, rows: Rows, first_position: int) -> PackedBatch:
    """The batch's examples in `rows`, on its own device; `first_position`: position id of an example's first token."""
    device, width = batch.input_ids.device, batch.input_ids.shape[1]
    slots = moved(torch.from_numpy(np.where(rows.owner < 0, 0, rows.owner * width + rows.position)), device)
    starts = moved(torch.from_numpy(rows.starts), device)
    segments, scored = batch.token_type_ids, batch.scored
    return PackedBatch(
        batch.input_ids.flatten()[slots],
        moved(torch.from_numpy(rows.position + first_position), device),
        moved(torch.from_numpy(rows.owner), device),
        None if segments is None else segments.flatten()[slots],
        starts,
        moved(torch.from_numpy(lengths), device),
        None if scored is None else starts[scored // width] + scored % width,
        batch.labels,
        None if batch.windows is None else moved(batch.windows, device),
    )

"""Batches: which examples form a step, in which order, on which rank; and token ids as padded tensors.

Training order depends on (seed, epoch) alone, never on the number of ranks: one optimizer step takes the same examples
on one device as on eight. Evaluation batches are cut once for all ranks, so that an example meets the same neighbours
(and so the same rounding) at any world size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import numpy as np
import torch

from harness.config import BatchPlan
from harness.task import PAD_TO, Batch, Encoded


@dataclass(frozen=True)
class MicroStep:
    """This rank's share of one forward pass of an optimizer step."""

    examples: tuple[int, ...]
    # Weight of the summed loss: step's mean = sum over ranks and passes of scale x loss / (ranks x passes).
    scale: float


def collate(encoded: Encoded, examples: Sequence[int], pad_id: int) -> Batch:
    """The named examples with all their windows, padded on the right to the longest row."""
    own = [encoded.rows(i) for i in examples]
    numbers = list(chain.from_iterable(own))
    rows = [encoded.input_ids[row] for row in numbers]
    lengths = tuple(map(len, rows))
    length = -(-max(lengths) // PAD_TO) * PAD_TO

    def padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        array = np.full((len(rows), length), fill, dtype=np.int64)
        for row, values in enumerate(rows):
            array[row, : len(values)] = values
        return torch.from_numpy(array)

    segments, scored, windows = encoded.token_type_ids, None, None
    if encoded.positions is not None:
        places = [row * length + place for row, number in enumerate(numbers) for place in encoded.positions[number]]
        scored = torch.tensor(places, dtype=torch.int64)
    elif len(numbers) > len(own):
        windows = torch.tensor([place for place, windows in enumerate(own) for _ in windows], dtype=torch.int64)
    return Batch(
        padded(rows, pad_id),
        torch.from_numpy((np.arange(length) < np.array(lengths)[:, None]).astype(np.int64)),
        None if segments is None else padded([segments[row] for row in numbers], 0),
        scored,
        labels_of(encoded, examples),
        tuple(examples),
        tuple(encoded.units(i) for i in examples),
        lengths,
        windows,
    )


def labels_of(encoded: Encoded, examples: Sequence[int]) -> torch.Tensor:
    """Labels of the named examples, as in Batch."""
    if encoded.positions is None:
        labels = [encoded.labels[i] for i in examples]
    else:
        labels = [label for i in examples for row in encoded.rows(i) for label in encoded.labels[row]]
    array = np.asarray(labels)
    # No label at all: a tagging batch whose words are all unscored.
    whole = not array.size or (array.dtype.kind in "iub" and array.ndim == 1)
    return torch.from_numpy(array.astype(np.int64 if whole else np.float32))


def join(parts: Sequence[Encoded]) -> Encoded:
    """Several splits as one, in the order given."""
    if len(parts) == 1:
        return parts[0]
    if any(part.windows is not None for part in parts):
        parts = [replace(part, windows=part.windows or [1] * len(part)) for part in parts]
    parts = [replace(part, cut=None) for part in parts]  # of the splits
    rows: dict[str, Any] = {each.name: [getattr(part, each.name) for part in parts] for each in fields(Encoded)}
    rows = {name: None if each[0] is None else list(chain(*each)) for name, each in rows.items()}
    return Encoded(**rows)


def part(encoded: Encoded, examples: Sequence[int]) -> Encoded:
    """The named examples alone, in the order given."""
    windows = [row for i in examples for row in encoded.rows(i)]
    an_example = ("windows", "cut", *(("labels",) if encoded.positions is None else ()))
    rows: dict[str, Any] = {}
    for name in (each.name for each in fields(Encoded)):
        of = getattr(encoded, name)
        rows[name] = None if of is None else [of[i] for i in (examples if name in an_example else windows)]
    return Encoded(**rows)


def steps_per_epoch(examples: int, plan: BatchPlan) -> int:
    """Optimizer steps that see each example once; the last one may be smaller, as in the original."""
    return -(-examples // plan.total)


def total_steps(examples: int, plan: BatchPlan, epochs: float, max_steps: int) -> int:
    """Optimizer steps of the whole run: `max_steps` where it is above 0, else whole steps of `epochs` passes."""
    return max_steps if max_steps > 0 else max(1, int(steps_per_epoch(examples, plan) * epochs + 1e-6))


def epoch_order(examples: int, seed: int, epoch: int) -> list[int]:
    """The order in which epoch number `epoch` (from 0) sees the examples: the same on every rank and restart."""
    # Apart by more than any number of epochs, so that seed 2 does not begin with the second epoch of seed 1.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order: list[int] = torch.randperm(examples, generator=generator).tolist()
    return order


def epoch_steps(
    encoded: Encoded, plan: BatchPlan, seed: int, epoch: int, rank: int, first: int = 0
) -> Iterator[list[MicroStep]]:
    """One epoch's optimizer steps from step `first` on, as the passes of `rank`.

    A step's examples are dealt evenly over ranks and passes. Where there are fewer examples than that, a pass holds
    the step's first example with weight 0: under ZeRO every rank must take part in every pass.
    """
    order = epoch_order(len(encoded), seed, epoch)
    passes = plan.world * plan.accumulation
    for start in range(first * plan.total, len(order), plan.total):
        chosen = order[start : start + plan.total]
        units = max(1, sum(encoded.units(i) for i in chosen))
        shares = np.array_split(np.asarray(chosen), passes)
        yield [
            MicroStep(tuple(share.tolist()) or (chosen[0],), passes / units if len(share) else 0.0)
            for share in shares[rank :: plan.world]
        ]


def evaluation_batches(encoded: Encoded, size: int, rank: int, world: int) -> list[tuple[int, ...]]:
    """This rank's batches of one pass over a split, longest examples first; every rank gets equally many.

    A batch holds as many tokens, padding counted, as `size` of the split's longest rows, or one example with more
    windows than that: shorter ones in greater number, at no more memory. Batch k belongs to rank k mod world. A rank
    with one batch fewer repeats batch 0 (ZeRO-3 gathers weights in every pass); `harness.evaluate` keeps one answer an
    example.
    """
    rows, widths = (
        [getter(i) for i in range(len(encoded))] for getter in (lambda i: len(encoded.rows(i)), encoded.width)
    )
    order = sorted(range(len(encoded)), key=lambda i: (-rows[i] * widths[i], i))
    tokens = [rows[i] * (-(-widths[i] // PAD_TO) * PAD_TO) for i in order]
    room = size * -(-max(widths, default=0) // PAD_TO) * PAD_TO
    batches, start = [], 0
    while start < len(order):
        count = max(1, room // tokens[start])
        batches.append(tuple(order[start : start + count]))
        start += count
    mine = batches[rank::world]
    rounds = -(-len(batches) // world)
    return mine + batches[:1] * (rounds - len(mine))

"""How long are the examples in subword tokens, and how many does a model's limit cut?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.task import Example, Task

__all__ = ["Lengths", "measure"]

UNLIMITED = 1_000_000  # subword tokens; no example has so many
CHUNK = 1000  # examples tokenised at once


@dataclass(frozen=True)
class Lengths:
    """Word pieces an example with the tokenizer's special tokens, and what a limit does to them."""

    mean: float
    median: float
    most: int
    limit: int
    cut: int  # examples longer than the limit
    examples: int

    @property
    def share_cut(self) -> float:
        """Fraction of the examples that the limit cuts."""
        return self.cut / self.examples


def measure(task: Task, examples: Sequence[Example], tokenizer: Any, limit: int) -> Lengths:
    """The lengths of a split, as its task tokenises it. `examples` is not empty."""
    found = []
    for start in range(0, len(examples), CHUNK):
        encoded = task.features(examples[start : start + CHUNK], tokenizer, UNLIMITED)
        found += [len(ids) for ids in encoded.input_ids]
    counts = np.array(found)
    cut = int((counts > limit).sum())
    return Lengths(float(counts.mean()), float(np.median(counts)), int(counts.max()), limit, cut, len(found))

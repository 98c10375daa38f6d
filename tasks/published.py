"""What is published of the tasks, for comparison, from published.toml: scores of encoders, sizes of the data sets."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROWS", "SEEDS", "SIZES", "SOURCE", "Mean", "Size"]


@dataclass(frozen=True)
class Mean:
    """Test score over five seeds, times 100."""

    mean: float
    std: float


@dataclass(frozen=True)
class Size:
    """How many there are of something in each split."""

    what: str  # documents | rows | mentions | positive | false | a label
    train: int
    dev: int
    test: int
    tolerance: float = 0.01  # relative difference that says nothing
    note: str = ""  # why test has another number than the corpus itself


_FILE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SOURCE: str = _FILE["scores"]["source"]
SEEDS: int = _FILE["scores"]["seeds"]
# Title of the encoder -> task, and "total" -> score.
ROWS: Mapping[str, Mapping[str, Mean]] = {
    title: {task: Mean(*score) for task, score in row.items()} for title, row in _FILE["scores"]["rows"].items()
}
SIZES: Mapping[str, tuple[Size, ...]] = {
    task: tuple(Size(what, **size) for what, size in sizes.items()) for task, sizes in _FILE["sizes"].items()
}

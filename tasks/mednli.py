"""MedNLI: does the second sentence follow from the first, of a clinical note? (Romanov and Shivade 2018)."""

from __future__ import annotations

from pathlib import Path

from harness.task import Example
from tasks import multiclass
from tasks.tables import PLAIN_FILENAMES, locate

__all__ = ["TASK", "read"]

LABELS = ("contradiction", "entailment", "neutral")


def read(data_dir: Path, split: str) -> list[Example]:
    """The examples of a split, in file order. Raises UserError naming file and line."""
    return multiclass.read_pairs(locate(data_dir, split, PLAIN_FILENAMES), split, LABELS)


TASK = multiclass.task(name="mednli", read=read, filenames=PLAIN_FILENAMES, labels=LABELS, negative=None)

"""DDI 2013: how two drugs in a sentence interact (Herrero-Zazo et al. 2013)."""

from __future__ import annotations

from pathlib import Path

from harness.task import Example
from tasks import multiclass
from tasks.tables import PLAIN_FILENAMES, locate

__all__ = ["TASK", "read"]

LABELS = ("DDI-advise", "DDI-effect", "DDI-int", "DDI-mechanism", "DDI-false")


def read(data_dir: Path, split: str) -> list[Example]:
    """The examples of a split, in file order. Raises UserError naming file and line."""
    return multiclass.read_relations(locate(data_dir, split, PLAIN_FILENAMES), split, LABELS)


TASK = multiclass.task(name="ddi2013", read=read, filenames=PLAIN_FILENAMES, labels=LABELS, negative="DDI-false")

"""i2b2 2010: relations of problems, tests and treatments in clinical notes (Uzuner et al. 2011)."""

from __future__ import annotations

from pathlib import Path

from harness.task import Example
from tasks import multiclass
from tasks.tables import PLAIN_FILENAMES, locate

__all__ = ["TASK", "read"]

LABELS = ("PIP", "TeCP", "TeRP", "TrAP", "TrCP", "TrIP", "TrNAP", "TrWP", "false")


def read(data_dir: Path, split: str) -> list[Example]:
    """The examples of a split, in file order. Raises UserError naming file and line."""
    return multiclass.read_relations(locate(data_dir, split, PLAIN_FILENAMES), split, LABELS)


TASK = multiclass.task(name="i2b2_2010", read=read, filenames=PLAIN_FILENAMES, labels=LABELS, negative="false")

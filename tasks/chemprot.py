"""ChemProt: how a chemical in a sentence acts on a protein (Krallinger et al. 2017)."""

from __future__ import annotations

from pathlib import Path

from harness.task import Example
from tasks import multiclass
from tasks.tables import PLAIN_FILENAMES, locate

__all__ = ["TASK", "read"]

LABELS = ("CPR:3", "CPR:4", "CPR:5", "CPR:6", "CPR:9", "false")


def read(data_dir: Path, split: str) -> list[Example]:
    """The examples of a split, in file order. Raises UserError naming file and line."""
    return multiclass.read_relations(locate(data_dir, split, PLAIN_FILENAMES), split, LABELS)


TASK = multiclass.task(name="chemprot", read=read, filenames=PLAIN_FILENAMES, labels=LABELS, negative="false")

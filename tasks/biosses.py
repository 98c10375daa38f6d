"""BIOSSES: similarity of two sentences of biomedical papers, 0 to 4 (Sogancioglu et al. 2017)."""

from __future__ import annotations

from pathlib import Path

from harness.task import Example
from tasks import similarity
from tasks.tables import PLAIN_FILENAMES, locate

__all__ = ["TASK", "read"]


def read(data_dir: Path, split: str) -> list[Example]:
    """The examples of a split, in file order. Raises UserError naming file and line."""
    return similarity.read_pairs(locate(data_dir, split, PLAIN_FILENAMES), split)


TASK = similarity.task(name="biosses", read=read, filenames=PLAIN_FILENAMES)

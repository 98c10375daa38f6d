"""HoC: which hallmarks of cancer does an abstract speak of? (Baker et al. 2016)."""

from __future__ import annotations

from pathlib import Path

from harness.task import Example
from tasks import multilabel
from tasks.tables import PLAIN_FILENAMES, locate

__all__ = ["HALLMARKS", "TASK", "read"]

# What the labels stand for; the files say only their numbers.
HALLMARKS = (
    "activating invasion and metastasis",
    "avoiding immune destruction",
    "cellular energetics",
    "enabling replicative immortality",
    "evading growth suppressors",
    "genomic instability and mutation",
    "inducing angiogenesis",
    "resisting cell death",
    "sustaining proliferative signaling",
    "tumor promoting inflammation",
)
LABELS = tuple(str(number) for number in range(len(HALLMARKS)))


def read(data_dir: Path, split: str) -> list[Example]:
    """The examples of a split, in file order. Raises UserError naming file and line."""
    return multilabel.read_sentences(locate(data_dir, split, PLAIN_FILENAMES), split, LABELS)


TASK = multilabel.task(name="hoc", read=read, filenames=PLAIN_FILENAMES, labels=LABELS)

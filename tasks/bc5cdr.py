"""BC5CDR: mentions of diseases, and of chemicals, in PubMed abstracts (Li et al. 2016). Two tasks, one format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.task import Example
from tasks import tagging
from tasks.tables import locate

__all__ = ["CHEMICAL", "DISEASE", "read"]

FILENAMES: Mapping[str, str] = {"train": "train.tsv", "dev": "devel.tsv", "test": "test.tsv"}


def read(data_dir: Path, split: str) -> list[Example]:
    """The examples of a split, in file order. Raises UserError naming file and line."""
    return tagging.read_sentences(locate(data_dir, split, FILENAMES), split)


CHEMICAL = tagging.task(name="bc5cdr_chem", read=read, filenames=FILENAMES)
DISEASE = tagging.task(name="bc5cdr_disease", read=read, filenames=FILENAMES)

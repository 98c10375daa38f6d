"""ShARe/CLEFE: mentions of disorders, some of them disjoint, in clinical notes (Suominen et al. 2013)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from harness.task import Example
from tasks import conll, tagging
from tasks.tables import locate

__all__ = ["TASK", "read"]

FILENAMES: Mapping[str, str] = {"train": "Training.tsv", "dev": "Development.tsv", "test": "Test.tsv"}
# A line of "### <note id>" stands before each sentence, and some notes hold a token that starts so.
FORM = replace(conll.BLUE, comment="###")


def read(data_dir: Path, split: str) -> list[Example]:
    """The examples of a split, in file order. Raises UserError naming file and line."""
    return tagging.read_sentences(locate(data_dir, split, FILENAMES), split, FORM)


TASK = replace(tagging.task(name="clefe", read=read, filenames=FILENAMES), disjoint=True)

"""BC5CDR: mentions of diseases, and of chemicals, in PubMed abstracts (Li et al. 2016). Two tasks, one format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness.task import Example
from tasks import conll, tagging
from tasks.tables import locate

__all__ = ["CHEMICAL", "DISEASE"]

FILENAMES: Mapping[str, str] = {"train": "train.tsv", "dev": "devel.tsv", "test": "test.tsv"}


CHEMICAL_FORM = replace(conll.BLUE, kinds=("Chemical",))
DISEASE_FORM = replace(conll.BLUE, kinds=("Disease",))


def _read(data_dir: Path, split: str, form: conll.Form) -> list[Example]:
    return conll.read_sentences(locate(data_dir, split, FILENAMES), split, form)


CHEMICAL = tagging.task(
    name="bc5cdr_chem", read=partial(_read, form=CHEMICAL_FORM), filenames=FILENAMES, form=CHEMICAL_FORM
)
DISEASE = tagging.task(
    name="bc5cdr_disease", read=partial(_read, form=DISEASE_FORM), filenames=FILENAMES, form=DISEASE_FORM
)

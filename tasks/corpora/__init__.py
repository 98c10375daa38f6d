"""Published corpora to the folders that training reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from harness.validation import unknown
from tasks.corpora import archives, bc5cdr, biosses, chemprot, clefe, ddi2013, hoc, i2b2_2010, mednli, medsts
from tasks.corpora.records import Corpus

__all__ = ["CORPORA", "get", "how_to_convert"]

CORPORA: Mapping[str, Corpus] = {
    "bc5cdr": bc5cdr.CORPUS,
    "ddi2013": ddi2013.CORPUS,
    "chemprot": chemprot.CORPUS,
    "hoc": hoc.CORPUS,
    "biosses": biosses.CORPUS,
    "mednli": mednli.CORPUS,
    "i2b2_2010": i2b2_2010.CORPUS,
    "clefe": clefe.CORPUS,
    "medsts": medsts.CORPUS,
}


# What corpora are published as, and no task folder holds.
RAW = re.compile(
    r"(?!readme|license|manifest).*\.(xml|jsonl|docx|con|rel|ann|txt)|(chemprot_|annotation_pairs).*\.tsv",
    re.IGNORECASE,
)
MOST_LOOKED_AT = 1000  # files


def how_to_convert(task: str, folder: Path) -> str | None:
    """The command that makes a task's folder of the published corpus, where the folder seems to hold that."""
    corpus = next((name for name, corpus in CORPORA.items() if task in corpus.headers), None)
    files = [path for path in islice(folder.rglob("*"), MOST_LOOKED_AT) if path.is_file()] if folder.is_dir() else []
    if corpus is None or not any(
        archives.is_archive(path) or archives.is_packed(path) or RAW.fullmatch(path.name) for path in files
    ):
        return None
    return f"python launch/prepare.py {corpus} --source {folder} --out DIR, then DIR/{task}"


def get(name: str) -> Corpus:
    """The corpus of that name. Raises UserError that names the nearest one."""
    plain = name.strip().lower().replace("-", "_")
    if plain not in CORPORA:
        raise unknown("corpus", name, CORPORA)
    return CORPORA[plain]

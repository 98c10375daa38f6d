"""MedNLI (Romanov and Shivade 2018): pairs of sentences, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator

import tasks
from harness.task import SPLITS
from tasks.corpora.corpus import Corpus, Document, Options, clean
from tasks.corpora.sources import Line, Source

TASK = "mednli"
LABELS = tasks.get(TASK).labels
KEYS = ("pairID", "sentence1", "sentence2", "gold_label")


def documents(source: Source, options: Options) -> Iterator[Document]:
    """A row for each pair, in the published splits."""
    for split in SPLITS:
        name = f"mli_{split}_v1.jsonl"
        for line in source.only(name, name).lines():
            row = _row(line)
            yield Document(row["index"], split, {TASK: [row]})


def _row(line: Line) -> dict[str, str]:
    try:
        values = json.loads(line.text)
    except (ValueError, RecursionError):
        raise line.error("not a JSON object") from None
    if not isinstance(values, dict) or not all(isinstance(values.get(key), str) for key in KEYS):
        raise line.error(f"not an object with the texts {', '.join(KEYS)}")
    if values["gold_label"] not in LABELS:
        raise line.error("unknown gold_label", f"known: {', '.join(LABELS)}")
    index, one, other, label = (clean(values[key]) for key in KEYS)
    return {"index": index, "sentence1": one, "sentence2": other, "label": label}


CORPUS = Corpus("mednli", documents)

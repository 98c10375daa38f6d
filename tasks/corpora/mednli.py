"""MedNLI (Romanov and Shivade 2018): pairs of sentences, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator

import tasks
from tasks.corpora.records import Corpus, Options, Record, clean
from tasks.corpora.sources import Line, Source, filled
from tasks.corpora.splits import PUBLISHED

__all__ = ["CORPUS"]

LABELS = tasks.get("mednli").labels

TASK = "mednli"
REMEDY = "put the published file there, unchanged"
KEYS = ("pairID", "sentence1", "sentence2", "gold_label")


def convert(source: Source, options: Options) -> Iterator[Record]:
    """The published splits."""
    for split in ("train", "dev", "test"):
        name = f"mli_{split}_v1.jsonl"
        found = [file for file in source.files if file.path.name.lower() == name]
        if len(found) != 1:
            raise source.error(f"{len(found) or 'no'} files {name}", f"give {CORPUS.expects}")
        options.rules[split] = PUBLISHED
        for line in filled(found[0].lines()):
            index, one, other, label = _pair(line)
            yield Record(TASK, split, ((index, one, other, label),), (label,), index)


def _pair(line: Line) -> list[str]:
    try:
        values = json.loads(line.text)
    except (ValueError, RecursionError):
        raise line.error("not a JSON object", REMEDY) from None
    if not isinstance(values, dict) or not all(isinstance(values.get(key), str) for key in KEYS):
        raise line.error(f"not an object with the texts {', '.join(KEYS)}", REMEDY)
    if values["gold_label"] not in LABELS:
        raise line.error("unknown gold_label", f"known: {', '.join(LABELS)}")
    return [clean(values[key]) for key in KEYS]


CORPUS = Corpus(
    convert=convert,
    headers={TASK: ("index", "sentence1", "sentence2", "label")},
    expects="the archive or folder with mli_train_v1.jsonl, mli_dev_v1.jsonl and mli_test_v1.jsonl",
)

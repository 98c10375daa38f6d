"""HoC (Baker et al. 2016): abstracts, one sentence a line, and their labels in a tree of hallmarks of cancer."""

from __future__ import annotations

import re
from collections.abc import Iterator

import tasks
from tasks.corpora.records import Corpus, Options, Record, clean
from tasks.corpora.sources import Source, SourceFile, filled
from tasks.corpora.splits import assign
from tasks.multilabel import label_text

__all__ = ["CORPUS"]

TASK = "hoc"
REMEDY = "put the published file there, unchanged"
SHARES = {"dev": 157 / 1580, "test": 315 / 1580}  # as many documents as the published splits have
AND = re.compile(r"\s+AND\s*")
HALLMARKS = tasks.get("hoc")
NUMBER = {name: number for number, name in enumerate(HALLMARKS.label_titles)}


def convert(source: Source, options: Options) -> Iterator[Record]:
    """A row for each sentence of the documents that have a hallmark somewhere, with the top of each label's branch."""
    texts = {file.stem: file for file in source.files if _lies_in(file, "text")}
    labels = {file.stem: file for file in source.files if _lies_in(file, "labels")}
    if not texts or not labels:
        raise source.error(f"{len(texts)} texts and {len(labels)} files of labels found", f"give {CORPUS.expects}")
    for missing in sorted(texts.keys() ^ labels.keys()):
        file = texts.get(missing) or labels[missing]
        raise file.error(
            "text without labels, or labels without text", "put both published files of the document there"
        )
    marks = {name: _labels(file) for name, file in sorted(labels.items())}
    used = [name for name, sentences in marks.items() if any(sentences)]
    options.left_out[TASK, "documents without a hallmark"] += len(marks) - len(used)
    split_of = assign(used, SHARES, options)
    options.rules["train"] = "the other documents with a hallmark"
    for name in used:
        yield from _rows(texts[name], marks[name], split_of[name])


def _lies_in(file: SourceFile, folder: str) -> bool:
    return file.path.suffix == ".txt" and file.path.parent.name == folder


def _labels(file: SourceFile) -> list[frozenset[int]]:
    """The hallmarks of each sentence: `<` before each sentence's labels, ` AND` between them, `--` in a branch."""
    start, *sentences = file.text().split("<")
    if start.strip() or not sentences:
        raise file.error("a file of labels starts with <", REMEDY, 1)
    found = []
    for number, sentence in enumerate(sentences, start=1):
        names = {branch.split("--")[0].strip().lower() for branch in AND.split(sentence)} - {"", "null"}
        if not names <= NUMBER.keys():
            raise file.error(f"an unknown hallmark in the labels of sentence {number}", REMEDY)
        found.append(frozenset(NUMBER[name] for name in names))
    return found


def _rows(file: SourceFile, marks: list[frozenset[int]], split: str) -> Iterator[Record]:
    lines = list(filled(file.lines()))
    if len(lines) != len(marks):
        raise file.error(
            f"{len(lines)} sentences and {len(marks)} labels",
            "put both published files of the document there; one sentence a line",
        )
    for number, (line, found) in enumerate(zip(lines, marks, strict=True)):
        text = label_text([int(label in found) for label in range(len(HALLMARKS.labels))], HALLMARKS.labels)
        labels = tuple(str(label) for label in sorted(found)) or ("none",)
        yield Record(TASK, split, ((text, clean(line.text), f"{file.stem}_s{number}"),), labels, file.stem)


CORPUS = Corpus(
    convert=convert,
    headers={TASK: ("labels", "sentence", "index")},
    expects="the archive or folder with text/ and labels/, a .txt file for each document in both",
    drawn=("dev", "test"),
)

"""HoC (Baker et al. 2016): abstracts, one sentence a line, and their labels in a tree of hallmarks of cancer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import tasks
from tasks.corpora.corpus import Corpus, Document, Options, clean
from tasks.corpora.sources import Source, SourceFile, listed
from tasks.multilabel import label_text

TASK, BLURB_TASK = "hoc", "blurb_hoc"
AND = re.compile(r"\s+AND\s*")
HALLMARKS = tasks.get(TASK).label_titles  # in the order of the labels


def documents(task: str, source: Source, options: Options) -> Iterator[Document]:
    """BLUE has the sentences of the documents with a hallmark somewhere, BLURB all documents, each as one row."""
    texts, labels = (
        {file.stem: file for file in source.files if file.path.suffix == ".txt" and file.path.parent.name == folder}
        for folder in ("text", "labels")
    )
    if not texts or not labels:
        raise source.error(f"{len(texts)} texts and {len(labels)} files of labels found")
    for name in sorted(texts.keys() ^ labels.keys()):
        wrong, remedy = "text without labels, or labels without text", "put both published files of the document there"
        raise (texts.get(name) or labels[name]).error(wrong, remedy=remedy)
    for name, file in sorted(labels.items()):
        hallmarks = _hallmarks(file)
        if task == BLURB_TASK:
            yield Document(name, "train", {task: _rows(texts[name], hallmarks, as_one=True)})
            continue
        options.left_out[task, "documents without a hallmark"] += not any(hallmarks)
        if any(hallmarks):
            yield Document(name, "train", {task: _rows(texts[name], hallmarks)})


def _hallmarks(file: SourceFile) -> list[set[str]]:
    """Those of each sentence, the top of each label's branch: `<` before the labels of a sentence, ` AND` between them,
    `--` in a branch."""
    start, *sentences = file.text().split("<")
    if start.strip() or not sentences:
        raise file.error("a file of labels starts with <", 1)
    found = []
    for number, sentence in enumerate(sentences, start=1):
        names = {branch.split("--")[0].strip().lower() for branch in AND.split(sentence)} - {"", "null"}
        if not names <= set(HALLMARKS):
            raise file.error(f"an unknown hallmark in the labels of sentence {number}")
        found.append(names)
    return found


def _rows(file: SourceFile, hallmarks: list[set[str]], as_one: bool = False) -> Iterator[dict[str, str]]:
    """A row for each sentence, or one for all of them with what any of them has."""
    lines = list(file.lines())
    if len(lines) != len(hallmarks):
        remedy = "put both published files of the document there; one sentence a line"
        raise file.error(f"{len(lines)} sentences and {len(hallmarks)} labels", remedy=remedy)
    texts = [line.text for line in lines]
    if as_one:
        texts, hallmarks = [" ".join(texts)], [set().union(*hallmarks)]
    for number, (text, names) in enumerate(zip(texts, hallmarks, strict=True)):
        labels = label_text([int(name in names) for name in HALLMARKS], tasks.get(TASK).labels)
        yield {"labels": labels, "sentence": clean(text), "index": f"{file.stem}_s{number}"}


CORPUS = Corpus(
    TASK,
    partial(documents, TASK),
    drawn={"dev": 157 / 1580, "test": 315 / 1580},  # as many documents as the published splits have
    unit="documents with a hallmark",
)
BLURB = Corpus(
    BLURB_TASK,
    partial(documents, BLURB_TASK),
    drawn={"dev": 186 / 1852, "test": 371 / 1852},
    lists=partial(listed, folder="hoc", suffix="pmid"),
)

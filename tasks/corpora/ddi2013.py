"""DDI 2013 (Herrero-Zazo et al. 2013): one XML file a document, sentences with drugs and all pairs of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import tasks
from tasks.corpora.corpus import Corpus, Document, Options, Row, clean
from tasks.corpora.sources import Source, SourceFile, listed
from tasks.corpora.text import Mention, Span, fitting, marked

TASK, BLURB_TASK = "ddi2013", "blurb_ddi"
LABELS = tasks.get(TASK).labels
OFFSETS = re.compile(r"[0-9]{1,7}-[0-9]{1,7}(;[0-9]{1,7}-[0-9]{1,7})*")
SHIFTS = (0, 1, -1, 2, -2, 3, -3)  # characters; in the published corpus one drug is off by 1


def documents(task: str, source: Source, options: Options) -> Iterator[Document]:
    """A document a file, split by the folders."""
    for file in source.files:
        # Of the test documents only those of relation extraction; those of the task of finding drugs lie beside them.
        is_of_drugs = file.split == "test" and "drugner" in file.folders.replace(" ", "")
        if file.path.suffix.lower() == ".xml" and file.split is not None and not is_of_drugs:
            yield Document(file.stem, file.split, {task: _rows(task, file, options)})


def _rows(task: str, file: SourceFile, options: Options) -> Iterator[Row]:
    """A row for each annotated pair of drugs."""
    sentences = file.elements("sentence")
    if not sentences:
        raise file.error("no <sentence> in it", 1, "check that it is a file of this corpus")
    for sentence in sentences:
        text = file.attribute(sentence, "text")
        drugs = {
            file.attribute(one, "id"): _drug(task, file, one, text, options) for one in sentence.iterfind("entity")
        }
        for pair in sentence.iterfind("pair"):
            label = _label(file, pair)
            if label is None:
                options.left_out[task, "pairs that interact, but do not say how"] += 1
                continue
            names = [file.attribute(pair, name) for name in ("e1", "e2")]
            if not set(names) <= drugs.keys():
                raise file.error("a <pair> of entities that the sentence does not have", pair.sourceline)
            one, other = (drugs[name] for name in names)
            if one is None or other is None:
                options.left_out[task, "pairs of a drug whose charOffset does not lead to its text"] += 1
                continue
            marks = clean(marked(text, 0, len(text), one, other, options.mentions))
            yield {"index": file.attribute(pair, "id"), "sentence": marks, "label": label}


def _drug(task: str, file: SourceFile, element: Any, text: str, options: Options) -> Mention | None:
    """None where its charOffset leads to another text than its own, also if it is off by a few characters.

    In BLURB every one is a DRUG, and a disjoint mention all that stands from its first character to its last.
    """
    places = file.attribute(element, "charOffset")
    spans = None
    if OFFSETS.fullmatch(places):
        pairs = [place.split("-") for place in places.split(";")]
        spans = fitting([(int(first), int(last) + 1) for first, last in pairs], len(text))
    if spans is None:
        raise file.error("an <entity> whose charOffset is not inside the sentence", element.sourceline)
    wanted = "".join(file.attribute(element, "text").split()).lower()
    for shift in SHIFTS:
        moved = tuple((start + shift, end + shift) for start, end in spans)
        if _reads(text, moved) == wanted:
            if shift:
                options.corrected[task, "drugs whose charOffset is off by a few characters"] += 1
            found = Mention(file.attribute(element, "id"), file.attribute(element, "type").upper(), moved)
            return found if task == TASK else replace(found, kind="DRUG", spans=((found.start, found.end),))
    return None


def _reads(text: str, spans: Sequence[Span]) -> str | None:
    """What stands there, without the white space in it; None where it begins or ends with some, or is not all there.

    The corpus joins the pieces of a disjoint mention with and without a blank.
    """
    whole = "".join(text[max(start, 0) : end] for start, end in spans)
    is_inside = spans[0][0] >= 0 and max(end for _, end in spans) <= len(text)
    return "".join(whole.split()).lower() if is_inside and whole == whole.strip() else None


def _label(file: SourceFile, pair: Any) -> str | None:
    """None where the pair is said to interact and the kind is missing."""
    interacts = file.attribute(pair, "ddi")
    if interacts not in ("true", "false"):
        raise file.error("a <pair> whose ddi is neither true nor false", pair.sourceline)
    if interacts == "false":
        return "DDI-false"
    if pair.get("type") is None:
        return None
    label = f"DDI-{pair.get('type')}"
    if label not in LABELS:
        raise file.error("a <pair> with an unknown type", pair.sourceline, "known: advise, effect, int, mechanism")
    return label


# As many documents as the published dev split has.
CORPUS = Corpus(TASK, partial(documents, TASK), drawn={"dev": 90 / 714})
BLURB = Corpus(
    BLURB_TASK,
    partial(documents, BLURB_TASK),
    drawn={"dev": 2496 / (25296 + 2496)},  # the published share of the pairs
    marks_mentions=True,
    lists=partial(listed, folder="ddi", suffix="files"),
)

"""DDI 2013 (Herrero-Zazo et al. 2013): one XML file a document, sentences with drugs and all pairs of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import tasks
from tasks.corpora.documents import Mention, fitting
from tasks.corpora.records import Corpus, Options, Record, clean
from tasks.corpora.relations import marked
from tasks.corpora.safe_xml import elements, required, unexpected
from tasks.corpora.sentences import Span
from tasks.corpora.sources import Source, SourceFile
from tasks.corpora.splits import PUBLISHED, assign

__all__ = ["CORPUS"]

LABELS = tasks.get("ddi2013").labels

TASK = "ddi2013"
OFFSETS = re.compile(r"[0-9]{1,7}-[0-9]{1,7}(;[0-9]{1,7}-[0-9]{1,7})*")
SHIFTS = (0, 1, -1, 2, -2, 3, -3)  # characters; in the published corpus one drug is off by 1
DEV_SHARE = 90 / 714  # as many documents as the published dev split has
REMEDY = "put the published file there, unchanged"


def convert(source: Source, options: Options) -> Iterator[Record]:
    """A row for each annotated pair of drugs. The published corpus has train and test; dev is taken out of train."""
    train = [file for file in source.files if _is_xml(file) and file.split == "train"]
    test = [file for file in source.files if _is_xml(file) and _is_test(file)]
    if not train or not test:
        raise source.error(f"{len(train)} training and {len(test)} test documents found", f"give {CORPUS.expects}")
    split_of = assign([file.stem for file in train], {"dev": DEV_SHARE}, options)
    options.rules.update({"train": "the published training documents without dev", "test": PUBLISHED})
    for file in train:
        yield from _rows(file, split_of[file.stem], options)
    for file in test:
        yield from _rows(file, "test", options)


def _is_xml(file: SourceFile) -> bool:
    return file.path.suffix.lower() == ".xml"


def _is_test(file: SourceFile) -> bool:
    """The test documents of relation extraction; those of the task of finding drugs lie beside them."""
    return file.split == "test" and "drugner" not in file.folders.replace(" ", "")


def _rows(file: SourceFile, split: str, options: Options) -> Iterator[Record]:
    count = 0
    for sentence in elements(file, "sentence"):
        count += 1
        text = required(file, sentence, "text")
        drugs = {required(file, one, "id"): _drug(file, one, text, options) for one in sentence.iterfind("entity")}
        for pair in sentence.iterfind("pair"):
            label = _label(file, pair)
            if label is None:
                options.left_out[TASK, "pairs that interact, but do not say how"] += 1
                continue
            names = [required(file, pair, name) for name in ("e1", "e2")]
            if not set(names) <= drugs.keys():
                raise file.error("a <pair> of entities that the sentence does not have", REMEDY, pair.sourceline)
            one, other = (drugs[name] for name in names)
            if one is None or other is None:
                options.left_out[TASK, "pairs of a drug whose charOffset does not lead to its text"] += 1
                continue
            row = (required(file, pair, "id"), clean(marked(text, 0, len(text), one, other)), label)
            yield Record(TASK, split, (row,), (label,), file.stem)
    if not count:
        raise unexpected(file, "sentence")


def _drug(file: SourceFile, element: Any, text: str, options: Options) -> Mention | None:
    """None where its charOffset leads to another text than its own, also if it is off by a few characters."""
    places = required(file, element, "charOffset")
    spans = None
    if OFFSETS.fullmatch(places):
        pairs = [place.split("-") for place in places.split(";")]
        spans = fitting([(int(first), int(last) + 1) for first, last in pairs], len(text))
    if spans is None:
        raise file.error("an <entity> whose charOffset is not inside the sentence", REMEDY, element.sourceline)
    wanted = "".join(required(file, element, "text").split()).lower()
    for shift in SHIFTS:
        moved = tuple((start + shift, end + shift) for start, end in spans)
        if _reads(text, moved) == wanted:
            if shift:
                options.noted[TASK, "drugs whose charOffset is off by a few characters"] += 1
            return Mention(required(file, element, "id"), required(file, element, "type").upper(), moved)
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
    interacts = required(file, pair, "ddi")
    if interacts not in ("true", "false"):
        raise file.error("a <pair> whose ddi is neither true nor false", REMEDY, pair.sourceline)
    if interacts == "false":
        return "DDI-false"
    if pair.get("type") is None:
        return None
    label = f"DDI-{pair.get('type')}"
    if label not in LABELS:
        raise file.error("a <pair> with an unknown type", "known: advise, effect, int, mechanism", pair.sourceline)
    return label


CORPUS = Corpus(
    convert=convert,
    headers={TASK: ("index", "sentence", "label")},
    expects="DDICorpus-2013.zip or its folder, with Train/ and Test/ in it",
    drawn=("dev",),
)

"""i2b2 2010 (Uzuner et al. 2011): clinical notes, one sentence a line, with concepts and relations beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import tasks
from tasks.corpora.documents import Mention
from tasks.corpora.records import Corpus, Options, Record, clean
from tasks.corpora.relations import marked
from tasks.corpora.sources import Line, Source, SourceFile, filled
from tasks.corpora.splits import PUBLISHED, assign

__all__ = ["CORPUS", "concepts"]

LABELS = tasks.get("i2b2_2010").labels

TASK = "i2b2_2010"
DEV_SHARE = 0.1
PLACE = r'c="(.*)" ([0-9]{1,6}):([0-9]{1,6}) ([0-9]{1,6}):([0-9]{1,6})'
CONCEPT = re.compile(PLACE + r'\|\|t="(problem|treatment|test)"')
RELATION = re.compile(PLACE + r'\|\|r="([A-Za-z]+)"\|\|' + PLACE)
REMEDY = "put the published file there, unchanged"


@dataclass(frozen=True)
class Note:
    """The three files of a document."""

    name: str
    text: SourceFile
    concepts: SourceFile
    relations: SourceFile
    split: str  # train | test, by the folder


@dataclass(frozen=True)
class Concept:
    """A mention and the line of the note, counted from 0, that it lies in; spans count from the line's start."""

    line: int
    mention: Mention


def convert(source: Source, options: Options) -> Iterator[Record]:
    """A row for each two concepts of a line, one more for each further relation that they have."""
    notes = _notes(source)
    train = [note.name for note in notes if note.split == "train"]
    split_of = assign(train, {"dev": DEV_SHARE}, options)
    options.rules.update({"train": "the published training notes without dev", "test": PUBLISHED})
    for note in notes:
        yield from _rows(note, split_of.get(note.name, "test") if note.split == "train" else "test", options)


def _notes(source: Source) -> list[Note]:
    by_suffix: dict[str, dict[str, SourceFile]] = {".txt": {}, ".con": {}, ".rel": {}}
    for file in source.files:
        found = by_suffix.get(file.path.suffix)
        if found is None:
            continue
        if file.path.stem in found and file.path.suffix != ".txt":
            raise file.error(f"a second {file.path.suffix} file of this note", "leave one of them there")
        found.setdefault(file.path.stem, file)
    notes = []
    for name, concept_file in sorted(by_suffix[".con"].items()):
        text, relation_file = by_suffix[".txt"].get(name), by_suffix[".rel"].get(name)
        if text is None or relation_file is None:
            raise concept_file.error("no .txt or no .rel file of this note", f"give {CORPUS.expects}")
        split = concept_file.split or "train"
        notes.append(Note(name, text, concept_file, relation_file, split))
    counts = [sum(note.split == split for note in notes) for split in ("train", "test")]
    if 0 in counts:
        raise source.error(f"{counts[0]} training and {counts[1]} test notes found", f"give {CORPUS.expects}")
    return notes


def _rows(note: Note, split: str, options: Options) -> Iterator[Record]:
    lines = [line.text for line in note.text.lines()]
    found = list(concepts(note.concepts, lines))
    labels = _labels(note.relations, lines, found)
    for one, other in combinations(found, 2):
        if one.line != other.line:
            continue
        index = f"{note.name}.{one.mention.id}.{other.mention.id}"
        text = lines[one.line]
        sentence = clean(marked(text, 0, len(text), one.mention, other.mention))
        names = labels.pop(frozenset((one.mention.id, other.mention.id)), ["false"])
        for label in names:
            yield Record(TASK, split, ((index, sentence, label),), (label,), note.name)
    if labels:
        options.left_out[TASK, "relations of concepts in different lines"] += sum(map(len, labels.values()))


def concepts(file: SourceFile, lines: Sequence[str]) -> Iterator[Concept]:
    """`c="<text>" <line>:<word> <line>:<word>||t="<type>"`: lines from 1, words from 0, both words included."""
    for line in filled(file.lines()):
        match = CONCEPT.fullmatch(line.text.strip())
        if match is None:
            raise line.error('no concept: c="..." <line>:<word> <line>:<word>||t="..." expected', REMEDY)
        row, start, end = _place(line, match.groups()[:5], lines)
        name = f"{file.path.name}.l{line.number - 1}"
        yield Concept(row, Mention(name, match[6].upper(), ((start, end),)))


def _labels(file: SourceFile, lines: Sequence[str], found: Sequence[Concept]) -> dict[frozenset[str], list[str]]:
    """Ids of two concepts -> labels of their relations, in the order of the file."""
    by_place = {(one.line, *one.mention.spans[0]): one.mention.id for one in found}
    labels: dict[frozenset[str], list[str]] = {}
    for line in filled(file.lines()):
        match = RELATION.fullmatch(line.text.strip())
        if match is None:
            raise line.error('no relation: c="..." <place>||r="..."||c="..." <place> expected', REMEDY)
        if match[6] not in LABELS:
            raise line.error("unknown relation", f"known: {', '.join(LABELS)}")
        places = [_place(line, match.groups()[first : first + 5], lines) for first in (0, 6)]
        if not all(place in by_place for place in places):
            raise line.error("a relation of something that is no concept of the note", REMEDY)
        labels.setdefault(frozenset(by_place[place] for place in places), []).append(match[6])
    return labels


def _place(line: Line, cells: Sequence[str | None], lines: Sequence[str]) -> tuple[int, int, int]:
    """(line from 0, first character, character after the last), checked against the text in quotes."""
    quoted, *numbers = cells
    row, first, last_row, last = (int(number or 0) for number in numbers)
    if row != last_row or not 1 <= row <= len(lines):
        raise line.error("a concept over several lines, or in a line that the note does not have", REMEDY)
    text = lines[row - 1]
    words = [match.span() for match in re.finditer(r"\S+", text)]
    # In some notes a blank at the start of the line counts as an empty word.
    for shift in (0, 1) if text[:1].isspace() else (0,):
        low, high = first - shift, last - shift
        if 0 <= low <= high < len(words):
            start, end = words[low][0], words[high][1]
            if clean(text[start:end]).lower() == clean(quoted or "").lower():
                return row - 1, start, end
    raise line.error(
        "the words at that place are not those in quotes", "put the published note and annotation there, unchanged"
    )


CORPUS = Corpus(
    convert=convert,
    headers={TASK: ("index", "sentence", "label")},
    expects="the folder or archive with txt, concept (.con) and rel (.rel) files, those of the test set in a folder "
    "with test in its name",
    drawn=("dev",),
)

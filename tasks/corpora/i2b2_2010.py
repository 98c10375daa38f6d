"""i2b2 2010 (Uzuner et al. 2011): clinical notes, one sentence a line, with concepts and relations beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations

import tasks
from tasks.corpora.corpus import Corpus, Document, Options, Row, clean
from tasks.corpora.sources import Line, Source, SourceFile
from tasks.corpora.text import Mention, marked

TASK = "i2b2_2010"
LABELS = tasks.get(TASK).labels
PLACE = r'c="(.*)" ([0-9]{1,6}):([0-9]{1,6}) ([0-9]{1,6}):([0-9]{1,6})'
CONCEPT = re.compile(PLACE + r'\|\|t="(problem|treatment|test)"')
RELATION = re.compile(PLACE + r'\|\|r="([A-Za-z]+)"\|\|' + PLACE)
Concept = tuple[int, Mention]  # line of the note, counted from 0; spans count from the line's start


def documents(source: Source, options: Options) -> Iterator[Document]:
    """The notes: a .txt, a .con (concepts) and a .rel (relations) file each; the concepts' folder tells the split."""
    files: dict[str, dict[str, SourceFile]] = {".txt": {}, ".con": {}, ".rel": {}}
    for file in source.files:
        suffix, name = file.path.suffix, file.path.stem
        if suffix in files and suffix != ".txt" and name in files[suffix]:
            raise file.error(f"a second {suffix} file of this note", remedy="leave one of them there")
        files.get(suffix, {}).setdefault(name, file)
    for name, concepts in sorted(files[".con"].items()):
        text, relations = files[".txt"].get(name), files[".rel"].get(name)
        if text is None or relations is None:
            raise concepts.error("no .txt or no .rel file of this note", remedy=f"give {source.expects}")
        yield Document(name, concepts.split or "train", {TASK: _rows(name, text, concepts, relations, options)})


def _rows(
    name: str, note: SourceFile, concept_file: SourceFile, relation_file: SourceFile, options: Options
) -> Iterator[Row]:
    """A row for each two concepts of a line, one more for each further relation that they have."""
    lines = [line.text for line in note.lines(empty=True)]
    concepts = list(_concepts(concept_file, lines))
    labels = _labels(relation_file, lines, concepts)
    for (row, one), (other_row, other) in combinations(concepts, 2):
        if row == other_row:
            index, text = f"{name}.{one.id}.{other.id}", lines[row]
            sentence = clean(marked(text, 0, len(text), one, other))
            for label in labels.pop(frozenset((one.id, other.id)), ["false"]):
                yield {"index": index, "sentence": sentence, "label": label}
    if labels:
        options.left_out[TASK, "relations of concepts in different lines"] += sum(map(len, labels.values()))


def _concepts(file: SourceFile, lines: Sequence[str]) -> Iterator[Concept]:
    """`c="<text>" <line>:<word> <line>:<word>||t="<type>"`: lines from 1, words from 0, both words included."""
    for line in file.lines():
        match = CONCEPT.fullmatch(line.text.strip())
        if match is None:
            raise line.error('no concept: c="..." <line>:<word> <line>:<word>||t="..." expected')
        row, start, end = _place(line, match.groups()[:5], lines)
        yield row, Mention(f"{file.path.name}.l{line.number - 1}", match[6].upper(), ((start, end),))


def _labels(file: SourceFile, lines: Sequence[str], concepts: Sequence[Concept]) -> dict[frozenset[str], list[str]]:
    """Ids of two concepts -> labels of their relations, in the order of the file."""
    by_place = {(row, *mention.spans[0]): mention.id for row, mention in concepts}
    labels: dict[frozenset[str], list[str]] = {}
    for line in file.lines():
        match = RELATION.fullmatch(line.text.strip())
        if match is None:
            raise line.error('no relation: c="..." <place>||r="..."||c="..." <place> expected')
        if match[6] not in LABELS:
            raise line.error("unknown relation", f"known: {', '.join(LABELS)}")
        places = [_place(line, match.groups()[first : first + 5], lines) for first in (0, 6)]
        if not all(place in by_place for place in places):
            raise line.error("a relation of something that is no concept of the note")
        labels.setdefault(frozenset(by_place[place] for place in places), []).append(match[6])
    return labels


def _place(line: Line, cells: Sequence[str | None], lines: Sequence[str]) -> tuple[int, int, int]:
    """(line from 0, first character, character after the last), checked against the text in quotes."""
    quoted, *numbers = cells
    row, first, last_row, last = (int(number or 0) for number in numbers)
    if row != last_row or not 1 <= row <= len(lines):
        raise line.error("a concept over several lines, or in a line that the note does not have")
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


CORPUS = Corpus("i2b2_2010", documents, drawn={"dev": 0.1}, unit="notes")

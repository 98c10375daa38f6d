"""BIOSSES (Sogancioglu et al. 2017): 100 pairs of sentences and the scores of five annotators."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.corpora import archives
from tasks.corpora.records import Corpus, Options, Record, clean
from tasks.corpora.sources import Source, SourceFile, filled
from tasks.corpora.splits import assign
from tasks.readers import is_number

__all__ = ["CORPUS"]

TASK = "biosses"
SHARES = {"dev": 0.16, "test": 0.2}  # as many pairs as the published splits have
LOWEST, HIGHEST = 0, 4
REMEDY = "put the published file there, unchanged"


@dataclass(frozen=True)
class _Row:
    file: SourceFile
    number: int
    cells: tuple[str, ...]


def convert(source: Source, options: Options) -> Iterator[Record]:
    """The mean of the annotators is the score."""
    scores = _scores(source)
    split_of = assign(list(scores), SHARES, options)
    options.rules["train"] = "the other pairs"
    for name, (one, other, score) in scores.items():
        yield Record(TASK, split_of[name], ((name, one, other, repr(score)),), (f"{math.floor(score)}",), name)


def _scores(source: Source) -> dict[str, tuple[str, str, float]]:
    """Number of the pair -> both sentences and the score, in the order of the file."""
    documents = [file for file in source.files if file.path.suffix.lower() == ".docx"]
    tables = [file for file in source.files if file.path.suffix.lower() in (".tsv", ".txt")]
    if len(documents) == 2:
        pairs, values = sorted(documents, key=lambda file: "score" in file.path.name.lower())
        texts = {row.cells[0]: row for row in _rows(pairs, _docx(pairs), 3)}
        numbers = {row.cells[0]: row for row in _rows(values, _docx(values), 2)}
        if texts.keys() != numbers.keys():
            raise values.error("its pairs are not those of the other file", "give both files of one corpus")
        return {name: (row.cells[1], row.cells[2], _mean(numbers[name], 1)) for name, row in texts.items()}
    if len(tables) == 1 and not documents:
        lines = ((line.number, line.text.split("\t")) for line in filled(tables[0].lines()))
        return {row.cells[0]: (row.cells[1], row.cells[2], _mean(row, 3)) for row in _rows(tables[0], lines, 4)}
    raise source.error(f"{len(documents)} .docx and {len(tables)} .tsv files found", f"give {CORPUS.expects}")


def _docx(file: SourceFile) -> Iterator[tuple[int, list[str]]]:
    """(number from 1, cells) of the rows of the document's only table."""
    import docx

    archives.vet_zip(file.path)
    try:
        tables = docx.Document(str(file.opened())).tables
        rows = [[cell.text for cell in row.cells] for table in tables for row in table.rows]
    except Exception as error:  # whatever the library meets in a broken file: it promises no error of its own
        raise file.error(f"not a Word document, or a broken one ({type(error).__name__})", REMEDY) from None
    if len(tables) != 1:
        raise file.error(f"{len(tables)} tables in the document, 1 expected", "give the published file")
    yield from enumerate(rows, start=1)


def _rows(file: SourceFile, lines: Iterator[tuple[int, Sequence[str]]], least: int) -> Iterator[_Row]:
    """The rows below the header. Raises UserError for one without a number of its own, and for missing columns."""
    seen: set[str] = set()
    for number, cells in lines:
        row = _Row(file, number, tuple(clean(cell) for cell in cells))
        if number == 1 and not row.cells[0].isdigit():
            continue
        if len(row.cells) < least:
            raise file.error(f"{len(row.cells)} columns, {least} or more expected", REMEDY, number)
        if not (row.cells[0].isascii() and row.cells[0].isdigit()) or row.cells[0] in seen:
            raise file.error("the first column is no number, or one that was there before", REMEDY, number)
        seen.add(row.cells[0])
        yield row
    if not seen:
        raise file.error("no pairs in it", REMEDY, 1)


def _mean(row: _Row, first: int) -> float:
    cells = row.cells[first:]
    if not all(is_number(cell) and LOWEST <= float(cell) <= HIGHEST for cell in cells):
        raise row.file.error(f"a score that is no number from {LOWEST} to {HIGHEST}", REMEDY, row.number)
    return math.fsum(float(cell) for cell in cells) / len(cells)


CORPUS = Corpus(
    convert=convert,
    headers={TASK: ("index", "sentence1", "sentence2", "score")},
    expects="the folder with the two .docx files of pairs and scores, or one .tsv of number, two sentences, score(s)",
    drawn=("dev", "test"),
)

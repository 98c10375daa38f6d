"""BIOSSES (Sogancioglu et al. 2017): 100 pairs of sentences and the scores of five annotators."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from tasks.corpora import archives
from tasks.corpora.corpus import Corpus, Document, Options, clean
from tasks.corpora.sources import Source, SourceFile
from tasks.readers import is_number

LOWEST, HIGHEST = 0, 4


def documents(task: str, source: Source, options: Options) -> Iterator[Document]:
    """A row for each pair; the mean of the annotators is the score."""
    for name, (one, other, score) in _pairs(source).items():
        row = {"index": name, "sentence1": one, "sentence2": other, "score": repr(score)}
        yield Document(name, "train", {task: [row]})


def _pairs(source: Source) -> dict[str, tuple[str, str, float]]:
    """Number of the pair -> both sentences and the score, in the order of the file."""
    documents = [file for file in source.files if file.path.suffix.lower() == ".docx"]
    tables = [file for file in source.files if file.path.suffix.lower() in (".tsv", ".txt")]
    if len(documents) == 2:
        file, values = sorted(documents, key=lambda file: "score" in file.path.name.lower())
        texts, scores = _table(file, _docx(file), 3), _table(values, _docx(values), 2)
        if texts.keys() != scores.keys():
            raise values.error("its pairs are not those of the other file", remedy="give both files of one corpus")
        return {name: (cells[0], cells[1], _mean(values, *scores[name])) for name, (_, cells) in texts.items()}
    if len(tables) == 1 and not documents:
        (file,) = tables
        rows = _table(file, ((line.number, line.text.split("\t")) for line in file.lines()), 4)
        return {name: (cells[0], cells[1], _mean(file, line, cells[2:])) for name, (line, cells) in rows.items()}
    raise source.error(f"{len(documents)} .docx and {len(tables)} .tsv files found")


def _docx(file: SourceFile) -> Iterator[tuple[int, list[str]]]:
    """(number from 1, cells) of the rows of the document's only table."""
    import docx

    archives.vet(file.path)
    try:
        tables = docx.Document(str(file.opened())).tables
        rows = [[cell.text for cell in row.cells] for table in tables for row in table.rows]
    except Exception as error:  # whatever the library meets in a broken file: it promises no error of its own
        raise file.error(f"not a Word document, or a broken one ({type(error).__name__})") from None
    if len(tables) != 1:
        raise file.error(f"{len(tables)} tables in the document, 1 expected", remedy="give the published file")
    yield from enumerate(rows, start=1)


def _table(
    file: SourceFile, lines: Iterable[tuple[int, Sequence[str]]], least: int
) -> dict[str, tuple[int, Sequence[str]]]:
    """First column, the pair's number -> (line, the other columns) below the header; `least` columns in all.

    Raises UserError for a row without a number of its own, and for missing columns.
    """
    found: dict[str, tuple[int, Sequence[str]]] = {}
    for line, cells in lines:
        name, *others = map(clean, cells)
        if line == 1 and not name.isdigit():
            continue
        if len(cells) < least:
            raise file.error(f"{len(cells)} columns, {least} or more expected", line)
        if not (name.isascii() and name.isdigit()) or name in found:
            raise file.error("the first column is no number, or one that was there before", line)
        found[name] = line, others
    if not found:
        raise file.error("no pairs in it", 1)
    return found


def _mean(file: SourceFile, line: int, cells: Sequence[str]) -> float:
    if not all(is_number(cell) and LOWEST <= float(cell) <= HIGHEST for cell in cells):
        raise file.error(f"a score that is no number from {LOWEST} to {HIGHEST}", line)
    return math.fsum(float(cell) for cell in cells) / len(cells)


def _corpus(name: str) -> Corpus:
    # As many pairs as the published splits have.
    return Corpus(name, partial(documents, name), drawn={"dev": 0.16, "test": 0.2}, unit="pairs")


CORPUS = _corpus("biosses")
BLURB = _corpus("blurb_biosses")

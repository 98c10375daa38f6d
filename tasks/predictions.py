"""predictions/<split>.tsv read back: what every family's `rows` writes, whoever wrote it.

The gold column may be absent. Each row is then read with its prediction in that column's place, until `check` puts the
gold standard there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from harness.task import Example, Prediction, Task, UserError
from tasks.conll import recognise
from tasks.multilabel import flags
from tasks.schemes import Evidence, plain_tags
from tasks.tables import LONGEST_HEADER_CELL, SENTENCE_INDEX, Row, is_number, read_rows, shown
from tasks.tagging import TaggingTask

__all__ = ["Answers", "check", "read", "whole_sentences"]

logger = logging.getLogger("harness.tasks")

HEADER = ("index", "gold", "prediction")
WORD_HEADER = ("token", "gold", "prediction")
NOT_FINITE = ("nan", "inf", "-inf")  # as repr() spells what a diverged model predicts


@dataclass(frozen=True)
class Answers:
    """A system's answers to one split, in file order. Examples hold ids and gold; texts in tagging alone."""

    path: Path
    examples: list[Example]
    predictions: list[Prediction]
    lines: list[int]  # where in the file each example begins, counted from 1
    has_gold: bool = True  # else the examples' labels are not to be used


def read(task: Task, path: Path) -> Answers:
    """Raises UserError naming file, line, value and remedy."""
    return READERS[task.family](task, path)


def _read_classes(task: Task, path: Path) -> Answers:
    def is_data(row: Row) -> bool:
        return row.cells[-1] in task.labels

    rows, has_gold = _table(path, is_data)
    examples = [Example(row.text(0, "index"), (), row.label(1, task.labels)) for row in rows]
    return _answers(path, rows, has_gold, examples, [Prediction(row.label(2, task.labels)) for row in rows])


def _read_scores(task: Task, path: Path) -> Answers:
    rows, has_gold = _table(path, lambda row: is_number(row.cells[-1]) or row.cells[-1] in NOT_FINITE)
    values = [float(row.cells[2]) if row.cells[2] in NOT_FINITE else row.score(2) for row in rows]
    gold = [row.score(1) for row in rows] if has_gold else values
    examples = [Example(row.text(0, "index"), (), score) for row, score in zip(rows, gold, strict=True)]
    return _answers(path, rows, has_gold, examples, [Prediction(value) for value in values])


def _read_label_sets(task: Task, path: Path) -> Answers:
    pattern = re.compile(",".join(f"{re.escape(label)}_([01])" for label in task.labels))
    rows, has_gold = _table(path, lambda row: pattern.fullmatch(row.cells[-1]) is not None)
    examples = []
    for row in rows:
        document = SENTENCE_INDEX.fullmatch(row.text(0, "index"))
        if document is None:
            raise row.error(
                f"index {shown(row.cells[0])} not of the form <document>_s<number>", "write it like 10027919_s0"
            )
        examples.append(Example(row.cells[0], (), flags(row, 1, pattern, task.labels), document.group(1)))
    predicted = [Prediction(flags(row, 2, pattern, task.labels)) for row in rows]
    return _answers(path, rows, has_gold, examples, predicted)


def _answers(
    path: Path, rows: Sequence[Row], has_gold: bool, examples: list[Example], predictions: list[Prediction]
) -> Answers:
    return Answers(path, examples, predictions, [row.number for row in rows], has_gold)


def _table(path: Path, is_data: Callable[[Row], bool]) -> tuple[list[Row], bool]:
    """(rows of index, gold, prediction without the header, whether the file has a gold column)."""
    rows = read_rows(path)
    while rows and not "".join(rows[-1].cells).strip():
        rows.pop()
    first, *rest = _without_quotes(rows)
    short = (HEADER[0], HEADER[2])
    forms = f"'{' '.join(HEADER)}' or, scored with --data_dir, '{' '.join(short)}' (tab separated)"
    if len(first.cells) not in (2, 3):
        raise first.error(f"{len(first.cells)} column(s) in the header", f"write {forms}")
    if is_data(first) or max(len(cell) for cell in first.cells) > LONGEST_HEADER_CELL:
        raise first.error("the header is missing, this line is data", f"put a first line {forms}")
    if not rest:
        raise first.error("no examples after the header", "write a row for each example")
    has_gold = len(first.cells) == 3
    names = tuple(cell.strip().lower() for cell in first.cells)
    wanted = HEADER if has_gold else short
    places = [names.index(name) for name in wanted] if sorted(names) == sorted(wanted) else list(range(len(wanted)))
    chosen = []
    for row in rest:
        if len(row.cells) != len(first.cells):
            found = "empty line" if row.cells == ("",) else f"{len(row.cells)} column(s)"
            raise row.error(
                f"{found}, the header has {len(first.cells)}", "use one tab between columns, one line a row"
            )
        cells = tuple(row.cells[place] for place in places)
        chosen.append(replace(row, cells=cells if has_gold else (cells[0], cells[1], cells[1])))
    return chosen, has_gold


def _without_quotes(rows: list[Row]) -> list[Row]:
    """As they are, or without the quotes around cells where the whole header is in quotes."""
    if not all(_is_quoted(cell) for cell in rows[0].cells):
        return rows
    return [replace(row, cells=tuple(_unquoted(cell) for cell in row.cells)) for row in rows]


def _is_quoted(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if _is_quoted(cell) else cell


def _read_tags(task: Task, path: Path) -> Answers:
    """Both columns are of one scheme, the gold column's: a model's I after O is no sign of another one."""
    assert isinstance(task, TaggingTask)
    form = replace(task.form, plain=True)  # as our own files are; other people's have the data's tags
    if form.is_custom:
        form = replace(form, scheme="auto")
    first, *rest = _word_rows(path)
    sentences = []
    evidence, theirs = Evidence(), Evidence()
    for is_blank, block in groupby(rest, key=lambda row: len(row.cells) == 1 and not row.cells[0].strip()):
        rows = list(block)
        if is_blank:
            continue
        words, gold = tuple(row.text(0, "token") for row in rows), [form.tag_of(row, 1) for row in rows]
        predicted = [form.tag_of(row, 2) for row in rows]
        lines = [row.number for row in rows]
        evidence.add(gold, lines)
        theirs.add(predicted, lines)
        sentences.append((lines[0], words, gold, predicted))
    if not sentences:
        raise first.error("no examples after the header", "get the file again")
    i_begins = recognise(path, task.form, evidence)
    if theirs.is_iob1 and evidence.begun:
        logger.warning(
            "%s: mentions begin with I in the predictions, with B in gold; an I before any B counts for nothing: "
            "write both columns in one scheme",
            path,
        )
    answers = Answers(path, [], [], [], has_gold=first.cells == WORD_HEADER)
    for line, words, gold, predicted in sentences:
        name = f"sentence-{len(answers.examples)}"
        answers.examples.append(Example(name, words, tuple(plain_tags(gold, i_begins))))
        answers.predictions.append(Prediction(tuple(plain_tags(predicted, i_begins))))
        answers.lines.append(line)
    return answers


def _word_rows(path: Path) -> list[Row]:
    """The header and the rows of token, gold, tag, a single empty cell between sentences."""
    first, *rest = _without_quotes(read_rows(path))
    short = (WORD_HEADER[0], WORD_HEADER[2])
    if first.cells not in (WORD_HEADER, short):
        forms = f"'{' '.join(WORD_HEADER)}' or, scored with --data_dir, '{' '.join(short)}' (tab separated)"
        raise first.error("the header is missing", f"put a first line {forms}")
    rows = [first]
    for row in rest:
        if not "".join(row.cells).strip():
            rows.append(replace(row, cells=("",)))
            continue
        if len(row.cells) != len(first.cells):
            found = f"{len(row.cells)} column(s), {len(first.cells)} expected ({', '.join(first.cells)})"
            raise row.error(found, "separate columns by one tab and sentences by an empty line")
        rows.append(row if first.cells == WORD_HEADER else replace(row, cells=(*row.cells, row.cells[1])))
    return rows


READERS: dict[str, Callable[[Task, Path], Answers]] = {
    "similarity": _read_scores,
    "multiclass": _read_classes,
    "multilabel": _read_label_sets,
    "tagging": _read_tags,
}


def check(task: Task, answers: Answers, gold: Sequence[Example], source: Path) -> Answers:
    """The answers with the gold standard's examples, in its order.

    Raises UserError at the first row that is not the gold standard's by id, words or label. `source` is the file that
    `gold` was read from, named in the message.
    """
    wanted = whole_sentences(gold) if task.family == "tagging" else list(gold)
    if task.family != "tagging" and len({example.id for example in wanted}) == len(wanted):
        answers = _in_order(answers, wanted, source)
    compare = _word_mismatch if task.family == "tagging" else _row_mismatch
    fail = partial(_mismatch, answers.path, source)
    for line, ours, theirs in zip(answers.lines, answers.examples, wanted, strict=False):
        found = compare(ours, theirs, answers.has_gold)
        if found is not None:
            raise fail(line + found[0], found[1])
    if len(answers.examples) != len(wanted):
        what = "sentences" if task.family == "tagging" else "rows"
        raise fail(answers.lines[-1], f"the file ends after {len(answers.examples)} {what}, gold has {len(wanted)}")
    return replace(answers, examples=wanted, has_gold=True)


def _in_order(answers: Answers, wanted: Sequence[Example], source: Path) -> Answers:
    """The answers in the gold standard's order, by their indices. Raises UserError where they are not the same."""
    known = {example.id for example in wanted}
    row_of: dict[str, int] = {}
    for number, (line, example) in enumerate(zip(answers.lines, answers.examples, strict=True)):
        name = example.id if example.id in known else _unquoted(example.id)
        if name not in known:
            what = f"index {shown(example.id)} is none of gold's (there it is {shown(wanted[0].id)} in the first row)"
            raise _mismatch(answers.path, source, line, what)
        if name in row_of:
            what = f"index {shown(name)} is already in line {answers.lines[row_of[name]]}"
            raise _mismatch(answers.path, source, line, what)
        row_of[name] = number
    missing = [example.id for example in wanted if example.id not in row_of]
    if missing:
        more = f" and for {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{answers.path}: no row for index {shown(missing[0])}{more}; give one row for each example of {source}"
        )
    order = [row_of[example.id] for example in wanted]
    return replace(
        answers,
        examples=[replace(answers.examples[row], id=example.id) for row, example in zip(order, wanted, strict=True)],
        predictions=[answers.predictions[row] for row in order],
        lines=[answers.lines[row] for row in order],
    )


def _mismatch(path: Path, source: Path, line: int, what: str) -> UserError:
    return UserError(f"{path}:{line}: {what}; give one row for each example of {source}")


def _row_mismatch(ours: Example, theirs: Example, has_gold: bool) -> tuple[int, str] | None:
    if ours.id != theirs.id:
        return 0, f"index {shown(ours.id)} where gold has {shown(theirs.id)}"
    if has_gold and ours.label != theirs.label:
        return 0, f"gold label of {shown(ours.id)} differs from the gold file's"
    return None


def _word_mismatch(ours: Example, theirs: Example, has_gold: bool) -> tuple[int, str] | None:
    """Words are compared as `rows` writes them, with _ for white space."""
    pairs = zip(ours.texts, theirs.texts, ours.label, theirs.label, strict=False)
    for number, (word, gold_word, tag, gold_tag) in enumerate(pairs):
        if "_".join(gold_word.split()) not in (word, _unquoted(word)):  # in quotes: as pandas writes a token ".
            return number, f"token {shown(word)} where gold has {shown(gold_word)}"
        if has_gold and tag != gold_tag:
            return number, f"gold tag {tag} where the gold file has {gold_tag}"
    if len(ours.texts) != len(theirs.texts):
        end = min(len(ours.texts), len(theirs.texts))
        return end, f"a sentence of {len(ours.texts)} words, gold has {len(theirs.texts)}"
    return None


def whole_sentences(examples: Sequence[Example]) -> list[Example]:
    """The pieces of a cut sentence joined again."""
    whole = []
    for name, pieces in groupby(examples, key=lambda example: example.group or example.id):
        parts = list(pieces)
        words = tuple(word for part in parts for word in part.texts)
        whole.append(Example(name, words, tuple(tag for part in parts for tag in part.label)))
    return whole

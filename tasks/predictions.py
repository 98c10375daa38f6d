"""predictions/<split>.tsv read back: what every family's `rows` writes, whoever wrote it.

The gold column may be absent. Each row is then read with its prediction in that column's place, until `check` puts the
gold standard there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from harness.task import Example, Prediction, Task, UserError
from tasks.conll import Evidence, plain_tags, recognise
from tasks.multilabel import document_of, flag_pattern, flags
from tasks.readers import LONGEST_HEADER_CELL, Row, is_number, read_rows, shown
from tasks.tagging import TaggingTask

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
    if isinstance(task, TaggingTask):
        return _read_tags(task, path)
    predicted: list[Any]
    if task.family == "similarity":
        rows, has_gold = _table(path, HEADER, lambda row: is_number(row.cells[-1]) or row.cells[-1] in NOT_FINITE)
        predicted = [float(row.cells[2]) if row.cells[2] in NOT_FINITE else row.score(2) for row in rows]
        gold = [row.score(1) for row in rows] if has_gold else predicted
        examples = [Example(row.text(0, "index"), (), score) for row, score in zip(rows, gold, strict=True)]
    elif task.family == "multiclass":
        rows, has_gold = _table(path, HEADER, lambda row: row.cells[-1] in task.labels)
        examples = [Example(row.text(0, "index"), (), row.label(1, task.labels)) for row in rows]
        predicted = [row.label(2, task.labels) for row in rows]
    else:
        pattern = flag_pattern(task.labels)
        rows, has_gold = _table(path, HEADER, lambda row: pattern.fullmatch(row.cells[-1]) is not None)
        examples = [Example(row.cells[0], (), flags(row, 1, task.labels), document_of(row)) for row in rows]
        predicted = [flags(row, 2, task.labels) for row in rows]
    return Answers(path, examples, [Prediction(value) for value in predicted], [row.number for row in rows], has_gold)


def _table(path: Path, names: tuple[str, ...], is_data: Callable[[Row], bool]) -> tuple[list[Row], bool]:
    """(rows of index or token, gold, prediction without the header, whether the file has a gold column).

    In tagging, where blank lines separate sentences, such a row has one empty cell.
    """
    rows = read_rows(path)
    while len(rows) > 1 and rows[-1].is_blank:
        rows.pop()
    if all(_is_quoted(cell) for cell in rows[0].cells):
        rows = [replace(row, cells=tuple(map(_unquoted, row.cells))) for row in rows]
    first, *rest = rows
    width, short, is_tagging = len(first.cells), (names[0], names[2]), names == WORD_HEADER
    forms = f"'{' '.join(names)}' or, scored with --data_dir, '{' '.join(short)}' (tab separated)"
    if width not in (2, 3):
        raise first.error(f"{width} column(s) in the header", f"write {forms}")
    if is_data(first) or max(map(len, first.cells)) > LONGEST_HEADER_CELL:
        raise first.error("the header is missing, this line is data", f"put a first line {forms}")
    if not rest:
        raise first.error("no examples after the header", "write a row for each example")
    given, wanted = [cell.strip().lower() for cell in first.cells], names if width == 3 else short
    places = [given.index(name) for name in wanted] if sorted(given) == sorted(wanted) else list(range(width))
    chosen = []
    for row in rest:
        if is_tagging and row.is_blank:
            chosen.append(replace(row, cells=("",)))
            continue
        if len(row.cells) != width:
            found = "empty line" if row.cells == ("",) else f"{len(row.cells)} column(s)"
            if is_tagging:
                remedy = "separate columns by one tab and sentences by an empty line"
                raise row.error(f"{found}, {width} expected ({', '.join(first.cells)})", remedy)
            raise row.error(f"{found}, the header has {width}", "use one tab between columns, one line a row")
        name, *others = (row.cells[place] for place in places)
        chosen.append(replace(row, cells=(name, others[0], others[-1])))
    return chosen, width == 3


def _is_quoted(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if _is_quoted(cell) else cell


def _read_tags(task: TaggingTask, path: Path) -> Answers:
    """Both columns are of one scheme, the gold column's: a model's I after O is no sign of another one."""
    form = replace(task.form, plain=True)  # as our own files are; other people's have the data's tags
    if form.is_custom:
        form = replace(form, scheme="auto")
    headers = (WORD_HEADER, (WORD_HEADER[0], WORD_HEADER[2]))
    rows, has_gold = _table(path, WORD_HEADER, lambda row: row.cells not in headers)
    sentences = [list(block) for blank, block in groupby(rows, lambda row: row.is_blank) if not blank]
    words = [tuple(row.text(0, "token") for row in sentence) for sentence in sentences]
    gold = [[form.tag_of(row, 1) for row in sentence] for sentence in sentences]
    predicted = [[form.tag_of(row, 2) for row in sentence] for sentence in sentences]
    evidence, theirs = Evidence(), Evidence()
    for sentence, tags, others in zip(sentences, gold, predicted, strict=True):
        lines = [row.number for row in sentence]
        evidence.add(tags, lines)
        theirs.add(others, lines)
    i_begins = recognise(path, task.form, evidence)
    if theirs.is_iob1 and evidence.begun:
        logger.warning(
            "%s: mentions begin with I in the predictions, with B in gold; an I before any B counts for nothing: "
            "write both columns in one scheme",
            path,
        )
    examples = [
        Example(f"sentence-{number}", texts, tuple(plain_tags(tags, i_begins)))
        for number, (texts, tags) in enumerate(zip(words, gold, strict=True))
    ]
    predictions = [Prediction(tuple(plain_tags(tags, i_begins))) for tags in predicted]
    return Answers(path, examples, predictions, [sentence[0].number for sentence in sentences], has_gold)


def check(task: Task, answers: Answers, gold: Sequence[Example], source: Path) -> Answers:
    """The answers with the gold standard's examples, in its order.

    Raises UserError at the first row that is not the gold standard's by id, words or label. `source` is the file that
    `gold` was read from, named in the message.
    """
    is_tagging = task.family == "tagging"
    wanted = whole_sentences(gold) if is_tagging else list(gold)
    if not is_tagging and len({example.id for example in wanted}) == len(wanted):
        answers = _in_order(answers, wanted, source)
    compare = _word_mismatch if is_tagging else _row_mismatch
    for line, ours, theirs in zip(answers.lines, answers.examples, wanted, strict=False):
        found = compare(ours, theirs, answers.has_gold)
        if found is not None:
            raise _mismatch(answers.path, source, line + found[0], found[1])
    if len(answers.examples) != len(wanted):
        ends = f"the file ends after {len(answers.examples)} {'sentences' if is_tagging else 'rows'}"
        raise _mismatch(answers.path, source, answers.lines[-1], f"{ends}, gold has {len(wanted)}")
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

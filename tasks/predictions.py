"""predictions/<split>.tsv read back: what every family's `rows` writes, whoever wrote it."""

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
from tasks.multilabel import SENTENCE_INDEX, label_text
from tasks.schemes import Evidence, plain_tags
from tasks.tables import Row, is_number, read_rows, read_table, shown
from tasks.tagging import TaggingTask

__all__ = ["Answers", "check", "read", "whole_sentences"]

logger = logging.getLogger("harness.tasks")

HEADER = "index gold prediction"
WORD_HEADER = ("token", "gold", "prediction")
NOT_FINITE = ("nan", "inf", "-inf")  # as repr() spells what a diverged model predicts


@dataclass(frozen=True)
class Answers:
    """A system's answers to one split, in file order. Examples hold ids and gold; texts in tagging alone."""

    path: Path
    examples: list[Example]
    predictions: list[Prediction]
    lines: list[int]  # where in the file each example begins, counted from 1


def read(task: Task, path: Path) -> Answers:
    """Raises UserError naming file, line, value and remedy."""
    return READERS[task.family](task, path)


def _read_classes(task: Task, path: Path) -> Answers:
    def is_data(row: Row) -> bool:
        return row.cells[-1] in task.labels

    rows = read_table(path, 3, HEADER, is_data)
    examples = [Example(row.text(0, "index"), (), row.label(1, task.labels)) for row in rows]
    return _answers(path, rows, examples, [Prediction(row.label(2, task.labels)) for row in rows])


def _read_scores(task: Task, path: Path) -> Answers:
    rows = read_table(path, 3, HEADER, is_data=lambda row: is_number(row.cells[-1]) or row.cells[-1] in NOT_FINITE)
    examples = [Example(row.text(0, "index"), (), row.score(1)) for row in rows]
    values = [float(row.cells[2]) if row.cells[2] in NOT_FINITE else row.score(2) for row in rows]
    return _answers(path, rows, examples, [Prediction(value) for value in values])


def _read_label_sets(task: Task, path: Path) -> Answers:
    pattern = re.compile(",".join(f"{re.escape(label)}_([01])" for label in task.labels))
    form = label_text([0] * len(task.labels), task.labels)

    def values(row: Row, column: int) -> tuple[int, ...]:
        found = pattern.fullmatch(row.cells[column])
        if found is None:
            raise row.error(
                f"labels {shown(row.cells[column])} not of the form {form}",
                "list all labels in this order, each with _0 or _1",
            )
        return tuple(int(value) for value in found.groups())

    rows = read_table(path, 3, HEADER, is_data=lambda row: pattern.fullmatch(row.cells[-1]) is not None)
    examples = []
    for row in rows:
        document = SENTENCE_INDEX.fullmatch(row.text(0, "index"))
        if document is None:
            raise row.error(
                f"index {shown(row.cells[0])} not of the form <document>_s<number>", "write it like 10027919_s0"
            )
        examples.append(Example(row.cells[0], (), values(row, 1), document.group(1)))
    return _answers(path, rows, examples, [Prediction(values(row, 2)) for row in rows])


def _answers(path: Path, rows: Sequence[Row], examples: list[Example], predictions: list[Prediction]) -> Answers:
    return Answers(path, examples, predictions, [row.number for row in rows])


def _read_tags(task: Task, path: Path) -> Answers:
    """Both columns are of one scheme, the gold column's: a model's I after O is no sign of another one."""
    assert isinstance(task, TaggingTask)
    form = replace(task.form, plain=True)  # as our own files are; other people's have the data's tags
    if form.is_custom:
        form = replace(form, scheme="auto")
    first, *rest = read_rows(path)
    if first.cells != WORD_HEADER:
        raise first.error("the header is missing", f"put a first line '{' '.join(WORD_HEADER)}' (tab separated)")
    sentences = []
    evidence, theirs = Evidence(), Evidence()
    for is_blank, block in groupby(rest, key=lambda row: len(row.cells) == 1 and not row.cells[0].strip()):
        rows = list(block)
        if is_blank:
            continue
        for row in rows:
            if len(row.cells) != len(WORD_HEADER):
                found = f"{len(row.cells)} column(s), 3 expected ({', '.join(WORD_HEADER)})"
                raise row.error(found, "separate columns by one tab and sentences by an empty line")
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
    answers = Answers(path, [], [], [])
    for line, words, gold, predicted in sentences:
        name = f"sentence-{len(answers.examples)}"
        answers.examples.append(Example(name, words, tuple(plain_tags(gold, i_begins))))
        answers.predictions.append(Prediction(tuple(plain_tags(predicted, i_begins))))
        answers.lines.append(line)
    return answers


READERS: dict[str, Callable[[Task, Path], Answers]] = {
    "similarity": _read_scores,
    "multiclass": _read_classes,
    "multilabel": _read_label_sets,
    "tagging": _read_tags,
}


def check(task: Task, answers: Answers, gold: Sequence[Example], source: Path) -> None:
    """Raises UserError at the first row that is not the gold standard's, in order, id, words and label.

    `source` is the file that `gold` was read from, named in the message.
    """
    is_tagging = task.family == "tagging"
    wanted = whole_sentences(gold) if is_tagging else list(gold)
    compare = _word_mismatch if is_tagging else _row_mismatch
    fail = partial(_mismatch, answers.path, source)
    for line, ours, theirs in zip(answers.lines, answers.examples, wanted, strict=False):
        found = compare(ours, theirs)
        if found is not None:
            raise fail(line + found[0], found[1])
    if len(answers.examples) != len(wanted):
        what = "sentences" if is_tagging else "rows"
        raise fail(answers.lines[-1], f"the file ends after {len(answers.examples)} {what}, gold has {len(wanted)}")


def _mismatch(path: Path, source: Path, line: int, what: str) -> UserError:
    return UserError(f"{path}:{line}: {what}; give a row for each example of {source}, in its order")


def _row_mismatch(ours: Example, theirs: Example) -> tuple[int, str] | None:
    if ours.id != theirs.id:
        return 0, f"index {shown(ours.id)} where gold has {shown(theirs.id)}"
    if ours.label != theirs.label:
        return 0, f"gold label of {shown(ours.id)} differs from the gold file's"
    return None


def _word_mismatch(ours: Example, theirs: Example) -> tuple[int, str] | None:
    """Words are compared as `rows` writes them, with _ for white space."""
    pairs = zip(ours.texts, theirs.texts, ours.label, theirs.label, strict=False)
    for number, (word, gold_word, tag, gold_tag) in enumerate(pairs):
        if word != "_".join(gold_word.split()):
            return number, f"token {shown(word)} where gold has {shown(gold_word)}"
        if tag != gold_tag:
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

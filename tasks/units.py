"""What each unit of a split adds to its score: the form in which two systems can be compared by exchanging answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import numpy as np

from harness.task import Task
from tasks.metrics import mentions
from tasks.predictions import Answers

Score = Callable[[np.ndarray], np.ndarray]
"""Sums over units [..., k] -> scores [...]."""


@dataclass(frozen=True)
class Units:
    """`score(values.sum(0))` is the task's primary metric."""

    name: str  # what a unit is: example | document | sentence
    gold: list[object]  # of each unit: equal where two systems answered the same questions
    values: np.ndarray  # [units, k] float64
    score: Score


def units(task: Task, answers: Answers) -> Units:
    """The units of one system's answers."""
    return FAMILIES[task.family](task, answers)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(above, below, out=np.zeros_like(below), where=below > 0))


def _f1(sums: np.ndarray) -> np.ndarray:
    """From sums of true positives, false positives and false negatives."""
    hits, wrong, missed = np.moveaxis(sums, -1, 0)
    return _ratio(2 * hits, 2 * hits + wrong + missed)


def _labelled(answers: Answers) -> list[object]:
    return [(example.id, example.label) for example in answers.examples]


def _classes(task: Task, answers: Answers) -> Units:
    """Counts without the negative class. Where no class is negative, their F1 is the accuracy.

    For macro F1, the mean over the classes that occur, those of each class apart.
    """
    place = {label: number for number, label in enumerate(task.labels)}
    counts = np.zeros((len(answers.examples), len(task.labels), 3))
    for row, example, prediction in zip(counts, answers.examples, answers.predictions, strict=True):
        if example.label == prediction.value:
            row[place[example.label], 0] = 1
        else:
            row[place[prediction.value], 1] = row[place[example.label], 2] = 1
    counts = counts[:, [number for label, number in place.items() if label != task.negative]]
    if task.score_key != "macro_f1":
        return Units("example", _labelled(answers), counts.sum(1), _f1)

    def score(sums: np.ndarray) -> np.ndarray:
        by_class = sums.reshape(*sums.shape[:-1], -1, 3)
        return _ratio(_f1(by_class).sum(-1), (by_class.sum(-1) > 0).sum(-1).astype(np.float64))

    return Units("example", _labelled(answers), counts.reshape(len(counts), -1), score)


def _documents(task: Task, answers: Answers) -> Units:
    """Precision and recall of each document, or its counts for micro F1.

    The rows of a document lie together in the file, or are brought together here.
    """
    names = ("TP", "FP", "FN") if task.score_key == "micro_f1" else ("precision", "recall")
    together: dict[str, list[int]] = {}
    for number, example in enumerate(answers.examples):
        together.setdefault(example.group, []).append(number)
    rows, gold = [], []
    for document, numbers in together.items():
        examples = [answers.examples[number] for number in numbers]
        report = task.metric(examples, [answers.predictions[number] for number in numbers])
        rows.append(tuple(report.values[name] for name in names))
        gold.append((document, tuple(example.label for example in examples)))

    def score(sums: np.ndarray) -> np.ndarray:
        precision, recall = np.moveaxis(sums, -1, 0) / len(together)
        return _ratio(2 * precision * recall, precision + recall)

    of_sums = _f1 if task.score_key == "micro_f1" else score
    return Units("document", list(gold), np.array(rows, dtype=np.float64), of_sums)


def _sentences(task: Task, answers: Answers) -> Units:
    """Counts of mentions, each counted in the sentence where it begins."""
    ends = np.cumsum([len(example.label) for example in answers.examples])
    gold = mentions(chain.from_iterable(example.label for example in answers.examples))
    predicted = mentions(chain.from_iterable(prediction.value for prediction in answers.predictions))
    values = np.zeros((len(answers.examples), 3))
    for column, group in enumerate((gold & predicted, predicted - gold, gold - predicted)):
        starts = [mention[0] for mention in group]
        np.add.at(values[:, column], np.searchsorted(ends, starts, side="right"), 1)
    return Units("sentence", [(example.texts, example.label) for example in answers.examples], values, _f1)


def _pairs(task: Task, answers: Answers) -> Units:
    """Gold, prediction, their squares and their product."""
    gold = np.array([example.label for example in answers.examples], dtype=np.float64)
    predicted = np.array([prediction.value for prediction in answers.predictions], dtype=np.float64)
    count, middle = len(gold), gold.mean()
    x, y = gold - middle, predicted - middle  # a correlation does not change, and less is lost to rounding

    def score(sums: np.ndarray) -> np.ndarray:
        sx, sy, sxx, syy, sxy = np.moveaxis(sums, -1, 0)
        spread = np.clip(count * sxx - sx**2, 0, None) * np.clip(count * syy - sy**2, 0, None)
        return _ratio(count * sxy - sx * sy, np.sqrt(spread))

    return Units("example", _labelled(answers), np.stack([x, y, x * x, y * y, x * y], axis=1), score)


FAMILIES: dict[str, Callable[[Task, Answers], Units]] = {
    "similarity": _pairs,
    "tagging": _sentences,
    "multilabel": _documents,
    "multiclass": _classes,
}

"""Counts and the ratios made of them, for every family that predicts classes. A ratio over nothing is 0, never nan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.task import Example, Prediction, UserError

__all__ = [
    "Counts",
    "check_lengths",
    "class_counts",
    "confusion",
    "harmonic_mean",
    "key_value_lines",
    "macro_f1",
    "ratio",
    "results_filename",
]


class Counts(NamedTuple):
    """How often one class was found (tp), wrongly claimed (fp), missed (fn) and rightly left alone (tn)."""

    tp: int
    fp: int
    fn: int
    tn: int = 0

    @property
    def precision(self) -> float:
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        return ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        return harmonic_mean(self.precision, self.recall)

    @property
    def support(self) -> int:
        return self.tp + self.fn

    @property
    def is_present(self) -> bool:
        """Whether the class occurs in gold or in the predictions."""
        return self.tp + self.fp + self.fn > 0

    def figures(self) -> dict[str, float | int]:
        """The entry of this class in Report.per_class."""
        return {"precision": self.precision, "recall": self.recall, "f1": self.f1, "support": self.support}

    @classmethod
    def total(cls, counts: Iterable[Counts]) -> Counts:
        """Class by class sums, for micro averages."""
        columns = list(zip(*counts, strict=True)) or [(0,)] * 4
        return cls(*(sum(column) for column in columns))


def ratio(numerator: float, denominator: float) -> float:
    """numerator / denominator, 0 where the denominator is 0."""
    return numerator / denominator if denominator else 0.0


def harmonic_mean(precision: float, recall: float) -> float:
    """F1 of a precision and a recall, 0 where both are 0."""
    return ratio(2 * precision * recall, precision + recall)


def confusion(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Counts [gold label][predicted label], int64. Raises UserError for a label that is not in `labels`."""
    number = {label: index for index, label in enumerate(labels)}
    for label in set(gold) | set(predicted):
        if label not in number:
            raise UserError(f"unknown label {label!r} in gold or predictions; use one of {', '.join(labels)}")
    matrix = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(matrix, ([number[label] for label in gold], [number[label] for label in predicted]), 1)
    return matrix


def class_counts(matrix: np.ndarray) -> list[Counts]:
    """The counts of each class of a confusion matrix, in its order."""
    total = int(matrix.sum())
    counts = []
    for index in range(len(matrix)):
        tp = int(matrix[index, index])
        fp, fn = int(matrix[:, index].sum()) - tp, int(matrix[index].sum()) - tp
        counts.append(Counts(tp, fp, fn, total - tp - fp - fn))
    return counts


def macro_f1(counts: Iterable[Counts]) -> float:
    """Mean F1 of the classes that occur in gold or predictions (so do the original and scikit-learn's default)."""
    present = [entry.f1 for entry in counts if entry.is_present]
    return ratio(sum(present), len(present))


def check_lengths(examples: Sequence[Example], predictions: Sequence[Prediction]) -> None:
    """A metric sees a whole split: raises ValueError where there are not as many predictions as examples."""
    if len(examples) != len(predictions):
        raise ValueError(f"{len(predictions)} predictions for {len(examples)} examples")


def key_value_lines(values: Mapping[str, float | int]) -> str:
    """The format of the original eval_results.txt and test_results.txt."""
    return "".join(f"{key} = {value}\n" for key, value in values.items())


def results_filename(split: str) -> str:
    """The original file of a split's scores."""
    return "eval_results.txt" if split == "dev" else f"{split}_results.txt"

"""Counts and the ratios made of them, for every family that predicts classes, and what counts as a mention in tags.

A ratio over nothing is 0, never nan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from harness.task import Confusion, Example, Prediction, UserError

TAGS = ("B", "I", "O")


class Counts(NamedTuple):
    """How often one class was found (tp), wrongly claimed (fp), missed (fn) and rightly not claimed (tn)."""

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

    def metrics(self) -> dict[str, float | int]:
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


def confusion(
    gold: Sequence[str], predicted: Sequence[str], labels: tuple[str, ...]
) -> tuple[Confusion, dict[str, Counts]]:
    """The table of counts [gold label][predicted label], and the counts of each class.

    Raises UserError for a label that is not in `labels`.
    """
    number = {label: index for index, label in enumerate(labels)}
    for label in set(gold) | set(predicted):
        if label not in number:
            raise UserError(f"unknown label {label!r} in gold or predictions; use one of {', '.join(labels)}")
    matrix = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(matrix, ([number[label] for label in gold], [number[label] for label in predicted]), 1)
    counts = {}
    for index, label in enumerate(labels):
        tp = int(matrix[index, index])
        fp, fn = int(matrix[:, index].sum()) - tp, int(matrix[index].sum()) - tp
        counts[label] = Counts(tp, fp, fn, len(gold) - tp - fp - fn)
    return Confusion(labels, labels, tuple(map(tuple, matrix.tolist()))), counts


def accuracy(counts: Mapping[str, Counts]) -> float:
    """The share of right answers, from the counts of all classes."""
    return ratio(sum(entry.tp for entry in counts.values()), sum(entry.support for entry in counts.values()))


def macro_f1(counts: Iterable[Counts]) -> float:
    """Mean F1 of the classes that occur in gold or predictions (so do the original and scikit-learn's default)."""
    present = [entry.f1 for entry in counts if entry.is_present]
    return ratio(sum(present), len(present))


def matthews(chart: Confusion) -> float:
    """Matthews' correlation coefficient of any number of classes (Gorodkin 2004, R_K); 0 where gold or predictions have
    one class alone. `chart`: counts[gold][predicted] of all classes."""
    counts = np.array(chart.counts, dtype=np.float64)
    gold, predicted, total = counts.sum(1), counts.sum(0), counts.sum()
    spread = (total**2 - gold @ gold) * (total**2 - predicted @ predicted)
    return ratio(float(np.trace(counts) * total - gold @ predicted), float(np.sqrt(spread)))


def check_lengths(examples: Sequence[Example], predictions: Sequence[Prediction]) -> None:
    """A metric sees a whole split: raises ValueError where there are not as many predictions as examples."""
    if len(examples) != len(predictions):
        raise ValueError(f"{len(predictions)} predictions for {len(examples)} examples")


def key_value_lines(values: Mapping[str, float | int]) -> str:
    """The format of the original eval_results.txt and test_results.txt."""
    return "".join(f"{key} = {value}\n" for key, value in values.items())


def results_file(split: str, values: Mapping[str, float | int]) -> dict[str, str]:
    """The original file of a split's scores: its name -> its text."""
    return {"eval_results.txt" if split == "dev" else f"{split}_results.txt": key_value_lines(values)}


def mentions(tags: Iterable[str]) -> set[tuple[int, ...]]:
    """The mentions of a whole split, each as the numbers of its words; `tags` are all its tags in order.

    B opens a mention and every later I joins the newest one, even across O and sentence ends, so that a disjoint
    mention (left/B atrium/I is/O dilated/I) counts whole. An I before any B counts for nothing.
    """
    found: list[list[int]] = []
    for index, tag in enumerate(tags):
        if tag == "B":
            found.append([index])
        elif tag == "I" and found:
            found[-1].append(index)
    return {tuple(mention) for mention in found}


def shown_mentions(tags: Sequence[str], disjoint: bool) -> list[list[tuple[int, int]]]:
    """The mentions of one sentence as its annotators mean them, for people; the metric has its own rule.

    A mention is its parts, each as (first word, word after the last). An I behind an O begins a mention of its own;
    only where the task's annotators mark disjoint mentions so, and a B stands before it, is it one more part of that.
    """
    found: list[list[tuple[int, int]]] = []
    opened = False  # by a B of this sentence
    for index, tag in enumerate(tags):
        if tag == "I" and index and tags[index - 1] != "O":
            first, _ = found[-1].pop()
            found[-1].append((first, index + 1))
        elif tag == "I" and disjoint and opened:
            found[-1].append((index, index + 1))
        elif tag != "O":
            found.append([(index, index + 1)])
            opened = opened or tag == "B"
    return found


def strict_mentions(sentences: Iterable[Sequence[str]]) -> set[tuple[int, int, int, str]]:
    """The mentions as seqeval's strict IOB2 counts them: (sentence, first word, word after the last, type or "").

    B opens a mention, the I's of its type that follow it without a gap belong to it, any other I counts for nothing.
    """
    found = set()
    for number, tags in enumerate(sentences):
        for start in (index for index, tag in enumerate(tags) if tag.startswith("B")):
            end, inside = start + 1, "I" + tags[start][1:]
            while end < len(tags) and tags[end] == inside:
                end += 1
            found.add((number, start, end, type_of(tags[start])))
    return found


def type_of(tag: str) -> str:
    """The type of mention of a tag such as B-Disease; "" of B, I and O."""
    return tag[2:]


def tags_of(types: Iterable[str]) -> tuple[str, ...]:
    """The tags of several types of mention: B-<type> and I-<type> of each, then O."""
    return (*(f"{letter}-{kind}" for kind in types for letter in "BI"), "O")


def repaired(tags: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Tags of a sentence in which every I that does not follow B or I of its type is B, and how many those were.

    So conlleval reads them (CoNLL 2000; seqeval's default mode): such a tag begins a mention.
    """
    begins = [tag[0] == "I" and (before == "O" or before[1:] != tag[1:]) for before, tag in pairwise(("O", *tags))]
    return tuple("B" + tag[1:] if begin else tag for tag, begin in zip(tags, begins, strict=True)), sum(begins)


def compare(gold: Set[Any], predicted: Set[Any]) -> Counts:
    """How many are in both, and in one alone."""
    hits = len(gold & predicted)
    return Counts(hits, len(predicted) - hits, len(gold) - hits)


def counts_by_type(gold: Set[tuple[Any, ...]], predicted: Set[tuple[Any, ...]]) -> dict[str, Counts]:
    """Counts of each type that occurs, of mentions (or words) whose last entry is their type."""
    types = sorted({mention[-1] for mention in gold | predicted})
    by_type = [{kind: {one for one in part if one[-1] == kind} for kind in types} for part in (gold, predicted)]
    return {kind: compare(by_type[0][kind], by_type[1][kind]) for kind in types}


def typed_words(sentences: Iterable[Sequence[str]]) -> set[tuple[int, int, str]]:
    """The words inside mentions as (sentence, word, type or ""), B and I not told apart."""
    tagged = ((number, word, tag) for number, tags in enumerate(sentences) for word, tag in enumerate(tags))
    return {(number, word, type_of(tag)) for number, word, tag in tagged if tag != "O"}

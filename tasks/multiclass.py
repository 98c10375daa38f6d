"""Family: which one of several classes? For relations between two marked mentions, and for a pair of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.task import Confusion, Encoded, Example, Prediction, Report, Task
from tasks.encoding import encode, identity
from tasks.measures import (
    Counts,
    check_lengths,
    class_counts,
    confusion,
    key_value_lines,
    macro_f1,
    ratio,
    results_filename,
)
from tasks.tables import Layout, read_columns

if TYPE_CHECKING:
    import torch  # slow to import: flags are checked before

__all__ = ["MulticlassHead", "features", "metric", "read", "task"]

NAMES = {"accuracy": "accuracy", "micro_f1": "micro F1", "macro_f1": "macro F1"}  # of what may be the score


def read(path: Path, layout: Layout, labels: Sequence[str]) -> list[Example]:
    """One sentence or a pair, and a label, in file order. Raises UserError naming file and line.

    One index may occur twice: ChemProt has pairs with two labels.
    """
    rows = read_columns(path, layout, is_value=partial(_is_label, labels=labels))
    return [
        Example(row.text(0, "index"), tuple(row.text(n) for n in range(1, len(row.cells) - 1)), row.label(-1, labels))
        for row in rows
    ]


def _is_label(cell: str, labels: Sequence[str]) -> bool:
    return cell.strip().lower() in {label.lower() for label in labels}


def features(examples: Sequence[Example], tokenizer: Any, max_seq_length: int, labels: Sequence[str]) -> Encoded:
    """Token ids of the sentences; the label is its number in `labels`."""
    number = {label: index for index, label in enumerate(labels)}
    return encode(examples, tokenizer, max_seq_length, [number[example.label] for example in examples])


@dataclass(frozen=True)
class MulticlassHead:
    """One output a class, softmax over them."""

    labels: tuple[str, ...]
    per_word: bool = False

    @property
    def num_outputs(self) -> int:
        return len(self.labels)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of cross entropies; logits [n, classes], labels [n] of class numbers."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits.float(), labels.long(), reduction="sum")

    def decode(self, logits: np.ndarray) -> Prediction:
        """The most probable class and the probability of each; logits [classes]."""
        shifted = np.exp(logits.astype(np.float64) - np.max(logits))
        return Prediction(self.labels[int(np.argmax(logits))], tuple((shifted / shifted.sum()).tolist()))


def metric(
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    labels: tuple[str, ...],
    negative: str | None,
    score_key: str,
) -> Report:
    """Accuracy, and micro and macro F1 over all classes but `negative`; `score_key` is the one that counts.

    Macro F1 is the mean over the classes, but `negative`, that occur in gold or predictions, as in the original.
    """
    check_lengths(examples, predictions)
    gold, predicted = [example.label for example in examples], [prediction.value for prediction in predictions]
    matrix = confusion(gold, predicted, labels)
    counts = dict(zip(labels, class_counts(matrix), strict=True))
    counted = [entry for label, entry in counts.items() if label != negative]
    micro = Counts.total(counted)
    accuracy = ratio(int(np.trace(matrix)), len(examples))
    values = {
        "precision": micro.precision,
        "recall": micro.recall,
        "micro_f1": micro.f1,
        "macro_f1": macro_f1(counted),
        "accuracy": accuracy,
        "TP": micro.tp,
        "FP": micro.fp,
        "FN": micro.fn,
        "num": len(examples),
    }
    per_class = {label: entry.figures() for label, entry in counts.items()}
    chart = Confusion(labels, labels, tuple(tuple(row) for row in matrix.tolist()))
    name = NAMES[score_key] + ("" if negative is None else f" without {negative}")
    return Report(values[score_key], name, values, per_class, chart)


def rows(examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[str]:
    """`index gold prediction`, the labels by name."""
    pairs = zip(examples, predictions, strict=True)
    return ["index\tgold\tprediction"] + [f"{pair[0].id}\t{pair[0].label}\t{pair[1].value}" for pair in pairs]


def files(
    split: str,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    report: Report,
    labels: tuple[str, ...],
    negative: str | None,
) -> dict[str, str]:
    """eval_results.txt or test_results.txt; for the test set also test_predictions.txt (`gold<tab>prediction`) and
    test_results_classification_report.tsv."""
    values = report.values
    results = {
        **{key: values[key] for key in ("TP", "FP", "FN", "precision", "recall")},
        "FB1": values["micro_f1"],
        **({"overall_acc": values["accuracy"]} if negative is None else {"FB1_macro": values["macro_f1"]}),
    }
    if split != "test":
        return {results_filename(split): key_value_lines(results)}
    gold, predicted = [example.label for example in examples], [prediction.value for prediction in predictions]
    return {
        "test_results.txt": key_value_lines(results),
        "test_predictions.txt": "".join(f"{one}\t{other}\n" for one, other in zip(gold, predicted, strict=True)),
        "test_results_classification_report.tsv": classification_report(gold, predicted, labels, negative),
    }


def classification_report(
    gold: Sequence[str], predicted: Sequence[str], labels: tuple[str, ...], negative: str | None
) -> str:
    """The original's table: a line for each class that occurs, then micro and macro averages.

    Its column Accuracy is TP / (TP + FN), the recall. Where the original leaves a cell empty (0/0) this has 0.0.
    """
    counts = dict(zip(labels, class_counts(confusion(gold, predicted, labels)), strict=True))
    present = {label: entry for label, entry in counts.items() if entry.is_present}
    positive = {label: entry for label, entry in present.items() if label != negative}
    averages = {"include_false": present} if negative is None else {"include_false": present, "drop_false": positive}
    lines = [_report_line(label, entry) for label, entry in present.items()]
    lines += [_report_line(f"micro_{name}", Counts.total(group.values())) for name, group in averages.items()]
    for name, group in averages.items():
        columns = [[entry.precision, entry.recall, entry.f1, entry.recall] for entry in group.values()]
        means = [ratio(sum(column), len(group)) for column in zip(*columns, strict=True)] or [0.0] * 4
        lines.append([f"macro_{name}", *[""] * 5, *[repr(mean) for mean in means]])
    header = ["Class", "TP", "TN", "FP", "FN", "Support", "Precision", "Recall", "F1score", "Accuracy"]
    return "".join("\t".join(line) + "\n" for line in [header, *lines])


def _report_line(name: str, entry: Counts) -> list[str]:
    cells = [entry.tp, entry.tn, entry.fp, entry.fn, entry.support]
    return [name, *map(str, cells), *map(repr, [entry.precision, entry.recall, entry.f1, entry.recall])]


def dev_row(report: Report, negative: str | None) -> dict[str, float | int]:
    """The columns of dev_results.txt."""
    values = report.values
    row = {key: values[key] for key in ("TP", "FP", "FN")}
    row |= {"Prec": values["precision"], "Rec": values["recall"], "FB1": values["micro_f1"]}
    return row | {"Acc": values["accuracy"]} if negative is None else row


def task(*, labels: tuple[str, ...], negative: str | None, score_key: str, **described: Any) -> Task:
    """A task of one class an example; `negative` is the class that the score leaves out, or None.

    `score_key` is one of NAMES; `described`: name, title, files and the like, as Task has them.
    """
    return Task(
        features=partial(features, labels=labels),
        head=MulticlassHead(labels),
        metric=partial(metric, labels=labels, negative=negative, score_key=score_key),
        rows=rows,
        files=partial(files, labels=labels, negative=negative),
        dev_row=partial(dev_row, negative=negative),
        align=identity,
        family="multiclass",
        labels=labels,
        score_key=score_key,
        negative=negative,
        **described,
    )

"""Family: which one of several classes? For relations between two marked mentions, and for a pair of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.task import Encoded, Example, Prediction, Report
from tasks.encoding import encode
from tasks.metrics import Counts, accuracy, check_lengths, confusion, macro_f1, matthews, ratio, results_file
from tasks.readers import Row, TableTask


@dataclass(frozen=True)
class MulticlassTask(TableTask):
    """The label of an example is its class by name. One index may occur twice: ChemProt has pairs with two labels."""

    family = "multiclass"
    metric_version = 1
    metrics: ClassVar = {
        "accuracy": "accuracy",
        "micro F1": "micro_f1",
        "macro F1": "macro_f1",
        "weighted F1": "weighted_f1",
        "MCC": "mcc",
    }
    texts = (("sentence",), ("sentence1", "sentence2"))
    target = "label"
    formats: ClassVar = {"blue-relations": ("sentence",), "blue-pairs": ("sentence1", "sentence2")}
    keys = ("labels", "label_titles", "negative", "header")
    defaults: ClassVar = {"header": True}
    least_labels = 2

    def is_label(self, cell: str) -> bool:
        return cell.strip().lower() in map(str.lower, self.labels)

    def label_of(self, row: Row, column: int) -> str:
        return row.label(column, self.labels)

    def features(
        self, examples: Sequence[Example], tokenizer: Any, max_seq_length: int, stride: int | None = None
    ) -> Encoded:
        """Token ids of the sentences; the label is its number in `self.labels`."""
        number = {label: index for index, label in enumerate(self.labels)}
        return encode(examples, tokenizer, max_seq_length, [number[example.label] for example in examples], stride)

    def decode(self, logits: np.ndarray) -> Prediction:
        """The most probable class and the probability of each; logits [classes]."""
        shifted = np.exp(logits.astype(np.float64) - np.max(logits))
        return Prediction(self.labels[int(np.argmax(logits))], tuple((shifted / shifted.sum()).tolist()))

    def metric(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Report:
        """Accuracy, and micro and macro F1 over all classes but `negative`; `score_key` is the one that counts.

        Macro F1 is the mean over the classes, but `negative`, that occur in gold or predictions, as in the original;
        weighted F1 counts each as often as gold has it. MCC is Matthews' correlation of all classes (see `matthews`).
        """
        check_lengths(examples, predictions)
        chart, counts = confusion([one.label for one in examples], [one.value for one in predictions], self.labels)
        counted = [entry for label, entry in counts.items() if label != self.negative]
        micro = Counts.total(counted)
        values = {
            "precision": micro.precision,
            "recall": micro.recall,
            "micro_f1": micro.f1,
            "macro_f1": macro_f1(counted),
            "accuracy": accuracy(counts),
            "TP": micro.tp,
            "FP": micro.fp,
            "FN": micro.fn,
            "num": len(examples),
        }
        if self.score_key == "weighted_f1":
            values["weighted_f1"] = ratio(sum(one.f1 * one.support for one in counted), micro.support)
        if self.score_key == "mcc":
            values["mcc"] = matthews(chart)
        per_class = {label: entry.metrics() for label, entry in counts.items()}
        (name,) = (name for name, key in self.metrics.items() if key == self.score_key)
        name += "" if self.negative is None else f" without {self.negative}"
        return Report(values[self.score_key], name, values, per_class, chart)

    def files(
        self, split: str, examples: Sequence[Example], predictions: Sequence[Prediction], report: Report
    ) -> dict[str, str]:
        """eval_results.txt or test_results.txt; for the test set also test_predictions.txt (`gold<tab>prediction`) and
        test_results_classification_report.tsv."""
        values = report.values
        results = {key: values[key] for key in ("TP", "FP", "FN", "precision", "recall")} | {"FB1": values["micro_f1"]}
        results |= {key: values[key] for key in ("weighted_f1", "mcc") if key in values}
        other = ("overall_acc", "accuracy") if self.negative is None else ("FB1_macro", "macro_f1")
        written = results_file(split, results | {other[0]: values[other[1]]})
        if split == "test":
            gold, predicted = [example.label for example in examples], [prediction.value for prediction in predictions]
            lines = [f"{one}\t{other}\n" for one, other in zip(gold, predicted, strict=True)]
            written["test_predictions.txt"] = "".join(lines)
            counts = confusion(gold, predicted, self.labels)[1]
            written["test_results_classification_report.tsv"] = classification_report(counts, self.negative)
        return written

    def dev_row(self, report: Report) -> dict[str, float | int]:
        """The columns of dev_results.txt."""
        names = {"TP": "TP", "FP": "FP", "FN": "FN", "Prec": "precision", "Rec": "recall", "FB1": "micro_f1"}
        names |= {"Acc": "accuracy"} if self.negative is None else {}
        names |= (
            {report.metric: self.score_key} if self.score_key in report.values.keys() & {"weighted_f1", "mcc"} else {}
        )
        return {column: report.values[name] for column, name in names.items()}


def classification_report(counts: dict[str, Counts], negative: str | None) -> str:
    """The original's table: a line for each class that occurs, then micro and macro averages.

    Its column Accuracy is TP / (TP + FN), the recall. Where the original leaves a cell empty (0/0) this has 0.0.
    """
    present = {label: entry for label, entry in counts.items() if entry.is_present}
    averages = {"include_false": list(present.values())}
    if negative is not None:
        averages["drop_false"] = [entry for label, entry in present.items() if label != negative]
    lines = [["Class", "TP", "TN", "FP", "FN", "Support", "Precision", "Recall", "F1score", "Accuracy"]]
    micro = {f"micro_{name}": Counts.total(group) for name, group in averages.items()}
    for name, entry in (present | micro).items():
        lines.append([name, *map(str, (entry.tp, entry.tn, entry.fp, entry.fn, entry.support)), *_ratios([entry])])
    lines += [[f"macro_{name}", *[""] * 5, *_ratios(group)] for name, group in averages.items()]
    return "".join("\t".join(line) + "\n" for line in lines)


def _ratios(group: Sequence[Counts]) -> list[str]:
    """Means over classes of precision, recall, F1 and recall once more."""
    columns = [[getattr(entry, name) for entry in group] for name in ("precision", "recall", "f1", "recall")]
    return [repr(ratio(sum(column), len(group))) for column in columns]

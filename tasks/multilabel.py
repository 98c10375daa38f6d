"""Family: which of several labels, any number of them? Sentences are labelled, documents are scored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness.task import Confusion, Encoded, Example, Prediction, Report, on_device
from tasks.encoding import encode
from tasks.metrics import Counts, check_lengths, harmonic_mean, key_value_lines, macro_f1, ratio, results_file
from tasks.readers import SENTENCE_INDEX, Row, TableTask, locate, read_columns, shown

if TYPE_CHECKING:
    import torch  # slow to import: flags are checked before

THRESHOLD = 0.5  # a label is predicted where its probability is greater, not equal


def label_text(values: Sequence[int], labels: Sequence[str]) -> str:
    """Labels as the files spell them: `0_0,1_1,...`."""
    return ",".join(f"{label}_{value}" for label, value in zip(labels, values, strict=True))


def _label_names(cell: str) -> list[str]:
    return [name.strip() for name in cell.split(",") if name.strip()]


@dataclass(frozen=True)
class MultilabelTask(TableTask):
    """The label of an example is 0 or 1 for each label of the task."""

    family = "multilabel"
    metric_version = 1
    metrics: ClassVar = {"example-based F1": "f1", "micro F1": "micro_f1", "macro F1": "macro_f1"}
    texts = (("sentence",),)
    target = "labels"
    formats: ClassVar = {"blue-documents": ("sentence",)}
    keys = ("labels", "label_titles", "header")
    defaults: ClassVar = {"header": True}
    least_labels = 1

    def read(self, data_dir: Path, split: str) -> list[Example]:
        """A sentence and its labels: their names with commas, in BLUE's format `0_0,1_1,...` for all labels.

        Rows of the indices `<document>_s<n>` belong to one document; any other index gets `_s0`, a document by itself,
        but in BLUE's format. Raises UserError also for an index that occurs twice.
        """
        layout = self.layout(split)
        is_blue = layout.format is not None

        def is_names(cell: str) -> bool:
            return bool(names := _label_names(cell)) and set(names) <= set(self.labels)

        line_of: dict[str, int] = {}
        examples = []
        path = locate(data_dir, split, self.filenames)
        for row in read_columns(path, layout, self.is_label if is_blue else is_names):
            if is_blue:
                values, document, index = self.label_of(row, -1), self.group_of(row), row.cells[0]
            else:
                names = _label_names(row.cells[-1])
                if unknown := [name for name in names if name not in self.labels]:
                    remedy = f"use names of {', '.join(self.labels)}, commas between them"
                    raise row.error(f"unknown label {shown(unknown[0])}", remedy)
                values, index = tuple(int(label in names) for label in self.labels), row.text(0, "index")
                found = SENTENCE_INDEX.fullmatch(index)
                document, index = (found.group(1), index) if found else (index, f"{index}_s0")
            if index in line_of:
                wrong = f"index {shown(index)} is already in line {line_of[index]}"
                raise row.error(wrong, "give each sentence its own index")
            line_of[index] = row.number
            examples.append(Example(index, (row.text(1),), values, document))
        return examples

    def _flags(self, cell: str) -> re.Match[str] | None:
        """A cell `0_0,1_1,...`; the groups are the flags."""
        return re.fullmatch(",".join(f"{re.escape(label)}_([01])" for label in self.labels), cell)

    def is_label(self, cell: str) -> bool:
        return self._flags(cell) is not None

    def label_of(self, row: Row, column: int) -> tuple[int, ...]:
        found = self._flags(row.cells[column])
        if found is None:
            wrong = f"labels {shown(row.cells[column])} not of the form {self.text([0] * len(self.labels))}"
            raise row.error(wrong, "list all labels in this order, each with _0 or _1")
        return tuple(map(int, found.groups()))

    def group_of(self, row: Row) -> str:
        found = SENTENCE_INDEX.fullmatch(row.text(0, "index"))
        if found is None:
            wrong = f"index {shown(row.cells[0])} not of the form <document>_s<number>"
            raise row.error(wrong, "write it like 10027919_s0")
        return found.group(1)

    def classes_of(self, example: Example) -> set[str]:
        return {label for label, flag in zip(self.labels, example.label, strict=True) if flag}

    def features(
        self, examples: Sequence[Example], tokenizer: Any, max_seq_length: int, stride: int | None = None
    ) -> Encoded:
        """Token ids of the sentences; the label is 0.0 or 1.0 for each label."""
        labels = [[float(value) for value in one.label] for one in examples]
        return encode(examples, tokenizer, max_seq_length, labels, stride)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Binary cross entropy: the mean over the labels of each example, summed over examples; both [n, labels]."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        losses = binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
        return losses.mean(dim=-1).sum()

    def training_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`loss` of targets y (1 - e) + e / 2 with label smoothing e, each label's positive part times its weight."""
        if not self.label_smoothing and self.class_weights is None:
            return self.loss(logits, labels)
        from torch.nn.functional import binary_cross_entropy_with_logits

        targets = labels.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        weights = on_device(self.class_weights, logits.device)
        losses = binary_cross_entropy_with_logits(logits.float(), targets, reduction="none", pos_weight=weights)
        return losses.mean(dim=-1).sum()

    def decode(self, logits: np.ndarray) -> Prediction:
        """1 for each label over THRESHOLD, and all probabilities; logits [labels]."""
        wide = logits.astype(np.float64)
        small = np.exp(-np.abs(wide))  # at most 1: exp of a large positive number would overflow
        scores = np.where(wide >= 0, 1.0, small) / (1.0 + small)
        return Prediction(tuple(int(score > THRESHOLD) for score in scores), tuple(scores.tolist()))

    def metric(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Report:
        """Example-based F1 on documents, or micro or macro F1 on them, as `score_key` says.

        The first is the F1 of the mean precision and the mean recall over documents. A document has every label that
        one of its sentences has. Precision is 0 where nothing is predicted. The original divides by zero where a
        document has no gold label; here precision and recall are then 1 if nothing is predicted either, since that
        answer is right, else 0.
        """
        check_lengths(examples, predictions)
        shape = (len(examples), len(self.labels))
        gold = np.array([example.label for example in examples], dtype=np.int64).reshape(shape)
        predicted = np.array([prediction.value for prediction in predictions], dtype=np.int64).reshape(shape)
        document_gold, document_predicted = _by_document(examples, gold), _by_document(examples, predicted)
        precision, recall = _example_based(document_gold, document_predicted)
        counts = _column_counts(document_gold, document_predicted)
        sentence_counts = _column_counts(gold, predicted)
        micro, of_sentences = Counts.total(counts), Counts.total(sentence_counts)
        areas, warnings = _roc_areas(gold, predictions, self.labels)
        values = {
            "precision": precision,
            "recall": recall,
            "f1": harmonic_mean(precision, recall),
            "macro_f1": macro_f1(counts),
            "micro_f1": micro.f1,
            "TP": micro.tp,
            "FP": micro.fp,
            "FN": micro.fn,
            "documents": len(document_gold),
            "num": len(examples),
            "sentence_precision": of_sentences.precision,
            "sentence_recall": of_sentences.recall,
            "sentence_micro_f1": of_sentences.f1,
            "sentence_macro_f1": macro_f1(sentence_counts),
            "sentence_exact_match": ratio(int((gold == predicted).all(axis=1).sum()), len(gold)),
            **({"micro_roc_auc": areas["micro"]} if "micro" in areas else {}),
        }
        per_class = {
            label: entry.metrics() | ({"roc_auc": areas[label]} if label in areas else {})
            for label, entry in zip(self.labels, counts, strict=True)
        }
        table = tuple((entry.tp, entry.fp, entry.fn, entry.tn) for entry in counts)
        chart = Confusion(self.labels, ("TP", "FP", "FN", "TN"), table)
        (name,) = (name for name, key in self.metrics.items() if key == self.score_key)
        return Report(values[self.score_key], f"{name} on documents", values, per_class, chart, warnings)

    def text(self, label: Sequence[int]) -> str:
        return label_text(label, self.labels)

    def files(
        self, split: str, examples: Sequence[Example], predictions: Sequence[Prediction], report: Report
    ) -> dict[str, str]:
        """eval_results.txt or test_results.txt, <split>_all_logits.txt (probabilities, in spite of its name) and
        <split>_roc_auc_for_each_class.txt; for the test set also test_predictions.tsv."""
        values = report.values
        results = {"precision": values["precision"], "recall": values["recall"], "FB1": values["f1"]}
        micro_area = {key: values[key] for key in ("micro_roc_auc",) if key in values}
        written = results_file(split, results | micro_area)
        if all(prediction.scores is not None for prediction in predictions):
            probabilities = ["\t".join(f"{score:.3f}" for score in one.scores or ()) + "\n" for one in predictions]
            written[f"{split}_all_logits.txt"] = "".join(probabilities)
            areas = {label: row["roc_auc"] for label, row in report.per_class.items() if "roc_auc" in row}
            if micro_area:
                areas["micro"] = micro_area["micro_roc_auc"]
            written[f"{split}_roc_auc_for_each_class.txt"] = key_value_lines(areas)
        if split == "test":
            lines = ["index\tlabels\tpred_labels", *self.rows(examples, predictions)[1:]]
            written["test_predictions.tsv"] = "".join(line + "\n" for line in lines)
        return written

    def dev_row(self, report: Report) -> dict[str, float | int]:
        """The columns of dev_results.txt; Micro_ROC_AUC is 0.0 where it is not defined (Report.warnings says so)."""
        values = report.values
        area = values.get("micro_roc_auc", 0.0)
        return {"Prec": values["precision"], "Rec": values["recall"], "FB1": values["f1"], "Micro_ROC_AUC": area}


def _by_document(examples: Sequence[Example], values: np.ndarray) -> np.ndarray:
    """[documents, labels] in order of first appearance: the union over the sentences of each document."""
    number: dict[str, int] = {}
    rows = [number.setdefault(example.group, len(number)) for example in examples]
    union = np.zeros((len(number), values.shape[1]), dtype=np.int64)
    np.maximum.at(union, rows, values)
    return union


def _example_based(gold: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Mean precision and mean recall over the rows."""
    hits, wanted, given = (gold & predicted).sum(1), gold.sum(1), predicted.sum(1)
    both_empty = ((wanted == 0) & (given == 0)).astype(np.float64)
    precision, recall = (
        np.divide(hits, count, out=both_empty.copy(), where=count > 0).tolist() for count in (given, wanted)
    )
    return ratio(sum(precision), len(gold)), ratio(sum(recall), len(gold))


def _column_counts(gold: np.ndarray, predicted: np.ndarray) -> list[Counts]:
    columns = []
    for truth, guess in zip(gold.T, predicted.T, strict=True):
        tp, fp, fn = int((truth & guess).sum()), int((guess > truth).sum()), int((truth > guess).sum())
        columns.append(Counts(tp, fp, fn, len(truth) - tp - fp - fn))
    return columns


def _roc_areas(
    gold: np.ndarray, predictions: Sequence[Prediction], labels: Sequence[str]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Area under the ROC curve of each label and, under "micro", of all; a label with one gold value has none."""
    if not predictions or any(prediction.scores is None for prediction in predictions):
        return {}, ()  # labels from a file have no probabilities, so there is nothing to warn of
    scores = np.array([prediction.scores for prediction in predictions], dtype=np.float64)
    if not np.isfinite(scores).all():
        return {}, ("some probabilities are not finite numbers: no ROC AUC",)
    from sklearn.metrics import roc_auc_score  # slow to import

    columns = {label: (gold[:, index], scores[:, index]) for index, label in enumerate(labels)}
    columns["micro"] = (gold.ravel(), scores.ravel())
    both = {name: column for name, column in columns.items() if 0 < column[0].sum() < len(column[0])}
    areas = {name: float(roc_auc_score(*column)) for name, column in both.items()}
    missing = [name for name in columns if name not in areas]
    return areas, (f"no ROC AUC where gold has one value only: {', '.join(missing)}",) if missing else ()

"""Family: how similar are two sentences? A number for each pair; scored by Pearson's or Spearman's correlation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness.task import Encoded, Example, Prediction, Report, Scatter
from tasks.encoding import encode
from tasks.metrics import check_lengths, results_file
from tasks.readers import Row, TableTask, is_number

if TYPE_CHECKING:
    import torch  # slow to import: flags are checked before


@dataclass(frozen=True)
class SimilarityTask(TableTask):
    """The label of an example is its score."""

    family = "similarity"
    metric_version = 1
    metrics: ClassVar = {"Pearson": "pearson", "Spearman": "spearman"}
    texts = (("sentence1", "sentence2"),)
    target = "score"
    formats: ClassVar = {"blue-pairs": ("sentence1", "sentence2")}
    keys = ("header",)
    defaults: ClassVar = {"header": True}
    least_labels = 0

    def is_label(self, cell: str) -> bool:
        value = cell.strip().lower().lstrip("+-")
        return is_number(value.replace(",", ".")) or value in ("nan", "inf", "infinity")

    def label_of(self, row: Row, column: int) -> float:
        return row.score(column)

    def features(
        self, examples: Sequence[Example], tokenizer: Any, max_seq_length: int, stride: int | None = None
    ) -> Encoded:
        """Token ids of the pairs; the label is the score itself."""
        return encode(examples, tokenizer, max_seq_length, [float(example.label) for example in examples], stride)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of squared errors; logits [n, 1], labels [n]."""
        return (logits.float().squeeze(-1) - labels.float()).square().sum()

    def decode(self, logits: np.ndarray) -> Prediction:
        """The score, not clamped to the range of the annotation."""
        return Prediction(float(logits[0]))

    def metric(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Report:
        """Pearson's r, Spearman's rho and the errors in units of the score; `score_key` is the one that counts.

        Without variation in gold or predictions a correlation is not defined; it is then 0, with a warning.
        """
        check_lengths(examples, predictions)
        gold = np.array([example.label for example in examples], dtype=np.float64)
        predicted = np.array([prediction.value for prediction in predictions], dtype=np.float64)
        pearson, spearman, warning = _correlations(gold, predicted)
        values: dict[str, float | int] = {"pearson": pearson, "spearman": spearman, "num": len(examples)}
        if len(gold) and np.isfinite(predicted).all():
            values["mse"] = float(np.mean((gold - predicted) ** 2))
            values["mae"] = float(np.mean(np.abs(gold - predicted)))
        chart = Scatter(tuple(gold.tolist()), tuple(predicted.tolist()))
        (name,) = (name for name, key in self.metrics.items() if key == self.score_key)
        return Report(values[self.score_key], name, values, {}, chart, (warning,) if warning else ())

    def text(self, label: float) -> str:
        return repr(float(label))  # reads back to the same float

    def files(
        self, split: str, examples: Sequence[Example], predictions: Sequence[Prediction], report: Report
    ) -> dict[str, str]:
        """eval_results.txt or test_results.txt, and for the test set test_predictions.txt: `gold<tab>prediction`."""
        written = results_file(
            split, {key: report.values[key] for key in dict.fromkeys(("pearson", self.score_key, "num"))}
        )
        if split == "test":
            pairs = zip(examples, predictions, strict=True)
            lines = [f"{self.text(example.label)}\t{self.text(prediction.value)}\n" for example, prediction in pairs]
            written["test_predictions.txt"] = "".join(lines)
        return written

    def dev_row(self, report: Report) -> dict[str, float | int]:
        """The column of dev_results.txt."""
        return {report.metric: report.score}


def _correlations(gold: np.ndarray, predicted: np.ndarray) -> tuple[float, float, str]:
    """Pearson, Spearman, and why they are 0 where they are not defined."""
    from scipy import stats  # slow to import, and a run that only trains does not need it

    if not np.isfinite(predicted).all():
        count = int((~np.isfinite(predicted)).sum())
        return 0.0, 0.0, f"{count} predictions are not finite numbers: Pearson and Spearman set to 0"
    if len(gold) < 2:
        return 0.0, 0.0, f"a correlation needs 2 examples, there are {len(gold)}: Pearson and Spearman set to 0"
    for name, values in (("predictions", predicted), ("gold scores", gold)):
        # 1e-13 of the mean is where scipy calls an input nearly constant: what remains is rounding.
        if np.linalg.norm(values - values.mean()) <= 1e-13 * abs(values.mean()):
            return 0.0, 0.0, f"all {name} are the same: Pearson and Spearman are not defined and set to 0"
    pearson, spearman = stats.pearsonr(gold, predicted).statistic, stats.spearmanr(gold, predicted).statistic
    if not np.isfinite(pearson) or not np.isfinite(spearman):
        return 0.0, 0.0, "the correlation cannot be computed in float64: Pearson and Spearman set to 0"
    return float(pearson), float(spearman), ""

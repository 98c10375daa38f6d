"""The numbers behind the page's charts of a task; the page only draws them."""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import UserError, first_line
from harness.run_folder import RunFolder
from harness.task import Confusion, Scatter, Task
from launch.reporting.collect import Run, answers_of
from tasks.predictions import Answers

BINS = 10
MOST_POINTS = 1500  # of a scatter plot
CURVES = ("train_loss", "dev_loss", "dev_score")


@dataclass(frozen=True)
class Bin:
    """Sums over the answers of a calibration bin."""

    count: int
    claimed: float  # probability, or predicted score
    true: float  # share that is right, or gold score


@dataclass(frozen=True)
class Answered:
    """What one run's test predictions say."""

    run: Run
    answers: Answers
    chart: Confusion | Scatter | None
    bins: Sequence[Bin | None]  # None: no answer falls in it
    remark: str = ""  # why there is nothing, or what does not fit


def answered(run: Run) -> Answered:
    """A finished run's test predictions read and counted; unreadable ones leave a remark."""
    remark = ""
    try:
        task, answers = run.definition, answers_of(run)
        report = task.metric(answers.examples, answers.predictions)
        if run.test_score is not None and abs(report.score - run.test_score) > 1e-9:
            remark = f"its test predictions score {report.score:.4f}, result.json says {run.test_score:.4f}"
        bins = _score_bins(report.chart) if isinstance(report.chart, Scatter) else _probability_bins(task, run, answers)
        return Answered(run, answers, report.chart, bins, remark)
    except UserError as error:
        remark = str(error)
    except Exception as error:  # whatever it is, the page shows the other runs
        remark = f"its test predictions cannot be counted ({type(error).__name__}: {first_line(error)})"
    return Answered(run, Answers(run.folder, [], [], []), None, (), remark)


def of_row(runs: Sequence[Run], answers: Sequence[Answered]) -> dict[str, Any]:
    """What the charts show of one model on one task; `answers` of its finished runs, seeds in order."""
    charts = [one.chart for one in answers if one.chart is not None]
    return {
        "seeds": sorted({run.seed for run in runs}),
        "curves": curves(runs),
        "confusion": _confusion([chart for chart in charts if isinstance(chart, Confusion)]),
        "scatter": _scatter([one for one in answers if isinstance(one.chart, Scatter)]),
        "classes": classes(runs),
        "calibration": calibration([one.bins for one in answers if one.bins]),
        "rates": {name: [run.rates[name] for run in runs if name in run.rates] for name in ("examples", "tokens")},
        "hours": [run.device_hours for run in runs if run.device_hours is not None],
        "remarks": [f"{one.run.folder}: {one.remark}" for one in answers if one.remark],
        "test": [run.test_score for run in runs if run.test_score is not None],
    }


def curves(runs: Sequence[Run]) -> dict[str, dict[str, list[float]]]:
    """Mean, least and most over seeds of each curve, by epoch: name -> epoch, mean, low, high, n."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in CURVES:
        values: dict[float, list[float]] = {}
        for run in runs:
            for entry in run.epochs:
                if name in entry:
                    values.setdefault(entry["epoch"], []).append(entry[name])
        if values:
            epochs = sorted(values)
            found[name] = {
                "epoch": epochs,
                "mean": _short(statistics.fmean(values[epoch]) for epoch in epochs),
                "low": _short(min(values[epoch]) for epoch in epochs),
                "high": _short(max(values[epoch]) for epoch in epochs),
                "n": [len(values[epoch]) for epoch in epochs],
            }
    return found


def classes(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Test scores of each class, as fractions: means over seeds, and the deviation of F1 over them."""
    by_class: dict[str, list[Mapping[str, float]]] = {}
    for run in runs:
        for label, values in run.result.get("scores", {}).get("test", {}).get("per_class", {}).items():
            by_class.setdefault(label, []).append(values)
    return {
        label: {
            **{name: statistics.fmean(v[name] for v in values) for name in ("precision", "recall", "f1", "support")},
            "std": statistics.stdev(v["f1"] for v in values) if len(values) > 1 else 0.0,
        }
        for label, values in by_class.items()
    }


def _confusion(charts: Sequence[Confusion]) -> dict[str, Any] | None:
    """Counts summed over seeds."""
    if not charts:
        return None
    first = charts[0]
    counts = [
        [sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*(c.counts for c in charts), strict=True)
    ]
    return {"rows": first.rows, "columns": first.columns, "counts": counts, "seeds": len(charts)}


def _scatter(answers: Sequence[Answered]) -> dict[str, Any] | None:
    """Of the first seed, at most MOST_POINTS at even distances."""
    if not answers:
        return None
    chart, every = answers[0].chart, -(-len(answers[0].answers.examples) // MOST_POINTS)
    assert isinstance(chart, Scatter), "filtered by the caller"
    gold, predicted = _short(chart.gold[::every]), _short(chart.predicted[::every])
    return {"gold": gold, "predicted": predicted, "seed": answers[0].run.seed}


# ---- calibration
def calibration(runs: Sequence[Sequence[Bin | None]]) -> dict[str, Any] | None:
    """Bins summed over seeds, and the expected calibration error: the mean distance, weighted by count (Guo 2017)."""
    if not runs:
        return None
    together = []
    for column in zip(*runs, strict=True):
        full = [one for one in column if one is not None]
        if full:
            count = sum(one.count for one in full)
            together.append((count, sum(b.claimed for b in full) / count, sum(b.true for b in full) / count))
    total = sum(count for count, _, _ in together)
    return {
        "claimed": _short(claimed for _, claimed, _ in together),
        "true": _short(true for _, _, true in together),
        "count": [count for count, _, _ in together],
        "error": sum(count * abs(claimed - true) for count, claimed, true in together) / total,
    }


def _probability_bins(task: Task, run: Run, answers: Answers) -> Sequence[Bin | None]:
    """Ten bins of equal width. Multiclass: probability of the answer; multilabel: of each label."""
    path = RunFolder(run.folder).prediction("test_probabilities")
    rows: list[list[float]] = []
    with contextlib.suppress(OSError, ValueError):
        lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []
        rows = [[float(cell) for cell in line.split("\t")[1:]] for line in lines]
    if len(rows) != len(answers.examples) or any(len(row) != len(task.labels) for row in rows):
        return ()
    if not all(0 <= cell <= 1 for row in rows for cell in row):
        return ()
    pairs: list[tuple[float, float]] = []
    for example, prediction, row in zip(answers.examples, answers.predictions, rows, strict=True):
        if task.family == "multilabel":
            pairs += zip(row, example.label, strict=True)
        else:
            pairs.append((row[task.labels.index(prediction.value)], float(prediction.value == example.label)))
    sorted_in: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for claimed, true in pairs:
        sorted_in[min(int(claimed * BINS), BINS - 1)].append((claimed, true))
    return [_bin(part) for part in sorted_in]


def _score_bins(chart: Scatter) -> Sequence[Bin | None]:
    """Ten bins of equally many predicted scores, lowest first."""
    pairs = sorted(zip(chart.predicted, chart.gold, strict=True))
    ends = [len(pairs) * number // BINS for number in range(BINS + 1)]
    return [_bin(pairs[start:end]) for start, end in itertools.pairwise(ends)]


def _bin(pairs: Sequence[tuple[float, float]]) -> Bin | None:
    if not pairs:
        return None
    return Bin(len(pairs), sum(claimed for claimed, _ in pairs), sum(true for _, true in pairs))


def _short(values: Iterable[float]) -> list[float]:
    """Five significant digits: more than a screen shows, and half the size of the page."""
    return [float(f"{value:.5g}") for value in values]

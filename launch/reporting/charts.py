"""The page's charts of a task, as Plotly figures: a trace's `meta` is the number of its model's row on the page."""

from __future__ import annotations

import html
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from plotly import graph_objects as go

from harness.errors import UserError, first_line
from harness.task import Confusion, Scatter, Task
from launch.reporting.collect import Run, answers_of, probabilities_of
from launch.reporting.leaderboard import Leaderboard
from tasks.predictions import Answers

BINS = 10
MOST_POINTS = 1500  # of a scatter plot
MOST_LETTERS = 34  # of a name
COLORS = ("#4477aa", "#ee6677", "#228833", "#c49a00", "#3aa6c9", "#aa3377", "#8c6d46", "#7a7a7a")
FADED = "33"  # behind a colour: its opacity
QUIET = "#8089a0"  # to be read on light and on dark ground
SYMBOLS = ("circle-open", "square-open", "diamond-open", "triangle-up-open", "x-thin-open")  # of published rows
FONT = 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'
# Of text, lines and ground, as in page.css.
THEMES = {"light": ("#1c2330", "#e3e6ec", "#fff"), "dark": ("#e4e8ef", "#2c3440", "#1a2029")}
CLASS_VALUES = {"f1": 100, "precision": 100, "recall": 100, "support": 1}
CLASS_HOVER = "F1 %{y:.1f}, precision %{customdata[1]:.1f}, recall %{customdata[2]:.1f}, support %{customdata[3]:.0f}"
CAPTIONS = {  # of each chart of a task, in order
    "score": "mean over seeds; the band is lowest to highest",
    "loss": "training dotted, dev solid",
    "test": "each dot a seed",
    "classes": "mean over seeds, bars of one standard deviation",
    "confusion": "test, summed over seeds",
    "scatter": "test, first seed",
    "calibration": "test, all seeds; in brackets the mean distance from the diagonal",
    "rate": "training examples a second, median of each run",
    "hours": "device hours of a run",
}


@dataclass(frozen=True)
class Answered:
    """What one run's test predictions say."""

    run: Run
    answers: Answers | None
    chart: Confusion | Scatter | None
    bins: np.ndarray | None  # [BINS, 3]: number of answers, sums of what they claim and of what is true; see `_bins`
    remark: str = ""  # why there is nothing, or what does not fit


@dataclass(frozen=True)
class Part:
    """One model on one task."""

    row: int  # its number on the page
    label: str
    runs: Sequence[Run]  # by seed
    answers: Sequence[Answered]  # of its finished runs

    @property
    def style(self) -> dict[str, Any]:
        """What all of its traces have; lines and boxes take the colour of their markers."""
        return {"name": _name(self.label), "meta": self.row, "marker_color": COLORS[self.row % len(COLORS)]}


def answered(run: Run, is_kept: bool = True) -> Answered:
    """A finished run's test predictions read and counted; unreadable ones leave a remark.

    `is_kept`: with the answers themselves; those of all runs would fill the memory.
    """
    remark = ""
    try:
        task, answers = answers_of(run)
        report = task.metric(answers.examples, answers.predictions)
        if run.test_score is not None and abs(report.score - run.test_score) > 1e-9:
            remark = f"its test predictions score {report.score:.4f}, result.json says {run.test_score:.4f}"
        bins = _bins(task, run, answers, report.chart)
        return Answered(run, answers if is_kept else None, report.chart, bins, remark)
    except UserError as error:
        remark = str(error)
    except Exception as error:  # whatever it is, the page shows the other runs
        remark = f"its test predictions cannot be counted ({type(error).__name__}: {first_line(error)})"
    return Answered(run, None, None, None, remark)


def themes() -> dict[str, go.layout.Template]:
    """Our own look of all charts, in the colours of the page."""
    made = {}
    for name, (ink, line, ground) in THEMES.items():
        axis: dict[str, Any] = {"gridcolor": line, "zerolinecolor": line, "linecolor": line}
        axis |= {"automargin": True, "title_standoff": 10}
        layout = go.Layout(xaxis=axis, yaxis=axis, hovermode="closest", hoverlabel_namelength=-1)
        layout.update(paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", bargap=0.25, barcornerradius=3)
        layout.font = {"color": ink, "size": 12, "family": FONT}
        layout.margin = {"l": 48, "r": 12, "t": 16, "b": 40}
        layout.legend = {"orientation": "h", "x": 0, "y": 1.03, "yanchor": "bottom"}
        made[name] = go.layout.Template(layout=layout)
        made[name].data.heatmap = [go.Heatmap(colorscale=[[0, ground], [1, COLORS[0]]])]
    return made


def _figure(title: str, traces: Sequence[Any], y: str, **layout: Any) -> go.Figure:
    """`y`: what its vertical axis shows. The page adds one of the `themes`."""
    return go.Figure(list(traces), go.Layout(template="none", meta=title, yaxis_title_text=y, **layout))


def _name(label: str) -> str:
    return _plain(label if len(label) <= MOST_LETTERS else f"{label[: MOST_LETTERS - 2]}…")


def _plain(text: str) -> str:
    """Plotly reads markup in names and labels."""
    return html.escape(text, quote=False)


def of_board(board: Leaderboard, numbers: Mapping[str, int]) -> go.Figure:
    """Our rows and the published ones, task by task. `numbers`: label of our rows -> number on the page."""
    traces, lowest = [], 100.0
    for place, row in enumerate((*board.rows, *board.references)):
        is_ours = place < len(board.rows)
        color = COLORS[numbers[row.label] % len(COLORS)] if is_ours else QUIET
        symbol = "circle" if is_ours else SYMBOLS[place % len(SYMBOLS)]
        trace = go.Scatter(name=_name(row.label) + ("" if is_ours else " (published)"), mode="markers")
        trace.marker = {"color": color, "symbol": symbol, "size": 10 if is_ours else 7}
        found = [row.cells.get(column) for column in board.columns]
        trace.x, trace.y = [*map(_plain, board.columns.values())], [one and 100 * one.mean for one in found]
        deviations = [100 * ((one and one.std) or 0.0) for one in found]
        trace.error_y = {"array": deviations, "thickness": 1, "width": 3, "color": color}
        traces.append(trace)
        ends = [y - deviation for y, deviation in zip(trace.y, deviations, strict=True) if y is not None]
        lowest = min([lowest, *ends])
    layout = {"yaxis_range": [max(0, 10 * math.floor((lowest - 2) / 10)), 101], "scattermode": "group"}
    return _figure("Test score by task", traces, "test score", scattergap=0.4, **layout)


def of_task(task: Task, parts: Sequence[Part]) -> dict[str, go.Figure]:
    """By name in CAPTIONS; what the task's family has nothing for is not there."""

    def figure(title: str, y: str, traces: Callable[[Part], Sequence[Any]], **layout: Any) -> go.Figure:
        return _figure(title, [trace for part in parts for trace in traces(part)], y, **layout)

    epoch = {"xaxis_title_text": "epoch", "xaxis_rangemode": "tozero"}
    classes = {"xaxis_type": "category", "yaxis_range": [0, 105]}
    cells = {"type": "category", "showgrid": False}
    is_square, is_score = task.family != "multilabel", task.family == "similarity"
    found = {
        "score": figure("Dev score by epoch", "dev score", lambda part: curves(part, "dev_score"), **epoch),
        "loss": figure("Loss by epoch", "loss", lambda part: curves(part, "train_loss", "dev_loss"), **epoch),
        "test": figure("Test score", "test score", _box),
        "rate": figure("Throughput", "examples / s", lambda part: _bar(part, "examples/s")),
        "hours": figure("Cost", "device hours", lambda part: _bar(part, "device hours")),
    }
    if is_score:
        found["scatter"] = figure("Gold against predicted", "predicted", _points, xaxis_title_text="gold")
    else:
        found["classes"] = figure("Test F1 by class", "F1", lambda part: _class_bar(task, part), **classes)
        title = "Confusion matrix" if is_square else "Answers by label"
        found["confusion"] = figure(title, "gold", _cells, xaxis=cells, yaxis={**cells, "autorange": "reversed"})
        found["confusion"].update_layout(xaxis_title_text="predicted" if is_square else "", yaxis_title_text="gold")
    if task.family != "tagging":
        x, y = ("predicted score", "gold score") if is_score else ("predicted probability", "share that is right")
        found["calibration"] = figure("Calibration", y, _calibration, xaxis_title_text=x)
    for name, gold in (("scatter", "x"), ("calibration", "y")):
        if name in found:
            top = max((0.0, *(value for trace in found[name].data for value in trace[gold]))) if is_score else 1
            line = {"color": QUIET, "dash": "dot", "width": 1}
            found[name].add_shape(type="line", x0=0, y0=0, x1=top, y1=top, line=line)
    return found


def curves(part: Part, *names: str) -> list[go.Scatter]:
    """Least, most and mean over seeds of values of each epoch; a score times 100."""
    traces = []
    for name in names:
        values: dict[float, list[float]] = {}
        for entry in itertools.chain.from_iterable(run.epochs for run in part.runs):
            if name in entry:
                values.setdefault(entry["epoch"], []).append(entry[name] * (100 if name == "dev_score" else 1))
        epochs = sorted(values)
        low, high, mean = (_short(f(values[epoch]) for epoch in epochs) for f in (min, max, statistics.fmean))
        common = {**part.style, "x": epochs, "legendgroup": str(part.row)}
        hidden = {"mode": "lines", "line_width": 0, "showlegend": False, "hoverinfo": "skip"}
        band = {"fill": "tonexty", "fillcolor": part.style["marker_color"] + FADED}
        middle = go.Scatter(**common, y=mean, mode="lines+markers", marker_size=5, showlegend=name != "train_loss")
        middle.line = {"dash": "dot" if name == "train_loss" else "solid", "width": 2}
        middle.customdata = [len(values[epoch]) for epoch in epochs]
        middle.hovertemplate = f"%{{y:.4~r}} ({name.replace('_', ' ')}, epoch %{{x}}, %{{customdata}} seeds)"
        if values:
            traces += [go.Scatter(**common, **hidden, y=low), go.Scatter(**common, **hidden, **band, y=high), middle]
    return traces


def _box(part: Part) -> list[go.Box]:
    scores = [100 * score for run in part.runs if (score := run.test_score) is not None]
    box = go.Box(**part.style, y=scores, boxpoints="all", jitter=0.4, pointpos=0, showlegend=False)
    return [box] if scores else []


def _bar(part: Part, what: str) -> list[go.Bar]:
    """The mean over the runs."""
    values = [run.device_hours if what == "device hours" else run.rates.get("examples") for run in part.runs]
    found = [value for value in values if value is not None]
    if not found:
        return []
    bar = go.Bar(**part.style, x=[part.style["name"]], y=[statistics.fmean(found)], showlegend=False)
    bar.hovertemplate = f"%{{y:.4~r}} {what} ({len(found)} runs)<extra></extra>"
    return [bar]


def _class_bar(task: Task, part: Part) -> list[go.Bar]:
    by_class: dict[str, list[list[float]]] = {}  # label -> CLASS_VALUES of each seed
    for run in part.runs:
        for label, values in run.result.get("scores", {}).get("test", {}).get("per_class", {}).items():
            by_class.setdefault(label, []).append([values[key] * times for key, times in CLASS_VALUES.items()])
    titles = dict(zip(task.labels, task.label_titles or task.labels, strict=True))
    means = {label: np.mean(found, axis=0).tolist() for label, found in by_class.items()}
    bar = go.Bar(**part.style, x=[*map(_plain, by_class)], y=[f1 for f1, *_ in means.values()])
    deviations = [statistics.stdev(f1 for f1, *_ in f) if len(f) > 1 else 0.0 for f in by_class.values()]
    bar.error_y = {"array": deviations, "thickness": 1, "width": 2, "color": QUIET}
    bar.customdata = [[_plain(titles.get(label, label)), *rest] for label, (_, *rest) in means.items()]
    bar.hovertemplate = f"%{{customdata[0]}}: {CLASS_HOVER}"
    return [bar] if by_class else []


def _cells(part: Part) -> list[go.Heatmap]:
    """Counts summed over seeds; a colour says which share of its row a count is."""
    charts = [one.chart for one in part.answers if isinstance(one.chart, Confusion)]
    if not charts:
        return []
    counts = np.sum([chart.counts for chart in charts], axis=0)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    x, y = [*map(_plain, charts[0].columns)], [*map(_plain, charts[0].rows)]
    cells = go.Heatmap(name=part.style["name"], meta=part.row, x=x, y=y, z=shares.tolist(), text=counts.tolist())
    cells.update(texttemplate="%{text}", zmin=0, zmax=100, xgap=2, ygap=2, showscale=False)
    where = "gold %{y}, predicted %{x}" if x == y else "gold %{y}, %{x}"
    cells.hovertemplate = f"{where}: %{{text}} (%{{z:.1f}}% of the row)<extra></extra>"
    return [cells]


def _points(part: Part) -> list[go.Scatter]:
    """Of the first seed, at most MOST_POINTS at even distances."""
    charts = [one.chart for one in part.answers if isinstance(one.chart, Scatter)]
    if not charts:
        return []
    every = -(-len(charts[0].gold) // MOST_POINTS)
    x, y = _short(charts[0].gold[::every]), _short(charts[0].predicted[::every])
    points = go.Scatter(**part.style, x=x, y=y, mode="markers", marker_size=6, marker_opacity=0.6)
    points.hovertemplate = "gold %{x}, predicted %{y:.2f}"
    return [points]


# ---- calibration
def _calibration(part: Part) -> list[go.Scatter]:
    """In brackets the expected calibration error: the mean distance, weighted by count (Guo 2017)."""
    bins = [one.bins for one in part.answers if one.bins is not None]
    if not bins:
        return []
    count, claimed, true, error = calibration(bins)
    line = go.Scatter(**part.style, x=claimed, y=true, mode="lines+markers", customdata=count)
    line.name += f" ({error:.3f})"
    line.marker.size = [5 + 12 * math.sqrt(n / max(count)) for n in count]
    line.hovertemplate = "claimed %{x:.2f}, true %{y:.2f} (%{customdata} answers)"
    return [line]


def calibration(runs: Sequence[np.ndarray]) -> tuple[list[int], list[float], list[float], float]:
    """(count, mean of what is claimed, mean of what is true, both by bin; the error) of the runs' `bins` together."""
    bins = np.sum(runs, axis=0)
    bins = bins[bins[:, 0] > 0]
    count, claimed, true = bins[:, 0], bins[:, 1] / bins[:, 0], bins[:, 2] / bins[:, 0]
    error = float((count * np.abs(claimed - true)).sum() / count.sum())
    return [int(n) for n in count], _short(claimed), _short(true), error


def _bins(task: Task, run: Run, answers: Answers, chart: Confusion | Scatter | None) -> np.ndarray | None:
    """Of a score, ten bins of equally many, lowest predicted first. Else ten of equal width: multiclass by probability
    of the answer, multilabel of each label. None where there are no probabilities."""
    if isinstance(chart, Scatter):
        pairs = np.array(sorted(zip(chart.predicted, chart.gold, strict=True)))
        parts = np.split(pairs, [len(pairs) * number // BINS for number in range(1, BINS)])
        return np.array([(len(part), *part.sum(axis=0)) for part in parts])
    claimed = probabilities_of(run, answers)
    if claimed is None:
        return None
    if task.family == "multilabel":
        true = np.array([example.label for example in answers.examples], dtype=float)
    else:
        said = [prediction.value for prediction in answers.predictions]
        claimed = np.take_along_axis(claimed, np.array([[task.labels.index(label)] for label in said]), axis=1)
        right = [example.label == label for example, label in zip(answers.examples, said, strict=True)]
        true = np.array(right, dtype=float)[:, None]
    number = np.minimum((claimed * BINS).astype(int), BINS - 1)
    return np.array([(np.sum(number == n), claimed[number == n].sum(), true[number == n].sum()) for n in range(BINS)])


def _short(values: Iterable[float]) -> list[float]:
    """Five significant digits: more than a screen shows, and half the size of the page."""
    return [float(f"{value:.5g}") for value in values]

"""The page's charts of a task, as Plotly figures: a trace's `meta` is the number of its model's row on the page.

Those of all tasks together are in `board_charts`.
"""

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
from launch.reporting.series import Series
from tasks.predictions import Answers

BINS = 10
MOST_POINTS = 1500  # of a scatter plot
MOST_LETTERS = 34  # of a name
MOST_TICKS = 8  # at searched values
COLORS = ("#4477aa", "#ee6677", "#228833", "#c49a00", "#3aa6c9", "#aa3377", "#8c6d46", "#7a7a7a")
FADED = "33"  # behind a colour: its opacity
QUIET = "#8089a0"  # to be read on light and on dark ground
FONT = 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'
# Of text, lines and ground, as in page.css.
THEMES = {"light": ("#1c2330", "#e3e6ec", "#fff"), "dark": ("#e4e8ef", "#2c3440", "#1a2029")}
CLASS_VALUES = {"f1": 100, "precision": 100, "recall": 100, "support": 1}
CLASS_HOVER = "F1 %{y:.1f}, precision %{customdata[1]:.1f}, recall %{customdata[2]:.1f}, support %{customdata[3]:.0f}"
WORSE, BETTER = "#c4572e", "#2f78b7"  # below and above zero
SETTINGS = {"num_train_epochs": "epochs", "learning_rate": "learning rate", "per_gpu_train_batch_size": "batch size"}
MARKERS = ("circle", "square", "diamond", "cross", "star")
DASHES = ("solid", "dot", "dash", "longdash", "dashdot", "longdashdot")
SCORE = {"clipmin": -101, "clipmax": 101}  # of an axis of scores, which the page makes ten points long at least
CAPTIONS = {  # of each chart of a task, in order
    "score": "mean over seeds; the band is lowest to highest",
    "loss": "training dotted, dev solid",
    "tuning": "the trials of a search, mean and deviation over its seeds; star: the chosen settings",
    "checkpoints": "test solid, dev dotted, mean and deviation over seeds",
    "learning": "test solid, dev dotted, mean and deviation over seeds, which draw other shares",
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
    """What one run's predictions of a split say."""

    run: Run
    answers: Answers | None
    chart: Confusion | Scatter | None
    bins: np.ndarray | None  # [BINS, 3]: number of answers, sums of what they claim and of what is true; see `_bins`
    confidence: np.ndarray | None = None  # probability of each answer, in multilabel tasks of its least certain label
    remark: str = ""  # why there is nothing, or what does not fit


@dataclass(frozen=True)
class Part:
    """One model on one task."""

    row: int  # its number on the page
    label: str  # one of `names`
    runs: Sequence[Run]  # by seed
    answers: Sequence[Answered]  # of its finished runs

    @property
    def style(self) -> dict[str, Any]:
        """What all of its traces have; lines and boxes take the colour of their markers."""
        return {"name": self.label, "meta": self.row, "marker_color": COLORS[self.row % len(COLORS)]}


@dataclass(frozen=True)
class Trials:
    """What one model's search for settings tried on one task."""

    row: int  # number of the model's row on the page
    label: str  # one of `names`
    trials: Sequence[tuple[Mapping[str, Any], Sequence[float]]]  # settings, dev scores (fractions) of seeds or folds
    chosen: Mapping[str, Any] | None = None  # None while it is not decided


def answered(run: Run, split: str = "test", is_kept: bool = True) -> Answered:
    """A finished run's predictions read and counted; unreadable ones leave a remark.

    `is_kept`: with the answers themselves; those of all runs would fill the memory.
    """
    remark, score = "", run.score(split)
    try:
        task, answers = answers_of(run, split)
        report = task.metric(answers.examples, answers.predictions)
        if score is not None and abs(report.score - score) > 1e-9:
            remark = f"its {split} predictions score {report.score:.4f}, result.json says {score:.4f}"
        claimed = probabilities_of(run, answers, split)
        sure = confidence(task, answers, claimed) if is_kept and claimed is not None else None
        bins = _bins(task, answers, claimed, report.chart)
        return Answered(run, answers if is_kept else None, report.chart, bins, sure, remark)
    except UserError as error:
        remark = str(error)
    except Exception as error:  # whatever it is, the page shows the other runs
        remark = f"its {split} predictions cannot be counted ({type(error).__name__}: {first_line(error)})"
    return Answered(run, None, None, None, remark=remark)


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
        around = [[0, WORSE], [0.5, ground], [1, BETTER]]
        layout.coloraxis = {"colorscale": around, "cmid": 0, "colorbar": {"thickness": 10, "outlinewidth": 0}}
        made[name] = go.layout.Template(layout=layout)
        made[name].data.heatmap = [go.Heatmap(colorscale=[[0, ground], [1, COLORS[0]]])]
    return made


def symbol(row: int) -> str:
    """Of a model's markers: colours are fewer than models may be."""
    return MARKERS[row // len(COLORS) % len(MARKERS)]


def figure(title: str, traces: Sequence[Any], y: str, **layout: Any) -> go.Figure:
    """`y`: what its vertical axis shows. The page adds one of the `themes`."""
    return go.Figure(list(traces), go.Layout(template="none", meta=title, yaxis_title_text=y, **layout))


def names(labels: Iterable[str]) -> dict[str, str]:
    """What charts call each label: MOST_LETTERS of its beginning and end, with a number where two would look alike."""
    made: dict[str, str] = {}
    for label in labels:
        half = MOST_LETTERS // 2
        short = plain(label if len(label) <= MOST_LETTERS else f"{label[:half]}…{label[-half:]}")
        alike = sum(name.partition(" #")[0] == short for name in made.values())
        made[label] = f"{short} #{alike + 1}" if alike else short
    return made


def plain(text: str) -> str:
    """Plotly reads markup in names and labels."""
    return html.escape(text, quote=False)


def of_task(
    task: Task,
    parts: Sequence[Part],
    searches: Sequence[Trials],
    checkpoints: Sequence[Series],
    learning: Sequence[Series],
) -> dict[str, go.Figure]:
    """By name in CAPTIONS; what the task's family has nothing for is not there."""

    def of_parts(title: str, y: str, traces: Callable[[Part], Sequence[Any]], **layout: Any) -> go.Figure:
        return figure(title, [trace for part in parts for trace in traces(part)], y, **layout)

    last = max((entry["epoch"] for part in parts for run in part.runs for entry in run.epochs), default=1)
    epoch = {"xaxis_title_text": "epoch", "xaxis_rangemode": "tozero", "xaxis_dtick": math.ceil(last / 10)}
    score = {"yaxis_autorangeoptions": SCORE}
    classes = {"xaxis_type": "category", "yaxis_range": [0, 105]}
    cells = {"type": "category", "showgrid": False}
    is_square, is_score = task.family != "multilabel", task.family == "similarity"
    found = {
        "score": of_parts("Dev score by epoch", "dev score", lambda part: curves(part, "dev_score"), **epoch, **score),
        "loss": of_parts("Loss by epoch", "loss", _losses, **epoch, yaxis_rangemode="tozero"),
        "test": of_parts("Test score", "test score", _box, **score),
        "rate": of_parts("Throughput", "examples / s", lambda part: _bar(part, "examples/s")),
        "hours": of_parts("Cost", "device hours", lambda part: _bar(part, "device hours")),
    }
    if is_score:
        found["scatter"] = of_parts("Gold against predicted", "predicted", _points, xaxis_title_text="gold")
    else:
        found["classes"] = of_parts("Test F1 by class", "F1", lambda part: _class_bar(task, part), **classes)
        title = "Confusion matrix" if is_square else "Answers by label"
        found["confusion"] = of_parts(title, "gold", _cells, xaxis=cells, yaxis={**cells, "autorange": "reversed"})
        found["confusion"].update_layout(xaxis_title_text="predicted" if is_square else "", yaxis_title_text="gold")
    if task.family != "tagging":
        x, y = ("predicted score", "gold score") if is_score else ("predicted probability", "share that is right")
        found["calibration"] = of_parts("Calibration", y, _calibration, xaxis_title_text=x)
    for name, gold in (("scatter", "x"), ("calibration", "y")):
        if name in found:
            top = max((0.0, *(value for trace in found[name].data for value in trace[gold]))) if is_score else 1
            line = {"color": QUIET, "dash": "dot", "width": 1}
            found[name].add_shape(type="line", x0=0, y0=0, x1=top, y1=top, line=line)
    found |= {"tuning": tuning(searches)} if searches else {}
    found |= {"checkpoints": along(checkpoints, "Score by checkpoint", "step")} if checkpoints else {}
    share = "share of the training data"
    return found | ({"learning": along(learning, "Learning curve", share)} if learning else {})


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
        middle.marker.symbol = symbol(part.row)
        middle.line = {"dash": "dot" if name == "train_loss" else "solid", "width": 2}
        middle.customdata = [len(values[epoch]) for epoch in epochs]
        middle.hovertemplate = f"%{{y:.4~r}} ({name.replace('_', ' ')}, epoch %{{x}}, %{{customdata}} seeds)"
        if values:
            traces += [go.Scatter(**common, **hidden, y=low), go.Scatter(**common, **hidden, **band, y=high), middle]
    return traces


def along(found: Sequence[Series], title: str, number: str) -> go.Figure:
    """Scores of series against their numbers; traces without `meta`, which are shown whatever models are chosen."""
    axes = {"xaxis_title_text": number, "xaxis_rangemode": "tozero", "yaxis_autorangeoptions": SCORE}
    made, called = figure(title, [], "score", **axes), names(one.name for one in found)
    for place, one in enumerate(found):
        for split, dash in (("test", "solid"), ("dev", "dot")):
            points = [(point.at, point.test if split == "test" else point.dev) for point in one.points]
            points = [(at, scores) for at, scores in points if scores]
            line = go.Scatter(name=f"{called[one.name]}, {split}", mode="lines+markers")
            line.x, line.y = [x for x, _ in points], _short(100 * statistics.fmean(scores) for _, scores in points)
            line.line = {"dash": dash, "color": COLORS[place % len(COLORS)]}
            spread = [100 * statistics.stdev(scores) if len(scores) > 1 else 0.0 for _, scores in points]
            line.error_y = {"array": _short(spread), "thickness": 1, "width": 2}
            line.customdata = [len(scores) for _, scores in points]
            line.hovertemplate = f"%{{y:.2f}} at {number} %{{x}}, mean of %{{customdata}} seeds"
            made.add_traces([line] if points else [])
    return made


def _losses(part: Part) -> list[go.Scatter]:
    return curves(part, "train_loss", "dev_loss")


def tuning(searches: Sequence[Trials]) -> go.Figure:
    """Dev score of each trial against the setting with most values, the learning rate among equals; a line for each
    choice of the others."""
    tried = [values for search in searches for values, _ in search.trials]
    distinct: dict[str, dict[str, Any]] = {name: {} for name in sorted({*itertools.chain(*tried)})}
    for values in tried:
        for name, value in values.items():
            distinct[name][str(value)] = value  # a list, as a file may hold one, is no key
    across = max(distinct, key=lambda name: (len(distinct[name]), name == "learning_rate"))
    numbers = sorted(value for value in distinct[across].values() if isinstance(value, int | float) and value > 0)
    is_number = len(numbers) == len(distinct[across])
    axis: dict[str, Any] = {"title_text": SETTINGS.get(across, across), "type": "log" if is_number else "category"}
    if is_number and len(numbers) <= MOST_TICKS:
        axis |= {"tickvals": numbers, "ticktext": [f"{value:g}" for value in numbers]}
    made = figure("Dev score by searched settings", [], "dev score", xaxis=axis, yaxis_autorangeoptions=SCORE)
    rests = dict.fromkeys(_rest(values, across) for values in tried)
    for search in searches:
        color = COLORS[search.row % len(COLORS)]
        for place, rest in enumerate(rests):
            mine = [(v[across], scores) for v, scores in search.trials if across in v and _rest(v, across) == rest]
            mine.sort(key=lambda point: (float(point[0]), "") if is_number else (0.0, str(point[0])))
            line = go.Scatter(name=", ".join(filter(None, (search.label, *rest))), meta=search.row, marker_color=color)
            line.x = [x if is_number else str(x) for x, _ in mine]
            line.y = _short(100 * statistics.fmean(scores) for _, scores in mine)
            line.line, line.mode = {"dash": DASHES[place % len(DASHES)]}, "lines+markers"
            spread = [100 * statistics.stdev(scores) if len(scores) > 1 else 0.0 for _, scores in mine]
            line.error_y = {"array": _short(spread), "thickness": 1, "width": 2}
            line.customdata = [len(scores) for _, scores in mine]
            line.hovertemplate = "%{y:.2f} at %{x}, mean of %{customdata}"
            made.add_traces([line] if mine else [])
        for values, scores in search.trials:
            if values == search.chosen and across in values:
                star = {"color": color, "symbol": "star", "size": 16, "line": {"width": 1, "color": QUIET}}
                x = values[across] if is_number else str(values[across])
                point = {"x": [x], "y": [100 * statistics.fmean(scores)], "hoverinfo": "skip"}
                made.add_scatter(**point, marker=star, meta=search.row, showlegend=False)
    return made


def _rest(values: Mapping[str, Any], across: str) -> tuple[str, ...]:
    return tuple(plain(f"{SETTINGS.get(name, name)} {value}") for name, value in values.items() if name != across)


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
    bar = go.Bar(**part.style, x=[part.label], y=[statistics.fmean(found)], width=0.5, showlegend=False)
    bar.hovertemplate = f"%{{y:.4~r}} {what} ({len(found)} runs)<extra></extra>"
    return [bar]


def _class_bar(task: Task, part: Part) -> list[go.Bar]:
    by_class: dict[str, list[list[float]]] = {}  # label -> CLASS_VALUES of each seed
    for run in part.runs:
        for label, values in run.result.get("scores", {}).get("test", {}).get("per_class", {}).items():
            by_class.setdefault(label, []).append([values[key] * times for key, times in CLASS_VALUES.items()])
    titles = dict(zip(task.labels, task.label_titles or task.labels, strict=True))
    means = {label: np.mean(found, axis=0).tolist() for label, found in by_class.items()}
    bar = go.Bar(**part.style, x=[*map(plain, by_class)], y=[f1 for f1, *_ in means.values()])
    deviations = [statistics.stdev(f1 for f1, *_ in f) if len(f) > 1 else 0.0 for f in by_class.values()]
    bar.error_y = {"array": deviations, "thickness": 1, "width": 2, "color": QUIET}
    bar.customdata = [[plain(titles.get(label, label)), *rest] for label, (_, *rest) in means.items()]
    bar.hovertemplate = f"%{{customdata[0]}}: {CLASS_HOVER}"
    return [bar] if by_class else []


def _cells(part: Part) -> list[go.Heatmap]:
    """Counts summed over seeds; a colour says which share of its row a count is."""
    charts = [one.chart for one in part.answers if isinstance(one.chart, Confusion)]
    if not charts:
        return []
    counts = np.sum([chart.counts for chart in charts], axis=0)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    x, y = [*map(plain, charts[0].columns)], [*map(plain, charts[0].rows)]
    cells = go.Heatmap(name=part.label, meta=part.row, x=x, y=y, z=shares.tolist(), text=counts.tolist())
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


def confidence(task: Task, answers: Answers, claimed: np.ndarray) -> np.ndarray:
    """Probability [examples] of each answer, from those of the labels [examples, labels].

    In multilabel tasks that of its least certain label, given or not.
    """
    if task.family == "multilabel":
        given = np.array([prediction.value for prediction in answers.predictions], dtype=bool)
        return np.asarray(np.where(given, claimed, 1 - claimed).min(axis=1))
    number = {label: place for place, label in enumerate(task.labels)}
    return claimed[np.arange(len(claimed)), [number[prediction.value] for prediction in answers.predictions]]


def _bins(
    task: Task, answers: Answers, claimed: np.ndarray | None, chart: Confusion | Scatter | None
) -> np.ndarray | None:
    """Of a score, ten bins of equally many, lowest predicted first. Else ten of equal width: multiclass by probability
    of the answer, multilabel of each label. None where there are no probabilities."""
    if isinstance(chart, Scatter):
        pairs = np.array(sorted(zip(chart.predicted, chart.gold, strict=True)))
        parts = np.split(pairs, [len(pairs) * number // BINS for number in range(1, BINS)])
        return np.array([(len(part), *part.sum(axis=0)) for part in parts])
    if claimed is None:
        return None
    if task.family == "multilabel":
        true = np.array([example.label for example in answers.examples], dtype=float)
    else:
        claimed = confidence(task, answers, claimed)
        both = zip(answers.examples, answers.predictions, strict=True)
        true = np.array([example.label == prediction.value for example, prediction in both], dtype=float)
    number = np.minimum((claimed * BINS).astype(int), BINS - 1)
    return np.array([(np.sum(number == n), claimed[number == n].sum(), true[number == n].sum()) for n in range(BINS)])


def _short(values: Iterable[float]) -> list[float]:
    """Five significant digits: more than a screen shows, and half the size of the page."""
    return [float(f"{value:.5g}") for value in values]

"""Runs to the table that goes into a paper: a row a model, a column a task, test scores over seeds."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tasks
from launch.jobs import suites
from launch.reporting.collect import Run

SMALL_DEV = 100  # examples, or positive ones: choosing by fewer is close to choosing by noise
MARKS = {  # letter after a score -> what it says
    "d": "dev was trained on (as the published recipe does): its score says little",
    "t": f"tiny dev set: fewer than {SMALL_DEV} examples, or positive ones; what was chosen by it was chosen by noise",
    "s": "seeds are missing that other tasks of the row have",
    "u": "unfinished, failed or unreadable runs are left out",
    "x": "its runs differ in examples per step, data folder or selected epoch",
    "r": "repeated: several runs of one seed; the newest counts",
}


@dataclass(frozen=True)
class Cell:
    """Test scores of one model on one task, as fractions."""

    runs: Mapping[int, Run]  # by seed
    marks: str = ""  # letters of MARKS

    @property
    def scores(self) -> list[float]:
        return [score for _, run in sorted(self.runs.items()) if (score := run.test_score) is not None]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None for one seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


@dataclass(frozen=True)
class Total:
    """Mean of the scores of the ten tasks, never of custom ones.

    `std` is that of the seeds' own totals, where every task has the same seeds.
    """

    mean: float
    std: float | None
    marks: str = ""


@dataclass(frozen=True)
class Row:
    """One model under one choice of settings."""

    label: str
    cells: Mapping[str, Cell]  # by task; a task without a counted run is not there
    total: Total | None  # None unless all ten tasks are there

    def value(self, column: str) -> Cell | Total | None:
        """Of a task, or "total"; None where the row has none."""
        return self.total if column == "total" else self.cells.get(column)

    @property
    def seeds(self) -> list[int]:
        """Of the ten tasks, where it has any of them."""
        of_ten = [cell for task, cell in self.cells.items() if task in tasks.TASKS]
        return sorted({seed for cell in of_ten or self.cells.values() for seed in cell.runs})


@dataclass(frozen=True)
class Leaderboard:
    """Rows by total, then by label; rows without a total last."""

    rows: Sequence[Row]
    left_out: Sequence[tuple[Run, str]] = ()  # every run that is not in a cell, and why
    best: Mapping[str, float] = field(default_factory=dict)  # task or "total" -> best mean as printed, times 100
    own: Mapping[str, str] = field(default_factory=dict)  # custom tasks that have a score -> title
    missing: Sequence[str] = ()  # lines on runs of the same suites that were never started, see launch/jobs/suites.py

    @property
    def columns(self) -> dict[str, str]:
        """Names and titles: the total, the ten tasks, then the custom ones, which are in no total."""
        return {"total": "Total", **{task: known.title for task, known in tasks.TASKS.items()}, **self.own}

    def is_best(self, column: str, mean: float) -> bool:
        """Whether a fraction prints as the best one of its column."""
        return bool(self.rows) and printed(mean) == self.best.get(column)

    @property
    def marks(self) -> dict[str, str]:
        """The letters that occur, with their meaning."""
        used = {mark for row in self.rows for cell in (*row.cells.values(), row.total) if cell for mark in cell.marks}
        return {mark: text for mark, text in MARKS.items() if mark in used}


def printed(fraction: float) -> float:
    """Times 100, to the one decimal that tables show."""
    return round(100 * fraction, 1)


def build(runs: Sequence[Run]) -> Leaderboard:
    """Sample data, unfinished and broken runs never count; each is in `left_out`."""
    left_out = [(run, _why_not(run)) for run in runs if not run.is_counted]
    labels = row_labels(runs)
    by_cell: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for run in runs:
        if run.is_counted:
            by_cell.setdefault(run.row, {}).setdefault(run.task, []).append(run)
    uncounted = Counter((run.row, run.task) for run in runs if not run.is_counted and run.data == "given" and run.task)
    own = {run.task: run.title for run in sorted(runs, key=lambda run: run.task) if run.is_counted and run.is_own}
    rows = []
    for key, cells in by_cell.items():
        newest = {task: _newest(group, left_out) for task, group in cells.items()}
        seeds = {seed for task, group in newest.items() if task in tasks.TASKS for seed in group}
        built = {
            task: Cell(newest[task], _marks(cells[task], newest[task], seeds, uncounted[key, task]))
            for task in (*tasks.TASKS, *own)
            if task in newest
        }
        rows.append(Row(labels[key], built, _total(built)))
    rows.sort(key=lambda row: (row.total is None, -row.total.mean if row.total else 0.0, row.label))
    return Leaderboard(rows, left_out, _best(rows), own, suites.left_out_notes([run.folder for run in runs]))


def row_labels(runs: Sequence[Run]) -> dict[tuple[str, str], str]:
    """Name of each row: the model without its path where that is enough, and the settings that set it apart."""
    short: Callable[[str], str] = lambda model: model.rstrip("/").rsplit("/", 1)[-1]  # noqa: E731
    models = {run.model for run in runs if run.model}
    count = Counter(map(short, models))
    names = {model: short(model) if count[short(model)] == 1 else model for model in models}
    return {run.row: names[run.model] + (f" [{run.variant}]" if run.variant else "") for run in runs if run.model}


def _why_not(run: Run) -> str:
    if run.data == "sample":
        return "SAMPLE DATA: made-up text, its scores mean nothing"
    if run.status == "finished":
        return "test was not predicted"
    return f"{run.status}: {run.reason}"


def _newest(group: Sequence[Run], left_out: list[tuple[Run, str]]) -> dict[int, Run]:
    found: dict[int, Run] = {}
    for run in sorted(group, key=lambda run: ((run.folder / "result.json").stat().st_mtime, str(run.folder))):
        if run.seed in found:
            left_out.append((found[run.seed], f"seed {run.seed} was run again in {run.folder}"))
        found[run.seed] = run
    return found


def _marks(group: Sequence[Run], kept: Mapping[int, Run], seeds: set[int], uncounted: int) -> str:
    runs = list(kept.values())
    applies_to = {
        "d": any(run.result.get("dev_was_trained_on") for run in runs),
        "t": any(is_small_dev(run) for run in runs),
        "s": set(kept) < seeds,
        "u": uncounted > 0,
        "x": len({_circumstances(run) for run in runs}) > 1,
        "r": len(group) > len(kept),
    }
    return "".join(mark for mark, applies in applies_to.items() if applies)


def is_small_dev(run: Run) -> bool:
    """Fewer than SMALL_DEV examples, or of them positive ones, in dev; False where dev was never scored."""
    dev: Mapping[str, Any] | None = run.result.get("scores", {}).get("dev")
    if dev is None:
        return False
    positive = dev["TP"] + dev["FN"] if {"TP", "FN"} <= dev.keys() else dev["examples"]
    return bool(min(positive, dev["examples"]) < SMALL_DEV)


def _circumstances(run: Run) -> tuple[Any, ...]:
    assert run.config is not None
    test = run.result["scores"]["test"]
    return run.result.get("examples_per_step"), run.config.data_dir, run.result.get("selected"), test.get("examples")


def _total(cells: Mapping[str, Cell]) -> Total | None:
    if not set(tasks.TASKS) <= set(cells):
        return None
    cells = {task: cells[task] for task in tasks.TASKS}
    mean = statistics.fmean(cell.mean for cell in cells.values())
    marks = "".join(mark for mark in "sux" if any(mark in cell.marks for cell in cells.values()))
    if len({frozenset(cell.runs) for cell in cells.values()}) > 1:
        return Total(mean, None, marks)
    totals = [statistics.fmean(scores) for scores in zip(*(cell.scores for cell in cells.values()), strict=True)]
    return Total(mean, statistics.stdev(totals) if len(totals) > 1 else None, marks)


def _best(rows: Sequence[Row]) -> dict[str, float]:
    best: dict[str, float] = {}
    for row in rows:
        means = {task: cell.mean for task, cell in row.cells.items()} | ({"total": row.total.mean} if row.total else {})
        for column, mean in means.items():
            best[column] = max(best.get(column, -1000.0), printed(mean))
    return best

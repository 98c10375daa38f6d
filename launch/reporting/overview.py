"""The overview of the searches for settings, as in the original's table: what was chosen by dev, and what it scores.

Runs on sample data have tables of their own, marked as such in the title; no leaderboard ever has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table as RichTable

from launch.reporting import searches, tables
from launch.reporting.collect import SAMPLE, Run
from launch.reporting.leaderboard import row_labels
from launch.reporting.searches import Search

TITLES = {"learning_rate": "learning rate", "num_train_epochs": "epochs"}  # of settings; others by their names
CAPTION = "Scores times 100, mean (standard deviation) over seeds; settings were chosen by the mean dev score alone."
CSV_HEAD = ("dev", "dev_scores", "test", "test_std", "seeds", "trials", "device_hours", "sampler", "space", "remarks")


@dataclass(frozen=True)
class Table:
    """In plain text. The first `left` columns are text, the others numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int
    notes: Sequence[str] = ()


def build(runs: Sequence[Run]) -> list[Table]:
    """The overview, then a table of values against dev score for each sweep; those of sample data last."""
    labels, found = row_labels(runs), searches.find(runs)
    made = []
    for data, title in (("given", ""), ("sample", f" on {SAMPLE}: made-up text, its scores mean nothing")):
        of_data = [one for one in found if one.run.data == data]
        if of_data:
            made.append(_overview(of_data, [labels[one.run.row] for one in of_data], f"Searches for settings{title}"))
        for one in of_data:
            if one.kind == "sweep":
                made.append(_points(one, f"Sweep: {one.run.title}, {labels[one.run.row]}{title}"))
    return made


def _overview(found: Sequence[Search], labels: Sequence[str], title: str) -> Table:
    names = list(dict.fromkeys(name for one in found for name in one.space or one.values))
    rows: list[list[str]] = []
    notes: dict[str, dict[str, list[str]]] = {}  # note -> task -> models that it is about
    for one, label in zip(found, labels, strict=True):
        values = [_text(one.values.get(name, tables.NOTHING)) for name in names]
        decimals = 2 if (one.device_hours or 0.0) > 0.1 else 4
        hours = tables.NOTHING if one.device_hours is None else f"{one.device_hours:.{decimals}f}"
        numbers = [_mean([one.dev] if one.dev is not None else []), _mean(one.test), str(len(one.test))]
        task = one.run.title + (f" ({SAMPLE})" if one.run.data == "sample" else "")  # also where a row is copied
        rows.append([task, label, *values, *numbers, str(one.trials), hours, one.sampler])
        for note in (f"searched ({one.sampler}): {_space(one.space)}", *one.remarks):
            notes.setdefault(note, {}).setdefault(one.run.title, []).append(label)
    head = ["task", "model", *(TITLES.get(name, name) for name in names)]
    head += ["dev", "test", "seeds", "trials", "device hours", "sampler"]
    models = Counter(one.run.title for one in found)
    lines = []
    for note, whose in notes.items():
        about = [task + ("" if len(of) == models[task] else f" ({', '.join(of)})") for task, of in whose.items()]
        lines.append(f"{', '.join(about)}: {note}")
    return Table(title, head, rows, 2, lines)


def _points(found: Search, title: str) -> Table:
    """Best first: the first one was chosen. Never with a test score."""
    head = [*(TITLES.get(name, name) for name in found.space), "dev", "seeds"]
    rows = []
    for point in found.tried:
        values = [_text(point.values.get(name, tables.NOTHING)) for name in found.space]
        rows.append([*values, _mean(point.dev), str(len(point.dev))])
    return Table(title, head, rows, 0, found.remarks)


def _mean(scores: Sequence[float]) -> str:
    if not scores:
        return tables.NOTHING
    return tables.cell(fmean(scores), stdev(scores) if len(scores) > 1 else None)


def _space(space: Mapping[str, Sequence[Any]]) -> str:
    return "; ".join(f"{TITLES.get(name, name)} {', '.join(map(_text, values))}" for name, values in space.items())


def _text(value: Any) -> str:
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


# ---- forms
def terminal(made: Table) -> Group:
    """For rich; narrow: without lines between the columns, and the overview as a table a model."""
    models: dict[str, list[Sequence[str]]] = {}
    is_overview = made.left == 2
    for row in made.rows:
        models.setdefault(row[1] if is_overview else "", []).append([row[0], *row[2:]] if is_overview else row)
    parts: list[str | RichTable] = [made.title]
    for model, rows in models.items():
        table = RichTable(title=model or None, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
        for place, name in enumerate([made.head[0], *made.head[2:]] if is_overview else made.head):
            table.add_column(name, justify="left" if place < made.left - 1 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        parts.append(table)
    return Group(*parts)


def markdown(made: Sequence[Table]) -> str:
    """Each under a heading, with its notes below."""
    parts = []
    for one in made:
        rows = [[*map(tables.plain, row)] for row in one.rows]
        text = (
            f"## {tables.plain(one.title)}\n\n{tables.markdown_table([*map(tables.plain, one.head)], rows, one.left)}"
        )
        parts.append(text + f"\n{CAPTION}\n" + "".join(f"\n- {tables.plain(note)}" for note in one.notes) + "\n")
    return "\n".join(parts)


def latex(made: Sequence[Table]) -> str:
    """Each a `table` with booktabs rules (\\usepackage{booktabs}); the notes are in its caption."""
    lines = [r"% \usepackage{booktabs}"]
    for one in made:
        rows = [" & ".join(map(tables.tex, row)) for row in one.rows]
        caption = ". ".join([one.title, CAPTION.rstrip("."), *one.notes]) + "."
        layout = "l" * one.left + "r" * (len(one.head) - one.left)
        kind = "table*" if one.left else "table"
        lines += tables.tex_table(kind, layout, [*map(tables.tex, one.head)], [rows], caption)
    return "\n".join(lines) + "\n"


def comma_separated(runs: Sequence[Run]) -> str:
    """A line a search (`kind` chosen or sweep), then one for each combination that was tried; fractions."""
    labels, found = row_labels(runs), searches.find(runs)
    names = list(dict.fromkeys(name for one in found for name in one.space or one.values))
    lines: list[list[Any]] = [["kind", "data", "task", "model", *names, *CSV_HEAD]]
    for one in found:
        head = [SAMPLE if one.run.data == "sample" else "given", one.run.task, labels[one.run.row]]
        test = [fmean(one.test) if one.test else "", stdev(one.test) if len(one.test) > 1 else ""]
        seeds = " ".join(str(run.seed) for run in one.runs)
        cost = [one.trials, "" if one.device_hours is None else one.device_hours, one.sampler, _space(one.space)]
        dev = "" if one.dev is None else one.dev
        values = [one.values.get(name, "") for name in names]
        lines.append([one.kind, *head, *values, dev, "", *test, seeds, *cost, "; ".join(one.remarks)])
        for point in one.tried:
            values, scores = [point.values.get(name, "") for name in names], " ".join(map(repr, point.dev))
            mean = fmean(point.dev) if point.dev else ""  # it failed
            lines.append(["tried", *head, *values, mean, scores, *[""] * (len(CSV_HEAD) - 2)])
    return tables.csv_text(lines)

"""report.html: one file that needs no network. Tables are made here, charts drawn in the reader's browser.

A Content-Security-Policy in it forbids every connection, so that nothing of a report can leave the machine by it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import tasks
from harness import versions
from launch.reporting import charts, collect, error_browser, statistics, tables
from launch.reporting.charts import Answered
from launch.reporting.collect import Run
from launch.reporting.leaderboard import Leaderboard, is_small_dev, row_labels
from launch.reporting.statistics import Test
from launch.run.settings import SAMPLE_BANNER
from tasks import published
from tasks.predictions import Answers

ASSETS = Path(__file__).parent / "assets"
SAMPLE = "SAMPLE DATA"
CHARTS = (  # name, title, caption
    ("score", "Dev score by epoch", "mean over seeds; the band is lowest to highest"),
    ("loss", "Loss by epoch", "training dotted, dev solid"),
    ("test", "Test score", "each dot a seed"),
    ("classes", "Test F1 by class", "mean over seeds, bars of one standard deviation"),
    ("confusion", "Confusion matrix", "test, summed over seeds"),
    ("scatter", "Gold against predicted", "test, first seed"),
    ("calibration", "Calibration", "test, all seeds; in brackets the mean distance from the diagonal"),
    ("rate", "Throughput", "training examples a second, median of each run"),
    ("hours", "Cost", "device hours of a run"),
)


@dataclass(frozen=True)
class Report:
    """Everything that a page is made of."""

    runs: Sequence[Run]
    board: Leaderboard
    tests: Sequence[Test] = ()
    baseline: str = ""
    with_text: bool = False


def build(report: Report) -> str:
    """The whole page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    names = _row_names(report.runs)
    data = {"rows": list(names.values()), "tasks": _tasks(report, list(names))}
    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined)
    environment.filters["score"] = lambda value: "" if value is None else f"{100 * value:.1f}"
    return environment.get_template(
        "page.html.j2"
    ).render(
        plotly=re.sub(r"</(?=script)", r"<\\/", get_plotlyjs(), flags=re.I),
        # It stands in a script element; NaN and infinity become null.
        data=json.dumps(_finite(data), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        assets={
            name: (ASSETS / name).read_text(encoding="utf-8")
            for name in ("page.css", "tables.js", "charts.js", "browser.js")
        },
        board=_board(report),
        columns=list(report.board.columns),
        titles=report.board.columns,
        charts=CHARTS,
        tests=_tests(report),
        baseline=report.baseline,
        method=statistics.METHOD,
        significant=tables.SIGNIFICANT,
        marks=report.board.marks,
        notes=tables.notes(report.board)[len(report.board.marks) :],  # the marks stand below the table
        caption=tables.caption(report.board),
        source=published.SOURCE,
        runs=[_run(run) for run in report.runs],
        statuses=sorted({run.status for run in report.runs}),
        cards=_cards(report),
        sample=SAMPLE_BANNER if any(run.data == "sample" for run in report.runs) else "",
        with_text=report.with_text,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        commit=(versions.commit() or "unknown")[:12],
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _row_names(runs: Sequence[Run]) -> dict[tuple[tuple[str, str], str], str]:
    """(row of the leaderboard, kind of data) -> name on the page, in order of name."""
    labels = row_labels(runs)
    names = {(run.row, run.data): labels[run.row] for run in runs if run.model}
    named = {key: name + (f" ({SAMPLE})" if key[1] == "sample" else "") for key, name in names.items()}
    return dict(sorted(named.items(), key=lambda item: item[1]))


# ---- tasks
def _tasks(report: Report, rows: list[tuple[tuple[str, str], str]]) -> list[dict[str, Any]]:
    """One entry a task and kind of data; runs on sample data stay apart."""
    found = []
    known = {**tasks.TASKS, **{run.task: run.definition for run in report.runs if run.is_own}}
    for data in ("given", "sample"):
        for name, task in known.items():
            mine = [run for run in report.runs if run.task == name and run.data == data]
            if not mine:
                continue
            kept: list[tuple[int, Answered]] = []
            parts = []
            for number, row in enumerate(rows):
                of_row = sorted((run for run in mine if (run.row, run.data) == row), key=lambda run: run.seed)
                if of_row:
                    answers = _answers(of_row)
                    parts.append({"row": number, **charts.of_row(of_row, answers)})
                    kept += [(number, one) for one in answers[:1]]
            found.append(
                {
                    "name": name,
                    "title": mine[0].title + (f" ({SAMPLE})" if data == "sample" else ""),
                    "family": task.family,
                    "labels": task.labels,
                    "names": task.label_titles or task.labels,
                    "metric": next(
                        (r.result["scores"]["test"]["metric"] for r in mine if r.test_score is not None), ""
                    ),
                    "rows": parts,
                    "errors": error_browser.of_task(task, kept, report.with_text),
                }
            )
    return found


def _answers(runs: Sequence[Run]) -> list[Answered]:
    """Test predictions of the finished runs. Only the first keeps its answers: all of them would fill the memory."""
    found: list[Answered] = []
    for run in runs:
        if run.is_scored:
            one = charts.answered(run)
            found.append(replace(one, answers=Answers(run.folder, [], [], [])) if found else one)
    return found


# ---- tables
def _board(report: Report) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for row in report.board.rows:
        cells: list[dict[str, Any] | None] = []
        for column in report.board.columns:
            found = tables.numbers(row, column)
            value = row.value(column)
            if found is None or value is None:
                cells.append(None)
                continue
            best = report.board.is_best(column, value.mean)
            cells.append({"text": found[0], "marks": found[1], "count": found[2], "value": value.mean, "best": best})
        rows.append({"name": row.label, "kind": "ours", "seeds": len(row.seeds), "cells": cells})
    for title, scores in published.ROWS.items():
        means = [scores.get(column) for column in report.board.columns]
        beside = [
            None
            if one is None
            else {
                "text": tables.beside(one),
                "marks": "",
                "count": "",
                "value": one.mean / 100,
                "best": False,
            }
            for one in means
        ]
        rows.append({"name": title, "kind": "published", "seeds": published.SEEDS, "cells": beside})
    return rows


def _tests(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "row": test.row,
            "task": report.board.columns[test.task],
            "difference": tables.difference(test),
            "p": tables.p_value(test),
            "value": test.difference,
            "sort": test.p,
            "remark": test.remark,
        }
        for test in report.tests
    ]


def _run(run: Run) -> dict[str, Any]:
    remarks = [run.reason] if run.reason else []
    remarks += ["tiny dev set"] if is_small_dev(run) else []
    remarks += ["dev was trained on"] if run.result.get("dev_was_trained_on") else []
    return {
        "task": run.title,
        "model": run.model.rstrip("/").rsplit("/", 1)[-1] or run.folder.name,
        "variant": run.variant,
        "seed": run.seed if run.task else None,
        "status": run.status,
        "is_sample": run.data == "sample",
        "test": run.test_score,
        "dev": run.score("dev"),
        "epochs": run.epochs[-1]["epoch"] if run.epochs else None,
        "rate": run.rates.get("examples"),
        "hours": run.device_hours,
        "precision": run.result.get("precision", ""),
        "folder": str(run.folder),
        "link": run.folder.absolute().as_uri(),
        "command": collect.command(run) if run.config is not None else "",
        "remark": "; ".join(remarks),
    }


def _cards(report: Report) -> list[tuple[str, str]]:
    finished = [run for run in report.runs if run.status == "finished"]
    hours = sum(run.device_hours or 0.0 for run in finished)
    return [
        (f"{len(finished)} / {len(report.runs)}", "runs finished"),
        (str(len({run.task for run in finished})), "tasks"),
        (str(len({run.model for run in finished})), "models"),
        (f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}", "device hours"),
    ]

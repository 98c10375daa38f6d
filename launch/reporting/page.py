"""report.html: one file that needs no network. Tables and Plotly figures are made here, drawn in the reader's browser.

A Content-Security-Policy in it forbids every connection, so that nothing of a report can leave the machine by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

import tasks
from harness import versions
from harness.errors import UserError
from harness.task import Task
from launch.jobs.suites import natural
from launch.reporting import (
    board_charts,
    charts,
    collect,
    intervals,
    leaderboard,
    overview,
    searches,
    series,
    statistics,
    tables,
)
from launch.reporting.charts import Answered, Part, Trials
from launch.reporting.collect import SAMPLE, RowKey, Run
from launch.reporting.leaderboard import Leaderboard, is_small_dev
from launch.reporting.series import Series
from launch.reporting.statistics import Test
from launch.run import inputs
from launch.run.settings import SAMPLE_BANNER
from tasks import predictions, published
from tasks.predictions import Answers
from tasks.tagging import whole_sentences

ASSETS = Path(__file__).parent / "assets"
# One of the runs, (settings, dev scores) of each trial, and the chosen settings.
Searched = tuple[Run, Sequence[tuple[Mapping[str, Any], Sequence[float]]], Mapping[str, Any] | None]
MOST_ROWS = 2000  # examples of a task in the error browser
MOST_CHARACTERS = 750_000  # of a task's answers to a split in it: what keeps the page of 500 runs small


def build(runs: Sequence[Run], board: Leaderboard, tests: Sequence[Test], baseline: str, with_text: bool) -> str:
    """The whole page. `tests`: against the row that is called `baseline`; `with_text`: it may hold the examples' texts.

    Runs on sample data stay apart, as rows of their own.
    """
    labels, tried = leaderboard.row_labels(runs), searched(runs)
    of_rows = searches.of_rows(runs)  # no trials
    with_name = [run for run in (*of_rows, *(run for run, *_ in tried)) if run.model]
    names = {(run.row, run.data): labels[run.row] for run in with_name}
    names = {key: f"{name} ({SAMPLE})" if key[1] == "sample" else name for key, name in names.items()}
    rows = {key: number for number, key in enumerate(sorted(names, key=lambda key: natural(names[key])))}
    numbers = {label: rows[key, "given"] for key, label in labels.items() if (key, "given") in rows}
    called = charts.names(names.values())
    numbered = {key: (number, called[names[key]]) for key, number in rows.items()}
    ours, theirs = (
        {name: title for name, title in board.columns.items() if any(name in row.cells for row in of)}
        for of in (board.rows, board.references)
    )
    columns = {**ours, **theirs}  # those without a run of ours last
    along = series.checkpoints(runs), series.learning_curves(runs)  # of a sweep every point
    data = {
        "rows": [names[key] for key in rows],
        "colors": [charts.COLORS[number % len(charts.COLORS)] for number in rows.values()],
        "themes": charts.themes(),
        "board": board_charts.of_board(board, ours or theirs, numbers),
        "differences": board_charts.of_differences(board, ours, tests, baseline),
        "csv": [tables.FORMULA.pattern, tables.NUMBER.pattern],
        "tasks": [*_tasks(of_rows, numbered, tried, along, with_text)],
    }
    finished = [run for run in runs if run.status == "finished"]
    hours = sum(run.device_hours or 0.0 for run in finished)
    cards = {
        "runs finished": f"{len(finished)} / {len(runs)}",
        "tasks": len({run.task for run in finished}),
        "models": len({run.model for run in finished}),
        "device hours": f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}",
    }
    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined)
    template = environment.get_template("page.html.j2")
    modules = {"tables": tables, "charts": charts, "intervals": intervals, "published": published}
    return template.render(
        **modules,
        plotly=re.sub(r"</(?=script)", r"<\\/", get_plotlyjs(), flags=re.I),
        data=to_json_plotly(data, engine="json"),  # `<` becomes \u003c; NaN and infinity become null
        assets={name: (ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")},
        board=board,
        columns=columns,
        rows={"ours": board.rows, "ensemble": board.ensembles, "published": board.references},
        searched=overview.build(runs),
        overview=overview,
        tests=[(test, *tables.test_cells(board, test)) for test in tests],
        baseline=baseline,
        ranges=tables.interval_cells(board, tables.Form(str), " to "),
        method=statistics.method(tests),
        notes={kind: lines for kind, lines in tables.grouped_notes(board).items() if kind != "marks"},
        runs=[(run, _remark(run), collect.command(run) if run.config is not None else "") for run in runs],
        statuses=sorted({run.status for run in runs}),
        cards=cards,
        sample=SAMPLE_BANNER if any(run.data == "sample" for run in runs) else "",
        with_text=with_text,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        commit=(versions.commit() or "unknown")[:12],
    )


def _remark(run: Run) -> str:
    remarks = [run.reason, "tiny dev set" if is_small_dev(run) else ""]
    remarks += ["dev was trained on" if run.result.get("dev_was_trained_on") else ""]
    return "; ".join(filter(None, remarks))


def searched(runs: Sequence[Run]) -> list[Searched]:
    """The searches for settings, those that have not chosen any yet among them."""
    found: list[Searched] = []
    for one in searches.find(runs):
        points = [(point.values, point.dev) for point in one.tried if point.dev]  # a failed trial has no score
        found += [(one.run, points, one.values)] if points else []
    decided = {(run.data, run.task, run.model) for run, *_ in found}
    going: dict[tuple[str, str, str], dict[str, list[Run]]] = {}
    for run in runs:
        key = (run.data, run.task, run.model)
        if run.search.get("kind") == "trial" and run.score("dev") is not None and key not in decided:
            going.setdefault(key, {}).setdefault(str(run.search["values"]), []).append(run)
    for by_values in going.values():
        dev = [(of[0].search["values"], [run.score("dev") or 0.0 for run in of]) for of in by_values.values()]
        found.append((next(iter(by_values.values()))[0], dev, None))
    return found


def _tasks(
    runs: Sequence[Run],
    rows: Mapping[tuple[RowKey, str], tuple[int, str]],
    tried: Sequence[Searched],
    along: Sequence[Sequence[Series]],
    with_text: bool,
) -> Iterator[dict[str, Any]]:
    """One entry a task and kind of data that have results.

    `rows`: (row of the leaderboard, kind of data) -> its number and name in charts. `along`: checkpoints by their
    steps, and learning curves.
    """
    known = {**tasks.TASKS, **{run.task: run.definition for run in runs if run.has_own_column and run.definition}}
    for data in ("given", "sample"):
        for name, task in known.items():
            mine = [run for run in runs if run.task == name and run.data == data]
            of_search = [one for one in tried if (one[0].task, one[0].data) == (name, data)]
            if not of_search and not any(run.result or run.epochs for run in mine):
                continue
            trials = [Trials(*rows[run.row, data], points, chosen) for run, points, chosen in of_search]
            parts, of_dev = [], []
            for key, (number, label) in rows.items():
                of_row = sorted((run for run in mine if (run.row, data) == key), key=lambda run: run.seed)
                scored = [run for run in of_row if run.is_scored]
                answers = [charts.answered(run, is_kept=run is scored[0]) for run in scored]
                parts += [Part(number, label, of_row, answers)] if of_row else []
                with_dev = [run for run in of_row if run.score("dev") is not None][:1]
                of_dev += [(number, charts.answered(run, "dev")) for run in with_dev]
            of_test = [(part.row, one) for part in parts for one in part.answers[:1]]
            metric = next((run.result["scores"]["test"]["metric"] for run in mine if run.test_score is not None), "?")
            line = [f"{task.family}, scored by {metric}; {len({(run.row, run.seed) for run in mine})} runs"]
            line += [f"{one.run.folder}: {one.remark}" for part in parts for one in part.answers if one.remark]
            yield {
                "title": (mine or [of_search[0][0]])[0].title + (f" ({SAMPLE})" if data == "sample" else ""),
                "line": ". ".join(line),
                "family": task.family,
                "labels": task.labels,
                "names": task.label_titles or task.labels,
                "rows": [part.row for part in parts],
                "figures": charts.of_task(
                    task,
                    parts,
                    trials,
                    *([one for one in found if (one.run.task, one.run.data) == (name, data)] for found in along),
                ),
                "errors": {
                    split: found
                    for split, of_split in (("test", of_test), ("dev", of_dev))
                    if (found := errors(task, split, of_split, with_text))["models"]
                },
            }


# ---- error browser
def errors(task: Task, split: str, answered: Sequence[tuple[int, Answered]], with_text: bool) -> dict[str, Any]:
    """Gold against predicted of one run a model: `answered` has (number of its row on the page, what it answered).

    Examples that every model gets right are left out. Without texts nothing of an example leaves its data folder but
    its index and its labels; of a tagged sentence the tags.
    """
    usable = [(row, one, one.answers) for row, one in answered if one.answers is not None]
    if not usable:
        return {"models": []}
    first, answers = usable[0][1].run, usable[0][2]
    questions = [(example.id, example.label) for example in answers.examples]
    gold = [_coded(task, label) for _, label in questions]
    models: list[dict[str, Any]] = []
    remarks = ["dev was trained on"] if split == "dev" and first.result.get("dev_was_trained_on") else []
    for row, one, found in usable:
        if [(example.id, example.label) for example in found.examples] == questions:
            coded = [_coded(task, prediction.value) for prediction in found.predictions]
            sure = None if one.confidence is None else [round(float(p), 3) for p in one.confidence]
            models.append({"row": row, "seed": one.run.seed, "answers": coded, "sure": sure})
        else:
            remarks.append(f"{one.run.folder}: predictions of other data than {first.folder}, not shown")
    wrong = [i for i, label in enumerate(gold) if any(model["answers"][i] != label for model in models)]
    if task.family == "similarity":
        wrong = list(range(len(gold)))
    width = sum(len(str(gold[i])) + 3 for i in wrong) // max(1, len(wrong))
    width = max(1, width + 6 * any(model["sure"] for model in models))
    shown = wrong[: max(100, min(MOST_ROWS, MOST_CHARACTERS // (width * (1 + len(models)))))]
    for model in models:
        for name in ("answers", "sure"):
            model[name] = model[name] and [model[name][i] for i in shown]
    texts = None
    if with_text:
        try:
            texts = _texts(task, first, split, answers)
        except UserError as error:
            remarks.append(f"no texts: {error}")
    return {
        "models": models,
        "ids": [questions[i][0] for i in shown],
        "gold": [gold[i] for i in shown],
        "texts": None if texts is None else [texts[i] for i in shown],
        "total": len(gold),
        "wrong": len(wrong),
        "remarks": remarks,
    }


def _coded(task: Task, value: Any) -> Any:
    """Short: number of the label, tags as one string (blanks between those of several types), labels as a string of 0
    and 1, a score with three decimals."""
    if task.family == "multiclass":
        return task.labels.index(value)
    if task.family == "similarity":
        return round(float(value), 3) if value == value else None
    return (" " if task.family == "tagging" and "B" not in task.labels else "").join(map(str, value))


def _texts(task: Task, run: Run, split: str, answers: Answers) -> list[Sequence[str]]:
    """The texts of each example, or the words of each sentence. Raises UserError where they are not to be had."""
    assert run.config is not None, "a finished run has its settings"
    place = inputs.find_data(run.config)[0]
    examples = task.read(Path(place), split)
    predictions.check(task, answers, examples, place / task.filenames[split])
    if task.family == "tagging":
        examples = whole_sentences(examples)
    return [example.texts for example in examples]

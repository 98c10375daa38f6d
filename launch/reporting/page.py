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
from launch.reporting import charts, collect, intervals, leaderboard, searches, statistics, tables
from launch.reporting.charts import Answered, Part
from launch.reporting.collect import RowKey, Run
from launch.reporting.leaderboard import Leaderboard, is_small_dev
from launch.reporting.statistics import Test
from launch.run import inputs
from launch.run.settings import SAMPLE_BANNER
from tasks import predictions, published
from tasks.predictions import Answers
from tasks.tagging import whole_sentences

ASSETS = Path(__file__).parent / "assets"
SAMPLE = "SAMPLE DATA"
MOST_ROWS = 2000  # examples of a task in the error browser
MOST_CHARACTERS = 1_500_000  # of a task's answers in it: what keeps the page of 500 runs small


def build(runs: Sequence[Run], board: Leaderboard, tests: Sequence[Test], baseline: str, with_text: bool) -> str:
    """The whole page. `tests`: against the row that is called `baseline`; `with_text`: it may hold the examples' texts.

    Runs on sample data stay apart, as rows of their own.
    """
    labels = leaderboard.row_labels(runs)
    of_rows = searches.of_rows(runs)  # no trials
    names = {(run.row, run.data): labels[run.row] for run in of_rows if run.model}
    names = {key: f"{name} ({SAMPLE})" if key[1] == "sample" else name for key, name in names.items()}
    rows = {key: number for number, key in enumerate(sorted(names, key=lambda key: names[key]))}
    numbers = {label: rows[key, "given"] for key, label in labels.items() if (key, "given") in rows}
    data = {
        "rows": [names[key] for key in rows],
        "colors": [charts.COLORS[number % len(charts.COLORS)] for number in rows.values()],
        "themes": charts.themes(),
        "board": charts.of_board(board, numbers),
        "tasks": [*_tasks(of_rows, {key: (number, names[key]) for key, number in rows.items()}, with_text)],
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
        rows={"ours": board.rows, "ensemble": board.ensembles, "published": board.references},
        tests=[(test, *tables.test_cells(board, test)) for test in tests],
        baseline=baseline,
        method=statistics.method(tests),
        notes=tables.notes(board)[len(board.marks) :],  # the marks stand below the table
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


def _tasks(
    runs: Sequence[Run], rows: Mapping[tuple[RowKey, str], tuple[int, str]], with_text: bool
) -> Iterator[dict[str, Any]]:
    """One entry a task and kind of data. `rows`: (row of the leaderboard, kind of data) -> its number and name here."""
    known = {**tasks.TASKS, **{run.task: run.definition for run in runs if run.is_own and run.definition}}
    for data in ("given", "sample"):
        for name, task in known.items():
            mine = [run for run in runs if run.task == name and run.data == data]
            if not mine:
                continue
            parts = []
            for key, (number, label) in rows.items():
                of_row = sorted((run for run in mine if (run.row, run.data) == key), key=lambda run: run.seed)
                scored = [run for run in of_row if run.is_scored]
                answers = [charts.answered(run, is_kept=run is scored[0]) for run in scored]
                parts += [Part(number, label, of_row, answers)] if of_row else []
            metric = next((run.result["scores"]["test"]["metric"] for run in mine if run.test_score is not None), "?")
            line = [f"{task.family}, scored by {metric}; {len({(run.row, run.seed) for run in mine})} runs"]
            line += [f"{one.run.folder}: {one.remark}" for part in parts for one in part.answers if one.remark]
            yield {
                "title": mine[0].title + (f" ({SAMPLE})" if data == "sample" else ""),
                "line": ". ".join(line),
                "family": task.family,
                "labels": task.labels,
                "names": task.label_titles or task.labels,
                "rows": [part.row for part in parts],
                "figures": charts.of_task(task, parts),
                "errors": errors(task, [(part.row, one) for part in parts for one in part.answers[:1]], with_text),
            }


# ---- error browser
def errors(task: Task, answered: Sequence[tuple[int, Answered]], with_text: bool) -> dict[str, Any]:
    """Gold against predicted of one run a model: `answered` has (number of its row on the page, the run).

    Examples that every model gets right are left out. Without texts nothing of an example leaves its data folder but
    its index and its labels; of a tagged sentence the tags.
    """
    usable = [(row, one.run, one.answers) for row, one in answered if one.answers is not None]
    if not usable:
        return {"models": [], "ids": [], "gold": [], "total": 0, "wrong": 0, "remarks": []}
    _, first, answers = usable[0]
    questions = [(example.id, example.label) for example in answers.examples]
    gold = [_coded(task, label) for _, label in questions]
    models: list[dict[str, Any]] = []
    remarks = []
    for row, run, found in usable:
        if [(example.id, example.label) for example in found.examples] == questions:
            coded = [_coded(task, prediction.value) for prediction in found.predictions]
            models.append({"row": row, "seed": run.seed, "answers": coded})
        else:
            remarks.append(f"{run.folder}: predictions of other data than {first.folder}, not shown")
    wrong = [i for i, label in enumerate(gold) if any(model["answers"][i] != label for model in models)]
    if task.family == "similarity":
        wrong = list(range(len(gold)))
    width = max(1, sum(len(str(gold[i])) + 3 for i in wrong) // max(1, len(wrong)))
    shown = wrong[: max(100, min(MOST_ROWS, MOST_CHARACTERS // (width * (1 + len(models)))))]
    for model in models:
        model["answers"] = [model["answers"][i] for i in shown]
    texts = None
    if with_text:
        try:
            texts = _texts(task, first, answers)
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
    """Short: number of the label, tags as one string, labels as a string of 0 and 1, a score with three decimals."""
    if task.family == "multiclass":
        return task.labels.index(value)
    if task.family == "similarity":
        return round(float(value), 3) if value == value else None
    return "".join(map(str, value))


def _texts(task: Task, run: Run, answers: Answers) -> list[Sequence[str]]:
    """The texts of each example, or the words of each sentence. Raises UserError where they are not to be had."""
    assert run.config is not None, "a finished run has its settings"
    place = inputs.find_data(run.config)[0]
    examples = task.read(Path(place), "test")
    predictions.check(task, answers, examples, place / task.filenames["test"])
    if task.family == "tagging":
        examples = whole_sentences(examples)
    return [example.texts for example in examples]

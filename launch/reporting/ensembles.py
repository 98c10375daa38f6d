"""The seeds of a row as one system: their mean probability where all have written theirs, else a majority vote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from harness.errors import UserError, first_line
from harness.task import Prediction, Task
from launch.reporting.collect import Run, answers_of, probabilities_of
from launch.reporting.leaderboard import Leaderboard, Row, Score
from tasks.multilabel import THRESHOLD
from tasks.predictions import Answers


def build(board: Leaderboard) -> tuple[list[Row], list[str]]:
    """(a row for each of ours that has several seeds of a task, lines on what cannot be an ensemble)."""
    rows, remarks = [], []
    for row in board.rows:
        cells = {}
        for task, cell in row.cells.items():
            runs = [run for _, run in sorted(cell.runs.items())]
            if len(runs) < 2:
                continue
            try:
                cells[task] = Score(_score(runs), None, cell.marks, members=len(runs))
            except UserError as error:
                remarks.append(f"no ensemble of {row.label} on {board.every_column[task]}: {error}")
            except Exception as error:  # whatever is wrong with the predictions of one, the others are shown
                what = f"{type(error).__name__}: {first_line(error)}"
                remarks.append(f"no ensemble of {row.label} on {board.every_column[task]}: {what}")
        if cells:
            most = max(cell.members for cell in cells.values())
            label = f"{row.label} (ensemble of {most} seeds)"
            rows.append(Row(label, board.suite.with_totals(cells), list(row.seeds)[:most]))
    return rows, remarks


def _score(runs: Sequence[Run]) -> float:
    """By the task's own metric, a fraction. Raises UserError."""
    members = [answers_of(run) for run in runs]
    task, first = members[0]
    questions = [(example.id, example.label) for example in first.examples]
    if any([(example.id, example.label) for example in one.examples] != questions for _, one in members):
        raise UserError("its seeds have predictions of different data")
    answers = [one for _, one in members]
    probabilities = [probabilities_of(run, one) for run, one in zip(runs, answers, strict=True)]
    known = [one for one in probabilities if one is not None]
    return task.metric(first.examples, combined(task, answers, known if len(known) == len(runs) else None)).score


def combined(
    task: Task, answers: Sequence[Answers], probabilities: Sequence[np.ndarray] | None = None
) -> list[Prediction]:
    """What several systems say together. `probabilities`: [examples, labels] of each, in multiclass and multilabel
    tasks; without them the majority decides, by word in tagging and by label in multilabel tasks."""
    values = [[prediction.value for prediction in one.predictions] for one in answers]
    if task.family == "similarity":
        return [Prediction(float(np.mean(said))) for said in zip(*values, strict=True)]
    if probabilities is not None and task.family in ("multiclass", "multilabel"):
        mean = np.mean(probabilities, axis=0)
        if task.family == "multiclass":
            return [Prediction(task.labels[int(np.argmax(row))], tuple(row.tolist())) for row in mean]
        return [Prediction(tuple(int(one > THRESHOLD) for one in row), tuple(row.tolist())) for row in mean]
    if task.family == "multiclass":
        return [Prediction(_majority(said)) for said in zip(*values, strict=True)]
    by_majority = [Prediction(tuple(map(_majority, zip(*said, strict=True)))) for said in zip(*values, strict=True)]
    return task.repaired(answers[0].examples, by_majority)


def _majority(said: Iterable[Any]) -> Any:
    """The most frequent answer; of a tie the first seed's among the tied."""
    return Counter(said).most_common(1)[0][0]  # of equal counts the one that was met first

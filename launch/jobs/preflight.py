"""Before anything starts: what runs need and this machine does not have. Each data folder and model is looked at once.

Data files are read as the runs will read them; a model's config and tokenizer are loaded, its weights only looked at.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tasks
from harness.config import RunConfig
from harness.ds import config as ds_config
from harness.errors import UserError
from harness.task import Task
from launch.jobs.resources import Request
from launch.run import settings
from tasks import tables

Key = Callable[[RunConfig], Any]


@dataclass(frozen=True)
class Missing:
    """Something that runs cannot start without. `what`: the task or model, or "" for what all runs need."""

    text: str
    what: str = ""
    folders: frozenset[str] = frozenset()  # of the runs that need it


def check(where: Request | None, configs: Sequence[RunConfig]) -> tuple[list[Missing], list[str]]:
    """(what is missing, notes on what cannot be told from here). `where`: None if that itself is at fault."""
    here = where is not None and where.cluster != "slurm"
    mounted = _mounted(where)
    found: list[Missing] = _machine(where, configs) if where is not None and here else []
    for group in _groups(configs, lambda c: (c.task, c.data_dir, json.dumps(c.own_task))):
        if not (group[0].data_dir and mounted(group[0].data_dir)):
            found += _missing(partial(_check_data, group), group[0].task, group)
    notes: list[str] = []
    with _quiet():
        for group in _groups(
            configs, lambda c: (c.model_name_or_path, c.config_name, c.tokenizer_name, c.cache_dir, c.revision)
        ):
            first = group[0]
            if not mounted(first.model_name_or_path):
                found += _missing(partial(_check_model, first, here, notes), first.model_label, group)
    return found, notes


def _groups(configs: Sequence[RunConfig], key: Key) -> list[list[RunConfig]]:
    """Runs that share what is looked at, in the order in which they are started."""
    groups: dict[Any, list[RunConfig]] = {}
    for config in configs:
        groups.setdefault(key(config), []).append(config)
    return list(groups.values())


def _missing(look: Callable[[], object], what: str, group: Sequence[RunConfig]) -> list[Missing]:
    try:
        look()
    except UserError as error:
        folders = frozenset(config.output_dir for config in group)
        return [Missing(line, what, folders) for line in str(error).splitlines()]
    return []


def _mounted(where: Request | None) -> Callable[[str], bool]:
    """Whether a path is one inside the container, which cannot be looked at from here."""
    mounts = where.profile.container_mounts if where is not None and where.profile.container else []
    inside = [Path(mount.split(":")[1]) for mount in mounts if ":" in mount and mount.split(":")[0] != mount]
    return lambda path: any(Path(path).is_relative_to(place) for place in inside)


# ---- data
def _check_data(group: Sequence[RunConfig]) -> None:
    place, kind = settings.find_data(group[0])
    if kind == "sample":
        return
    task = tasks.get(group[0].task, group[0].own_task)
    needed = set[str]().union(*(settings.needed_splits(config, task) for config in group))
    faults = []
    for split in sorted(needed):
        try:
            task.read(place, split)
        except tables.NoExamples as error:
            faults += _depending_on(split, group, task, error)
        except UserError as error:
            faults += str(error).splitlines()
    if faults:
        raise UserError("\n".join(dict.fromkeys(faults)))


def _depending_on(split: str, group: Sequence[RunConfig], task: Task, error: UserError) -> list[str]:
    """What the runs that cannot do without a split of no examples say."""
    if split != "dev":
        return str(error).splitlines()
    faults = []
    for config in group:
        try:
            settings.check_without_dev(config, task, error)
        except UserError as told:
            faults.append(str(told))
    return faults


# ---- models
def _check_model(config: RunConfig, here: bool, notes: list[str]) -> None:
    """Raises UserError where the model or its tokenizer is not there; adds to `notes` what cannot be told.

    `here`: the runs will have no other network and cache than this command has.
    """
    from harness import hub, pretrained, tokenizer

    try:
        tokenizer.load_tokenizer(config)
    except hub.OutOfReach as error:
        if here:
            raise
        notes.append(f"not checked: {error}; the nodes may have it")
        return
    pretrained.weights(pretrained.source(config))


@contextmanager
def _quiet() -> Iterator[None]:
    """What libraries and we ourselves would remark on each model is for the runs' own logs."""
    import torch

    from harness import logs

    logs.quiet_libraries(torch.cuda.is_available())
    ours = logging.getLogger("harness")
    before = ours.level
    ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.setLevel(before)


# ---- the machine, for runs that shall be here
def _machine(where: Request, configs: Sequence[RunConfig]) -> list[Missing]:
    import torch

    named = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    visible = torch.cuda.device_count()
    on_gpus = where.gpus_per_node > 0 and not all(config.no_cuda for config in configs)
    found: list[Missing] = []
    if on_gpus and named and "-1" not in named and visible < len(named):
        text = f"CUDA_VISIBLE_DEVICES={','.join(named)}: {visible} of them can be used here; name those that are there"
        found.append(Missing(text))
    for name in dict.fromkeys(config.ds_config for config in configs if config.ds_config is not None):
        found += _missing(partial(ds_config.read, name), "", ())
    on_cpu = [config for config in configs if not visible or not where.gpus_per_node or config.no_cuda]
    if any(config.precision == "fp16" for config in on_cpu):
        from harness.ds import engine  # with deepspeed, which takes seconds

        found += _missing(partial(engine.choose_precision, "fp16", torch.device("cpu")), "", ())
    return found

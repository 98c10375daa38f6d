"""What a command would do with each of its runs, and what stands in the way; known before any folder is made.

Each data folder and model is looked at once: data files are read as the runs will read them; a model's config and
tokenizer are loaded, its weights only looked at.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tasks
from harness import lock, run_folder
from harness.config import RunConfig
from harness.ds import config as ds_config
from harness.errors import UserError
from harness.run_folder import RunFolder
from launch.jobs import slurm, status, suites
from launch.jobs.resources import Request
from launch.run import inputs, settings
from tasks import tables


@dataclass(frozen=True)
class Missing:
    """Something that runs cannot start without. `what`: the task or model, or "" for what all runs need."""

    text: str
    what: str = ""
    folders: frozenset[str] = frozenset()  # of the runs that need it


@dataclass
class Plan:
    """Runs by what becomes of them. `wanted` are all but those that were left out."""

    wanted: list[RunConfig]
    left: list[RunConfig] = field(default_factory=list)  # to be started
    finished: list[tuple[RunConfig, Mapping[str, Any]]] = field(default_factory=list)  # with their results
    left_out: Mapping[Path, Missing] = field(default_factory=dict)  # by run folder
    faults: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)  # who has the run, of those that are queued or running
    notes: list[str] = field(default_factory=list)  # on what is missing
    remedy: str = ""  # where leaving something out would help
    home: Path = Path()  # the folder above all runs, those that were left out too

    def refuse(self) -> None:
        """Raises UserError that lists every fault, a line each."""
        if self.faults:
            raise UserError("\n".join([*self.faults, *([self.remedy] if self.remedy else [])]))

    def make_folders(self) -> None:
        """Of the runs that are left, and the record of those that are left out. Raises UserError."""
        faults = []
        for config in self.left:
            try:
                with ExitStack() as stack:
                    lock.acquire(RunFolder(Path(config.output_dir)), stack)
                    settings.prepare(config)  # the queues were asked for the plan
            except UserError as error:
                faults += str(error).splitlines()
        if faults:
            raise UserError("\n".join(faults))
        folders = [Path(config.output_dir) for config in self.wanted]
        if len(folders) + len(self.left_out) > 1:
            lacking = {folder: (missing.what, missing.text) for folder, missing in self.left_out.items()}
            suites.record_left_out(self.home, [*folders, *self.left_out], lacking)

    def left_out_lines(self) -> list[str]:
        """For the end of a table."""
        return suites.left_out_notes([Path(config.output_dir) for config in self.wanted])


def make(where: Request | None, configs: Sequence[RunConfig], skip_missing: bool = False) -> Plan:
    """Look at everything and change nothing. `where`: None where that itself is at fault."""
    every = [dataclasses.replace(config, output_dir=str(Path(config.output_dir).absolute())) for config in configs]
    plan = Plan(every, home=slurm.home(every))
    folders = [Path(config.output_dir) for config in every]
    known = {run.folder: run for run in status.read_all([folder for folder in folders if folder.is_dir()])}
    for config in every:
        run = known.get(Path(config.output_dir))
        if run is not None and run.status in ("queued", "running"):
            who = " ".join(part for part in (run.status, run.job or run.reason) if part)
            text = f"{run.folder}: {who}; wait for it, or: python launch/submit.py cancel {run.folder}"
            is_same = run.config is not None and run.config.identity(inputs=True) == config.identity(inputs=True)
            (plan.busy if is_same and len(every) > 1 else plan.faults).append(text)
            continue
        try:
            result = run_folder.prepare(config, compare=_compare, dry=True)
        except UserError as error:
            plan.faults += str(error).splitlines()
            continue
        if result is None:
            plan.left.append(config)
        else:
            plan.finished.append((config, result))
    missing: list[Missing] = []
    # One run on this machine says the same by itself, as quickly; a job would wait in the queue for nothing.
    alone = len(every) == 1 and where is not None and where.cluster != "slurm"
    if plan.left and not alone:
        missing, plan.notes = look_for_missing(where, plan.left)
    lacking = {Path(folder): one for one in reversed(missing) if one.what for folder in one.folders}
    rest = [config for config in every if Path(config.output_dir) not in lacking]
    if skip_missing and rest:
        plan.left_out, plan.wanted = lacking, rest
        plan.left = [config for config in plan.left if config in rest]
        plan.notes += [f"left out: {one.what} ({one.text})" for one in missing if one.what]
    plan.faults += [one.text for one in missing if not (one.what and skip_missing and rest)]
    if lacking and rest and not skip_missing:
        names = ", ".join(dict.fromkeys(one.what for one in missing if one.what))
        plan.remedy = f"--skip_missing leaves out {names} and starts the rest"
    return plan


def _compare(before: RunConfig, config: RunConfig, finished: bool) -> str | None:
    """Of inputs under other names the content; what has changed in its place each run sees by itself when it starts."""
    return run_folder.other_names(before, config) and inputs.compare(before, config, finished)


def look_for_missing(where: Request | None, configs: Sequence[RunConfig]) -> tuple[list[Missing], list[str]]:
    """(what is missing, notes on what cannot be checked from here). `where`: None if that itself is at fault."""
    found: list[Missing] = []
    notes: list[str] = []
    here = where is not None and where.cluster != "slurm"
    if where is not None and here:
        _check_machine(where, configs, found)
    mounts = where.profile.container_mounts if where is not None and where.profile.container else []
    inside = [Path(mount.split(":")[1]) for mount in mounts if ":" in mount and mount.split(":")[0] != mount]

    def is_mounted(path: str) -> bool:
        """Whether it is a path inside the container, which cannot be looked at from here."""
        return any(Path(path).is_relative_to(place) for place in inside)

    for group in _groups(configs, lambda c: (c.task, c.data_dir, json.dumps(c.own_task))):
        if not (group[0].data_dir and is_mounted(group[0].data_dir)):
            with _noted(found, group[0].task, group):
                _check_data(group)
    with _quiet():
        for group in _groups(
            configs, lambda c: (c.model_name_or_path, c.config_name, c.tokenizer_name, c.cache_dir, c.revision)
        ):
            if not is_mounted(group[0].model_name_or_path):
                with _noted(found, group[0].model_label, group):
                    _check_model(group[0], here, notes)
    return found, notes


@contextmanager
def _noted(found: list[Missing], what: str = "", group: Sequence[RunConfig] = ()) -> Iterator[None]:
    """A UserError within is what these runs lack."""
    try:
        yield
    except UserError as error:
        folders = frozenset(config.output_dir for config in group)
        found.extend(Missing(line, what, folders) for line in str(error).splitlines())


def _groups(configs: Sequence[RunConfig], key: Callable[[RunConfig], Any]) -> list[list[RunConfig]]:
    """Runs that share what is looked at, in the order in which they are started."""
    groups: dict[Any, list[RunConfig]] = {}
    for config in configs:
        groups.setdefault(key(config), []).append(config)
    return list(groups.values())


def _check_data(group: Sequence[RunConfig]) -> None:
    """Raises UserError that lists what is wrong with the files that these runs read."""
    place, kind = inputs.find_data(group[0])
    if kind == "sample":
        return
    task = tasks.get(group[0].task, group[0].own_task)
    needed = set[str]().union(*(inputs.needed_splits(config, task) for config in group))
    faults = []
    for split in sorted(needed):
        try:
            task.read(place, split)
        except UserError as error:
            if split != "dev" or not isinstance(error, tables.NoExamples):
                faults += str(error).splitlines()
                continue
            for config in group:  # only some of them may depend on a dev set
                try:
                    inputs.check_without_dev(config, task, error)
                except UserError as needs_dev:
                    faults.append(str(needs_dev))
    if faults:
        raise UserError("\n".join(dict.fromkeys(faults)))


def _check_model(config: RunConfig, here: bool, notes: list[str]) -> None:
    """Raises UserError where the model or its tokenizer is not there; adds to `notes` what cannot be checked.

    `here`: the runs will have no other network and cache than this command has.
    """
    from harness import pretrained, tokenizer

    try:
        tokenizer.load_tokenizer(config)
    except pretrained.OutOfReach as error:
        if here:
            raise
        notes.append(f"not checked: {error}; the nodes may have it")
        return
    pretrained.weights(pretrained.source(config))


@contextmanager
def _quiet() -> Iterator[None]:
    """What libraries and we ourselves would say of each model is for the runs' own logs."""
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


def _check_machine(where: Request, configs: Sequence[RunConfig], found: list[Missing]) -> None:
    """This machine, for runs that shall be here; adds to `found`."""
    import torch

    named = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    visible = torch.cuda.device_count()
    on_gpus = where.gpus_per_node > 0 and not all(config.no_cuda for config in configs)
    if on_gpus and named and "-1" not in named and visible < len(named):
        with _noted(found):
            devices = ",".join(named)
            raise UserError(
                f"CUDA_VISIBLE_DEVICES={devices}: {visible} of them can be used here; name those that are there"
            )
    for name in dict.fromkeys(config.ds_config for config in configs if config.ds_config is not None):
        with _noted(found):
            ds_config.read(name)
    on_cpu = [config for config in configs if not visible or not where.gpus_per_node or config.no_cuda]
    if any(config.precision == "fp16" for config in on_cpu):
        with _noted(found):
            ds_config.choose_precision("fp16", torch.device("cpu"))

"""What a command would do with each of its runs, and what stands in the way, before any folder is made.

Each data folder and model is looked at once: data files are read as the runs will read them; a model's config and
tokenizer are loaded, its weights only looked at.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import tasks
from harness import lock, lora, run_folder
from harness.config import BY_LAYER, RunConfig
from harness.ds import config as ds_config
from harness.errors import Faults
from harness.model_folder import ADAPTER_CONFIG
from harness.run_folder import RunFolder
from harness.task import Example
from launch.jobs import status
from launch.jobs.resources import Request
from launch.jobs.status import RunStatus
from launch.jobs.suite_record import record_left_out
from launch.run import inputs, settings
from tasks import encoding, readers


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
    to_start: list[RunConfig] = field(default_factory=list)
    finished: list[RunStatus] = field(default_factory=list)  # with the settings of now, and their results
    left_out: Mapping[Path, tuple[str, str]] = field(default_factory=dict)  # run folder -> (what it lacks, why)
    faults: Faults = field(default_factory=Faults)
    busy: list[str] = field(default_factory=list)  # who has the run, of those that are queued or running
    notes: list[str] = field(default_factory=list)  # on what is missing

    def make_folders(self) -> None:
        """Of the runs that are left, and the record of those that are left out. Raises UserError."""
        faults = Faults()
        for config in self.to_start:
            with faults.collected(), ExitStack() as stack:
                lock.acquire(RunFolder(Path(config.output_dir)), stack)
                settings.prepare(config)  # the queues were asked for the plan
        faults.refuse()
        folders = [*(Path(config.output_dir) for config in self.wanted), *self.left_out]
        if len(folders) > 1:
            record_left_out(Path(os.path.commonpath(folders)), folders, self.left_out)


def compare(before: RunConfig, now: RunConfig, finished: bool) -> str | None:
    """Of inputs under other names the content; what has changed in its place each run sees when it starts."""
    return run_folder.other_names(before, now) and inputs.compare(before, now, finished)


def plan(where: Request | None, configs: Sequence[RunConfig], skip_missing: bool = False) -> Plan:
    """Look at everything and change nothing. `where`: None where that itself is at fault."""
    every = [replace(config, output_dir=str(Path(config.output_dir).absolute())) for config in configs]
    made = Plan(every)
    folders = [Path(config.output_dir) for config in every]
    known = {run.folder: run for run in status.read_all([folder for folder in folders if folder.is_dir()])}

    for config in every:
        run = known.get(Path(config.output_dir))
        if run is not None and run.status in ("queued", "running"):
            who = " ".join(part for part in (run.status, run.job or run.reason) if part)
            text = f"{run.folder}: {who}; wait for it, or: python launch/submit.py cancel {run.folder}"
            is_same = run.config is not None and run.config.identity(inputs=True) == config.identity(inputs=True)
            (made.busy if is_same and len(every) > 1 else made.faults).append(text)
            continue
        with made.faults.collected():
            result = run_folder.prepare(config, compare=compare, dry=True)
            if run is None or result is None:
                made.to_start.append(config)
            else:
                reason = "finished before"
                made.finished.append(replace(run, status="finished", reason=reason, config=config, result=result))
    missing: list[Missing] = []
    # One run on this machine says the same by itself, as quickly; a job would wait in the queue for nothing.
    alone = len(every) == 1 and where is not None and where.cluster != "slurm"
    if made.to_start and not alone:
        missing, made.notes = look_for_missing(where, made.to_start)
    lacking = {Path(folder): (one.what, one.text) for one in reversed(missing) if one.what for folder in one.folders}
    rest = [config for config in every if Path(config.output_dir) not in lacking]
    if skip_missing and rest:
        made.left_out, made.wanted = lacking, rest
        made.to_start = [config for config in made.to_start if config in rest]
        made.notes += [f"left out: {one.what} ({one.text})" for one in missing if one.what]
    made.faults += [one.text for one in missing if not (one.what and skip_missing and rest)]
    if lacking and rest and not skip_missing:
        names = ", ".join(dict.fromkeys(one.what for one in missing if one.what))
        made.faults.append(f"--skip_missing leaves out {names} and starts the rest")
    return made


def look_for_missing(where: Request | None, configs: Sequence[RunConfig]) -> tuple[list[Missing], list[str]]:
    """(what is missing, notes on what cannot be checked from here). `where`: None if that itself is at fault."""

    from harness import logs

    here = where is not None and where.cluster != "slurm"
    found = [Missing(text) for text in _machine_faults(where, configs)] if where is not None and here else []
    if any(config.lora_rank is not None for config in configs) and not (where and where.profile.container):
        faults = Faults()
        with faults.collected():
            lora.check_installed("--lora_rank")
        found += [Missing(text) for text in faults]
    notes: list[str] = []
    mounts = where.profile.container_mounts if where is not None and where.profile.container else []
    inside = [Path(mount.split(":")[1]) for mount in mounts if ":" in mount and mount.split(":")[0] != mount]

    def look(check: Callable[[], None], path: str | None, what: str, group: Sequence[RunConfig]) -> None:
        """A path inside the container cannot be looked at from here."""
        faults = Faults()
        if not (path and any(Path(path).is_relative_to(place) for place in inside)):
            with faults.collected():
                check()
        found.extend(Missing(text, what, frozenset(config.output_dir for config in group)) for text in faults)

    for group in _groups(configs, "task", "data_dir", "own_task"):
        look(functools.partial(_check_data, group), group[0].data_dir, group[0].task, group)
    logs.quiet_libraries()
    logging.disable(logging.WARNING)  # what we ourselves would say of each model is for the runs' own logs
    try:
        for group in _groups(configs, "model_name_or_path", "config_name", "tokenizer_name", "cache_dir", "revision"):
            check = functools.partial(_check_model, group, here, notes)
            look(check, group[0].model_name_or_path, group[0].model_label, group)
    finally:
        logging.disable(logging.NOTSET)
    return found, notes


def _groups(configs: Sequence[RunConfig], *names: str) -> list[list[RunConfig]]:
    """Runs that share these settings, in the order in which they are started."""
    groups: dict[str, list[RunConfig]] = {}
    for config in configs:
        groups.setdefault(json.dumps([getattr(config, name) for name in names]), []).append(config)
    return list(groups.values())


def _check_data(group: Sequence[RunConfig]) -> None:
    """Raises UserError that lists what is wrong with the files that these runs read."""
    place, kind = inputs.find_data(group[0])
    if kind == "sample":
        return
    task = tasks.get(group[0].task, group[0].own_task)
    faults = Faults()
    if in_parts := next((config for config in group if config.fold is not None), None):
        with faults.collected():
            inputs.read_data(in_parts, task, {"train", "dev"})
    read: dict[str, list[Example]] = {}
    for split in sorted(set[str]().union(*(inputs.needed_splits(config, task) for config in group))):
        with faults.collected():
            try:
                read[split] = task.read(place, split)
            except readers.NoExamples as error:
                if split != "dev":
                    raise
                for config in group:  # only some of them may depend on a dev set
                    with faults.collected():
                        inputs.check_without_dev(config, task, error)
    for config in group:
        if config.do_train and config.fold is None and read.keys() >= {*(config.train_splits or task.train_splits)}:
            with faults.collected():
                inputs.training_share(config, task, read)
    Faults(dict.fromkeys(faults)).refuse()


def _check_model(group: Sequence[RunConfig], here: bool, notes: list[str]) -> None:
    """Raises UserError where the model, its tokenizer or layers that are asked for are not there, or a stride leaves
    windows nothing new; adds to `notes` what cannot be checked.

    `here`: the runs will have no other network and cache than this command has.
    """
    from harness import pretrained, tokenizer

    config = group[0]
    try:
        words = tokenizer.load_tokenizer(config)
    except pretrained.OutOfReach as error:
        if here:
            raise
        notes.append(f"not checked: {error}; the nodes may have it")
        return
    source = pretrained.source(config)
    if config.trained or not (Path(source.name) / ADAPTER_CONFIG).is_file():  # adapters may be scored, not trained on
        pretrained.weights(source)
    for first, *_ in _groups(group, "stride", "max_seq_length", "task", "own_task"):
        if first.stride is not None:
            pair = tasks.has_pairs(tasks.get(first.task, first.own_task))
            encoding.check_stride(words, first.max_seq_length, first.stride, pair)
    for first, *_ in _groups(group, *BY_LAYER):
        if first.trained and any(getattr(first, name) for name in BY_LAYER):
            from harness import parameters  # slow to import

            parameters.check(first)
    for first, *_ in _groups(group, "head", "trained", "task", "own_task"):
        if first.trained and first.head == "pretrained":
            from harness import heads

            heads.load(source, pretrained.settings(first), tasks.get(first.task, first.own_task).per_word)


def _machine_faults(where: Request, configs: Sequence[RunConfig]) -> Faults:
    """Of this machine, for runs that shall be here."""
    import torch

    from harness import device

    faults = Faults()
    named = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    visible = torch.cuda.device_count()
    on_gpus = where.gpus_per_node > 0 and not all(config.no_cuda for config in configs)
    if on_gpus:
        with faults.collected():
            device.available()
    # CUDA shows a process one MIG slice, however many are named; each run gets its own.
    wanted = 1 if named and named[0].startswith("MIG-") else len(named)
    if on_gpus and 0 < visible < wanted:
        faults.append(
            f"CUDA_VISIBLE_DEVICES={','.join(named)}: {visible} of them can be used here; name those that are there"
        )
    for name in dict.fromkeys(config.ds_config for config in configs if config.ds_config is not None):
        with faults.collected():
            ds_config.read(name)
    on_cpu = [config for config in configs if not visible or not where.gpus_per_node or config.no_cuda]
    if any(config.precision == "fp16" for config in on_cpu):
        with faults.collected():
            ds_config.choose_precision("fp16", torch.device("cpu"))
    return faults

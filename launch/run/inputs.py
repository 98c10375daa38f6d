"""What a run reads, compared with what it read when it began (`harness/fingerprint.py`): refused, said, or the same."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tasks
from harness import fingerprint, run_folder
from harness.config import RunConfig
from harness.ds import config as ds_config
from harness.ds.config import DeepSpeedConfig
from harness.errors import UserError
from harness.fingerprint import COMMIT, Digest, Input
from harness.run_folder import RunFolder

if TYPE_CHECKING:
    from harness.distributed import World

logger = logging.getLogger("harness.launch")


def of(config: RunConfig) -> list[Input]:
    """Data, tokenizer and weights, as far as they are there. Raises UserError."""
    return [_data(config), fingerprint.tokenizer(config), fingerprint.weights(config)]


def _data(config: RunConfig) -> Input:
    task = tasks.get(config.task, config.own_task)
    place = tasks.sample_dir(config.task) if config.data_dir is None else Path(config.data_dir)
    there = {split: place / name for split, name in task.filenames.items() if (place / name).is_file()}
    named = "the sample data" if config.data_dir is None else f"--data_dir {config.data_dir}"
    return Input("data", ("data_dir",), named, there)


def compare(before: RunConfig, config: RunConfig, finished: bool) -> str | None:
    """A `runs.Compare` by content. A finished run is shown, whatever became of its inputs: `changed` tells."""
    folder = RunFolder(Path(config.output_dir))
    renamed = run_folder.other_names(before, config)
    if finished and renamed is None and not config.overwrite_output_dir:
        return None
    kept = fingerprint.read(folder) if fingerprint.begun(folder) else None
    if kept is None or (before.data_dir is None) != (config.data_dir is None):  # samples are no results under any name
        return renamed
    if (fault := _other_precision(folder, kept["precision"], config)) is not None:
        return fault
    for found in of(_pinned(config, kept)):
        name = found.changed(kept[found.kind])
        moved = next((key for key in found.settings if getattr(before, key) != getattr(config, key)), None)
        if moved is not None and (name is not None or not found.files):
            theirs, ours = getattr(before, moved), getattr(config, moved)
            what = "where there is nothing of it" if name is None else f"with another {name}"
            return (
                f"--output_dir {folder.path}: holds another run (its {moved} is {theirs}, yours {ours}, {what}); "
                "name another folder, or --overwrite_output_dir"
            )
        if name is not None:
            return _is_another(found, name, folder, kept)
    return None


def _pinned(config: RunConfig, kept: Mapping[str, Any]) -> RunConfig:
    """With the recorded commit of a model of the hub, where no other is asked for and the cache has it."""
    commit = kept["weights"].get(COMMIT)
    if commit is None or config.revision is not None or Path(config.model_name_or_path).exists():
        return config
    pinned = replace(config, revision=commit)
    return pinned if fingerprint.weights(pinned).commit is not None else config


def _is_another(found: Input, name: str, folder: RunFolder, kept: Mapping[str, Any]) -> str:
    commit = kept[found.kind].get(COMMIT)
    remedy = f"give --revision {commit}" if commit and found.commit else "put that back"
    return (
        f"{found.named}: {name} is not what it was when the run in {folder.path} began; {remedy}, name another "
        "--output_dir, or start anew with --overwrite_output_dir"
    )


def _other_precision(folder: RunFolder, recorded: str, config: RunConfig) -> str | None:
    asked, why = config.precision, ""
    if config.ds_config is not None:
        asked, why = ds_config.read(config.ds_config).precision, f" by --ds_config {config.ds_config}"
    if asked in ("auto", recorded):
        return None
    return (
        f"--output_dir {folder.path}: holds another run (its precision is {recorded}, yours {asked}{why}); "
        "name another folder, or --overwrite_output_dir"
    )


def changed(config: RunConfig, digest: Digest = fingerprint.sha256) -> Iterator[str]:
    """Inputs of a finished run that are there and are not what they were, each as `--flag value: file`."""
    folder = RunFolder(Path(config.output_dir))
    kept = fingerprint.read(folder)
    if kept is None:
        return
    for found in of(_pinned(config, kept)):
        if (name := found.changed(kept[found.kind], digest)) is not None:
            yield f"{found.named}: {name}"
    if config.ds_config is not None and ds_config.read(config.ds_config).settings != kept["ds_config"]:
        yield f"--ds_config {config.ds_config}"


def resolve(config: RunConfig, world: World, folder: RunFolder) -> tuple[RunConfig, DeepSpeedConfig]:
    """(settings with precision, and commit of a model of the hub, as the run's first start had them; DeepSpeed JSON).

    Collective, decided by rank 0. Raises UserError where a device cannot compute in that precision.
    """
    from harness import distributed
    from harness.ds import engine  # with torch and deepspeed, which take seconds

    def decide() -> tuple[RunConfig, DeepSpeedConfig]:
        kept = fingerprint.read(folder) if fingerprint.begun(folder) else None
        if kept is None:
            deepspeed = engine.read_config(config, world)
            return replace(config, precision=deepspeed.precision), deepspeed
        recorded = kept["precision"]
        able = engine.supported_precisions(world.device)
        if not able.get(recorded):
            can = ", ".join(name for name, yes in able.items() if yes)
            raise UserError(
                f"--output_dir {folder.path}: the run began in {recorded}, which this {world.device.type} cannot "
                f"compute in (it can in {can}); go on where it can, or name another --output_dir"
            )
        here = engine.choose_precision(config.precision, world.device) if config.ds_config is None else recorded
        if here != recorded:
            logger.warning("--precision auto is %s here: the run goes on in %s, as it began", here, recorded)
        resumed = replace(_pinned(config, kept), precision=recorded)
        return resumed, engine.read_config(resumed, world)

    decided, deepspeed = distributed.on_main(decide)
    engine.choose_precision(decided.precision, world.device)  # ranks may have unlike devices
    return decided, deepspeed


def record(
    config: RunConfig, deepspeed: DeepSpeedConfig, world: World, folder: RunFolder, splits: Collection[str]
) -> None:
    """Write fingerprint.json at the first start; at a later one say and record what may be another. Rank 0 alone.

    `splits` are those that the run reads now. To be called when the tokenizer is loaded: what the hub has of it is in
    the cache then. Raises UserError where the hub has another model now.
    """
    import torch

    begun = fingerprint.begun(folder)
    kept = fingerprint.read(folder) if begun else None
    if begun and kept is None:  # of a version that recorded nothing: what it began with cannot be known any more
        return
    if not folder.result.is_file():
        fingerprint.fetch(config)
    data, *models = of(config)
    read = {split: path for split, path in data.files.items() if split in splits}
    now = {
        "ds_config": dict(deepspeed.settings),
        "versions": fingerprint.versions(),
        "commit": fingerprint.commit(),
        "threads": torch.get_num_threads() if world.device.type == "cpu" else None,
    }
    if kept is None:
        definition = None if config.own_task is None else _digest(config.own_task)
        inputs = {each.kind: each.digests() for each in (replace(data, files=read), *models)}
        fingerprint.write(
            folder, {**inputs, "definition": definition, "precision": config.precision, **now, "changes": []}
        )
        return
    for each in models:  # folders were compared before anything was loaded
        if each.commit is not None and (name := each.changed(kept[each.kind])) is not None:
            raise UserError(_is_another(each, name, folder, kept))
    new = replace(data, files={split: path for split, path in read.items() if split not in kept["data"]})
    differences = list(fingerprint.changes({name: kept.get(name) for name in now}, now))
    for change in differences:
        logger.warning("changed %s: %s until this start, %s now", change["name"], change["before"], change["now"])
    if new.files or differences:
        stamped = [{"time": round(time.time(), 3), **change} for change in differences]
        more = {"data": kept["data"] | new.digests(), "changes": kept["changes"] + stamped}
        fingerprint.write(folder, {**kept, **now, **more})


def _digest(definition: Mapping[str, Any]) -> str:
    return sha256(json.dumps(definition, sort_keys=True, default=list).encode()).hexdigest()


def changes(folder: RunFolder) -> list[dict[str, Any]]:
    """What was recorded of later starts, for result.json."""
    kept = fingerprint.read(folder)
    found: list[dict[str, Any]] = [] if kept is None else kept["changes"]
    return found

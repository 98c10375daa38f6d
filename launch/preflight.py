"""Before anything starts: what runs need and this machine does not have. Each data folder and model is looked at once.

Data files are read as the runs will read them; a model's config and tokenizer are loaded, its weights are not.
"""

from __future__ import annotations

import dataclasses
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
from harness import UserError, ds_config
from harness.config import RunConfig
from launch import settings
from launch.request import Request

HUB_SECONDS = 5.0
WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
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
    hub = _Hub(here)
    with _quiet():
        for group in _groups(configs, lambda c: (c.model_name_or_path, c.tokenizer_name, c.cache_dir)):
            first = group[0]
            if not mounted(first.model_name_or_path):
                found += _missing(partial(_check_model, first, hub, notes), first.model_label, group)
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
        except UserError as error:
            faults += str(error).splitlines()
    if faults:
        raise UserError("\n".join(faults))


# ---- models
def _check_model(config: RunConfig, hub: _Hub, notes: list[str]) -> None:
    """Raises UserError where the model or its tokenizer is not there; adds to `notes` what cannot be told."""
    from harness import model

    name = model.find(config.model_name_or_path)
    place = hub.cached(name, config.cache_dir) if not os.path.isdir(name) else name
    if place is None:
        note = hub.ask(name)
        if note:
            notes.append(note)
        return
    lacking = _lacking([path.name for path in Path(place).iterdir()])
    if lacking:
        raise UserError(f"--model_name_or_path {name}: has no {lacking}; name the folder of a pre-trained encoder")
    tokenizer = config.tokenizer_name
    if tokenizer and not os.path.isdir(tokenizer):
        kept = hub.cached(tokenizer, config.cache_dir, flag="--tokenizer_name")
        if kept is None:
            note = hub.ask(tokenizer, flag="--tokenizer_name")
            if note:
                notes.append(note)
            return
        tokenizer = kept
    model.load_tokenizer(dataclasses.replace(config, model_name_or_path=place, tokenizer_name=tokenizer))


def _lacking(names: Sequence[str]) -> str | None:
    """What a model's folder lacks of what every encoder has."""
    if "config.json" not in names:
        return "config.json"
    return None if any(name.endswith(WEIGHTS) for name in names) else "weights (model.safetensors or pytorch_model.bin)"


class _Hub:
    """What the hub says of models that are not on this machine; one that does not answer is asked once."""

    def __init__(self, here: bool) -> None:
        self.here = here  # whether the runs will have no other network and cache than this command has
        self.silent = ""

    def cached(self, name: str, cache_dir: str | None, flag: str = "--model_name_or_path") -> str | None:
        """Where an earlier download lies; None where there is none. Raises UserError for what is no hub name."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        if Path(name).is_absolute() or name.startswith((".", "~")):
            raise UserError(f"{flag} {name}: no such folder; name a folder that is there, or a hub name")
        file = "config.json" if flag == "--model_name_or_path" else "tokenizer_config.json"
        try:
            found = try_to_load_from_cache(name, file, cache_dir=cache_dir)
        except HFValidationError:
            raise UserError(f"{flag} {name}: no such folder, and no hub name (OWNER/NAME)") from None
        return str(Path(found).parent) if isinstance(found, str) else None

    def ask(self, name: str, flag: str = "--model_name_or_path") -> str | None:
        """A note where nothing can be told from here. Raises UserError where the hub has no such model."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

        if not self.silent:
            try:
                siblings = HfApi().model_info(name, timeout=HUB_SECONDS).siblings or []
            except RepositoryNotFoundError:
                raise UserError(
                    f"{flag} {name}: no such folder, and the hub knows no model of that name "
                    "(a private one needs `hf auth login`)"
                ) from None
            except OfflineModeIsEnabled:
                self.silent = "HF_HUB_OFFLINE is set"
            except Exception as error:  # no network, a proxy, a hub in trouble: in many libraries' words
                self.silent = f"the hub does not answer: {type(error).__name__}"
            else:
                lacking = _lacking([sibling.rfilename for sibling in siblings])
                if lacking and flag == "--model_name_or_path":
                    raise UserError(f"{flag} {name}: the hub has it without {lacking}; name another")
                return None
        said = f"{flag} {name}: no such folder, not in this machine's download cache, and {self.silent}"
        if self.here:
            raise UserError(f"{said}; download it first, or name a folder")
        return f"not checked: {said}; the nodes may have it"


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
        from harness import engine  # with deepspeed, which takes seconds

        found += _missing(partial(engine.choose_precision, "fp16", torch.device("cpu")), "", ())
    return found

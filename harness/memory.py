"""Whether a run fits into its devices' memory: what it needs, what there is, and what would fit where it does not.

Weights, gradients and optimizer state are counted from the shapes of the parameters, what a forward pass keeps by
harness/activations.py; nothing of it needs the weights.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from harness import activations, distributed, lora, parameters, pretrained
from harness.attention import replace_dropout
from harness.config import BatchPlan, RunConfig, without_adapters
from harness.distributed import World
from harness.ds import config as ds_config
from harness.ds.config import DeepSpeedConfig
from harness.encoder import class_for, encoder_of
from harness.errors import TrainingFailed, UserError, is_out_of_memory
from harness.model import EncoderWithHead
from harness.packing import ATTENTION
from harness.task import Task
from harness.twin import twin

GIB = 2**30
ERROR = 0.1  # of an estimate
MOST_DEVICES = 1024  # that are asked for
USUAL_RANK = 16  # of adapters
# Bytes for each byte of a checkpoint's files that weights, gradients and optimizer state never exceed: 16 for a weight
# of 2. What has room for these needs no closer look before it is loaded.
MOST_FOR_A_BYTE = 10
DEFAULTS = {  # of DeepSpeed, where a JSON says nothing
    "reduce_bucket_size": 500_000_000,
    "allreduce_bucket_size": 500_000_000,
    "sub_group_size": 1_000_000_000,
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_param_persistence_threshold": 100_000,
}

logger = logging.getLogger("harness.launch")


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device, and for it on its host, at the end of a step's last forward pass."""

    weights: int
    gradients: int
    optimizer: int
    buffers: int  # that the engine allocates
    activations: int = 0
    step: int = 0  # taken for the optimizer step alone, when activations are gone
    host: int = 0  # of what is offloaded

    @property
    def static(self) -> int:
        """What is there whatever the batch is."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """The most at a time. With one pass a step somewhat less is reached: gradients come as activations go."""
        return self.static + self.buffers + max(self.activations, self.step)

    def fits(self, room: Room) -> bool:
        """Whether it is no more than there is."""
        if room.shared:
            return self.total + self.host <= room.device
        return self.total <= room.device and self.host <= room.host


@dataclass(frozen=True)
class Room:
    """Free bytes for one rank."""

    device: int
    host: int
    shared: bool  # whether the two are the same: on a CPU


@dataclass(frozen=True)
class Choice:
    """What of a run's settings its memory depends on, and what advice may change."""

    micro: int
    accumulation: int
    world: int
    deepspeed: DeepSpeedConfig
    checkpointing: bool
    rank: int | None  # of adapters


def estimate(
    network: Any,
    choice: Choice,
    longest: int,
    device: torch.device,
    passes: dict[Any, activations.Activations],
    windows: Sequence[int] = (),
) -> Estimate:
    """Of a network with any parameters, also without memory, and examples of `longest` tokens.

    `passes` keeps what was measured, for other choices; `windows`: as of Fit.
    """
    rows = sum(windows[: choice.micro]) or choice.micro
    ds = choice.deepspeed
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get("" if ds.autocast else ds.precision, torch.float32)
    key = (choice.rank, choice.micro, dtype, ds.autocast)
    if key not in passes:
        passes[key] = activations.measure(network, [longest] * rows, dtype, ds.autocast, device)
    kept = passes[key].recomputed if choice.checkpointing else passes[key].kept
    return replace(static(network, choice), activations=kept)


def static(network: Any, choice: Choice) -> Estimate:
    """The same without activations."""
    ds, world = choice.deepspeed, choice.world
    zero = ds.settings.get("zero_optimization", {})
    numbers = _numbers(zero)
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    whole, trained = sum(n for n, _ in sizes), sum(n for n, needs in sizes if needs)
    size = 4 if ds.autocast or ds.precision == "fp32" else 2
    parts = 1 if ds.stage == 0 else world
    masters = 0 if size == 4 and ds.stage == 0 else 4
    weights, gradients = size * whole, size * trained
    optimizer = (masters + 8) * trained // parts
    buffers = host = 0
    step = 4 * trained // parts if ds.stage else 0  # gradients of this rank's part in float32
    bucket = size * min(trained, numbers["reduce_bucket_size"])
    if ds.stage == 0:
        if ds.precision == "fp16":
            buffers = 4 * trained  # Fp16Step.flat
        elif world > 1:
            step = size * min(trained, numbers["allreduce_bucket_size"])
    if ds.stage >= 2:
        gradients //= world
        buffers = bucket
    if ds.stage == 3:
        weights //= world
        buffers = size * numbers["reduce_bucket_size"]  # allocated whole
        small = sum(n for n, _ in sizes if n <= numbers["stage3_param_persistence_threshold"])
        gathered = min(whole, max(small, numbers["stage3_max_live_parameters"]))
        buffers += size * gathered
        step = 4 * min(trained // world, numbers["sub_group_size"])
    if place := _offloads(zero, "offload_optimizer"):  # to a disk: then the host has buffers of some tensors alone
        host += optimizer + 4 * trained // parts if place == "cpu" else 0
        optimizer = step = 0
        if ds.stage == 2:
            gradients = 0
    if place := _offloads(zero, "offload_param"):
        host += weights + gradients if place == "cpu" else 0
        weights = gradients = 0
    return Estimate(weights, gradients, optimizer, buffers, step=step, host=host)


def _offloads(zero: Mapping[str, Any], what: str) -> str:
    """cpu, nvme or nothing."""
    place = str((zero.get(what) or {}).get("device", "none"))
    return "" if place == "none" else place


def _numbers(zero: Mapping[str, Any]) -> dict[str, int]:
    """Sizes that a JSON sets, as far as they are numbers: whether it is right is DeepSpeed's to say."""
    given = {name: zero.get(name) for name in DEFAULTS}
    return {name: int(value) if isinstance(value, int | float) else DEFAULTS[name] for name, value in given.items()}


# ---- what there is
def room(world: World) -> Room:
    """For this rank, now."""
    host = _host_memory(os.environ) // max(1, world.local_size)
    if world.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(world.device)
        return Room(free, host, False)
    return Room(host, host, True)


def _host_memory(environment: Mapping[str, str], root: Path = Path("/")) -> int:
    """Free bytes of the machine, or of what the job may have of it."""
    found = [_number(root / "proc/meminfo", r"MemAvailable:\s+(\d+) kB", 1024)]
    path = root / "proc/self/cgroup"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    mount = root / "sys/fs/cgroup"
    for line in lines:
        _, kinds, group = line.split(":", 2)  # kinds: empty in version 2
        if kinds not in ("", "memory"):
            continue
        top, limit, used = (
            (mount, "memory.max", "memory.current")
            if not kinds
            else (mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        place = top / group.lstrip("/")
        for folder in (place, *place.parents):
            most = _number(folder / limit, r"(\d+)")
            if most is not None:
                # Files that were read count as used, and give way. Version 1 counts those of inner groups as total_*.
                total = "total_" if kinds else ""
                lines_of = (rf"(?m)^{total}{name} (\d+)" for name in ("active_file", "inactive_file"))
                files = sum(_number(folder / "memory.stat", line) or 0 for line in lines_of)
                found.append(most - (_number(folder / used, r"(\d+)") or 0) + files)
            if folder == top:
                break
    names = ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE")
    given = (re.fullmatch(r"(\d+)([MG]?)", environment.get(name, "")) for name in names)
    node, cpu, cpus = (0 if each is None else int(each[1]) * (1024 if each[2] == "G" else 1) for each in given)
    if node or cpu * cpus:  # MiB; 0: all there is
        found.append((node or cpu * cpus) * 2**20)
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else 2**63


def _number(path: Path, pattern: str, times: int = 1) -> int | None:
    try:
        match = re.search(pattern, path.read_text(encoding="utf-8"))
    except OSError:
        return None
    return None if match is None else int(match[1]) * times


# ---- a run
@dataclass
class Fit:
    """The memory of one run, its settings, and what is free before its weights are loaded."""

    config: RunConfig
    deepspeed: DeepSpeedConfig
    plan: BatchPlan
    world: World
    task: Task
    longest: int  # tokens of an example, or of a window of one
    room: Room
    checkpoints: Path | None = None  # where those of this run are
    like: EncoderWithHead | None = field(default=None, repr=False)  # the real network, once it is there
    windows: Sequence[int] = ()  # of the training examples, most first, where some have several

    @property
    def now(self) -> Choice:
        """As the run is set."""
        config, plan = self.config, self.plan
        return Choice(
            plan.micro, plan.accumulation, plan.world, self.deepspeed, config.gradient_checkpointing, config.lora_rank
        )

    def check(self) -> None:
        """Before the weights are loaded. Raises UserError where they cannot fit with gradients and optimizer state."""
        source = pretrained.source(self.config)
        if MOST_FOR_A_BYTE * _bytes_of_files(source) <= self.room.device:
            return
        network = skeleton(self.config, self.task)
        if network is None:
            return  # whoever loads it says why
        loaded = 4 * sum(parameter.numel() for parameter in network.parameters())  # by each process, in float32
        if self.deepspeed.stage < 3 and not self.room.shared and loaded > self.room.host:
            logger.warning(
                "memory  each process loads %s into the host's memory, where it has %s free: ZeRO-3 loads parts",
                *(gib(loaded), gib(self.room.host)),
            )
        needs = static(network, self.now)
        if needs.static <= self.room.device and (needs.host <= self.room.host):
            return
        raise UserError(f"{source}: {self._too_large(needs)}: {self.advice()}")

    def _too_large(self, needs: Estimate) -> str:
        world, here = self.world.size, self.room.device
        if needs.static <= here:
            return f"what is offloaded needs {gib(needs.host)} a process, and there are {gib(self.room.host)} free"
        all_of_it = static_in_one_part(needs, self.now)
        if needs.host == 0 and all_of_it > world * here:
            where = f"all {world} devices together have {gib(world * here)}" if world > 1 else f"it has {gib(here)}"
            return f"weights, gradients and optimizer state are {gib(all_of_it)}, larger than the memory: {where} free"
        return (
            f"weights, gradients and optimizer state need {gib(needs.static)} a device, and there are {gib(here)} free"
        )

    def announce(self, network: EncoderWithHead) -> None:
        """Log what the run needs, and a warning where that is more than there is; `network` has its weights."""
        self.like = network
        needs = self._estimate(network, self.now)
        if needs is None:
            return
        parts = {name: getattr(needs, name) for name in ("weights", "gradients", "optimizer", "buffers", "activations")}
        shown = ", ".join(f"{name} {value / GIB:.1f}" for name, value in parts.items() if value >= 0.05 * GIB)
        host = f" and {gib(needs.host)} of its host" if needs.host else ""
        about = f" ({shown})" if shown else ""
        logger.info("memory  about %s a device%s%s of %s", gib(needs.total), about, host, gib(self.room.device))
        if not needs.fits(self.room):
            logger.warning("memory  by this estimate that does not fit: %s", self.advice())

    def _estimate(self, network: Any, choice: Choice, passes: dict[Any, Any] | None = None) -> Estimate | None:
        """None where the network cannot be tried without memory, as with code of its own."""
        try:
            measured = {} if passes is None else passes
            return estimate(network, choice, self.longest, self.world.device, measured, self.windows)
        except Exception as error:  # whatever an architecture does with tensors that hold nothing
            logger.debug("no estimate of activations: %s", error)
            return None

    @contextmanager
    def explained(self, when: str) -> Iterator[None]:
        """Out of memory within, as a TrainingFailed that says what would do."""
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingFailed(f"out of memory {when}: {self.after_failure()}", deterministic=True) from error

    def after_failure(self) -> str:
        """What to say where the run as it is set has run out of memory, whatever was estimated."""
        network = skeleton(self.config, self.task, self.like)
        needs = None if network is None else self._estimate(network, self.now)
        if needs is None:
            return self.advice()
        had = f"a device needs about {gib(needs.total)}, there were {gib(self.room.device)} free"
        free = replace(self.room, device=min(self.room.device, int((1 - ERROR) * needs.total)))
        return f"{had}: {replace(self, room=free).advice()}"

    def _is_another_run(self, choice: Choice) -> bool:
        """Whether the flags that ask for it make another run of this one."""
        now = self.now
        return (choice.micro, choice.rank) != (now.micro, now.rank) or (
            choice.world == now.world and choice.accumulation != now.accumulation
        )

    def advice(self) -> str:
        """The settings that cost the user least of those that fit, at the same examples a step."""
        networks: dict[int | None, Any] = {}
        passes: dict[Any, Any] = {}
        has_checkpoint = self.checkpoints is not None and any(self.checkpoints.glob("step-*"))
        choices = list(options(self.now))
        if has_checkpoint:  # first those with which the run goes on from its checkpoint
            choices.sort(key=self._is_another_run)
        for choice in choices:
            if choice.rank != self.now.rank and without_adapters(self.config):
                continue
            if choice.rank not in networks:
                config = replace_rank(self.config, choice.rank)
                networks[choice.rank] = skeleton(config, self.task, self.like)
            network = networks[choice.rank]
            if network is None or not static(network, choice).fits(self.room):
                continue
            needs = self._estimate(network, choice, passes)
            if needs is not None and needs.fits(self.room):
                anew = (
                    ", from the start and in another --output_dir"
                    if has_checkpoint and self._is_another_run(choice)
                    else ""
                )
                return f"{flags(choice, self.now, self.config)} needs about {gib(needs.total)} a device{anew}"
        return "no other settings are known that would fit; take a smaller encoder, or a shorter --max_seq_length"


def fit(
    config: RunConfig,
    ds: DeepSpeedConfig,
    plan: BatchPlan,
    world: World,
    task: Task,
    longest: int,
    checkpoints: Path | None = None,
) -> Fit:
    """Asks the devices what is free, before weights are loaded: the least of all ranks, which then decide alike.

    Collective. `longest`, `checkpoints`: as of Fit.
    """
    rooms = distributed.gather(room(world))
    least = Room(min(each.device for each in rooms), min(each.host for each in rooms), rooms[0].shared)
    return Fit(config, ds, plan, world, task, longest, least, checkpoints)


def options(now: Choice) -> Iterator[Choice]:
    """Other settings for as many examples a step, those first that cost the user least."""
    tried = [now]
    for base in _without_batch(now):
        share = now.micro * now.accumulation * now.world // base.world  # examples of a device and step
        for micro in range(min(now.micro, share), 0, -1):
            if share % micro == 0:
                choice = replace(base, micro=micro, accumulation=share // micro)
                if choice not in tried:
                    tried.append(choice)
                    yield choice


def _without_batch(now: Choice) -> Iterator[Choice]:
    higher = [] if now.world == 1 else _configs(now, "")
    offloading = _configs(now, "_offload")
    for ds in (now.deepspeed, *higher, *offloading):
        for checkpointing in (now.checkpointing, True):
            yield replace(now, deepspeed=ds, checkpointing=checkpointing)
    rank = now.rank or USUAL_RANK
    for ds in (now.deepspeed, *higher[-1:], *offloading[-1:]):
        for checkpointing in (now.checkpointing, True):
            yield replace(now, deepspeed=ds, checkpointing=checkpointing, rank=rank)
    most = _configs(replace(now, world=2), "")[-1:] or [now.deepspeed]
    examples = now.micro * now.accumulation
    for times in range(2, examples + 1):
        if examples % times == 0 and now.world * times <= MOST_DEVICES:
            for checkpointing in (now.checkpointing, True):
                yield replace(now, world=now.world * times, deepspeed=most[-1], checkpointing=checkpointing)


def _configs(now: Choice, ending: str) -> list[DeepSpeedConfig]:
    """Those of ds_configs/ in the same precision of a stage that is higher, or that offload more."""
    zero = now.deepspeed.settings.get("zero_optimization", {})
    if ending and _offloads(zero, "offload_param"):
        return []
    names = [f"{now.deepspeed.precision}_zero{stage}{ending}" for stage in (1, 2, 3)]
    found = [ds_config.read(name) for name in names if (ds_config.CONFIGS / f"{name}.json").is_file()]
    return [each for each in found if each.stage > now.deepspeed.stage or (ending and each.stage == 3)]


def flags(choice: Choice, now: Choice, config: RunConfig) -> str:
    """How a user asks for a choice where it differs from `now`."""
    found = []
    if choice.world != now.world:
        found.append(f"{choice.world} devices with")
    if (choice.micro, choice.accumulation) != (now.micro, now.accumulation):
        found.append(f"--per_gpu_train_batch_size {choice.micro}")
        if config.global_batch_size is None:
            found.append(f"--gradient_accumulation_steps {choice.accumulation}")
    if choice.checkpointing and not now.checkpointing:
        found.append("--gradient_checkpointing")
    if choice.deepspeed.name != now.deepspeed.name:
        found.append(f"--ds_config {choice.deepspeed.name}")
    if choice.rank != now.rank:
        found.append(f"--lora_rank {choice.rank}")
    return " ".join(found)


def skeleton(config: RunConfig, task: Task, like: EncoderWithHead | None = None) -> EncoderWithHead | None:
    """The network without memory, fed as `like` is; None where it cannot be built from its config alone."""
    logging.disable(logging.WARNING)  # what is to be said of the encoder is said when it is loaded
    try:
        settings = pretrained.settings(config)
        auto, own = class_for(settings)
        with torch.device("meta"):
            encoder = encoder_of(auto.from_config(own, trust_remote_code=config.trust_remote_code), settings)
            pooling: str | None = "pooler" if getattr(encoder, "pooler", None) is not None else "mean"
            if like is not None or task.per_word:
                pooling = None if like is None else like.pooling
            network = EncoderWithHead(encoder, task.num_outputs, pooling, 0.1, getattr(like, "attention", None))
            if config.lora_rank is not None:
                lora.add(encoder, config, ())
        if parameters.asked(config):
            parameters.prepare(network, twin(encoder, settings), config)
        replace_dropout(network)
        if like is not None:
            network.layout = like.layout
            if like.layout.kind == "packed":
                encoder.set_attn_implementation(ATTENTION)
        return network.train()
    except Exception as error:  # of many kinds, by architecture
        logger.debug("no skeleton: %s", error)
        return None
    finally:
        logging.disable(logging.NOTSET)


def replace_rank(config: RunConfig, rank: int | None) -> RunConfig:
    """The same settings with adapters of another rank."""
    return config if rank == config.lora_rank else replace(config, lora_rank=rank)


def static_in_one_part(needs: Estimate, choice: Choice) -> int:
    """Bytes of weights, gradients and optimizer state over all devices, each counted once."""
    stage, world = choice.deepspeed.stage, choice.world
    return (
        needs.weights * (world if stage == 3 else 1)
        + needs.gradients * (world if stage >= 2 else 1)
        + needs.optimizer * (world if stage >= 1 else 1)
    )


def _bytes_of_files(source: pretrained.Source) -> float:
    """Of a model's weights; infinite where nobody knows before they are fetched."""
    try:
        first, *parts = pretrained.weight_files(source) or [""]
        place = source.path(first)
        if not parts and place is not None:
            return place.stat().st_size
        return float(source.read(first)["metadata"]["total_size"])
    except (OSError, UserError, KeyError, TypeError, ValueError):
        return math.inf


def gib(size: float) -> str:
    """A number of bytes as people read it."""
    return f"{size / GIB:.1f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.0f} MiB"

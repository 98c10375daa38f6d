"""The DeepSpeed engine around a task's model.

A JSON of ds_configs/ says what DeepSpeed alone decides (precision, ZeRO stage, offload); batch sizes, accumulation and
clipping are "auto" there and filled in here from the run's settings. Optimizer and schedule are always ours (AdamW,
by default linear decay), so that learning rate and steps mean the same under every JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from harness import parameters, private_names
from harness.config import BatchPlan, RunConfig
from harness.distributed import World, barrier
from harness.ds import fixes, graphs, optimizer_state, partition
from harness.ds.config import DeepSpeedConfig
from harness.ds.fp16 import LOSS_SCALER, Fp16Step, is_fp16_without_zero, set_schedule
from harness.ds.graphs import Action, StepGraphs
from harness.errors import SCALE_AT_MINIMUM, UserError, first_line
from harness.model import EncoderWithHead, StandardHead, exact_tables
from harness.packing import fit_to_device
from harness.recompute import layers, recompute_layers
from harness.rows import PackedBatch
from harness.task import Batch, Task
from harness.tensor_file import Stream

# What DeepSpeed raises for settings that it does not like, beside exceptions of its own and the bare Exception;
# pydantic's ValidationError is a ValueError.
REFUSALS = (ValueError, AssertionError, KeyError, TypeError, NotImplementedError)

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
MOST_SKIPPED = 40  # overflows in a row: from 2**16, halved at every second one at first, the scale is long at 1
COUNTERS = "engine.json"  # in a checkpoint's folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepMetrics:
    """What the last optimizer step looked like; reading them waits for the device."""

    lr: float
    grad_norm: float | None  # L2 norm over all parameters before clipping; None where DeepSpeed does not compute it
    loss_scale: float | None  # fp16 alone
    skipped: int  # optimizer steps so far that overflowed and were not applied


def compile_layers(
    network: EncoderWithHead | StandardHead, config: RunConfig, deepspeed: DeepSpeedConfig, device: torch.device
) -> None:
    """With --compile: compile the encoder's layers (torch.compile), or say why they are not.

    Fewer and larger kernels, for a slower start. Layers share their code and so one compilation for each shape; sizes
    stay variables in it, and packed rows keep few of them. Rounding differs from that of layers as they are.
    """
    if not config.compile:
        return
    reason = "ZeRO-3 takes a layer's weights away between passes" if deepspeed.stage == 3 else ""
    if not reason:
        try:  # it needs a compiler or Triton
            torch.compile(lambda tensor: (tensor + 1).relu())(torch.ones(8, device=device))
        except Exception as error:  # of many kinds, by device and version
            reason = first_line(error)
    if reason:
        logger.warning("--compile: layers run as they are (%s).", reason)
        return
    network.layout = replace(network.layout, few_shapes=True)
    # Graphs of one layer's code; beyond that layers would run as they are. ModernBERT's has 13: local and global
    # attention, rows within a window or longer, one or several of them, training and evaluation.
    torch.compiler.config.recompile_limit = 64
    for layer in layers(network.encoder):
        layer.compile(dynamic=True)


class OriginalAdam:
    """Makes torch's AdamW, fused and at any ZeRO stage, the one of the original (transformers 2.5.1), to rounding.

    That one added epsilon before the second moment was corrected for bias, and decayed the weights after the update;
    with m, v the moments and c1, c2 = 1 - beta ** t at Adam's t-th step:

        original    p = (1 - lr * decay) * (p - lr * sqrt(c2) / c1 * m / (sqrt(v) + eps))
        torch       p = (1 - lr * decay) * p - lr / c1 * m / (sqrt(v / c2) + eps)

    So torch's does the original's with eps / sqrt(c2) for eps, lr * (1 - lr * decay) for lr and decay / (1 - lr *
    decay) for decay. They are set for the step alone: schedule, metrics and checkpoints see the run's own.
    """

    def __init__(self, adam: torch.optim.Optimizer) -> None:
        """After DeepSpeed's initialisation, which may take a step of its own."""
        self.steps = 0  # taken so far: Adam's own count is on the device, which reading it would wait for
        self._own: list[dict[str, float]] = []
        adam.register_step_pre_hook(self._before)
        adam.register_step_post_hook(self._after)

    def _before(self, adam: torch.optim.Optimizer, *_: Any) -> None:
        """Under ZeRO this is called several times a step, each time with a part of the parameters."""
        self._own = [{name: group[name] for name in ("lr", "eps", "weight_decay")} for group in adam.param_groups]
        for group in adam.param_groups:
            kept = 1 - group["lr"] * group["weight_decay"] or 1e-12  # at 0 nothing is left of a weight, nor of a step
            group["lr"] *= kept
            group["weight_decay"] /= kept
            group["eps"] /= math.sqrt(1 - group["betas"][1] ** (self.steps + 1))

    def _after(self, adam: torch.optim.Optimizer, *_: Any) -> None:
        for group, own in zip(adam.param_groups, self._own, strict=True):
            group.update(own)


class Engine:
    """A model in training: forward, backward and step under DeepSpeed, with plain names for what the loop needs."""

    def __init__(
        self,
        inner: Any,
        task: Task,
        world: World,
        precision: str,
        linear: Any,
        fp16_step: Fp16Step | None,
        in_parts: bool = False,
    ) -> None:
        self.inner = inner
        self.task = task
        self.world = world
        self.precision = precision
        self.in_parts = in_parts  # whether no rank has ever had the whole model
        self._fp16_step = fp16_step
        # In fp16 at stage 0 DeepSpeed divides the gradients by the loss scale without having multiplied the loss by it
        # (its pull request 8393); then that is done here.
        self._scales_loss = is_fp16_without_zero(inner)
        self._linear = linear  # torch's: stage 3 puts its own in place of it, for the whole process and for good
        self._skipped_in_a_row = 0
        self._unsettled = False  # whether the last step is not counted yet
        self.graphs: StepGraphs | None = None
        self._adam = OriginalAdam(optimizer_state.of(inner).adam)

    @property
    def module(self) -> EncoderWithHead:
        """The model itself; under ZeRO-3 its weights are partitioned."""
        network: EncoderWithHead = self.inner.module
        return network

    @property
    def applied_steps(self) -> int:
        """Optimizer steps that changed the weights: those that overflowed are not counted. Waits for the device."""
        self._settle()
        return int(self.inner.global_steps) - int(self.inner.skipped_steps)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [n, outputs] of a batch on any device; for evaluation."""
        logits: torch.Tensor = self.inner(self.module.ready(batch, self.world.device).to(self.world.device))
        return logits

    def micro_step(self, batch: Batch, scale: float) -> torch.Tensor:
        """Forward and backward of one pass; on the last pass of a step also the optimizer step.

        Returns this rank's part of the step's mean loss, detached: the mean over ranks and passes is the step's loss.
        Raises FloatingPointError where gradients overflow at any loss scale.
        """
        fed, captured = self.module.ready(batch, self.world.device), None
        if isinstance(fed, PackedBatch) and (self.graphs is not None or self.world.device.type == "cuda"):
            fed = fed.padded()  # with graphs or without: dropout draws the same
            if self.graphs is not None and (captured := self.graphs.find(fed)):
                loss = captured.forward(fed, scale)
        if captured is None:
            fed = fed.to(self.world.device)
            loss = self.task.training_loss(self.inner(fed), fed.labels) * scale
        self._settle()  # the loss scale for the backward pass; the device has the forward pass to do meanwhile
        if self._skipped_in_a_row >= MOST_SKIPPED:  # DeepSpeed stops by itself at some stages only
            raise FloatingPointError(SCALE_AT_MINIMUM)
        self._unsettled = self.inner.is_gradient_accumulation_boundary()
        if captured is not None:
            captured.backward(self.inner.optimizer.loss_scale)
        else:
            self.inner.backward(loss * self.inner.optimizer.loss_scale if self._scales_loss else loss)
        self.inner.step()
        return loss.detach()

    def _settle(self) -> None:
        """Count the last step: as applied, or as one that overflowed."""
        if self._unsettled:
            applied = self.inner.was_step_applied() if self._fp16_step is None else self._fp16_step.settle()
            self._adam.steps += applied
            self._skipped_in_a_row = 0 if applied else self._skipped_in_a_row + 1
            self._unsettled = False

    def use_graphs(self, capture: Callable[[Action], Action]) -> None:
        """Capture the passes of packed rows and replay them, in fp16 at stage 0; `capture`: see graphs.cuda_capture."""
        if self._fp16_step is not None:
            self.graphs = StepGraphs(self.module, self.task, self._fp16_step, capture)

    def train(self, mode: bool) -> None:
        """Dropout on or off."""
        self.inner.train(mode)

    def metrics(self) -> StepMetrics:
        """Of the last optimizer step."""
        self._settle()
        norm = self.inner.get_global_grad_norm()
        scale = float(self.inner.optimizer.loss_scale) if self.precision == "fp16" else None
        lr = float(self.inner.optimizer.param_groups[0]["lr"])
        return StepMetrics(lr, None if norm is None else float(norm), scale, int(self.inner.skipped_steps))

    def stream(self) -> Stream:
        """The float32 weights that are trained, whole, one after another. Collective: every rank has to go through all
        of them (distributed.feed_main), and none needs to keep one."""
        kept = optimizer_state.of(self.inner)
        trained: dict[str, Any] = {name: p for name, p in self.inner.module.named_parameters() if p.requires_grad}
        shapes = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in trained.items()}
        return Stream(shapes, ((name, kept.read(p).float()) for name, p in trained.items()))

    def weights(self) -> dict[str, torch.Tensor]:
        """All of `stream` on the CPU by name, valid until the next step. Collective: every rank gets all."""
        return self.stream().all()

    def signature(self) -> str:
        """What another engine must have in common to load what this one saved: names and shapes of its parameters."""
        parameters = self.inner.module.named_parameters()
        shapes = {name: list(getattr(p, "ds_shape", p.shape)) for name, p in parameters}  # whole, also under ZeRO-3
        return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Weights, moments, loss scale and schedule into `folder`: under ZeRO each rank its part, else rank 0 all.

        Not collective: a rank may fail alone.
        """
        self._settle()
        adam_steps = optimizer_state.save(self.inner, folder, self.world)
        if not self.world.is_main:
            return
        counters = {
            "adam_steps": adam_steps,
            "tried_steps": int(self.inner.global_steps),
            "skipped_steps": int(self.inner.skipped_steps),
            "schedule_steps": int(self.inner.lr_scheduler.last_epoch),
            "loss_scale": {name: getattr(self._loss_scaler(), name, None) for name in LOSS_SCALER},
        }
        (folder / COUNTERS).write_text(json.dumps(counters), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """What `save` wrote, at any ZeRO stage and on any number of ranks. Collective."""
        counters = json.loads((folder / COUNTERS).read_text(encoding="utf-8"))
        optimizer_state.load(self.inner, folder, counters["adam_steps"])
        self._adam.steps, self._unsettled = counters["adam_steps"], False
        inner, scaler = self.inner, self._loss_scaler()
        inner.global_steps, inner.skipped_steps = counters["tried_steps"], counters["skipped_steps"]
        # DeepSpeed steps at the passes whose number divides by the accumulation; a checkpoint always lies at one.
        inner.micro_steps = inner.global_steps * inner.gradient_accumulation_steps()
        for name, value in counters["loss_scale"].items():
            if value is not None and hasattr(scaler, name):
                setattr(scaler, name, value)
        set_schedule(inner, counters["schedule_steps"])

    def _loss_scaler(self) -> Any:
        """What keeps the loss scale: under stage 0 of fp16 another object than under ZeRO; None in fp32."""
        optimizer = self.inner.optimizer
        return getattr(optimizer, "loss_scaler", None) or getattr(optimizer, "loss_scale_config", None)

    def close(self) -> None:
        """Give the memory back; the engine cannot be used afterwards."""
        if self.graphs is not None:
            self.graphs.close()
        self.inner.destroy()
        self.inner = self.graphs = self._fp16_step = None
        reset_process(self._linear)


def reset_process(linear: Any) -> None:
    """Undo what an engine of DeepSpeed leaves in the process; `linear`: torch's own, from before.

    Else the next engine would mix precisions, or gather weights within the groups of hpZ, too.
    """
    from deepspeed.runtime import torch_autocast
    from deepspeed.utils import groups

    torch.nn.functional.linear = linear
    torch_autocast.TORCH_AUTOCAST_INITIALIZED, groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = False, None


def schedule(adam: torch.optim.Optimizer, config: RunConfig, steps: int) -> Any:
    """Learning rates over `steps` optimizer steps, by transformers' rules; those of all groups alike.

    Warm-up by a share of the steps is rounded up, as transformers' Trainer does.
    """
    from transformers import get_scheduler

    kind = {"constant": "constant_with_warmup"}.get(config.lr_scheduler, config.lr_scheduler)
    warmup = config.warmup_steps or math.ceil(steps * config.warmup_ratio)
    return get_scheduler(kind, adam, num_warmup_steps=warmup, num_training_steps=steps)


def build(
    model: EncoderWithHead,
    task: Task,
    config: RunConfig,
    ds: DeepSpeedConfig,
    plan: BatchPlan,
    steps: int,
    world: World,
) -> Engine:
    """`deepspeed.initialize` around the model, with AdamW and the schedule of `steps` optimizer steps.

    Raises UserError where DeepSpeed refuses its settings, or a private name of a library is gone.
    """
    import deepspeed

    spare_compilers(world)
    private_names.check()
    if world.size > 1 and ds.stage == 3:
        model.layout = model.layout.in_one_pass()
    fit_to_device(model, world.device, whole_weights=ds.stage < 3 and not config.compile)
    if config.gradient_checkpointing:
        recompute_layers(model.encoder)
    compile_layers(model, config, ds, world.device)
    filled = ds.fill(config, plan)
    linear, in_parts = torch.nn.functional.linear, model.source is not None
    try:
        if in_parts:
            partition.share_out(model, filled, torch.float32 if ds.autocast else DTYPES[ds.precision], world)
        betas = config.adam_beta1, config.adam_beta2
        # Fused: one operation for all parameters, and the count of steps stays on the device.
        optimizer = torch.optim.AdamW(
            parameters.groups(model, config), config.learning_rate, betas, config.adam_epsilon, fused=True
        )
        with exact_tables(model):
            inner, *_ = deepspeed.initialize(
                model=model,
                optimizer=optimizer,
                lr_scheduler=lambda wrapped: schedule(wrapped, config, steps),
                config=filled,
                dist_init_required=False,  # the process group is there: harness/distributed.py
            )
    except Exception as error:
        its_own = type(error) is Exception or type(error).__module__.startswith("deepspeed.")
        if not its_own and not isinstance(error, REFUSALS):
            raise  # whatever else happens there is not the settings' fault
        reason = first_line(error)
        if isinstance(error, ValidationError):  # its first line names no key
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(f"--ds_config {ds.name}: DeepSpeed refuses it ({reason})") from error
    engine = Engine(inner, task, world, ds.precision, linear, fixes.apply(inner, world), in_parts)
    barrier()
    # Not with passes that add up gradients, which a replayed one would overwrite, nor with timers within the passes.
    plain = not config.compile and plan.accumulation == 1 and not inner.wall_clock_breakdown()
    if world.device.type == "cuda" and config.cuda_graphs and plain:
        if config.gradient_checkpointing:  # the state of dropout's numbers, set back for the second pass, is the host's
            logger.info("--cuda_graphs: not with --gradient_checkpointing.")
        else:
            engine.use_graphs(graphs.cuda_capture(world.device))
    return engine


def spare_compilers(world: World) -> None:
    """Keep DeepSpeed from starting compilers for parts that are not used; before it is initialized."""
    import deepspeed
    from deepspeed.runtime import compiler

    if world.device.type == "cpu":
        # With an empty table it does not compile its shared-memory reduction (a minute of C++ at a first run).
        deepspeed.ops.__compatible_ops__ = {}
    # To see whether the optimizer is Muon, ZeRO imports a file that calls torch.compile: a second or more of a start.
    compile_function = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        with contextlib.suppress(ImportError):  # another version may have no such file
            importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = compile_function

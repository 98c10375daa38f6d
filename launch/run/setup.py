"""What a run is made of before anything is trained: batch plan, precision, task, data as token ids."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

import tasks
from harness import checkpoint, data, distributed, parameters, token_cache, watchdog
from harness import config as run_config
from harness.checkpoint import TrainState
from harness.config import BatchPlan, RunConfig
from harness.distributed import World
from harness.ds import config as ds_config
from harness.ds.config import DeepSpeedConfig
from harness.evaluate import Split
from harness.model_folder import HEAD_FILE
from harness.run_folder import RunFolder
from harness.task import Encoded, Task
from harness.tokenizer import load_tokenizer
from launch.run import class_weights, fine_tuned, inputs
from launch.run.settings import SAMPLE_BANNER
from tasks import checks

logger = logging.getLogger("harness.launch")

USUAL = RunConfig()
# What a run's log says where it is not as usual; freezing, new layers, weights and shares have lines of their own.
OF_STEPS = (
    *("lr_scheduler", "warmup_steps", "warmup_ratio", "layerwise_lr_decay", "weight_decay", "adam_beta1", "adam_beta2"),
    *("adam_epsilon", "max_grad_norm", "label_smoothing", "stride", "window_pooling"),
)


@dataclass(frozen=True)
class Run:
    """Everything that training, scoring and the record share."""

    config: RunConfig
    world: World
    folder: RunFolder
    plan: BatchPlan
    deepspeed: DeepSpeedConfig
    resumed: TrainState | None  # of the newest whole checkpoint when the run was started
    task: Task
    tokenizer: Any
    splits: dict[str, Split]  # those that are needed and have examples
    data: str  # "given" | "sample"
    model_commit: str | None  # of the hub, that the encoder's files are of
    changes: list[dict[str, Any]]  # of what a score may depend on, since the run's first start
    trains: bool  # whether there is anything to train: a finished run is only asked for further scores

    @property
    def precision(self) -> str:
        """fp16 | bf16 | fp32."""
        return self.deepspeed.precision

    @property
    def train_splits(self) -> tuple[str, ...]:
        """Splits that are trained on."""
        return self.config.train_splits or self.task.train_splits

    @property
    def is_trial(self) -> bool:
        """Whether the run is one of many of which the dev score counts alone."""
        return self.config.search is not None and self.config.search.get("kind") == "trial"

    @property
    def pad_id(self) -> int:
        """What rows are filled up with; masked out everywhere."""
        return int(self.tokenizer.pad_token_id or 0)

    @property
    def class_weights(self) -> dict[str, float]:
        """By label, of the training loss; empty without."""
        return dict(zip(self.task.labels, self.task.class_weights or (), strict=False))

    def resumed_step(self) -> int:
        """The optimizer step that training goes on from."""
        if self.resumed is None:
            return 0
        per_epoch = data.steps_per_epoch(len(self.training), self.plan)
        return self.resumed.epoch * per_epoch + self.resumed.step_in_epoch

    @cached_property
    def training(self) -> Encoded:
        """The splits that are trained on, one after another; with --train_fraction that share of them."""
        whole = data.join([self.splits[name].encoded for name in self.train_splits])
        examples = {name: split.examples for name, split in self.splits.items()}
        chosen = inputs.training_share(self.config, self.task, examples)
        return whole if chosen is None else data.part(whole, chosen)


def build(config: RunConfig, world: World, folder: RunFolder) -> Run:
    """Check the settings against machine and data; read and tokenise. Raises UserError before any model is loaded."""

    def decide() -> tuple[RunConfig, DeepSpeedConfig, dict[str, Any] | None, TrainState | None, bool]:
        trains = bool(config.do_train) and not folder.result.is_file()
        return *inputs.resolve(config, world, folder), checkpoint.newest_state(folder.checkpoints), trains

    config, deepspeed, kept, resumed, trains = distributed.on_main(decide)
    ds_config.choose_precision(config.precision, world.device)  # ranks may have unlike devices
    plan = run_config.batch_plan(config, world.size, None if resumed is None else resumed.examples_per_step)
    task = tasks.get(config.task, config.own_task)
    own_head = None if config.trained else fine_tuned.check(config, task)
    if trains:
        parameters.check(config)
    needed = inputs.needed_splits(config, task)
    place, data, examples = inputs.read_data(config, task, needed)
    if data == "given":
        for warning in checks.quick(task, examples):
            logger.warning("data    %s", warning)
    if trains:
        inputs.training_share(config, task, examples)  # what is wrong with it is said before anything slow
    tokenizer = load_tokenizer(config, task.per_word)
    changes = distributed.on_main(lambda: inputs.record(config, deepspeed, kept, world, folder, needed))
    logger.info("tokenising %d examples ...", sum(map(len, examples.values())))
    cache = token_cache.place(place, config.feature_cache if data == "given" else token_cache.NOWHERE)
    make = task.features if config.stride is None else partial(task.features, stride=config.stride)
    with watchdog.phase("tokenising"):
        splits = {
            name: Split(name, rows, token_cache.encode(make, rows, tokenizer, config.max_seq_length, cache))
            for name, rows in examples.items()
        }
    run = Run(
        config=config,
        world=world,
        folder=folder,
        plan=plan,
        deepspeed=deepspeed,
        resumed=resumed,
        task=task,
        tokenizer=tokenizer,
        splits=splits,
        data="sample" if own_head is not None and own_head.data == "sample" else data,
        model_commit=inputs.weights(config).commit,
        changes=changes,
        trains=trains,
    )
    if config.trained and run.trains:
        weights = class_weights.of(config.class_weights, task, run.training)
        run = replace(run, task=replace(task, label_smoothing=config.label_smoothing, class_weights=weights))
    _announce(run, place)
    return run


def _announce(run: Run, place: Path) -> None:
    """The beginning of the run's log: what, on what, and the four batch numbers."""
    config, plan, task, world = run.config, run.plan, run.task, run.world
    if run.data == "sample":
        logger.warning(SAMPLE_BANNER)
    logger.info("task    %s (%s), recipe %s, seed %d", task.name, task.family, config.recipe, config.seed)
    if run.is_trial:
        logger.info("search  a trial: its dev score counts, test is not read, and its weights are not kept")
    elif config.search is not None and "basis" in config.search:
        values = ", ".join(f"{name}={value}" for name, value in config.search["values"].items())
        logger.info("search  %s, the best of %d by %s", values, config.search["trials"], config.search["basis"])
        if config.search["warning"]:
            logger.warning("search  %s", config.search["warning"])
    if (like := tasks.like_of(str(config.recipe), config.task, config.own_task)) != task.name or config.own_task:
        own = ", ".join(tasks.facts(config.task, config.own_task)["recipe"]) or "nothing"
        logger.info("recipe  from the task file: %s; the rest as %s for %s; flags win", own, config.recipe, like)
    logger.info("model   %s in %s on %d %s", config.model_name_or_path, run.precision, world.size, world.device.type)
    if note := tf32_note(config.tf32, run.precision, world.device):
        logger.info(note)
    if not config.trained:
        logger.info("head    of the model itself: nothing is trained")
    elif config.do_train and config.head == "pretrained":
        logger.info("head    the checkpoint's own pre-trained layers, and a fresh last one")
    elif config.do_train and (Path(config.model_name_or_path) / HEAD_FILE).is_file():
        logger.info("head    a fresh one: the model is fine-tuned already, and only its encoder is used")
    if world.size == 1 and (unused := distributed.unused_tasks(os.environ)):
        logger.info("        %s", unused)
    sizes = ", ".join(f"{name} {len(split.examples)}" for name, split in run.splits.items())
    fold = f"; dev is part {config.fold} of train and dev" if config.fold else ""
    logger.info("data    %s: %s%s", place, sizes, fold)
    if run.trains and config.train_fraction < 1:
        whole = sum(len(run.splits[name].examples) for name in run.train_splits)
        logger.info("share   %d of %d training examples, drawn by seed %d", len(run.training), whole, config.seed)
    if run.task.class_weights is not None:
        weights = ", ".join(f"{label} {weight:.4g}" for label, weight in run.class_weights.items())
        logger.info("weights %s, of classes in the training loss", weights)
    for line in lengths(run.splits, config):
        logger.info("length  %s", line)
    if config.do_train:
        batch = "batch   %d examples a device x %d devices x %d accumulated = %d a step"
        logger.info(batch, plan.micro, plan.world, plan.accumulation, plan.total)
        asked = {name: getattr(config, name) for name in OF_STEPS}
        unusual = [f"{name} {value}" for name, value in asked.items() if value != getattr(USUAL, name)]
        logger.info("rate    %s", ", ".join([f"{config.learning_rate:g}", *unusual]))
        if warning := other_batch(config, plan):
            logger.warning(warning)
        if "dev" in run.train_splits:
            warning = "dev is trained on, as the published recipe does: its score tells little (--train_splits train)"
            logger.warning(warning)
    if run.trains and config.early_stopping_patience is not None:
        said = "stops   after %d epochs in a row without a better dev score; the best epoch's weights are reported"
        logger.info(said, config.early_stopping_patience)
    logger.info("folder  %s", run.folder.path)


def lengths(splits: Mapping[str, Split], config: RunConfig) -> list[str]:
    """What to say of inputs that are longer than --max_seq_length."""
    lines = []
    if cut := {name: split.cut for name, split in splits.items() if split.cut}:
        shares = ", ".join(f"{name} {100 * share:.2f} %" for name, share in cut.items())
        by_word = next(iter(splits.values())).encoded.positions is not None
        kind, longest = "words" if by_word else "examples", config.max_seq_length
        what = f"are cut off by --max_seq_length {longest}; --stride N reads longer inputs in windows"
        if config.stride is not None:
            what = f"have two texts too long for --max_seq_length {longest}: of the shorter the end is cut off"
        lines.append(f"{shares} of the {kind} {what}")
    for name, split in splits.items():
        if counts := split.encoded.windows:
            share, most = sum(count > 1 for count in counts) / len(counts), max(counts)
            lines.append(f"{name}: {100 * share:.2f} % are read in windows, {most} at most, {sum(counts)} in all")
    return lines


def other_batch(config: RunConfig, plan: BatchPlan) -> str:
    """What to say where the number of devices makes a published recipe's batch another one; else ""."""
    if config.own_task is not None or config.global_batch_size is not None:
        return ""
    values = tasks.defaults(str(config.recipe), config.task)
    usual = int(values["per_gpu_train_batch_size"] * values["gradient_accumulation_steps"])
    if not config.per_gpu_train_batch_size * config.gradient_accumulation_steps == usual != plan.total:
        return ""
    return f"the published recipe has {usual} examples a step, this run {plan.total} (--global_batch_size {usual})"


def tf32_note(asked: bool, precision: str, device: torch.device) -> str:
    """What to say of --tf32; "" where it was not asked for and would change nothing."""
    if device.type == "cuda" and precision == "fp32" and torch.cuda.is_tf32_supported():
        state = "on" if asked else "off: --tf32 is faster"
        return f"tf32    {state}; it rounds the inputs of matrix products to 10 bits of mantissa"
    return f"--tf32 changes nothing: this run is in {precision} on {device.type}" if asked else ""

"""Training: epochs of optimizer steps, an evaluation after each, and a checkpoint wherever the run may be resumed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from harness import checkpoint, watchdog
from harness.checkpoint import TrainState
from harness.config import BatchPlan, RunConfig
from harness.data import collate, epoch_steps, steps_per_epoch
from harness.distributed import World, agree
from harness.ds.engine import Engine
from harness.errors import TrainingFailed, training_error
from harness.evaluate import Evaluation
from harness.logs import Progress
from harness.preemption import StopRequest
from harness.run_folder import RunFolder
from harness.task import Encoded
from harness.tracking import Tracker

logger = logging.getLogger(__name__)

STOP_EVERY = 8  # steps between two agreements on a stop request, with several ranks
CHECK_EVERY = 50  # steps between two looks at the loss, where no rows are logged


@dataclass(frozen=True)
class Training:
    """The parts of a run that the loop works with; none of them knows the others."""

    config: RunConfig
    world: World
    plan: BatchPlan
    total_steps: int
    engine: Engine
    train: Encoded
    pad_id: int
    score_dev: Callable[[], Evaluation] | None  # collective; None without evaluation every epoch
    after_epoch: Callable[[TrainState], None]  # collective; called between an epoch's evaluation and its checkpoint
    tracker: Tracker
    progress: Progress
    folder: RunFolder
    stop: StopRequest


def fit(run: Training, state: TrainState) -> bool:
    """Train to the end; False where a stop request ended it early, at a checkpoint. Raises TrainingFailed."""
    saver = _Saver(run)
    while not is_finished(run, state):
        try:
            with watchdog.phase("training"):
                stopped = _train_epoch(run, state, saver)
        except Exception as error:
            failure = training_error(
                error, state.applied_steps, run.engine.metrics().lr, run.config.per_gpu_train_batch_size
            )
            if failure is None:
                raise
            raise failure from error
        if stopped:
            saver.save(state)
            return False
        _finish_epoch(run, state)
        saver.after_epoch(state)
    return True


def is_finished(run: Training, state: TrainState) -> bool:
    """All steps done. With --max_steps applied steps count; else passes over the data, overflowed steps included."""
    if run.config.max_steps > 0:
        return state.applied_steps >= run.total_steps
    return _steps_tried(run, state) >= run.total_steps


def _steps_tried(run: Training, state: TrainState) -> int:
    return state.epoch * steps_per_epoch(len(run.train), run.plan) + state.step_in_epoch


def _train_epoch(run: Training, state: TrainState, saver: _Saver) -> bool:
    """The rest of the current epoch; True where it was left early for a stop request."""
    run.engine.train(True)
    pending: list[torch.Tensor] = []
    clock = _Clock()
    steps = epoch_steps(run.train, run.plan, run.config.seed, state.epoch, run.world.rank, state.step_in_epoch)
    for passes in steps:
        loss = torch.zeros((), device=run.world.device)
        for micro in passes:
            batch = collate(run.train, micro.examples, run.pad_id)
            clock.count(batch.tokens if micro.scale else 0, len(micro.examples) if micro.scale else 0)
            loss = loss + run.engine.micro_step(batch, micro.scale) / run.plan.accumulation
        watchdog.beat()
        pending.append(loss)
        state.step_in_epoch += 1
        state.applied_steps = run.engine.applied_steps
        tried = _steps_tried(run, state)
        every = run.config.logging_steps or CHECK_EVERY
        if tried % every == 0:
            _flush(run, state, pending, clock)
        run.progress.step(
            tried / steps_per_epoch(len(run.train), run.plan),
            tried,
            state.losses[-1] if state.losses else None,
            clock.rate,
        )
        if is_finished(run, state):
            break
        if run.config.save_steps and tried % run.config.save_steps == 0:
            _settle(run, state, pending, clock)
            saver.save(state)
        # Ranks agree on a stop request, and seldom: each time they wait for each other.
        if (run.world.size == 1 or tried % STOP_EVERY == 0) and agree(bool(run.stop.requested), run.world.device):
            _settle(run, state, pending, clock)
            return True
    _flush(run, state, pending, clock)
    state.train_seconds += clock.lap()
    return False


def _settle(run: Training, state: TrainState, pending: list[torch.Tensor], clock: _Clock) -> None:
    """Bring the state up to date before it is saved, without a row: rows fall on the same steps in a resumed run."""
    _collect(run, state, pending)
    state.train_seconds += clock.lap()


def _collect(run: Training, state: TrainState, pending: list[torch.Tensor]) -> None:
    """The pending steps' losses as numbers, meaned over ranks: the one place where the loop waits for the device."""
    if not pending:
        return
    losses = torch.stack(pending).float()
    if run.world.size > 1:
        dist.all_reduce(losses)
        losses /= run.world.size
    values = losses.tolist()
    pending.clear()
    state.losses.extend(values)
    check_loss(sum(values), state.applied_steps, run.engine.metrics().lr, run.world)


def _flush(run: Training, state: TrainState, pending: list[torch.Tensor], clock: _Clock) -> None:
    """A row of train metrics: the mean loss since the last row, and what the last step looked like."""
    _collect(run, state, pending)
    window = state.losses[state.window :]
    if not window:
        return
    state.window = len(state.losses)
    metrics = run.engine.metrics()
    examples, tokens = clock.rates(run.world.size)
    values = {
        "train/loss": sum(window) / len(window),
        "train/lr": metrics.lr,
        "train/examples_per_second": examples,
        "train/tokens_per_second": tokens,
    }
    if metrics.grad_norm is not None:
        values["train/grad_norm"] = metrics.grad_norm
    if metrics.loss_scale is not None:
        values |= {"train/loss_scale": metrics.loss_scale, "train/skipped_steps": metrics.skipped}
    if run.config.logging_steps:
        run.tracker.log_step(_steps_tried(run, state), values)


def _finish_epoch(run: Training, state: TrainState) -> None:
    """Evaluate, and log the epoch."""
    tried = _steps_tried(run, state)
    epoch = tried / steps_per_epoch(len(run.train), run.plan)
    entry: dict[str, Any] = {
        "epoch": state.epoch + 1,
        "step": state.applied_steps,
        "train_loss": sum(state.losses) / len(state.losses),
    }
    values = {"train/epoch_loss": entry["train_loss"]}
    if run.score_dev is not None:
        run.engine.train(False)
        evaluation = run.score_dev()
        state.evaluation_seconds += evaluation.seconds
        dev = {name: value for name, value in evaluation.to_dict().items() if name not in ("per_class", "warnings")}
        entry["dev"] = dev
        numbers = {name: value for name, value in dev.items() if isinstance(value, int | float)}
        values |= {f"dev/{name}": value for name, value in numbers.items() if name != "examples"}
    state.history.append(entry)
    state.epoch, state.step_in_epoch, state.losses, state.window = state.epoch + 1, 0, [], 0
    run.tracker.log_epoch(epoch, tried, values)
    columns: dict[str, str | float] = {
        "epoch": str(entry["epoch"]),
        "step": str(entry["step"]),
        "train loss": f"{entry['train_loss']:.4f}",
    }
    if "dev" in entry:
        dev = entry["dev"]
        mark = " *" if state.best_epoch() == entry["epoch"] else ""
        columns |= {"dev loss": f"{dev['loss']:.4f}", f"dev {dev['metric']}": f"{100 * dev['score']:.2f}{mark}"}
    run.progress.epoch_row(columns)
    run.after_epoch(state)


class _Saver:
    """Writes checkpoints, and knows when the last one was: of a large model they take longer than a short epoch."""

    def __init__(self, run: Training) -> None:
        self._run, self._last = run, time.monotonic()

    def save(self, state: TrainState) -> None:
        """Here and now. Collective."""
        run = self._run
        if run.world.is_main:
            run.folder.check_exists()
        checkpoint.save(run.folder.checkpoints, run.engine, state, run.world, max(1, run.config.keep_checkpoints))
        self._last = time.monotonic()

    def after_epoch(self, state: TrainState) -> None:
        """After the last epoch, and after those at whose end the last one is --save_minutes old. Collective."""
        due = time.monotonic() - self._last >= 60 * self._run.config.save_minutes
        if is_finished(self._run, state) or agree(due, self._run.world.device):
            self.save(state)


class _Clock:
    """Examples and tokens of this rank since the last row, against the wall."""

    def __init__(self) -> None:
        self._lap = self._row = time.perf_counter()
        self._examples = self._tokens = 0
        self.rate: float | None = None

    def count(self, tokens: int, examples: int) -> None:
        self._tokens += tokens
        self._examples += examples

    def rates(self, ranks: int) -> tuple[float, float]:
        """(examples, tokens) per second over all ranks since the last call."""
        now = time.perf_counter()
        seconds = max(now - self._row, 1e-9)
        rates = ranks * self._examples / seconds, ranks * self._tokens / seconds
        self._row, self._examples, self._tokens, self.rate = now, 0, 0, rates[0]
        return rates

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self._lap = self._lap, time.perf_counter()
        return self._lap - before


def check_loss(loss: float, step: int, lr: float, world: World) -> None:
    """Raises TrainingFailed on all ranks where the loss of any is NaN or infinite."""
    if agree(not math.isfinite(loss), world.device):
        raise TrainingFailed(
            f"the loss is not a number at step {step}, learning rate {lr:.2e}: training has diverged. Try a lower "
            "--learning_rate, --warmup_steps, or --precision fp32; the last good checkpoint is kept",
            deterministic=True,
        )

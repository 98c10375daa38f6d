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
from harness.distributed import World, agree, largest
from harness.ds.engine import Engine
from harness.errors import TrainingFailed, training_error
from harness.evaluate import Evaluation
from harness.logs import Progress
from harness.preemption import StopRequest
from harness.run_folder import RunFolder
from harness.task import Encoded
from harness.tracking import Tracker

logger = logging.getLogger(__name__)

# With several ranks: between two agreements on a stop request, in steps, and in seconds where steps are long.
STOP_EVERY, STOP_SECONDS = 8, 8.0
CHECK_EVERY = 50  # steps between two looks at the loss, where no rows are logged


@dataclass
class Training:
    """Takes a state through the rest of its training. None of the parts knows the others."""

    state: TrainState
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
    what_fits: Callable[[], str]  # words for settings that need less memory

    def __post_init__(self) -> None:
        self._epoch_steps = steps_per_epoch(len(self.train), self.plan)
        self._pending: list[torch.Tensor] = []  # losses of steps that were not read yet: that waits for the device
        self._saved = time.monotonic()
        self._asked, self._ask_at = (self._tried, time.monotonic()), self._tried + 1

    @property
    def _tried(self) -> int:
        """Optimizer steps so far, overflowed ones included."""
        return self.state.epoch * self._epoch_steps + self.state.step_in_epoch

    @property
    def _finished(self) -> bool:
        """All steps are taken, or --early_stopping_patience ended it: by the epochs so far, as of a resumed run."""
        return self._stops_early or self._all_steps

    @property
    def _all_steps(self) -> bool:
        """With --max_steps applied steps count; else passes over the data, overflowed steps included."""
        if self.config.max_steps > 0 and self.state.applied_steps >= self.total_steps:
            self.state.applied_steps = self.engine.applied_steps
        done = self.state.applied_steps if self.config.max_steps > 0 else self._tried
        return done >= self.total_steps

    @property
    def _stops_early(self) -> bool:
        patience = self.config.early_stopping_patience
        return patience is not None and self.state.epochs_without_gain() >= patience

    def fit(self) -> bool:
        """Train to the end; False where a stop request ended it early, at a checkpoint. Raises TrainingFailed."""
        state = self.state
        while not self._finished:
            try:
                with watchdog.phase("training"):
                    stopped = self._train_epoch()
            except Exception as error:
                failure = training_error(error, state.applied_steps, self.engine.metrics().lr, self.what_fits)
                if failure is None:
                    raise
                raise failure from error
            if stopped:
                self._save()
                return False
            self._finish_epoch()
            # Checkpoints of a large model may take longer than a short epoch.
            due = time.monotonic() - self._saved >= 60 * self.config.save_minutes
            if self._finished or agree(due, self.world.device):
                self._save()
        if self._stops_early and not self._all_steps:
            said = "stopped after epoch %d: no better dev score than that of epoch %d in %d epochs"
            best = self.state.best_epoch()
            logger.info(said, self.state.epoch, best, self.config.early_stopping_patience)
        return True

    def _train_epoch(self) -> bool:
        """The rest of the current epoch; True where it was left early for a stop request."""
        state, config = self.state, self.config
        self.engine.train(True)
        # Since the last row: when, and what this rank has seen. The lap: since train_seconds was counted.
        self._row_began = self._lap_began = time.perf_counter()
        self._examples = self._tokens = 0
        self._rate: float | None = None  # examples a second over all ranks, in the last row
        first, rank = state.step_in_epoch, self.world.rank
        for passes in epoch_steps(self.train, self.plan, config.seed, state.epoch, rank, first):
            loss = torch.zeros((), device=self.world.device)
            for micro in passes:
                batch = collate(self.train, micro.examples, self.pad_id)
                if micro.scale:
                    self._tokens += batch.tokens
                    self._examples += len(micro.examples)
                loss = loss + self.engine.micro_step(batch, micro.scale) / self.plan.accumulation
            watchdog.beat()
            self._pending.append(loss)
            state.step_in_epoch += 1
            state.applied_steps += 1  # if it did not overflow, which `_collect` finds out: to know it now would wait
            tried = self._tried
            if tried % (config.logging_steps or CHECK_EVERY) == 0:
                self._log_row()
            self.progress.step(tried / self._epoch_steps, tried, state.losses[-1] if state.losses else None, self._rate)
            if self._finished:
                break
            if config.save_steps and tried % config.save_steps == 0:
                self._settle()
                self._save()
            if self._stops():
                self._settle()
                return True
        self._log_row()
        self._settle()
        return False

    def _stops(self) -> bool:
        """Whether a rank was asked to stop. Ranks agree on it, seldom where steps are short: they wait for each other.

        As seldom on all ranks: the slowest one's seconds a step say when they agree next.
        """
        if self.world.size > 1 and self._tried < self._ask_at:
            return False
        step, began = self._asked
        self._asked = self._tried, time.monotonic()
        seconds = (self._asked[1] - began) / max(1, self._tried - step)
        slowest = largest(math.inf if self.stop.requested else seconds, self.world.device)
        self._ask_at = self._tried + max(1, min(STOP_EVERY, int(STOP_SECONDS / max(slowest, 1e-3))))
        return slowest == math.inf

    def _settle(self) -> None:
        """Bring the state up to date to be saved, without a row: rows fall on the same steps in a resumed run."""
        self._collect()
        before, self._lap_began = self._lap_began, time.perf_counter()
        self.state.train_seconds += self._lap_began - before

    def _collect(self) -> None:
        """The pending losses as numbers, averaged over ranks: the one place where the loop waits for the device."""
        if not self._pending:
            return
        self.state.applied_steps = self.engine.applied_steps
        losses = torch.stack(self._pending).float()
        if self.world.size > 1:
            dist.all_reduce(losses)
            losses /= self.world.size
        values = losses.tolist()
        self._pending.clear()
        self.state.losses.extend(values)
        check_loss(sum(values), self.state.applied_steps, self.engine.metrics().lr, self.world)

    def _log_row(self) -> None:
        """A row of train metrics: the mean loss since the last row, and what the last step looked like."""
        self._collect()
        state = self.state
        window = state.losses[state.window :]
        if not window:
            return
        state.window = len(state.losses)
        metrics = self.engine.metrics()
        before, self._row_began = self._row_began, time.perf_counter()
        seconds = max(self._row_began - before, 1e-9)
        self._rate, tokens = (self.world.size * count / seconds for count in (self._examples, self._tokens))
        self._examples = self._tokens = 0
        values = {
            "train/loss": sum(window) / len(window),
            "train/lr": metrics.lr,
            "train/examples_per_second": self._rate,
            "train/tokens_per_second": tokens,
        }
        if metrics.grad_norm is not None:
            values["train/grad_norm"] = metrics.grad_norm
        if metrics.loss_scale is not None:
            values |= {"train/loss_scale": metrics.loss_scale, "train/skipped_steps": metrics.skipped}
        if self.config.logging_steps:
            self.tracker.log_step(self._tried, values)

    def _finish_epoch(self) -> None:
        """Evaluate, and log the epoch."""
        state, tried = self.state, self._tried
        number, loss = state.epoch + 1, sum(state.losses) / len(state.losses)
        entry: dict[str, Any] = {"epoch": number, "step": state.applied_steps, "train_loss": loss}
        values = {"train/epoch_loss": loss}
        columns: dict[str, str | float] = {
            "epoch": str(number), "step": str(state.applied_steps), "train loss": f"{loss:.4f}"
        }  # fmt: skip
        state.history.append(entry)
        if self.score_dev is not None:
            self.engine.train(False)
            evaluation = self.score_dev()
            state.evaluation_seconds += evaluation.seconds
            dev = {name: value for name, value in evaluation.to_dict().items() if name not in ("per_class", "warnings")}
            entry["dev"] = dev
            numbers = {name: value for name, value in dev.items() if isinstance(value, int | float)}
            values |= {f"dev/{name}": value for name, value in numbers.items() if name != "examples"}
            mark = " *" if state.best_epoch() == number else ""
            columns |= {"dev loss": f"{dev['loss']:.4f}", f"dev {dev['metric']}": f"{100 * dev['score']:.2f}{mark}"}
        state.epoch, state.step_in_epoch, state.losses, state.window = number, 0, [], 0
        self.tracker.log_epoch(tried / self._epoch_steps, tried, values)
        self.progress.epoch_row(columns)
        self.after_epoch(state)

    def _save(self) -> None:
        """Here and now. Collective."""
        if self.world.is_main:
            self.folder.check_exists()
        checkpoint.save(
            self.folder.checkpoints, self.engine, self.state, self.world, max(1, self.config.keep_checkpoints)
        )
        self._saved = time.monotonic()


def check_loss(loss: float, step: int, lr: float, world: World) -> None:
    """Raises TrainingFailed on all ranks where the loss of any is NaN or infinite."""
    if agree(not math.isfinite(loss), world.device):
        raise TrainingFailed(
            f"the loss is not a number at step {step}, learning rate {lr:.2e}: training has diverged. Try a lower "
            "--learning_rate, --warmup_steps, or --precision fp32; the last good checkpoint is kept",
            deterministic=True,
        )

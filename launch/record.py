"""What a run leaves behind: the tracker around it, and result.json."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harness import checkpoint, run_files, runs, tracking
from harness.checkpoint import TrainState
from harness.data import steps_per_epoch
from harness.evaluate import Evaluation
from harness.metrics_file import Status, Tracker
from harness.preemption import Stopped
from harness.tracking import TrackerIdentity
from launch import inputs, outcome
from launch.assembly import Run
from launch.reporting import card
from launch.settings import SAMPLE_BANNER

logger = logging.getLogger("harness.launch")


@contextmanager
def tracker(run: Run) -> Iterator[Tracker]:
    """metrics.jsonl and wandb for the time of the run; closed with its outcome, and what is left to do said last."""
    config = run.config
    identity = TrackerIdentity(
        project=config.wandb_project,
        entity=config.wandb_entity,
        group=config.wandb_group or f"{run.task.name}/{config.model_label}",
        name=config.wandb_name or f"{run.task.name}-{config.model_label}-seed{config.seed}",
        tags=(
            run.task.name,
            config.model_label,
            *config.wandb_tags,
            *(("SAMPLE DATA",) if run.data == "sample" else ()),
        ),
    )
    built = tracking.build(
        run.folder.path,
        is_main=run.world.is_main,
        mode=config.wandb_mode,
        config=described(run),
        identity=identity,
        resumed_step=_resumed_step(run),
    )
    status: Status = "failed"
    try:
        yield built
        status = "finished"
    except Stopped:
        status = "stopped"
        raise
    finally:
        last = built.close(status)
        if last:
            logger.info("To upload the run's figures: %s", last)


def _resumed_step(run: Run) -> int:
    """The step up to which earlier figures stay: all of them where nothing is trained any more."""
    if not run.trains:
        return sys.maxsize
    state = checkpoint.begun(run.folder.checkpoints) if run.world.is_main else None
    if state is None:
        return 0
    return state.epoch * steps_per_epoch(len(run.training_examples()), run.plan) + state.step_in_epoch


def described(run: Run) -> dict[str, Any]:
    """The whole resolved configuration, for wandb."""
    plan = run.plan
    resolved = {
        "precision": run.precision,
        "world_size": plan.world,
        "micro_batch": plan.micro,
        "accumulation": plan.accumulation,
        "examples_per_step": plan.total,
        "train_splits": list(run.train_splits),
    }
    return {
        **run.config.to_dict(),
        "resolved": resolved,
        "data": "SAMPLE DATA" if run.data == "sample" else "given",
        "versions": runs.versions(),
        "commit": runs.commit(),
    }


def finish(run: Run, scores: Mapping[str, Evaluation], state: TrainState | None, seconds: float) -> dict[str, Any]:
    """Write the model card and result.json, the last file of a run, and show the scores. Rank 0 alone."""
    run.folder.check_exists()
    result = _result(run, scores, state, seconds)
    card.write(run.folder, run.config, result)
    runs.write_result(run.folder, result)
    if run.config.keep_checkpoints == 0:
        run_files.remove(run.folder.path, "checkpoints")
    outcome.show(result)
    return result


def _result(run: Run, scores: Mapping[str, Evaluation], state: TrainState | None, seconds: float) -> dict[str, Any]:
    before: dict[str, Any] = {}
    if state is None and run.folder.result.is_file():  # predicting with a run that was trained earlier
        before = json.loads(run.folder.result.read_text(encoding="utf-8"))
    config = run.config
    epochs = state.history if state else before.get("epochs", [])
    trained = run.train_splits
    timing = {"total_seconds": round(seconds, 3)}
    if state is not None:
        timing |= {
            "train_seconds": round(state.train_seconds, 3),
            "evaluation_seconds": round(state.evaluation_seconds, 3),
        }
    best = state.best_epoch() if state else before.get("best_epoch")
    return {
        "task": run.task.name,
        "model": config.model_name_or_path,
        "model_commit": before.get("model_commit", run.model_commit),
        "trust_remote_code": config.trust_remote_code,
        "recipe": config.recipe,
        "seed": config.seed,
        "trained": config.trained,
        "data": run.data,
        **({"note": SAMPLE_BANNER} if run.data == "sample" else {}),
        "selected": config.select,
        "best_epoch": best,
        "dev_was_trained_on": "dev" in trained,
        **({} if "dev" in run.splits or not config.do_eval else {"empty_splits": ["dev"]}),
        "scores": {**before.get("scores", {}), **{name: evaluation.to_dict() for name, evaluation in scores.items()}},
        "epochs": epochs,
        "steps": state.applied_steps if state else before.get("steps"),
        "precision": run.precision,
        "world_size": run.world.size,
        "examples_per_step": run.plan.total,
        "timing": before.get("timing", timing) if state is None else timing,
        "versions": runs.versions(),
        "commit": runs.commit(),
        **({"changes": changes} if (changes := inputs.changes(run.folder)) else {}),
    }

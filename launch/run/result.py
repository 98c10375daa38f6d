"""What a run leaves behind: the tracker around it, result.json, and the table of scores, shown again when repeated."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import fingerprint, logs, run_folder, tracking
from harness.config import RunConfig
from harness.errors import Stopped, UserError
from harness.fingerprint import Digest
from harness.run_folder import RunFolder
from harness.tracking import Status, Tracker, TrackerIdentity
from launch.run import inputs, settings
from launch.run.settings import SAMPLE_BANNER

if TYPE_CHECKING:  # with torch, which a command that shows a finished run has no need of
    from harness.checkpoint import TrainState
    from harness.evaluate import Evaluation
    from launch.run.setup import Run

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
            logger.info("To upload the run's metrics: %s", last)


def _resumed_step(run: Run) -> int:
    """The step up to which earlier metrics stay: all of them where nothing is trained any more."""
    if not run.trains:
        return sys.maxsize
    if run.resumed is None:
        return 0
    from harness.data import steps_per_epoch

    return run.resumed.epoch * steps_per_epoch(len(run.training_examples()), run.plan) + run.resumed.step_in_epoch


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
        "versions": fingerprint.versions(),
        "commit": fingerprint.commit(),
    }


def finish(run: Run, scores: Mapping[str, Evaluation], state: TrainState | None, seconds: float) -> dict[str, Any]:
    """Write the model card and result.json, the last file of a run, and show the scores. Rank 0 alone."""
    from launch.run import card

    run.folder.check_exists()
    result = _result(run, scores, state, seconds)
    card.write(run.folder, run.config, result)
    run_folder.write_result(run.folder, result)
    if run.config.keep_checkpoints == 0:
        run_folder.remove(run.folder.path, "checkpoints")
    show(result)
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
        "versions": fingerprint.versions(),
        "commit": fingerprint.commit(),
        **({"changes": changes} if (changes := inputs.changes(run.folder)) else {}),
    }


def show(result: Mapping[str, Any]) -> None:
    """The closing table: scores times 100."""
    rows: list[dict[str, str | float]] = []
    for name, values in result["scores"].items():
        note = "trained on" if name == "dev" and result.get("dev_was_trained_on") else ""
        rows.append(
            {
                "split": name,
                "metric": values["metric"],
                "score": f"{100 * values['score']:.2f}",
                "loss": f"{values['loss']:.4f}",
                "examples": str(values["examples"]),
                "": note,
            }
        )
    if rows:
        logs.print_table(f"{result['task']}, seed {result['seed']}", rows)
    if result["data"] == "sample":
        logger.warning(settings.SAMPLE_BANNER)


def show_again(config: RunConfig, result: Mapping[str, Any]) -> None:
    """The same of a run that was finished before, on the terminal alone: its log has it already. Rank 0 alone."""
    path = RunFolder(Path(config.output_dir)).result
    logs.setup(True, None)
    try:
        logger.info("finished before, on %s; nothing is done again (%s)", _date(path), path)
        show(result)
        for text in stale(config):
            logger.warning("%s", text)
    finally:
        logs.close()


def stale(config: RunConfig, digest: Digest = fingerprint.sha256) -> list[str]:
    """A line for each input of a finished run that is gone, or is not what it was."""
    lines = [f"{text} is gone now: the scores are of what was there then" for text in gone(config)]
    try:
        lines += [
            f"{text} has changed since the run began: the scores are of what was there then; for those of now, name "
            "another --output_dir, or start anew with --overwrite_output_dir"
            for text in inputs.changed(config, digest)
        ]
    except UserError as error:
        lines.append(f"whether the inputs are still those of the run cannot be told: {error}")
    return lines


def _date(path: Path) -> str:
    return f"{datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M}"


def gone(config: RunConfig) -> list[str]:
    """The inputs of a run that are no longer where they were, each as `--flag value`."""
    texts = []
    try:
        settings.find_data(config)
    except UserError:
        texts.append(f"--data_dir {config.data_dir}")
    for name in ("task_file", "model_name_or_path", "tokenizer_name"):
        value = getattr(config, name)
        if value and Path(value).is_absolute() and not os.path.exists(value):
            texts.append(f"--{name} {value}")
    return texts

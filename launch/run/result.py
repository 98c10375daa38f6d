"""What a run leaves behind: the tracker around it, result.json, and the table of scores, shown again when repeated."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import logs, run_folder, tracking, versions
from harness.config import RunConfig
from harness.errors import Stopped
from harness.files import read_json
from harness.run_folder import RunFolder
from harness.tracking import Status, Tracker, TrackerIdentity
from launch.run import digests, inputs
from launch.run.settings import SAMPLE_BANNER

if TYPE_CHECKING:  # with torch, which a command that shows a finished run has no need of
    from harness.checkpoint import TrainState
    from harness.evaluate import Evaluation
    from launch.run.setup import Run

logger = logging.getLogger("harness.launch")

OF_SETTINGS = ("stopped_early", "train_examples", "class_weights")  # there where the settings ask for them


@contextmanager
def tracker(run: Run) -> Iterator[Tracker]:
    """metrics.jsonl and wandb for the time of the run; closed with its outcome, and what is left to do said last."""
    config, plan = run.config, run.plan
    is_sample = run.data == "sample"
    resolved = {
        "precision": run.precision,
        "world_size": plan.world,
        "micro_batch": plan.micro,
        "accumulation": plan.accumulation,
        "examples_per_step": plan.total,
        "train_splits": list(run.train_splits),
    }
    built = tracking.build(
        run.folder.path,
        is_main=run.world.is_main,
        mode=config.wandb_mode,
        config={
            **config.to_dict(),
            "resolved": resolved,
            "data": "SAMPLE DATA" if is_sample else "given",
            "versions": versions.installed(config.lora_rank is not None),
            "commit": versions.commit(),
        },
        identity=TrackerIdentity(
            project=config.wandb_project,
            entity=config.wandb_entity,
            group=config.wandb_group or f"{config.task}/{config.model_label}",
            name=config.wandb_name or f"{config.task}-{config.model_label}-seed{config.seed}",
            tags=(config.task, config.model_label, *config.wandb_tags, *(("SAMPLE DATA",) if is_sample else ())),
        ),
        # Earlier metrics stay up to the step that is resumed; all of them where nothing is trained any more.
        resumed_step=run.resumed_step() if run.trains else sys.maxsize,
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


def finish(run: Run, scores: Mapping[str, Evaluation], state: TrainState | None, seconds: float) -> dict[str, Any]:
    """Write the model card and result.json, the last file of a run, and show the scores. Rank 0 alone."""
    from launch.run import card

    run.folder.check_exists()
    result = digests.sealed(_result(run, scores, state, seconds))
    card.write(run.folder, run.config, result)
    run_folder.write_result(run.folder, result)
    if run.config.keep_checkpoints == 0:
        run_folder.remove(run.folder.path, "checkpoints")
    if run.is_trial:  # of many, whose weights nobody asked for
        run_folder.remove(run.folder.path, "model")
    show(result)
    return result


def _result(run: Run, scores: Mapping[str, Evaluation], state: TrainState | None, seconds: float) -> dict[str, Any]:
    config = run.config
    timing = {"total_seconds": round(seconds, 3), "finished": round(time.time(), 3)}
    before: dict[str, Any] = {}
    if state is None:  # predicting with a run that was trained earlier
        before = read_json(run.folder.result) if run.folder.result.is_file() else {}
        usual: dict[str, Any] = {"best_epoch": None, "epochs": [], "steps": None, "timing": timing}
        training = {name: before.get(name, value) for name, value in usual.items()}
        of_settings = {name: before[name] for name in OF_SETTINGS if name in before}
    else:
        timing["train_seconds"] = round(state.train_seconds, 3)
        timing["evaluation_seconds"] = round(state.evaluation_seconds, 3)
        training = {"best_epoch": state.best_epoch(), "epochs": state.history, "steps": state.applied_steps}
        training |= {"timing": timing}
        patience, weights = config.early_stopping_patience, run.class_weights
        early = {}
        if patience is not None:  # not where the last epoch of all was the last that it would have waited for
            left = state.applied_steps < config.max_steps or state.epoch < config.num_train_epochs * (
                config.max_steps < 0
            )
            early = {"stopped_early": state.epochs_without_gain() >= patience and left}
        share = {} if config.train_fraction == 1 else {"train_examples": len(run.training)}
        of_settings = {**early, **share, **({"class_weights": weights} if weights else {})}
    cut = {**before.get("cut", {}), **{name: split.cut for name, split in run.splits.items()}}
    cut = {name: share for name, share in cut.items() if share}
    version = run.task.metric_version
    earlier = before.get("digests", {}) if before.get("metric_version") == version else {}
    return {
        "task": run.task.name,
        "model": config.model_name_or_path,
        "model_commit": before.get("model_commit", run.model_commit),
        "trust_remote_code": config.trust_remote_code,
        "recipe": config.recipe,
        **({"search": config.search} if config.search is not None else {}),
        "seed": config.seed,
        "trained": config.trained,
        "data": run.data,
        **({"note": SAMPLE_BANNER} if run.data == "sample" else {}),
        "selected": config.select,
        "best_epoch": training["best_epoch"],
        **of_settings,
        "dev_was_trained_on": "dev" in run.train_splits,
        **({"cut": cut} if cut else {}),
        **({} if "dev" in run.splits or not config.do_eval else {"empty_splits": ["dev"]}),
        "scores": {**before.get("scores", {}), **{name: evaluation.to_dict() for name, evaluation in scores.items()}},
        "epochs": training["epochs"],
        "steps": training["steps"],
        "precision": run.precision,
        "world_size": run.world.size,
        "examples_per_step": run.plan.total,
        "timing": training["timing"],
        "versions": versions.installed(config.lora_rank is not None),
        "commit": versions.commit(),
        **({"changes": run.changes} if run.changes else {}),
        "metric_version": version,
        "digests": digests.of_result(config, run.folder, scores, earlier),
    }


def show(result: Mapping[str, Any]) -> None:
    """The closing table: scores times 100."""
    rows: list[dict[str, str | float]] = [
        {
            "split": name,
            "metric": values["metric"],
            "score": f"{100 * values['score']:.2f}",
            "loss": f"{values['loss']:.4f}",
            "examples": str(values["examples"]),
            "": "trained on" if name == "dev" and result.get("dev_was_trained_on") else "",
        }
        for name, values in result["scores"].items()
    ]
    if rows:
        logs.print_table(f"{result['task']}, seed {result['seed']}", rows)
    if result["data"] == "sample":
        logger.warning(SAMPLE_BANNER)


def show_again(config: RunConfig, result: Mapping[str, Any]) -> None:
    """The same of a run that was finished before, on the terminal alone: its log has it already. Rank 0 alone."""
    path = RunFolder(Path(config.output_dir)).result
    when = datetime.fromtimestamp(path.stat().st_mtime)
    logs.setup(True, None)
    try:
        logger.info("finished before, on %s; nothing is done again (%s)", f"{when:%Y-%m-%d %H:%M}", path)
        show(result)
        for text in inputs.stale(config):
            logger.warning("%s", text)
    finally:
        logs.close()

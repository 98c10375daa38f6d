"""The scores that a run reports: predicted by the weights in `model/`, so that what is reported is what is kept."""

from __future__ import annotations

import logging

from harness import engine, model
from harness.evaluate import Evaluation, evaluate, write_files
from harness.metrics_file import Tracker
from launch.assembly import Run

logger = logging.getLogger("harness.launch")


def score(run: Run, tracker: Tracker) -> dict[str, Evaluation]:
    """Evaluations of the splits that were asked for, and their files. Collective. Raises UserError without `model/`."""
    wanted = (("dev", run.config.do_eval and "dev" in run.splits), ("test", run.config.do_predict))
    asked = [name for name, is_wanted in wanted if is_wanted]
    if not asked:
        return {}
    network = model.load(run.folder.model, run.config.packing).model
    forward = engine.forward_as_trained(network, run.config, run.world)
    scores = {}
    for name in asked:
        scores[name] = evaluate(forward, run.splits[name], run.task, run.config, run.world, run.pad_id)
        for warning in scores[name].report.warnings:
            logger.warning("%s: %s", name, warning)
        if run.world.is_main:
            write_files(scores[name], run.splits[name], run.task, run.folder, run.config)
            tracker.chart(name, scores[name].report)
            tracker.summary(_figures(name, scores[name]))
    return scores


def _figures(name: str, evaluation: Evaluation) -> dict[str, float]:
    """For the tracker's summary. Its dev/score is the best epoch's, so the reported one needs a name of its own."""
    numbers = {key: value for key, value in evaluation.to_dict().items() if isinstance(value, int | float)}
    return {f"{'reported_dev' if name == 'dev' else name}/{key}": value for key, value in numbers.items()}

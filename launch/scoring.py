"""The scores that a run reports: predicted by the weights in `model/`, so that what is reported is what is kept.

Where nothing was trained, `model/` is the one that --model_name_or_path names.
"""

from __future__ import annotations

import logging
from pathlib import Path

from harness import engine, model, pretrained, standard_head
from harness.evaluate import Evaluation, evaluate, write_files
from harness.fine_tuned import HEAD_FILE
from harness.metrics_file import Tracker
from harness.model import EncoderWithHead
from harness.standard_head import StandardHead
from launch.assembly import Run

logger = logging.getLogger("harness.launch")


def score(run: Run, tracker: Tracker) -> dict[str, Evaluation]:
    """Evaluations of the splits that were asked for, and their files. Collective. Raises UserError without a model."""
    wanted = (("dev", run.config.do_eval and "dev" in run.splits), ("test", run.config.do_predict))
    asked = [name for name, is_wanted in wanted if is_wanted]
    if not asked:
        return {}
    logger.info("scoring %s ...", " and ".join(asked))
    network = _network(run)
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


def _network(run: Run) -> EncoderWithHead | StandardHead:
    config = run.config
    folder = run.folder.model if config.trained else Path(pretrained.find(config.model_name_or_path))
    if not config.trained and not (folder / HEAD_FILE).is_file():
        return standard_head.load(str(folder), run.task, config)
    return model.load(folder, config.packing, standard_head.trusts(config)).model


def _figures(name: str, evaluation: Evaluation) -> dict[str, float]:
    """For the tracker's summary. Its dev/score is the best epoch's, so the reported one needs a name of its own."""
    numbers = {key: value for key, value in evaluation.to_dict().items() if isinstance(value, int | float)}
    return {f"{'reported_dev' if name == 'dev' else name}/{key}": value for key, value in numbers.items()}

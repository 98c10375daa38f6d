"""Ends a trial of a search early where it is worse than the others were at that epoch, if the search asks for it.

Which trials are finished by then depends on their order in time: with pruning the same command may choose others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import distributed, records
from harness.checkpoint import TrainState
from harness.errors import TrainingFailed
from harness.run_folder import RunFolder
from launch.run.setup import Run

WAITS_FOR = 3  # finished trials, before any is ended


def check(run: Run, state: TrainState) -> None:
    """After an epoch, by the median of the finished trials. Collective. Raises TrainingFailed that no retry follows."""
    if run.config.search is None or not run.config.search.get("pruning"):
        return
    scores = [float(entry["dev"]["score"]) for entry in state.history if "dev" in entry]
    folder = run.folder.path

    def is_worse() -> bool:
        return bool(scores) and _is_worse(scores, _finished(folder.parent.parent, folder))

    if distributed.on_main(is_worse):
        raise TrainingFailed(
            f"pruned after epoch {len(scores)}: dev {100 * scores[-1]:.2f} is below the median of the other trials "
            "at that epoch; the search leaves these settings out",
            deterministic=True,
        )


def _finished(search: Path, own: Path) -> list[list[float]]:
    """Dev scores by epoch of the other trials that are finished."""
    found = []
    for folder in sorted(path.parent for path in search.glob("*/seed-*/result.json")):
        rows = [row for _, row in records.rows(RunFolder(folder).metrics) if row is not None and row.kind == "epoch"]
        scores = {row.epoch: row.values.get("dev/score") for row in rows}  # an epoch that was repeated counts once
        if folder != own:
            found.append([score for score in scores.values() if score is not None])
    return found


def _is_worse(scores: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=WAITS_FOR)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for other in others:
        values = dict(enumerate(other, start=1))
        if values:
            made = optuna.trial.create_trial(value=other[-1], intermediate_values=values)
            study.add_trial(made)
    trial = study.ask()
    for epoch, score in enumerate(scores, start=1):
        trial.report(score, epoch)
    return bool(trial.should_prune())

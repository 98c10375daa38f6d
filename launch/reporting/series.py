"""Runs that differ in a number: checkpoints of one pre-training in their step, others in their share of the data.

Checkpoints are folders beside each other, named alike but for a last number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.reporting import paths, searches
from launch.reporting.collect import RowKey, Run, finished_by_seed, joined

# step-500, checkpoint_20, epoch3, 1000; not biobert-base-cased-v1.1, not the layers of MiniLM-L-6
CHECKPOINT = re.compile(r"((?:.*(?:steps?|checkpoint|ckpt|epoch|iter)[-_.=]?)?)(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Point:
    """What runs of one step, or share of the training data, score on a task."""

    at: float
    row: RowKey  # of its runs
    dev: Sequence[float]  # fractions, by seed
    test: Sequence[float]


@dataclass(frozen=True)
class Series:
    """Scores on one task against a number, ascending; at least two."""

    name: str  # ckpts/step-*, or the model's; with the settings that tell it from others
    run: Run  # one of its runs: they share task, settings and kind of data
    points: Sequence[Point]


def families(models: Iterable[str]) -> dict[str, str]:
    """Model -> the series that it is of, as `ckpts/step-*`, or itself where there is no other one of a series."""
    names = {model: _split(model)[0] for model in models}
    count = list(names.values())
    return {model: name if count.count(name) > 1 else model for model, name in names.items()}


def checkpoints(runs: Sequence[Run]) -> list[Series]:
    """Those of one pre-training by their steps, of each task, kind of data and choice of settings."""
    runs = [run for run in searches.of_rows(runs) if run.model]
    of = families({run.model for run in runs})
    keys = {run.folder: (run.data, run.task, of[run.model], *run.row[1:]) for run in runs}
    return _series([run for run in runs if of[run.model] != run.model], keys, lambda run: _split(run.model)[1])


def learning_curves(runs: Sequence[Run]) -> list[Series]:
    """Models by the share of the training data (`--train_fraction`), where runs differ in nothing else."""
    found = [run for run in runs if run.config is not None and run.search.get("kind") != "trial"]
    names = paths.tails({run.model for run in found})
    rest = {run.folder: {k: v for k, v in run.settings.items() if k != "train_fraction"} for run in found}
    own = {run.folder: joined({k: v for k, v in rest[run.folder].items() if k not in run.common}) for run in found}
    keys = {
        run.folder: (run.data, run.task, names[run.model], own[run.folder], joined(rest[run.folder])) for run in found
    }
    return _series(found, keys, lambda run: float(run.config.train_fraction) if run.config else 1.0)


def _series(runs: Sequence[Run], keys: Mapping[Path, tuple[str, ...]], at: Callable[[Run], float]) -> list[Series]:
    """`keys`: of each run, (kind of data, task, name, settings, ...) of the series that it is in."""
    groups: dict[tuple[str, ...], dict[float, list[Run]]] = {}
    for run in runs:
        groups.setdefault(keys[run.folder], {}).setdefault(at(run), []).append(run)
    found = []
    for (_, _, name, settings, *_), by_number in sorted(groups.items()):
        points = [point for number in sorted(by_number) if (point := _point(number, by_number[number])) is not None]
        if len(points) > 1:
            label = name + (f" [{settings}]" if settings else "")
            found.append(Series(label, next(iter(by_number.values()))[0], points))
    return found


def _point(at: float, runs: Sequence[Run]) -> Point | None:
    by_seed = sorted(finished_by_seed(runs).items())
    dev, test = ([score for _, run in by_seed if (score := run.score(split)) is not None] for split in ("dev", "test"))
    return Point(at, runs[0].row, dev, test) if dev or test else None


def _split(model: str) -> tuple[str, int]:
    """(the series that it may be of, its step); (its own name, 0) where the name ends in no number."""
    path = Path(model)
    parts = CHECKPOINT.fullmatch(path.name)
    return (str(path.parent / f"{parts[1]}*"), int(parts[2])) if parts else (model, 0)

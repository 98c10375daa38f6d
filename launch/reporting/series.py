"""Checkpoints of one pre-training among the models: folders beside each other, named alike but for a last number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.reporting import searches
from launch.reporting.collect import RowKey, Run, finished_by_seed

# step-500, checkpoint_20, epoch3, 1000; not biobert-base-cased-v1.1, not the layers of MiniLM-L-6
CHECKPOINT = re.compile(r"((?:.*(?:steps?|checkpoint|ckpt|epoch|iter)[-_.=]?)?)(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Point:
    """What one checkpoint scores on a task."""

    step: int
    row: RowKey  # of its runs
    dev: Sequence[float]  # fractions, by seed
    test: Sequence[float]


@dataclass(frozen=True)
class Series:
    """Checkpoints on one task, by step; at least two."""

    name: str  # ckpts/step-*
    run: Run  # one of its runs: they share task, settings and kind of data
    points: Sequence[Point]


def families(models: Iterable[str]) -> dict[str, str]:
    """Model -> the series that it is of, as `ckpts/step-*`, or itself where there is no other one of a series."""
    names = {model: _split(model)[0] for model in models}
    count = list(names.values())
    return {model: name if count.count(name) > 1 else model for model, name in names.items()}


def find(runs: Sequence[Run]) -> list[Series]:
    """Of each task, kind of data and choice of settings."""
    runs = [run for run in searches.of_rows(runs) if run.model]
    of = families({run.model for run in runs})
    groups: dict[tuple[str, ...], dict[int, list[Run]]] = {}
    for run in runs:
        if of[run.model] != run.model:
            key = (run.data, run.task, of[run.model], *run.row[1:])
            groups.setdefault(key, {}).setdefault(_split(run.model)[1], []).append(run)
    found = []
    for (_, _, name, *_), by_step in sorted(groups.items()):
        points = [point for step in sorted(by_step) if (point := _point(step, by_step[step])) is not None]
        if len(points) > 1:
            found.append(Series(name, next(iter(by_step.values()))[0], points))
    return found


def _point(step: int, runs: Sequence[Run]) -> Point | None:
    by_seed = sorted(finished_by_seed(runs).items())
    dev, test = ([score for _, run in by_seed if (score := run.score(split)) is not None] for split in ("dev", "test"))
    return Point(step, runs[0].row, dev, test) if dev or test else None


def _split(model: str) -> tuple[str, int]:
    """(the series that it may be of, its step); (its own name, 0) where the name ends in no number."""
    path = Path(model)
    parts = CHECKPOINT.fullmatch(path.name)
    return (str(path.parent / f"{parts[1]}*"), int(parts[2])) if parts else (model, 0)

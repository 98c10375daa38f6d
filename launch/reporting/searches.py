"""Searches for settings among the runs: what was tried, what was chosen by dev, and which runs have the chosen values.

A search is one task and one model: the trials of `submit.py --tune` and the runs with the values that they led to, or
the points of `submit.py --sweep`, of which the best by dev is chosen here. Nothing is ever chosen by a test score.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tasks
from launch.jobs.suites import natural
from launch.reporting.collect import SAMPLE, Run, Searched, Tried, finished_by_seed


@dataclass(frozen=True)
class Search:
    """One search: of one task, one model and one kind of data."""

    run: Run  # any of its runs: they share task, model and kind of data
    kind: str  # chosen or sweep
    runs: Sequence[Run]  # finished ones with the chosen values, by seed
    values: Mapping[str, Any]  # setting -> chosen value; empty where no trial has a dev score
    dev: float | None  # mean dev score of the chosen trial, a fraction
    tried: Sequence[Tried]  # the chosen one among them
    trials: int  # combinations of values
    device_hours: float | None  # of all trials
    sampler: str
    space: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # setting -> the values that were searched
    remarks: Sequence[str] = ()  # what the dev score was computed on, and what to beware of

    @property
    def budget(self) -> int:
        """Runs of all trials: of each choice of settings, seed and fold one."""
        return self.trials * max((len(one.dev) for one in self.tried), default=1)

    @property
    def test(self) -> list[float]:
        """Test scores of the runs with the chosen values: fractions, by seed."""
        return [score for run in self.runs if (score := run.test_score) is not None]


def find(runs: Sequence[Run]) -> list[Search]:
    """By kind of data, task and model; of a model whose runs have different chosen values, each of these choices."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        kind = run.search.get("kind", "trial")
        if kind != "trial":
            values = str(sorted(run.search["values"].items())) if kind == "chosen" else ""
            model, *rest = run.row
            groups.setdefault((run.data, _place(run), tuple(natural(model)), *rest, values), []).append(run)
    return [
        _tuned(of) if of[0].search["kind"] == "chosen" else _swept(of)
        for _, of in sorted(groups.items(), key=lambda group: group[0])
    ]


def unfinished(runs: Sequence[Run]) -> list[str]:
    """A line for each task and model that has trials, and no run with the values that they lead to."""
    chosen = {(run.data, run.task, run.model) for run in runs if run.search.get("kind") == "chosen"}
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        if run.search.get("kind") == "trial" and (run.data, run.task, run.model) not in chosen:
            groups.setdefault((run.data, _place(run), tuple(natural(run.model))), []).append(run)
    lines = []
    for _, trials in sorted(groups.items(), key=lambda group: group[0]):
        done = sum(run.status == "finished" for run in trials)
        what = f"{done} of {len(trials)} runs of trials are finished, none has the chosen values yet"
        lines.append(f"{name(trials[0])}: {what}")
    return lines


def not_chosen(runs: Sequence[Run]) -> list[str]:
    """A line for each sweep that has settings without a dev score."""
    swept = [found for found in find(runs) if found.kind == "sweep" and found.remarks]
    return [f"sweep of {name(found.run)}: {remark}" for found in swept for remark in found.remarks]


def name(run: Run) -> str:
    """Task, model and, where it is so, that the data is sample data."""
    label = run.config.model_label if run.config is not None else run.model
    return f"{run.title}, {label}" + (f" ({SAMPLE})" if run.data == "sample" else "")


def of_rows(runs: Sequence[Run]) -> list[Run]:
    """Those that a row may be made of: no trials, and of a sweep the chosen point alone."""
    chosen = {(found.run.data, found.run.task, found.run.row): found.values for found in find(runs)}
    kept = []
    for run in runs:
        kind = run.search.get("kind")
        is_chosen = kind == "sweep" and run.search["values"] == chosen[run.data, run.task, run.row]
        if kind in (None, "chosen") or is_chosen:
            kept.append(run)
    return kept


def _place(run: Run) -> tuple[int, str]:
    """Tasks in the order of tables."""
    names = list(tasks.TASKS)
    return names.index(run.task) if run.task in names else len(names), run.task


def _tuned(runs: Sequence[Run]) -> Search:
    """`runs`: with the same chosen values."""
    finished = finished_by_seed(runs)
    last = finished[max(finished)] if finished else runs[-1]
    record = Searched.model_validate(last.search)
    rest = len({run.seed for run in runs}) - len(finished)
    pruned = "pruning: trials that did badly were ended early" if record.pruning else ""
    remarks = [
        record.basis,
        record.warning,
        pruned,
        f"{rest} of the runs with the chosen values not finished" if rest else "",
    ]
    return Search(
        run=last,
        kind="chosen",
        runs=[finished[seed] for seed in sorted(finished)],
        values=record.values,
        dev=record.dev,
        tried=record.tried,
        trials=record.trials or len(record.tried),
        device_hours=record.device_hours,
        sampler=record.sampler,
        space=record.space,
        remarks=[remark for remark in remarks if remark],
    )


def _swept(runs: Sequence[Run]) -> Search:
    """The best point by mean dev score; of equal ones the one of fewer epochs, then of the lower learning rate."""
    points: dict[str, list[Run]] = {}
    for run in runs:
        points.setdefault(str(run.search["values"]), []).append(run)
    scored: list[tuple[tuple[float, float, float], Tried, list[Run]]] = []
    without = 0
    for of_point in points.values():
        finished = finished_by_seed(of_point)
        by_seed = [finished[seed] for seed in sorted(finished)]
        dev = [score for run in by_seed if (score := run.score("dev")) is not None]
        if not dev:
            without += 1
            continue
        config = by_seed[0].config
        assert config is not None, "a finished run has its settings"
        order = -round(statistics.fmean(dev), 12), float(config.num_train_epochs or 0), float(config.learning_rate or 0)
        scored.append((order, Tried(values=by_seed[0].search["values"], dev=dev), by_seed))
    scored.sort(key=lambda point: point[0])
    space: dict[str, list[Any]] = {}
    for run in runs:
        for setting, value in run.search["values"].items():
            if value not in space.setdefault(setting, []):
                space[setting].append(value)
    remarks = [f"{without} of {len(points)} settings have no dev score and cannot be chosen"] if without else []
    if len({len(tried.dev) for _, tried, _ in scored}) > 1:
        remarks.append("some settings have dev scores of fewer seeds than others: run the sweep to its end")
    if any(run.result.get("dev_was_trained_on") for run in runs):
        remarks.append("dev was trained on, so that the choice says little (--train_splits train, or --tune)")
    hours = [run.device_hours for run in runs if run.device_hours is not None]
    return Search(
        run=runs[0],
        kind="sweep",
        runs=scored[0][2] if scored else [],
        values=scored[0][1].values if scored else {},
        dev=statistics.fmean(scored[0][1].dev) if scored else None,
        tried=[tried for _, tried, _ in scored],
        trials=len(points),
        device_hours=sum(hours) if hours else None,
        sampler="sweep",
        space={setting: sorted(values, key=str) for setting, values in space.items()},
        remarks=remarks,
    )

"""Run folders to runs: what each one is, how far it came, and why it cannot be counted where it cannot."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ValidationError

import tasks
from harness import records, run_folder
from harness.config import LORA, RunConfig
from harness.errors import UserError
from harness.run_folder import RunFolder
from harness.task import Task
from harness.validation import faults
from launch.jobs import status as run_status
from launch.jobs.status import RunStatus, Status
from launch.reporting import paths
from launch.run import settings
from tasks import predictions
from tasks.predictions import Answers, Units

DATA_LINE = re.compile(r"(\S.*\.\w+:\d+): .*")  # begins an error about a line of a file; it may quote what stands there
MOST_OFF = 1e-6  # between a score and what its predictions add up to: rounding
ROW_FIELDS = ("task", "seed", "data_dir", "model_name_or_path", "recipe")  # never part of a variant
SAMPLE = "SAMPLE DATA"  # behind the name of whatever was made of it
RowKey = tuple[str, str, str]  # model, settings that set it apart, kind of search


class Tried(BaseModel):
    """One combination of values that a search has tried."""

    values: dict[str, Any]
    dev: list[float]  # fractions, by seed or fold; none of one that failed


class Searched(BaseModel):
    """What a run is to a search for settings: `search` of its config.json."""

    kind: Literal["trial", "sweep", "chosen"]
    values: dict[str, Any]  # setting -> the run's value
    # Of a chosen run alone, from here on:
    space: dict[str, list[Any]] = {}  # setting -> the values that were searched
    sampler: str = ""
    trials: int = 0
    pruning: bool = False  # trials that did badly were ended early
    device_hours: float | None = None  # of all trials
    dev: float | None = None  # mean dev score of the chosen trial, a fraction
    tried: list[Tried] = []
    basis: str = ""  # what that score was computed on
    warning: str = ""  # on a dev set that is too small


@dataclass(frozen=True)
class Run:
    """One run folder, as tables and the page show it."""

    folder: Path
    status: Status
    reason: str = ""  # why it is not finished
    task: str = ""  # the column it belongs to: the task's name, see `read_all`
    title: str = ""  # what the task is called in tables
    definition: Task | None = None  # None for a broken run
    model: str = ""  # name or path, as it was given
    settings: Mapping[str, str] = field(default_factory=dict)  # those that differ from the recipe's
    common: Mapping[str, str] = field(default_factory=dict)  # of them: what all runs of its task have, see `_common`
    seed: int = 0
    data: str = "given"  # or sample
    config: RunConfig | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    epochs: Sequence[Mapping[str, float]] = ()  # epoch, train_loss, dev_loss, dev_score: where known
    rates: Mapping[str, float] = field(default_factory=dict)  # medians of examples and tokens a second
    name: str = ""  # the folder as files of the report call it: below those that were named, the same elsewhere

    @property
    def is_own(self) -> bool:
        """Whether its task is a custom task, none that ships."""
        return self.config is not None and self.config.own_task is not None

    @property
    def has_own_column(self) -> bool:
        """Whether the column is no shipped task's: a custom one's, or of other data or another metric version."""
        return self.task not in tasks.TASKS

    @property
    def data_digests(self) -> Mapping[str, str]:
        """Split -> SHA-256 of its data file; empty for a run of a version that recorded none."""
        recorded: Mapping[str, str] = (self.result.get("digests") or {}).get("data", {})
        return recorded

    @property
    def search(self) -> Mapping[str, Any]:
        """What the run is to a search for settings, see `launch.jobs.tuning`; empty for one that belongs to none.

        A share of the data is swept for a learning curve: it is a setting like others, and nothing to choose.
        """
        found = (self.config.search if self.config is not None else None) or {}
        if found.get("kind") == "sweep":
            values = {name: value for name, value in found["values"].items() if name != "train_fraction"}
            return {**found, "values": values} if values else {}
        return found

    @property
    def variant(self) -> str:
        """Settings that differ from the recipe's, as `name=value`."""
        return joined(self.settings)

    @property
    def row(self) -> RowKey:
        """Runs of one row differ in task and seed alone, and in the values of a search for settings."""
        return self.model, joined(self.row_settings), self.search.get("kind", "")

    @property
    def row_settings(self) -> dict[str, str]:
        """Those of its settings that set its row apart."""
        return {name: value for name, value in self.unsearched.items() if name not in self.common}

    @property
    def unsearched(self) -> dict[str, str]:
        """Those of its settings that no search chose, or tries."""
        searched = self.search.get("values", {})
        return {name: value for name, value in self.settings.items() if name not in searched}

    @property
    def is_scored(self) -> bool:
        """Finished, with a test score."""
        return self.status == "finished" and "test" in self.result["scores"]

    @property
    def is_counted(self) -> bool:
        """Finished on real data, with a test score."""
        return self.is_scored and self.data == "given"

    def score(self, split: str) -> float | None:
        """A fraction, of the reported weights; None where the split was not scored."""
        values = self.result.get("scores", {}).get(split)
        return None if values is None else float(values["score"])

    @property
    def test_score(self) -> float | None:
        """A fraction; None where test was not predicted."""
        return self.score("test")

    @cached_property
    def units(self) -> Units:
        """What its test predictions add up to, read once. Raises UserError, also for those of another score."""
        found = predictions.units(*answers_of(self))
        score = float(found.score(found.values.sum(axis=0)))
        if self.test_score is None or abs(score - self.test_score) > MOST_OFF:
            said = f"score {score:.4f}, result.json says {self.test_score}"
            raise UserError(f"{self.name}/predictions/test.tsv: these predictions {said}")
        return found

    @property
    def device_hours(self) -> float | None:
        """See `records.device_hours`."""
        return records.device_hours(self.result)


def find(roots: Sequence[Path]) -> list[Run]:
    """All runs in and below the folders, by path. Raises UserError for a folder that is not there or where none is."""
    folders = run_status.find(roots)
    base = Path(os.path.commonpath([root.expanduser().absolute() for root in roots]))
    base = base.parent if base in folders else base
    return sorted(read_all(folders, base), key=lambda run: Path(run.name).parts)


def written(run: Run) -> tuple[float, str]:
    """When a finished run ended, in seconds since 1970, and its name: to put the newest last."""
    recorded = run.result.get("timing", {}).get("finished")
    return float(recorded or RunFolder(run.folder).result.stat().st_mtime), run.name


def finished_by_seed(runs: Sequence[Run]) -> dict[int, Run]:
    """Finished runs by seed; of several of one seed the newest."""
    return {run.seed: run for run in sorted((run for run in runs if run.status == "finished"), key=written)}


def answers_of(run: Run, split: str = "test") -> tuple[Task, Answers]:
    """The task of a finished run, and what it answered on the split. Raises UserError, which calls the run by its
    name."""
    assert run.definition is not None
    path = RunFolder(run.folder).prediction(split)
    try:
        if os.path.lexists(path) and not path.is_file():  # a pipe would be waited for
            raise UserError(f"{path}: is not a file")
        return run.definition, predictions.read(run.definition, path)
    except UserError as error:
        raise UserError(str(error).replace(str(run.folder), run.name)) from None


def probabilities_of(run: Run, answers: Answers, split: str = "test") -> np.ndarray | None:
    """[examples, labels] as the run wrote them; None where there are none, or none that fit the answers."""
    path = RunFolder(run.folder).prediction(f"{split}_probabilities")
    rows: list[list[float]] = []
    with contextlib.suppress(OSError, ValueError):
        lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []
        rows = [[float(cell) for cell in line.split("\t")[1:]] for line in lines]
    assert run.definition is not None
    if not rows or len(rows) != len(answers.examples) or any(len(row) != len(run.definition.labels) for row in rows):
        return None
    claimed = np.array(rows)
    return claimed if ((claimed >= 0) & (claimed <= 1)).all() else None


def read_all(folders: Sequence[Path], base: Path | None = None) -> list[Run]:
    """The runs in the folders; one that cannot be read is `broken`, with the reason.

    `base`: what their names are relative to. Runs of custom tasks that share a name but not their definition get
    `<name>#<digest>`: they are not one column.
    """
    runs: list[Run] = []
    for found in run_status.read_all(folders):
        name = str(found.folder.relative_to(base) if base else found.folder)
        try:
            runs.append(replace(_read(found), name=name))
        except Exception as error:  # whatever it is, the other runs are to be reported
            what = f"{found.folder}: not a run's files ({type(error).__name__}: {error})"
            reason = str(error) if isinstance(error, UserError) else what
            runs.append(Run(found.folder, "broken", reason, name=name))
    names = paths.short_names(given_paths(runs))
    for number, run in enumerate(runs):
        reason = paths.shortened(paths.renamed(run.reason, names))
        values = {name: paths.renamed(value, names) for name, value in run.settings.items()}
        runs[number] = replace(run, settings=values, reason=reason)
    digests: dict[str, dict[Path, str]] = {}
    for run in runs:
        if run.config is not None and run.is_own:
            definition = json.dumps(run.config.own_task, sort_keys=True)
            digests.setdefault(run.task, {})[run.folder] = hashlib.sha256(definition.encode()).hexdigest()[:6]
    for number, run in enumerate(runs):
        # A task may ship now that was custom when the run began: under one name, but not one column.
        if run.is_own and (len({*digests[run.task].values()}) > 1 or run.task in tasks.TASKS):
            mark = f"#{digests[run.task][run.folder]}"
            runs[number] = replace(run, task=run.task + mark, title=run.title + mark)
    runs = _apart(runs)
    common = _common(runs)
    return [replace(run, common=common.get(run.task, {})) for run in runs]


def given_paths(runs: Sequence[Run]) -> set[str]:
    """The names and paths in the runs' settings, which may be absolute ones of this machine."""
    settings = (*run_folder.INPUTS, "class_weights_file", "output_dir", "cache_dir", "feature_cache")
    values = {getattr(run.config, name) for run in runs if run.config is not None for name in settings}
    return {value for value in values if value}


# ---- runs that must not share a mean
def _apart(runs: Sequence[Run]) -> list[Run]:
    """Runs of one task that were computed on other data, or scored by another version of the metric, get columns of
    their own: `<task> [test data 3f2a1c]`. The column of most runs keeps the plain name.

    Runs that read other splits, such as none for dev, are of the same data where those that both have read are.
    """
    made = list(runs)
    recorded: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        if run.status == "finished" and run.data == "given" and run.data_digests:
            recorded.setdefault(run.task, []).append(number)
    for numbers in recorded.values():
        groups: list[tuple[dict[str, str], list[int]]] = []  # (facts, runs): "test data" -> its digest
        for number in sorted(numbers, key=lambda number: (-len(runs[number].data_digests), runs[number].name)):
            own = {f"{split} data": digest for split, digest in runs[number].data_digests.items()}
            own["metric"] = f"v{runs[number].result.get('metric_version')}"
            group = next((one for one in groups if all(one[0].get(k, v) == v for k, v in own.items())), None)
            if group is None:
                groups.append((own, [number]))
            else:
                group[0].update(own)
                group[1].append(number)
        groups.sort(key=lambda one: (-sum(runs[number].is_counted for number in one[1]), -len(one[1])))
        for facts, members in groups[1:]:
            differing = [name for name in sorted(facts) if groups[0][0].get(name) != facts[name]]
            mark = f" [{', '.join(f'{name} {facts[name][:6]}' for name in differing)}]"
            for number in members:
                run = runs[number]
                made[number] = replace(run, task=run.task + mark, title=run.title + mark)
    return made


def _common(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Task -> settings that all its runs have, but for the trials of a search: `[overrides.<task>]` of a suite, say.

    They set no row apart, so that a model is one row over tasks that are trained differently, as by the recipes.
    """
    found: dict[str, dict[str, str]] = {}
    for run in runs:
        if run.model and run.search.get("kind") != "trial":
            own = run.unsearched
            known = found.get(run.task, own)
            found[run.task] = {name: value for name, value in known.items() if own.get(name) == value}
    return found


def _read(found: RunStatus) -> Run:
    if found.status == "broken":
        raise UserError(found.reason)
    config = found.config or run_folder.stored_config(found.folder)  # raises: the settings of a running run
    task = tasks.get(config.task, config.own_task)
    metrics = run_status.read_metrics(RunFolder(found.folder).metrics)
    result, reason = found.result or {}, ""
    if found.result is None:
        epochs = metrics.epochs
        reason = f"after epoch {epochs[-1]['epoch']:g}" if epochs else "before the end of its first epoch"
        if found.status != "running":
            said = next(iter(found.reason.splitlines()), "")
            said = DATA_LINE.sub(r"\1: see the run's log", said)
            reason = said or f"no result.json, {reason}; the same command goes on"
    else:
        for name, expected in (("task", config.task), ("model", config.model_name_or_path), ("seed", config.seed)):
            if result[name] != expected:
                path = RunFolder(found.folder).result
                raise UserError(f"{path}: its {name} is {result[name]!r}, config.json says {expected!r}")
    if config.search is not None:
        try:
            Searched.model_validate(config.search)
        except ValidationError as error:
            raise UserError(f"{RunFolder(found.folder).config}: search: {faults(error)[0]}") from None
    other = config.recipe not in (None, tasks.recipe_for(config.model_name_or_path, config.task, config.own_task))
    parts = {"recipe": config.recipe} if other else {}
    return Run(
        folder=found.folder,
        status=found.status,
        reason=reason,
        task=config.task,
        title=task.title,
        definition=task,
        model=config.model_name_or_path,
        settings={name: _text(value) for name, value in {**parts, **_differences(config)}.items()},
        seed=config.seed,
        data="sample" if config.data_dir is None or result.get("data") == "sample" else "given",
        config=config,
        result=result,
        epochs=metrics.epochs,
        rates=metrics.rates,
    )


# ---- settings
def _differences(config: RunConfig) -> dict[str, Any]:
    """Settings of the run that `launch/train.py --task T --model_name_or_path M --recipe R` would not have had."""
    given = {name: getattr(config, name) for name in (*ROW_FIELDS, "own_task") if name != "seed"}
    usual = RunConfig(**settings.complete({**given, "output_dir": "unused"})).identity(inputs=True)
    own, skipped = config.identity(inputs=True), (*ROW_FIELDS, *(() if config.trained else LORA))
    # A model that is only scored has the adapters that it has, whatever its recipe says.
    return {name: own[name] for name in own if own[name] != usual[name] and name not in skipped}


def command(run: Run) -> str:
    """What repeats the run, from the root of the code."""
    config = run.config
    assert config is not None, "a broken run has no command"
    devices = run.result.get("world_size", 1)
    words = ["deepspeed", *(["--num_gpus", str(devices)] if devices > 1 else []), "launch/train.py"]
    words += ["--task_file", str(RunFolder(run.folder).task_file)] if run.is_own else ["--task", config.task]
    words += ["--model_name_or_path", config.model_name_or_path, "--seed", str(config.seed)]
    words += ["--recipe", config.recipe] if config.recipe else []
    words += ["--data_dir", config.data_dir] if config.data_dir else []
    if not config.trained:
        words += [f"--{name}" for name in ("do_eval", "do_predict") if getattr(config, name)]
    for name, value in _differences(config).items():
        if name == "trained":
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            words += [f"--{name}", _text(value)]
    return shlex.join([*words, "--output_dir", config.output_dir])


def joined(values: Mapping[str, str]) -> str:
    """Settings as `name=value`, in one line."""
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)

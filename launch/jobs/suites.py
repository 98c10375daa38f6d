"""From a suite to runs: tasks x models x swept settings x seeds, each a complete RunConfig with a folder of its own.

A suite is one of tasks/suites.toml, or a TOML file:

    tasks = ["mednli", "hoc"]              # or the name of a suite, or the TOML file of a custom task
    models = ["dmis-lab/biobert-base-cased-v1.1"]
    seeds = 5                              # or [1, 2, 3]
    [sweep]
    learning_rate = [3e-5, 5e-5]
    [overrides]                            # for every run; flags of the command line win
    max_seq_length = 256
    [overrides.hoc]                        # for one task; wins over the above
    num_train_epochs = 10

suite.json in the folder above a suite's runs says which were left out because something was missing, and why. Every
table that is made of the runs says so, until a run that was left out is finished after all.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

import tasks
from harness import flags
from harness.config import RunConfig, nearest
from harness.errors import UserError
from harness.files import read_json, read_settings, write
from harness.synonyms import hint
from harness.validation import checked
from launch.run import settings
from tasks.faults import unknown

FIRST_SEED: int = RunConfig().seed  # the published one: five seeds are this one and the four after it
RECORD = "suite.json"
LEVELS = 5  # from a run up to the folder of its suite: <task>/<model>/[<settings>/]seed-<n>, and one to spare
NOT_SWEPT = ("task", "model_name_or_path", "seed", "data_dir", "train_splits")  # have a place of their own, or commas


def _listed(value: Any) -> Any:
    """A single value stands for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def _seeds(value: Any) -> tuple[int, ...]:
    """A number of seeds, or the seeds themselves."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return tuple(range(FIRST_SEED, FIRST_SEED + value))
    try:
        return tuple(dict.fromkeys(int(str(seed)) for seed in value))
    except (TypeError, ValueError):
        raise ValueError("must be how many (5), or which (1,2,3)") from None


Names = Annotated[list[str], BeforeValidator(_listed)]


class SuiteFile(BaseModel):
    """What the TOML file of a suite holds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tasks: Names = []
    models: Names = []
    seeds: Annotated[tuple[int, ...], BeforeValidator(_seeds)] = ()
    sweep: dict[str, Annotated[list[Any], BeforeValidator(_listed)]] = {}
    overrides: dict[str, Any] = {}


@dataclass(frozen=True)
class Suite:
    """What to combine. An empty part is left to the flags of the command line and the defaults of a run."""

    name: str = ""  # the wandb group of its runs; "": a group for each task and model
    several: bool = True  # its runs have folders below --output_dir; False: the one run is there itself
    tasks: tuple[str, ...] = ()
    task_files: Mapping[str, str] = field(default_factory=dict)  # custom task -> its TOML file
    models: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    sweep: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # setting -> its values
    overrides: Mapping[str, Any] = field(default_factory=dict)
    task_overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read(name: str) -> Suite:
    """The suite of that name, or from that TOML file. Raises UserError that lists every fault, a line each."""
    path = Path(name).expanduser()
    if not path.is_file():
        if path.suffix == ".toml" or len(path.parts) > 1:
            raise UserError(f"--suite {name}: no such file; known by name: {', '.join(tasks.SUITES)}")
        if name not in tasks.SUITES:
            raise unknown("suite", name, tasks.SUITES)
        return Suite(name, tasks=tasks.SUITES[name])
    return _from_values(path, read_settings(path, "--suite", "see launch/jobs/suites.py for an example"))


def _from_values(path: Path, values: Mapping[str, Any]) -> Suite:
    where, keys = f"--suite {path}: ", list(SuiteFile.model_fields)
    remedy = "; a run's settings stand in [overrides]"
    file = checked(lambda: SuiteFile(**values), where, lambda key: nearest(key, keys) or remedy)
    faults: list[str] = []
    names, task_files = _tasks(file.tasks, where, faults, path.parent)
    task_overrides = {key: value for key, value in file.overrides.items() if isinstance(value, dict)}
    overrides = {key: value for key, value in file.overrides.items() if key not in task_overrides}
    flags.convert(overrides, f"{where}[overrides] ", faults)
    for task, table in task_overrides.items():
        if task not in names:
            faults.append(f"{where}[overrides.{task}]: not a task of this suite{nearest(task, names)}")
        flags.convert(table, f"{where}[overrides.{task}] ", faults)
    _check_sweep(file.sweep, where, faults)
    if faults:
        raise UserError("\n".join(faults))
    return Suite(
        name=path.stem,
        tasks=names,
        task_files=task_files,
        models=tuple(file.models),
        seeds=file.seeds,
        sweep=file.sweep,
        overrides=overrides,
        task_overrides=task_overrides,
    )


def narrowed(
    suite: Suite, tasks_named: str | None, models: Sequence[str], seeds: str | None, sweeps: Sequence[str]
) -> Suite:
    """The suite with what the command line says in place of its own parts. Raises UserError."""
    faults: list[str] = []
    changes: dict[str, Any] = {}
    if tasks_named is not None:
        wanted, files = _tasks([word for word in tasks_named.split(",") if word.strip()], "--tasks ", faults,
                               known=suite.task_files)  # fmt: skip
        outside = [task for task in wanted if suite.tasks and task not in suite.tasks]
        if outside:
            faults.append(f"--tasks {', '.join(outside)}: not in suite {suite.name} ({', '.join(suite.tasks)})")
        changes |= {"tasks": wanted, "task_files": {**suite.task_files, **files}}
    if models:
        changes["models"] = tuple(models)
    if seeds is not None:
        listed = [word for word in seeds.split(",") if word.strip()]
        try:
            changes["seeds"] = _seeds(int(seeds) if seeds.isdecimal() else listed)
        except ValueError as error:
            faults.append(f"--seeds {seeds}: {error}")
    swept = {key: tuple(text.split(",")) for key, _, text in (word.partition("=") for word in sweeps)}
    _check_sweep(swept, "--sweep ", faults)
    if faults:
        raise UserError("\n".join(faults))
    return dataclasses.replace(suite, **changes, sweep={**suite.sweep, **swept})


def expand(suite: Suite, rest: Sequence[str]) -> tuple[list[RunConfig], list[str]]:
    """(runs in the order in which they are started, notes). `rest`: flags of launch/train.py, for every run.

    Seeds vary slowest: with half of the time gone there are whole columns of a table, not one task with all its seeds.
    Raises UserError that lists every fault.
    """
    given = {word.split("=")[0].replace("--task_name", "--task") for word in rest}
    combined = {"task": suite.tasks, "task_file": suite.tasks, "model_name_or_path": suite.models, "seed": suite.seeds}
    several = [name for name, values in combined.items() if values and f"--{name}" in given]
    faults = [f"--{name}: the suite has its own; leave it out" for name in several]
    if len(suite.tasks) > 1 and ("--data_dir" in given or "data_dir" in suite.overrides):
        faults.append("data_dir is one task's folder: set DATASET_DIR to the folder above them, or [overrides.<task>]")
    if faults:
        raise UserError("\n".join(faults))
    runs: list[RunConfig] = []
    notes: list[str] = []
    swept = [dict(zip(suite.sweep, values, strict=True)) for values in itertools.product(*suite.sweep.values())]
    parts = (suite.seeds or (None,), suite.models or (None,), suite.tasks or (None,), swept)
    for seed, model, task, point in itertools.product(*parts):
        own = {"task": task, "task_file": suite.task_files.get(task or ""), "model_name_or_path": model, "seed": seed}
        try:
            config, parse_notes = settings.parse(_line(suite, rest, point, own))
        except UserError as error:
            faults += str(error).splitlines()
            continue
        if suite.several and config.wandb_name and "--wandb_name" not in given:
            config = dataclasses.replace(config, wandb_name=None)
            notes.append("$WANDB_NAME is not used: it is the name of one run, and each of these has its own")
        runs.append(dataclasses.replace(config, output_dir=str(_folder(suite, config, point))))
        notes += parse_notes
    faults = list(dict.fromkeys(faults)) or _shared_folders(runs)
    if faults:
        raise UserError("\n".join(faults))
    return runs, list(dict.fromkeys(notes))


def _line(suite: Suite, rest: Sequence[str], point: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """A run's command line; of flags that are given twice the last one counts."""
    group = None if os.environ.get("WANDB_RUN_GROUP") else suite.name or None
    overrides = {"wandb_group": group, **suite.overrides, **suite.task_overrides.get(str(own["task"]), {})}
    return [*_words(overrides), *rest, *_words(point), *_words(own)]


def _words(values: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in values.items():
        if isinstance(value, bool):
            words += [f"--{name}"] if value else [] if name in flags.FLAG_VALUES else [f"--no-{name}"]
        elif value is not None:
            text = ",".join(str(item) for item in value) if isinstance(value, list) else str(value)
            words.append(f"--{name}={text}")
    return words


def _folder(suite: Suite, config: RunConfig, point: Mapping[str, Any]) -> Path:
    """`<output_dir>/<task>/<model name>/[<setting>=<value>,...]/seed-<n>`, the middle one where settings are swept."""
    given = Path(config.output_dir).absolute()
    if not suite.several:
        return given
    tail = Path(config.task) / config.model_label / f"seed-{config.seed}"
    folder = given if given.parts[-3:] == tail.parts else given / tail
    level = ",".join(f"{name}={Path(str(value)).name}" for name, value in point.items())
    return folder.parent / level / folder.name if level else folder


def _shared_folders(runs: Sequence[RunConfig]) -> list[str]:
    by_folder: dict[str, RunConfig] = {}
    faults = []
    for run in runs:
        other = by_folder.setdefault(run.output_dir, run)
        if other is not run:
            names = " and ".join(dict.fromkeys((other.model_name_or_path, run.model_name_or_path)))
            faults.append(f"{run.output_dir}: two runs of this suite would share the folder ({names}); rename one")
    return faults


def _tasks(
    words: Sequence[Any], where: str, faults: list[str], folder: Path = Path(), known: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """(names of tasks, each once; the TOML files of the custom ones) from names of tasks and suites, and files.

    Files are looked for in `folder`; `known` are custom tasks that a name may mean too.
    """
    found: list[str] = []
    files: dict[str, str] = {}
    for word in (str(word).strip() for word in words):
        try:
            if word.endswith(".toml"):
                path = str((folder / word).absolute())
                name = settings.named_task(None, path).name
                if files.setdefault(name, path) != path:
                    faults.append(f"{where}{word}: names its task {name}, as {files[name]} does; rename one")
                found.append(name)
            else:
                found += tasks.SUITES.get(word) or ([word] if word in (known or {}) else [tasks.resolve(word, None)])
        except UserError as error:
            faults += [f"{where}{line}" for line in str(error).splitlines()]
    return tuple(dict.fromkeys(found)), files


def _check_sweep(sweep: Mapping[str, Sequence[Any]], where: str, faults: list[str]) -> None:
    fields = flags.settings()
    for name, values in sweep.items():
        if name not in fields:
            faults.append(f"{where}{name}: no such setting{hint(name, list(fields))}")
        elif name in NOT_SWEPT or not fields[name].metadata["identity"]:
            faults.append(f"{where}{name}: cannot be swept; the runs would not differ in it, or it has its own flag")
        elif not [value for value in values if str(value).strip()]:
            faults.append(f"{where}{name}: needs values, for example {name}=1,2,3")
        else:
            for value in values:
                flags.convert({name: value}, where, faults)


# ---- runs that were left out
def record_left_out(home: Path, wanted: Iterable[Path], left_out: Mapping[Path, tuple[str, str]]) -> None:
    """Of the runs that are wanted now, say which are left out: run folder -> (what they lack it for, why)."""
    path = home / RECORD
    before = _left_out_before(path)
    names = {os.path.relpath(folder, home) for folder in wanted}
    kept = {name: entry for name, entry in before.items() if name not in names}
    new = {os.path.relpath(folder, home): {"what": what, "why": why} for folder, (what, why) in left_out.items()}
    if {**kept, **new} == before:
        return
    try:
        write(path, json.dumps({"schema": 1, "left_out": {**kept, **new}}, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--output_dir {home}: cannot be written ({error.strerror}); name another folder") from error


def left_out_notes(folders: Sequence[Path]) -> list[str]:
    """A line for each reason why runs of the same suites as these were left out."""
    homes = dict.fromkeys(above for folder in folders for above in [*folder.absolute().parents][:LEVELS])
    why: dict[str, dict[str, None]] = {}
    for home in homes:
        for name, entry in _left_out_before(home / RECORD).items():
            if not os.path.isfile(home / name / "result.json"):
                why.setdefault(str(entry.get("why")), {})[str(entry.get("what"))] = None
    return [f"left out: {', '.join(what)} ({reason})" for reason, what in why.items()]


def _left_out_before(path: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = read_json(path)["left_out"]
        return {str(name): dict(entry) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}

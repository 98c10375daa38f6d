"""Which runs: from a suite to complete RunConfigs.

A suite's runs are tasks x models x swept settings x seeds, each with a folder of its own. It is one of
tasks/suites.toml, or a TOML file:

    tasks = ["mednli", "hoc"]              # or the name of a suite, or the TOML file of a custom task
    models = ["dmis-lab/biobert-base-cased-v1.1"]
    seeds = 5                              # or [1, 2, 3]
    [sweep]
    learning_rate = [3e-5, 5e-5]
    [tune]                                 # with --tune: the values to choose among by dev
    num_train_epochs = [3, 5]
    [tune.hoc]                             # for one task; wins over the above
    folds = 5
    [overrides]                            # for every run; flags of the command line win
    max_seq_length = 256
    [overrides.hoc]                        # for one task; wins over the above
    num_train_epochs = 10
    [total]                                # groups of tasks: the report's total is the mean of their means; where
                                           # `tasks` is one suite's name, that suite's groups need not be repeated
    "Inference" = ["mednli"]
    "Documents" = ["hoc"]
"""

from __future__ import annotations

import functools
import glob
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

import tasks
from harness import flags
from harness.config import RunConfig, nearest
from harness.errors import Faults, UserError
from harness.files import read_settings
from harness.synonyms import hint
from harness.validation import checked, unknown
from launch.jobs.tuning import Tune, listed
from launch.run import settings

FIRST_SEED: int = RunConfig().seed  # the published one: five seeds are this one and the four after it
# They have a place of their own, or commas.
NOT_SWEPT = ("task", "model_name_or_path", "seed", "data_dir", "train_splits", "fold")


def _seeds(value: Any) -> tuple[int, ...]:
    """A number of seeds, or the seeds themselves."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return tuple(range(FIRST_SEED, FIRST_SEED + value))
    try:
        return tuple(dict.fromkeys(int(str(seed)) for seed in value))
    except (TypeError, ValueError):
        raise ValueError("must be how many (5), or which (1,2,3)") from None


Names = Annotated[tuple[str, ...], BeforeValidator(listed)]


class SuiteFile(BaseModel):
    """What the TOML file of a suite holds. An empty part is left to the flags and the defaults of a run."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tasks: Names = ()
    models: Names = ()
    seeds: Annotated[tuple[int, ...], BeforeValidator(_seeds)] = ()
    sweep: dict[str, Annotated[tuple[Any, ...], BeforeValidator(listed)]] = {}  # setting -> its values
    tune: dict[str, Any] = {}  # parts of a Tune, and task -> such parts
    overrides: dict[str, Any] = {}  # setting -> value, and task -> settings
    total: dict[str, Names] = {}  # group -> its tasks; without groups each task counts alike


class Suite(SuiteFile):
    """What to combine: the parts of a file, with tasks by their names, and what it is called."""

    name: str = ""  # the wandb group of its runs; "": a group for each task and model
    several: bool = True  # its runs have folders below --output_dir; False: the one run is there itself
    task_files: dict[str, str] = {}  # custom task -> its TOML file
    tunes: dict[str, Tune] = {"": Tune()}  # by task; "": of all others


def read(name: str) -> Suite:
    """The suite of that name, or from that TOML file. Raises UserError that lists every fault, a line each."""
    path = Path(name).expanduser()
    if not path.is_file():
        if path.suffix == ".toml" or len(path.parts) > 1:
            raise UserError(f"--suite {name}: no such file; known by name: {', '.join(tasks.SUITES)}")
        if name not in tasks.SUITES:
            raise unknown("suite", name, tasks.SUITES)
        return Suite(name=name, tasks=tasks.SUITES[name], total=tasks.TOTALS.get(name, {}))
    values = read_settings(path, "--suite", "see launch/jobs/suites.py for an example")
    where, keys = f"--suite {path}: ", list(SuiteFile.model_fields)
    remedy = "; a run's settings stand in [overrides]"
    file = checked(lambda: SuiteFile(**values), where, lambda key: nearest(key, keys) or remedy)
    faults = Faults()
    names, task_files = _tasks(file.tasks, where, faults, path.parent)
    common = {key: value for key, value in file.overrides.items() if not isinstance(value, dict)}
    flags.convert(common, f"{where}[overrides] ", faults)
    for task, table in file.overrides.items():
        if task not in common:
            if task not in names:
                faults.append(f"{where}[overrides.{task}]: not a task of this suite{nearest(task, names)}")
            flags.convert(table, f"{where}[overrides.{task}] ", faults)
    _check_sweep(file.sweep, where, faults)
    tunes = _tunes(file.tune, names, where, faults)
    total = file.total or tasks.TOTALS.get("".join(file.tasks), {})  # tasks = ["blurb"]: that suite, and its total
    groups = {name: _tasks(group, where, faults, path.parent, task_files)[0] for name, group in total.items()}
    grouped = list(itertools.chain.from_iterable(groups.values()))
    outside = [f"{task}: not a task of this suite{nearest(task, names)}" for task in grouped if task not in names]
    twice = [f"{task}: in two groups, or twice in one" for task in dict.fromkeys(grouped) if grouped.count(task) > 1]
    alone = [f"{task}: in no group; each task of the suite needs one" for task in names if task not in grouped]
    faults += [f"{where}[total] {text}" for text in (*outside, *twice, *(alone if groups else []))]
    faults.refuse()
    resolved = {"tasks": names, "task_files": task_files, "tunes": tunes, "total": groups}
    return Suite(**{**dict(file), "name": path.stem, **resolved})


def _tunes(table: Mapping[str, Any], names: Sequence[str], where: str, faults: Faults) -> dict[str, Tune]:
    """By task, and "" for all others; faults go to `faults`."""
    common = {key: value for key, value in table.items() if not isinstance(value, dict)}
    found = {"": Tune()}
    for task, own in [("", {}), *((key, value) for key, value in table.items() if key not in common)]:
        place = f"{where}[tune{f'.{task}' if task else ''}] "
        if task and task not in names:
            faults.append(f"{place.strip()}: not a task of this suite{nearest(task, names)}")
        with faults.collected():
            inherited = {key: value for key, value in common.items() if key != "trials" or own.get("sampler") != "grid"}
            found[task] = checked(functools.partial(Tune, **inherited | own), place)
            _check_sweep(found[task].lists, place, faults)
            found[task].check(place)
    return found


def tuned(suite: Suite) -> Suite:
    """For --tune: what is swept are the values to choose among."""
    tunes = {task: Tune(**{**dict(tune), **suite.sweep}) for task, tune in suite.tunes.items()}
    return suite.model_copy(update={"sweep": {}, "tunes": tunes, "several": True})


def narrowed(
    suite: Suite, tasks_named: str | None, models: Sequence[str], seeds: str | None, sweeps: Sequence[str]
) -> Suite:
    """The suite with what the command line says in place of its own parts. Raises UserError."""
    faults = Faults()
    where = "--model " if models else f"--suite {suite.name}: models: "
    found = {model: _matching(model, where, faults) for model in models or suite.models}
    changes: dict[str, Any] = {"models": tuple(dict.fromkeys(itertools.chain.from_iterable(found.values())))}
    changes["several"] = suite.several or any(of != [model] for model, of in found.items())
    if tasks_named is not None:
        wanted, files = _tasks([word for word in tasks_named.split(",") if word.strip()], "--tasks ", faults,
                               known=suite.task_files)  # fmt: skip
        outside = [task for task in wanted if suite.tasks and task not in suite.tasks]
        if outside:
            faults.append(f"--tasks {', '.join(outside)}: not in suite {suite.name} ({', '.join(suite.tasks)})")
        changes |= {"tasks": wanted, "task_files": {**suite.task_files, **files}}
    if seeds is not None:
        listed = [word for word in seeds.split(",") if word.strip()]
        try:
            changes["seeds"] = _seeds(int(seeds) if seeds.isdecimal() else listed)
        except ValueError as error:
            faults.append(f"--seeds {seeds}: {error}")
    swept = {key: tuple(text.split(",")) for key, _, text in (word.partition("=") for word in sweeps)}
    _check_sweep(swept, "--sweep ", faults)
    faults.refuse()
    return suite.model_copy(update={**changes, "sweep": {**suite.sweep, **swept}})


def fixed(suite: Suite, rest: Sequence[str]) -> dict[str, set[str]]:
    """Settings that flags or [overrides] give a value; by task, and "" for all."""
    own = {task: set(table) for task, table in suite.overrides.items() if isinstance(table, dict)}
    given = flags.given_names(rest)
    return {**own, "": {*given, *(name for name in suite.overrides if name not in own)}}


def expand(suite: Suite, rest: Sequence[str]) -> tuple[list[RunConfig], list[str]]:
    """(runs in the order in which they are started, notes). `rest`: flags of launch/train.py, for every run.

    Seeds vary slowest: with half of the time gone there are whole columns of a table, not one task with all its seeds.
    Raises UserError that lists every fault.
    """
    given = {word.split("=")[0].replace("--task_name", "--task") for word in rest}
    combined = {"task": suite.tasks, "task_file": suite.tasks, "model_name_or_path": suite.models, "seed": suite.seeds}
    several = [name for name, values in combined.items() if values and f"--{name}" in given]
    faults = Faults(f"--{name}: the suite has its own; leave it out" for name in several)
    if len(suite.tasks) > 1 and ("--data_dir" in given or "data_dir" in suite.overrides):
        faults.append("data_dir is one task's folder: set DATASET_DIR to the folder above them, or [overrides.<task>]")
    faults.refuse()
    runs: dict[str, RunConfig] = {}  # by run folder
    notes: list[str] = []
    group = None if os.environ.get("WANDB_RUN_GROUP") else suite.name or None
    common = {key: value for key, value in suite.overrides.items() if not isinstance(value, dict)}
    swept = [dict(zip(suite.sweep, values, strict=True)) for values in itertools.product(*suite.sweep.values())]
    parts = (suite.seeds or (None,), suite.models or (None,), suite.tasks or (None,), swept)
    for seed, model, task, point in itertools.product(*parts):
        overrides = {"wandb_group": group, **common, **suite.overrides.get(task or "", {})}
        own = {"task": task, "task_file": suite.task_files.get(task or ""), "model_name_or_path": model, "seed": seed}
        with faults.collected():
            # Of flags that are given twice the last one counts.
            config, parse_notes = settings.parse([*_words(overrides), *rest, *_words(point), *_words(own)])
            if suite.several and config.wandb_name and "--wandb_name" not in given:
                config = replace(config, wandb_name=None)
                notes.append("$WANDB_NAME is not used: it is the name of one run, and each of these has its own")
            mark = {"kind": "sweep", "values": {name: getattr(config, name) for name in point}} if point else None
            config = replace(config, output_dir=str(_folder(suite, config, point)), search=mark)
            other = runs.setdefault(config.output_dir, config)
            if other is not config:
                names = " and ".join(dict.fromkeys((other.model_name_or_path, config.model_name_or_path)))
                raise UserError(
                    f"{config.output_dir}: two runs of this suite would share the folder ({names}); rename one"
                )
            notes += parse_notes
    Faults(dict.fromkeys(faults)).refuse()
    return list(runs.values()), list(dict.fromkeys(notes))


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


def _tasks(
    words: Sequence[str], where: str, faults: Faults, folder: Path = Path(), known: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """(names of tasks, each once; the TOML files of the custom ones) from names of tasks and suites, and files.

    Files are looked for in `folder`; `known` are custom tasks that a name may mean too.
    """
    found: list[str] = []
    files: dict[str, str] = {}
    for word in (word.strip() for word in words):
        with faults.collected(where):
            if word.endswith(".toml"):
                path = str((folder / word).absolute())
                name = settings.named_task(None, path).name
                if files.setdefault(name, path) != path:
                    faults.append(f"{where}{word}: names its task {name}, as {files[name]} does; rename one")
                found.append(name)
            else:
                found += tasks.SUITES.get(word) or ([word] if word in (known or {}) else [tasks.resolve(word, None)])
    return tuple(dict.fromkeys(found)), files


def _matching(model: str, where: str, faults: Faults) -> list[str]:
    """The folders that a pattern such as `ckpts/step-*` means, in natural order; anything else is itself."""
    path = os.path.expanduser(model)
    if not glob.has_magic(path) or os.path.isdir(path):
        return [model]
    found = sorted((folder for folder in glob.glob(path) if os.path.isdir(folder)), key=natural)
    if not found:
        faults.append(f"{where}{model}: no folder matches; give a pattern of checkpoints' folders, in quotes")
    return found


def natural(text: str) -> list[tuple[bool, int, str]]:
    """A key to sort by: numbers in names count as numbers, so that step-2 comes before step-10."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", text)]


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

"""What a run reads, by content: recorded in fingerprint.json at its first start, compared with at later ones.

Files are known by their SHA-256 and by their names inside their folders: the same content under another path is the
same run. From a run's first checkpoint or metrics on, other content is refused, or said and recorded.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

import tasks
from harness import files, folds, pretrained, records, run_folder, tracking, versions
from harness.config import RunConfig, fold_of
from harness.ds import config as ds_config
from harness.ds.config import DeepSpeedConfig
from harness.errors import UserError
from harness.model_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, HEAD_FILE, HEAD_WEIGHTS
from harness.pretrained import JSON_FILES, VOCABULARIES, WEIGHTS, Source
from harness.run_folder import RunFolder
from harness.task import SPLITS, Example, Task
from tasks import published, readers

if TYPE_CHECKING:
    from harness.distributed import World

logger = logging.getLogger("harness.launch")

SCHEMA = 1
ADAPTERS = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, HEAD_WEIGHTS)  # of a model that is only scored
COMMIT = "commit"  # beside the digests of a hub model's files
Digest = Callable[[Path], str]


class _Record(BaseModel):
    """What a later start relies on."""

    version: Literal[1] = Field(alias="schema")
    data: dict[str, str]  # split -> SHA-256
    tokenizer: dict[str, str]  # file name, or COMMIT, -> SHA-256, or the commit
    weights: dict[str, str]
    precision: str
    ds_config: dict[str, Any]
    versions: dict[str, str]
    changes: list[dict[str, Any]]


def sha256(path: Path) -> str:
    """Of a file's bytes. Raises UserError where it cannot be read."""
    try:
        return files.sha256(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


@dataclass(frozen=True)
class Input:
    """What a run reads of one kind."""

    kind: str  # data | tokenizer | weights (and their config.json)
    settings: tuple[str, ...]  # of RunConfig, that name it; the one that counts first
    named: str  # as `--data_dir X`
    files: Mapping[str, Path]  # that are there, by split or by name
    commit: str | None = None  # of a model of the hub

    def digests(self) -> dict[str, str]:
        """As recorded."""
        kept = {name: sha256(path) for name, path in self.files.items()}
        return kept if self.commit is None else {COMMIT: self.commit, **kept}

    def changed(self, recorded: Mapping[str, str], digest: Digest = sha256) -> str | None:
        """The name of a file that is not what was recorded; None where all are."""
        of_the_hub = self.commit is not None or COMMIT in recorded
        if of_the_hub and recorded.get(COMMIT) == self.commit:
            return None
        names = recorded.keys() & self.files.keys()
        if self.kind != "data" and self.files and not of_the_hub:  # the hub's cache has what was asked for alone
            # Without one of its files a tokenizer is made of the others; weights that are gone are missed when loaded.
            names = self.files.keys() | (recorded.keys() if self.kind == "tokenizer" else set())
        for name in sorted(names):
            path = self.files.get(name)
            if path is None or digest(path) != recorded.get(name):
                return name if path is None else path.name
        return None

    def is_another(self, name: str, folder: RunFolder, kept: Mapping[str, Any]) -> str:
        """What to say of a file that has changed since the run in the folder began."""
        commit = kept[self.kind].get(COMMIT)
        remedy = f"give --revision {commit}" if commit and self.commit else "put that back"
        return (
            f"{self.named}: {name} is not what it was when the run in {folder.path} began; {remedy}, name another "
            "--output_dir, or start anew with --overwrite_output_dir"
        )


# ---- the data
def find_data(config: RunConfig) -> tuple[Path, str]:
    """(the task's data folder, "given" or "sample"). Raises UserError that lists what was looked for and not found."""
    if config.data_dir is None:
        return tasks.sample_dir(config.task), "sample"
    folder = Path(config.data_dir)
    filenames = tasks.get(config.task, config.own_task).filenames
    missing = {split: name for split, name in filenames.items() if not (folder / name).is_file()}
    if missing:
        what = _no_data(folder, config.task, list(missing.values()))
        where = "docs/data.md says where each corpus comes from"
        there = readers.instead(folder, missing, filenames) if folder.is_dir() else ""
        if "rename" not in there and (command := published.how_to_convert(config.task, folder)) is not None:
            where, there = f"if that is the corpus as published, convert it: {command}", ""
        if config.own_task is not None:
            where = "[files] of the task file names them"
            if list(missing) == ["dev"]:
                where += "; leave dev out there if there is none"
        raise UserError(f"{what}; {config.task} needs {', '.join(filenames.values())} there ({where}){there}")
    return folder, "given"


def _no_data(folder: Path, task: str, missing: Sequence[str]) -> str:
    """What named the folder, and what is wrong with it."""
    above = dataset_dir()
    if above is not None and folder == above.absolute() / task and not folder.exists():
        return f"$DATASET_DIR {above}: {files.folder_fault(above) or f'no folder {task} in it'}"
    fault = files.folder_fault(folder)
    if fault is None:
        fault = f"lacks {', '.join(missing)}"
        if (folder / task).is_dir():
            fault += f"; did you mean {folder / task}?"
    return f"--data_dir {folder}: {fault}"


def dataset_dir() -> Path | None:
    """The folder above those of all tasks, where $DATASET_DIR names one."""
    root = os.environ.get("DATASET_DIR")
    return Path(root).expanduser() if root else None


def needed_splits(config: RunConfig, task: Task) -> set[str]:
    """The splits that a run reads."""
    needed = set(config.train_splits or task.train_splits) if config.do_train else set()
    if config.fold is not None:
        needed |= {"train", "dev"}
    if config.do_eval or (config.do_train and config.eval_every_epoch):
        needed.add("dev")
    return needed | ({"test"} if config.do_predict else set())


def check_without_dev(config: RunConfig, task: Task, error: UserError) -> str:
    """Why there is no dev set, from the reader's error. Raises UserError where the run depends on one."""
    reason = str(error).partition("; ")[0]
    if config.fold is not None:  # a part of train is scored
        return reason
    if "dev" in (config.train_splits or task.train_splits):
        raise UserError(f"{reason}; --train_splits train trains without it")
    is_trial = config.search is not None and config.search.get("kind") == "trial"
    stops, selects = config.early_stopping_patience is not None, config.select == "best_dev"
    if stops or selects or is_trial or tracking.sweep_run() is not None:
        what = "--select best_dev needs" if selects else "a sweep is decided by"
        what = "--early_stopping_patience needs" if stops else what
        what = "a search is decided by" if is_trial else what
        folds = ", tune by folds = 5 of the suite file" if is_trial else ""
        remedy = "without it" if stops else "once with --select last"
        raise UserError(f"{reason}, and {what} the dev score; give a dev set{folds}, or train {remedy}")
    return reason


def read_data(config: RunConfig, task: Task, splits: Collection[str]) -> tuple[Path, str, dict[str, list[Example]]]:
    """(the data folder, "given" or "sample", the examples of these splits). A dev set may be missing or empty where
    nothing depends on it; with --fold dev is that part of both. Raises UserError."""
    place, kind = find_data(config)
    task = task if config.stride is None else task.whole()
    examples = {}
    for name in (name for name in SPLITS if name in splits):
        try:
            examples[name] = task.read(place, name)
        except readers.NoExamples as error:
            if name != "dev":
                raise
            reason = check_without_dev(config, task, error)
            if config.fold is None:
                logger.warning("dev     %s: no dev score after the epochs, and none in the result", reason)
    if config.fold is not None:
        number, count = fold_of(config.fold)
        together = [*examples["train"], *examples.get("dev", [])]
        try:
            examples["train"], examples["dev"] = folds.split(together, number, count, task.per_word)
        except ValueError as error:
            raise UserError(f"--fold {config.fold}: {error}; ask for fewer parts, or score dev") from None
    return place, kind, examples


def training_share(config: RunConfig, task: Task, examples: Mapping[str, Sequence[Example]]) -> list[int] | None:
    """The numbers of the examples that --train_fraction leaves of the splits that are trained on, one after another;
    None where that is all. Raises UserError where it leaves none of a class."""
    if config.train_fraction == 1:
        return None
    whole = [example for name in config.train_splits or task.train_splits for example in examples[name]]
    chosen = folds.share(whole, float(config.train_fraction), config.seed)
    found = set[str]().union(*(task.classes_of(whole[number]) for number in chosen))
    for left_out in sorted(set[str]().union(*map(task.classes_of, whole)) - found):
        raise UserError(
            f"--train_fraction {config.train_fraction}: {left_out} is in none of the {len(chosen)} of {len(whole)} "
            f"training examples that --seed {config.seed} draws; give a larger fraction or another seed"
        )
    return chosen


# ---- all that a run reads, by content
def of(config: RunConfig) -> list[Input]:
    """Data, tokenizer and weights, as far as they are there. Raises UserError."""
    place = tasks.sample_dir(config.task) if config.data_dir is None else Path(config.data_dir)
    data = {split: place / name for split, name in tasks.get(config.task, config.own_task).filenames.items()}
    named = "the sample data" if config.data_dir is None else f"--data_dir {config.data_dir}"
    tokenizer = pretrained.source(config, "tokenizer_name")
    folder, commit = _place(tokenizer)
    return [
        Input("data", ("data_dir",), named, {split: path for split, path in data.items() if path.is_file()}),
        Input(
            "tokenizer",
            ("tokenizer_name", "model_name_or_path", "revision"),
            str(tokenizer),
            _there(folder, (*JSON_FILES, *VOCABULARIES)),
            commit,
        ),
        weights(config),
    ]


def weights(config: RunConfig) -> Input:
    """The encoder: the weights that are loaded, its config.json, and the code that comes with it where that is run."""
    source = pretrained.source(config)
    folder, commit = _place(source)
    try:
        names = [] if folder is None else pretrained.weight_files(Source(source.flag, str(folder), {}))
    except UserError:  # a damaged index, which is said when weights are loaded
        names = [*WEIGHTS]
    found = _there(folder, ("config.json", HEAD_FILE, *(names or ADAPTERS)))
    if folder is not None and config.trust_remote_code:
        found |= {path.name: path for path in sorted(folder.glob("*.py"))}
    if config.config_name:
        path = Path(config.config_name)
        other = path if path.is_file() else (_place(pretrained.source(config, "config_name"))[0] or path) / path.name
        found |= {"config.json": other if other.is_file() else other.with_name("config.json")}
    settings = ("model_name_or_path", "config_name", "revision")
    return Input("weights", settings, str(source), found, commit)


def of_weights(config: RunConfig, folder: RunFolder) -> dict[str, str]:
    """Digests of the encoder's files, as they were when the run began."""
    kept = recorded(folder)
    return weights(config).digests() if kept is None else dict(kept["weights"])


def _place(source: Source) -> tuple[Path | None, str | None]:
    """(the folder with a model's files, the commit of a hub model). The hub itself is not asked, only its cache."""
    if source.folder is not None or Path(source.name).is_absolute():
        return source.folder, None
    try:
        found = source.snapshot()
    except ValueError:  # the path of a folder that is gone
        found = None
    return found, None if found is None else found.name


def _there(folder: Path | None, names: tuple[str, ...]) -> dict[str, Path]:
    return {} if folder is None else {name: folder / name for name in names if (folder / name).is_file()}


def _pinned(config: RunConfig, kept: Mapping[str, Any]) -> RunConfig:
    """With the recorded commit of a model of the hub, where no other is asked for and the cache has it."""
    commit = kept["weights"].get(COMMIT)
    if commit is None or config.revision is not None or Path(config.model_name_or_path).exists():
        return config
    pinned = replace(config, revision=commit)
    return pinned if weights(pinned).commit is not None else config


# ---- compared, before anything is loaded
def compare(before: RunConfig, config: RunConfig, finished: bool) -> str | None:
    """A `run_folder.Compare` by content. A finished run is shown, whatever became of its inputs (`stale`)."""
    folder = RunFolder(Path(config.output_dir))
    renamed = run_folder.other_names(before, config)
    if finished and renamed is None and not config.overwrite_output_dir:
        return None
    kept = recorded(folder) if has_begun(folder) else None
    if kept is None or (before.data_dir is None) != (config.data_dir is None):  # samples are no results under any name
        return renamed
    another = f"--output_dir {folder.path}: holds another run (its "
    remedy = "; name another folder, or --overwrite_output_dir"
    asked, why = config.precision, ""
    if config.ds_config is not None:
        asked, why = ds_config.read(config.ds_config).precision, f" by --ds_config {config.ds_config}"
    if asked not in ("auto", kept["precision"]):
        return f"{another}precision is {kept['precision']}, yours {asked}{why}){remedy}"
    for found in of(_pinned(config, kept)):
        name = found.changed(kept[found.kind])
        moved = next((key for key in found.settings if getattr(before, key) != getattr(config, key)), None)
        if moved is not None and (name is not None or not found.files):
            theirs, ours = getattr(before, moved), getattr(config, moved)
            what = "where there is nothing of it" if name is None else f"with another {name}"
            return f"{another}{moved} is {theirs}, yours {ours}, {what}){remedy}"
        if name is not None:
            return found.is_another(name, folder, kept)
    return None


def stale(config: RunConfig, digest: Digest = sha256) -> list[str]:
    """A line for each input of a finished run that is gone, or is not what it was."""
    gone, changed = [], []
    names = tasks.get(config.task, config.own_task).filenames.values()
    if config.data_dir is not None and not all((Path(config.data_dir) / name).is_file() for name in names):
        gone.append(f"--data_dir {config.data_dir}")
    for flag in ("task_file", "model_name_or_path", "tokenizer_name"):
        value = getattr(config, flag)
        if value and Path(value).is_absolute() and not os.path.exists(value):
            gone.append(f"--{flag} {value}")
    lines = [f"{text} is gone now: the scores are of what was there then" for text in gone]
    try:
        kept = recorded(RunFolder(Path(config.output_dir)))
        for found in [] if kept is None else of(_pinned(config, kept)):
            if kept is not None and (name := found.changed(kept[found.kind], digest)) is not None:
                changed.append(f"{found.named}: {name}")
        if kept and config.ds_config and ds_config.read(config.ds_config).settings != kept["ds_config"]:
            changed.append(f"--ds_config {config.ds_config}")
    except UserError as error:
        return [*lines, f"whether the inputs are still those of the run cannot be told: {error}"]
    remedy = "for those of now, name another --output_dir, or start anew with --overwrite_output_dir"
    return lines + [
        f"{text} has changed since the run began: the scores are of what was there then; {remedy}" for text in changed
    ]


def resolve(
    config: RunConfig, world: World, folder: RunFolder
) -> tuple[RunConfig, DeepSpeedConfig, dict[str, Any] | None]:
    """(settings with precision, and commit of a model of the hub, as the run's first start had them; DeepSpeed JSON;
    what was recorded of a run that has begun). Rank 0 alone. Raises UserError where the device lacks the precision."""
    kept = recorded(folder) if has_begun(folder) else None
    if kept is not None:
        before, config = kept["precision"], _pinned(config, kept)
        able = ds_config.supported_precisions(world.device)
        if not able.get(before):
            can = ", ".join(name for name, yes in able.items() if yes)
            raise UserError(
                f"--output_dir {folder.path}: the run began in {before}, which this {world.device.type} cannot "
                f"compute in (it can in {can}); go on where it can, or name another --output_dir"
            )
        if config.ds_config is None:
            here = ds_config.choose_precision(config.precision, world.device)
            if here != before:
                logger.warning("--precision auto is %s here: the run goes on in %s, as it began", here, before)
        config = replace(config, precision=before)
    deepspeed = ds_config.resolve(config, world)
    return replace(config, precision=deepspeed.precision), deepspeed, kept


# ---- fingerprint.json
def has_begun(folder: RunFolder) -> bool:
    """Whether anything was computed from the inputs yet: before that, other ones may still take their place."""
    return folder.result.is_file() or any(folder.checkpoints.glob("step-*")) or run_folder.has_line(folder.metrics)


def recorded(folder: RunFolder) -> dict[str, Any] | None:
    """What was recorded; None of a run that began before there were records. Raises UserError for a damaged one."""
    path = folder.fingerprint
    if not os.path.lexists(path):
        return None
    try:
        records.read(path, TypeAdapter(_Record))
    except UserError as error:
        why = str(error).removeprefix(f"{path}: ")
        raise UserError(
            f"{path}:1: not a run's fingerprint ({why}); name another --output_dir, or remove the file to go on "
            "without knowing whether the inputs are those of the first start"
        ) from error
    found: dict[str, Any] = files.read_json(path)  # other keys and their order as well
    return found


def record(
    config: RunConfig,
    deepspeed: DeepSpeedConfig,
    kept: Mapping[str, Any] | None,
    world: World,
    folder: RunFolder,
    splits: Collection[str],
) -> list[dict[str, Any]]:
    """Write fingerprint.json at the first start; at a later one say and record what may be another. Rank 0 alone.

    Returns what has changed from start to start, for result.json.

    The first three are what `resolve` gave; `splits` are those that the run reads now. To be called when the tokenizer
    is loaded: what the hub has of it is in the cache then. Raises UserError where the hub has another model now.
    """
    import torch

    if kept is None and has_begun(folder):  # of a version that recorded nothing: what it began with nobody knows
        return []
    source = pretrained.source(config)
    if source.folder is None and not folder.result.is_file():  # have the hub's weights in the cache, to be loaded
        for file in pretrained.weight_files(source):
            source.path(file)
    data, *models = of(config)
    read = {split: path for split, path in data.files.items() if split in splits}
    now = {
        "ds_config": dict(deepspeed.settings),
        "versions": versions.installed(config.lora_rank is not None),
        "commit": versions.commit(),
        "threads": torch.get_num_threads() if world.device.type == "cpu" else None,
    }
    if kept is None:
        values: dict[str, Any] = {
            "schema": SCHEMA,
            **{each.kind: each.digests() for each in (replace(data, files=read), *models)},
            "definition": None if config.own_task is None else tasks.digest(config.task, config.own_task),
            "precision": config.precision,
            **now,
            "changes": [],
        }
    else:
        for each in models:  # folders were compared before anything was loaded
            if each.commit is not None and (name := each.changed(kept[each.kind])) is not None:
                raise UserError(each.is_another(name, folder, kept))
        new = replace(data, files={split: path for split, path in read.items() if split not in kept["data"]})
        differences = list(_differences({name: kept.get(name) for name in now}, now))
        for change in differences:
            logger.warning("changed %s: %s until this start, %s now", change["name"], change["before"], change["now"])
        if not new.files and not differences:
            return list(kept["changes"])
        stamped = [{"time": round(time.time(), 3), **change} for change in differences]
        values = {**kept, **now, "data": kept["data"] | new.digests(), "changes": kept["changes"] + stamped}
    files.write(folder.fingerprint, json.dumps(values, indent=2) + "\n")
    return list(values["changes"])


def _differences(before: Any, now: Any, name: str = "") -> Iterator[dict[str, Any]]:
    """{"name", "before", "now"} of every value that differs; those in tables as `table.name`."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**before, **now}:
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield {"name": name, "before": before, "now": now}

"""The run folder: every name in it, who may use it, and the result that marks a run as finished."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from harness import files, lease, processes, records, removal
from harness.config import RunConfig
from harness.errors import UserError

METRICS_FILE = "metrics.jsonl"
FINGERPRINT_FILE = "fingerprint.json"
WANDB_ID_FILE = "wandb_id"
FAILURE_FILE = ".first-failure-"  # and the token of one start: a rank left over from an earlier start means nothing
SUBMISSION_FILE = "submission.json"
ATTEMPT_FILE = "attempt.json"
TASK_FILE = "task.toml"
SUBMITIT = "submitit"  # of a run that was submitted alone; a suite has one for all its runs, above them
CHECKPOINT = re.compile(r"step-(\d+)-(\d+)")  # epochs finished, steps in the next; of four and six digits or more
LOCK_SECONDS = 1.0  # somebody who only looks whether the lock is free has it for a moment


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. `prefix` stands before the original result files' names."""

    path: Path
    prefix: str = ""

    config = property(lambda self: self.path / "config.json")
    fingerprint = property(lambda self: self.path / FINGERPRINT_FILE)
    task_file = property(lambda self: self.path / TASK_FILE)
    metrics = property(lambda self: self.path / METRICS_FILE)
    log = property(lambda self: self.path / "train.log")
    lock = property(lambda self: self.path / ".lock")
    lease = property(lambda self: self.path / ".lease")  # where the file system has no locks
    wandb_id = property(lambda self: self.path / WANDB_ID_FILE)
    wandb = property(lambda self: self.path / "wandb")
    checkpoints = property(lambda self: self.path / "checkpoints")
    predictions = property(lambda self: self.path / "predictions")
    model = property(lambda self: self.path / "model")
    result = property(lambda self: self.path / "result.json")
    submission = property(lambda self: self.path / SUBMISSION_FILE)
    attempt = property(lambda self: self.path / ATTEMPT_FILE)
    dev_results = property(lambda self: self.original("dev_results.txt"))

    def prediction(self, split: str) -> Path:
        """Gold and predicted of every example of a split."""
        return Path(self.predictions) / f"{split}.tsv"

    def failure(self, token: str) -> Path:
        """Made by the first rank that fails in this start of the run (`launch/run/failures.py`)."""
        return self.path / f"{FAILURE_FILE}{token}"

    def check_exists(self) -> None:
        """Raises FileNotFoundError where the folder was taken away while the run was going.

        Without the check the next file that is written would make it anew, as the folder of no run.
        """
        if not self.config.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))

    def original(self, name: str) -> Path:
        """A result file under the name that the original scripts gave it."""
        return self.path / f"{self.prefix}{name}"


def newest_first(checkpoints: Path) -> list[Path]:
    """The checkpoints in a folder of them, ordered by epoch and step: as text, a longer number may sort before."""
    named = [(CHECKPOINT.fullmatch(path.name), path) for path in checkpoints.glob("step-*")]
    numbers = {path: (int(found[1]), int(found[2])) for found, path in named if found}
    return sorted(numbers, key=lambda path: numbers[path], reverse=True)


COMPUTED_FOLDERS = ("checkpoints", "predictions", "model")
OWN_FOLDERS = (*COMPUTED_FOLDERS, "wandb")
INPUTS = ("model_name_or_path", "config_name", "tokenizer_name", "data_dir", "task_file", "ds_config")  # that are paths
UNREADABLE_CONFIG = "config.json.unreadable"  # what lay in its place, of a start that came to nothing
OWN_FILES = (
    "config.json",
    FINGERPRINT_FILE,
    UNREADABLE_CONFIG,
    TASK_FILE,
    SUBMISSION_FILE,
    ATTEMPT_FILE,
    METRICS_FILE,
    "train.log",
    WANDB_ID_FILE,
    "result.json",
)
NOT_UNDER_LOCK = {SUBMISSION_FILE, ATTEMPT_FILE}  # written by whoever submits or watches the run
RECORD = {*OWN_FILES, ".lock", ".lease", "wandb", SUBMITIT, "code"} - {"result.json", METRICS_FILE}  # of starts
ORIGINAL_FILES = (
    "dev_results.txt",
    "eval_results.txt",
    "test_results.txt",
    "test_predictions.txt",
    "test_predictions.tsv",
    "test_results_classification_report.tsv",
    "test_results_count.txt",
    "dev_all_logits.txt",
    "test_all_logits.txt",
    "dev_roc_auc_for_each_class.txt",
    "test_roc_auc_for_each_class.txt",
)


Claimed = Callable[[Path], str | None]
"""(run folder) -> who still has it beside the process with the lock: a submission that is queued or running."""
Compare = Callable[[RunConfig, RunConfig, bool], str | None]
"""(settings in the folder, those of now, whether the run is finished) -> why the content that they name makes them
different runs, as an error; None for the same run."""


def other_names(before: RunConfig, config: RunConfig, finished: bool = False) -> str | None:
    """A `Compare` that goes by the names of inputs alone, for runs of which no content is recorded."""
    if before.identity(inputs=True) == config.identity(inputs=True):
        return None
    return _other_run(RunFolder(Path(config.output_dir)), before, config)


def prepare(
    config: RunConfig, claimed: Claimed = lambda _: None, compare: Compare = other_names
) -> dict[str, Any] | None:
    """Make the run folder or resume the run in it; returns the result where the run is finished, else None.

    Called on rank 0 alone. Raises UserError where the folder holds another run or cannot be written.
    """
    folder = RunFolder(Path(config.output_dir), config.result_prefix)
    use, result = examine(config, claimed, compare)
    if result is not None:
        return result
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        if use.before is not None and use.how == "replace":
            _remove(folder, use.before.result_prefix)
        if use.how == "take over":
            _clear_failed_start(folder, keep_config=use.unreadable)
        if use.how != "go on" or config.do_train:
            files.write(folder.config, json.dumps(config.to_dict(), indent=2) + "\n", durable=True)
        folder.predictions.mkdir(exist_ok=True)
    except OSError as error:
        raise _not_writable(folder, error) from error
    return None


@dataclass(frozen=True)
class Use:
    """What becomes of an output folder. `how`: make, go on, take over (what a failed start left), replace."""

    how: str
    before: RunConfig | None = None
    unreadable: bool = False  # its config.json is no JSON


def examine(
    config: RunConfig, claimed: Claimed = lambda _: None, compare: Compare = other_names
) -> tuple[Use, dict[str, Any] | None]:
    """What `prepare` will do with the output folder, and the result where the run is finished. Changes nothing.

    Raises UserError where the folder holds another run, or something else, or cannot be written.
    """
    folder = RunFolder(Path(config.output_dir), config.result_prefix)
    try:
        if not folder.path.is_dir():
            _check_can_be_made(folder)
            return Use("make"), None
        before, fault = _stored(folder)
        other = None
        if before is not None and before.identity() == config.identity():
            result = _result(folder) if folder.result.is_file() else None
            if config.do_train and not folder.result.is_file():  # else nothing is replaced
                _check_inputs(folder, config, before)
            result = result if result is not None and _covers(result, config) else None
            other = compare(before, config, result is not None)
            if other is None:
                if config.do_train and not folder.result.is_file():
                    removal.check_replaceable(folder.path, anew=False)
                return Use("go on", before), result
        abandoned = (fault is None or fault.ours) and only_started(folder)
    except OSError as error:
        raise _not_writable(folder, error) from error
    _check_inputs(folder, config, before)
    if abandoned or (before is not None and config.overwrite_output_dir):
        if owner := claimed(folder.path):
            raise UserError(
                f"--output_dir {folder.path}: belongs to a submitted run ({owner}); wait for it, or: "
                f"python launch/submit.py cancel {folder.path}"
            )
        if not abandoned:
            removal.check_replaceable(folder.path, anew=True)
        how = "take over" if abandoned else "replace"
        return Use(how, before, unreadable=fault is not None and not fault.is_json), None
    if fault is not None:
        raise UserError(f"{folder.config}:1: not a run's settings ({fault.reason}); name another --output_dir")
    if before is not None:
        raise UserError(other or _other_run(folder, before, config))
    if not config.overwrite_output_dir:
        raise UserError(
            f"--output_dir {folder.path}: not empty and not a run of ours; name another, or --overwrite_output_dir"
        )
    if folder.checkpoints.exists() or folder.result.exists():
        raise UserError(f"--output_dir {folder.path}: holds a run without its config.json; name another folder")
    for name in (*OWN_FILES, *COMPUTED_FOLDERS, *(f"{folder.prefix}{name}" for name in ORIGINAL_FILES)):
        if os.path.lexists(folder.path / name):
            raise UserError(
                f"--output_dir {folder.path}: holds a {name} that no run wrote, and a run writes one; name another"
            )
    return Use("make"), None


def _check_inputs(folder: RunFolder, config: RunConfig, before: RunConfig | None) -> None:
    check_inputs(folder, {f"--{name}": getattr(config, name) for name in INPUTS}, before)


def check_inputs(folder: RunFolder, inputs: Mapping[str, str | None], before: RunConfig | None = None) -> None:
    """Raises UserError where a file or folder that is read lies in the run folder, among what a run replaces.

    `inputs`: flag -> what it names; a name that is no path here is one of the hub. `before`: the run that lies there,
    whose own copy of a task's definition is as good as any other.
    """
    place = folder.path
    for flag, name in inputs.items():
        if not name or not os.path.lexists(name):
            continue
        path = Path(name)
        if before is not None and flag == "--task_file" and path.absolute() == folder.task_file.absolute():
            continue
        if path.absolute().is_relative_to(place.absolute()) or path.resolve().is_relative_to(place.resolve()):
            raise UserError(
                f"{flag} {name}: lies in the run's own --output_dir {place}, where its files may be replaced; "
                "name another --output_dir"
            )


def only_started(folder: RunFolder) -> bool:
    """Whether the folder holds nothing but the record of starts: nothing computed, and nothing of anybody else's.

    Such a folder is nobody's run, unless a process or a submission still has it.
    """
    for path in folder.path.iterdir():
        if path.name == METRICS_FILE:
            if has_line(path):
                return False
        elif path.name in COMPUTED_FOLDERS:
            if any(not inner.name.endswith(".partial") for inner in path.iterdir()):
                return False
        elif not (path.name in RECORD or path.name.startswith(FAILURE_FILE) or path.suffix == ".partial"):
            return False
    return True


def has_line(path: Path) -> bool:
    """Whether a file is there and has a whole line: a kill may have cut the first one short."""
    try:
        with open(path, "rb") as lines:
            return lines.readline().endswith(b"\n")
    except FileNotFoundError:
        return False


def _clear_failed_start(folder: RunFolder, keep_config: bool) -> None:
    """Remove what says something about the start alone; its log, and whatever wandb has kept of it, stay."""
    if keep_config:
        folder.config.replace(folder.path / UNREADABLE_CONFIG)
    for name in (FINGERPRINT_FILE, TASK_FILE, SUBMISSION_FILE, ATTEMPT_FILE, WANDB_ID_FILE):
        (folder.path / name).unlink(missing_ok=True)


def _check_can_be_made(folder: RunFolder) -> None:
    """Raises OSError where the folder cannot be made."""
    above = next(path for path in (folder.path, *folder.path.absolute().parents) if path.exists())
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(above))


def hold(folder: RunFolder, stack: ExitStack) -> str:
    """Take the folder's lock until `stack` closes, and clear what a killed run left; returns a token for this start.

    Raises UserError where another process holds the lock.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        _check_plain(folder)
        handle = stack.enter_context(open(folder.lock, "a+", encoding="utf-8", opener=files.private))
        _lock(folder, handle, stack)
        os.ftruncate(handle.fileno(), 0)
        # Not through the buffer, whose failure would come a second time when the file is closed.
        os.write(handle.fileno(), processes.this_one().encode())
        for claim in folder.path.glob(f"{FAILURE_FILE}*"):
            claim.unlink(missing_ok=True)
        removal.clear_unfinished(folder.path, set(OWN_FILES) - NOT_UNDER_LOCK)
    except OSError as error:
        raise _not_writable(folder, error) from error
    for unfinished in Path(folder.checkpoints).glob(".step-*.partial"):  # a full disk may be full of it
        shutil.rmtree(unfinished, ignore_errors=True)
    return secrets.token_hex(4)


def _check_plain(folder: RunFolder) -> None:
    """Raises UserError where what is opened by its name and written in place is a link, or a pipe."""
    for path in (folder.lock, folder.lease, folder.metrics, folder.log):
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            raise UserError(
                f"--output_dir {folder.path}: {path.name} in it is a link or no plain file, and a run would write into "
                "it; remove it, or name another folder"
            )


def _lock(folder: RunFolder, handle: TextIO, stack: ExitStack) -> None:
    """By flock; by a lease where there is none, or where another machine saw none and has one. Raises OSError too."""
    until = time.monotonic() + LOCK_SECONDS
    locked = False
    while not locked:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError as error:
            if time.monotonic() < until:
                time.sleep(LOCK_SECONDS / 10)
                continue
            handle.seek(0)
            owner = handle.read().strip() or "another process"
            raise _in_use(folder, owner) from error
        except OSError as error:
            if error.errno not in lease.NO_FLOCK:
                raise
            break
    if locked and not os.path.lexists(folder.lease):
        return
    try:
        lease.take(folder.lease, stack)
    except lease.InUse as other:
        raise _in_use(folder, str(other)) from None


def _in_use(folder: RunFolder, owner: str) -> UserError:
    return UserError(
        f"--output_dir {folder.path}: in use by {processes.shown(owner)}; wait for it, or name another folder"
    )


def holder(folder: RunFolder) -> str | None:
    """Who has the folder's lock or lease, as `process N started S on HOST`; None where nobody has."""
    leased = lease.holder(folder.lease)
    try:
        with open(folder.lock, encoding="utf-8", opener=files.private) as handle:
            if leased is not None:
                return handle.read().strip() or leased
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return handle.read().strip() or "another process"
    except OSError:  # no lock, or a file system that has none
        pass
    return leased


def log_lease(folder: RunFolder) -> None:
    """Say so where a lease keeps the folder. On every rank, whose level decides."""
    if (kept := lease.account(folder.lease)) is not None:
        logger.warning("folder  %s: %s", folder.path, kept)


def _not_writable(folder: RunFolder, error: OSError) -> UserError:
    return UserError(f"--output_dir {folder.path}: cannot be written ({error.strerror}); name another folder")


def stored_config(folder: Path) -> RunConfig:
    """The settings in a run folder. Raises UserError where there are none (a model's config.json has the same name)."""
    path = RunFolder(folder).config
    if not os.path.lexists(path):
        raise UserError(f"{path}: missing; without it nobody knows what was run")
    return records.config(path)


def _result(folder: RunFolder) -> dict[str, Any]:
    try:
        return records.result(folder.result)
    except UserError as error:
        reason = str(error).removeprefix(f"{folder.result}: ")
        raise UserError(
            f"{folder.result}:1: not a run's result ({reason}); remove the file to score the run again"
        ) from None


@dataclass(frozen=True)
class _Fault:
    """Why a config.json cannot be read."""

    reason: str
    is_json: bool
    ours: bool  # of another version of ours, or so broken that nothing can be told


def _stored(folder: RunFolder) -> tuple[RunConfig | None, _Fault | None]:
    """The settings in a folder, or why they cannot be read; twice None where there are none."""
    values: Any = None
    try:
        values = files.read_json(folder.config)
        return RunConfig.from_dict(values), None
    except FileNotFoundError:
        return None, None
    except ValueError as error:
        return None, _Fault(str(error), is_json=False, ours=True)
    except (TypeError, AttributeError) as error:  # a model's config.json has the same name
        ours = isinstance(values, dict) and {"task", "seed", "output_dir"} <= values.keys()
        return None, _Fault(str(error), is_json=True, ours=ours)


def _covers(result: Mapping[str, Any], config: RunConfig) -> bool:
    """Whether a finished run already answers what is asked now."""
    wanted = [split for split, asked in (("dev", config.do_eval), ("test", config.do_predict)) if asked]
    return all(split in result["scores"] or split in result.get("empty_splits", ()) for split in wanted)


def _other_run(folder: RunFolder, before: RunConfig, config: RunConfig) -> str:
    inputs = before.identity() == config.identity()
    name, theirs, ours = _first_difference(before.identity(inputs), config.identity(inputs))
    kept = f"; --task_file {folder.task_file} goes on with its own" if name.startswith("own_task.") else ""
    return (
        f"--output_dir {folder.path}: holds another run (its {name} is {theirs}, yours {ours}); "
        f"name another folder, or --overwrite_output_dir{kept}"
    )


def _first_difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """(name, their value, ours) of the first setting that differs; within tables, as `table.name`."""
    name = next(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
    one, other = theirs.get(name), ours.get(name)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        inner, one, other = _first_difference(one, other)
        name = f"{name}.{inner}"
    return name, one, other


def _remove(folder: RunFolder, prefix: str) -> None:
    """The files of a run, and nothing else that may lie beside them or among them."""
    removal.remove(folder.path)
    # config.json goes last: as long as anything of the run is left, the folder is known as that run's.
    for name in [f"{prefix}{name}" for name in ORIGINAL_FILES] + list(reversed(OWN_FILES)):
        (folder.path / name).unlink(missing_ok=True)


def write_result(folder: RunFolder, result: Mapping[str, Any]) -> None:
    """The last file of a run: its existence means finished."""
    files.write(folder.result, json.dumps(result, indent=2, allow_nan=False) + "\n", durable=True)

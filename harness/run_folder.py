"""The run folder: every name in it, what becomes of an output folder, and the result that marks a run as finished.

A run removes only what it has written itself. Beside the folders its files are known by their names; in them by the
record that each has: model/ and the checkpoints list their files, predictions/ has fixed names, wandb's files bear the
run's id. No link is followed, and nothing that a list names outside its folder is touched.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from harness import files, records
from harness.config import RunConfig
from harness.errors import UserError
from harness.model_folder import HEAD_FILE
from harness.task import SPLITS
from harness.validation import faults

METRICS_FILE = "metrics.jsonl"
FINGERPRINT_FILE = "fingerprint.json"
WANDB_ID_FILE = "wandb_id"
FAILURE_FILE = ".first-failure-"  # and the token of one start: a rank left over from an earlier start means nothing
SUBMISSION_FILE = "submission.json"
ATTEMPT_FILE = "attempt.json"
TASK_FILE = "task.toml"
UNREADABLE_CONFIG = "config.json.unreadable"  # what lay in its place, of a start that failed
STATE_FILE = "state.json"  # of a checkpoint, with the names of its files
SUBMITIT = "submitit"  # of a run that was submitted alone; a suite has one for all its runs, above them
CHECKPOINT = re.compile(r"step-(\d+)-(\d+)")  # epochs finished, steps in the next; of four and six digits or more
INPUTS = ("model_name_or_path", "config_name", "tokenizer_name", "data_dir", "task_file", "ds_config")  # that are paths

# A run's own files by kind. `kept`: stays from start to start. `start`: of one start, removed where that failed before
# anything was computed. `submitted`: the same, written without the run's lock, by whoever submits or watches the run.
# `computed`: results.
OWN_FILES = {
    "config.json": "kept",  # first: it is removed last
    UNREADABLE_CONFIG: "kept",
    FINGERPRINT_FILE: "start",
    TASK_FILE: "start",
    SUBMISSION_FILE: "submitted",
    ATTEMPT_FILE: "submitted",
    METRICS_FILE: "computed",
    "train.log": "kept",
    WANDB_ID_FILE: "start",
    "result.json": "computed",
}
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
COMPUTED_FOLDERS = ("checkpoints", "predictions", "model")
OWN_FOLDERS = (*COMPUTED_FOLDERS, "wandb")
OF_STARTS = (".lock", ".lease", "wandb", SUBMITIT, "code")  # beside those of OWN_FILES that are not computed
# Files in OWN_FOLDERS, beside those that a list there names.
KNOWN = {
    "predictions": rf"({'|'.join(SPLITS)})(_probabilities)?\.tsv",
    # The last one: of a checkpoint whose list cannot be read.
    "checkpoints": r"best-[0-9a-f]{16}\.safetensors|\.step-[\w-]+\.partial/.+|"
    r"step-[^/]*/(state\.json|engine(\.json|(-\d+)?\.safetensors)|rng-\d+\.pt)",
    "wandb": r"rows_closed|latest-run|debug(-\w+)?\.log|artifacts/staging/.+|(offline-)?run-\d+_\d+-{id}/"
    r"(run-{id}\.wandb(\.synced)?|logs/debug(-\w+)?\.log|files/media/.+|files/"
    r"(config\.yaml|conda-environment\.yaml|diff\.patch|output\.log|requirements\.txt|wandb-(metadata|summary)\.json))",
    # Of a version that wrote no list.
    "model": r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|"
    r"merges\.txt|vocab\.txt|\w+\.model|chat_template\.jinja|model[\d-]*(of-\d+)?\.safetensors(\.index\.json)?|"
    r"README\.md",
}
NOTHING = "(?!)"  # matches no name


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
    config: RunConfig, claimed: Claimed = lambda _: None, compare: Compare = other_names, dry: bool = False
) -> dict[str, Any] | None:
    """Make the run folder or resume the run in it; returns the result where the run is finished, else None.

    Called on rank 0 alone. `dry`: look at everything and change nothing. Raises UserError where the folder holds
    another run, or something else, or cannot be written.
    """
    folder = RunFolder(Path(config.output_dir), config.result_prefix)
    try:
        use, before, result = _examine(folder, config, claimed, compare)
        if result is not None or dry:
            return result
        folder.path.mkdir(parents=True, exist_ok=True)
        if use == "replace" and before is not None:
            remove(folder.path)
            for name in (*(f"{before.result_prefix}{name}" for name in ORIGINAL_FILES), *reversed(OWN_FILES)):
                (folder.path / name).unlink(missing_ok=True)
        elif use in ("take over", "keep config.json"):
            if use == "keep config.json":
                folder.config.replace(folder.path / UNREADABLE_CONFIG)
            for name in (name for name, kind in OWN_FILES.items() if kind in ("start", "submitted")):
                (folder.path / name).unlink(missing_ok=True)
        if use != "resume" or config.do_train:
            files.write(folder.config, json.dumps(config.to_dict(), indent=2) + "\n", durable=True)
        folder.predictions.mkdir(exist_ok=True)
    except OSError as error:
        raise files.not_writable(folder.path, error) from error
    return None


def _examine(
    folder: RunFolder, config: RunConfig, claimed: Claimed, compare: Compare
) -> tuple[str, RunConfig | None, dict[str, Any] | None]:
    """(make | resume | replace | take over | keep config.json, settings that lie there, result of a finished run).

    `take over` what a failed start left; `keep config.json`: the same, where that cannot be read. Raises UserError and
    OSError.
    """
    if not folder.path.is_dir():
        above = next(path for path in (folder.path, *folder.path.absolute().parents) if path.exists())
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(above))
        return "make", None, None
    before, fault = _stored(folder)
    inputs, other = {f"--{name}": getattr(config, name) for name in INPUTS}, None
    if before is not None and before.identity() == config.identity():
        result = _result(folder, config) if folder.result.is_file() else None
        replaces = config.do_train and not folder.result.is_file()
        if replaces:
            check_inputs(folder, inputs, before)
        other = compare(before, config, result is not None)
        if other is None:
            if replaces:
                check_replaceable(folder.path, anew=False)
            return "resume", before, result
    abandoned = (fault is None or fault.ours) and only_started(folder)
    check_inputs(folder, inputs, before)
    if abandoned or (before is not None and config.overwrite_output_dir):
        if owner := claimed(folder.path):
            raise UserError(
                f"--output_dir {folder.path}: belongs to a submitted run ({owner}); wait for it, or: "
                f"python launch/submit.py cancel {folder.path}"
            )
        if not abandoned:
            check_replaceable(folder.path, anew=True)
            return "replace", before, None
        return "take over" if fault is None or fault.is_json else "keep config.json", before, None
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
    return "make", None, None


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
            if any(not inner.name.endswith(files.PARTIAL) for inner in path.iterdir()):
                return False
        elif not (
            OWN_FILES.get(path.name, "computed") != "computed"
            or path.name in OF_STARTS
            or path.name.startswith(FAILURE_FILE)
            or path.suffix == files.PARTIAL
        ):
            return False
    return True


def has_line(path: Path) -> bool:
    """Whether a file is there and has a whole line: a kill may have cut the first one short."""
    try:
        with open(path, "rb") as lines:
            return lines.readline().endswith(b"\n")
    except FileNotFoundError:
        return False


def stored_config(folder: Path) -> RunConfig:
    """The settings in a run folder. Raises UserError where there are none (a model's config.json has the same name)."""
    path = RunFolder(folder).config
    if not os.path.lexists(path):
        raise UserError(f"{path}: missing; without it nobody knows what was run")
    return records.config(path)


def _result(folder: RunFolder, config: RunConfig) -> dict[str, Any] | None:
    """That of a finished run; None where it does not answer yet what is asked now. Raises UserError."""
    try:
        result = records.result(folder.result)
    except UserError as error:
        reason = str(error).removeprefix(f"{folder.result}: ")
        raise UserError(
            f"{folder.result}:1: not a run's result ({reason}); remove the file to score the run again"
        ) from None
    wanted = [split for split, asked in (("dev", config.do_eval), ("test", config.do_predict)) if asked]
    answered = {*result["scores"], *result.get("empty_splits", ())}
    return result if answered.issuperset(wanted) else None


class _Fault(NamedTuple):
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
    except (TypeError, ValidationError) as error:  # a model's config.json has the same name
        reason = faults(error)[0] if isinstance(error, ValidationError) else "no JSON object"
        ours = isinstance(values, dict) and {"task", "seed", "output_dir"} <= values.keys()
        return None, _Fault(reason, is_json=True, ours=ours)
    except ValueError as error:
        return None, _Fault(str(error), is_json=False, ours=True)


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


def write_result(folder: RunFolder, result: Mapping[str, Any]) -> None:
    """The last file of a run: its existence means finished."""
    files.write(folder.result, result_text(result), durable=True)


def result_text(result: Mapping[str, Any]) -> str:
    """A result.json, to the byte."""
    return json.dumps(result, indent=2, allow_nan=False) + "\n"


def remove(run: Path, folder: str = "") -> None:
    """What the run has written in its folders, or in one of them, and what is empty then."""
    for top in [folder] if folder else OWN_FOLDERS:
        for path, is_ours in _sorted_out(run, top):
            if is_ours:
                path.unlink(missing_ok=True)
        if not (run / top).is_symlink():
            for place, _, _ in os.walk(run / top, topdown=False):
                with contextlib.suppress(OSError):  # somebody else's file is in it
                    os.rmdir(place)


def check_replaceable(run: Path, anew: bool) -> None:
    """Raises UserError where what a run replaces as a whole, its model and its checkpoints, holds a file that it did
    not write: it would be lost, or be taken for a part of the model. `anew`: nothing of the run there is to stay."""
    if anew and (run / "checkpoints").is_symlink():
        raise _in_the_way(run, run / "checkpoints")
    check_model(run / "model")
    for path, is_ours in _sorted_out(run, "checkpoints"):
        if not is_ours and path.relative_to(run / "checkpoints").parts[0].startswith("step-"):
            raise _in_the_way(run, path)


def check_model(folder: Path) -> None:
    """The same of the model's folder alone."""
    foreign = [path for path, is_ours in _sorted_out(folder.parent, folder.name) if not is_ours]
    if folder.is_symlink() or (os.path.lexists(folder) and not folder.is_dir()):
        foreign = [folder]
    if foreign:
        raise _in_the_way(folder.parent, min(foreign))


def clear_unfinished(folder: RunFolder) -> None:
    """Remove what writers of the run's files that were killed have left: whoever calls this has the lock, so that none
    of them is at work."""
    locked = "|".join(re.escape(name) for name, kind in OWN_FILES.items() if kind != "submitted")
    for place, wanted in ((folder.path, locked), (Path(folder.predictions), KNOWN["predictions"])):
        if place.is_symlink() or not place.is_dir():
            continue
        for path in place.iterdir():
            meant = files.unfinished(path.name)
            if meant is not None and re.fullmatch(wanted, meant) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)


def _in_the_way(run: Path, path: Path) -> UserError:
    return UserError(
        f"--output_dir {run}: {path.relative_to(run)} in it is not of the run there and would be lost; move it away, "
        "or name another folder"
    )


def _sorted_out(run: Path, top: str) -> Iterator[tuple[Path, bool]]:
    """Each file below a folder of the run, and whether the run wrote it. A link counts as a file."""
    if not (run / top).is_dir() or (run / top).is_symlink():
        return
    ours = _rule(run, top)
    for path in list((run / top).rglob("*")):  # whoever asks may remove it
        if path.is_symlink() or not path.is_dir():
            inner = path.relative_to(run / top)
            meant = inner.with_name(files.unfinished(path.name) or path.name)
            yield path, ours(str(inner)) or ours(str(meant))


def _rule(run: Path, top: str) -> Callable[[str], bool]:
    """Whether a file was written by the run, told by its path in the folder `top`."""
    listed: set[str] = set()
    pattern = KNOWN.get(top, KNOWN["model"])
    if top == "checkpoints":
        listed = {f"{at.name}/{name}" for at in (run / top).glob("step-*") for name in _listed(at / STATE_FILE)}
    elif top == "wandb":
        kept = run / WANDB_ID_FILE
        run_id = kept.read_text(encoding="utf-8", errors="replace").strip() if kept.is_file() else ""
        pattern = pattern.replace("{id}", re.escape(run_id) if run_id else NOTHING)
    elif top != "predictions":
        record = run / top / HEAD_FILE
        listed = set(_listed(record))
        pattern = NOTHING if listed or not record.is_file() else pattern
        listed.add(HEAD_FILE)
    return lambda name: name in listed or re.fullmatch(pattern, name) is not None


def _listed(record: Path) -> list[str]:
    """The names under `files` in a JSON file; none where it cannot be read."""
    try:
        content: Any = json.loads(record.read_text(encoding="utf-8"))
        return [str(name) for name in content["files"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []

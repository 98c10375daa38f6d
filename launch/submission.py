"""The two small files that a submitted run has in its folder, and that `status`, `cancel` and `requeue` go by.

submission.json is the submitter's: where the run was sent, and whether somebody has cancelled it since.
attempt.json is the job's own: where the newest attempt runs, and how it ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from harness import UserError, files, records
from harness.preemption import Stopped
from harness.runs import ATTEMPT_FILE, SUBMISSION_FILE, SUBMITIT, RunFolder
from launch import crash

# SLURM's commands are given it as a word. Of an array's run 123_4, of a heterogeneous job 123+1.
Job = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,18}([_+][0-9]{1,18})?$")]
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # a path or an argument: the system takes no NUL in them


@dataclass(frozen=True)
class Submission:
    """Where a run was sent. `request`: a launch.request.Request's `to_dict`, enough to send it again."""

    cluster: str  # slurm | local
    job: Job  # SLURM's id, of an array's run `<array>_<index>`; local: the process of the queue
    logs: Text  # folder of `<job>_<rank>_log.out`
    node: Text  # the machine that it was sent from
    started: Text = ""  # local: when the process of the queue began, since its number may be another's by now
    work_dir: Text = ""
    request: dict[str, Any] = field(default_factory=dict)
    cancelled: bool = False

    def write(self, folder: Path) -> None:
        """Into the run folder."""
        files.write(RunFolder(folder).submission, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    def sent_from(self, folder: Path, script: str) -> bool:
        """Whether a job of that batch script does the run in `folder`: a copied or edited file may name any job.

        A submission's scripts lie in its `logs`, which is in the run's folder or in one above it.
        """
        logs = os.path.realpath(self.logs)
        own = (os.path.realpath(place / SUBMITIT) for place in (folder, *folder.parents))
        return logs == os.path.realpath(Path(script).parent) and logs in own


@dataclass(frozen=True)
class Attempt:
    """The newest attempt at a run, as rank 0 wrote it down."""

    state: str  # running | stopped | failed | finished
    reason: str = ""
    node: str = ""
    process: int = 0
    job: str = ""
    time: float = 0.0  # of this line, seconds since 1970
    final: bool = False  # failed, and would fail in the same way again


_FORMS: dict[str, TypeAdapter[Any]] = {SUBMISSION_FILE: TypeAdapter(Submission), ATTEMPT_FILE: TypeAdapter(Attempt)}


def forget(folder: Path) -> None:
    """Before a new submission: what was said about earlier ones, a cancellation too, holds no longer."""
    RunFolder(folder).submission.unlink(missing_ok=True)
    RunFolder(folder).attempt.unlink(missing_ok=True)


def read_submission(folder: Path) -> Submission | None:
    """None for a run that was not submitted, or where the file cannot be read or is none of ours."""
    found: Submission | None = _read(RunFolder(folder).submission)
    return found


def read_attempt(folder: Path) -> Attempt | None:
    """None where no submitted attempt was made."""
    found: Attempt | None = _read(RunFolder(folder).attempt)
    return found


def _read(path: Path) -> Any:
    try:
        return records.read(path, _FORMS[path.name])
    except UserError:
        return None


def fault(folder: Path) -> str:
    """What is wrong with one of the two files; empty where nothing is, or where there are none."""
    for path in (RunFolder(folder).submission, RunFolder(folder).attempt):
        try:
            if os.path.lexists(path):
                records.read(path, _FORMS[path.name])
        except UserError as error:
            return f"{error}; remove the file, which only tells where the run was sent"
    return ""


def is_cancelled(folder: Path) -> bool:
    """Whether somebody cancelled the run after its last submission."""
    found = read_submission(folder)
    return found is not None and found.cancelled


@contextlib.contextmanager
def recorded(folder: Path) -> Iterator[None]:
    """Keep attempt.json for the time of an attempt, on every rank; what was raised is raised on."""
    main = rank() == 0
    if main:
        _write(folder, "running")
    try:
        yield
    except Stopped as stop:
        if main:
            _write(folder, "stopped", str(stop))
        raise
    except BaseException as error:
        if _is_the_cause(error):
            failed(folder, _reason(error), crash.is_final(error))
        raise
    if main:
        _write(folder, "finished")


def _is_the_cause(error: BaseException) -> bool:
    """Whether this rank tells why the run failed: not one that fell with another, whose word it would overwrite."""
    from launch.failures import SILENT  # with torch

    return not getattr(error, SILENT, rank() > 0)


def _reason(error: BaseException) -> str:
    from harness.explain import TrainingFailed

    if isinstance(error, UserError | TrainingFailed):
        return str(error)
    where = "" if rank() == 0 else f"rank {rank()} on {os.uname().nodename}: "
    return f"{where}{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def failed(folder: Path, reason: str, final: bool = True) -> None:
    """Note that the attempt failed. `final`: another one would fail in the same way."""
    _write(folder, "failed", reason, final)


def close(folder: Path, state: str, reason: str) -> None:
    """In the name of an attempt that ended without a word."""
    attempt = read_attempt(folder)
    if attempt is not None and attempt.state == "running":
        ended = dataclasses.replace(attempt, state=state, reason=reason, time=round(time.time(), 3))
        with contextlib.suppress(OSError):
            files.write(RunFolder(folder).attempt, json.dumps(dataclasses.asdict(ended), indent=2) + "\n")


def rank() -> int:
    """Of this process, also before it has joined the others."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def _write(folder: Path, state: str, reason: str = "", final: bool = False) -> None:
    attempt = Attempt(state, reason, os.uname().nodename, os.getpid(), job_id(), round(time.time(), 3), final)
    with contextlib.suppress(OSError):  # a full disk must not hide what went wrong
        files.write(RunFolder(folder).attempt, json.dumps(dataclasses.asdict(attempt), indent=2) + "\n")


def job_id() -> str:
    """The SLURM job that this process belongs to, as submitit writes it; "" outside one."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")

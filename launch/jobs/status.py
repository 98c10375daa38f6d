"""The one reader of run folders: which there are, and the status of each from result, metrics, lock, log and queue.

submission.json is the submitter's: where the run was sent, and whether somebody has cancelled it since.
attempt.json is the job's own: where the newest attempt runs, and how it ended.
SLURM's queue is asked where it answers; its accounting never is, since many sites have none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter

from harness import files, lock, processes, records, run_folder
from harness.config import RunConfig
from harness.errors import Stopped, TrainingFailed, UserError, is_final
from harness.files import folder_fault
from harness.run_folder import METRICS_FILE, OWN_FOLDERS, SUBMITIT, RunFolder
from harness.terminal import rank

TAIL_BYTES = 65536  # of metrics.jsonl: the newest metrics stand at its end
LOG_TAIL_BYTES = 2**20  # of train.log, for the same reason
NOT_RUNS = (*OWN_FOLDERS, run_folder.SUBMITIT, "code")  # parts of a run folder
FAILURE = re.compile(
    r"^\S+ \S+ ERROR The run failed: (.*?)(?: \(rank \d+ of \d+, process .*\))?$", re.M
)  # in train.log
NEWEST_START = " INFO task    "  # the beginning of what a start writes to train.log, see launch/run/setup.py
EPOCH_METRICS = {"train/epoch_loss": "train_loss", "dev/loss": "dev_loss", "dev/score": "dev_score"}
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
# broken: a file of the run cannot be read. stopped: the same command goes on.
Status = Literal["queued", "running", "stopped", "failed", "finished", "broken"]
T = TypeVar("T")
# SLURM's commands are given it as a word. Of an array's run 123_4, of a heterogeneous job 123+1.
Job = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,18}([_+][0-9]{1,18})?$")]
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # a path or an argument: the system takes no NUL in them


@dataclass(frozen=True)
class Submission:
    """Where a run was sent. `request`: a launch.jobs.resources.Request's `to_dict`, enough to send it again."""

    cluster: str  # slurm | local
    job: Job  # SLURM's id, of an array's run `<array>_<index>`; local: the process of the queue
    logs: Text  # folder of `<job>_<rank>_log.out`
    node: Text  # the machine that it was sent from
    started: Text = ""  # local: when the process of the queue started, since its number may be another's by now
    work_dir: Text = ""
    request: dict[str, Any] = field(default_factory=dict)
    cancelled: bool = False

    def write(self, folder: Path) -> None:
        """Into the run folder."""
        _write(RunFolder(folder).submission, self)

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

    state: Status  # under this key in attempt.json; never queued or broken
    reason: str = ""
    node: str = ""
    process: int = 0
    job: str = ""
    time: float = 0.0  # of this line, seconds since 1970
    final: bool = False  # failed, and would fail in the same way again
    diverged: bool = False  # final by training itself: no change of machine, data or rights would help


_SUBMISSION, _ATTEMPT = TypeAdapter(Submission), TypeAdapter(Attempt)


def _write(path: Path, record: Submission | Attempt) -> None:
    files.write(path, json.dumps(dataclasses.asdict(record), indent=2) + "\n")


def forget(folder: Path) -> None:
    """Before a new submission: what earlier ones left, a cancellation too, is void."""
    RunFolder(folder).submission.unlink(missing_ok=True)
    RunFolder(folder).attempt.unlink(missing_ok=True)


def _read(path: Path, form: TypeAdapter[T]) -> tuple[T | None, str]:
    """(the record, what is wrong with the file): neither where there is no file."""
    try:
        return (records.read(path, form) if os.path.lexists(path) else None), ""
    except UserError as error:
        return None, f"{error}; remove the file, which only says where the run was sent"


def read_submission(folder: Path) -> Submission | None:
    """None for a run that was not submitted, or where the file cannot be read or is none of ours."""
    return _read(RunFolder(folder).submission, _SUBMISSION)[0]


def read_attempt(folder: Path) -> Attempt | None:
    """None where no submitted attempt was made."""
    return _read(RunFolder(folder).attempt, _ATTEMPT)[0]


def fault(folder: Path) -> str:
    """What is wrong with one of the two files; empty where nothing is, or where there are none."""
    paths = RunFolder(folder)
    return _read(paths.submission, _SUBMISSION)[1] or _read(paths.attempt, _ATTEMPT)[1]


def is_cancelled(folder: Path) -> bool:
    """Whether somebody cancelled the run after its last submission."""
    found = read_submission(folder)
    return found is not None and found.cancelled


@contextlib.contextmanager
def recorded(folder: Path) -> Iterator[None]:
    """Keep attempt.json for the time of an attempt, on every rank; what was raised is raised on."""
    main = rank() == 0
    if main:
        write_attempt(folder, "running")
    try:
        yield
    except Stopped as stop:
        if main:
            write_attempt(folder, "stopped", str(stop))
        raise
    except BaseException as error:
        from launch.run.failures import SILENT  # with torch

        # A rank that ended because another one did must not overwrite the reason of that one.
        if not getattr(error, SILENT, not main):
            where = "" if main else f"rank {rank()} on {os.uname().nodename}: "
            reason = f"{where}{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            known = isinstance(error, UserError | TrainingFailed)
            diverged = isinstance(error, TrainingFailed) and is_final(error)
            write_attempt(folder, "failed", str(error) if known else reason, is_final(error), diverged)
        raise
    if main:
        write_attempt(folder, "finished")


def write_attempt(folder: Path, status: Status, reason: str = "", final: bool = False, diverged: bool = False) -> None:
    """How this process's attempt stands. `final` and `diverged`: as in Attempt."""
    now = round(time.time(), 3)
    attempt = Attempt(status, reason, os.uname().nodename, os.getpid(), job_id(), now, final, diverged)
    with contextlib.suppress(OSError):  # a full disk must not hide what went wrong
        _write(RunFolder(folder).attempt, attempt)


def close(folder: Path, status: Status, reason: str) -> None:
    """The queue of this machine is done with a run: whoever asks for its status shall not read that it waits here.

    An attempt that exited without an error message ends in its name.
    """
    attempt, sent = read_attempt(folder), read_submission(folder)
    if attempt is not None and attempt.state == "running":
        ended = dataclasses.replace(attempt, state=status, reason=reason, time=round(time.time(), 3))
        with contextlib.suppress(OSError):
            _write(RunFolder(folder).attempt, ended)
    if sent is not None and sent.started:
        dataclasses.replace(sent, started="").write(folder)


def job_id() -> str:
    """The SLURM job that this process belongs to, as submitit writes it; "" outside one."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")


@dataclass(frozen=True)
class Metrics:
    """What a run has written down so far; None where there is nothing yet. Scores are fractions."""

    epoch: float | None = None
    step: int | None = None
    dev: float | None = None
    test: float | None = None
    epochs: Sequence[Mapping[str, float]] = ()  # by epoch: epoch, and train_loss, dev_loss, dev_score where known
    rates: Mapping[str, float] = field(default_factory=dict)  # medians of examples and tokens a second


@dataclass(frozen=True)
class RunStatus:
    """A run as its folder and the queue show it."""

    folder: Path
    status: Status
    reason: str = ""
    config: RunConfig | None = None  # None where the settings cannot be read
    result: Mapping[str, Any] | None = None  # None where the run is not finished, or the result cannot be read
    job: str = ""
    node: str = ""
    metrics: Metrics = field(default_factory=Metrics)


@dataclass(frozen=True)
class Queued:
    """A job as squeue knows it."""

    state: str  # PENDING, RUNNING, COMPLETING, ...
    node: str
    reason: str
    script: str = ""  # the batch script that was submitted

    @property
    def has_ended(self) -> bool:
        """Whether nothing will come of it any more."""
        return self.state in ENDED


def find(places: Sequence[str | Path]) -> list[Path]:
    """Run folders at and below the places, by path, each once: those of failed starts and of broken runs too.

    Raises UserError for what is no folder, and where there is none.
    """
    found: dict[Path, None] = {}
    for place in places:
        root = Path(place).expanduser().absolute()
        if (fault := folder_fault(root)) is not None:
            raise UserError(f"{place}: {fault}; name run folders, or a folder above them")
        for folder, below, names in os.walk(root):
            own = bool({"result.json", METRICS_FILE} & set(names))
            if not own and "config.json" in names:  # which a model's folder has too
                own = bool({*below} & {*OWN_FOLDERS})
                with contextlib.suppress(UserError):
                    own = own or bool(run_folder.stored_config(Path(folder)).task)
            if own:
                found[Path(folder)] = None
            # Elsewhere such a name may be a model's: runs/<task>/model/seed-1.
            below[:] = sorted(name for name in below if not name.startswith(".") and not (own and name in NOT_RUNS))
    if not found:
        raise UserError(
            f"{' '.join(map(str, places))}: no run folder in or below it; name run folders, or a folder above them"
        )
    return list(found)


def newest_metrics(folder: Path, result: Mapping[str, Any] | None = None) -> Metrics:
    """Those of the end of metrics.jsonl, and the scores of the result where there is one."""
    paths, found = RunFolder(folder), Metrics()
    with contextlib.suppress(UserError, OSError):  # a run can go on without its metrics
        found = read_metrics(paths.metrics, max(0, paths.metrics.stat().st_size - TAIL_BYTES))
    with contextlib.suppress(UserError):
        scores = (result or records.result(paths.result))["scores"]
        reported = {split: scores[split]["score"] for split in ("dev", "test") if split in scores}
        found = dataclasses.replace(found, **reported)
    return found


def read_metrics(path: Path, start: int = 0) -> Metrics:
    """From a metrics.jsonl, from byte `start` on; a line that a kill cut short is skipped. Raises UserError."""
    epoch = step = dev = None
    epochs: dict[float, dict[str, float]] = {}
    rates: dict[str, list[float]] = {"examples": [], "tokens": []}
    for _, row in records.rows(path, start):
        if row is None:
            continue
        step = row.step
        if row.kind == "epoch":
            epoch, dev = row.epoch, row.values.get("dev/score", dev)
        if row.kind == "epoch" and row.epoch is not None:  # an epoch that was repeated after a restart counts once
            named = {name: value for key, name in EPOCH_METRICS.items() if (value := row.values.get(key)) is not None}
            epochs[row.epoch] = {"epoch": float(row.epoch), **named}
        for name, values in rates.items():
            if (rate := row.values.get(f"train/{name}_per_second")) is not None:
                values.append(rate)
    medians = {name: sorted(values)[len(values) // 2] for name, values in rates.items() if values}
    return Metrics(epoch, step, dev, epochs=[epochs[key] for key in sorted(epochs)], rates=medians)


def queue(jobs: Iterable[str]) -> Mapping[str, Queued] | None:
    """What squeue says about SLURM jobs; jobs that have left the queue are missing. None where it does not answer."""
    wanted = sorted({job for job in jobs if job})
    if not wanted:
        return {}
    # All of this user's: one id that squeue has forgotten would be an error for all of them.
    said = processes.answer("squeue", "--noheader", "--me", "--array", "--states=all", "--format=%i|%T|%N|%r|%o")
    if said is None:
        return None
    rows = [line.strip().split("|", 4) for line in said.splitlines()]
    return {row[0]: Queued(*row[1:]) for row in rows if len(row) >= 4 and row[0] in wanted}


def read_all(folders: Sequence[Path]) -> list[RunStatus]:
    """Runs with their status; squeue is asked once."""
    sent = {folder: read_submission(folder) for folder in folders}
    slurm = queue(found.job for found in sent.values() if found is not None and found.cluster == "slurm")
    return [_read_run(folder, sent[folder], slurm) for folder in folders]


def _read_run(folder: Path, sent: Submission | None, slurm: Mapping[str, Queued] | None) -> RunStatus:
    paths, attempt = RunFolder(folder), read_attempt(folder)
    job = sent.job if sent is not None and sent.cluster == "slurm" else ""
    node = attempt.node if attempt is not None else ""
    config, result, damage = None, None, fault(folder)
    has_result = os.path.lexists(paths.result)
    try:
        result = records.result(paths.result) if has_result else None
    except UserError as error:
        damage = f"{error}; the run must be scored again"
    try:
        config = run_folder.stored_config(folder)
    except UserError as error:
        damage = str(error)

    def run(status: Status, reason: str = "", on: str = node) -> RunStatus:
        return RunStatus(folder, status, reason, config, result, job, on, newest_metrics(folder, result))

    if has_result:
        return run("broken", damage) if damage else run("finished")
    if (owner := lock.owner(paths)) is not None:
        return run("running", "" if job else str(owner), node or owner.host)
    if (waiting := _submitted(sent, attempt, slurm)) is not None:
        return run(*waiting)
    if damage:
        return run("broken", damage)
    if sent is not None and sent.cancelled:
        return run("stopped", "cancelled")
    if attempt is not None and attempt.state in ("stopped", "failed"):
        return run(attempt.state, attempt.reason)
    if attempt is not None and attempt.state == "running":
        last = slurm[job].state if slurm and job in slurm else f"process {attempt.process} is gone"
        return run("failed", _logged_failure(paths, attempt.time) or f"exited without an error message ({last})")
    if (failure := _logged_failure(paths)) is not None:
        return run("failed", failure)
    return run("stopped", "not started" if run_folder.only_started(paths) else "")


def _submitted(
    sent: Submission | None, attempt: Attempt | None, slurm: Mapping[str, Queued] | None
) -> tuple[Status, str, str] | None:
    """(queued or running, why, node) of a submission that still has its run; else None."""
    if sent is None:
        return None
    if sent.cluster == "slurm":
        job = None if slurm is None else slurm.get(sent.job)
        if job is not None and not job.has_ended:
            waits = job.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")
            return ("queued", job.reason, "") if waits else ("running", "", job.node)
        runs_still = attempt is not None and attempt.state == "running"
        if slurm is None and (runs_still or (attempt is None and not sent.cancelled)):
            reason = "as last heard: squeue does not answer here"
            return "running" if runs_still else "queued", reason, attempt.node if attempt is not None else ""
    elif sent.cluster == "local" and sent.started and not sent.cancelled and sent.node == os.uname().nodename:
        process = re.split("[_+]", sent.job)[0]
        if processes.start(int(process)) == sent.started:  # else the number is another process's by now
            return "queued", f"in the queue of process {process}", ""
    return None


def submitted(folder: Path) -> str | None:
    """What a submission that still has the folder's run is called; None where there is none, or it is this job."""
    sent = read_submission(folder)
    if sent is None or sent.job == job_id():
        return None
    slurm = queue([sent.job]) if sent.cluster == "slurm" else {}
    found = _submitted(sent, read_attempt(folder), slurm)
    if found is None:
        return None
    status, reason, _ = found
    return ", ".join(part for part in (status, f"job {sent.job}" if sent.cluster == "slurm" else "", reason) if part)


def _logged_failure(paths: RunFolder, since: float = 0.0) -> str | None:
    """Why the newest start failed, from the run's log; None where it has said nothing of the kind since then."""
    try:
        if not paths.log.is_file() or paths.log.stat().st_mtime < since:
            return None
        with open(paths.log, "rb") as file:
            file.seek(max(0, paths.log.stat().st_size - LOG_TAIL_BYTES))
            log = file.read().decode("utf-8", errors="replace")
    except OSError:
        return None
    failures = FAILURE.findall(log[max(0, log.rfind(NEWEST_START)) :])
    return str(failures[-1]) if failures else None

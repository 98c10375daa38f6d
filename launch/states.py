"""How far runs are, read from their folders: result, figures, lock, and the files of launch/submission.py.

SLURM's queue is asked where it answers; its accounting never is, since many sites have none.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import UserError, processes, records, runs
from harness.config import RunConfig
from harness.files import folder_fault
from harness.runs import METRICS_FILE, OWN_FOLDERS, RunFolder
from launch import submission

TAIL_BYTES = 65536  # of metrics.jsonl: the newest figures stand at its end
LOG_TAIL_BYTES = 2**20  # of train.log, for the same reason
NOT_RUNS = (*OWN_FOLDERS, runs.SUBMITIT, "code")  # parts of a run folder
FAILURE = re.compile(
    r"^\S+ \S+ ERROR The run failed: (.*?)(?: \(rank \d+ of \d+, process .*\))?$", re.M
)  # in train.log
NEWEST_START = " INFO task    "  # the beginning of what a start writes to train.log, see launch/assembly.py
NOT_BEGUN = "not begun"


@dataclass(frozen=True)
class Figures:
    """What a run has written down so far; None where there is nothing yet. Scores are fractions."""

    epoch: float | None = None
    step: int | None = None
    dev: float | None = None
    test: float | None = None


@dataclass(frozen=True)
class RunState:
    """A run as `status` shows it."""

    folder: Path
    config: RunConfig | None  # None where the settings cannot be read
    state: str  # queued | running | stopped | failed | finished | broken (a file of it cannot be read)
    reason: str = ""
    job: str = ""
    node: str = ""
    figures: Figures = field(default_factory=Figures)


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


def find(places: Sequence[str]) -> list[Path]:
    """Run folders at and below the places. Raises UserError where there is none."""
    found: list[Path] = []
    for place in places:
        path = Path(place).expanduser().absolute()
        fault = folder_fault(path)
        if fault is not None:
            raise UserError(f"{place}: {fault}; name run folders, or a folder above them")
        below = list(run_folders(path))
        if not below:
            raise UserError(f"{place}: no runs in it; name run folders, or a folder above them")
        found += below
    return list(dict.fromkeys(found))


def run_folders(root: Path) -> Iterator[Path]:
    """Run folders at and below a folder, by path: those of failed starts and of runs that cannot be read too."""
    for place, below, names in os.walk(root.absolute()):
        begun = {"result.json", METRICS_FILE} & set(names)
        own = begun or ("config.json" in names and ({*below} & {*OWN_FOLDERS} or _has_config(Path(place))))
        if own:
            yield Path(place)
        # Elsewhere such a name may be a model's: runs/<task>/model/seed-1.
        below[:] = sorted(name for name in below if not name.startswith(".") and not (own and name in NOT_RUNS))


def _has_config(folder: Path) -> bool:
    try:
        return bool(config_of(folder).task)
    except UserError:
        return False


def config_of(folder: Path) -> RunConfig:
    """The settings in a run folder. Raises UserError where there are none (a model's config.json has the same name)."""
    path = RunFolder(folder).config
    if not os.path.lexists(path):
        raise UserError(f"{path}: missing; without it nobody knows what was run")
    return records.config(path)


def figures(folder: Path) -> Figures:
    """The newest figures of a run."""
    paths = RunFolder(folder)
    epoch = step = dev = None
    with contextlib.suppress(UserError):
        for _, row in records.rows(paths.metrics, _tail(paths.metrics, TAIL_BYTES)):
            step = step if row is None else row.step
            if row is not None and row.kind == "epoch":
                epoch, dev = row.epoch, row.values.get("dev/score", dev)
    try:
        scores = {name: values["score"] for name, values in records.result(paths.result)["scores"].items()}
    except UserError:
        return Figures(epoch, step, dev)
    return Figures(epoch, step, scores.get("dev", dev), scores.get("test"))


def _tail(path: Path, size: int) -> int:
    """Where the last `size` bytes of a file begin."""
    try:
        return max(0, path.stat().st_size - size)
    except OSError:
        return 0


def queue(jobs: Iterable[str]) -> Mapping[str, Queued] | None:
    """What squeue says about SLURM jobs; jobs that have left the queue are missing. None where it does not answer."""
    wanted = sorted({job for job in jobs if job})
    if not wanted:
        return {}
    # All of this user's: one id that squeue has forgotten would be an error for all of them.
    command = ["squeue", "--noheader", "--me", "--array", "--states=all", "--format=%i|%T|%N|%r|%o"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    rows = [line.strip().split("|", 4) for line in done.stdout.splitlines()]
    return {row[0]: Queued(*row[1:]) for row in rows if len(row) >= 4 and row[0] in wanted}


ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


def read_all(folders: Sequence[Path]) -> list[RunState]:
    """The states of runs; squeue is asked once."""
    sent = {folder: submission.read_submission(folder) for folder in folders}
    slurm = queue(found.job for found in sent.values() if found is not None and found.cluster == "slurm")
    return [_read(folder, sent[folder], slurm) for folder in folders]


def _read(folder: Path, sent: submission.Submission | None, slurm: Mapping[str, Queued] | None) -> RunState:
    paths, attempt = RunFolder(folder), submission.read_attempt(folder)
    job = sent.job if sent is not None and sent.cluster == "slurm" else ""
    node = attempt.node if attempt is not None else ""
    try:
        config, fault = config_of(folder), ""
    except UserError as error:
        config, fault = None, str(error)
    fault = fault or _damage(paths)

    def state(name: str, reason: str = "", on: str = node) -> RunState:
        return RunState(folder, config, name, reason, job, on, figures(folder))

    if os.path.lexists(paths.result):
        return state("broken", fault) if fault else state("finished")
    owner = runs.holder(paths)
    if owner is not None:
        return state("running", "" if job else processes.shown(owner), node or owner.rpartition(" on ")[2])
    if (waiting := _submitted(sent, attempt, slurm)) is not None:
        return state(*waiting)
    if fault:
        return state("broken", fault)
    if sent is not None and sent.cancelled:
        return state("stopped", "cancelled")
    if attempt is not None and attempt.state in ("stopped", "failed"):
        return state(attempt.state, attempt.reason)
    if attempt is not None and attempt.state == "running":
        said = slurm[job].state if slurm and job in slurm else f"process {attempt.process} is gone"
        return state("failed", _logged_failure(paths, attempt.time) or f"ended without a word ({said})")
    if (failure := _logged_failure(paths)) is not None:
        return state("failed", failure)
    return state("stopped", NOT_BEGUN if runs.only_started(paths) else "")


def _damage(paths: RunFolder) -> str:
    """What is wrong with the files beside the settings; empty where nothing is."""
    try:
        if os.path.lexists(paths.result):
            records.result(paths.result)
    except UserError as error:
        return f"{error}; the run must be scored again"
    return submission.fault(paths.path)


def _submitted(
    sent: submission.Submission | None, attempt: submission.Attempt | None, slurm: Mapping[str, Queued] | None
) -> tuple[str, str, str] | None:
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
            said = "as last heard: squeue does not answer here"
            return "running" if runs_still else "queued", said, attempt.node if attempt is not None else ""
    elif not sent.cancelled and _waits_here(sent):
        return "queued", f"in the queue of process {sent.job.split('_')[0]}", ""
    return None


def submitted(folder: Path) -> str | None:
    """What a submission that still has the folder's run is called; None where there is none, or it is this job."""
    sent = submission.read_submission(folder)
    if sent is None or sent.job == submission.job_id():
        return None
    slurm = queue([sent.job]) if sent.cluster == "slurm" else {}
    found = _submitted(sent, submission.read_attempt(folder), slurm)
    if found is None:
        return None
    state, reason, _ = found
    return ", ".join(part for part in (state, f"job {sent.job}" if sent.cluster == "slurm" else "", reason) if part)


def _logged_failure(paths: RunFolder, since: float = 0.0) -> str | None:
    """Why the newest start failed, from the run's log; None where it has said nothing of the kind since then."""
    try:
        if not paths.log.is_file() or paths.log.stat().st_mtime < since:
            return None
        with open(paths.log, "rb") as file:
            file.seek(_tail(paths.log, LOG_TAIL_BYTES))
            log = file.read().decode("utf-8", errors="replace")
    except OSError:
        return None
    failures = FAILURE.findall(log[max(0, log.rfind(NEWEST_START)) :])
    return str(failures[-1]) if failures else None


def _waits_here(sent: submission.Submission) -> bool:
    """Whether a queue of this machine still has the run before it."""
    if sent.cluster != "local" or sent.node != os.uname().nodename:
        return False
    return bool(sent.started) and processes.start(int(re.split("[_+]", sent.job)[0])) == sent.started


def by_folder(folders: Sequence[Path]) -> dict[Path, RunState]:
    """The states of the folders that are there."""
    return {state.folder: state for state in read_all([folder for folder in folders if os.path.isdir(folder)])}

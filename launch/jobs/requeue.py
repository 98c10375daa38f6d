"""Whether a job that has ended under SLURM comes back: after a stop at a checkpoint, a killed rank, a dead node.

A run that failed by itself is tried twice more, unless it would fail the same way again. A job that was requeued three
times, for whatever reason, and has no newer checkpoint to show for it, stops for good.

Who requeues it:
- preempted, or a node is dead before srun has ended: SLURM;
- a stop request within submitit's jobs: `_hand_over` in slurm.py, which raises SIGUSR2 for submitit's own handler;
- a stop request, a crash or a failure under a batch script: the script runs `python -m launch.jobs.requeue STATUS` with
  srun's exit status, and ends with the status that this program ends with.

What this program knows is in the file $BLUE_ATTEMPTS, one record a line: rank 0 notes that it started and from which
checkpoint, and a rank that failed by itself says so.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from harness.errors import EXIT_LOST, EXIT_NO_PROGRESS, EXIT_STOPPED, UserError, is_final
from harness.files import private
from harness.processes import answer
from harness.records import lines
from harness.run_folder import RunFolder, newest_first
from harness.terminal import rank, visible

ATTEMPTS = "BLUE_ATTEMPTS"  # environment: the file; without it nothing is noted
FATAL = (signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)
# How srun names the signal that ended a rank depends on its version.
CRASHED = {EXIT_LOST, *(number for kind in FATAL for number in (kind, 128 + kind))}
MOST_REQUEUES = 3  # without a newer checkpoint
RETRIES = 2  # of a run that failed by itself, before the others go on without it


class _Start(BaseModel):
    began: int  # how often SLURM had started the job again by then
    run: str  # the run folder
    checkpoint: str  # the newest one's name


class _Failure(BaseModel):
    failed: int  # as `began`
    by: str  # a rank and its node
    error: str
    final: bool  # it would fail in the same way again


_RECORD: TypeAdapter[_Start | _Failure] = TypeAdapter(_Start | _Failure)


# ---- the ranks
@contextmanager
def noted(run: Path) -> Iterator[None]:
    """Around a run in the folder `run`: a failure of this rank's own is noted."""
    from harness.distributed import lost_peer  # with torch, which the batch script has no need of

    if rank() == 0:
        _append({"began": _restart(), "run": str(run.absolute()), "checkpoint": newest_checkpoint(run)})
    try:
        yield
    except Exception as error:
        if not lost_peer(error):
            message = visible(" ".join(str(error).split())) or type(error).__name__
            by = f"rank {rank()} on {os.uname().nodename}"
            _append({"failed": _restart(), "by": by, "error": message, "final": is_final(error)})
        raise


def _append(record: dict[str, Any]) -> None:
    """In one write, as a line of its own even where the one before it was cut short."""
    if path := os.environ.get(ATTEMPTS):
        handle = private(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(handle, f"\n{json.dumps(record)}\n".encode())
        finally:
            os.close(handle)


def _restart() -> int:
    """How often SLURM has started this job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def newest_checkpoint(run: Path) -> str:
    """Its name; "" where there is none."""
    return next((place.name for place in newest_first(RunFolder(run).checkpoints)), "")


def no_progress(run: Path) -> str:
    """Why this job is not to be requeued once more; "" where it may be. For a rank that stopped at a checkpoint."""
    checkpoint = newest_checkpoint(run)
    if _requeues_without_progress(_records(), _restart(), checkpoint) < MOST_REQUEUES:
        return ""
    return f"requeued {MOST_REQUEUES} times without a newer checkpoint than {checkpoint or 'none'}: not requeued again"


# ---- the batch script
def decide(status: int, records: list[dict[str, Any]], restart: int, checkpoint: str) -> tuple[bool, int, str]:
    """(whether the job is to be requeued, its exit status, why). `checkpoint`: the newest one's name now."""
    failures = [record for record in records if "failed" in record]
    now = [record for record in failures if record["failed"] == restart]
    if now:
        times = len({record["failed"] for record in failures})
        again = times <= RETRIES and not any(record["final"] for record in now)
        return again, status, f"{now[0]['by']} failed: {now[0]['error']}"
    if status not in CRASHED | {EXIT_STOPPED}:
        return False, status, f"exit status {status}"
    how = "stopped" if status == EXIT_STOPPED else "crashed"
    at = f"at {checkpoint}" if checkpoint else "before its first checkpoint"
    if _requeues_without_progress(records, restart, checkpoint) >= MOST_REQUEUES:
        return (
            False,
            EXIT_NO_PROGRESS,
            f"{how} {at}, after {MOST_REQUEUES} requeues without a newer one; the same command goes on from there",
        )
    return True, status, f"{how} {at}"


def _requeues_without_progress(records: list[dict[str, Any]], restart: int, checkpoint: str) -> int:
    """How often the job was started again since it first started at `checkpoint`, where that is still the newest."""
    starts = [record for record in records if "began" in record]
    same = list(itertools.takewhile(lambda record: record["checkpoint"] == checkpoint, reversed(starts)))
    if starts and not same:
        return 0
    return restart - (same[-1]["began"] if same else 0)  # no record at all: it never came so far


def _records() -> list[dict[str, Any]]:
    """What was noted so far; a line that was torn, or is of another version, is skipped."""
    try:
        found = lines(Path(os.environ.get(ATTEMPTS, "")), _RECORD)
        return [record.model_dump() for _, record in found if record is not None]
    except UserError:
        return []


def job_state() -> str:
    """The job's state in SLURM's words; "" where it cannot be found out."""
    job = os.environ.get("SLURM_JOB_ID", "")
    return (answer("squeue", "--noheader", "--format=%T", f"--jobs={job}", seconds=30) or "").strip()


def main(status: int) -> int:
    """Requeue this job where that may help; returns the job's exit status.

    A job that was cancelled, or that SLURM requeues itself, is left to SLURM.
    """
    if status == 0 or job_state() != "RUNNING":
        return status
    records = _records()
    run = next((Path(record["run"]) for record in reversed(records) if "run" in record), None)
    again, status, why = decide(status, records, _restart(), "" if run is None else newest_checkpoint(run))
    print(f"{why}: {'requeued' if again else 'not requeued'}", file=sys.stderr, flush=True)
    if again:
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
    return status


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))

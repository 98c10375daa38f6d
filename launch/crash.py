"""After a failure under SLURM: a run that lost a rank to a signal, or a node, goes back to the queue.

One that failed by itself does so twice; a mistake of the user's does not.

SLURM requeues a job by itself only where it finds a node dead before srun has ended. For the rest the batch script asks
`python -m launch.crash STATUS` with srun's exit status. What it knows is in the file $BLUE_ATTEMPTS, one record a line:
rank 0 notes that it began, a rank that failed by itself says so, and this program notes each crash.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import UserError
from harness.files import private
from harness.runs import RunFolder, newest_first
from launch.train import EXIT_LOST

ATTEMPTS = "BLUE_ATTEMPTS"  # environment: the file; without it nothing is noted
FATAL = (signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)
# How srun names the signal that ended a rank depends on its version.
CRASHED = {EXIT_LOST, *(number for kind in FATAL for number in (kind, 128 + kind))}
MOST_IN_A_ROW = 3  # crashes without a newer checkpoint
RETRIES = 2  # of a run that failed by itself, before the others go on without it


# ---- the ranks
@contextmanager
def noted(run: Path) -> Iterator[None]:
    """Around a run in the folder `run`: a failure of this rank's own is noted."""
    from harness.distributed import lost_peer  # with torch, which the batch script has no need of

    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    if rank == "0":
        _append({"began": _restart(), "run": str(run.absolute())})
    try:
        yield
    except Exception as error:
        if not lost_peer(error):
            said = " ".join(str(error).split()) or type(error).__name__
            mistake = isinstance(error, UserError)
            by = f"rank {rank} on {os.uname().nodename}"
            _append({"failed": _restart(), "by": by, "error": said, "mistake": mistake})
        raise


def _append(record: dict[str, Any]) -> None:
    if path := os.environ.get(ATTEMPTS):
        with open(path, "a", encoding="utf-8", opener=private) as file:
            file.write(json.dumps(record) + "\n")


def _restart() -> int:
    """How often SLURM has started this job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


# ---- the batch script
def verdict(status: int, records: list[dict[str, Any]], restart: int, checkpoint: str) -> tuple[bool, str]:
    """(whether the job is to be requeued, why). `checkpoint`: the newest one's name now."""
    failures = [record for record in records if "failed" in record]
    now = [record for record in failures if record["failed"] == restart]
    if now:
        times = len({record["failed"] for record in failures})
        again = times <= RETRIES and not any(record["mistake"] for record in now)
        return again, f"{now[0]['by']} failed: {now[0]['error']}"
    if status not in CRASHED:
        return False, f"exit status {status}"
    before = [record["checkpoint"] for record in records if "crashed" in record]
    in_a_row = [*before, checkpoint][-MOST_IN_A_ROW:]
    at = f"at {checkpoint}" if checkpoint else "before its first checkpoint"
    if len(in_a_row) == MOST_IN_A_ROW and set(in_a_row) == {checkpoint}:
        return False, f"crashed {MOST_IN_A_ROW} times {at}; the same command goes on from there"
    return True, f"crashed {at}"


def job_state() -> str:
    """The job's state in SLURM's words; "" where it cannot be found out."""
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={os.environ.get('SLURM_JOB_ID', '')}"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def main(status: int) -> None:
    """Requeue this job where that may help. One that was cancelled, or that SLURM requeues itself, is left alone."""
    if status == 0 or job_state() != "RUNNING":
        return
    path = Path(os.environ[ATTEMPTS])
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    run = next((RunFolder(Path(record["run"])) for record in reversed(records) if "run" in record), None)
    saved = [] if run is None else newest_first(run.checkpoints)
    checkpoint = saved[0].name if saved else ""
    again, why = verdict(status, records, _restart(), checkpoint)
    print(f"{why}: {'requeued' if again else 'not requeued'}", file=sys.stderr, flush=True)
    if again:
        _append({"crashed": _restart(), "status": status, "checkpoint": checkpoint})
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)


if __name__ == "__main__":
    main(int(sys.argv[1]))

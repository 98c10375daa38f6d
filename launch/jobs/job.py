"""What submitit runs: one run of one task, which goes on in the same job after a preemption or a time limit.

Only the settings travel. Where the run stands is on disk, so that the pickle of the first submission, which SLURM runs
again after a node failure, is as good as that of the last requeue.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import terminal
from harness.config import RunConfig
from harness.errors import EXIT_NO_PROGRESS, EXIT_STOPPED, Stopped
from harness.terminal import say
from launch.jobs import requeue, status

WORK_DIR = "BLUE_WORK_DIR"  # environment: the folder that relative paths of the settings start from
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
HANDOVER_SECONDS = 120.0  # the other ranks wait so long for SLURM to end them
ENDING = ("CANCELLED", "COMPLETING", "PREEMPTED", "TIMEOUT")  # states of a job that is not ours to requeue


@dataclass(frozen=True)
class TrainJob:
    """A run as a callable that pickles. `config`: a RunConfig's `to_dict`."""

    config: dict[str, Any]

    def __call__(self) -> dict[str, Any]:
        """Outcome and scores, small enough for any pickle. Ends the process where the run failed or is requeued."""
        os.chdir(os.environ.get(WORK_DIR, "."))
        import torch

        from harness import distributed, logs

        logs.quiet_libraries(torch.cuda.is_available())
        from launch import train
        from launch.run import failures

        folder = Path(self.config["output_dir"])
        if status.is_cancelled(folder):  # SLURM starts a job again whose node has failed, cancelled or not
            say("the run was cancelled")
            return {"status": "stopped"}
        try:
            with requeue.noted(folder), status.recorded(folder):
                result = train.run(RunConfig.from_dict(self.config))
        except Stopped as stop:
            say(str(stop))
            return _hand_over(folder)
        except Exception as error:
            distributed.leave(failures.report(error))
        _leave_at_exit()
        scores = {split: {name: values[name] for name in ("metric", "score")}
                  for split, values in result["scores"].items()}  # fmt: skip
        return {"status": "finished", "folder": self.config["output_dir"], "scores": scores}

    def checkpoint(self) -> Any:
        """What submitit puts in the place of its pickle before it requeues the job: the same settings."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(TrainJob(self.config))


def _hand_over(folder: Path) -> dict[str, Any]:
    """After a stop at a checkpoint: under SLURM the job is requeued, by submitit's own handler on rank 0.

    That handler counts the timeouts, renews the pickle, calls `scontrol requeue` and ends the process; in a container
    without SLURM's commands, the batch script requeues. Elsewhere, and in a job that someone cancelled or that SLURM
    requeues itself, the stop is the end.
    """
    from harness import distributed

    stopped = {"status": "stopped"}
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return stopped
    in_container = shutil.which("scontrol") is None
    if in_container or status.is_cancelled(folder):
        if terminal.rank() == 0 and not status.is_cancelled(folder):
            requeue_mark(Path(os.environ["SUBMITIT_FOLDER"]), os.environ["SLURM_JOB_ID"]).touch()
        _leave_at_exit()
        return stopped
    if why := requeue.no_progress(folder):
        say(why)
        status.write_attempt(folder, "failed", why, final=True)
        distributed.leave(EXIT_NO_PROGRESS)
    if terminal.rank() == 0:
        state = requeue.job_state()
        if state in ENDING:
            say(f"the job is {state}: not requeued from here")
            return stopped
        os.kill(os.getpid(), signal.SIGUSR2)  # runs the handler that was there before training: raises SystemExit
        return stopped
    # A rank that left first could take rank 0 with it, half way through the requeue.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(HANDOVER_SECONDS)
    return stopped


def _leave_at_exit() -> None:
    """With several ranks: after submitit has written the result. See `distributed.leave` for the reason."""
    from harness import distributed

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        atexit.register(distributed.leave, 0)


# ---- the batch script around it
def setup_lines(code: Path, folder: Path) -> list[str]:
    """Shell lines before srun; `folder` is the submission's.

    Python puts the current folder before PYTHONPATH, so that has to be the snapshot too.
    """
    quoted = shlex.quote(str(code))
    return [
        f"unset {' '.join(LAUNCHER_VARIABLES)}",
        f'export {WORK_DIR}="$PWD"',
        f'export PYTHONPATH={quoted}"${{PYTHONPATH:+:$PYTHONPATH}}"',
        f"export {requeue.ATTEMPTS}={shlex.quote(str(folder))}/$SLURM_JOB_ID.attempts",
        f"cd {quoted}",
    ]


def requeue_mark(folder: Path, job: str) -> Path:
    """A file that asks the batch script of that job to requeue it."""
    return folder / f"{job}.requeue"


def teardown_lines(folder: Path) -> list[str]:
    """Shell lines after srun: requeue.py decides on a requeue; rank 0 in a container asks for it by the mark."""
    mark = shlex.quote(f"{folder}/") + '"$SLURM_JOB_ID".requeue'
    return [
        "status=$?",
        f"if [ -e {mark} ]; then rm {mark}; status={EXIT_STOPPED}; fi",
        f'{shlex.quote(sys.executable)} -m launch.jobs.requeue "$status"',
    ]

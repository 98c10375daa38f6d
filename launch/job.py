"""What submitit runs: one run of one task, which goes on in the same job after a preemption or a time limit.

Only the settings travel. Where the run stands is on disk, so that the pickle of the first submission, which SLURM runs
again after a node failure, is as good as that of the last requeue.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import RunConfig
from launch import crash
from launch.train import say

WORK_DIR = "BLUE_WORK_DIR"  # environment: the folder that relative paths of the settings start from
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
HANDOVER_SECONDS = 120.0  # the other ranks wait so long for SLURM to end them
ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("launch", "harness", "tasks", "ds_configs")  # what a run reads of this project
ENDING = ("CANCELLED", "COMPLETING", "PREEMPTED", "TIMEOUT")  # states of a job that is not ours to requeue


@dataclass(frozen=True)
class TrainJob:
    """A run as a callable that pickles. `config`: a RunConfig's `to_dict`."""

    config: dict[str, Any]

    def __call__(self) -> dict[str, Any]:
        """Outcome and scores, small enough for any pickle. Ends the process where the run failed or is requeued."""
        os.chdir(os.environ.get(WORK_DIR, "."))
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit ignores it; while training, StopRequest has it
        import torch

        from harness import UserError, distributed, logs

        logs.quiet_libraries(torch.cuda.is_available())
        from harness.engine import TrainingFailed
        from launch import train
        from launch.training import Stopped

        try:
            with crash.noted(self.config["output_dir"], harmless=Stopped):
                result = train.run(RunConfig.from_dict(self.config))
        except Stopped as stop:
            say(str(stop))
            return _hand_over()
        except UserError as error:
            say(f"error: {error}")
            distributed.leave(train.EXIT_USER)
        except TrainingFailed as error:
            say(f"error: {error}")
            distributed.leave(train.EXIT_FAILED)
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            atexit.register(distributed.leave, 0)  # after submitit has written the result; see there for the reason
        return {"status": "finished", "folder": self.config["output_dir"], "scores": _small(result["scores"])}

    def checkpoint(self) -> Any:
        """What submitit puts in the place of its pickle before it requeues the job: the same settings."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(TrainJob(self.config))


def _small(scores: dict[str, Any]) -> dict[str, Any]:
    return {split: {name: values[name] for name in ("metric", "score")} for split, values in scores.items()}


def _hand_over() -> dict[str, Any]:
    """After a stop at a checkpoint: under SLURM the job is requeued, by submitit's own handler on rank 0.

    That handler counts the timeouts, renews the pickle, calls `scontrol requeue` and ends the process. Elsewhere, and
    in a job that someone cancelled or that SLURM requeues itself, the stop is the end.
    """
    stopped = {"status": "stopped"}
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return stopped
    if os.environ.get("SLURM_PROCID", "0") == "0":
        state = crash.job_state()
        if state in ENDING:
            say(f"the job is {state}: not requeued from here")
            return stopped
        os.kill(os.getpid(), signal.SIGUSR2)  # runs the handler that was there before training: raises SystemExit
        return stopped
    # A rank that left first could take rank 0 with it, half way through the requeue.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(HANDOVER_SECONDS)
    return stopped


# ---- the code that the job runs
def setup_lines(code: Path) -> list[str]:
    """Shell lines before srun. Python puts the current folder before PYTHONPATH, so that has to be the snapshot too."""
    quoted = shlex.quote(str(code))
    return [
        f"unset {' '.join(LAUNCHER_VARIABLES)}",
        f'export {WORK_DIR}="$PWD"',
        f'export PYTHONPATH={quoted}"${{PYTHONPATH:+:$PYTHONPATH}}"',
        f"cd {quoted}",
        *crash.batch_lines(code.parent),
    ]


def snapshot_folder(run: Path) -> Path:
    """Where the code as it is now is kept in a run folder; the same code has the same place."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(str(path).encode() + b"\0" + (ROOT / path).read_bytes())
    return run / "code" / digest.hexdigest()[:12]


def snapshot(run: Path) -> Path:
    """Copy the code into the run folder, so that a waiting job does not see later changes. Returns the copy's folder.

    COMMIT and changes.diff in it say where it came from. A copy is complete or not there.
    """
    target = snapshot_folder(run)
    if target.is_dir():
        return target
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    for path in _sources():
        (aside / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, aside / path)
    commit = _git("rev-parse", "HEAD")
    (aside / "COMMIT").write_text(commit or "outside a git checkout\n", encoding="utf-8")
    if commit is not None:
        (aside / "changes.diff").write_text(_git("diff", "HEAD") or "", encoding="utf-8")
    aside.rename(target)
    return target


def _sources() -> list[Path]:
    """Relative to ROOT: what git tracks or would, so that a new file is there before it is committed."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKAGES)
    if listed:
        found = {Path(name) for name in listed.split("\0") if name}
    else:
        found = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*")}
    return sorted(path for path in found if (ROOT / path).is_file() and "__pycache__" not in path.parts)


def _git(*words: str) -> str | None:
    """What git says about this checkout; None outside one."""
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None

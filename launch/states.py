"""How far runs are, read from their folders: result, figures, lock, and the files of launch/submission.py.

SLURM's queue is asked where it answers; its accounting never is, since many sites have none.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import UserError, runs
from harness.config import RunConfig
from harness.files import folder_fault
from harness.runs import RunFolder
from launch import submission

TAIL_BYTES = 65536  # of metrics.jsonl: the newest figures stand at its end
SKIPPED = ("checkpoints", "code", "model", "predictions", "submitit", "wandb")  # no runs in there


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
    config: RunConfig
    state: str  # queued | running | stopped | failed | finished
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


def find(places: Sequence[str]) -> list[Path]:
    """Run folders at and below the places. Raises UserError where there is none."""
    found: list[Path] = []
    for place in places:
        path = Path(place).expanduser().absolute()
        fault = folder_fault(path)
        if fault is not None:
            raise UserError(f"{place}: {fault}; name run folders, or a folder above them")
        below = list(_below(path))
        if not below:
            raise UserError(f"{place}: no runs in it; name run folders, or a folder above them")
        found += below
    return list(dict.fromkeys(found))


def _below(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        if "config.json" in files and config_of(Path(here)) is not None:
            yield Path(here)
            folders.clear()
        folders[:] = sorted(name for name in folders if name not in SKIPPED and not name.startswith("."))


def config_of(folder: Path) -> RunConfig | None:
    """The settings in a run folder; None where there are none (a model's config.json has the same name)."""
    try:
        config = RunConfig.from_dict(json.loads(RunFolder(folder).config.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return config if config.task else None


def figures(folder: Path) -> Figures:
    """The newest figures of a run."""
    paths = RunFolder(folder)
    epoch = step = dev = None
    for record in _newest_lines(paths.metrics):
        step = record.get("step", step)
        if record.get("kind") == "epoch":
            epoch, dev = record.get("epoch"), record.get("values", {}).get("dev/score", dev)
    try:
        result = json.loads(paths.result.read_text(encoding="utf-8"))
        scores = {name: values["score"] for name, values in result["scores"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Figures(epoch, step, dev)
    return Figures(epoch, step, scores.get("dev", dev), scores.get("test"))


def _newest_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Records at the end of a JSONL file; the ones that were cut, at either end, are left out."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def queue(jobs: Iterable[str]) -> Mapping[str, Queued] | None:
    """What squeue says about SLURM jobs; jobs that have left the queue are missing. None where it does not answer."""
    wanted = sorted({job for job in jobs if job})
    if not wanted:
        return {}
    # All of this user's: one id that squeue has forgotten would be an error for all of them.
    command = ["squeue", "--noheader", "--me", "--array", "--states=all", "--format=%i|%T|%N|%r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    rows = [line.strip().split("|") for line in done.stdout.splitlines()]
    return {row[0]: Queued(*row[1:4]) for row in rows if len(row) == 4 and row[0] in wanted}


ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


def read_all(folders: Sequence[Path]) -> list[RunState]:
    """The states of runs; squeue is asked once."""
    sent = {folder: submission.read_submission(folder) for folder in folders}
    slurm = queue(found.job for found in sent.values() if found is not None and found.cluster == "slurm")
    return [_read(folder, sent[folder], slurm) for folder in folders]


def _read(folder: Path, sent: submission.Submission | None, slurm: Mapping[str, Queued] | None) -> RunState:
    config = config_of(folder)
    assert config is not None
    attempt = submission.read_attempt(folder)
    job = sent.job if sent is not None and sent.cluster == "slurm" else ""
    node = attempt.node if attempt is not None else ""

    def state(name: str, reason: str = "", on: str = node) -> RunState:
        return RunState(folder, config, name, reason, job, on, figures(folder))

    if RunFolder(folder).result.is_file():
        return state("finished")
    owner = runs.holder(RunFolder(folder))
    if owner is not None:
        return state("running", "" if job else owner, node or owner.rpartition(" on ")[2])
    if job and slurm is not None and job in slurm and slurm[job].state not in ENDED:
        waiting = slurm[job].state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")
        return state("queued", slurm[job].reason, "") if waiting else state("running", on=slurm[job].node)
    if job and slurm is None and (attempt is None or attempt.state == "running"):
        return state("running" if attempt else "queued", "as last heard: squeue does not answer here")
    if sent is not None and sent.cancelled:
        return state("stopped", "cancelled")
    if sent is not None and _waits_here(sent):
        return state("queued", f"in the queue of process {sent.job.split('_')[0]}", "")
    if attempt is not None and attempt.state in ("stopped", "failed"):
        return state(attempt.state, attempt.reason)
    if attempt is not None and attempt.state == "running":
        said = slurm[job].state if slurm and job in slurm else f"process {attempt.process} is gone"
        return state("failed", f"ended without a word ({said})")
    return state("stopped", "" if RunFolder(folder).checkpoints.is_dir() else "not begun")


def _waits_here(sent: submission.Submission) -> bool:
    """Whether a queue of this machine still has the run before it."""
    if sent.cluster != "local" or sent.node != os.uname().nodename:
        return False
    return bool(sent.started) and submission.process_start(int(sent.job.split("_")[0])) == sent.started


def process_of(owner: str) -> tuple[int, str] | None:
    """(process, machine) of a lock's owner, where it says so."""
    found = re.fullmatch(r"process (\d+) on (\S+)", owner)
    return (int(found.group(1)), found.group(2)) if found else None


def by_folder(folders: Sequence[Path]) -> dict[Path, RunState]:
    """The states of the folders that hold a run."""
    return {state.folder: state for state in read_all([folder for folder in folders if config_of(folder) is not None])}

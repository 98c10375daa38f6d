"""What can be done with runs that are there already, from their folders alone: status, cancel, logs, requeue."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness import flags, lock, logs, processes
from harness.config import RunConfig, nearest
from harness.errors import EXIT_STOPPED, UserError
from harness.run_folder import RunFolder
from launch.jobs import status as run_status
from launch.jobs import suite_record
from launch.jobs.resources import Request
from launch.jobs.status import Metrics, Queued, RunStatus, Submission
from launch.run.settings import SAMPLE_BANNER

COMMANDS = {
    "status": "how far runs are",
    "cancel": "stop runs at a checkpoint; they do not come back by themselves",
    "logs": "the end of a run's log",
    "requeue": "send again what has stopped or failed, to where it was sent before",
}
SAME = {  # what people type for a command
    "cancel": ("stop", "kill", "abort", "scancel", "delete", "end"),
    "status": ("list", "ls", "ps", "queue", "squeue", "show", "state", "runs", "info", "watch"),
    "logs": ("log", "tail", "follow", "output", "cat"),
    "requeue": ("resume", "restart", "retry", "rerun", "continue", "resubmit", "again"),
}
COLUMNS = ("run", "status", "progress", "dev", "test")  # of every table of runs
FOLLOW_SECONDS = 0.3
Start = Callable[[Request, Sequence[RunConfig]], int]


def main(words: Sequence[str], start: Start) -> int:
    """`words`: a command and its arguments; `start` starts runs. Returns the exit status; raises UserError."""
    name = words[0]
    if name not in COMMANDS:
        same = next((command for command, others in SAME.items() if name.lower() in others), None)
        meant = f"; did you mean {same}?" if same else nearest(name.lower(), tuple(COMMANDS))
        raise UserError(f"{name}: no such command{meant or '; there are ' + ', '.join(COMMANDS)}")
    parser = flags.Parser(prog=f"submit.py {name}", description=COMMANDS[name], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="run folders, or folders above them")
    if name == "status":
        parser.add_argument("--json", action="store_true", help="a JSON object a line instead of a table")
    if name == "logs":
        parser.add_argument("--rank", type=int, default=0, help="of this rank [0]")
        parser.add_argument("--lines", type=int, default=40, help="so many from the end [40]")
        parser.add_argument("--follow", action="store_true", help="go on with what comes, until the run ends")
    options = parser.parse_args(words[1:])
    found = run_status.read_all(run_status.find(options.runs))
    if name == "status":
        return _status(found, options.json)
    if name == "cancel":
        return _cancel(found)
    return _logs(found, options) if name == "logs" else _requeue(found, start)


def _status(found: Sequence[RunStatus], as_json: bool) -> int:
    folders = [run.folder for run in found]
    if not as_json:
        base = Path(os.path.commonpath(folders))
        show_runs(str(base), base, found, (*COLUMNS, "job", "node", "reason"), suite_record.left_out_notes(folders))
        return 0
    for run in found:
        metrics = {name: getattr(run.metrics, name) for name in ("epoch", "step", "dev", "test")}
        task = run.config.task if run.config is not None else ""
        # `state` and `figures` are the keys that scripts have read from the first version on.
        row = {"folder": str(run.folder), "state": run.status, "reason": run.reason, "job": run.job}
        print(json.dumps({**row, "node": run.node, "figures": metrics, "task": task}))
    return 0


def show_runs(
    title: str, base: Path, runs: Sequence[RunStatus], columns: Sequence[str], notes: Sequence[str] = ()
) -> None:
    """A table of runs, which are named below `base`, and notes below it."""
    lines = [line(run, base) for run in runs]
    logs.setup(True, None)
    logs.print_table(title, [{name: cells[name] for name in columns} for cells in lines])
    logs.close()
    for note in notes:
        print(note)
    warn_of_samples([run.config for run in runs if run.config is not None])


def warn_of_samples(configs: Sequence[RunConfig]) -> None:
    """Say on stderr that runs are of made-up data, where some are."""
    if of := sum(config.data_dir is None for config in configs):
        print(f"WARNING: {of} of {len(configs)} runs: {SAMPLE_BANNER}", file=sys.stderr)


def line(run: RunStatus, base: Path) -> dict[str, str]:
    """What a table may say of a run; scores times 100."""
    reason = next(iter(run.reason.splitlines()), "")
    return {
        "run": base.name if run.folder == base else os.path.relpath(run.folder, base),
        "status": run.status,
        "progress": "" if run.status == "finished" or run.config is None else progress(run.config, run.metrics),
        **{"dev": "", "test": "", **scores(run.metrics)},
        **{"job": run.job, "node": run.node, "reason": reason, "note": reason},
    }


def scores(metrics: Metrics) -> dict[str, str]:
    """Times 100, as far as they are known."""
    pairs = (("dev", metrics.dev), ("test", metrics.test))
    return {split: f"{100 * value:.2f}" for split, value in pairs if value is not None}


def progress(config: RunConfig, metrics: Metrics) -> str:
    """How far it is, in epochs and steps; empty before the first metrics."""
    if metrics.step is None:
        return ""
    if config.max_steps > 0:
        return f"step {metrics.step}/{config.max_steps}"
    return f"epoch {metrics.epoch or 0:g}/{config.num_train_epochs:g} step {metrics.step}"


def _cancel(found: Sequence[RunStatus]) -> int:
    """Queued runs leave the queue; running ones are asked to stop at a checkpoint. Exit status 0 all asked, else 1."""
    refused = False
    slurm = run_status.queue(run.job for run in found)
    for run in found:
        if run.status not in ("queued", "running"):
            print(f"{run.folder}: {run.status}, nothing to cancel")
            continue
        try:
            print(f"{run.folder}: {_ask_to_stop(run, slurm)}")
        except (UserError, OSError, subprocess.TimeoutExpired) as error:
            print(f"{run.folder}: cannot be asked to stop: {error}")
            refused = True
    return int(refused)


def _ask_to_stop(run: RunStatus, slurm: Mapping[str, Queued] | None) -> str:
    """The answer for the user. Raises UserError where no job or process is certain to be this run's."""
    sent = run_status.read_submission(run.folder)
    waits, job, process = run.status == "queued", "", 0
    if slurm is None and run.job and lock.owner(RunFolder(run.folder)) is None:
        raise UserError(f"squeue does not answer here, so job {run.job} may not be this run's")
    if slurm and run.job in slurm and not slurm[run.job].has_ended:
        job = run.job
        # Ids are used again, and folders are copied and edited.
        if sent is None or not sent.sent_from(run.folder, slurm[job].script):
            raise UserError(f"job {job}, which its submission.json names, was not submitted for this folder")
    elif not waits:
        process = _process_of(run)
    if sent is not None:  # read by the job: a stop that was asked for is not followed by a requeue
        dataclasses.replace(sent, cancelled=True).write(run.folder)
    if job:
        # A job that waits has nothing to save.
        command = ["scancel", *([] if waits else ["--signal=USR2"]), job]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise UserError(" ".join(done.stderr.split()))
    elif process:
        os.kill(process, signal.SIGTERM)
    if waits:
        return f"taken out of the queue{f' (job {job})' if job else ''}"
    return "asked to stop at its next step"


def _process_of(run: RunStatus) -> int:
    """The process of this machine that has the run's lock. Raises UserError where it may be another."""
    paths = RunFolder(run.folder)
    owner = lock.owner(paths)
    if owner is None:
        raise UserError("it has just ended")
    if not owner.process:
        raise UserError("its lock names no process")
    if owner.host != os.uname().nodename:
        raise UserError(f"it runs on {owner.host}, cancel it there")
    if processes.start(owner.process) != owner.started or not processes.has_open(owner.process, paths.lock):
        raise UserError(f"process {owner.process}, which its lock names, is another one's by now")
    return owner.process


def _logs(found: Sequence[RunStatus], options: argparse.Namespace) -> int:
    """What a rank printed, of the newest submission; without one, the run's own log."""
    if len(found) > 1:
        raise UserError(f"logs: {len(found)} runs there, name one of them: {found[0].folder}, ...")
    folder, rank = found[0].folder, options.rank
    sent = run_status.read_submission(folder)
    own = RunFolder(folder).log
    path = own if sent is None else Path(sent.logs) / f"{sent.job}_{rank}_log.out"
    if not path.is_file() and rank == 0 and own.is_file():
        path = own
    if not path.is_file() or (path == own and rank != 0):
        raise UserError(f"{folder}: no log of rank {rank} yet ({path})")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    print(f"==> {path}", file=sys.stderr)
    print("\n".join(lines[-options.lines :]) if options.lines > 0 else "", flush=True)
    if not options.follow:
        return 0
    with open(path, encoding="utf-8", errors="replace") as file:
        file.seek(0, os.SEEK_END)
        going = True
        with contextlib.suppress(KeyboardInterrupt):  # of the follower, not of the run
            while going:
                going = run_status.read_all([folder])[0].status in ("queued", "running")
                print(file.read(), end="", flush=True)
                time.sleep(FOLLOW_SECONDS)
    return 0


def _requeue(found: Sequence[RunStatus], start: Start) -> int:
    """Runs that were sent together to the same place are sent together again."""
    again: dict[str, tuple[Request, Submission, list[RunStatus]]] = {}
    for run in found:
        sent = run_status.read_submission(run.folder)
        if run.status not in ("stopped", "failed"):
            print(f"{run.folder}: {run.status}, skipped")
        elif sent is None:
            damaged = RunFolder(run.folder).submission.exists()
            what = "its submission.json cannot be read" if damaged else "was not submitted"
            print(f"{run.folder}: {what}; the command that started it goes on", file=sys.stderr)
        else:
            where = f"{RunFolder(run.folder).submission}: request."
            request = Request.from_dict({"cluster": sent.cluster, **sent.request}, where)
            key = json.dumps([sent.request, sent.work_dir], sort_keys=True)
            again.setdefault(key, (request, sent, []))[2].append(run)
    statuses = []
    for request, sent, group in again.values():
        if sent.work_dir and Path(sent.work_dir).is_dir():
            os.chdir(sent.work_dir)  # relative paths in the settings start there
        configs = [dataclasses.replace(config, output_dir=str(run.folder))
                   for run in group if (config := run.config) is not None]  # fmt: skip
        statuses.append(start(request, configs))
    return max((status for status in statuses if status != EXIT_STOPPED), default=0) or (
        EXIT_STOPPED if EXIT_STOPPED in statuses else 0
    )

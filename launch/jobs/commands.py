"""What can be done with runs that are there already, from their folders alone: status, cancel, logs, requeue."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness import logs, processes, run_folder
from harness.config import RunConfig, nearest
from harness.errors import EXIT_STOPPED, UserError
from harness.run_folder import RunFolder
from launch.jobs import display, resources, suite_record
from launch.jobs import status as run_status
from launch.jobs.resources import Profile, Request
from launch.jobs.status import Queued, RunState, Submission

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
FOLLOW_SECONDS = 0.3
Start = Callable[[Request, Sequence[RunConfig]], int]


def main(words: Sequence[str], start: Start) -> int:
    """`words`: a command and its arguments; `start` starts runs. Returns the exit status; raises UserError."""
    name = words[0]
    if name not in COMMANDS:
        raise UserError(f"{name}: no such command{_meant(name) or '; there are ' + ', '.join(COMMANDS)}")
    parser = resources.Parser(prog=f"submit.py {name}", description=COMMANDS[name], allow_abbrev=False)
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


def _meant(name: str) -> str:
    same = next((command for command, others in SAME.items() if name.lower() in others), None)
    return f"; did you mean {same}?" if same else nearest(name.lower(), tuple(COMMANDS))


def _status(found: Sequence[RunState], as_json: bool) -> int:
    if as_json:
        for state in found:
            values = {**dataclasses.asdict(state), "folder": str(state.folder)}
            values["task"] = state.config.task if state.config is not None else ""
            print(json.dumps({name: value for name, value in values.items() if name != "config"}))
        return 0
    base = Path(os.path.commonpath([state.folder for state in found]))
    rows = []
    for state in found:
        name = str(state.folder.relative_to(base)) if state.folder != base else base.name
        cells = display.line(name, state.state, state.config, state.figures, state.reason)
        note = cells.pop("note")
        rows.append({**cells, "job": state.job, "node": state.node, "reason": note})
    logs.setup(True, None)
    logs.print_table(str(base), rows)
    logs.close()
    for note in suite_record.notes([state.folder for state in found]):
        print(note)
    return 0


def _cancel(found: Sequence[RunState]) -> int:
    """Queued runs leave the queue; running ones are asked to stop at a checkpoint. Exit status 0 all asked, else 1."""
    refused = False
    slurm = run_status.queue(state.job for state in found)
    for state in found:
        if state.state not in ("queued", "running"):
            print(f"{state.folder}: {state.state}, nothing to cancel")
            continue
        try:
            print(f"{state.folder}: {_ask_to_stop(state, slurm)}")
        except (UserError, OSError, subprocess.TimeoutExpired) as error:
            print(f"{state.folder}: cannot be asked to stop: {error}")
            refused = True
    return int(refused)


def _ask_to_stop(state: RunState, slurm: Mapping[str, Queued] | None) -> str:
    """What to tell. Raises UserError where no job or process is certain to be this run's."""
    sent = run_status.read_submission(state.folder)
    waits, job, process = state.state == "queued", "", 0
    if slurm is None and state.job and run_folder.holder(RunFolder(state.folder)) is None:
        raise UserError(f"squeue does not answer here, so nothing tells whether job {state.job} is this run's")
    if slurm and state.job in slurm and not slurm[state.job].has_ended:
        job = state.job
        # Ids are used again, and folders are copied and edited.
        if sent is None or not sent.sent_from(state.folder, slurm[job].script):
            raise UserError(f"job {job}, which its submission.json names, was not submitted for this folder")
    elif not waits:
        process = _process_of(state)
    if sent is not None:  # read by the job: a stop that was asked for is not followed by a requeue
        dataclasses.replace(sent, cancelled=True).write(state.folder)
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


def _process_of(state: RunState) -> int:
    """The process of this machine that has the run's lock. Raises UserError where it may be another."""
    paths = RunFolder(state.folder)
    text = run_folder.holder(paths)
    if text is None:
        raise UserError("it has just ended")
    owner = processes.owner(text)
    if owner is None:
        raise UserError("its lock does not say by which process it is held")
    process, start, node = owner
    if node != os.uname().nodename:
        raise UserError(f"it runs on {node}, cancel it there")
    if processes.start(process) != start or not processes.has_open(process, paths.lock):
        raise UserError(f"process {process}, which its lock names, is another one's by now")
    return process


def _logs(found: Sequence[RunState], options: argparse.Namespace) -> int:
    if len(found) > 1:
        raise UserError(f"logs: {len(found)} runs there, name one of them: {found[0].folder}, ...")
    folder = found[0].folder
    path = _log_file(folder, options.rank)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    print(f"==> {path}", file=sys.stderr)
    print("\n".join(lines[-options.lines :]) if options.lines > 0 else "", flush=True)
    if not options.follow:
        return 0
    with open(path, encoding="utf-8", errors="replace") as file:
        file.seek(0, os.SEEK_END)
        going = True
        try:
            while going:
                going = run_status.read_all([folder])[0].state in ("queued", "running")
                print(file.read(), end="", flush=True)
                time.sleep(FOLLOW_SECONDS)
        except KeyboardInterrupt:
            pass  # of the follower, not of the run
    return 0


def _log_file(folder: Path, rank: int) -> Path:
    """What a rank printed, of the newest submission; without one, the run's own log."""
    sent = run_status.read_submission(folder)
    printed = None if sent is None else Path(sent.logs) / f"{sent.job}_{rank}_log.out"
    own: Path = RunFolder(folder).log
    if printed is not None and printed.is_file():
        return printed
    if rank == 0 and own.is_file():
        return own
    looked = printed if printed is not None else own
    raise UserError(f"{folder}: no log of rank {rank} yet ({looked})")


def _requeue(found: Sequence[RunState], start: Start) -> int:
    """Runs that were sent together to the same place are sent together again."""
    again: dict[str, list[tuple[RunState, Submission]]] = {}
    for state in found:
        sent = run_status.read_submission(state.folder)
        if state.state not in ("stopped", "failed"):
            print(f"{state.folder}: {state.state}, left alone")
        elif sent is None:
            damaged = RunFolder(state.folder).submission.exists()
            what = "its submission.json cannot be read" if damaged else "was not submitted"
            print(f"{state.folder}: {what}; the command that started it goes on", file=sys.stderr)
        else:
            key = json.dumps([sent.request, sent.work_dir], sort_keys=True)
            again.setdefault(key, []).append((state, sent))
    statuses = []
    for group in again.values():
        sent = group[0][1]
        if sent.work_dir and Path(sent.work_dir).is_dir():
            os.chdir(sent.work_dir)  # relative paths in the settings start there
        configs = [dataclasses.replace(config, output_dir=str(state.folder))
                   for state, _ in group if (config := state.config) is not None]  # fmt: skip
        statuses.append(start(_request(sent), configs))
    return max((status for status in statuses if status != EXIT_STOPPED), default=0) or (
        EXIT_STOPPED if EXIT_STOPPED in statuses else 0
    )


def _request(sent: Submission) -> Request:
    try:
        return Request.from_dict(sent.request)
    except (TypeError, KeyError):  # of another version of this program
        return Request(cluster=sent.cluster, profile=Profile())

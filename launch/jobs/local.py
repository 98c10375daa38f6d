"""Runs on this machine: a queue before its devices, one run at a time on each, and what people see of it.

Progress is read from the run folders. One run alone shows its log.

A worker is a process of its own (this file as a program) that does one run after another, so that only the first one
pays for starting up. One that dies takes its run's attempt with it, nothing else; the run is tried again at the end of
the queue, in a new process. Requests are JSON lines on its stdin, {"config": settings, "log": file}; each is answered
by a line on its stdout, the exit status. The end of stdin ends the process; in the middle of a run, at its next
checkpoint.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness import logs, processes, run_folder
from harness.config import RunConfig
from harness.errors import EXIT_FAILED, EXIT_STOPPED, EXIT_USER
from harness.files import private
from harness.terminal import OWNER_ONLY
from launch.jobs import commands
from launch.jobs import status as run_status
from launch.jobs.requeue import RETRIES
from launch.jobs.resources import Request
from launch.jobs.slurm import LAUNCHER_VARIABLES, TrainJob, home, snapshot
from launch.jobs.status import RunStatus, Status, Submission, newest_metrics

POLL_SECONDS = 0.1
LIVE_SECONDS = 0.5  # between two drawings of the table
PLAIN_SECONDS = 30.0  # between two plain lines about the runs that go on
TAIL_LETTERS = 4000
COLUMNS = (*commands.COLUMNS, "note")
STYLES: Mapping[str, str] = {"running": "cyan", "finished": "green", "failed": "bold red", "stopped": "yellow"}
FIRST_SHOWN = ("running", "failed", "finished", "stopped", "queued")  # where a terminal is too low for all
STEP_VARIABLES = ("SLURM_PROCID", "SLURM_STEP_ID")  # of a job that this command runs in: no ranks of ours
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Row:
    """A run in the queue of this machine."""

    config: RunConfig
    log: Path
    status: Status = "queued"
    reason: str = ""
    place: str = ""  # the device
    attempts: int = 0
    exit: int = 0

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.output_dir)

    def shown(self) -> RunStatus:
        """As tables show it."""
        note = self.reason or self.place
        return RunStatus(self.folder, self.status, note, self.config, metrics=newest_metrics(self.folder))


class Board:
    """Rows as they go on: a table that is drawn anew on a terminal, elsewhere a line for each change."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.base = Path(os.path.commonpath([row.folder for row in rows]))
        self.shown = time.monotonic()
        console = logs.Console()
        # No thread of its own, hence nothing that a signal handler could catch half-way.
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_live else None

    @staticmethod
    def build(rows: Sequence[Row]) -> Board:
        """The one that fits the rows. To be used within its `live`, where it has one."""
        return LogBoard(rows) if len(rows) == 1 else Board(rows)

    def name(self, row: Row) -> str:
        """The run folder below the folder of all."""
        return str(row.folder.relative_to(self.base))

    def say(self, message: str) -> None:
        """A line for the user, beside the rows."""
        if self.live is not None:
            self.live.console.print(Text(message), soft_wrap=True)
        else:
            print(message, file=sys.stderr, flush=True)

    def change(self, row: Row, status: Status, reason: str = "", place: str = "") -> None:
        """A row's new status. `place`: the device it runs on."""
        row.status, row.reason, row.place = status, reason, place
        self._changed(row, " (again, at the end of the queue)" if status == "queued" else "")

    def _changed(self, row: Row, again: str) -> None:
        """`again`: what is added for a row that goes back into the queue."""
        if self.live is not None:
            self.shown = 0.0
            return
        what = "failed" if again else row.status
        where = f" on {row.place}" if row.place else ""
        scores = commands.scores(newest_metrics(row.folder)) if row.status == "finished" else {}
        parts = [f"{what}{where}", *(f"{split} {score}" for split, score in scores.items()), row.reason + again]
        done = sum(other.status == "finished" for other in self.rows)
        print(f"[{done}/{len(self.rows)}] {self.name(row)}: {', '.join(part for part in parts if part)}", flush=True)

    def show(self) -> None:
        """Called again and again while runs go on."""
        if time.monotonic() - self.shown < (PLAIN_SECONDS if self.live is None else LIVE_SECONDS):
            return
        self.shown = time.monotonic()
        if self.live is not None:
            self._draw(self.live)
            return
        for row in self.rows:
            if row.status == "running":
                found = newest_metrics(row.folder)
                parts = [commands.progress(row.config, found) or "starting"]
                parts += [f"{split} {score}" for split, score in commands.scores(found).items()]
                print(f"    {self.name(row)}: {' '.join(parts)}", flush=True)

    def _draw(self, live: Live) -> None:
        """The rows that fit on the terminal."""
        fitting = max(1, live.console.height - 6)
        order = sorted(self.rows, key=lambda row: FIRST_SHOWN.index(row.status))[:fitting]
        counts = Counter(row.status for row in self.rows)
        table = Table(caption=", ".join(f"{number} {status}" for status, number in counts.items()))
        table.caption_justify = "left"
        for name in COLUMNS:
            table.add_column(name, justify="right" if name in ("dev", "test") else "left", no_wrap=name != "note")
        for row in self.rows:
            if row in order:
                cells = commands.line(row.shown(), self.base)
                table.add_row(*(Text(cells[name]) for name in COLUMNS), style=STYLES.get(row.status, ""))
        live.update(table, refresh=True)

    def summary(self, before: Sequence[RunStatus] = (), notes: Sequence[str] = ()) -> None:
        """After the last run: the table of all, with those that were finished before, and how to go on."""
        counts: Counter[str] = Counter(row.status for row in self.rows)
        parts = [f"{counts[status]} {status}" for status in STYLES if counts[status]]
        parts += [f"{len(before)} finished before"] if before else []
        runs = [*before, *(row.shown() for row in self.rows)]
        base = Path(os.path.commonpath([run.folder for run in runs]))
        commands.show_runs(", ".join(parts), base, runs, COLUMNS, notes)
        for row in self.rows:
            if row.status == "failed":
                times = "once" if row.attempts == 1 else f"{row.attempts} times"
                print(f"{self.name(row)} failed {times}: {row.reason}\n    log: {row.log}", file=sys.stderr)
        if any(row.status in ("stopped", "failed") for row in self.rows):
            print("the same command goes on from the last checkpoints, with what is not finished", file=sys.stderr)


class LogBoard(Board):
    """One run alone: what it writes to its log, as it writes it."""

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__(rows)
        self.live = None
        self.position = rows[0].log.stat().st_size if rows[0].log.exists() else 0
        self.tail = ""  # the last lines that were shown

    def _changed(self, row: Row, again: str) -> None:
        """The log shows it, but for what it cannot know."""
        self.show()
        known = row.reason.splitlines()[0] in self.tail if row.reason else True
        if row.status in ("queued", "failed") and (again or not known):
            print(f"failed: {row.reason}{again}", file=sys.stderr, flush=True)

    def show(self) -> None:
        """The log's new lines."""
        if self.rows[0].log.exists():
            with open(self.rows[0].log, encoding="utf-8", errors="replace") as file:
                file.seek(self.position)
                text = file.read()
                self.position = file.tell()
            print(text, end="", flush=True)
            self.tail = (self.tail + text)[-TAIL_LETTERS:]

    def summary(self, before: Sequence[RunStatus] = (), notes: Sequence[str] = ()) -> None:
        """The run has shown its own."""
        if before or notes:
            super().summary(before, notes)
        elif self.rows[0].status == "stopped":
            print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)


class Worker:
    """A process that takes runs one after another; started when it gets its first one, and again after it has died."""

    def __init__(self, device: str | None, threads: int | None, code: Path) -> None:
        """`device`: a value of CUDA_VISIBLE_DEVICES, "" to train on the CPU; None where there is nothing else."""
        self.name = f"GPU {device}" if device else "CPU"
        gone = {*LAUNCHER_VARIABLES, *STEP_VARIABLES}
        self.environment = {key: value for key, value in os.environ.items() if key not in gone}
        path = os.environ.get("PYTHONPATH")
        self.environment["PYTHONPATH"] = f"{code}:{path}" if path else str(code)
        if device is not None:
            self.environment["CUDA_VISIBLE_DEVICES"] = device
        if threads is not None:
            self.environment.setdefault("OMP_NUM_THREADS", str(threads))
        self.process: subprocess.Popen[bytes] | None = None
        self.row: Row | None = None

    def begin(self, row: Row) -> None:
        """Start a run."""
        if self.process is None or self.process.poll() is not None:
            # In a session of its own: a Ctrl-C of the terminal is for the queue alone.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-u", "-m", "launch.jobs.local"], env=self.environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
            assert self.process.stdout is not None
            os.set_blocking(self.process.stdout.fileno(), False)
        assert self.process.stdin is not None
        self.row = row
        request = {"config": row.config.to_dict(), "log": str(row.log)}
        with contextlib.suppress(BrokenPipeError):  # it has died: `answer` reports it
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def answer(self) -> tuple[int, str] | None:
        """(exit status, reason where the process died) of the run; None while it goes on."""
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return int(line), ""
        code = self.process.poll()
        if code is None:
            return None
        if code < 0:
            hint = " (out of memory?)" if code == -signal.SIGKILL else ""
            return code, f"the process was ended by {signal.Signals(-code).name}{hint}"
        return code or EXIT_FAILED, f"the process ended with status {code}"

    def close(self) -> None:
        """End the process, which has no run."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None


class Queue:
    """Rows wait until a worker is free; a row that failed waits again behind the others."""

    def __init__(self, rows: Sequence[Row], workers: Sequence[Worker], board: Board) -> None:
        self.waiting = deque(rows)
        self.workers, self.board = workers, board
        self.signals = 0  # stop requests so far
        self.signals_handled = 0

    def run(self) -> None:
        """Until every row is finished, has failed for good, or was stopped."""
        # What nohup, or a shell for what it puts into the background, has made this process ignore stays ignored.
        handled = [number for number in STOPS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._request_stop) for number in handled}
        try:
            while self.waiting or any(worker.row is not None for worker in self.workers):
                for worker in self.workers:
                    self._settle(worker)
                    self._give(worker)
                if self.signals > self.signals_handled:
                    self._stop()
                self.board.show()
                time.sleep(POLL_SECONDS)
        finally:
            for worker in self.workers:
                worker.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1

    def _give(self, worker: Worker) -> None:
        """The next row, to a worker that has none."""
        while worker.row is None and self.waiting:
            row = self.waiting.popleft()
            if run_status.is_cancelled(row.folder):
                self._end(row, "stopped", "cancelled")
            else:
                row.attempts += 1
                worker.begin(row)
                self.board.change(row, "running", "", worker.name)

    def _settle(self, worker: Worker) -> None:
        """What becomes of a worker's row, where it has ended."""
        if worker.row is None or (outcome := worker.answer()) is None:
            return
        row, worker.row = worker.row, None
        row.exit, died = outcome
        if row.exit == 0:
            self._end(row, "finished")
            return
        worker.close()  # something went wrong in it, or a library may be half imported
        cancelled = run_status.is_cancelled(row.folder)
        if row.exit == EXIT_STOPPED or self.signals or cancelled:
            row.exit = EXIT_STOPPED
            self._end(row, "stopped", "cancelled" if cancelled else "")
            return
        attempt = run_status.read_attempt(row.folder)
        reason = died or (attempt.reason if attempt is not None else "") or f"exit status {row.exit}"
        final = row.exit == EXIT_USER or (not died and attempt is not None and attempt.final)
        if final or row.attempts > RETRIES:
            self._end(row, "failed", reason)
        else:
            self.board.change(row, "queued", reason)
            self.waiting.append(row)

    def _stop(self) -> None:
        if self.signals_handled:
            self.board.say("stopping; the checkpoints are being written")
        else:
            self.board.say("stopping at the next step")
            while self.waiting:
                self._end(self.waiting.popleft(), "stopped")
            for worker in self.workers:
                if worker.row is not None and worker.process is not None:
                    worker.process.send_signal(signal.SIGTERM)
        self.signals_handled = self.signals

    def _end(self, row: Row, status: Status, reason: str = "") -> None:
        self.board.change(row, status, reason)
        run_status.close(row.folder, status, reason)


def run(
    request: Request, configs: Sequence[RunConfig], before: Sequence[RunStatus] = (), notes: Sequence[str] = ()
) -> int:
    """Do the runs; the closing table has those that were finished `before` too, and the notes below it.

    Exit status 0 all finished, 75 stopped, 2 where all that failed are user errors, else 1.
    """
    place = home(configs)
    code, folder = snapshot(place), place / run_folder.SUBMITIT
    folder.mkdir(exist_ok=True)
    process = os.getpid()
    rows = []
    for number, config in enumerate(configs):
        job = str(process) if len(configs) == 1 else f"{process}_{number}"
        sent = Submission("local", job, str(folder), os.uname().nodename, processes.start(process),
                          str(Path.cwd()), request.to_dict())  # fmt: skip
        run_status.forget(Path(config.output_dir))
        sent.write(Path(config.output_dir))
        rows.append(Row(config, folder / f"{job}_0_log.out"))
    board = Board.build(rows)
    with board.live or contextlib.nullcontext():
        Queue(rows, _workers(request, len(rows), code), board).run()
    board.summary(before, notes)
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        return EXIT_USER if all(row.exit == EXIT_USER for row in failed) else EXIT_FAILED
    return EXIT_STOPPED if any(row.status == "stopped" for row in rows) else 0


def _workers(request: Request, runs_to_do: int, code: Path) -> list[Worker]:
    """One for each run that may go on at once: by turns on the devices, with its share of the CPUs."""
    devices: list[str | None] = [None]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if request.gpus_per_node == 0:
        devices = [""]
    elif named is not None:
        devices = [word.strip() for word in named.split(",") if word.strip()] or devices
    else:
        import torch

        devices = [str(number) for number in range(torch.cuda.device_count())] or devices
    count = min(request.jobs or request.runs_per_gpu * len(devices), runs_to_do)
    threads = max(1, len(os.sched_getaffinity(0)) // count) if count > 1 else None
    return [Worker(devices[number % len(devices)], threads, code) for number in range(count)]


def serve() -> None:
    """The worker: until stdin ends."""
    os.umask(OWNER_ONLY)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while (request := requests.get()) is not None:
        # All that the run and its libraries print goes to the end of its log.
        handle = private(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.close(handle)
        status = _attempt(request["config"])
        sys.stdout.flush()
        sys.stderr.flush()
        answers.write(f"{status}\n")
        # After the first run: what is left are the libraries' objects, half a million, and each run ends with a
        # collection that would look through them. Not after later runs: their leftovers would stay for good.
        if not gc.get_freeze_count():
            gc.collect()
            gc.freeze()
    os._exit(0)  # libraries' threads have nothing left to say


def _listen(requests: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    for line in sys.stdin:
        requests.put(json.loads(line))
    requests.put(None)
    os.kill(os.getpid(), signal.SIGTERM)  # who asked is gone: a run that is going on stops at its next checkpoint


def _attempt(config: dict[str, Any]) -> int:
    """The exit status that a process with this run alone would have."""
    try:
        outcome = TrainJob(config)()
    except SystemExit as end:
        return int(end.code or 0) if not isinstance(end.code, str) else EXIT_FAILED
    except BaseException:
        traceback.print_exc()
        return EXIT_FAILED
    return EXIT_STOPPED if outcome["status"] == "stopped" else 0


if __name__ == "__main__":
    serve()

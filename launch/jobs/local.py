"""Runs on this machine: a queue before its devices, one run at a time on each.

A worker is a process of its own (this file as a program) that does one run after another, so that only the first one
pays for starting up. One that dies takes its run's attempt with it, nothing else; the run is tried again at the end of
the queue, in a new process. Requests are JSON lines on its stdin, {"config": settings, "log": file}; each is answered
by one on its stdout, {"exit": status}. The end of stdin ends the process; in the middle of a run, at its next
checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from harness import processes, run_folder
from harness.config import RunConfig
from harness.errors import EXIT_FAILED, EXIT_STOPPED, EXIT_USER
from harness.files import private
from harness.terminal import OWNER_ONLY
from launch.jobs import status as run_status
from launch.jobs.display import Board, Row
from launch.jobs.job import LAUNCHER_VARIABLES, TrainJob
from launch.jobs.requeue import RETRIES
from launch.jobs.resources import Request
from launch.jobs.slurm import home, snapshot
from launch.jobs.status import Status, Submission

POLL_SECONDS = 0.1
STEP_VARIABLES = ("SLURM_PROCID", "SLURM_STEP_ID")  # of a job that this command runs in: no ranks of ours
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Worker:
    """A process that takes runs one after another; started when it gets its first one, and again after it has died."""

    def __init__(self, device: str | None, name: str, threads: int | None, code: Path) -> None:
        self.name, self.code = name, code
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
            return int(json.loads(line)["exit"]), ""
        code = self.process.poll()
        if code is None:
            return None
        if code < 0:
            hint = " (out of memory?)" if code == -signal.SIGKILL else ""
            return code, f"the process was ended by {signal.Signals(-code).name}{hint}"
        return code or EXIT_FAILED, f"the process ended with status {code}"

    def stop(self) -> None:
        """Ask the run to stop at its next step."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End the process, which has no run."""
        if self.process is not None and self.process.poll() is None:
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
        while self.waiting or any(worker.row is not None for worker in self.workers):
            for worker in self.workers:
                self._settle(worker)
                self._give(worker)
            if self.signals > self.signals_handled:
                self._stop()
            self.board.show()
            time.sleep(POLL_SECONDS)

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        self.signals += 1

    def _give(self, worker: Worker) -> None:
        while worker.row is None and self.waiting:
            row = self.waiting.popleft()
            if run_status.is_cancelled(row.folder):
                self._end(row, "stopped", "cancelled")
                continue
            row.attempts += 1
            worker.begin(row)
            self.board.change(row, "running", "", worker.name)

    def _settle(self, worker: Worker) -> None:
        if worker.row is None or (outcome := worker.answer()) is None:
            return
        row, (code, died), worker.row = worker.row, outcome, None
        row.exit = code
        if code == 0:
            self._end(row, "finished")
        elif code == EXIT_STOPPED or self.signals or run_status.is_cancelled(row.folder):
            row.exit = EXIT_STOPPED
            worker.close()  # a library may be half imported in it
            self._end(row, "stopped", "cancelled" if run_status.is_cancelled(row.folder) else "")
        else:
            worker.close()  # a process in which something went wrong is not used again
            attempt = run_status.read_attempt(row.folder)
            reason = died or (attempt.reason if attempt is not None else "") or f"exit status {code}"
            final = not died and attempt is not None and attempt.final
            again = code != EXIT_USER and not final and row.attempts <= RETRIES
            if again:
                self.board.change(row, "queued", reason)
                self.waiting.append(row)
            else:
                self._end(row, "failed", reason)

    def _stop(self) -> None:
        if not self.signals_handled:
            self.board.say("stopping at the next step")
            while self.waiting:
                self._end(self.waiting.popleft(), "stopped")
            for worker in self.workers:
                if worker.row is not None:
                    worker.stop()
        else:
            self.board.say("stopping; the checkpoints are being written")
        self.signals_handled = self.signals

    def _end(self, row: Row, status: Status, reason: str = "") -> None:
        """The queue is done with a row: whoever asks for the run's status shall not read that it waits here."""
        self.board.change(row, status, reason)
        run_status.close(row.folder, status, reason)
        sent = run_status.read_submission(row.folder)
        if sent is not None and sent.started:
            dataclasses.replace(sent, started="").write(row.folder)


def run(
    request: Request, configs: Sequence[RunConfig], before: Sequence[RunConfig] = (), notes: Sequence[str] = ()
) -> int:
    """Do the runs; the closing table has those that were finished `before` too, and the notes below it.

    Exit status 0 all finished, 75 stopped, 2 where all that failed are user errors, else 1.
    """
    place = home(configs)
    code, logs = snapshot(place), place / run_folder.SUBMITIT
    logs.mkdir(exist_ok=True)
    process = os.getpid()
    rows = []
    for number, config in enumerate(configs):
        job = str(process) if len(configs) == 1 else f"{process}_{number}"
        sent = Submission("local", job, str(logs), os.uname().nodename, processes.start(process),
                          str(Path.cwd()), request.to_dict())  # fmt: skip
        run_status.forget(Path(config.output_dir))
        sent.write(Path(config.output_dir))
        rows.append(Row(config, logs / f"{job}_0_log.out"))
    workers = _workers(request, len(rows), code)
    with Board.build(rows) as board, _stop_signals(queue := Queue(rows, workers, board)):
        try:
            queue.run()
        finally:
            for worker in workers:
                worker.close()
    board.summary(before, notes)
    return _status(rows)


def _status(rows: Sequence[Row]) -> int:
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        return EXIT_USER if all(row.exit == EXIT_USER for row in failed) else EXIT_FAILED
    return EXIT_STOPPED if any(row.status == "stopped" for row in rows) else 0


def _workers(request: Request, runs_to_do: int, code: Path) -> list[Worker]:
    """One for each run that may go on at once: by turns on the devices, with its share of the CPUs."""
    devices = _devices(request)
    wanted = request.jobs or request.runs_per_gpu * len(devices)
    count = min(wanted, runs_to_do)
    threads = max(1, len(os.sched_getaffinity(0)) // count) if count > 1 else None
    names = [f"GPU {device}" if device else "CPU" for device in devices]
    return [Worker(devices[i % len(devices)], names[i % len(devices)], threads, code) for i in range(count)]


def _devices(request: Request) -> list[str | None]:
    """Values of CUDA_VISIBLE_DEVICES, one a device; [""] to train on the CPU, [None] where there is nothing else."""
    if request.gpus_per_node == 0:
        return [""]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [word.strip() for word in named.split(",") if word.strip()] or [None]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())] or [None]


@contextlib.contextmanager
def _stop_signals(queue: Queue) -> Iterator[None]:
    # What nohup, or a shell for what it puts into the background, has made this process ignore stays ignored.
    heard = [number for number in STOPS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, queue.request_stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve() -> None:
    """The worker: until stdin ends."""
    os.umask(OWNER_ONLY)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while (request := requests.get()) is not None:
        _write_to(request["log"])
        status = _attempt(request["config"])
        sys.stdout.flush()
        sys.stderr.flush()
        answers.write(json.dumps({"exit": status}) + "\n")
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


def _write_to(log: str) -> None:
    """All that the run and its libraries print goes to the end of that file."""
    sys.stdout.flush()
    sys.stderr.flush()
    handle = private(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


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

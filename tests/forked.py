"""Ranks of a run as forks of the process that calls.

What runs in them is launch/train.py's `main`, to the end of the process. A program that uses this must not have
started a thread or joined a process group, so that tests run it as a program of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import warm  # noqa: F401 - before what imports torch
from running import free_port

GIVE_UP_SECONDS = 120.0


@dataclass
class Ranks:
    """The processes of one start of a run."""

    processes: list[int]
    screen: Path  # what all of them print, in the order in which they do
    statuses: dict[int, int] = field(default_factory=dict)  # by rank; negative: ended by that signal
    ended: dict[int, float] = field(default_factory=dict)  # by rank: time.monotonic()

    def running(self) -> list[int]:
        """Ranks that have not ended."""
        for rank, process in enumerate(self.processes):
            if rank not in self.statuses:
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    self.statuses[rank] = os.waitstatus_to_exitcode(status)
                    self.ended[rank] = time.monotonic()
        return [rank for rank in range(len(self.processes)) if rank not in self.statuses]

    def signal(self, number: signal.Signals, *ranks: int) -> None:
        """To the named ranks, or to all that run."""
        for rank in ranks or self.running():
            os.kill(self.processes[rank], number)

    def wait(self, seconds: float = GIVE_UP_SECONDS) -> dict[int, int]:
        """The exit statuses once all have ended; those that run on after `seconds` are killed (status -9)."""
        deadline = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
            time.sleep(0.005)
        return self.statuses

    def left_over(self) -> list[str]:
        """Processes that the ranks started and that are still there: each rank has a session of its own."""
        found = []
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                words = place.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(words[3]) in self.processes:
                found.append(place.parent.name)
        return found


def start(
    lines: Sequence[str], world: int, screen: Path, *, prepare: Callable[[int], None] = lambda rank: None, **more: str
) -> Ranks:
    """Start a command line of launch/train.py on `world` ranks. `more`: environment variables.

    `prepare` runs in each rank before; it is how a test makes a rank fail.
    """
    port = free_port()
    sys.stdout.flush()
    processes = []
    for rank in range(world):
        process = os.fork()
        if process == 0:
            _become(rank, world, port, screen, more)
            _run(list(lines), lambda rank=rank: prepare(rank))
        processes.append(process)
    return Ranks(processes, screen)


def _become(rank: int, world: int, port: int, screen: Path, more: dict[str, str]) -> None:
    os.setsid()
    os.environ.update(more)
    if world > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
                          MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))  # fmt: skip
    output = os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)


def _run(lines: list[str], prepare: Callable[[], None]) -> None:
    """As the end of launch/train.py; never returns into the program that forked."""
    status = 1
    try:
        from harness import distributed
        from launch import train

        prepare()
        distributed.leave(train.main(lines))
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

"""A process by more than its number, which may be another's by now: machine, start, and what it has open; and what
another program answers."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

LOCK_TEXT = re.compile(r"process ([1-9]\d*) started (\d+|\?) on ([\w.-]+)", re.ASCII)


@dataclass(frozen=True)
class Owner:
    """A process, as the file of a lock or a lease describes it; all empty where the file is damaged."""

    process: int = 0
    started: str = ""  # in the kernel's ticks: numbers are given again
    host: str = ""
    space: str = ""  # the machine's start and the container: only in there its number means anything
    token: str = ""  # of one lease
    before: str = ""  # how it took the lease over from another one

    @staticmethod
    def here(token: str = "") -> Owner:
        """This process."""
        return Owner(os.getpid(), start(os.getpid()), os.uname().nodename, _space(), token)

    @staticmethod
    def of_lock(text: str) -> Owner:
        """What `lock.acquire` wrote."""
        found = LOCK_TEXT.fullmatch(text.strip())
        return Owner(int(found[1]), found[2], found[3]) if found else Owner()

    @staticmethod
    def of_lease(text: str) -> Owner:
        """What is in the JSON of a lease."""
        try:
            owner = Owner(**json.loads(text))
            texts = (owner.started, owner.host, owner.space, owner.token, owner.before)
            named = type(owner.process) is int and owner.process > 0 and owner.host
            return owner if named and all(map(str.isprintable, texts)) else Owner()
        except (ValueError, TypeError, RecursionError):
            return Owner()

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}" if self.process else "another process"

    def is_gone(self) -> bool:
        """Whether it is certain that the process has ended; of another machine's it never is."""
        if not self.space or (self.host, self.space) != (os.uname().nodename, _space()):
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        started = start(self.process)
        return bool(started) and started != self.started


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def start(process: int) -> str:
    """When a process of this machine began, in the kernel's ticks.

    "ended" of one that nobody has waited for; "" where there is none, or no /proc.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "ended" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


def has_open(process: int, path: Path) -> bool:
    """Whether a process of this user has a file open. False where that cannot be seen."""
    for descriptor in glob.glob(f"/proc/{process}/fd/*"):
        with contextlib.suppress(OSError):  # closed meanwhile, or of a kind that has no state
            if os.path.samefile(descriptor, path):
                return True
    return False


def answer(*command: str, seconds: float = 60) -> str | None:
    """What a command prints; None where there is none of that name, it fails, or does not end in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None

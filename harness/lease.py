"""Who has a run folder, where its file system knows no flock (Lustre mounted without it, some NFS): a lease.

It is a file that names a process, which renews the file's time in a thread. Another process takes it over where the
owner is seen to be gone from this machine, or where the file was not renewed for SILENT_SECONDS, by the clock of the
one that waits: those of two machines differ. An owner that had stood still for so long ends as soon as it sees that.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import files, processes

NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # nobody else has the lock
RENEW_SECONDS = 5.0
SILENT_SECONDS = 60.0  # long for a busy machine, short for a job that was started again on another node
SETTLE_SECONDS = 5.0  # of several that take over at once, the last one has it
EXIT_LOST = 1

logger = logging.getLogger(__name__)


class InUse(Exception):
    """Another process has the lease; `str` says which."""


@dataclass(frozen=True)
class Owner:
    """A process, as the lease's file describes it."""

    process: int
    started: str  # in the kernel's ticks: numbers are given again
    host: str
    space: str  # the machine's start and the container: only in there its number means anything
    token: str = ""
    before: str = ""  # how it took over from another one

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

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
        started = processes.start(self.process)
        return bool(started) and started != self.started


def take(path: Path, stack: ExitStack) -> None:
    """Have the lease in the file `path` until `stack` closes. Raises InUse and OSError.

    An owner whose machine is not this one may have been killed: to find out takes up to SILENT_SECONDS.
    """
    here = Owner(os.getpid(), processes.start(os.getpid()), os.uname().nodename, _space(), secrets.token_hex(8))
    text = json.dumps(asdict(here))
    try:
        _create(path, text)
    except FileExistsError:
        text = json.dumps(asdict(here) | {"before": _wait_for_end(path)})
        files.write(path, text)
        time.sleep(SETTLE_SECONDS)
        found = _look(path)
        if found is None or found[0] != text:
            raise InUse(_name(found)) from None
    _Renewal(path, text, stack)


def holder(path: Path) -> str | None:
    """Who has the lease; None where nobody has, as far as can be seen without waiting."""
    try:
        found = _look(path)
    except OSError:
        return None
    owner = None if found is None else _owner(found[0])
    if found is None or (owner is not None and owner.is_gone()) or time.time() - found[1] / 1e9 > SILENT_SECONDS:
        return None
    return _name(found)


def account(path: Path) -> str | None:
    """What a run's log should say where its folder is kept by a lease; None where it is not."""
    try:
        found = _look(path)
    except OSError:
        return None
    owner = None if found is None else _owner(found[0])
    if found is None:
        return None
    before = f"; taken over from {owner.before}" if owner is not None and owner.before else ""
    return (
        f"its file system has no locks (flock): {path.name} keeps other processes out, renewed every "
        f"{RENEW_SECONDS:.0f} s{before}"
    )


class _Renewal:
    """The thread that says that the owner is there. Ends it where another process has taken the lease."""

    def __init__(self, path: Path, text: str, stack: ExitStack) -> None:
        self.path, self.text = path, text
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True, name="lease")
        self.thread.start()
        stack.callback(self._end)

    def _run(self) -> None:
        while not self.done.wait(RENEW_SECONDS):
            try:
                found = _look(self.path)
                if found is not None and found[0] != self.text:
                    logger.error(
                        "%s: this process stood still for so long that %s has taken the folder over; it ends, so that "
                        "the two do not write over each other", self.path, _name(found),
                    )  # fmt: skip
                    os._exit(EXIT_LOST)
                if found is not None:
                    os.utime(self.path)  # by the clock of the file server
                elif self.path.parent.is_dir():
                    _create(self.path, self.text)  # somebody has removed it
            except OSError:  # the storage may answer again by the next time
                continue

    def _end(self) -> None:
        self.done.set()
        self.thread.join(RENEW_SECONDS)
        try:
            found = _look(self.path)
            if found is not None and found[0] == self.text:
                self.path.unlink()
        except OSError:  # others see that the process is gone, or that it is silent
            pass


def _create(path: Path, text: str) -> None:
    """Raises FileExistsError."""
    with open(path, "x", encoding="utf-8", opener=files.private) as file:
        file.write(text)


def _wait_for_end(path: Path) -> str:
    """Until the owner has ended; says how that was seen, "" where it gave the lease back. Raises InUse."""
    found = first = _look(path)
    until = time.monotonic() + SILENT_SECONDS
    while found is not None:
        owner = _owner(found[0])
        if owner is not None and owner.is_gone():
            return f"{owner}, which has ended"
        if found != first:
            raise InUse(_name(found))
        if time.monotonic() > until:
            return f"{_name(found)}, silent for {SILENT_SECONDS:.0f} s"
        time.sleep(min(1.0, RENEW_SECONDS / 5))
        found = _look(path)
    return ""


def _look(path: Path) -> tuple[str, int] | None:
    """(the file's text, its time in nanoseconds) as the server has them; None where there is none."""
    try:
        # Opened each time: a network file system asks the server then. A pipe in its place would be waited for.
        number = files.private(str(path), os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(number, encoding="utf-8", errors="replace") as file:
        return file.read(), os.fstat(number).st_mtime_ns


def _owner(text: str) -> Owner | None:
    """None for a text that is none of ours, or is just being written."""
    try:
        owner = Owner(**json.loads(text))
        texts = (owner.started, owner.host, owner.space, owner.token, owner.before)
        ours = type(owner.process) is int and owner.process > 0 and all(map(str.isprintable, texts))
        return owner if ours else None
    except (ValueError, TypeError, RecursionError):
        return None


def _name(found: tuple[str, int] | None) -> str:
    owner = None if found is None else _owner(found[0])
    return "another process" if owner is None else str(owner)


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""

"""The lock of a run folder: one process at a time.

By flock; where the file system has none (Lustre mounted without it, some NFS), by a lease: a file that names a process,
which renews the file's time in a thread. Another process takes it over where the owner is seen to be gone from this
machine, or where the file was not renewed for SILENT_SECONDS, by the clock of the one that waits: those of two machines
differ. An owner that had stood still for so long ends as soon as it sees that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import shutil
import stat
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TextIO

from harness import files, run_folder
from harness.errors import EXIT_FAILED, UserError
from harness.processes import Owner
from harness.run_folder import FAILURE_FILE, RunFolder

LOCK_SECONDS = 1.0  # somebody who only looks whether the lock is free has it for a moment
NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # nobody else has the lock
RENEW_SECONDS = 5.0
SILENT_SECONDS = 60.0  # long for a busy machine, short for a job that was started again on another node
SETTLE_SECONDS = 5.0  # of several that take over at once, the last one has it

logger = logging.getLogger(__name__)


class _InUse(Exception):
    """Another process has the lock or the lease; `str` says which."""


def acquire(folder: RunFolder, stack: ExitStack) -> str:
    """Lock the folder until `stack` closes, and clear what a killed run left; returns a token for this start.

    Raises UserError where another process has the lock. One that has a lease on another machine may have been killed:
    to find out takes up to SILENT_SECONDS.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        for path in (folder.lock, folder.lease, folder.metrics, folder.log):
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                raise UserError(
                    f"--output_dir {folder.path}: {path.name} in it is a link or no plain file, and a run would write "
                    "into it; remove it, or name another folder"
                )
        handle = stack.enter_context(open(folder.lock, "a+", encoding="utf-8", opener=files.private))
        if not _flock(handle) or os.path.lexists(folder.lease):  # of another machine, which saw no flock
            take_lease(folder.lease, stack)
        os.ftruncate(handle.fileno(), 0)
        # Not through the buffer, whose failure would come a second time when the file is closed.
        here = Owner.here()
        os.write(handle.fileno(), f"process {here.process} started {here.started or '?'} on {here.host}".encode())
        for claim in folder.path.glob(f"{FAILURE_FILE}*"):
            claim.unlink(missing_ok=True)
        run_folder.clear_unfinished(folder)
    except _InUse as other:
        raise UserError(f"--output_dir {folder.path}: in use by {other}; wait for it, or name another folder") from None
    except OSError as error:
        raise files.not_writable(folder.path, error) from error
    for unfinished in Path(folder.checkpoints).glob(".step-*.partial"):  # a full disk may be full of it
        shutil.rmtree(unfinished, ignore_errors=True)
    return secrets.token_hex(4)


def owner(folder: RunFolder) -> Owner | None:
    """Who has the folder's lock or lease; None where nobody has, as far as can be seen without waiting."""
    leased = None
    with contextlib.suppress(OSError):
        if (found := _look(folder.lease)) is not None:
            _, leased, renewed = found
            if leased.is_gone() or time.time() - renewed > SILENT_SECONDS:
                leased = None
    # No lock, or a file system that has none.
    with contextlib.suppress(OSError), open(folder.lock, encoding="utf-8", opener=files.private) as handle:
        try:
            if leased is None:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Owner.of_lock(handle.read())
        if leased is not None and (named := Owner.of_lock(handle.read())).process:
            return named
    return leased


def log_lease(folder: RunFolder) -> None:
    """Say so where a lease keeps the folder. On every rank, whose level decides."""
    with contextlib.suppress(OSError):
        if (found := _look(folder.lease)) is not None:
            before = f"; taken over from {found[1].before}" if found[1].before else ""
            logger.warning(
                "folder  %s: its file system has no locks (flock): %s keeps other processes out, renewed every "
                "%.0f s%s", folder.path, folder.lease.name, RENEW_SECONDS, before,
            )  # fmt: skip


def _flock(handle: TextIO) -> bool:
    """False where the file system has no flock. Raises _InUse and OSError."""
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                handle.seek(0)
                raise _InUse(Owner.of_lock(handle.read())) from None
            time.sleep(LOCK_SECONDS / 10)
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            return False


def take_lease(path: Path, stack: ExitStack) -> None:
    """Have the lease in the file `path` until `stack` closes. Raises _InUse and OSError."""
    here = Owner.here(secrets.token_hex(8))
    text = json.dumps(asdict(here))
    try:
        _create(path, text)
    except FileExistsError:
        text = json.dumps(asdict(replace(here, before=_wait_for_end(path))))
        files.write(path, text)
        time.sleep(SETTLE_SECONDS)
        found = _look(path)
        if found is None or found[0] != text:
            raise _InUse(Owner() if found is None else found[1]) from None
    done = threading.Event()
    thread = threading.Thread(target=_renew, args=(path, text, done), daemon=True, name="lease")
    thread.start()

    def give_back() -> None:
        done.set()
        thread.join(RENEW_SECONDS)
        with contextlib.suppress(OSError):  # others see that the process is gone, or that it is silent
            found = _look(path)
            if found is not None and found[0] == text:
                path.unlink()

    stack.callback(give_back)


def _wait_for_end(path: Path) -> str:
    """Until the owner has ended; says how that was seen, "" where it gave the lease back. Raises _InUse."""
    found = first = _look(path)
    until = time.monotonic() + SILENT_SECONDS
    while found is not None:
        if found[1].is_gone():
            return f"{found[1]}, which has ended"
        if found != first:
            raise _InUse(found[1])
        if time.monotonic() > until:
            return f"{found[1]}, silent for {SILENT_SECONDS:.0f} s"
        time.sleep(min(1.0, RENEW_SECONDS / 5))
        found = _look(path)
    return ""


def _renew(path: Path, text: str, done: threading.Event) -> None:
    """Say that the owner is there. Ends the process where another one has taken the lease."""
    while not done.wait(RENEW_SECONDS):
        with contextlib.suppress(OSError):  # the storage may answer again by the next time
            found = _look(path)
            if found is not None and found[0] != text:
                logger.error(
                    "%s: this process stood still for so long that %s has taken the folder over; it ends, so that "
                    "the two do not write over each other", path, found[1],
                )  # fmt: skip
                os._exit(EXIT_FAILED)
            if found is not None:
                os.utime(path)  # by the clock of the file server
            elif path.parent.is_dir():
                _create(path, text)  # somebody has removed it


def _create(path: Path, text: str) -> None:
    """Raises FileExistsError."""
    with open(path, "x", encoding="utf-8", opener=files.private) as file:
        file.write(text)


def _look(path: Path) -> tuple[str, Owner, float] | None:
    """(the lease's text, its owner, when it was renewed) as the server has them; None where there is no lease."""
    try:
        # Opened each time: a network file system asks the server then. A pipe in its place would be waited for.
        number = files.private(str(path), os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(number, encoding="utf-8", errors="replace") as file:
        text = file.read()
        return text, Owner.of_lease(text), os.fstat(number).st_mtime

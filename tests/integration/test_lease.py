"""A run folder on a file system without flock: a lease keeps other processes out.

No such file system is to be had in a test: flock is made to answer as it does there. All else is real.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from running import assert_user_error

from harness import lock, run_folder
from harness.errors import EXIT_FAILED
from harness.processes import Owner
from harness.run_folder import RunFolder

NO_FLOCK = {name: getattr(errno, name) for name in ("ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK")}
HOLDER = """
import contextlib, errno, fcntl, pathlib, sys, time
from harness import lock, run_folder

def flock(*_): raise OSError(errno.ENOLCK, "no locks")

fcntl.flock = flock
lock.RENEW_SECONDS, lock.SILENT_SECONDS, lock.SETTLE_SECONDS = 0.1, 1.0, 1.0
with contextlib.ExitStack() as stack:
    lock.acquire(run_folder.RunFolder(pathlib.Path(sys.argv[1])), stack)
    print("held", flush=True)
    sys.stdin.read()
"""


def without_flock(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSYS) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    for name, seconds in {"RENEW_SECONDS": 0.1, "SILENT_SECONDS": 1.0, "SETTLE_SECONDS": 0.1}.items():
        monkeypatch.setattr(lock, name, seconds)
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


@pytest.fixture
def another(folder: RunFolder) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a process that has the folder by a lease until its input ends."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        line = [sys.executable, "-c", HOLDER, str(folder.path)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(line, text=True, **pipes))
        assert started[-1].stdout is not None and started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def owner(folder: RunFolder, **changes: Any) -> None:
    """Write the lease of another process."""
    here = {"process": 1, "started": "1", "host": "elsewhere", "space": "x", "token": "x", "before": ""}
    folder.lease.write_text(json.dumps(here | changes))


@pytest.mark.parametrize("number", NO_FLOCK.values(), ids=list(NO_FLOCK))
def test_each_answer_that_means_no_flock(number: int, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    without_flock(monkeypatch, number)
    assert lock.owner(folder) is None
    with ExitStack() as first, ExitStack() as second:
        lock.acquire(folder, first)
        assert str(lock.owner(folder)).startswith(f"process {os.getpid()} ")
        assert_user_error(lambda: lock.acquire(folder, second), "in use by process", "wait for it")
        first.close()
        assert not folder.lease.exists() and lock.owner(folder) is None
        lock.acquire(folder, second)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_other_errors_of_flock_are_told(number: int, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    without_flock(monkeypatch, number)
    with ExitStack() as stack:
        assert_user_error(lambda: lock.acquire(folder, stack), "cannot be written", os.strerror(number))
    assert lock.owner(folder) is None and not folder.lease.exists()


def test_flock_that_somebody_has_is_no_lease(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as first, ExitStack() as second:
        lock.acquire(folder, first)
        assert_user_error(lambda: lock.acquire(folder, second), "in use by process")
        assert not folder.lease.exists()


def test_it_is_said_in_the_log(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("harness"), "propagate", True)
    with ExitStack() as stack:
        lock.acquire(folder, stack)
        lock.log_lease(folder)
        assert caplog.messages == []
    without_flock(monkeypatch)
    owner(folder)
    with ExitStack() as stack:
        lock.acquire(folder, stack)
        lock.log_lease(folder)
    (said,) = caplog.messages
    assert "has no locks (flock)" in said and "taken over from process 1 on elsewhere, silent for 1 s" in said


def test_another_process_keeps_it(folder: RunFolder, another: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the time after which a silent one would lose it, also where this machine has flock."""
    process = another()
    time.sleep(1.5 * lock.SILENT_SECONDS)
    for has_flock in (True, False):
        if not has_flock:
            without_flock(monkeypatch)
        assert str(lock.owner(folder)).startswith(f"process {process.pid} ")
        with ExitStack() as stack:
            assert_user_error(lambda stack=stack: lock.acquire(folder, stack), f"in use by process {process.pid} on ")
    process.communicate("")
    assert process.returncode == 0 and lock.owner(folder) is None
    with ExitStack() as stack:
        lock.acquire(folder, stack)


def test_killed_here_it_is_free_at_once(
    folder: RunFolder, another: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("harness"), "propagate", True)
    process = another()
    process.kill()
    process.wait()
    without_flock(monkeypatch)
    monkeypatch.setattr(lock, "SILENT_SECONDS", 600.0)
    assert folder.lease.exists() and lock.owner(folder) is None
    with ExitStack() as stack:
        lock.acquire(folder, stack)
        lock.log_lease(folder)
    assert f"process {process.pid} on {os.uname().nodename}, which has ended" in caplog.text


def test_one_that_stood_still_ends_when_it_goes_on(
    folder: RunFolder, another: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = another()
    os.kill(process.pid, signal.SIGSTOP)
    without_flock(monkeypatch)
    with ExitStack() as stack:
        began = time.monotonic()
        lock.acquire(folder, stack)
        assert time.monotonic() - began >= lock.SILENT_SECONDS
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(timeout=20) == EXIT_FAILED
        said = process.stderr.read()
        assert f"process {os.getpid()} on {os.uname().nodename} has taken the folder over" in said
        assert str(lock.owner(folder)).startswith(f"process {os.getpid()} ")


def test_one_that_was_removed_is_made_again(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    without_flock(monkeypatch)
    with ExitStack() as stack:
        lock.acquire(folder, stack)
        folder.lease.unlink()
        until = time.monotonic() + 20
        while not folder.lease.exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert str(lock.owner(folder)).startswith(f"process {os.getpid()} ")


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"space": "another container"}, {"space": ""}])
def test_of_another_machine_or_container_the_number_means_nothing(changes: dict[str, Any], folder: RunFolder) -> None:
    """That a process of this number is not here, or is, tells nothing: it is waited for."""
    with ExitStack() as stack:
        lock.take_lease(folder.lease, stack)
        here = json.loads(folder.lease.read_text())
    assert Owner(**here | {"process": 2**22 + 1}).is_gone()
    assert not Owner(**here | {"process": 2**22 + 1} | changes).is_gone()


def test_a_number_that_was_given_again(folder: RunFolder) -> None:
    with ExitStack() as stack:
        lock.take_lease(folder.lease, stack)
        here = json.loads(folder.lease.read_text())
    assert not Owner(**here).is_gone()
    assert Owner(**here | {"started": "1"}).is_gone()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"process": 1}', "[" * 5000, '{"process": "1"}'])
def test_damaged(content: str, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    without_flock(monkeypatch)
    monkeypatch.setattr(lock, "SILENT_SECONDS", 0.2)
    folder.lease.write_text(content)
    assert str(lock.owner(folder)) == "another process"
    with ExitStack() as stack:
        lock.acquire(folder, stack)


def test_of_several_that_take_over_one_has_it(folder: RunFolder) -> None:
    """Each a process, as on nodes that were all told to go on."""
    owner(folder)
    line = [sys.executable, "-c", HOLDER, str(folder.path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [subprocess.Popen(line, text=True, **pipes) for _ in range(3)]
    time.sleep(5)
    said = [process.communicate("", timeout=30) for process in started]
    assert [out for out, _ in said].count("held\n") == 1, said
    assert all("in use by process" in error for out, error in said if not out), said


def test_what_it_leaves_makes_no_run(folder: RunFolder) -> None:
    owner(folder)
    assert run_folder.only_started(folder)

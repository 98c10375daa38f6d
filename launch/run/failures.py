"""What the user sees of a failed run: one report, from the rank that failed first, however many fall with it.

A rank that fails claims the run by making a file in the run folder that only one rank can make. An error on another
rank after that is a consequence (a connection that broke) and stays silent. A rank that was killed makes no file: then
the first rank that misses it says so. A rank that would wait on is ended. A rank that follows a stop request by itself
makes the file too, which then says so: the others stop with it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from harness import logs
from harness.distributed import TIMEOUT, RaisedOnMain, World, gather, lost_peer
from harness.errors import EXIT_FAILED, EXIT_LOST, EXIT_STOPPED, EXIT_USER, Stopped, TrainingFailed, UserError, causes
from harness.files import private
from harness.preemption import ignored
from harness.processes import Owner
from harness.run_folder import RunFolder
from harness.terminal import say
from harness.watchdog import Stuck

logger = logging.getLogger("harness.launch")

POLL_SECONDS = 1.0  # between two looks for the failure of another rank
GRACE_SECONDS = 10.0  # for a rank to end by itself then: gloo tells it of a lost peer at once, NCCL may wait for ever
STACK_SECONDS = 3.0  # to write down what this rank does, and for others to read what rank 0 has found
REPORT_SECONDS = 1.0  # a silent rank leaves so much later: a launcher ends all ranks when one leaves
FAILED, STOPPED = "failed", "stopped"  # content of a claim
STOPPED_TOGETHER = "stopped with another rank; nothing is lost, the same command goes on"
SILENT = "reported_by_another_rank"  # attribute of an error: the log that tells of the failure, "" for one's own

KILLER = """
import os, sys, time
time.sleep(3)
if open(f"/proc/{sys.argv[1]}/stat").read().rpartition(")")[2].split()[19] == sys.argv[2]:
    os.kill(int(sys.argv[1]), 9)
"""

FULL, READ_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), (errno.EACCES, errno.EPERM)
BROKEN = (errno.EIO, errno.ESTALE, errno.EROFS)
TORCH_WRITER = re.compile(r"PytorchStreamWriter failed|iostream error|inline_container.*unexpected pos")  # torch.save


class FirstFailure:
    """Use as `with FirstFailure(...)` on all ranks alike, around what may fail; collective at its beginning.

    An error inside is marked for `report` as the first one or as a consequence, and the first one is written to
    train.log. What the storage did, and a peer that is gone, become a TrainingFailed that says so.
    """

    def __init__(self, folder: RunFolder, world: World, token: str) -> None:
        self.folder, self.world = folder, world
        self.claim = folder.failure(token)
        self.peers: list[Owner] = gather(Owner.here())  # the ranks' processes
        self.done = threading.Event()

    def __enter__(self) -> FirstFailure:
        if self.world.size > 1:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_watching()
        several = self.world.size > 1
        with ignored():  # a launcher that has seen a rank leave signals the others
            if isinstance(error, Stopped) and several:
                self._check_stop(error)
            elif isinstance(error, Exception):
                self._mark(error, several and lost_peer(error))

    def _check_stop(self, stop: Stopped) -> None:
        """A launcher sends the same signals to the other ranks where one has failed or was killed."""
        # One that can be seen from here, or whose connection broke while the signal was on its way.
        gone = bool(self._gone()) or lost_peer(stop)
        if not gone and self._claims(True, STOPPED):
            return
        if gone and self._claims(True):
            raise self._keep(self._lost_peer()) from stop
        if self.claim.exists() and not self._stopped():
            failed = TrainingFailed("another rank failed")
            setattr(failed, SILENT, str(self.folder.log))
            raise failed from stop

    def _mark(self, error: Exception, peer_lost: bool) -> None:
        first = not any(isinstance(cause, RaisedOnMain) for cause in causes(error)) and self._claims(peer_lost)
        if peer_lost and not first and self._stopped():
            raise Stopped(STOPPED_TOGETHER) from error
        failure = self._lost_peer() if peer_lost and first else _storage(error, self.folder)
        shown = failure or error
        if first:
            self._keep(shown, error if peer_lost else shown)
        else:
            setattr(shown, SILENT, str(self.folder.log))
        if failure is not None:
            raise failure from error

    def _claims(self, peer_lost: bool, what: str = FAILED) -> bool:
        """Whether this is the first rank that fails, or that stops by itself."""
        try:
            handle = os.open(self.claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            return False
        except OSError:  # the folder is gone or cannot be written: that is the failure, and it has one rank at least
            return not peer_lost
        with contextlib.suppress(OSError):  # a full disk
            os.write(handle, what.encode())
        os.close(handle)
        return True

    def _stopped(self) -> bool:
        """Whether the claim is that of a rank that stopped; it may be just being written."""
        until = time.monotonic() + POLL_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                if content := self.claim.read_text(encoding="utf-8"):
                    return content == STOPPED
            time.sleep(0.05)
        return False

    def _keep(self, shown: Exception, cause: Exception | None = None) -> Exception:
        """Write the failure into train.log, with the traceback of its cause, and into its own which rank it was."""
        place = f"rank {self.world.rank} of {self.world.size}, {self.peers[self.world.rank]}"
        handler: logging.Handler = logging.NullHandler()
        if not self.world.is_main:  # the log is rank 0's
            with contextlib.suppress(OSError):
                handler = logs.open_private(self.folder.log)
        logger.addHandler(handler)
        trace = None if isinstance(cause, UserError | TrainingFailed) else cause
        # `report` tells the terminal.
        logger.error("The run failed: %s (%s)", shown, place, exc_info=trace, extra={"file_only": True})
        logger.removeHandler(handler)
        handler.close()
        shown.add_note(f"This is the first failure, of {place}. Log: {self.folder.log}")
        setattr(shown, SILENT, "")
        return shown

    def _names(self, ranks: Iterable[int]) -> list[str]:
        return [f"rank {rank} ({self.peers[rank]})" for rank in ranks]

    def _lost_peer(self) -> TrainingFailed:
        deadline = time.monotonic() + 2 * POLL_SECONDS  # a dying process closes its connections before it is gone
        while not (gone := self._gone()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if gone:
            what = (
                f"{' and '.join(self._names(gone))} exited without an error message: killed, perhaps for want of memory"
            )
        else:
            others = sorted({peer.host for peer in self.peers} - {os.uname().nodename})
            where = f" (other hosts: {', '.join(others)})" if others else ""
            what = f"another rank{where} is gone, or did not answer for {TIMEOUT.seconds // 60} minutes"
        return TrainingFailed(f"{what}; the same command goes on from the last checkpoint. Log: {self.folder.log}")

    def _gone(self) -> list[int]:
        """Ranks whose process is visible from here and has ended."""
        return [rank for rank, peer in enumerate(self.peers) if peer.is_gone()]

    def _watch(self) -> None:
        """End this process where another rank has failed and this one does not notice."""
        while not self.done.wait(POLL_SECONDS):
            if (self.claim.exists() or self._gone()) and not self.done.wait(GRACE_SECONDS):
                if self._claims(peer_lost=True):
                    self._report(self._lost_peer())
                elif self._stopped():
                    say(STOPPED_TOGETHER)
                    os._exit(EXIT_STOPPED)
                os._exit(EXIT_LOST)

    def _report(self, failure: TrainingFailed) -> None:
        """From a thread, before the process ends."""
        self._keep(failure)
        print(f"error: {failure}", file=sys.stderr, flush=True)

    def end_stuck(self, found: Stuck, phase: str, done: threading.Event) -> None:
        """End this process, since a rank of the run stands still, unless it is `done` meanwhile; say which one."""
        # In a thread of its own: the log may lie where nothing can be written any more.
        writer = threading.Thread(target=self._keep_stack, args=(phase,), daemon=True)
        writer.start()
        writer.join(STACK_SECONDS)
        if done.wait(STACK_SECONDS if self.world.is_main and self.world.size > 1 else 0):  # others read what was found
            return
        threading.Timer(GRACE_SECONDS, os._exit, [EXIT_LOST]).start()  # if the log cannot be written
        if self._claims(peer_lost=True):
            who = ", ".join(self._names(found.ranks))
            if len(found.ranks) == self.world.size > 1:
                who = f"all {self.world.size} ranks"
            what = "has not advanced" if found.answers else "shows no sign of life (stopped, or its machine is)"
            failure = TrainingFailed(
                f"{who}: {what} for {found.seconds:.0f} s, in {found.phase}; the same command goes on from the last "
                f"checkpoint (--watchdog_minutes waits longer). Log, with what the others did: {self.folder.log}"
            )
            self._report(failure)
        if not found.answers:
            self._kill(*found.ranks)
        os._exit(EXIT_LOST)

    def _keep_stack(self, phase: str) -> None:
        """What the thread that works is doing, at the end of train.log."""
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        head = f"{self._names([self.world.rank])[0]}, in {phase}, most recent call last:\n"
        with contextlib.suppress(OSError):
            handle = private(str(self.folder.log), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(handle, (head + "".join(traceback.format_stack(frame))).encode())
            os.close(handle)

    def _kill(self, rank: int) -> None:
        """End a rank that was stopped and hears nothing else, where it runs on this machine; one of its peers does so.

        By a program that outlives this one: a launcher is to see first how the others end, and then takes their status.
        """
        its = self.peers[rank]
        beside = [
            other for other, peer in enumerate(self.peers)
            if other != rank and peer.space and (peer.host, peer.space) == (its.host, its.space)
        ]  # fmt: skip
        if self.world.rank == min(beside, default=-1):
            command = [sys.executable, "-I", "-S", "-c", KILLER, str(its.process), its.started]
            subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)  # fmt: skip

    def stop_watching(self) -> None:
        """From here on other ranks may leave before this one."""
        self.done.set()


def _storage(error: Exception, folder: RunFolder) -> TrainingFailed | None:
    """An error of the disk as one line with a remedy; None for any other error."""
    if isinstance(error, UserError | TrainingFailed):
        return None
    kept = any(folder.checkpoints.glob("step-*"))
    for cause in causes(error):
        number, place, reason = _os_error(cause)
        ours = place is not None and Path(place).is_relative_to(folder.path)
        if number in FULL:
            remedy = "free some space" + (" (a lower --keep_checkpoints needs less)" if kept else "")
        elif number in BROKEN or (number in READ_ONLY and ours):
            remedy = "make it writable again"
        elif number == errno.ENOENT and ours:
            remedy = "the run folder, or a part of it, was taken away: put it back, or name another --output_dir"
        else:
            continue
        again = "goes on from the last checkpoint" if kept else "begins again: there is no checkpoint yet"
        return TrainingFailed(
            f"{place or folder.path}: cannot be written ({reason}): {remedy}; the same command then {again}"
        )
    return None


def _os_error(error: BaseException) -> tuple[int, str | None, str]:
    """(errno, file, reason) of an error of the operating system, as other languages word it too; else errno 0."""
    text = str(error)
    if isinstance(error, OSError):
        return error.errno or 0, None if error.filename is None else str(error.filename), error.strerror or text
    if found := re.search(r'\(os error (\d+)\)(?: at path "(.*)")?', text):  # safetensors
        return int(found[1]), found[2], os.strerror(int(found[1]))
    if isinstance(error, RuntimeError) and TORCH_WRITER.search(text):
        return errno.ENOSPC, None, "a write was cut short, as on a full disk"
    return 0, None, ""


def report(error: Exception) -> int:
    """Show the error that ended a run, unless another rank does; returns the exit status.

    One line for a mistake of the user's and for training that cannot go on, else the traceback.
    """
    expected = isinstance(error, UserError | TrainingFailed)
    status = EXIT_USER if isinstance(error, UserError) else EXIT_LOST if lost_peer(error) else EXIT_FAILED
    unmarked = "another rank's output" if any(isinstance(cause, RaisedOnMain) for cause in causes(error)) else ""
    if log := getattr(error, SILENT, unmarked):
        if "SUBMITIT_EXECUTOR" in os.environ:  # its ranks have an output file each, and people look at rank 0's
            print(f"error: another rank failed first; see {log}", file=sys.stderr, flush=True)
        time.sleep(REPORT_SECONDS)
        return status
    if not expected and not hasattr(error, SILENT) and lost_peer(error):
        error, expected = TrainingFailed("another rank ended before the run had started; see its own message"), True
    text = f"error: {error}" if expected else "".join(traceback.format_exception(error)).rstrip()
    print(text, file=sys.stderr, flush=True)
    if place := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # torchrun closes with its own summary: let it hold this
        details = {"py_callstack": text, "timestamp": str(int(time.time()))}
        content = {"message": {"message": text.splitlines()[-1], "extraInfo": details}}
        Path(place).write_text(json.dumps(content), encoding="utf-8")
    return status

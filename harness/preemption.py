"""Stop requests: SIGUSR2 (SLURM), SIGTERM and SIGINT, from the first line of a program to its last.

Until a run has begun, and after it, `listen` ends the process at once. Within `StopRequest` the main thread leaves what
it does by `Stopped`, where nothing has to be saved. In the middle of training the handler sets a flag and does nothing
else: the loop leaves at the next step that all ranks agree on, since a rank that left a collective by itself would hang
the others. This file imports next to nothing, so that signals are heard before the libraries are loaded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

from harness.errors import EXIT_STOPPED, Stopped
from harness.terminal import OTHER_RANKS_WAIT, rank

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
PRESS_SECONDS = 1.0  # a launcher passes a Ctrl-C on that the terminal has sent to its ranks already: not a second one


def listen() -> None:
    """From here on a stop signal ends the process at once: nothing is to be cleaned up, and an import not half done.

    Without a handler SIGTERM and SIGUSR2 kill Python, and SIGINT shows a traceback of whatever is being imported.
    """
    for number in SIGNALS:
        text = f"stopped by {number.name}; the same command starts again"
        signal.signal(number, lambda *_, text=text: leave(text))


def ignore() -> None:
    """For the last lines of a program, whose exit status is known."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def leave(message: str) -> None:
    """End the process within a handler; rank 0 prints for all ranks."""
    if rank() == 0:
        os.write(2, f"{message}\n".encode())  # not print, in which the signal may have come
    else:
        time.sleep(OTHER_RANKS_WAIT)
    os._exit(EXIT_STOPPED)


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """While what has ended a run is reported; the handlers of before are put back."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unraisable(error: sys.UnraisableHookArgs) -> None:
    """Where the handler has run within a destructor Python swallows Stopped, and says so; `check` raises it again."""
    if not issubclass(error.exc_type, Stopped):
        sys.__unraisablehook__(error)


class StopRequest:
    """Use as `with StopRequest() as stop:` around a run; `stop.requested` is this process's own view.

    A signal raises Stopped in the main thread, within `with stop.deferred():` only at its end. A second Ctrl-C ends
    the process there and then.
    """

    def __init__(self) -> None:
        self.requested = ""  # the signal's name
        self._since = 0.0
        self._deferred = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._set)
        self._hook, sys.unraisablehook = sys.unraisablehook, _unraisable
        return self

    def __exit__(self, *exception: object) -> None:
        sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """What ends by itself soon, or looks at `requested`."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    def check(self) -> None:
        """Raises Stopped where a stop is requested: also where a library has swallowed the one of the handler."""
        if self.requested:
            raise Stopped(f"stopped by {self.requested}; nothing is lost, the same command goes on")

    def _set(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._since = signal.Signals(number).name, now
            if not self._deferred:
                self.check()
        elif number == signal.SIGINT and now - self._since > PRESS_SECONDS:
            leave("ended at once; the same command goes on from the last checkpoint")

"""Stop requests: SIGUSR2 (SLURM), SIGTERM and SIGINT, from the first line of a program to its last.

Where nothing has to be saved the main thread leaves what it does at once, by `Stopped`. In the middle of training the
handler sets a flag and does nothing else: the loop leaves at the next step that all ranks agree on, since a rank that
left a collective by itself would hang the others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
EXIT_STOPPED = 75  # EX_TEMPFAIL: the same command goes on
PRESS_SECONDS = 1.0  # a launcher passes a Ctrl-C on that the terminal has sent to its ranks already: not a second one
VOICE_SECONDS = 1.0  # a silent rank leaves so much later: a launcher ends all ranks when one leaves


class Stopped(BaseException):
    """A stop request was followed: nothing is lost, and the same command goes on.

    Not an Exception: libraries pass over those, for example while they try what can be imported.
    """


def is_first_rank() -> bool:
    """Known from the first line on, before ranks have met."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


@contextlib.contextmanager
def handled_by(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> Iterator[None]:
    """The handlers of all stop signals for some time; those of before are put back."""
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """A handler for the time before a run: there is nothing to clean up, and an import is best not left half done."""
    _leave(f"stopped by {signal.Signals(number).name}; the same command starts again")


class StopRequest:
    """Use as `with StopRequest() as stop:` around a run; `stop.requested` is this process's own view.

    A signal raises Stopped in the main thread, within `with stop.deferred():` only at its end. A second Ctrl-C ends
    the process there and then.
    """

    def __init__(self) -> None:
        self.requested = ""  # the signal's name
        self._since = 0.0
        self._deferred = False
        self._handlers = contextlib.ExitStack()

    def __enter__(self) -> StopRequest:
        self._handlers.enter_context(handled_by(self._set))
        return self

    def __exit__(self, *exception: object) -> None:
        self._handlers.close()

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
            _leave("ended at once; the same command goes on from the last checkpoint")


def _leave(message: str) -> NoReturn:
    """End the process within a handler, in one voice for all ranks."""
    if is_first_rank():
        os.write(2, f"{message}\n".encode())  # not print, in which the signal may have come
    else:
        time.sleep(VOICE_SECONDS)
    os._exit(EXIT_STOPPED)

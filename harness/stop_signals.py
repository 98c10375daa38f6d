"""The stop signals as a program hears them before anything else is imported; this file imports next to nothing.

Without a handler SIGTERM and SIGUSR2 kill Python, and SIGINT shows a traceback of whatever is being imported.
"""

from __future__ import annotations

import os
import signal
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
EXIT_STOPPED = 75  # EX_TEMPFAIL: the same command goes on
VOICE_SECONDS = 1.0  # a silent rank leaves so much later: a launcher ends all ranks when one leaves


def listen() -> None:
    """From here on a stop signal ends the process at once: nothing is to be cleaned up, and an import not half done."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: leave(f"stopped by {name(number)}; the same command starts again"))


def ignore() -> None:
    """For the last lines of a program, whose exit status is known."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def leave(message: str) -> None:
    """End the process within a handler, in one voice for all ranks."""
    if is_first_rank():
        os.write(2, f"{message}\n".encode())  # not print, in which the signal may have come
    else:
        time.sleep(VOICE_SECONDS)
    os._exit(EXIT_STOPPED)


def name(number: int) -> str:
    """As in SIGTERM."""
    return signal.Signals(number).name


def is_first_rank() -> bool:
    """Known from the first line on, before ranks have met."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"

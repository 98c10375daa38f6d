"""A run's train.log as a handler of Python's logging."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

from harness.files import private
from harness.terminal import visible


def open_private(path: Path) -> logging.Handler:
    """A handler that appends to `path`, with times; a file that it makes is readable by its owner only."""
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(_Visible("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    return handler


class _Visible(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _LogFile(logging.FileHandler):
    """A log that cannot be written any more is no reason to end a run, nor to fill the screen: one warning, no more."""

    broken = False

    def _open(self) -> io.TextIOWrapper:
        handle = open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=private)
        assert isinstance(handle, io.TextIOWrapper)
        return handle

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.broken:
            self.broken = True
            reason = error.strerror
            logging.getLogger("harness").warning(
                "%s: cannot be written (%s); going on without", self.baseFilename, reason
            )

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # what was left to write has no place
            self.broken = True

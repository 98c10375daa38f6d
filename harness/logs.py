"""What people see of a run: log lines, one live line of progress, a row per epoch, the table of final scores.

On a terminal all of it goes through one rich console, so that a log line never tears the live line. Without a terminal
it is plain text. Rank 0 speaks; the other ranks only warn. All that `setup` adds to the loggers is taken away by
`close`: a second run in the same process starts clean.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.progress
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from harness.files import private
from harness.terminal import visible

REFRESH_SECONDS = 0.2  # between two drawings of the live line
PLAIN_SECONDS = 10.0  # between two plain lines of progress
BAR_FROM_WIDTH = 100  # columns: a narrower terminal needs them all for the figures
COLUMN_WIDTH = 10  # of a table row without a table around it

logger = logging.getLogger("harness")  # every module's logger lies under it (launch and tasks: "harness.launch", ...)
_handlers: list[tuple[logging.Logger, logging.Handler]] = []  # ours: `close` must leave other people's alone


def quiet_libraries() -> None:
    """Silence what a user can do nothing about. Call it before transformers, deepspeed or wandb are imported.

    Values that the user has set in the environment stay.
    """
    environment = {
        "TOKENIZERS_PARALLELISM": "false",  # else each fork warns
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # a bar for a file that is read in a blink
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",  # wandb would report its own faults from a cluster that holds clinical text
    }
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    for name in ("transformers", "DeepSpeed"):
        library = logging.getLogger(name)
        library.setLevel(logging.ERROR)
        library.addFilter(_is_error)  # deepspeed sets its level again when it is imported; a filter outlives that
    for module in ("torch", "transformers", "deepspeed"):
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=rf"{module}(\.|$)")


class Console(rich.console.Console):
    """rich's console for texts that may come from files: they hold no markup, and no terminal obeys them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    @property
    def is_live(self) -> bool:
        """Whether what was drawn can be drawn over."""
        return self.is_terminal and not self.is_dumb_terminal

    def render(
        self, renderable: rich.console.RenderableType, options: rich.console.ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Segments of control are rich's own; those of text are made visible."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _for_terminal(record: logging.LogRecord) -> bool:
    """Not what was printed there already, in a nicer form."""
    return not getattr(record, "file_only", False)


def setup(is_main: bool, file: Path | None) -> None:
    """Rank 0: information to the terminal and, with times, to `file`. Other ranks: errors to stderr.

    Python warnings go to the file alone. Can be called again; what was set up before is closed.
    """
    close()
    logger.propagate = False  # a library that configures the root logger would show every line twice
    logging.captureWarnings(True)
    python_warnings = logging.getLogger("py.warnings")
    python_warnings.propagate = False
    _add(python_warnings, logging.NullHandler())  # without a handler Python prints them to stderr
    shown: logging.Handler
    if is_main:
        console = Console()  # stdout
        shown = _ConsoleHandler(console) if console.is_live else logging.StreamHandler(sys.stdout)
        shown.setFormatter(_MessageFormatter())
    else:
        shown = logging.StreamHandler(sys.stderr)
        shown.setFormatter(logging.Formatter(f"rank {os.environ.get('RANK', '?')}: %(levelname)s %(message)s"))
    shown.addFilter(_for_terminal)
    _add(logger, shown)
    logger.setLevel(logging.INFO if is_main else logging.ERROR)  # what is worth a warning is so on rank 0 too
    if is_main and file is not None:
        kept = open_private(file)
        _add(logger, kept)
        _add(python_warnings, kept)


class _ConsoleHandler(logging.Handler):
    """Log lines above the live line. Never wrapped, so that a path or command can be copied, unlike RichHandler's."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        style = "bold red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else ""
        try:
            self.console.print(Text(self.format(record), style), soft_wrap=True)
        except (OSError, ValueError):  # terminal gone, letter it cannot show: a log line never ends a run
            self.handleError(record)


class _Visible(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _MessageFormatter(_Visible):
    """The message alone; from warnings on, the level before it."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return f"{record.levelname}: {message}" if record.levelno >= logging.WARNING else message


def _add(target: logging.Logger, handler: logging.Handler) -> None:
    target.addHandler(handler)
    _handlers.append((target, handler))


def close() -> None:
    """Take our handlers away and close the file. Does nothing where nothing was set up."""
    if not _handlers:
        return
    while _handlers:
        target, handler = _handlers.pop()
        target.removeHandler(handler)
        target.propagate = True
        handler.close()
    logger.setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def _console() -> Console | None:
    """The console that log lines go to, where that is a terminal."""
    return next((handler.console for handler in logger.handlers if isinstance(handler, _ConsoleHandler)), None)


def _cell(value: str | float) -> str:
    return f"{value:.4f}" if isinstance(value, float) and math.isfinite(value) else str(value)


class Progress:
    """How far the run is: one live line on a terminal, plain lines elsewhere; other ranks than 0 say nothing."""

    def __init__(self, is_main: bool, total_epochs: float, total_steps: int) -> None:
        self.is_main, self.total_epochs, self.total_steps = is_main, total_epochs, total_steps
        self.console = _console()
        self.header: tuple[str, ...] = ()
        self.first: tuple[int, float] | None = None  # step and time of the first call: a resumed run starts late
        self.last_shown = -math.inf
        self.line: rich.progress.Progress | None = None
        if self.console is not None:
            # Drawn by `step` itself: no thread, hence nothing that a fork or a signal handler could catch half-way.
            self.line = rich.progress.Progress(console=self.console, auto_refresh=False, transient=True)
            self.task = self.line.add_task("", total=max(total_steps, 1))

    def step(self, epoch: float, step: int, loss: float | None, examples_per_second: float | None) -> None:
        """After an optimizer step; costs nothing where it is too early for the next line. `epoch` counts from 0.0."""
        if not self.is_main:
            return
        now = time.monotonic()
        first_step, first_time = self.first = self.first or (step, now)
        every = PLAIN_SECONDS if self.line is None else REFRESH_SECONDS
        if now - self.last_shown < every and step < self.total_steps:
            return
        self.last_shown = now
        parts = [f"epoch {epoch:.2f}/{self.total_epochs:g}", f"step {step}/{self.total_steps}"]
        parts += [] if loss is None else [f"loss {loss:.4f}"]
        parts += [] if examples_per_second is None else [f"{examples_per_second:.0f} examples/s"]
        left = "?"
        if step > first_step:
            seconds = round((now - first_time) / (step - first_step) * (self.total_steps - step))
            left = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        text = "  ".join([*parts, f"{left} left"])
        if self.line is None or self.console is None:
            logger.info("%s", text)
            return
        bar = [rich.progress.BarColumn(20)] if self.console.width >= BAR_FROM_WIDTH else []
        self.line.columns = (*bar, rich.progress.TextColumn("{task.description}", markup=False))
        self.line.update(self.task, completed=step, description=text)
        self.line.start()  # at the first step; draws
        self.line.refresh()

    def epoch_row(self, columns: Mapping[str, str | float]) -> None:
        """A row of the table per epoch, e.g. {"epoch": 1, "dev/score": 0.81}; the header comes by itself."""
        widths = [max(len(name), COLUMN_WIDTH) for name in columns]
        rows = [("", [_cell(value) for value in columns.values()])]
        if tuple(columns) != self.header:
            self.header = tuple(columns)
            rows.insert(0, ("bold", list(columns)))
        for style, cells in rows:
            text = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
            if self.console is not None:
                self.console.print(Text(text, style), soft_wrap=True)
            logger.info("%s", text, extra={"file_only": self.console is not None})


@contextlib.contextmanager
def progress(is_main: bool, total_epochs: float, total_steps: int) -> Iterator[Progress]:
    """To be used after `setup`: the live line goes away however the run ends."""
    shown = Progress(is_main, total_epochs, total_steps)
    try:
        yield shown
    finally:
        if shown.line is not None:
            shown.line.stop()


def print_table(title: str, rows: Sequence[Mapping[str, str | float]]) -> None:
    """A table with a title, such as the final scores. Columns are the keys, in order of first appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name, "")) for name in names] for row in rows]
    console = _console()
    if console is not None:
        table = Table(title=Text(title, "bold"), title_justify="left")
        for name, *column in zip(names, *cells, strict=True):
            numbers = all(re.fullmatch(r"-?[\d.]*", cell) for cell in column)
            table.add_column(Text(name), justify="right" if numbers else "left")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    widths = [max(len(cell) for cell in column) for column in zip(names, *cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (names, *cells)]
    for text in (title, *lines):
        logger.info("%s", text.rstrip(), extra={"file_only": console is not None})


def open_private(path: Path) -> logging.Handler:
    """A handler that appends to `path`, with times; a file that it makes is readable by its owner only."""
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(_Visible("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    return handler


class _LogFile(logging.FileHandler):
    """A log that cannot be written any more is no reason to end a run, nor to fill the screen: one warning, no more."""

    broken = False

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=private)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.broken:
            self.broken = True
            logger.warning("%s: cannot be written (%s); going on without", self.baseFilename, error.strerror)

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # what was left to write has no place
            self.broken = True

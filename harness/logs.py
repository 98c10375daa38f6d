"""What people see of a run: log lines, one live line of progress, a row per epoch, the table of final scores.

On a terminal all of it goes through one rich console, so that a log line never tears the live line. Without a terminal
it is plain text. Rank 0 speaks; the other ranks only warn. Everything here is kept in the logger itself and taken away
by `close`: a second run in the same process starts clean.
"""

from __future__ import annotations

import io
import logging
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import rich.console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from harness.files import private
from harness.terminal import visible

if TYPE_CHECKING:
    from typing import Self

PROJECT = "harness"  # the logger that every module's logger lies under (launch and tasks: "harness.launch", ...)
OURS = "harness-"  # handlers of ours carry names that begin so: `close` must leave other people's alone
REFRESH_SECONDS = 0.2  # between two drawings of the live line
PLAIN_SECONDS = 10.0  # between two plain lines of progress
BAR_FROM_WIDTH = 100  # columns: a narrower terminal needs them all for the figures
COLUMN_WIDTH = 10  # of a table row without a table around it

logger = logging.getLogger(PROJECT)


def quiet_libraries(has_cuda: bool) -> None:
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
    if not has_cuda:
        environment["DS_ACCELERATOR"] = "cpu"  # else deepspeed warns that it had to guess
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    for name in ("transformers", "DeepSpeed"):
        library = logging.getLogger(name)
        library.setLevel(logging.ERROR)
        # deepspeed sets its level again when it is imported; a filter outlives that.
        if not any(isinstance(present, _ErrorsOnly) for present in library.filters):
            library.addFilter(_ErrorsOnly())
    for module in ("torch", "transformers", "deepspeed"):
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=rf"{module}(\.|$)")


class Console(rich.console.Console):
    """rich's console for texts that may come from files: they hold no markup, and no terminal obeys them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(
        self, renderable: rich.console.RenderableType, options: rich.console.ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Segments of control are rich's own; those of text are made visible."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


class _ErrorsOnly(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR


class _NotFileOnly(logging.Filter):
    """Keeps from the terminal what was printed there already, in a nicer form."""

    def filter(self, record: logging.LogRecord) -> bool:
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
    _add(python_warnings, "sink", logging.NullHandler())  # without a handler Python prints them to stderr
    if not is_main:
        logger.setLevel(logging.ERROR)  # what is worth a warning is so on rank 0 too
        others = logging.StreamHandler(sys.stderr)
        others.setFormatter(logging.Formatter(f"rank {os.environ.get('RANK', '?')}: %(levelname)s %(message)s"))
        others.addFilter(_NotFileOnly())
        _add(logger, "other-rank", others)
        return
    logger.setLevel(logging.INFO)
    _add(logger, "terminal", _terminal_handler())
    if file is not None:
        kept = open_private(file)
        _add(logger, "file", kept)
        python_warnings.addHandler(kept)


def _terminal_handler() -> logging.Handler:
    console = Console()  # stdout
    handler: logging.Handler
    if console.is_terminal and not console.is_dumb_terminal:
        handler = _ConsoleHandler(console)
    else:
        handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_MessageFormatter())
    handler.addFilter(_NotFileOnly())
    return handler


class _ConsoleHandler(logging.Handler):
    """Log lines above the live line. Never wrapped, so that a path or command can be copied; "[CLS]" is no markup."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        style = "bold red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else ""
        try:
            self.console.print(Text(self.format(record), style), soft_wrap=True)
        except (OSError, ValueError):  # terminal gone, letter it cannot show: a log line never ends a run
            self.handleError(record)


class _MessageFormatter(logging.Formatter):
    """The message alone; from warnings on, the level before it."""

    def format(self, record: logging.LogRecord) -> str:
        message = visible(super().format(record))
        return f"{record.levelname}: {message}" if record.levelno >= logging.WARNING else message


def _add(target: logging.Logger, name: str, handler: logging.Handler) -> None:
    handler.set_name(OURS + name)
    target.addHandler(handler)


def close() -> None:
    """Take our handlers away and close the file. Does nothing where nothing was set up."""
    targets = (logger, logging.getLogger("py.warnings"))
    ours = [(t, handler) for t in targets for handler in t.handlers if (handler.get_name() or "").startswith(OURS)]
    if not ours:
        return
    for target, handler in ours:
        target.removeHandler(handler)
        handler.close()
    for target in targets:
        target.propagate = True
    logger.setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def _console() -> Console | None:
    """The console that log lines go to, where that is a terminal."""
    for handler in logger.handlers:
        if isinstance(handler, _ConsoleHandler):
            return handler.console
    return None


def _show(text: str, style: str = "") -> None:
    """A line for people: in its style on a terminal, as a log line elsewhere; in the file either way."""
    console = _console()
    if console is not None:
        console.print(Text(text, style), soft_wrap=True)
    logger.info("%s", text, extra={"file_only": console is not None})


def _cell(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if math.isfinite(value) else str(value)
    return str(value)


class Progress:
    """How far the run is. This one says nothing: it is what other ranks get."""

    def step(self, epoch: float, step: int, loss: float | None, examples_per_second: float | None) -> None:
        """After an optimizer step; costs nothing where it is too early for the next line. `epoch` counts from 0.0."""

    def epoch_row(self, columns: Mapping[str, str | float]) -> None:
        """A row of the table per epoch, e.g. {"epoch": 1, "dev/score": 0.81}; the header comes by itself."""

    def close(self) -> None:
        """Take the live line away. Can be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _VisibleProgress(Progress):
    """What the live and the plain form share: when to speak, time left, rows."""

    def __init__(self, total_epochs: float, total_steps: int, every: float) -> None:
        self.total_epochs = total_epochs
        self.total_steps = total_steps
        self.every = every
        self.header: tuple[str, ...] = ()
        self.first: tuple[int, float] | None = None  # step and time of the first call: a resumed run starts late
        self.last_shown = -math.inf

    def step(self, epoch: float, step: int, loss: float | None, examples_per_second: float | None) -> None:
        now = time.monotonic()
        self.first = self.first or (step, now)
        if now - self.last_shown < self.every and step < self.total_steps:
            return
        self.last_shown = now
        parts = [f"epoch {epoch:.2f}/{self.total_epochs:g}", f"step {step}/{self.total_steps}"]
        parts += [] if loss is None else [f"loss {loss:.4f}"]
        parts += [] if examples_per_second is None else [f"{examples_per_second:.0f} examples/s"]
        parts += [f"{self._time_left(step, now)} left"]
        self._draw(step, parts)

    def _draw(self, step: int, parts: Sequence[str]) -> None:
        """Show it: on one live line, or as a plain one."""

    def _time_left(self, step: int, now: float) -> str:
        first_step, first_time = self.first or (step, now)
        if step <= first_step:
            return "?"
        seconds = round((now - first_time) / (step - first_step) * (self.total_steps - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def epoch_row(self, columns: Mapping[str, str | float]) -> None:
        widths = {name: max(len(name), COLUMN_WIDTH) for name in columns}
        if tuple(columns) != self.header:
            self.header = tuple(columns)
            _show("  ".join(name.rjust(width) for name, width in widths.items()), "bold")
        _show("  ".join(_cell(value).rjust(widths[name]) for name, value in columns.items()))


class _PlainProgress(_VisibleProgress):
    def _draw(self, step: int, parts: Sequence[str]) -> None:
        logger.info("%s", "  ".join(parts))


class _LiveProgress(_VisibleProgress):
    def __init__(self, total_epochs: float, total_steps: int, console: Console) -> None:
        super().__init__(total_epochs, total_steps, REFRESH_SECONDS)
        # Drawn by `step` itself: no thread, hence nothing that a fork or a signal handler could catch half-way.
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.live.start()

    def _draw(self, step: int, parts: Sequence[str]) -> None:
        line = Table.grid(padding=(0, 2))
        cells: list[Text | ProgressBar] = [Text(part, no_wrap=True) for part in parts]
        if self.live.console.width >= BAR_FROM_WIDTH:
            cells.insert(0, ProgressBar(total=max(self.total_steps, 1), completed=step, width=20))
        line.add_row(*cells)
        self.live.update(line, refresh=True)

    def close(self) -> None:
        self.live.stop()


def progress(is_main: bool, total_epochs: float, total_steps: int) -> Progress:
    """Use it in a `with`, after `setup`: the live line then goes away however the run ends."""
    if not is_main:
        return Progress()
    console = _console()
    if console is None:
        return _PlainProgress(total_epochs, total_steps, PLAIN_SECONDS)
    return _LiveProgress(total_epochs, total_steps, console)


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

"""What people see of runs that go on at the same time: a live table on a terminal, plain lines elsewhere.

Progress is read from the run folders, so that it is the same whatever does the runs. One run alone shows its log.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness import logs
from harness.config import RunConfig
from harness.logs import Console
from launch.jobs.status import Metrics, Status, newest_metrics

if TYPE_CHECKING:
    from typing import Self  # Python 3.10 has none

LIVE_SECONDS = 0.5  # between two drawings of the table
PLAIN_SECONDS = 30.0  # between two plain lines about the runs that go on
TAIL_LETTERS = 4000
STYLES: Mapping[str, str] = {"running": "cyan", "finished": "green", "failed": "bold red", "stopped": "yellow"}
FIRST_SHOWN = ("running", "failed", "finished", "stopped", "queued")  # where a terminal is too low for all


@dataclass
class Row:
    """A run in the queue."""

    config: RunConfig
    log: Path
    status: Status = "queued"
    reason: str = ""
    place: str = ""  # the device
    attempts: int = 0
    exit: int = 0
    started: float = 0.0
    seconds: float = 0.0

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.output_dir)


class Board:
    """Shows rows. This one says what has changed, a line each; others show more."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.base = Path(os.path.commonpath([row.folder for row in rows]))
        self.shown = time.monotonic()

    @staticmethod
    def build(rows: Sequence[Row]) -> Board:
        """The one that fits the rows and the terminal."""
        if len(rows) == 1:
            return LogBoard(rows)
        console = Console()
        return LiveBoard(rows, console) if console.is_terminal and not console.is_dumb_terminal else Board(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is left on the screen that moves."""

    def name(self, row: Row) -> str:
        """The run folder below the folder of all."""
        return str(row.folder.relative_to(self.base))

    def say(self, message: str) -> None:
        """A line for the user, beside the rows."""
        print(message, file=sys.stderr, flush=True)

    def change(self, row: Row, status: Status, reason: str = "", place: str = "") -> None:
        """A row's new status. `place`: the device it runs on."""
        if status == "running":
            row.started = time.monotonic()
        elif row.status == "running":
            row.seconds += time.monotonic() - row.started
        again = " (again, at the end of the queue)" if status == "queued" else ""
        row.status, row.reason, row.place = status, reason, place
        self.changed(row, again)

    def changed(self, row: Row, again: str) -> None:
        """Show it. `again`: what is added for a row that goes back into the queue."""
        what = "failed" if again else row.status
        where = f" on {row.place}" if row.place else ""
        metrics = newest_metrics(row.folder) if row.status == "finished" else Metrics()
        parts = [f"{what}{where}", *_scores(metrics).values(), row.reason + again]
        done = sum(other.status == "finished" for other in self.rows)
        print(f"[{done}/{len(self.rows)}] {self.name(row)}: {', '.join(part for part in parts if part)}", flush=True)

    def show(self) -> None:
        """Called again and again while runs go on."""
        if time.monotonic() - self.shown < PLAIN_SECONDS:
            return
        self.shown = time.monotonic()
        for row in self.rows:
            if row.status == "running":
                progress = _progress(row.config, newest_metrics(row.folder)) or "starting"
                print(f"    {self.name(row)}: {progress}", flush=True)

    def summary(self, before: Sequence[RunConfig] = (), notes: Sequence[str] = ()) -> None:
        """After the last run: the table of all, with those that were finished before, and how to go on."""
        counts: Counter[str] = Counter(row.status for row in self.rows)
        parts = [f"{counts[status]} {status}" for status in STYLES if counts[status]]
        parts += [f"{len(before)} finished before"] if before else []
        shown: list[tuple[RunConfig, str, str]] = [(config, "finished", "finished before") for config in before]
        shown += [(row.config, row.status, row.reason) for row in self.rows]
        show_runs(", ".join(parts), shown, notes)
        self.advise()

    def advise(self) -> None:
        """Where to look, and how to go on."""
        for row in self.rows:
            if row.status == "failed":
                times = "once" if row.attempts == 1 else f"{row.attempts} times"
                print(f"{self.name(row)} failed {times}: {row.reason}\n    log: {row.log}",
                      file=sys.stderr)  # fmt: skip
        if any(row.status in ("stopped", "failed") for row in self.rows):
            print("the same command goes on from the last checkpoints, with what is not finished", file=sys.stderr)


class LiveBoard(Board):
    """A table that is drawn anew."""

    def __init__(self, rows: Sequence[Row], console: Console) -> None:
        super().__init__(rows)
        # No thread of its own, hence nothing that a signal handler could catch half-way.
        self.live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.live.stop()

    def say(self, message: str) -> None:
        """Above the table."""
        self.live.console.print(Text(message), soft_wrap=True)

    def changed(self, row: Row, again: str) -> None:
        """The table shows it."""
        self.shown = 0.0

    def show(self) -> None:
        """Draw the rows that fit on the terminal."""
        if time.monotonic() - self.shown < LIVE_SECONDS:
            return
        self.shown = time.monotonic()
        fitting = max(1, self.live.console.height - 6)
        order = sorted(self.rows, key=lambda row: FIRST_SHOWN.index(row.status))[:fitting]
        kept = {id(row) for row in order}
        lines = []
        for row in self.rows:
            if id(row) in kept:
                found = newest_metrics(row.folder) if row.status != "queued" else Metrics()
                lines.append(line(self.name(row), row.status, row.config, found, row.reason or row.place))
        counts = Counter(row.status for row in self.rows)
        caption = ", ".join(f"{number} {status}" for status, number in counts.items())
        self.live.update(_table(lines, caption), refresh=True)


class LogBoard(Board):
    """One run alone: what it writes to its log, as it writes it."""

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__(rows)
        self.position = rows[0].log.stat().st_size if rows[0].log.exists() else 0
        self.tail = ""  # the last lines that were shown

    def changed(self, row: Row, again: str) -> None:
        """The log shows it, but for what it cannot know."""
        self.show()
        known = row.reason.splitlines()[0] in self.tail if row.reason else True
        if row.status in ("queued", "failed") and (again or not known):
            print(f"failed: {row.reason}{again}", file=sys.stderr, flush=True)

    def show(self) -> None:
        """The log's new lines."""
        if self.rows[0].log.exists():
            with open(self.rows[0].log, encoding="utf-8", errors="replace") as file:
                file.seek(self.position)
                text = file.read()
                self.position = file.tell()
            print(text, end="", flush=True)
            self.tail = (self.tail + text)[-TAIL_LETTERS:]

    def summary(self, before: Sequence[RunConfig] = (), notes: Sequence[str] = ()) -> None:
        """The run has shown its own."""
        if before or notes:
            super().summary(before, notes)
        elif self.rows[0].status == "stopped":
            print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)


def show_runs(title: str, runs: Sequence[tuple[RunConfig, str, str]], notes: Sequence[str] = ()) -> None:
    """A table of (run, status, note), and notes below it."""
    base = os.path.commonpath([config.output_dir for config, *_ in runs])
    logs.setup(True, None)
    lines = []
    for config, status, note in runs:
        folder = Path(config.output_dir)
        name = os.path.relpath(folder, base) if len(runs) > 1 else str(folder)
        lines.append(line(name, status, config, newest_metrics(folder), note))
    logs.print_table(title, lines)
    logs.close()
    for note in notes:
        print(note)


def line(name: str, status: str, config: RunConfig | None, metrics: Metrics, note: str) -> dict[str, str | float]:
    """A row of a table of runs; scores times 100."""
    scores = _scores(metrics)
    first = next(iter(note.splitlines()), "")
    return {
        "run": name,
        "status": status,
        "progress": "" if status == "finished" or config is None else _progress(config, metrics, score=False),
        "dev": scores.get("dev", "").removeprefix("dev "),
        "test": scores.get("test", "").removeprefix("test "),
        "note": first,
    }


def _scores(metrics: Metrics) -> dict[str, str]:
    pairs = (("dev", metrics.dev), ("test", metrics.test))
    return {name: f"{name} {100 * value:.2f}" for name, value in pairs if value is not None}


def _progress(config: RunConfig, metrics: Metrics, score: bool = True) -> str:
    if metrics.step is None:
        return ""
    last = f"/{config.max_steps}" if config.max_steps > 0 else ""
    epochs = "" if config.max_steps > 0 else f"epoch {metrics.epoch or 0:g}/{config.num_train_epochs:g} "
    return f"{epochs}step {metrics.step}{last}" + (f" {_scores(metrics).get('dev', '')}".rstrip() if score else "")


def _table(lines: Sequence[Mapping[str, str | float]], caption: str) -> Table:
    table = Table(caption=caption, caption_justify="left")
    for name in lines[0] if lines else ():
        table.add_column(name, justify="right" if name in ("dev", "test") else "left", no_wrap=name != "note")
    for cells in lines:
        table.add_row(*(Text(str(cell)) for cell in cells.values()), style=STYLES.get(str(cells["status"]), ""))
    return table

"""A run's figures line by line: the interface that every tracker has, and the file that reports are made from."""

from __future__ import annotations

import itertools
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness import records
from harness.files import private
from harness.records import Row
from harness.task import Report

Status = Literal["finished", "stopped", "failed"]


class Tracker:
    """Takes figures under their full names: train/loss, dev/score, ... This one keeps nothing: what other ranks get."""

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of training after optimizer step `step`, drawn against it."""

    def log_epoch(self, epoch: float, step: int, values: Mapping[str, float]) -> None:
        """Figures of an epoch, drawn against `epoch`; the epoch's mean of training as train/epoch_<name>."""

    def chart(self, split: str, report: Report) -> None:
        """The report's confusion matrix, table of counts or scatter."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """A table of names and numbers."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Single figures of the whole run."""

    def close(self, status: Status) -> str | None:
        """End the record. Returns the last line to show the user, where something is left to do."""
        return None


class MetricsFile(Tracker):
    """metrics.jsonl: {"kind": "step" | "epoch", "step", "epoch", "time", "values"} a line; NaN and inf are null."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        self.last_epoch: int | None = None  # step of the newest epoch's line that an earlier start wrote
        # What came after the checkpoint that the run goes on from will be lived again.
        self._keep(lambda row: row.step <= resumed_step)

    def _keep(self, wanted: Callable[[Row], bool]) -> None:
        """Drop the lines that are not wanted, and those that are none of ours: a kill cuts the last one short."""
        self.last_epoch, is_whole = None, True
        for line, row in records.rows(self.path):
            if row is None or not wanted(row):
                is_whole = False
                continue
            is_whole = is_whole and line.endswith(b"\n")
            self.last_epoch = row.step if row.kind == "epoch" else self.last_epoch
        if not is_whole:
            kept = (line for line, row in records.rows(self.path) if row is not None and wanted(row))
            self._replace(line.rstrip(b"\n") + b"\n" for line in kept)

    def _replace(self, lines: Iterable[bytes]) -> None:
        aside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.partial")
        try:
            with open(aside, "xb", opener=private) as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.path)
        finally:
            aside.unlink(missing_ok=True)

    def rows(self, first: int = 0) -> Iterator[Row]:
        """What the lines say, from number `first` on, counted from 0."""
        return (row for _, row in itertools.islice(records.rows(self.path), first, None) if row is not None)

    def count(self) -> int:
        """How many lines there are now."""
        if not self.path.exists():
            return 0
        with open(self.path, "rb") as file:
            return sum(part.count(b"\n") for part in iter(lambda: file.read(2**20), b""))

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        self._append("step", step, None, values)

    def log_epoch(self, epoch: float, step: int, values: Mapping[str, float]) -> None:
        # Killed between this line and the checkpoint of the epoch's end, the epoch's evaluation is lived again too.
        if step == self.last_epoch:
            self._keep(lambda row: (row.kind, row.step) != ("epoch", step))
        self._append("epoch", step, epoch, values)

    def _append(self, kind: str, step: int, epoch: float | None, values: Mapping[str, float]) -> None:
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        record = {"kind": kind, "step": step, "epoch": epoch, "time": round(time.time(), 3), "values": numbers}
        with open(self.path, "a", encoding="utf-8", opener=private) as lines:  # closed, hence flushed, each time
            lines.write(json.dumps(record, allow_nan=False, default=float) + "\n")  # default: numbers of NumPy

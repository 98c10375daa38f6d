"""A run's figures line by line: the interface that every tracker has, and the file that reports are made from."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.files import private, write
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
        # What came after the checkpoint that the run goes on from will be lived again.
        self.kept = self._keep(lambda record: record["step"] <= resumed_step)

    def _keep(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Drop the lines that are not wanted, and a last one that a kill cut short. Returns the records that stay."""
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        records = []
        for line in text.splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
        records = [record for record in records if wanted(record)]
        kept = "".join(json.dumps(record) + "\n" for record in records)
        if kept != text:
            write(self.path, kept)
        return records

    def rows(self) -> int:
        """How many lines there are now."""
        return self.path.read_bytes().count(b"\n") if self.path.exists() else 0

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        self._append("step", step, None, values)

    def log_epoch(self, epoch: float, step: int, values: Mapping[str, float]) -> None:
        # Killed between this line and the checkpoint of the epoch's end, the epoch's evaluation is lived again too.
        if any(record["kind"] == "epoch" and record["step"] == step for record in self.kept):
            self.kept = self._keep(lambda record: (record["kind"], record["step"]) != ("epoch", step))
        self._append("epoch", step, epoch, values)

    def _append(self, kind: str, step: int, epoch: float | None, values: Mapping[str, float]) -> None:
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        record = {"kind": kind, "step": step, "epoch": epoch, "time": round(time.time(), 3), "values": numbers}
        with open(self.path, "a", encoding="utf-8", opener=private) as lines:  # closed, hence flushed, each time
            lines.write(json.dumps(record, allow_nan=False, default=float) + "\n")  # default: numbers of NumPy

"""suite.json in the folder above a suite's runs: which tasks its total is of, and which runs were left out, and why.

Every table that is made of the runs says what was left out, until it is finished after all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from harness import records
from harness.errors import UserError
from harness.files import write

RECORD = "suite.json"
LEVELS = 6  # from a run up to the folder of its suite: <task>/<model>/[tune/][<settings>/]seed-<n>, and one to spare


class Total(BaseModel):
    """What a suite's total is the mean of: its tasks, or the means of groups of them."""

    tasks: tuple[str, ...]
    groups: dict[str, tuple[str, ...]] = {}


class _LeftOut(BaseModel):
    what: str
    why: str


class _Record(BaseModel):
    """Schema 2; of schema 1 there are no suites."""

    left_out: dict[str, _LeftOut] = {}  # by run folder, from the folder of the suite
    suites: dict[str, Total] = {}


def record_total(folders: Sequence[Path], name: str, total: Total) -> None:
    """Say of these runs which suite they are of, and what its total is. Raises UserError."""
    if len(folders) > 1 and total.tasks:
        home = Path(os.path.commonpath(folders))
        record = _read(home)
        _write(home, record, record.model_copy(update={"suites": {**record.suites, name: total}}))


def recorded_totals(folders: Sequence[Path]) -> dict[str, Total]:
    """Name of each suite that these runs belong to -> what its total is."""
    return {name: total for home in _homes(folders) for name, total in _read(home).suites.items()}


def record_left_out(home: Path, wanted: Iterable[Path], left_out: Mapping[Path, tuple[str, str]]) -> None:
    """Of the runs that are wanted now, say which are left out: run folder -> (what they lack it for, why)."""
    record = _read(home)
    names = {os.path.relpath(folder, home) for folder in wanted}
    now = {name: entry for name, entry in record.left_out.items() if name not in names}
    now |= {os.path.relpath(folder, home): _LeftOut(what=what, why=why) for folder, (what, why) in left_out.items()}
    _write(home, record, record.model_copy(update={"left_out": now}))


def joined(folders: Sequence[Path]) -> dict[str, Any]:
    """One record in place of all those that these runs have above them: what is noted of them, and the totals. Empty
    where there is nothing."""
    entries = {f".left-out-{number}": entry.model_dump() for number, entry in enumerate(_left_out(folders))}
    totals = {name: total.model_dump() for name, total in recorded_totals(folders).items()}
    return {"schema": 2, "left_out": entries, "suites": totals} if entries or totals else {}


def left_out_notes(folders: Sequence[Path]) -> list[str]:
    """A line for each reason why runs of the same suites as these were left out."""
    why: dict[str, dict[str, None]] = {}
    for entry in _left_out(folders):
        why.setdefault(entry.why, {})[entry.what] = None
    return [f"left out: {', '.join(what)} ({reason})" for reason, what in why.items()]


def _left_out(folders: Sequence[Path]) -> list[_LeftOut]:
    """Those of the suites' runs that are not finished since."""
    entries = ((home / name, entry) for home in _homes(folders) for name, entry in _read(home).left_out.items())
    return [entry for folder, entry in entries if not os.path.isfile(folder / "result.json")]


def _homes(folders: Sequence[Path]) -> list[Path]:
    """Where the record of their suite may be."""
    return list(dict.fromkeys(above for folder in folders for above in [*folder.absolute().parents][:LEVELS]))


def _read(home: Path) -> _Record:
    try:
        return records.read(home / RECORD, TypeAdapter(_Record))
    except UserError:
        return _Record()


def _write(home: Path, before: _Record, now: _Record) -> None:
    if now == before:
        return
    try:
        write(home / RECORD, json.dumps({"schema": 2, **now.model_dump()}, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--output_dir {home}: cannot be written ({error.strerror}); name another folder") from error

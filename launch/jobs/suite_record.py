"""suite.json in the folder above a suite's runs: which were left out because something was missing, and why.

Every table that is made of the runs says so, until a run that was left out is finished after all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import files
from harness.errors import UserError

NAME = "suite.json"
LEVELS = 5  # from a run up to the folder of its suite: <task>/<model>/[<settings>/]seed-<n>, and one to spare


def update(home: Path, wanted: Iterable[Path], left_out: Mapping[Path, tuple[str, str]]) -> None:
    """Of the runs that are wanted now, say which are left out: run folder -> (what they lack it for, why)."""
    path = home / NAME
    before = _read(path)
    names = {_name(home, folder) for folder in wanted}
    kept = {name: entry for name, entry in before.items() if name not in names}
    new = {_name(home, folder): {"what": what, "why": why} for folder, (what, why) in left_out.items()}
    if {**kept, **new} == before:
        return
    try:
        files.write(path, json.dumps({"schema": 1, "left_out": {**kept, **new}}, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--output_dir {home}: cannot be written ({error.strerror}); name another folder") from error


def notes(folders: Sequence[Path]) -> list[str]:
    """A line for each reason why runs of the same suites as these were left out."""
    homes = dict.fromkeys(above for folder in folders for above in [*folder.absolute().parents][:LEVELS])
    why: dict[str, dict[str, None]] = {}
    for home in homes:
        for name, entry in _read(home / NAME).items():
            if not os.path.isfile(home / name / "result.json"):
                why.setdefault(str(entry.get("why")), {})[str(entry.get("what"))] = None
    return [f"left out: {', '.join(what)} ({reason})" for reason, what in why.items()]


def _name(home: Path, folder: Path) -> str:
    return os.path.relpath(folder, home)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = files.read_json(path)["left_out"]
        return {str(name): dict(entry) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}

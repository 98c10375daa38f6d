"""Read offline wandb runs back, by `wandb leet inspect`: needs neither an account nor a network."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wandb.util import get_core_path


def logs(folder: Path) -> list[Path]:
    """The .wandb files of a run folder, oldest first: one for each process that the run was resumed in."""
    return sorted((folder / "wandb").glob("*run-*/run-*.wandb"))


def records(folder: Path) -> list[dict[str, Any]]:
    """Every record of every part of the run, as wandb prints them: {"num", "type", <type>: {...}}."""
    return [json.loads(line) for log in logs(folder) for line in _inspect(log, "--json").splitlines()]


def history(folder: Path) -> list[dict[str, Any]]:
    """Every logged row: name -> value, wandb's own _step, _timestamp and _runtime included."""
    return [record["history"]["item"] for record in records(folder) if record["type"] == "history"]


def summary(folder: Path) -> dict[str, Any]:
    """The summary that the server would have: name -> last value, or {"max": value} where the best is kept."""
    merged: dict[str, Any] = {}
    for log in logs(folder):
        merged |= json.loads(_inspect(log, "--summary", "--json"))["summary"]
    return merged


def header(folder: Path) -> dict[str, Any]:
    """Of the newest part: config, tags, project, run_id, name, notes, exit_code, state."""
    parts: dict[str, Any] = json.loads(_inspect(logs(folder)[-1], "--summary", "--json"))
    return parts


def scan(folder: Path, needles: Iterable[str]) -> list[str]:
    """Where any of the texts occurs in a wandb folder: in a file, its name, or a record (a log is cut into blocks)."""
    texts = {str(path): path.read_bytes() for path in (folder / "wandb").rglob("*") if path.is_file()}
    texts |= {f"records of {log}": _inspect(log, "--json").encode() for log in logs(folder)}
    # JSON escapes what is not ASCII, so the records are searched for that spelling too.
    spellings = [(needle, {needle.encode(), json.dumps(needle)[1:-1].encode()}) for needle in needles]
    return [
        f"{name}: {needle}"
        for name, content in texts.items()
        for needle, forms in spellings
        if any(form in content or form in name.encode() for form in forms)
    ]


def _wait_until_closed(log: Path, seconds: float = 5) -> None:
    """Until no process writes to the file any more: wandb's own may go on for a moment after `finish`."""
    until = time.monotonic() + seconds
    while any(_is(handle, log) for handle in Path("/proc").glob("[0-9]*/fd/*")) and time.monotonic() < until:
        time.sleep(0.05)


def _is(handle: Path, log: Path) -> bool:
    try:
        return os.readlink(handle) == str(log.resolve())
    except OSError:  # closed meanwhile, or of somebody else
        return False


def _inspect(log: Path, *flags: str) -> str:
    _wait_until_closed(log)
    # What `wandb leet inspect` itself runs, without the half second of the Python command line around it.
    command = [get_core_path(), "leet", "inspect", "--no-observability", *flags, "--run-file", log, log.parent.parent]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

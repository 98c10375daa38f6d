"""manifest.json of a prepared folder: from which files, by which rules and with which result it was made."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.files import sha256
from tasks.corpora.records import Options
from tasks.corpora.sentences import splitter_version
from tasks.corpora.sources import Source

__all__ = ["FILE", "describe", "describes", "is_whole", "read", "without_versions"]

FILE = "manifest.json"
LIBRARIES = ("blue-harness", "lxml", "python-docx")


def describe(task: str, splits: Mapping[str, Any], source: Source, options: Options) -> dict[str, Any]:
    """The content: the same source and options give the same, apart from `versions`."""
    noted = _counts(task, options.noted)
    return {
        "task": task,
        "splits": dict(splits),
        "left_out": _counts(task, options.left_out),
        **({"corrected": noted} if noted else {}),
        "options": {
            "seed": options.seed,
            "splitter": options.splitter,
            "dev_ids": _listed(options.dev_ids),
            "test_ids": _listed(options.test_ids),
        },
        "sources": source.fingerprints(),
        "versions": {"python": platform.python_version(), "splitter": splitter_version(options.splitter)}
        | {name: metadata.version(name) for name in LIBRARIES},
    }


def _counts(task: str, counted: Mapping[tuple[str, str], int]) -> dict[str, int]:
    return {reason: count for (name, reason), count in sorted(counted.items()) if name == task}


def _listed(ids: frozenset[str] | None) -> dict[str, Any] | None:
    if ids is None:
        return None
    return {"ids": len(ids), "sha256": hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()}


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None where there is none that can be read."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def without_versions(content: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs of the same command agree in, on whatever machine."""
    return {name: value for name, value in content.items() if name != "versions"}


def describes(content: Mapping[str, Any]) -> bool:
    """Whether it has the form that `describe` gives it, as far as `is_whole` needs it."""
    splits = content.get("splits")
    return isinstance(splits, dict) and all(
        isinstance(split, dict) and all(isinstance(split.get(name), str) for name in ("file", "sha256"))
        for split in splits.values()
    )


def is_whole(folder: Path, content: Mapping[str, Any]) -> bool:
    """Whether the files of the splits are those that the manifest tells of, byte by byte."""
    for split in content["splits"].values():
        try:
            if sha256(folder / split["file"]) != split["sha256"]:
                return False
        except OSError:
            return False
    return True

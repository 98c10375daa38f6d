"""Files that only their owner may read, whole or not at all; and the settings that users write in TOML or JSON."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import Any

from harness import UserError


def write(path: Path, text: str) -> None:
    """A whole file or none: a reader never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    with open(aside, "w", encoding="utf-8", opener=private) as file:
        file.write(text)
    os.replace(aside, path)


def private(path: str, flags: int) -> int:
    """An `opener` for files that only their owner may read, whatever the umask."""
    return os.open(path, flags, 0o600)


def sha256(path: Path) -> str:
    """Of the file's bytes, in hexadecimal. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_fault(path: Path) -> str | None:
    """What is wrong with a folder that somebody named, for a message; None where it is there and holds something."""
    try:
        if path.is_dir():
            return None if any(path.iterdir()) else "is empty"
    except OSError as error:  # of somebody else, or a stale mount
        return f"cannot be read ({error.strerror})"
    return "is a file, not a folder" if path.exists() else "no such folder"


def read_settings(path: Path, flag: str, remedy: str) -> dict[str, Any]:
    """The table of a .json file, or of a TOML file of any other name.

    `flag` named the file; `remedy` says where to look. Raises UserError where it cannot be read or is no table.
    """
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{flag} {path}: cannot be read ({reason}); {remedy}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{flag} {path}: not TOML ({error}); {remedy}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{flag} {path}:{error.lineno}: not JSON ({error.msg}); {remedy}") from error
    except RecursionError:
        raise UserError(f"{flag} {path}: nested too deep; {remedy}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{flag} {path}:1: must be a JSON object of settings; {remedy}")
    return settings

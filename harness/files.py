"""Files that only their owner may read, whole or not at all; and the settings that users write in TOML or JSON."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import UserError

PARTIAL = ".partial"  # ends the name of what is being written, or was by a process that was killed
LFS_POINTER = b"version https://git-lfs"  # what a download without Git LFS leaves in a file's place
LARGEST_SETTINGS = 1_000_000  # bytes of a file that users write
MOST_DOTS = 300  # in a line: tomllib takes minutes over a key of thousands of dotted parts


def write(path: Path, content: str | bytes | Iterable[bytes], *, durable: bool = False) -> None:
    """A whole file or none: a reader never meets half of it, and of two writers each has a file of its own meanwhile.

    `durable`: it is on the disk, under its name, when this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(PARTIAL, f".{path.name}.", path.parent)  # never one that is there, nor a link
    try:
        whole = content.encode("utf-8") if isinstance(content, str) else content
        with open(handle, "wb") as file:
            file.writelines([whole] if isinstance(whole, bytes) else whole)
            if durable:
                file.flush()
                os.fsync(handle)
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
    if durable:
        flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def unfinished(name: str) -> str | None:
    """The name that a writer who was killed would have given to a file of this name; None for any other file."""
    found = re.fullmatch(rf"\.(.+?)(\.[a-z0-9_]{{8}})?{re.escape(PARTIAL)}", name)
    return found[1] if found else None


def private(path: str, flags: int) -> int:
    """An `opener` for files that only their owner may read, whatever the umask. It follows no link: somebody else may
    have put one there."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            error.strerror = f"{os.path.basename(path)} is a symbolic link"
        raise


def not_writable(folder: Path, error: OSError) -> UserError:
    """What to raise where a run cannot write its folder."""
    return UserError(f"--output_dir {folder}: cannot be written ({error.strerror}); name another folder")


def sha256(path: Path) -> str:
    """Of the file's bytes, in hexadecimal. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """Raises OSError, and ValueError for whatever is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deep") from None


def folder_fault(path: Path) -> str | None:
    """What is wrong with a folder that somebody named, for a message; None where it is there and holds something."""
    try:
        if path.is_dir():
            return None if any(path.iterdir()) else "is empty"
    except OSError as error:  # of somebody else, or a stale mount
        return f"cannot be read ({error.strerror})"
    return "is a file, not a folder" if path.exists() else "no such folder"


def settings_text(path: Path, where: str, remedy: str) -> str:
    """The text of a file of settings. `where` names file and flag; `remedy` says where to look. Raises UserError."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_SETTINGS + 1)
        if content.startswith(LFS_POINTER):
            raise UserError(f"{where}: is a Git LFS pointer, not the file; run `git lfs pull` in its folder")
        if len(content) > LARGEST_SETTINGS:
            raise UserError(f"{where}: larger than {LARGEST_SETTINGS} bytes, which no settings are; {remedy}")
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{where}: cannot be read ({reason}); {remedy}") from error


def read_settings(path: Path, flag: str, remedy: str) -> dict[str, Any]:
    """The table of a .json file, or of a TOML file of any other name.

    `flag` named the file; `remedy` says where to look. Raises UserError where it cannot be read or is no table.
    """
    text, is_json = settings_text(path, f"{flag} {path}", remedy), path.suffix == ".json"
    if not is_json and max((line.count(".") for line in text.splitlines()), default=0) > MOST_DOTS:
        raise UserError(f"{flag} {path}: a line of more than {MOST_DOTS} dots; {remedy}")
    try:
        settings = json.loads(text) if is_json else tomllib.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{flag} {path}:{error.lineno}: not JSON ({error.msg}); {remedy}") from error
    except ValueError as error:  # of TOML; and numbers of thousands of digits
        raise UserError(f"{flag} {path}: not {'JSON' if is_json else 'TOML'} ({error}); {remedy}") from error
    except RecursionError:
        raise UserError(f"{flag} {path}: nested too deep; {remedy}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{flag} {path}:1: must be a JSON object of settings; {remedy}")
    return settings

"""A process by more than its number, which may be another's by now: machine, start, and what it has open."""

from __future__ import annotations

import os
import re
from pathlib import Path

OWNER = re.compile(r"process ([1-9]\d*) started (\d+) on ([\w.-]+)", re.ASCII)


def this_one() -> str:
    """This process as the owner of a lock."""
    return f"process {os.getpid()} started {start(os.getpid()) or '?'} on {os.uname().nodename}"


def shown(owner: str) -> str:
    """An owner without its start, which tells people nothing: `process N on HOST`."""
    return re.sub(r"^(process \d+) started \S+ ", r"\1 ", owner)


def owner(text: str) -> tuple[int, str, str] | None:
    """(number, start, machine) of what `this_one` wrote; None for any other text."""
    found = OWNER.fullmatch(text)
    return (int(found[1]), found[2], found[3]) if found else None


def start(process: int) -> str:
    """When a process of this machine began, in the kernel's ticks.

    "ended" of one that nobody has waited for; "" where there is none, or no /proc.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "ended" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


def has_open(process: int, path: Path) -> bool:
    """Whether a process of this user has a file open. False where that cannot be seen."""
    try:
        wanted, real = path.stat(), os.path.realpath(path)
        opened = list(Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False
    for descriptor in opened:
        try:
            # By its name where the file has been written anew since, by the file itself under another mount.
            named = os.readlink(descriptor).removesuffix(" (deleted)")
            if named == real or os.path.samestat(descriptor.stat(), wanted):
                return True
        except OSError:  # closed meanwhile, or of a kind that has no state
            continue
    return False

"""Archives from elsewhere, unpacked so that nothing in them can do harm.

Refused with one error: members that climb out of the folder, links and devices, encrypted members, two members of one
name, and sizes, counts or compression ratios that no corpus has.
"""

from __future__ import annotations

import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

from harness.files import private
from harness.task import UserError

__all__ = ["Budget", "is_archive", "is_packed", "unpack", "vet"]

MOST_BYTES = 2 * 2**30  # of all members together; the largest published corpus has 40 MB
MOST_MEMBERS = 500_000  # EBM-NLP has a file for each annotator of each document
MOST_RATIO = 200  # unpacked over packed bytes of more than 1 MiB; text stays below 20
SMALL = 2**20
MOST_NESTED = 2  # archives in archives, as ChemProt is distributed
PACKED = (".rar", ".7z", ".gz", ".bz2", ".xz")  # packed in a way that `unpack` does not know
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError)


def is_archive(path: Path) -> bool:
    """Whether the file's name is that of an archive that `unpack` knows. A .docx is not one."""
    return path.name.lower().endswith(SUFFIXES)


def is_packed(path: Path) -> bool:
    """Whether the file's name is that of something packed that has to be unpacked by hand."""
    return path.name.lower().endswith(PACKED) and not is_archive(path)


@dataclass
class Budget:
    """What may still be unpacked, over nested archives too."""

    size: int = MOST_BYTES
    members: int = MOST_MEMBERS


def unpack(
    archive: Path,
    folder: Path,
    budget: Budget | None = None,
    shown: str = "",
    nested: int = MOST_NESTED,
    skips: str = "",
) -> None:
    """Write the regular files of an archive, and of archives in it, below a folder.

    `budget` counts over several archives, `shown` names this one in messages, and archives in it are unpacked `nested`
    deep. Members whose names `skips`, a pattern, matches are only looked at. Raises UserError.
    """
    shown, budget = shown or str(archive), budget or Budget()
    inner = []
    try:
        for name, opened in _checked(archive, shown, budget):
            if skips and re.match(skips, str(name)):
                continue
            path = folder / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Neither library reads more of a member than the size that was checked.
            with opened() as stream, open(path, "xb", opener=private) as file:
                shutil.copyfileobj(stream, file)
            if is_archive(path):
                inner.append(path)
    except BROKEN as error:
        raise _refused(shown, f"broken ({type(error).__name__})") from None
    for path in inner if nested else []:
        below = path.with_name(path.name + ".unpacked")
        below.mkdir(mode=0o700)
        unpack(path, below, budget, f"{shown}/{path.relative_to(folder).as_posix()}", nested - 1, skips)
        path.unlink()
        below.rename(path)  # messages and manifest then show where a file lies: corpus.zip/train.zip/a.tsv


def vet(path: Path, name: str = "a.zip") -> None:
    """Raises UserError for an archive (a .docx is one) of that name that `unpack` would refuse."""
    try:
        for _ in _checked(path, str(path), Budget(), name):
            pass
    except BROKEN as error:
        raise _refused(str(path), f"broken ({type(error).__name__})") from None


def _checked(
    archive: Path, shown: str, budget: Budget, named: str = ""
) -> Iterator[tuple[PurePosixPath, Callable[[], IO[bytes]]]]:
    """(name, what opens it) of each file, after its name and the sizes so far were found in order."""
    seen: set[PurePosixPath] = set()
    total, packed = 0, archive.stat().st_size
    for name, size, refused, opened in _members(archive, shown, Path(named or archive)):
        path = PurePosixPath(name)
        member = ascii(name if len(name) <= 80 else name[:77] + "...")  # it may be made to confuse a terminal
        climbs = path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in path.parts[0]
        if climbs or any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in path.parts):
            raise _refused(shown, f"member {member} has a name that leads out of the folder or is no file name")
        if path in seen:
            raise _refused(shown, f"two members are named {member}")
        if refused:
            raise _refused(shown, f"member {member} {refused}")
        seen.add(path)
        total += size
        budget.size -= size
        budget.members -= 1
        if budget.members < 0:
            raise _refused(shown, f"more than {MOST_MEMBERS} members")
        if budget.size < 0:
            raise _refused(shown, f"unpacks to more than {MOST_BYTES // 2**30} GiB")
        if total > max(SMALL, MOST_RATIO * packed):
            raise _refused(shown, f"unpacks to over {MOST_RATIO} times its size")
        yield path, opened


def _members(archive: Path, shown: str, named: Path) -> Iterator[tuple[str, int, str, Callable[[], IO[bytes]]]]:
    """(name, size in bytes, why it is never unpacked or "", what opens it) of each member that is no folder."""
    if is_archive(named) and named.suffix.lower() != ".zip":
        with tarfile.open(archive) as tar:
            for info in tar:
                refused = "" if info.isreg() else "is a link or a device"
                if not info.isdir():
                    yield info.name, info.size, refused, cast(Callable[[], IO[bytes]], partial(tar.extractfile, info))
        return
    try:
        opened = zipfile.ZipFile(archive)
    except (*BROKEN, ValueError) as error:
        raise _refused(shown, f"not a zip archive, or a broken one ({type(error).__name__})") from None
    with opened:
        for entry in opened.infolist():
            is_link = entry.external_attr >> 16 & 0o170000 == 0o120000
            refused = "is encrypted" if entry.flag_bits & 0x1 else "is a link" if is_link else ""
            if not entry.is_dir():
                yield entry.filename, entry.file_size, refused, partial(opened.open, entry)


def _refused(shown: str, wrong: str) -> UserError:
    remedy = "get the archive again from its publisher, or unpack it yourself and give the folder"
    return UserError(f"{shown}: {wrong}; {remedy}")

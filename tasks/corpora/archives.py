"""Archives from elsewhere, unpacked so that nothing in them can do harm.

Refused with one error: members that climb out of the folder, links and devices, encrypted members, two members of one
name, and sizes, counts or compression ratios that no corpus has.
"""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from harness.task import UserError

__all__ = ["Budget", "is_archive", "is_packed", "unpack", "vet_zip"]

MOST_BYTES = 2 * 2**30  # of all members together; the largest published corpus has 40 MB
MOST_MEMBERS = 100_000
MOST_RATIO = 200  # unpacked over packed bytes of a member of more than 1 MiB; text stays below 20
SMALL = 2**20
MOST_NESTED = 2  # archives in archives, as ChemProt is distributed
CHUNK = 2**20
PACKED = (".rar", ".7z", ".gz", ".bz2", ".xz")  # packed in a way that `unpack` does not know
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
REMEDY = "get the archive again from its publisher, or unpack it yourself and give the folder"
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

    def take(self, archive: str, size: int) -> None:
        """Raises UserError where the archive unpacks to more than any corpus holds."""
        self.size -= size
        self.members -= 1
        if self.members < 0:
            raise _refused(archive, f"more than {MOST_MEMBERS} members")
        if self.size < 0:
            raise _refused(archive, f"unpacks to more than {MOST_BYTES // 2**30} GiB")


def unpack(archive: Path, folder: Path, budget: Budget | None = None) -> None:
    """Write the regular files of an archive, and of archives in it, below a folder; `budget` counts over several
    archives. Raises UserError."""
    _unpack(archive, str(archive), folder, budget or Budget(), MOST_NESTED)


def vet_zip(path: Path) -> None:
    """Raises UserError for a zip file (a .docx, say) that `unpack` would refuse."""
    with _opened_zip(path, str(path)) as opened:
        budget = Budget()
        for member in _zip_members(opened, str(path)):
            budget.take(str(path), member.file_size)


def _unpack(archive: Path, shown: str, folder: Path, budget: Budget, nested: int) -> None:
    written = _unpack_zip if archive.name.lower().endswith(".zip") else _unpack_tar
    inner = []
    try:
        for path in written(archive, shown, folder, budget):
            if is_archive(path):
                inner.append(path)
    except BROKEN as error:
        raise _refused(shown, f"broken ({type(error).__name__})") from None
    for path in inner if nested else []:
        below = path.with_name(path.name + ".unpacked")
        below.mkdir(mode=0o700)
        _unpack(path, f"{shown}/{path.relative_to(folder).as_posix()}", below, budget, nested - 1)
        path.unlink()
        below.rename(path)  # messages and manifest then show where a file lies: corpus.zip/train.zip/a.tsv


def _unpack_zip(archive: Path, shown: str, folder: Path, budget: Budget) -> Iterator[Path]:
    with _opened_zip(archive, shown) as opened:
        members = list(_zip_members(opened, shown))  # all of them are looked at before one is written
        for member in members:
            budget.take(shown, member.file_size)
        for member in members:
            with opened.open(member) as stream:
                yield _write(stream, folder, member.filename, shown, member.file_size)


def _opened_zip(path: Path, shown: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (*BROKEN, ValueError) as error:
        raise _refused(shown, f"not a zip archive, or a broken one ({type(error).__name__})") from None


def _zip_members(opened: zipfile.ZipFile, shown: str) -> Iterator[zipfile.ZipInfo]:
    seen: set[str] = set()
    for member in opened.infolist():
        if member.is_dir():
            continue
        _check_name(member.filename, seen, shown)
        if member.flag_bits & 0x1:
            raise _refused(shown, f"member {_short(member.filename)} is encrypted")
        if member.external_attr >> 16 & 0o170000 == 0o120000:
            raise _refused(shown, f"member {_short(member.filename)} is a link")
        if member.file_size > SMALL and member.file_size > MOST_RATIO * max(1, member.compress_size):
            raise _refused(shown, f"member {_short(member.filename)} unpacks to over {MOST_RATIO} times its size")
        yield member


def _unpack_tar(archive: Path, shown: str, folder: Path, budget: Budget) -> Iterator[Path]:
    seen: set[str] = set()
    packed = archive.stat().st_size
    total = 0
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isdir():
                continue
            _check_name(member.name, seen, shown)
            if not member.isreg():
                raise _refused(shown, f"member {_short(member.name)} is a link or a device")
            budget.take(shown, member.size)
            total += member.size
            if total > SMALL and total > MOST_RATIO * packed:
                raise _refused(shown, f"unpacks to over {MOST_RATIO} times its size")
            stream = opened.extractfile(member)
            assert stream is not None  # it is a regular file
            yield _write(stream, folder, member.name, shown, member.size)


def _check_name(name: str, seen: set[str], shown: str) -> None:
    path = PurePosixPath(name)
    climbs = path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in path.parts[0]
    if climbs or any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in path.parts):
        raise _refused(shown, f"member {_short(name)} has a name that leads out of the folder or is no file name")
    if str(path) in seen:
        raise _refused(shown, f"two members are named {_short(name)}")
    seen.add(str(path))


def _write(stream: IO[bytes], folder: Path, name: str, shown: str, size: int) -> Path:
    """Copy at most the declared size, whatever the stream holds."""
    path = folder / PurePosixPath(name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    left = size
    with open(path, "xb", opener=lambda file, flags: os.open(file, flags, 0o600)) as file:
        while left >= 0 and (chunk := stream.read(CHUNK)):
            left -= len(chunk)
            file.write(chunk)
    if left:
        raise _refused(shown, f"member {_short(name)} does not have the size that the archive names")
    return path


def _short(name: str) -> str:
    """A member's name in one line; it may be made to confuse a terminal."""
    return ascii(name if len(name) <= 80 else name[:77] + "...")


def _refused(shown: str, wrong: str) -> UserError:
    return UserError(f"{shown}: {wrong}; {REMEDY}")

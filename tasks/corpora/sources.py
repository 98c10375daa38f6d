"""A corpus as it was downloaded: a file, a folder, or an archive of them. The one place that opens its files."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from harness.files import sha256
from harness.task import UserError
from tasks import readers
from tasks.corpora import archives

__all__ = ["Line", "Source", "SourceFile", "filled"]

LARGEST_FILE = 256 * 2**20  # bytes of one file that is read whole; the largest published one has 2 MB
LONGEST_LINE = 16 * 2**20  # bytes
IGNORED = ("__MACOSX", ".DS_Store", "._", "~$")  # what file managers leave in folders and archives


@dataclass(frozen=True)
class Line:
    """One line of a text file without its end."""

    file: SourceFile
    number: int  # counted from 1
    text: str

    def error(self, wrong: str, remedy: str) -> UserError:
        """The error to raise about this line."""
        return self.file.error(wrong, remedy, self.number)


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    path: Path  # where it can be read now
    shown: str  # for messages: the path that the user gave, and what lies below it
    name: str  # below the source, with /
    used: set[str] = field(default_factory=set, compare=False)  # names of the source's files that were opened

    @property
    def stem(self) -> str:
        """The file's name up to its first point: the document's name in most corpora."""
        return self.path.name.split(".")[0]

    @property
    def folders(self) -> str:
        """The folders below the source in which it lies, in lower case, with / between; "" right below."""
        return str(PurePosixPath(self.name).parent).lower().removeprefix(".")

    @property
    def split(self) -> str | None:
        """train or test, whichever the innermost folder that speaks of one of them says; None where none does."""
        for part in reversed(self.folders.split("/")):
            if ("train" in part) != ("test" in part):
                return "train" if "train" in part else "test"
        return None

    def error(self, wrong: str, remedy: str, line: int | None = None) -> UserError:
        """The error to raise about this file, or about one of its lines."""
        shown = self.shown.replace("\n", "\\n").replace("\r", "\\r")
        return UserError(f"{shown}{'' if line is None else f':{line}'}: {wrong}; {remedy}")

    def opened(self) -> Path:
        """Where to read it; it is then in the manifest."""
        self.used.add(self.name)
        return self.path

    def read(self) -> bytes:
        """All of the file. Raises UserError where it cannot be read or is absurdly large."""
        try:
            if self.path.stat().st_size > LARGEST_FILE:
                raise self.error(
                    f"larger than {LARGEST_FILE // 2**20} MiB, which no corpus file is", "move it out of the folder"
                )
            return self.opened().read_bytes()
        except OSError as error:
            raise self.error(f"cannot be read ({error.strerror})", "check the file and its permissions") from None

    def check_kind(self, content: bytes) -> None:
        """Raises UserError where that beginning is one of no text: a web page, a pointer, a packed file."""
        if (kind := readers.kind_of(content)) is not None:
            raise self.error(*kind, 1)

    def text(self) -> str:
        """All of a UTF-8 file, line ends as they are, since offsets count them. A byte order mark is left out.

        Raises UserError for NUL bytes and anything that is not UTF-8.
        """
        content = self.read()
        self.check_kind(content)
        content = content.removeprefix(b"\xef\xbb\xbf")
        if b"\0" in content:
            raise self.error(
                "NUL byte", "save the file as UTF-8 text", content[: content.index(b"\0")].count(b"\n") + 1
            )
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(*_not_utf8(content[error.start]), content[: error.start].count(b"\n") + 1) from None

    def lines(self) -> Iterator[Line]:
        """The lines of a UTF-8 file, one after another, never the whole file in memory; empty ones too.

        A byte order mark and CRLF line ends are accepted. Raises UserError as `text` does, and for a line that is
        absurdly long or holds a carriage return.
        """
        try:
            with open(self.opened(), "rb") as file:
                self.check_kind(file.read(1000))
                file.seek(0)
                number = 0
                while raw := file.readline(LONGEST_LINE + 1):
                    number += 1
                    yield Line(self, number, self._decoded(raw, number))
        except OSError as error:
            raise self.error(f"cannot be read ({error.strerror})", "check the file and its permissions") from None

    def _decoded(self, raw: bytes, number: int) -> str:
        if len(raw) > LONGEST_LINE:
            raise self.error(
                f"a line of more than {LONGEST_LINE // 2**20} MiB",
                "put the published file there, which has line ends",
                number,
            )
        line = raw.removesuffix(b"\n").removesuffix(b"\r")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if b"\0" in line:
            raise self.error("NUL byte", "save the file as UTF-8 text", number)
        if b"\r" in line:
            raise self.error("carriage return inside the line", "end lines with \\n or \\r\\n only", number)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(*_not_utf8(line[error.start]), number) from None


def _not_utf8(byte: int) -> tuple[str, str]:
    return f"not UTF-8 (byte 0x{byte:02x})", "save the file as UTF-8 text"


def filled(lines: Iterator[Line]) -> Iterator[Line]:
    """The lines that are not empty."""
    return (line for line in lines if line.text.strip())


class Source:
    """The files below a path; a context manager, since archives are unpacked into a private folder meanwhile.

    Archives in a folder count as folders of their names; what lies beside them unpacked already is taken once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[SourceFile] = []  # by name
        self._stack = ExitStack()
        self._used: set[str] = set()

    def __enter__(self) -> Source:
        try:
            if not self.path.exists():
                raise UserError(f"--source {self.path}: no such file or folder; name what you downloaded")
            root, single = self.path, not self.path.is_dir()
            if single and archives.is_archive(self.path):
                root, single = self._folder(), False
                archives.unpack(self.path, root)
            paths = [root] if single else sorted(_walk(root))
            packed = [] if single or self.path.is_file() else [path for path in paths if archives.is_archive(path)]
            self.files = [self._file(path, root, single) for path in paths if path not in packed]
            self._add_archives(packed)
        except OSError as error:
            self._stack.close()
            raise UserError(f"--source {self.path}: cannot be read ({error.strerror}); check its permissions") from None
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _folder(self) -> Path:
        # Readable for its owner alone, as mkdtemp makes it: what is in an archive may be clinical text.
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="blue-")))

    def _add_archives(self, packed: Sequence[Path]) -> None:
        """The files of archives in the folder, but those that are there already: name and content are the same."""
        budget = archives.Budget()
        for archive in packed:
            root = self._folder()
            place = root / archive.relative_to(self.path)
            place.mkdir(mode=0o700, parents=True)
            try:
                archives.unpack(archive, place, budget)
            except UserError as error:
                raise UserError(f"{error}; if it does not belong to the corpus, move it out of the folder") from None
            there: dict[tuple[str, int], list[Path]] = {}
            for file in self.files:
                there.setdefault((file.path.name, file.path.stat().st_size), []).append(file.path)
            for path in sorted(_walk(root)):
                alike = there.get((path.name, path.stat().st_size), ())
                if sha256(path) not in map(sha256, alike):
                    self.files.append(self._file(path, root, False))
        self.files.sort(key=lambda file: file.name)

    def _file(self, path: Path, root: Path, single: bool) -> SourceFile:
        if single:
            return SourceFile(path, str(self.path), path.name, self._used)
        name = path.relative_to(root).as_posix()
        return SourceFile(path, f"{self.path}/{name}", name, self._used)

    def error(self, wrong: str, remedy: str) -> UserError:
        """The error to raise about the source as a whole."""
        packed = [file.name for file in self.files if archives.is_packed(file.path)]
        if packed:
            remedy = f"unpack {packed[0]} first, it is packed; or {remedy}"
        return UserError(f"--source {self.path}: {wrong}; {remedy}")

    def fingerprints(self) -> list[dict[str, Any]]:
        """Name, size and SHA-256 of the archive, or of the files that were opened, for the manifest.

        More than 100 files of one folder are one entry: the SHA-256 of the lines `<SHA-256>  <name>` in their order,
        as `sha256sum` prints them.
        """
        if self.path.is_file():
            return [{"file": self.path.name, "bytes": self.path.stat().st_size, "sha256": sha256(self.path)}]
        folders: dict[str, list[SourceFile]] = {}
        for file in (one for one in self.files if one.name in self._used):
            folders.setdefault(str(PurePosixPath(file.name).parent), []).append(file)
        entries: list[dict[str, Any]] = []
        for folder, files in folders.items():
            sizes = [file.path.stat().st_size for file in files]
            digests = [sha256(file.path) for file in files]
            if len(files) <= 100:
                columns = zip(files, sizes, digests, strict=True)
                entries += [{"file": file.name, "bytes": size, "sha256": digest} for file, size, digest in columns]
                continue
            lines = "".join(f"{digest}  {file.name}\n" for file, digest in zip(files, digests, strict=True))
            digest = hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
            entries.append({"folder": folder, "files": len(files), "bytes": sum(sizes), "sha256": digest})
        return entries


def _walk(root: Path) -> Iterator[Path]:
    """Every file below a folder; links to folders are not followed, so that there is no way round in circles."""
    for place, _, names in os.walk(root):
        for name in names:
            path = Path(place, name)
            parts = path.relative_to(root).parts
            if path.is_file() and not any(part.startswith(IGNORED) for part in parts):
                yield path

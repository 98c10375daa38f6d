"""A corpus as it was downloaded: a file, a folder, or an archive of them. The one place that opens its files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lxml import etree

from harness.files import sha256
from harness.task import UserError
from tasks import readers
from tasks.corpora import archives

__all__ = ["Line", "Source", "SourceFile", "listed"]

LARGEST_FILE = 256 * 2**20  # bytes of one file that is read whole; the largest published one has 2 MB
IGNORED = ("__MACOSX", ".DS_Store", "._", "~$")  # what file managers leave in folders and archives
UNCHANGED = "put the published file there, unchanged"
MOST_LISTED = 100  # files of one folder, in the manifest


@dataclass(frozen=True)
class Line:
    """One line of a text file without its end."""

    file: SourceFile
    number: int  # counted from 1
    text: str

    def error(self, wrong: str, remedy: str = UNCHANGED) -> UserError:
        """The error to raise about this line."""
        return self.file.error(wrong, self.number, remedy)

    def cells(self, count: int) -> list[str]:
        """Its tab separated columns. Raises UserError where there are more or fewer."""
        cells = self.text.split("\t")
        if len(cells) != count:
            raise self.error(f"{len(cells)} columns, {count} expected")
        return cells

    def offset(self, value: str) -> int:
        """A column as a number of characters. Raises UserError where it is none."""
        return self.file.whole_number(value, "an offset", self.number)


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

    def error(self, wrong: str, line: int | None = None, remedy: str = UNCHANGED) -> UserError:
        """The error to raise about this file, or about one of its lines."""
        shown = self.shown.replace("\n", "\\n").replace("\r", "\\r")
        return UserError(f"{shown}{'' if line is None else f':{line}'}: {wrong}; {remedy}")

    def opened(self) -> Path:
        """Where to read it; it is then in the manifest."""
        self.used.add(self.name)
        return self.path

    def _content(self, is_xml: bool = False) -> bytes:
        try:
            if self.path.stat().st_size > LARGEST_FILE:
                wrong = f"larger than {LARGEST_FILE // 2**20} MiB, which no corpus file is"
                raise self.error(wrong, remedy="move it out of the folder")
            content = self.opened().read_bytes()
        except OSError as error:
            wrong, remedy = f"cannot be read ({error.strerror})", "check the file and its permissions"
            raise self.error(wrong, remedy=remedy) from None
        kind = readers.kind_of(content)
        if kind is not None and not (is_xml and content.startswith(readers.UTF16)):
            raise self.error(kind[0], 1, kind[1])
        return content

    def text(self) -> str:
        """All of a UTF-8 file, line ends as they are, since offsets count them. A byte order mark is left out.

        Raises UserError for a file that is no text, for NUL bytes and anything that is not UTF-8.
        """
        content = self._content().removeprefix(b"\xef\xbb\xbf")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            wrong, before = f"not UTF-8 (byte 0x{content[error.start]:02x})", content[: error.start]
        else:
            if "\0" not in text:
                return text
            wrong, before = "NUL byte", content[: content.index(b"\0")]
        raise self.error(wrong, before.count(b"\n") + 1, "save the file as UTF-8 text")

    def lines(self, empty: bool = False) -> Iterator[Line]:
        """The lines of a UTF-8 file that are not blank; `empty`: those too. CRLF line ends are accepted.

        Raises UserError as `text` does, and for a line that holds a carriage return.
        """
        for number, text in enumerate(self.text().removesuffix("\n").split("\n"), start=1):
            text = text.removesuffix("\r")
            if "\r" in text:
                raise self.error("carriage return inside the line", number, "end lines with \\n or \\r\\n only")
            if empty or text.strip():
                yield Line(self, number, text)

    def json(self) -> dict[str, Any]:
        """A JSON object. Raises UserError."""
        try:
            content = json.loads(self.text())
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise self.error("not a JSON object", 1)
        return content

    def elements(self, tag: str) -> list[Any]:
        """Every XML element of that name, in file order.

        Nothing that the file names is read: no entities, files or addresses. Raises UserError for what is not well
        formed, and for a document type that declares entities: a few lines of those unpack to gigabytes, or name files
        of this machine.
        """
        parser = etree.XMLParser(
            resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True,
            remove_pis=True,
        )  # fmt: skip
        if not (content := self._content(is_xml=True)):
            raise self.error("the file is empty", 1)
        try:
            root = etree.fromstring(content, parser)
        except etree.XMLSyntaxError as error:
            # libxml2's own message may quote the text.
            raise self.error("not well-formed XML", error.lineno or 1) from None
        except (LookupError, ValueError):
            raise self.error("not well-formed XML (unknown encoding)", 1, "save the file as UTF-8") from None
        declared = root.getroottree().docinfo.internalDTD
        if declared is not None and next(declared.iterentities(), None) is not None:
            remedy = "remove the declarations, no corpus needs them"
            raise self.error("the document type declares entities", 1, remedy)
        return list(root.iter(tag))

    def attribute(self, element: Any, name: str) -> str:
        """The value of an attribute. Raises UserError where it is missing."""
        value = element.get(name)
        if value is None:
            raise self.error(f"<{element.tag}> without the attribute {name}", element.sourceline)
        return str(value)

    def whole_number(self, value: str | None, what: str, line: int) -> int:
        """A number of characters or words. Raises UserError where it is none."""
        text = (value or "").strip()
        if not (text.isascii() and text.isdigit()) or len(text) > 9:
            raise self.error(f"{what} is not a whole number", line)
        return int(text)


class Source(ExitStack):
    """The files below a path; a context manager, since archives are unpacked into a private folder meanwhile.

    Archives in a folder count as folders of their names; what lies beside them unpacked already is taken once.
    `expects` says in words what the path should hold; members of archives that match `skips` are not unpacked.
    """

    def __init__(self, path: Path, expects: str = "", skips: str = "") -> None:
        super().__init__()  # closes what was unpacked
        self.path = path
        self.expects = expects
        self.skips = skips
        self.files: list[SourceFile] = []  # by name
        self._used: set[str] = set()

    def __enter__(self) -> Source:
        try:
            self._find_files()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                wrong = f"cannot be read ({error.strerror}); check its permissions"
                raise UserError(f"--source {self.path}: {wrong}") from None
            raise
        return self

    def _find_files(self) -> None:
        if not self.path.exists():
            raise UserError(f"--source {self.path}: no such file or folder; name what you downloaded")
        if self.path.is_file() and not archives.is_archive(self.path):
            self.files = [SourceFile(self.path, str(self.path), self.path.name, self._used)]
            return
        paths = _walk(self.path) if self.path.is_dir() else [self.path]
        packed = [path for path in paths if archives.is_archive(path)]
        self._add(self.path, [path for path in paths if path not in packed])
        budget = archives.Budget()
        for archive in packed:
            # Readable for its owner alone, as mkdtemp makes it: what is in an archive may be clinical text.
            root = Path(self.enter_context(tempfile.TemporaryDirectory(prefix="blue-")))
            place = root / archive.relative_to(self.path)
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                archives.unpack(archive, place, budget, skips=self.skips)
            except UserError as error:
                if archive == self.path:
                    raise
                raise UserError(f"{error}; if it does not belong to the corpus, move it out of the folder") from None
            found = _walk(root)
            names = {path.name for path in found}
            there = {(file.path.name, sha256(file.path)) for file in self.files if file.path.name in names}
            self._add(root, [path for path in found if (path.name, sha256(path)) not in there])
        self.files.sort(key=lambda file: file.name)

    def _add(self, root: Path, paths: Sequence[Path]) -> None:
        for path in paths:
            name = path.relative_to(root).as_posix()
            self.files.append(SourceFile(path, f"{self.path}/{name}", name, self._used))

    def only(self, pattern: str, shown: str) -> SourceFile:
        """The one file whose name, in lower case, is of that pattern. Raises UserError for none, and for several."""
        found = [file for file in self.files if re.fullmatch(pattern, file.path.name.lower())]
        if len(found) != 1:
            raise self.error(f"{len(found) or 'no'} files {shown}")
        return found[0]

    def error(self, wrong: str, remedy: str | None = None) -> UserError:
        """The error to raise about the source as a whole; the remedy is to give what is expected."""
        remedy = remedy or f"give {self.expects}"
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
        folders: dict[str, list[dict[str, Any]]] = {}
        for file in self.files:
            if file.name in self._used:
                entry = {"file": file.name, "bytes": file.path.stat().st_size, "sha256": sha256(file.path)}
                folders.setdefault(str(PurePosixPath(file.name).parent), []).append(entry)
        entries: list[dict[str, Any]] = []
        for folder, files in folders.items():
            if len(files) <= MOST_LISTED:
                entries += files
                continue
            lines = "".join(f"{file['sha256']}  {file['file']}\n" for file in files)
            digest = hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
            size = sum(file["bytes"] for file in files)
            entries.append({"folder": folder, "files": len(files), "bytes": size, "sha256": digest})
        return entries


def listed(source: Source, folder: str, suffix: str) -> dict[str, frozenset[str]]:
    """Split -> ids, of the lists `indexing/<folder>/<split>_<suffix>.tsv` of BLURB's preprocessing archive, where that
    lies beside the corpus: names or paths of files with commas or line ends between them."""
    found = {}
    for file in source.files:
        split = file.path.name.removesuffix(f"_{suffix}.tsv")
        if split in ("dev", "test") and file.folders.split("/")[-2:] == ["indexing", folder]:
            names = (PurePosixPath(name.strip()).name for name in re.split(r"[,\n]", file.text()))
            found[split] = frozenset(name.split(".")[0] for name in names if name)
    return found


def _walk(root: Path) -> list[Path]:
    """Every file below a folder; links to folders are not followed, so that there is no way round in circles."""
    paths = (Path(place, name) for place, _, names in os.walk(root) for name in names)
    return sorted(
        path
        for path in paths
        if path.is_file() and not any(part.startswith(IGNORED) for part in path.relative_to(root).parts)
    )

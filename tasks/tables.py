"""Text files in, checked rows out: the one place that opens a data file.

Every complaint is one line, `path:line: what is wrong (value); what to do`. No sentence of the data may get into it,
because these lines end in logs and the text may be clinical: only short values (a label, a score, a count) are shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from harness.task import UserError

__all__ = [
    "PLAIN_FILENAMES",
    "Layout",
    "Row",
    "iterate_rows",
    "locate",
    "read_columns",
    "read_rows",
    "read_table",
    "shown",
]

PLAIN_FILENAMES: Mapping[str, str] = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}

# The longest column name of a published file has 16 characters; a longer cell in line 1 is a sentence, not a name.
LONGEST_HEADER_CELL = 40
LONGEST_SHOWN_VALUE = 30
# As other repositories name the same files. A table of .csv is cut at commas, a new name would not make it readable.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "devel", "development", "val", "valid", "validation"),
    "test": ("test", "testing"),
}
TEXT_SUFFIXES = (".tsv", ".txt", ".conll", ".iob", ".bio")
MOST_FILES = 5  # named in an error
LONE_CARRIAGE_RETURN = re.compile(rb"\r(?!\n|\Z)")
# Narrower than float(): no blanks, no "1_000", no "nan", no digits of other scripts.
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Row:
    """One line of a data file, cut at its tabs."""

    path: Path
    number: int  # of the line in the file, counted from 1
    cells: tuple[str, ...]  # one empty cell for an empty line

    def error(self, wrong: str, remedy: str) -> UserError:
        """The error to raise about this line."""
        return _error(self.path, self.number, wrong, remedy)

    def text(self, column: int, what: str = "sentence") -> str:
        """The text in a column. Raises UserError where it is empty or white space."""
        if not self.cells[column].strip():
            raise self.error(f"empty {what}", f"give the {what} or remove the line")
        return self.cells[column]

    def label(self, column: int, known: Sequence[str]) -> str:
        """The label in a column. Raises UserError where it is none of `known`."""
        value = self.cells[column]
        if value not in known:
            raise self.error(f"unknown label {shown(value)}", f"use one of {', '.join(known)}")
        return value

    def score(self, column: int) -> float:
        """The number in a column. Raises UserError where it is no finite number."""
        value = self.cells[column]
        if not is_number(value) or not math.isfinite(float(value)):
            raise self.error(f"score {shown(value)} is no finite number", "write it like 3.25")
        return float(value)


def is_number(value: str) -> bool:
    """Whether the value is written as a decimal number."""
    return NUMBER.fullmatch(value) is not None


def shown(value: str) -> str:
    """The value in quotes, or only its length where it may be running text."""
    if len(value) > LONGEST_SHOWN_VALUE or len(value.split()) > 1:
        return f"(a text of {len(value)} characters)"
    return repr(value)


def locate(data_dir: Path, split: str, filenames: Mapping[str, str]) -> Path:
    """The file of a split. Raises UserError that lists what was looked for."""
    wanted = ", ".join(filenames.values())
    if not data_dir.is_dir():
        state = "is a file, not a folder" if data_dir.exists() else "no such folder"
        raise UserError(f"{_one_line(data_dir)}: {state}; looked for a folder that holds {wanted}")
    path = data_dir / filenames[split]
    if not path.is_file():
        missing = {part: name for part, name in filenames.items() if not (data_dir / name).is_file()}
        told = f"looked for {wanted} in that folder, missing: {', '.join(missing.values())}"
        raise UserError(f"{_one_line(path)}: no such file; {told}{_instead(data_dir, missing, filenames)}")
    return path


def _instead(data_dir: Path, missing: Mapping[str, str], filenames: Mapping[str, str]) -> str:
    """What to rename, where another repository's names are there; else what is there at all."""
    other = sorted(
        file.name
        for file in data_dir.iterdir()
        if file.is_file() and file.name.isprintable() and file.name[0] != "." and file.name not in filenames.values()
    )
    text = [Path(name) for name in other if Path(name).suffix.lower() in TEXT_SUFFIXES]
    alike = {part: [str(name) for name in text if name.stem.lower() in SPLIT_NAMES[part]] for part in missing}
    renamed = [f"rename {found[0]} to {missing[part]}" for part, found in alike.items() if len(found) == 1]
    if renamed:
        return "; " + ", ".join(renamed)
    several = "" if len(other) <= MOST_FILES else f" and {len(other) - MOST_FILES} more"
    return f"; found {', '.join(other[:MOST_FILES])}{several}" if other else ""


def iterate_rows(path: Path) -> Iterator[Row]:
    """The lines of a UTF-8 file as rows, one after another, empty ones included; nothing is a quote.

    A byte order mark, CRLF line ends and a last line without an end are accepted. Raises UserError, before the first
    row, for anything that is not UTF-8, NUL bytes and an empty file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{_one_line(path)}: cannot be read ({reason}); check the file and its permissions") from None
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        raise _error(path, 1, "the file is empty", "get the file again")
    if not _is_text(content):
        for _ in _rows(path, content):
            pass  # until the line at fault, which raises
    yield from _rows(path, content)


def _is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in content and LONE_CARRIAGE_RETURN.search(content) is None


def _rows(path: Path, content: bytes) -> Iterator[Row]:
    # Not str.splitlines(): it would also cut at form feeds and at U+2028, which occur inside sentences.
    for number, line in enumerate(BytesIO(content), start=1):
        yield Row(path, number, _decode(path, number, line.removesuffix(b"\n")))


def read_rows(path: Path) -> list[Row]:
    """All of `iterate_rows`."""
    return list(iterate_rows(path))


def read_table(path: Path, columns: int, header: str, is_data: Callable[[Row], bool], more: bool = False) -> list[Row]:
    """The rows of a file with a header, without the header.

    Args:
        columns: how many columns each line has; with `more`, the least, and the header decides.
        header: the header in words, for the error where there is none.
        is_data: tells from the cells of line 1 that it is no header; the names in it are not looked at, since they
            differ between published copies.

    Raises UserError for a missing header, a line with another number of columns, an empty line that is not at the
    end, and a file without examples.
    """
    rows = _rows_to_the_end(path)
    _check_width(rows, max(columns, len(rows[0].cells)) if more else columns, more)
    return _without_header(rows, is_data, f"put a first line '{header}' (tab separated)")


@dataclass(frozen=True)
class Layout:
    """Which columns of a file of the user's own hold what."""

    columns: Mapping[str, str | int]  # index, texts, label -> a name of the header, or a number counted from 1
    header: bool = True  # line 1 names the columns


def read_columns(path: Path, split: str, layout: Layout, is_data: Callable[[Row], bool]) -> list[Row]:
    """The rows of a file, each as its index and then the layout's other columns in order, without the header.

    Where the layout has no column `index`, it is `<split>-<n>`. `is_data` is asked about such a row. Raises UserError
    as `read_table` does, and for a column that is not there.
    """
    rows = _rows_to_the_end(path)
    _check_width(rows, len(rows[0].cells), more=True)
    places = [_place(rows[0], what, column) for what, column in layout.columns.items()]
    chosen = []
    for count, row in enumerate(rows, start=-1 if layout.header else 0):
        index = () if "index" in layout.columns else (f"{split}-{count}",)
        chosen.append(Row(path, row.number, (*index, *(row.cells[place] for place in places))))
    if not layout.header:
        return chosen
    return _without_header(chosen, is_data, "put the names of the columns there, or `header = false` in the task file")


def _place(first: Row, what: str, column: str | int) -> int:
    """Where a column is in a row."""
    remedy = "set it right under [columns] of the task file"
    if isinstance(column, int):
        if column > len(first.cells):
            raise first.error(f"{len(first.cells)} column(s), {what} expected in column {column}", remedy)
        return column - 1
    names = [cell.strip() for cell in first.cells]
    if names.count(column) != 1:
        found = "two columns" if column in names else "no column"
        raise first.error(f"{found} {column!r} ({what}) among {', '.join(map(shown, names))}", remedy)
    return names.index(column)


def _rows_to_the_end(path: Path) -> list[Row]:
    """The lines of a file up to the last one with something in it."""
    rows = read_rows(path)
    while len(rows[-1].cells) == 1 and not rows[-1].cells[0].strip(" "):
        rows.pop()
    return rows


def _check_width(rows: Sequence[Row], width: int, more: bool) -> None:
    for row in rows:
        if len(row.cells) != width:
            wanted = f"{width} columns expected" + (" (as in line 1)" if more and len(rows[0].cells) == width else "")
            found = "empty line" if row.cells == ("",) else f"{len(row.cells)} column(s)"
            raise row.error(f"{found}, {wanted}", "separate columns by one tab and keep tabs and line ends out of them")


def _without_header(rows: Sequence[Row], is_data: Callable[[Row], bool], remedy: str) -> list[Row]:
    first = rows[0]
    if is_data(first) or max(len(cell) for cell in first.cells) > LONGEST_HEADER_CELL:
        raise first.error("the header is missing, this line is data", remedy)
    if len(rows) == 1:
        raise first.error("no examples after the header", "get the file again")
    return list(rows[1:])


def _decode(path: Path, number: int, line: bytes) -> tuple[str, ...]:
    line = line.removesuffix(b"\r")
    if b"\0" in line:
        raise _error(path, number, "NUL byte", "save the file as UTF-8 text")
    if b"\r" in line:
        raise _error(path, number, "carriage return inside the line", "end lines with \\n or \\r\\n only")
    try:
        return tuple(line.decode("utf-8").split("\t"))
    except UnicodeDecodeError as error:
        wrong = f"not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1})"
        raise _error(path, number, wrong, "save the file as UTF-8 text") from None


def _error(path: Path, number: int, wrong: str, remedy: str) -> UserError:
    return UserError(f"{_one_line(path)}:{number}: {wrong}; {remedy}")


def _one_line(path: Path) -> str:
    return str(path).replace("\n", "\\n").replace("\r", "\\r")

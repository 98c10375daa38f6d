"""Files that are no plain tab separated text: what they are and how to make them plain, told from their content alone.

Quoted tables are read: pandas, Excel and R put fields with tabs, line ends or quotes into quotes. In the files of BLUE
a quote is an ordinary character, and sentences may begin with one, so a file counts as quoted only where writing its
fields again by one of those programs' rules gives the same text to the last character.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

__all__ = ["kind_of", "not_a_table", "unquoted"]

AS_TEXT = "save it as UTF-8 text with a tab between columns"
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
BEGINNINGS: Sequence[tuple[bytes, str, str]] = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", f"unpack the archive, or {AS_TEXT} from Excel"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook of the old format", f"{AS_TEXT} from Excel"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it: gunzip, or tar xzf where it is a .tar.gz"),
    (b"BZh", "compressed by bzip2", "unpack it: bunzip2"),
    (b"\xfd7zXZ", "compressed by xz", "unpack it: unxz"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"Rar!", "a rar archive", "unpack it"),
    (b"%PDF", "a PDF document", "put the table itself there"),
    (b"PAR1", "a Parquet file", f"{AS_TEXT}: pandas.read_parquet, then to_csv(path, sep='\\t', index=False)"),
    (b"version https://git-lfs.github.com", "a Git LFS pointer, not the file", "fetch the content: git lfs pull"),
)
UTF16 = (b"\xff\xfe", b"\xfe\xff")
PAGE = re.compile(rb"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)


def kind_of(content: bytes) -> tuple[str, str] | None:
    """(what the file is, what to do with it) where it is nothing that can be cut into lines and columns."""
    for beginning, kind, remedy in BEGINNINGS:
        if content.startswith(beginning):
            return kind, remedy
    head = content[:1000]
    if content.startswith(UTF16) or head.count(b"\0") > len(head) // 4:
        return "not UTF-8 but UTF-16 or UTF-32, or no text at all", "save the file as UTF-8 text"
    if PAGE.match(head):
        return "a web page, not the data", "download the file itself (on GitHub: its raw form)"
    return None


def not_a_table(content: bytes) -> tuple[str, str] | None:
    """The same, and JSON."""
    if content.lstrip()[:1] in (b"{", b"[") and _is_json(content):
        return (
            "JSON, not a table",
            "write its fields as tab separated columns; MedNLI as published is converted by "
            "python launch/prepare.py mednli --source FOLDER --out DIR",
        )
    return kind_of(content)


def _is_json(content: bytes) -> bool:
    """Whether the first line is a JSON object or list, or the whole of it is one."""
    for part in (content.lstrip().split(b"\n", 1)[0], content):
        try:
            if isinstance(json.loads(part), dict | list):
                return True
        except (ValueError, RecursionError):
            pass
    return False


def unquoted(text: str) -> list[tuple[int, tuple[str, ...]]] | None:
    """(number of its first line, fields) of each row of a quoted table; None where quotes are ordinary characters.

    Tabs and line ends inside a field become one blank, so that a field stays one in whatever is written of it.
    """
    if '"' not in text:
        return None
    rows: list[tuple[int, list[str]]] = []
    ends = [0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    try:
        for fields in reader:
            rows.append((ends[-1] + 1, fields))
            ends.append(reader.line_num)
    except csv.Error:
        return None
    lines = text.split("\n")
    # A sentence that begins with a quote and a later one that ends with one would swallow the rows between them.
    if len(rows) < ends[-1] and _is_regular(line.split("\t") for line in lines):
        return None
    raw = ["\n".join(lines[start:end]).removesuffix("\r") for start, end in pairwise(ends)]
    if not _is_regular(row for _, row in rows) or not any(
        all(line == "\t".join(_quoted(one, rule) for one in row) for line, (_, row) in zip(raw, rows, strict=True))
        for rule in RULES
    ):
        return None
    return [(number, tuple(_one_line(one) for one in row) or ("",)) for number, row in rows]


def _is_regular(rows: Iterable[Sequence[str]]) -> bool:
    """Whether all rows that are not empty have the same number of columns."""
    return len({len(row) for row in rows if any(cell.strip() for cell in row)}) == 1


RULES: Sequence[Callable[[str], bool]] = (
    lambda field: any(char in field for char in '\t\n\r"'),  # pandas, csv.writer
    lambda field: any(char in field for char in '\t\n\r",'),  # Excel
    lambda field: NUMBER.fullmatch(field) is None,  # csv.QUOTE_NONNUMERIC
    lambda field: True,
)


def _quoted(field: str, needs_quotes: Callable[[str], bool]) -> str:
    return '"' + field.replace('"', '""') + '"' if needs_quotes(field) else field


def _one_line(field: str) -> str:
    return re.sub(r"[\t\r\n]+", " ", field)

"""Data files in, checked rows out: the one place that opens them; conll.py makes sentences of tagged words of the rows.

Every fault is one line, `path:line: what is wrong (value); what to do`. No sentence of the data may get into it,
because these lines end in logs and the text may be clinical: only short values (a label, a score, a count) are shown.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.task import Example, Task, UserError

PLAIN_FILENAMES: Mapping[str, str] = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}

# The longest column name of a published file has 16 characters; a longer cell in line 1 is a sentence, not a name.
LONGEST_HEADER_CELL = 40
# In lower case, with _ between words. Two of them in line 1 make it a header.
HEADER_NAMES = """
index idx id pair_id pairid pmid docid doc_id document document_id filename file genre year old_index split
source source1 source2 sentence sentence1 sentence2 sentence_1 sentence_2 text text1 text2 text_1 text_2 abstract
passage premise hypothesis label labels gold gold_label class classes category relation relation_type score scores
similarity similarity_score annotation token word offset tag prediction predicted
""".split()  # noqa: SIM905
LONGEST_SHOWN_VALUE = 30
# As other repositories name the same files. A table of .csv is cut at commas, a new name would not make it readable.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "devel", "development", "val", "valid", "validation"),
    "test": ("test", "testing"),
}
TEXT_SUFFIXES = (".tsv", ".txt", ".conll", ".iob", ".bio")
MOST_FILES = 5  # named in an error
NO_EXAMPLES = "put the split's examples there"
SENTENCE_INDEX = re.compile(r"(.+)_s[0-9]+")
# Narrower than float(): no blanks, no "1_000", no "nan", no digits of other scripts.
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

AS_TEXT = "save it as UTF-8 text with a tab between columns"
BEGINNINGS: Sequence[tuple[bytes, str, str]] = (  # of files that are no text, what they are, what to do with them
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
JSON = (
    "JSON, not a table",
    "write its fields as tab separated columns; MedNLI as published is converted by "
    "python launch/prepare.py mednli --source FOLDER --out DIR",
)
NOT_IN_TEXT: Sequence[tuple[re.Pattern[bytes], str, str]] = (
    (re.compile(rb"\0"), "NUL byte", "save the file as UTF-8 text"),
    (re.compile(rb"\r(?!\n|\Z)"), "carriage return inside the line", "end lines with \\n or \\r\\n only"),
)
# Which fields programs put into quotes.
QUOTING_RULES: Sequence[Callable[[str], bool]] = (
    lambda field: any(char in field for char in '\t\n\r"'),  # pandas, csv.writer
    lambda field: any(char in field for char in '\t\n\r",'),  # Excel
    lambda field: NUMBER.fullmatch(field) is None,  # csv.QUOTE_NONNUMERIC
    lambda field: True,
)


class NoExamples(UserError):
    """A split without a single example in its file, or without a file."""


@dataclass(frozen=True)
class Row:
    """One line of a data file, cut at its tabs."""

    path: Path
    number: int  # of the line in the file, counted from 1
    cells: tuple[str, ...] = ()  # one empty cell for an empty line

    @property
    def is_blank(self) -> bool:
        return not "".join(self.cells).strip()

    def error(self, wrong: str, remedy: str, kind: type[UserError] = UserError) -> UserError:
        """The error to raise about this line."""
        return kind(f"{_one_line(self.path)}:{self.number}: {wrong}; {remedy}")

    def text(self, column: int, what: str = "sentence") -> str:
        """The text in a column. Raises UserError where it is empty or white space."""
        if not self.cells[column].strip():
            remedy = f"write the {what} there, or leave the row out and say so where you report scores"
            raise self.error(f"empty {what}", remedy)
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
    """The file of a split. Raises UserError that lists what was looked for; NoExamples where there is no such split."""
    wanted = ", ".join(filenames.values())
    if not data_dir.is_dir():
        state = "is a file, not a folder" if data_dir.exists() else "no such folder"
        raise UserError(f"{_one_line(data_dir)}: {state}; looked for a folder that holds {wanted}")
    if split not in filenames:
        raise NoExamples(f"{_one_line(data_dir)}: the task has no {split} split; name its file under [files]")
    path = data_dir / filenames[split]
    if not path.is_file():
        missing = {part: name for part, name in filenames.items() if not (data_dir / name).is_file()}
        looked = f"looked for {wanted} in that folder, missing: {', '.join(missing.values())}"
        raise UserError(f"{_one_line(path)}: no such file; {looked}{instead(data_dir, missing, filenames)}")
    return path


def instead(data_dir: Path, missing: Mapping[str, str], filenames: Mapping[str, str]) -> str:
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


def _is_json(content: bytes) -> bool:
    """Whether the first line is a JSON object or list, or the whole of it is one."""
    for part in (content.lstrip().split(b"\n", 1)[0], content):
        try:
            if isinstance(json.loads(part), dict | list):
                return True
        except (ValueError, RecursionError):
            pass
    return False


def read_rows(path: Path) -> list[Row]:
    """The lines of a UTF-8 file as rows, empty ones included; nothing is a quote.

    A byte order mark, CRLF line ends and a last line without an end are accepted. Raises UserError for anything that is
    not UTF-8, NUL bytes and an empty file.
    """
    return _rows(path, _text(path))


def _rows(path: Path, text: str) -> list[Row]:
    # Not str.splitlines(): it would also cut at form feeds and at U+2028, which occur inside sentences.
    lines = enumerate(text.removesuffix("\n").split("\n"), start=1)
    return [Row(path, number, tuple(line.removesuffix("\r").split("\t"))) for number, line in lines]


def _text(path: Path) -> str:
    """The content of a text file without its byte order mark."""
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{_one_line(path)}: cannot be read ({reason}); check the file and its permissions") from None
    if not content.strip():
        raise Row(path, 1).error("the file is empty", NO_EXAMPLES, NoExamples)
    kind = JSON if content.lstrip()[:1] in (b"{", b"[") and _is_json(content) else kind_of(content)
    if kind is not None:
        raise Row(path, 1).error(*kind)
    faults = [(at.start(), wrong, remedy) for pattern, wrong, remedy in NOT_IN_TEXT if (at := pattern.search(content))]
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        position = error.start - content.rfind(b"\n", 0, error.start)
        wrong = f"not UTF-8 (byte 0x{content[error.start]:02x} at position {position})"
        remedy = "save the file as UTF-8 text (if it is Latin-1: iconv -f WINDOWS-1252 -t UTF-8)"
        faults.append((error.start, wrong, remedy))
    if faults:
        start, wrong, remedy = min(faults)
        raise Row(path, content.count(b"\n", 0, start) + 1).error(wrong, remedy)
    return text


def read_table(path: Path) -> list[Row]:
    """The lines of a table up to the last one with something in it; quotes are gone where the whole file is quoted."""
    text = _text(path)
    unquoted = _unquoted(text)
    rows = _rows(path, text) if unquoted is None else [Row(path, *one) for one in unquoted]
    if unquoted is None and all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in rows[0].cells):
        wrong = "fields are in quotes, but not throughout as pandas, Excel or csv write them"
        raise rows[0].error(wrong, "write the file without quotes (R: quote = FALSE; pandas: quoting=3)")
    while len(rows[-1].cells) == 1 and not rows[-1].cells[0].strip(" "):
        rows.pop()
    return rows


def _unquoted(text: str) -> list[tuple[int, tuple[str, ...]]] | None:
    """(number of its first line, fields) of each row of a quoted table; None where quotes are ordinary characters.

    pandas, Excel and R put fields with tabs, line ends or quotes into quotes. In the files of BLUE a quote is an
    ordinary character, and sentences may begin with one, so a file counts as quoted only where writing its fields again
    by one of those programs' rules gives the same text to the last character. Tabs and line ends inside a field become
    one blank, so that a field stays one in whatever is written of it.
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

    def written(fields: list[str], rule: Callable[[str], bool]) -> str:
        return "\t".join('"' + one.replace('"', '""') + '"' if rule(one) else one for one in fields)

    if not _is_regular(fields for _, fields in rows) or not any(
        all(line == written(fields, rule) for line, (_, fields) in zip(raw, rows, strict=True))
        for rule in QUOTING_RULES
    ):
        return None
    return [(number, tuple(re.sub(r"[\t\r\n]+", " ", one) for one in fields) or ("",)) for number, fields in rows]


def _is_regular(rows: Iterable[Sequence[str]]) -> bool:
    """Whether all rows that are not empty have the same number of columns."""
    return len({len(row) for row in rows if any(cell.strip() for cell in row)}) == 1


@dataclass(frozen=True)
class Format:
    """One of BLUE's own formats of tables; whether line 1 is a header is recognised. Columns are counted from 0, those
    below 0 from the last one."""

    header: str  # in words; the target is a label or a score
    index: int  # where there is one column more than texts and target
    texts: tuple[int, ...]
    target: int
    least: int  # columns
    most: int | None  # columns; None: others may stand before the last ones


FORMATS: Mapping[str, Format] = {
    "blue-pairs": Format("index sentence1 sentence2 {target}", 0, (-3, -2), -1, least=3, most=None),
    "blue-relations": Format("index sentence {target}", 0, (-2,), -1, least=2, most=3),
    "blue-documents": Format("{target} sentence index", 2, (1,), 0, least=3, most=3),  # every index is <document>_s<n>
}


@dataclass(frozen=True)
class Layout:
    """Which columns of a split's file hold what."""

    split: str
    columns: Mapping[str, str | int]  # index, texts, target -> a name of the header, or a number from 1
    headers: Mapping[str, bool]  # of the files of all splits: line 1 names the columns
    target: str  # what is to be predicted: label, labels or score
    format: str | None = None  # in place of columns and headers: of FORMATS

    @property
    def has_pairs(self) -> bool:
        """Whether each row has two texts."""
        return "sentence2" in self.columns if self.format is None else len(FORMATS[self.format].texts) == 2

    def other_header(self) -> str:
        """What to write where it is the other way round in this file."""
        values = {**self.headers, self.split: not self.headers[self.split]}
        return f"`header = {{ {', '.join(f'{name} = {str(value).lower()}' for name, value in values.items())} }}`"


def read_columns(path: Path, layout: Layout, is_value: Callable[[str], bool]) -> list[Row]:
    """The rows of a file, each as its index, its texts and its target, without the header.

    Where the file has no index, it is `<split>-<n>`. `is_value`: whether a cell can be a target. Raises UserError for a
    header that is not as the layout says, a column that is not there, a line with another number of columns, an empty
    line that is not at the end, and a file without examples.
    """
    rows = read_table(path)
    if layout.format is not None:
        form = FORMATS[layout.format]
        has_header = _recognise_header(rows, form, layout.target, is_value)
        has_index = len(rows[0].cells) > len(form.texts) + 1
        places = [*([form.index] if has_index else []), *form.texts, form.target]
    else:
        _check_width(rows)
        _check_header(rows, layout, is_value)
        has_header, has_index = layout.headers[layout.split], "index" in layout.columns
        places = [_place(rows[0], layout.split, what, column) for what, column in layout.columns.items()]
    if has_header and len(rows) == 1:
        raise rows[0].error("no examples after the header", NO_EXAMPLES, NoExamples)
    body, target = rows[has_header:], places[-1]
    has_target = layout.format is not None or any(is_value(row.cells[target]) for row in body)
    if not has_target and (fitting := " or ".join(map(str, _value_columns(body, is_value)))):
        wrong = f"column {target + 1} holds no label or score in any row, column {fitting} does"
        remedy = f"set the numbers right, for this file alone under [columns.{layout.split}] of the task file"
        raise body[0].error(wrong, remedy)
    chosen = []
    for count, row in enumerate(body):
        index = () if has_index else (f"{layout.split}-{count}",)
        chosen.append(Row(path, row.number, (*index, *(row.cells[place] for place in places))))
    return chosen


def _recognise_header(rows: Sequence[Row], form: Format, target: str, is_value: Callable[[str], bool]) -> bool:
    """Whether line 1 is a header: by the names in it, which differ between published copies.

    A line 1 that may be either is an error, so that no row is lost and no header is counted.
    """
    first, header = rows[0], form.header.format(target=target)
    width = len(first.cells)
    if width < form.least or (form.most is not None and width > form.most):
        upper = "" if form.most == form.least else " or more" if form.most is None else f" to {form.most}"
        wrong = f"{width} column(s), {form.least}{upper} columns expected ({header})"
        raise first.error(wrong, _width_remedy(rows, form.least))
    _check_width(rows)
    has_document = form.index > 0 and SENTENCE_INDEX.fullmatch(first.cells[form.index]) is not None
    if is_value(first.cells[form.target]) or has_document or not _is_short(first):
        return False
    if not _has_names(first):
        wrong = "neither a header with names that are known nor a row with a known label or score"
        raise first.error(wrong, f"if it is a header, write '{header}' (tab separated), else set its last column right")
    return True


def _check_header(rows: Sequence[Row], layout: Layout, is_value: Callable[[str], bool]) -> None:
    """Raises UserError where line 1 is not what the task file says it is."""
    first, split, target = rows[0], layout.split, list(layout.columns.values())[-1]
    has_value = any(map(is_value, first.cells))
    if layout.headers[split]:
        names = [cell.strip() for cell in first.cells]
        if any(column in names for column in layout.columns.values()):
            return
        by_number = isinstance(target, int) and target <= len(names)
        is_data = is_value(first.cells[int(target) - 1]) if by_number else has_value and not _has_names(first)
        if is_data or not _is_short(first):
            remedy = f"write {layout.other_header()}, and its columns by number under [columns.{split}]"
            raise first.error("the header is missing, this line is data, and the task file says header = true", remedy)
    elif not has_value and _is_short(first) and (_has_names(first) or _value_columns(rows[1:], is_value)):
        named = ", ".join(cell if _is_name(cell) else shown(cell) for cell in first.cells)
        remedy = f"write {layout.other_header()}, and its columns under [columns.{split}] if they are others"
        raise first.error(f"has a header ({named}), the task file says header = false", remedy)


def _value_columns(rows: Sequence[Row], is_value: Callable[[str], bool]) -> list[int]:
    """The numbers, from 1, of the columns that hold a label or score in every row."""
    columns = zip(*(row.cells for row in rows), strict=True)
    return [number for number, column in enumerate(columns, start=1) if all(map(is_value, column))]


def _place(first: Row, split: str, what: str, column: str | int) -> int:
    """Where a column is in a row."""
    remedy = f"set it right under [columns] of the task file, for this file alone under [columns.{split}]"
    if isinstance(column, int):
        if column > len(first.cells):
            raise first.error(f"{len(first.cells)} column(s), {what} expected in column {column}", remedy)
        return column - 1
    names = [cell.strip() for cell in first.cells]
    if names.count(column) != 1:
        found = "two columns" if column in names else "no column"
        raise first.error(f"{found} {column!r} ({what}) among {', '.join(map(shown, names))}", remedy)
    return names.index(column)


def _check_width(rows: Sequence[Row]) -> None:
    """Raises UserError for a line with other columns than line 1."""
    width = len(rows[0].cells)
    for row in rows:
        if len(row.cells) != width:
            found = "empty line" if row.cells == ("",) else f"{len(row.cells)} column(s)"
            raise row.error(f"{found}, {width} columns expected (as in line 1)", _width_remedy(rows, width))


def _width_remedy(rows: Sequence[Row], columns: int) -> str:
    """What to do about a number of columns, by what the lines look like."""
    lines = ["\t".join(row.cells) for row in rows if row.cells != ("",)]
    for sign, name in ((",", "commas"), (";", "semicolons"), ("|", "|")):
        if not any("\t" in line for line in lines) and all(line.count(sign) >= columns - 1 for line in lines):
            option = "" if sign == "," else f", sep='{sign}'"
            writing = f"pandas.read_csv(file{option}).to_csv(other, sep='\\t', index=False)"
            return f"columns are separated by {name} here: write it with tabs, such as by {writing}"
    if len({len(row.cells) for row in rows[1:]}) == 1 and len(rows[1].cells) == len(rows[0].cells) + 1:
        return "give the first column a name in line 1, or remove it from the rows"
    if rows[0].cells[0] == "" and len(rows[0].cells) > columns:
        return "the first column has no name: remove it (pandas writes row numbers there without index=False)"
    if any(row.cells == ("",) for row in rows):
        return "remove the empty line, or join it to the line above where a text was broken in two"
    if any('"' in line for line in lines):
        return "separate columns by one tab; quotes are ordinary characters: keep tabs and line ends out of the texts"
    return "separate columns by one tab and keep tabs and line ends out of them"


def _is_short(first: Row) -> bool:
    return max(len(cell) for cell in first.cells) <= LONGEST_HEADER_CELL


def _is_name(cell: str) -> bool:
    return re.sub(r"[\s.-]+", "_", cell.strip().lower()) in HEADER_NAMES


def _has_names(first: Row) -> bool:
    """Whether line 1 is a header: two of its cells, or the only one, are names that columns have."""
    return sum(map(_is_name, first.cells)) >= min(2, len(first.cells))


def _one_line(path: Path) -> str:
    return str(path).replace("\n", "\\n").replace("\r", "\\r")


class TableTask(Task):
    """A task whose files are tables: what its families have in common."""

    def read(self, data_dir: Path, split: str) -> list[Example]:
        rows = read_columns(locate(data_dir, split, self.filenames), self.layout(split), self.is_label)
        return [
            Example(row.text(0, "index"), tuple(map(row.text, range(1, len(row.cells) - 1))), self.label_of(row, -1))
            for row in rows
        ]

    def is_label(self, cell: str) -> bool:
        """Whether a cell is meant as a label, though perhaps not as `label_of` has it."""
        raise NotImplementedError

    def label_of(self, row: Row, column: int) -> Any:
        """The label in a column. Raises UserError."""
        raise NotImplementedError

    def group_of(self, row: Row) -> str:
        """Example.group, by the index in the first column. Raises UserError."""
        return ""

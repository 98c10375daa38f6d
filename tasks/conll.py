"""Files of words and tags: one word a line, an empty line after each sentence, no header (the form of CoNLL 2003)."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

from harness.task import Example, UserError
from tasks import schemes
from tasks.schemes import Evidence, Tag
from tasks.tables import Row, iterate_rows, shown

__all__ = ["BLUE", "LONGEST_SENTENCE", "Form", "cut", "read_sentences", "recognise"]

LONGEST_SENTENCE = 30  # words; the published scores are of sentences cut to this
DOCUMENT = re.compile(r"-DOCSTART-(\s|$)")  # stands before each document in files made after CoNLL 2003
HASHES = re.compile(r"#+ ?[A-Za-z_]*")  # how a line that is a comment begins
A_FEW = 5  # lines that tell what a file's lines are like
BLUE_COLUMNS = ("token", "document", "offset", "tag")

logger = logging.getLogger("harness.tasks")


@dataclass(frozen=True)
class Form:
    """How such a file is written. Columns are counted from 0."""

    word: int
    tag: int
    columns: tuple[str, ...] = ()  # all columns, of the ten tasks; (): a custom task, as many as the first line has
    blanks: bool = False  # columns are separated by white space; else by tabs
    comment: str | None = None  # lines that start so are skipped
    kinds: tuple[str, ...] = ()  # types of mention, as in B-<type>
    ignored: tuple[str, ...] = ()  # types that count as O
    plain: bool = True  # tags without a type, too
    scheme: str = "IOB2"  # of schemes.SCHEMES; auto: recognised from the files
    longest: int = LONGEST_SENTENCE  # words; longer sentences are cut

    @cached_property
    def tags(self) -> Mapping[str, Tag]:
        """All that may be there."""
        return schemes.vocabulary(self.scheme, self.kinds, self.ignored, self.plain)

    @property
    def is_custom(self) -> bool:
        """Whether a task file says how it is."""
        return not self.columns

    @property
    def usual_tags(self) -> str:
        """What to use, in words."""
        typed = [f"{letter}-{kind}" for kind in (*self.kinds, *self.ignored) for letter in "BI"]
        return ", ".join([*("BIO" if self.plain else "O"), *typed])

    def tag_of(self, row: Row, column: int) -> Tag:
        """The tag in a column. Raises UserError where it is none."""
        found = self.tags.get(row.cells[column])
        if found is None:
            raise row.error(f"unknown label {shown(row.cells[column])}", self._remedy(row.cells[column]))
        return found

    def _remedy(self, tag: str) -> str:
        kind, known = schemes.kind_of(tag), (*self.kinds, *self.ignored)
        listed = f"use one of {self.usual_tags}"
        if kind in known or (kind is None and self.plain and tag in schemes.SCHEMES["auto"]):
            if self.is_custom:
                return f"that is not of scheme {self.scheme}; leave `scheme` out of the task file: it is recognised"
            return f"{listed}: write S, U and W as B; E, L and M as I"
        if not self.is_custom:
            return listed + ("; take this task's files, or write O for mentions of another type" if kind else "")
        if kind is None and tag in schemes.SCHEMES["auto"]:
            return "tags here have no type; leave `labels` and `ignored` out of the task file"
        if kind is not None and not known:
            return f"list the type of mention in the task file: labels = [{shown(kind)}]"
        if kind is not None:
            return (
                f"{listed}; or list the type under `ignored` of the task file, where it counts as O, or under "
                "`labels` with collapse_types = true"
            )
        return f"{listed}; or set right under [columns] of the task file in which column the tags are"


BLUE = Form(0, 3, BLUE_COLUMNS)
NONE: Mapping[Path, Form] = {}


def read_sentences(path: Path, split: str, form: Form = BLUE, others: Mapping[Path, Form] = NONE) -> list[Example]:
    """Sentences of words and tags B, I and O, whatever the file's scheme.

    A sentence of more than `form.longest` words becomes several examples of one group, see `cut`. `others` are the
    files of the task's other splits: in all of them an I after O means the same. Raises UserError for a
    header, a missing column, an empty word, an unknown tag and files of schemes that contradict each other.
    """
    if not form.is_custom:
        form = _as_published(path, form)
    evidence = Evidence()
    sentences = list(_tagged(path, form, evidence))
    if not sentences:
        raise Row(path, 1, ()).error("no examples, only empty lines and comments", "get the file again")
    i_begins = recognise(path, form, evidence, others)
    examples: list[Example] = []
    for number, (words, marked) in enumerate(sentences):
        group = f"{split}-{number}"
        tags = schemes.plain_tags(marked, i_begins)
        pieces = cut(tags, form.longest)
        for count, (start, end) in enumerate(pieces):
            name = group if len(pieces) == 1 else f"{group}.{count}"
            examples.append(Example(name, tuple(words[start:end]), tuple(tags[start:end]), group))
    return examples


def _tagged(path: Path, form: Form, evidence: Evidence) -> Iterator[tuple[list[str], list[Tag]]]:
    for sentence in _sentences(path, form):
        tags = [form.tags[row.cells[form.tag]] for row in sentence]
        evidence.add(tags, [row.number for row in sentence])
        yield [row.cells[form.word] for row in sentence], tags


def recognise(path: Path, form: Form, evidence: Evidence, others: Mapping[Path, Form] = NONE) -> bool:
    """Whether an I that has no mention to go on with begins one. Says what was recognised.

    Raises UserError where the file and one of the `others` contradict each other.
    """
    if form.scheme != "auto":
        return form.scheme in ("IOB1", "IO") and evidence.headless > 0  # no such I in gold: our own predictions file
    if evidence.headless:
        _check_others(path, evidence, others)
    scheme = evidence.scheme()
    if evidence.is_mixed:
        logger.warning(
            "tags    %s: %d tags I after O or another type, where mentions begin with B; the first in %s:%d. Each is "
            'a part of the mention before, as BLUE counts disjoint ones (scheme = "IOB1": begins a mention)',
            path.name,
            evidence.headless,
            path,
            evidence.first_headless,
        )
    if evidence.is_iob1:  # a guess, if a safe one
        logger.warning("tags    %s in %s: read as IOB2, an I after O begins a mention", scheme, path.name)
    elif scheme != "IOB2":
        logger.info("tags    %s in %s: read as IOB2", scheme, path.name)
    return evidence.is_iob1


def _check_others(path: Path, evidence: Evidence, others: Mapping[Path, Form]) -> None:
    """An I after O means the same in all files of a task."""
    for other, form in others.items():
        theirs = Evidence()
        try:
            for _ in _tagged(other, form, theirs):
                pass
        except UserError:  # it is told where that file is read
            continue
        if (evidence.is_iob1 and theirs.is_mixed) or (evidence.is_mixed and theirs.is_iob1):
            clear, unclear, first = path, other, theirs.first_headless
            if evidence.is_mixed:
                clear, unclear, first = other, path, evidence.first_headless
            raise Row(unclear, first, ()).error(
                f"I after O in a file where mentions begin with B, while in {clear.name} they begin with I",
                'write scheme = "IOB1" into the task file where such an I begins a mention, scheme = "IOB2" where it '
                "is a part of the one before",
            )


def _as_published(path: Path, form: Form) -> Form:
    """BLUE's four columns, or the word and its tag alone, as other repositories publish the same files."""
    lines = [row.cells for row in islice(_lines(path, form), A_FEW)]
    lines.reverse()  # of two that differ, the first may be a header
    widths = Counter((len(cells), len(cells[0].split()) if len(cells) == 1 else 0) for cells in lines)
    by_tabs, by_blanks = widths.most_common(1)[0][0] if widths else (0, 0)
    if 2 in (by_tabs, by_blanks):
        return replace(form, tag=1, columns=("token", "tag"), blanks=by_blanks == 2)
    return form


def _lines(path: Path, form: Form) -> Iterator[Row]:
    """The lines of words, cut into columns."""
    for row in iterate_rows(path):
        if not _is_skipped(row, form) and not _is_end(row):
            yield _cut_at_blanks(row) if form.blanks else row


def _cut_at_blanks(row: Row) -> Row:
    return replace(row, cells=tuple(" ".join(row.cells).split()))


def _is_skipped(row: Row, form: Form) -> bool:
    is_comment = form.comment is not None and row.cells[0].startswith(form.comment)
    return is_comment or DOCUMENT.match(row.cells[0]) is not None


def _is_end(row: Row) -> bool:
    """Whether the line ends a sentence."""
    return not any(cell.strip() for cell in row.cells)


def _sentences(path: Path, form: Form) -> Iterator[list[Row]]:
    sentence: list[Row] = []
    width = len(form.columns)
    is_first = True
    for row in iterate_rows(path):
        if _is_skipped(row, form):
            continue
        if _is_end(row):
            if sentence:
                yield sentence
            sentence = []
            continue
        if form.blanks:
            row = _cut_at_blanks(row)
        width = width or len(row.cells)
        _check(row, form, width, is_first)
        is_first = False
        sentence.append(row)
    if sentence:  # the file may end without an empty line
        yield sentence


def _check(row: Row, form: Form, width: int, is_first: bool) -> None:
    if row.cells[0].startswith("#") and not _is_like_a_tag(_last(row, form), form):
        raise _without_tag(row, form)
    if width <= max(form.word, form.tag):
        wanted = f"the word in column {form.word + 1}, its tag in column {form.tag + 1}"
        raise row.error(f"{len(row.cells)} column(s), {wanted} expected", _columns_remedy(row, form))
    if is_first and _is_header(row, form):
        wrong = f"a header where none belongs (its tag {shown(_last(row, form))})"
        raise row.error(wrong, f"remove the line; the file starts with the first word, tags are {form.usual_tags}")
    if len(row.cells) != width:
        named = f"{width} expected ({', '.join(form.columns)})" if form.columns else f"{width} expected (as above)"
        raise row.error(f"{len(row.cells)} column(s), {named}", _columns_remedy(row, form))
    if not row.cells[form.word].strip():
        raise row.error("empty word", "give the word or remove the line")
    form.tag_of(row, form.tag)


def _columns_remedy(row: Row, form: Form) -> str:
    if form.is_custom and not form.blanks and len(_cut_at_blanks(row).cells) > max(form.word, form.tag):
        return 'write separator = "blanks" into the task file, or set right under [columns] where word and tag are'
    remedy = f"separate columns by {'blanks' if form.blanks else 'one tab'} and sentences by an empty line"
    return f"{remedy}; see [columns] of the task file" if form.is_custom else remedy


def _without_tag(row: Row, form: Form) -> UserError:
    found = HASHES.match(" ".join(row.cells))
    start = repr(found.group().rstrip()) if found else "'#'"
    remedy = f"write comment = {start} into the task file" if form.is_custom else "remove them"
    return row.error(f"no tag in a line that starts with {start}", f"where such lines are comments, {remedy}")


def _is_header(row: Row, form: Form) -> bool:
    """Whether the first line alone has no tag: to remove a word's line would be wrong advice."""
    if len(row.cells) == 1 or _is_like_a_tag(_last(row, form), form):
        return False
    later = (other for other in _lines(row.path, form) if other.number > row.number)
    found = [_is_like_a_tag(_last(other, form), form) for other in islice(later, A_FEW)]
    return sum(found) * 2 >= len(found)


def _last(row: Row, form: Form) -> str:
    """The tag; of a line that is too short, the last cell."""
    return row.cells[min(form.tag, len(row.cells) - 1)]


def _is_like_a_tag(cell: str, form: Form) -> bool:
    return cell in form.tags or cell in schemes.SCHEMES["auto"] or schemes.kind_of(cell) is not None


def cut(tags: Sequence[str], longest: int = LONGEST_SENTENCE) -> list[tuple[int, int]]:
    """Where to cut a sentence: (start, end) of its pieces, at most `longest` words each.

    As long as more words than that are left, the next piece ends with the last O among the first `longest` words;
    without any O there, it is one word. So a mention longer than 30 words comes out as single words, as in the
    original, whose published scores rest on it.
    """
    pieces = []
    start = 0
    while len(tags) - start > longest:
        outside = [index for index in range(start, start + longest) if tags[index] == "O"]
        end = outside[-1] + 1 if outside else start + 1
        pieces.append((start, end))
        start = end
    return [*pieces, (start, len(tags))]

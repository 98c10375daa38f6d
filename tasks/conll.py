"""Files of words and tags: one word a line, an empty line after each sentence, no header (the form of CoNLL 2003).

A tag scheme is how a file spells where its mentions begin and end; from each there is a way to B, I and O.

    IOB2          B begins a mention, I goes on with it: what everything else here works on
    IOB1          I begins it too; B only where it touches the one before. IO has no B at all
    BIOES, IOBES  E is its last word, S a mention of one word. BMES, BMEWO: M for I, W for S
    BILOU         L is its last word, U a mention of one word

By its letter alone a tag begins a mention (B S U W) or goes on with one (I E L M). Only of an I that has no mention
to go on with, after O or another type, the schemes say different things: in IOB1 it begins a mention, in IOB2 it is
a part of the one before (a disjoint mention, as BLUE counts them). The whole file tells which is meant. Where a task
is scored as seqeval does it always begins one, as conlleval reads it (CoNLL 2000).
"""

from __future__ import annotations

import logging
import re
from bisect import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

from harness.task import UserError
from tasks.readers import Row, read_rows, shown

LONGEST_SENTENCE = 30  # words; the published scores are of sentences cut to this
BEGINNING, GOING_ON, LAST = "BSUW", "IELM", "ESLUW"
SCHEMES = {"auto": BEGINNING + GOING_ON, "IOB1": "BI", "IOB2": "BI", "BIOES": "BIESMW", "BILOU": "BILU", "IO": "I"}
TYPED = re.compile(rf"[{BEGINNING}{GOING_ON}]-(\S+)")
DOCUMENT = r"-DOCSTART-(\s|$)"  # stands before each document in files made after CoNLL 2003
HASHES = re.compile(r"#+ ?[A-Za-z_]*")  # how a line that is a comment begins
MOST_TYPES = 4  # named in an error
A_FEW = 5  # lines that tell what a file's lines are like

logger = logging.getLogger("harness.tasks")


class Tag(NamedTuple):
    """One word's tag."""

    letter: str  # of the scheme; or O
    kind: str = ""  # type of mention; "" where tags are letters alone
    counts: bool = True  # False: a type that the task ignores

    def continues(self, before: Tag) -> bool:
        """Whether it goes on with the mention of the tag before."""
        return before.letter not in "O" + LAST and before.kind == self.kind

    def is_headless(self, before: Tag) -> bool:
        """Whether it goes on with a mention, and there is none of its type."""
        return self.letter in GOING_ON and not self.continues(before)


OUTSIDE = Tag("O")


def vocabulary(scheme: str, kinds: Sequence[str], ignored: Sequence[str], plain: bool) -> dict[str, Tag]:
    """Every tag that a file of the scheme may hold. `plain`: letters alone are tags too."""
    letters = SCHEMES[scheme]
    tags = {"O": OUTSIDE}
    for kind in (*kinds, *ignored):
        counts = kind not in ignored
        if scheme in ("auto", "IO") and kind not in tags and kind not in SCHEMES["auto"]:
            tags[kind] = Tag("I", kind, counts)  # IO is written without its I, too
        tags |= {f"{letter}-{kind}": Tag(letter, kind, counts) for letter in letters}
    return tags | ({letter: Tag(letter) for letter in letters} if plain else {})


@dataclass
class Evidence:
    """What a file's tags say about its scheme."""

    letters: set[str] = field(default_factory=set)
    b_starts: int = 0  # mentions that begin with B (S, U, W) after O or at the start of a sentence: IOB1 has none
    headless: int = 0  # I's (E, L, M) without a mention to go on with
    first_headless: int = 0  # its line

    def add(self, tags: Sequence[Tag], lines: Sequence[int]) -> None:
        """A sentence's tags, and in which lines they are."""
        before = OUTSIDE
        for tag, line in zip(tags, lines, strict=True):
            self.letters.add(tag.letter)
            if tag.letter in BEGINNING:
                self.b_starts += before.letter == "O"
            elif tag.is_headless(before):
                self.headless += 1
                self.first_headless = self.first_headless or line
            before = tag

    @property
    def is_iob1(self) -> bool:
        """Mentions begin with I, and none with B but where it touches another one. In IOB2 the first has a B."""
        return self.headless > 0 and not self.b_starts

    @property
    def is_mixed(self) -> bool:
        """Mentions begin with B, yet some I has none to go on with."""
        return self.headless > 0 and self.b_starts > 0

    def scheme(self) -> str:
        """Its name, for people."""
        if self.letters & set("LU"):
            return "BILOU"
        if self.letters & set("MW"):
            return "BMES"
        if self.letters & set("ES"):
            return "BIOES" if self.letters & set("BS") else "IOE"
        if not self.is_iob1:
            return "IOB2"
        return "IOB1" if "B" in self.letters else "IO"


def plain_tags(tags: Sequence[Tag], i_begins: bool, typed: bool = False) -> list[str]:
    """B, I and O of a sentence. `i_begins`: an I without a mention to go on with begins one; else it stays an I.

    `typed`: B-<type>, I-<type> and O.
    """
    found = []
    before = OUTSIDE
    for tag in tags:
        begins = tag.letter in BEGINNING or (i_begins and not tag.continues(before))
        letter = "O" if tag.letter == "O" or not tag.counts else "B" if begins else "I"
        found.append(f"{letter}-{tag.kind}" if typed and letter != "O" else letter)
        before = tag
    return found


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
    typed: bool = False  # several types are told apart
    repairs: bool = False  # an I without a mention to go on with always begins one, as conlleval reads it
    scheme: str = "IOB2"  # of SCHEMES; auto: recognised from the files
    longest: int = LONGEST_SENTENCE  # words; longer sentences are cut

    @cached_property
    def tags(self) -> Mapping[str, Tag]:
        """All that may be there."""
        return vocabulary(self.scheme, self.kinds, self.ignored, self.plain)

    @property
    def is_custom(self) -> bool:
        """Whether a task file says how it is."""
        return not self.columns

    @property
    def usual_tags(self) -> str:
        """What to use, in words."""
        typed = [f"{letter}-{kind}" for kind in (*self.kinds, *self.ignored)[:MOST_TYPES] for letter in "BI"]
        typed += ["..."] if len(self.kinds) + len(self.ignored) > MOST_TYPES else []
        return ", ".join([*("BIO" if self.plain else "O"), *typed])

    def is_like_a_tag(self, row: Row) -> bool:
        """Whether the cell of the tag, or the last one of a line that is too short, holds one of any scheme or type."""
        cell = self.tag_cell(row)
        return cell in self.tags or cell in SCHEMES["auto"] or TYPED.fullmatch(cell) is not None

    def tag_cell(self, row: Row) -> str:
        return row.cells[min(self.tag, len(row.cells) - 1)]

    def tag_of(self, row: Row, column: int) -> Tag:
        """The tag in a column. Raises UserError where it is none."""
        found = self.tags.get(row.cells[column])
        if found is None:
            raise row.error(f"unknown label {shown(row.cells[column])}", self._remedy(row.cells[column]))
        return found

    def _remedy(self, tag: str) -> str:
        typed, known = TYPED.fullmatch(tag), (*self.kinds, *self.ignored)
        kind, is_letter = typed and typed[1], tag in SCHEMES["auto"]
        listed = f"use one of {self.usual_tags}"
        if kind in known or (kind is None and self.plain and is_letter):
            if self.is_custom:
                return f"that is not of scheme {self.scheme}; leave `scheme` out of the task file: it is recognised"
            return f"{listed}: write S, U and W as B; E, L and M as I"
        if not self.is_custom:
            return listed + ("; take this task's files, or write O for mentions of another type" if kind else "")
        if kind is None:
            if is_letter:
                return "tags here have no type; leave `labels` and `ignored` out of the task file"
            return f"{listed}; or set right under [columns] of the task file in which column the tags are"
        if not known:
            return f"list the type of mention in the task file: labels = [{shown(kind)}]"
        return f"{listed}; or list the type under `ignored` of the task file, where it counts as O, or under `labels`"


BLUE = Form(0, 3, ("token", "document", "offset", "tag"))
NONE: Mapping[Path, Form] = {}


def tagged_sentences(path: Path, form: Form, evidence: Evidence) -> list[tuple[list[str], list[Tag], str]]:
    """The words and the tags of each sentence, and its document where the file says it; the tags are added to
    `evidence`.

    Raises UserError for a header, a missing column, an empty word and an unknown tag.
    """
    skipped = re.compile(DOCUMENT if form.comment is None else f"{DOCUMENT}|{re.escape(form.comment)}")
    rows = read_rows(path)
    begins = [row.number for row in rows if re.match(DOCUMENT, row.cells[0])]
    rows = [row for row in rows if skipped.match(row.cells[0]) is None]
    if not form.is_custom:
        form = _as_published(rows, form)
    if form.blanks:
        rows = [replace(row, cells=tuple(" ".join(row.cells).split())) for row in rows]
    lines = [row for row in rows if not row.is_blank]
    if not lines:
        raise Row(path, 1).error("no examples, only empty lines and comments", "get the file again")
    for row in lines:
        _check(row, form, lines)
    sentences, document = [], ""
    for is_blank, block in groupby(rows, key=lambda row: row.is_blank):
        if not is_blank:
            sentence = list(block)
            tags = [form.tags[row.cells[form.tag]] for row in sentence]
            evidence.add(tags, [row.number for row in sentence])
            if "document" not in form.columns:
                document = str(bisect(begins, sentence[0].number) or "")
            elif (name := sentence[0].cells[form.columns.index("document")]) != "-":  # else of the one before
                document = name
            sentences.append(([row.cells[form.word] for row in sentence], tags, document))
    return sentences


def _as_published(rows: Sequence[Row], form: Form) -> Form:
    """BLUE's four columns, or the word and its tag alone, as other repositories publish the same files."""
    cells = [row.cells for row in islice((row for row in rows if not row.is_blank), A_FEW)]
    cells.reverse()  # of two that differ, the first may be a header
    widths = Counter((len(one), len(one[0].split()) if len(one) == 1 else 0) for one in cells)
    by_tabs, by_blanks = widths.most_common(1)[0][0] if widths else (0, 0)
    if 2 in (by_tabs, by_blanks):
        return replace(form, tag=1, columns=("token", "tag"), blanks=by_blanks == 2)
    return form


def _check(row: Row, form: Form, lines: Sequence[Row]) -> None:
    """Raises UserError where a line is none of a word and its tag; `lines` are all of the file."""
    width = len(form.columns or lines[0].cells)
    if row.cells[0].startswith("#") and not form.is_like_a_tag(row):
        found = HASHES.match(" ".join(row.cells))
        start = repr(found.group().rstrip()) if found else "'#'"
        remedy = f"write comment = {start} into the task file" if form.is_custom else "remove them"
        raise row.error(f"no tag in a line that starts with {start}", f"where such lines are comments, {remedy}")
    if width <= max(form.word, form.tag):
        wanted = f"the word in column {form.word + 1}, its tag in column {form.tag + 1}"
        raise row.error(f"{len(row.cells)} column(s), {wanted} expected", _columns_remedy(row, form))
    if row is lines[0] and len(row.cells) > 1 and not form.is_like_a_tag(row):
        # A header only where the lines below have tags: to remove a word's line would be wrong advice.
        below = [form.is_like_a_tag(other) for other in lines[1 : A_FEW + 1]]
        if sum(below) * 2 >= len(below):
            wrong = f"a header where none belongs (its tag {shown(form.tag_cell(row))})"
            raise row.error(wrong, f"remove the line; the file starts with the first word, tags are {form.usual_tags}")
    if len(row.cells) != width:
        named = f"{width} expected ({', '.join(form.columns)})" if form.columns else f"{width} expected (as above)"
        raise row.error(f"{len(row.cells)} column(s), {named}", _columns_remedy(row, form))
    if not row.cells[form.word].strip():
        raise row.error("empty word", "give the word or remove the line")
    form.tag_of(row, form.tag)


def _columns_remedy(row: Row, form: Form) -> str:
    if form.is_custom and not form.blanks and len(" ".join(row.cells).split()) > max(form.word, form.tag):
        return 'write separator = "blanks" into the task file, or set right under [columns] where word and tag are'
    remedy = f"separate columns by {'blanks' if form.blanks else 'one tab'} and sentences by an empty line"
    return f"{remedy}; see [columns] of the task file" if form.is_custom else remedy


def recognise(path: Path, form: Form, evidence: Evidence, others: Mapping[Path, Form] = NONE) -> bool:
    """Whether an I that has no mention to go on with begins one. Logs what was recognised.

    Raises UserError where the file and one of the `others` contradict each other.
    """
    i_begins = evidence.is_iob1 if form.scheme == "auto" else form.scheme in ("IOB1", "IO")
    if form.repairs and evidence.headless and not i_begins:
        said = "tags    %s: %d tags I after O or another type, the first in %s:%d; each was read as B, as by conlleval"
        logger.warning(said, path.name, evidence.headless, path, evidence.first_headless)
    if form.scheme != "auto":
        return i_begins and evidence.headless > 0  # no such I in gold: our own predictions file
    if evidence.headless and not form.repairs:
        _check_others(path, evidence, others)
    scheme = evidence.scheme()
    if evidence.is_mixed and not form.repairs:
        said = (
            "tags    %s: %d tags I after O or another type, where mentions begin with B; the first in %s:%d. Each is "
            'a part of the mention before, as BLUE counts disjoint ones (scheme = "IOB1": begins a mention)'
        )
        logger.warning(said, path.name, evidence.headless, path, evidence.first_headless)
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
            tagged_sentences(other, form, theirs)
        except UserError:  # raised again where that file is read
            continue
        if (evidence.is_iob1 and theirs.is_mixed) or (evidence.is_mixed and theirs.is_iob1):
            clear, unclear, first = path, other, theirs.first_headless
            if evidence.is_mixed:
                clear, unclear, first = other, path, evidence.first_headless
            raise Row(unclear, first).error(
                f"I after O in a file where mentions begin with B, while in {clear.name} they begin with I",
                'write scheme = "IOB1" into the task file where such an I begins a mention, scheme = "IOB2" where it '
                "is a part of the one before",
            )


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

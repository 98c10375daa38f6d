"""Annotated text, offsets in characters: its sentences, its words with tags, and pairs of marked mentions.

The one place that knows a sentence splitter. The default, syntok, is rule based, keeps offsets and takes time in
proportion to the text. A boundary that it proposes counts only where the published data has one too: after `.`, `?` or
`!`, before a capital letter or a digit, and outside every mention.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import pairwise
from typing import Any

from harness.task import UserError
from tasks.corpora.corpus import DUMMIES, Options, Row

__all__ = [
    "MARKERS", "SPLITTERS", "AnnotatedText", "Mention", "Span", "fitting", "marked", "sentences", "splitter_version",
    "tagged", "tags", "words",
]  # fmt: skip

Span = tuple[int, int]  # first character, character after the last

CLOSED = re.compile(r"[.?!][\"'\u201d\u2019)\]}]*\s*\Z")  # quotes and brackets may close after the full stop
OPENED = re.compile(r"[\"'\u201c\u2018(\[{]*(\w)")
BLANK_LINE = re.compile(r"\n[ \t\r]*\n\s*")
MODEL = "en_core_web_sm"  # of spaCy
MARKERS = "markers"  # in place of DUMMIES
NEAR = 12  # characters before a boundary that CLOSED looks at
# Letters and digits together, any other character alone, rules such as ____ and **** as one. A byte order mark in the
# middle of a text is white space: at the start of a file it would be taken for the file's own.
WORD = re.compile(r"[^\W_]+|([_*=~#.|-])\1+|[^\w\s\ufeff]|_")


@dataclass(frozen=True)
class Mention:
    """A piece of text of some kind; several spans where it is disjoint, in the order of the text."""

    id: str
    kind: str
    spans: tuple[Span, ...]

    @property
    def start(self) -> int:
        """Its first character."""
        return self.spans[0][0]

    @property
    def end(self) -> int:
        """The character after its last."""
        return max(end for _, end in self.spans)


@dataclass(frozen=True)
class AnnotatedText:
    """One text with its mentions in the order of the file."""

    id: str
    text: str
    mentions: tuple[Mention, ...]
    title_end: int = 0  # the title, if any, is a sentence of its own

    def sentences(self, splitter: str) -> list[Span]:
        """None of them ends inside a mention, from the first to the last character of it."""
        title = self.title_end
        whole = [(mention.start - title, mention.end - title) for mention in self.mentions]
        found = [(start + title, end + title) for start, end in sentences(self.text[title:], whole, splitter)]
        return [(0, title), *found] if title else found


def fitting(spans: Sequence[Span], length: int) -> tuple[Span, ...] | None:
    """The spans in the order of the text, or None where one is empty or leaves a text of that length."""
    ordered = tuple(sorted(set(spans)))
    if not ordered or any(not 0 <= start < end <= length for start, end in ordered):
        return None
    return ordered


def marked(text: str, start: int, end: int, one: Mention, other: Mention, mentions: str = DUMMIES) -> str:
    """The sentence text[start:end] with `@KIND$` in place of each mention, `@KIND-KIND$` where the two overlap.

    As in BLUE, the first piece of a disjoint mention is replaced and the others stay. MARKERS: mentions stay, between
    [S1] and [E1], [S2] and [E2] (PubMedBERT: Gu et al. 2021, section 2.3), of an overlapping pair one in the other.
    """
    first, second = sorted((one, other), key=lambda mention: mention.spans[0])
    (a, b), (c, d) = first.spans[0], second.spans[0]
    if mentions == MARKERS:
        # What opens or closes later at the same place comes after, so that one pair stands in the other.
        at = [(a, "[S1] "), (c, "[S2] "), (b, " [E1]"), (d, " [E2]")]
        for place, sign in sorted(at, key=lambda one: (one[0], one[1].startswith("[")), reverse=True):
            text = text[:place] + sign + text[place:]
        return text[start : end + sum(len(sign) for _, sign in at)]
    if c < b:
        return f"{text[start:a]}@{one.kind}-{other.kind}${text[max(b, d) : end]}"
    return f"{text[start:a]}@{first.kind}${text[b:c]}@{second.kind}${text[d:end]}"


def words(text: str, start: int, end: int) -> list[Span]:
    """The words of a part of the text: every character but white space is in exactly one of them."""
    return [match.span() for match in WORD.finditer(text, start, end)]


def tags(spans: Sequence[Span], mentions: Sequence[Mention]) -> list[str]:
    """A tag for each word (spans in order, apart from each other).

    As in BLUE: the first word of a mention is B, its other words I, also those after a gap of a disjoint one
    (left/B atrium/I is/O dilated/I). A word has one tag: where mentions overlap, the later in the file wins, and
    an earlier one whose first word it takes is no longer seen.
    """
    found = ["O"] * len(spans)
    for mention in mentions:
        tag = "B"
        for number, (first, last) in enumerate(spans):
            if any(first < end and last > start for start, end in mention.spans):
                found[number] = tag
                tag = "I"
    return found


def tagged(document: AnnotatedText, parts: Sequence[Span], task: str, kind: str, options: Options) -> Iterator[Row]:
    """The sentences (`parts`) of a document as tagged words; mentions of other kinds than `kind` are O.

    A line a word: the word, the document's id at the first word of a sentence, its offset, its tag.
    """
    mentions = [mention for mention in document.mentions if mention.kind == kind]
    kept = 0
    for start, end in parts:
        spans = words(document.text, start, end)
        inside = [mention for mention in mentions if mention.start < end and mention.end > start]
        names = tags(spans, inside)
        kept += names.count("B")
        if spans:
            ids = [document.id, *["-"] * (len(spans) - 1)]
            texts = [document.text[first:last] for first, last in spans]
            yield list(zip(texts, ids, (str(first) for first, _ in spans), names, strict=True))
    if kept < len(mentions):
        reason = "mentions whose first word a later one takes, or without a word"
        options.left_out[task, reason] += len(mentions) - kept


def sentences(text: str, whole: Sequence[Span] = (), splitter: str = "rules") -> list[Span]:
    """The sentences of a text in order, without the white space around them; together they hold every other character.

    Args:
        whole: spans that no sentence may end in, such as mentions; in any order, overlapping or not.
        splitter: a name in SPLITTERS.

    Raises UserError where the splitter is not installed.
    """
    starts = sorted({0, *SPLITTERS[splitter](text), *(match.end() for match in BLANK_LINE.finditer(text))})
    for start, end in whole:
        del starts[bisect_right(starts, start) : bisect_left(starts, end)]
    found = []
    for start, end in pairwise([*starts, len(text)]):
        part = text[start:end]
        if part.strip():
            found.append((start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())))
    return found


def _rules(text: str) -> Iterator[int]:
    from syntok import segmenter

    for sentence in segmenter.split(iter(_tokenizer().split(text))):
        start = sentence[0].offset
        first = OPENED.match(text, start)
        opens = first is not None and (first[1].isupper() or first[1].isdigit())
        if opens and CLOSED.search(text[max(0, start - NEAR) : start]):
            yield start


@cache
def _tokenizer() -> Any:
    from syntok.tokenizer import Tokenizer

    # Contractions would be replaced by other words, and offsets would be lost.
    return Tokenizer(emit_hyphen_or_underscore_sep=True, replace_not_contraction=False)


def _spacy(text: str) -> Iterator[int]:
    try:
        document = _pipeline()(text)
    except ValueError:  # spaCy's limit is a million characters
        raise UserError(f"--splitter spacy: a text of {len(text)} characters is too long for it; use rules") from None
    for sentence in document.sents:
        yield sentence.start_char


@cache
def _pipeline() -> Any:
    try:
        import spacy

        return spacy.load(MODEL)
    except (ImportError, OSError) as error:
        raise UserError(
            f"--splitter spacy: spaCy with {MODEL} is not installed; install both, or leave the flag out"
        ) from error


SPLITTERS: dict[str, Callable[[str], Iterator[int]]] = {"rules": _rules, "spacy": _spacy}


def splitter_version(splitter: str) -> str:
    """The library behind a splitter with its version, for manifests."""
    if splitter == "rules":
        return f"syntok {metadata.version('syntok')}"
    return f"spacy {metadata.version('spacy')}, {MODEL} {_pipeline().meta['version']}"

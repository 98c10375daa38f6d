"""Documents with mentions to sentences of words with B, I and O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tasks.corpora.documents import Document, Mention
from tasks.corpora.records import Options, Record
from tasks.corpora.sentences import Span, sentences

__all__ = ["tagged", "tags", "words"]

# Letters and digits together, any other character alone, rules such as ____ and **** as one. A byte order mark in the
# middle of a text is white space: at the start of a file it would be taken for the file's own.
WORD = re.compile(r"[^\W_]+|([_*=~#.|-])\1+|[^\w\s\ufeff]|_")


def words(text: str, start: int, end: int) -> list[Span]:
    """The words of a part of the text: every character but white space is in exactly one of them."""
    return [match.span() for match in WORD.finditer(text, start, end)]


def tags(spans: Sequence[Span], mentions: Sequence[Mention]) -> tuple[list[str], int]:
    """A tag for each word (spans in order, apart from each other), and how many mentions have a B.

    As in BLUE: the first word of a mention is B, its other words I, also those after a gap of a disjoint one
    (left/B atrium/I is/O dilated/I). A word has one tag: where mentions overlap, the later in the file wins, and
    an earlier one whose first word it takes is no longer seen.
    """
    found = ["O"] * len(spans)
    owner: dict[int, int] = {}  # word with B -> mention
    for number, mention in enumerate(mentions):
        position = 0
        is_first = True
        for start, end in mention.spans:
            while position < len(spans) and spans[position][1] <= start:
                position += 1
            while position < len(spans) and spans[position][0] < end:
                found[position] = "B" if is_first else "I"
                owner.pop(position, None)
                if is_first:
                    owner[position] = number
                is_first = False
                position += 1
    return found, len(owner)


def tagged(document: Document, kinds: Sequence[tuple[str, str]], split: str, options: Options) -> Iterator[Record]:
    """The sentences of a document, once for each (task, kind of mention); mentions of other kinds are O there.

    All tasks have the same sentences: none ends inside a mention of any kind.
    """
    parts = [(0, document.title_end)] if document.title_end else []
    body = [(start - document.title_end, end - document.title_end) for start, end in document.whole]
    found = sentences(document.text[document.title_end :], body, options.splitter)
    parts += [(start + document.title_end, end + document.title_end) for start, end in found]
    for task, kind in kinds:
        mentions = [mention for mention in document.mentions if mention.kind == kind]
        kept = 0
        for start, end in parts:
            spans = words(document.text, start, end)
            inside = [mention for mention in mentions if mention.start < end and mention.end > start]
            names, count = tags(spans, inside)
            kept += count
            if spans:
                yield _sentence(task, split, document, spans, names, count)
        if kept < len(mentions):
            options.left_out[task, "mentions whose first word a later one takes, or without a word"] += (
                len(mentions) - kept
            )


def _sentence(
    task: str, split: str, document: Document, spans: Sequence[Span], names: Sequence[str], mentions: int
) -> Record:
    lines = tuple(
        (document.text[start:end], document.id if number == 0 else "-", str(start), name)
        for number, ((start, end), name) in enumerate(zip(spans, names, strict=True))
    )
    return Record(task, split, lines, ("mention",) * mentions, document.id)

"""Annotated text: documents with mentions and the relations between them, offsets in characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.corpora.sentences import Span

__all__ = ["Document", "Mention", "fitting"]


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
class Document:
    """One text with its mentions in the order of the file."""

    id: str
    text: str
    mentions: tuple[Mention, ...]
    title_end: int = 0  # the title, if any, is a sentence of its own

    @property
    def whole(self) -> list[Span]:
        """From the first to the last character of every mention: no sentence ends inside."""
        return [(mention.start, mention.end) for mention in self.mentions]


def fitting(spans: Sequence[Span], length: int) -> tuple[Span, ...] | None:
    """The spans in the order of the text, or None where one is empty or leaves a text of that length."""
    ordered = tuple(sorted(set(spans)))
    if not ordered or any(not 0 <= start < end <= length for start, end in ordered):
        return None
    return ordered

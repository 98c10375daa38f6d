"""Pairs of mentions in a sentence to rows of a relation task: the two are replaced by what kind of thing they are."""

from __future__ import annotations

from tasks.corpora.documents import Mention

__all__ = ["marked"]


def marked(text: str, start: int, end: int, one: Mention, other: Mention) -> str:
    """The sentence text[start:end] with `@KIND$` in place of each mention, `@KIND-KIND$` where the two overlap.

    As in BLUE, the first piece of a disjoint mention is replaced and the others stay.
    """
    first, second = sorted((one, other), key=lambda mention: mention.spans[0])
    (a, b), (c, d) = first.spans[0], second.spans[0]
    if c < b:
        return f"{text[start:a]}@{one.kind}-{other.kind}${text[max(b, d) : end]}"
    return f"{text[start:a]}@{first.kind}${text[b:c]}@{second.kind}${text[d:end]}"

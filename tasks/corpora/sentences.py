"""Where the sentences of a text are: the one place that knows a sentence splitter.

The default, syntok, is rule based, keeps offsets and takes time in proportion to the text. A boundary that it proposes
counts only where the published data has one too: after `.`, `?` or `!`, before a capital letter or a digit, and
outside every mention.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import metadata
from itertools import pairwise
from typing import Any

from harness.task import UserError

__all__ = ["SPLITTERS", "Span", "sentences", "splitter_version"]

Span = tuple[int, int]  # first character, character after the last

CLOSED = re.compile(r"[.?!][\"'\u201d\u2019)\]}]*\s*\Z")  # quotes and brackets may close after the full stop
OPENED = re.compile(r"[\"'\u201c\u2018(\[{]*(\w)")
BLANK_LINE = re.compile(r"\n[ \t\r]*\n\s*")
MODEL = "en_core_web_sm"  # of spaCy
NEAR = 12  # characters before a boundary that CLOSED looks at


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

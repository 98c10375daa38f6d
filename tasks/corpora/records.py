"""What a converter takes and gives: options in, records of the BLUE files out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from tasks.corpora.sources import Source

__all__ = ["Corpus", "Options", "Record", "clean"]


@dataclass(frozen=True)
class Options:
    """What the user decides, and what a converter tells about itself."""

    dev_ids: frozenset[str] | None = None  # published ids of the dev split; None: drawn by `seed`
    test_ids: frozenset[str] | None = None  # the same of the test split, for corpora without a published one
    seed: int = 12
    splitter: str = "rules"  # a name in sentences.SPLITTERS
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter, compare=False)  # (task, reason) -> how many
    noted: Counter[tuple[str, str]] = field(default_factory=Counter, compare=False)  # the same of what was corrected
    rules: dict[str, str] = field(default_factory=dict, compare=False)  # split -> how it came about, for the manifest


@dataclass(frozen=True)
class Record:
    """One row of a table, or one sentence of words."""

    task: str
    split: str  # train | dev | test
    lines: tuple[tuple[str, ...], ...]  # cells; a table's row is one line, a sentence has a line a word
    labels: tuple[str, ...]  # what the manifest counts: the class, the labels, "mention" for each mention
    document: str


@dataclass(frozen=True)
class Corpus:
    """A published corpus and the BLUE tasks that are made of it."""

    convert: Callable[[Source, Options], Iterator[Record]]
    """Records of all its tasks, split by split or mixed. Raises UserError naming file, line and remedy."""
    headers: Mapping[str, tuple[str, ...]]  # task -> column names; () where the format has no header
    expects: str  # what the source must hold, in words, for messages
    drawn: tuple[str, ...] = ()  # splits without a published list in the source
    splits_sentences: bool = False


def clean(text: str) -> str:
    """Text as one field: any white space in it, line ends and odd blanks too, is one blank."""
    return " ".join(text.split())

"""What a converter is: it reads the documents of a published corpus, and makes rows of tasks of each."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from harness.task import SPLITS, UserError
from tasks import published
from tasks.corpora.sources import Source

__all__ = ["DUMMIES", "Corpus", "Document", "Options", "Row", "assign", "clean", "with_splits"]

DUMMIES = "dummies"

# A row of a table by the names of its columns, in their order; or a sentence, a line of columns for each word.
Row = Mapping[str, str] | Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Options:
    """What the user decides, and what a converter tells about itself."""

    dev_ids: frozenset[str] | None = None  # published ids of the dev split; None: drawn by `seed`
    test_ids: frozenset[str] | None = None  # the same of the test split, for corpora without a published one
    seed: int = 12
    splitter: str = "rules"  # a name in text.SPLITTERS
    mentions: str = DUMMIES  # or text.MARKERS: how the two mentions of a relation are shown
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter, compare=False)  # (task, reason) -> how many
    corrected: Counter[tuple[str, str]] = field(default_factory=Counter, compare=False)  # the same
    rules: dict[str, str] = field(default_factory=dict, compare=False)  # split -> how it came about, for the manifest


@dataclass(frozen=True)
class Document:
    """One document, or whatever else is in one split as a whole."""

    name: str
    split: str  # train | dev | test as published; train where nothing is published
    rows: Mapping[str, Iterable[Row]]  # task -> its rows of that task; an iterator is read when they are written


@dataclass(frozen=True)
class Corpus:
    """A published corpus. Its tasks and where to get it stand in the table of its name in tasks/corpora.toml."""

    name: str  # also in commands
    documents: Callable[[Source, Options], Iterable[Document]]
    """All of them. Raises UserError naming file, line and remedy, here or while rows are read."""
    drawn: Mapping[str, float] = field(default_factory=dict)  # split without a published list -> share of the documents
    unit: str = "documents"  # what the documents are
    splits_sentences: bool = False
    marks_mentions: bool = False  # in a way that Options.mentions decides
    lists: Callable[[Source], Mapping[str, frozenset[str]]] = lambda source: {}  # split -> ids, beside the corpus
    skips: str = ""  # a pattern: members of archives that nothing here needs

    @property
    def published(self) -> published.Corpus:
        """Its facts."""
        return published.CORPORA[self.name]


def clean(text: str) -> str:
    """Text as one field: any white space in it, line ends and odd blanks too, is one blank."""
    return " ".join(text.split())


def with_splits(corpus: Corpus, source: Source, options: Options) -> Iterable[tuple[str, Document]]:
    """(split, document) for every document: as published, or drawn out of train. Raises UserError."""
    documents = corpus.documents(source, options)
    options.rules.update(dict.fromkeys(SPLITS, "as published"))
    if not corpus.drawn:
        return ((document.split, document) for document in documents)
    documents = list(documents)
    train = [document.name for document in documents if document.split == "train"]
    if "test" in corpus.drawn:
        options.rules["train"] = f"the other {corpus.unit}"
    else:
        options.rules["train"] = f"the published training {corpus.unit} without dev"
        counts = len(train), len(documents) - len(train)
        if 0 in counts:
            raise source.error(f"{counts[0]} training and {counts[1]} test {corpus.unit} found")
    lists = {"dev": corpus.published.dev_ids, "test": corpus.published.test_ids, **corpus.lists(source)}
    for split, ids in lists.items():
        if lacking := ids - {document.name for document in documents}:
            wrong = f"{len(lacking)} of {len(ids)} ids of BLURB's {split} split are no {corpus.unit} here"
            raise source.error(wrong, f"give the version that BLURB uses: {corpus.published.expects}")
    split_of = assign(train, corpus.drawn, options, lists)
    return (
        (split_of[document.name] if document.split == "train" else document.split, document) for document in documents
    )


def assign(
    documents: Sequence[str],
    shares: Mapping[str, float],
    options: Options,
    lists: Mapping[str, frozenset[str]] = MappingProxyType({}),
) -> dict[str, str]:
    """Document -> split, for every document.

    A split of `shares` (dev, test) is the user's list where there is one, else the published one of `lists`, else that
    share of the documents: those with the lowest SHA-256 of `<seed> <document>`. The rest is train. Raises UserError
    for an id of the user's that is no document.
    """

    def rank(document: str) -> str:
        return hashlib.sha256(f"{options.seed} {document}".encode("utf-8", "surrogateescape")).hexdigest()

    own = {"dev": options.dev_ids, "test": options.test_ids}
    given = {split: ids if ids is not None else lists.get(split) or None for split, ids in own.items()}
    split_of = dict.fromkeys(documents, "train")
    left = set(documents)
    # First what the user lists, then what is drawn.
    for split in sorted(shares, key=lambda split: given[split] is None):
        chosen = given[split]
        if chosen is not None:
            if unknown := sorted(chosen - left):
                shown = ", ".join(ascii(name[:40]) for name in unknown[:3])
                raise UserError(
                    f"--{split}_ids: {len(unknown)} of {len(chosen)} ids are no documents of the split's source, or "
                    f"are listed twice ({shown}); check that the list belongs to this corpus"
                )
            whose = f"of --{split}_ids" if own[split] is not None else "that BLURB publishes"
            options.rules[split] = f"the {len(chosen)} ids {whose}"
        else:
            count = min(max(1, round(shares[split] * len(documents))), max(0, len(left) - 1))
            chosen = frozenset(sorted(left, key=rank)[:count])
            drawn = f"{count} of {len(documents)} documents drawn with seed {options.seed}"
            options.rules[split] = f"{drawn}, not published"
        split_of |= dict.fromkeys(chosen, split)
        left -= chosen
    return split_of

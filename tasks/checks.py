"""Is a task's data what it should be? Counts, duplicates, balance, characters and mentions; no text in any answer.

`quick` is for training, before a model is loaded: it needs the examples that are read anyway, and a second or two for
a hundred thousand of them. `Survey` is all of it, split by split.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import tasks
from harness.task import SPLITS, Example, Task
from tasks.metrics import type_of
from tasks.published import SIZES, Size
from tasks.tagging import TaggingTask

__all__ = ["Finding", "Survey", "quick"]

MOST_SHARED = 0.05  # of a split's rows that are in another one: more is serious
MOST_CONTRADICTED = 0.01  # of rows whose text is there again with another label
MOST_ODD = 0.03  # of rows with characters that no text should have
LEAST_WORDS = 8  # headings and stock phrases may come again, in tasks of single sentences of a document
MOST_IDS = 5  # named in a finding
MARK = re.compile(r"@[A-Za-z_]+(-[A-Za-z_]+)?\$|\[S[12]\]")  # a dummy, of one mention or two, or an entity marker
REMARKS = {
    "again": "rows are there twice or more, with the same label",
    "overlapping": "rows of two mentions that overlap",
    "disjoint": "times a mention goes on after a gap (I after O)",
    "headless": "examples start inside a mention (I)",
}
ODD = ("Cc", "Cs", "Co", "Cn")  # control, half of a pair, private use, not assigned


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed."""

    serious: bool  # the data is probably not what the task's scores are about; else only worth knowing
    text: str  # one line, without text of the examples


@dataclass
class _Split:
    rows: int = 0
    words: int = 0  # of mentions
    documents: set[str] = field(default_factory=set)
    labels: Counter[str] = field(default_factory=Counter)
    odd: Counter[str] = field(default_factory=Counter)  # name of the character -> rows
    odd_rows: int = 0
    contradicted: list[str] = field(default_factory=list)  # ids of rows whose text has another label already
    shared: dict[str, list[str]] = field(default_factory=dict)  # earlier split -> ids of rows whose text it has
    unmarked: list[str] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)  # of REMARKS


class Survey:
    """Examples in, split by split in the order of SPLITS; counts and findings out.

    Of a row only a hash of 16 bytes is kept, so that memory hardly grows with the data.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.is_marked = tasks.marks_mentions(task)
        self.types: Sequence[str] = task.types if isinstance(task, TaggingTask) else ()  # counted in place of tags
        self.sizes: Sequence[Size] = (
            SIZES.get(task.name, ()) if tasks.is_shipped(task) else ()
        )  # as published; none for a custom task
        self.splits: dict[str, _Split] = {}
        self._seen: dict[bytes, tuple[str, int]] = {}  # hash of a text -> (first split, hash of its label)

    def add(self, split: str, examples: Iterable[Example]) -> None:
        """Look at examples of a split; may be called several times for a split."""
        found = self.splits.setdefault(split, _Split())
        for example in examples:
            found.rows += 1
            odd = {
                f"U+{ord(char):04X}"
                for text in example.texts
                if not (text.isascii() and text.isprintable())
                for char in text
                if char == "\ufffd" or unicodedata.category(char) in ODD
            }
            found.odd.update(odd)
            found.odd_rows += bool(odd)
            self._look_for_copies(found, split, example)
            if self.task.family == "similarity":
                found.labels[str(int(example.label // 1))] += 1
            elif self.task.family == "multilabel":
                found.documents.add(example.group)
                labels = [label for label, value in zip(self.task.labels, example.label, strict=True) if value]
                found.labels.update(labels or ["none"])
            elif self.task.family == "tagging":
                found.words += sum(tag != "O" for tag in example.label)
                once = (
                    type_of(tag) or tag for tag in example.label if tag[0] != "I"
                )  # by the first word of each mention
                found.labels.update(once if self.types else example.label)
                found.remarks["disjoint"] += sum(pair == ("O", "I") for pair in pairwise(example.label))
                found.remarks["headless"] += example.label[0] == "I"
            else:
                found.labels[example.label] += 1
            if self.is_marked:
                marks = list(MARK.finditer(example.texts[0]))
                joint = any(mark[1] for mark in marks)
                found.remarks["overlapping"] += joint
                if len(marks) < 2 and not joint:
                    found.unmarked.append(example.id)

    def size(self, split: str, what: str) -> int:
        """The count that a published one is about. Not for labels of custom tasks, which may have any name."""
        found = self.splits[split]
        if what in ("rows", "documents"):
            return found.rows if what == "rows" else len(found.documents)
        if what == "words":
            return found.words
        if what == "positive":
            return found.labels.total() - found.labels[self.task.negative or ""]
        if what == "mentions" and self.types:
            return sum(found.labels[kind] for kind in self.types)
        return found.labels["B" if what == "mentions" else what]

    def findings(self) -> list[Finding]:
        """What is worth knowing, the serious first."""
        found = list(self._of_sizes())
        for split, seen in self.splits.items():
            found += (Finding(serious, f"{split}: {text}") for serious, text in self._of_split(split, seen))
        return sorted(found, key=lambda finding: not finding.serious)

    def _look_for_copies(self, found: _Split, split: str, example: Example) -> None:
        words = len(example.texts) if self.task.family == "tagging" else len(example.texts[0].split())
        if self.task.family in ("tagging", "multilabel") and words < LEAST_WORDS:
            return
        text = hashlib.blake2b("\t".join(example.texts).encode("utf-8", "replace"), digest_size=16).digest()
        label = hash(example.label)
        if text not in self._seen:
            self._seen[text] = (split, label)
            return
        first, first_label = self._seen[text]
        if first != split:
            found.shared.setdefault(first, []).append(example.id)
        elif first_label == label:
            found.remarks["again"] += 1
        if first_label != label:
            found.contradicted.append(example.id)

    def _of_sizes(self) -> Iterator[Finding]:
        for size in self.sizes:
            here = {split: self.size(split, size.what) for split in self.splits}
            published = {split: getattr(size, split) for split in SPLITS}
            if size.note and here.get("test", size.test) != size.test:
                yield Finding(False, f"{size.what}: test {here['test']} (published {size.test}): {size.note}")
            far = [split for split in here if not _near([split], here, published, size.tolerance)]
            # The same may only be split in another way: over train and dev where test agrees, else over all three.
            together = ("train", "dev") if "test" not in far else SPLITS
            redrawn = set(together) <= here.keys() and _near(together, here, published, size.tolerance)
            if far:
                counts = ", ".join(f"{split} {here[split]} (published {published[split]})" for split in far)
                why = "; the sum agrees: another split of the same documents" if redrawn else ""
                yield Finding(not redrawn, f"{size.what}: {counts}{why}")

    def _of_split(self, split: str, found: _Split) -> Iterator[tuple[bool, str]]:
        """(serious, what) of each."""
        known = () if self.task.family == "similarity" else (self.types or self.task.labels)
        if missing := [label for label in known if not found.labels[label]]:
            yield split == "train", f"no example of {', '.join(missing)}"
        if len(found.labels) == 1:
            yield True, "all examples have the same label"
        for first, ids in found.shared.items():
            share = len(ids) / found.rows
            yield share > MOST_SHARED, f"{len(ids)} rows ({share:.1%}) have a text of {first}, e.g. {_named(ids)}"
        if ids := found.contradicted:
            text = f"{len(ids)} rows have a text that another label has too, e.g. {_named(ids)}"
            yield len(ids) / found.rows > MOST_CONTRADICTED, text
        if found.odd_rows:
            kinds = ", ".join(f"{name} in {count}" for name, count in found.odd.most_common(MOST_IDS))
            yield found.odd_rows > MOST_ODD * found.rows, f"{found.odd_rows} rows hold odd characters ({kinds})"
        if ids := found.unmarked:
            yield True, f"{len(ids)} rows without two marked mentions, e.g. {_named(ids)}"
        for what, text in REMARKS.items():
            if count := found.remarks[what]:
                yield False, f"{count} {text}"


def _near(splits: Sequence[str], one: Mapping[str, int], other: Mapping[str, int], tolerance: float) -> bool:
    """Whether two counts of these splits together differ by no more than that."""
    first, second = (sum(counts[split] for split in splits) for counts in (one, other))
    return abs(first - second) <= tolerance * max(first, second)


def _named(ids: Sequence[str]) -> str:
    """The first few ids; an id that could be running text is left out."""
    plain = [name for name in ids[:MOST_IDS] if len(name) <= 60 and len(name.split()) == 1]
    return ", ".join(plain) or "(ids not shown)"


def quick(task: Task, examples: Mapping[str, Sequence[Example]]) -> list[str]:
    """Warnings about the splits that were read, serious ones only, a line each: sizes far from the published ones,
    labels that train lacks, and texts that are in two splits."""
    survey = Survey(task)
    empty = [f"{split}: no examples" for split, rows in examples.items() if not rows]
    for split in SPLITS:
        if examples.get(split):
            survey.add(split, examples[split])
    return empty + [finding.text for finding in survey.findings() if finding.serious]

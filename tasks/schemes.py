"""Tag schemes: how a file spells where its mentions begin and end, and the way from each to B, I and O.

    IOB2          B begins a mention, I goes on with it: what everything else here works on
    IOB1          I begins it too; B only where it touches the one before. IO has no B at all
    BIOES, IOBES  E is its last word, S a mention of one word. BMES, BMEWO: M for I, W for S
    BILOU         L is its last word, U a mention of one word

By its letter alone a tag begins a mention (B S U W) or goes on with one (I E L M). Only of an I that has no mention
to go on with, after O or another type, the schemes say different things: in IOB1 it begins a mention, in IOB2 it is
a part of the one before (a disjoint mention, as BLUE counts them). The whole file tells which is meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["SCHEMES", "Evidence", "Tag", "kind_of", "plain_tags", "vocabulary"]

BEGINNING, GOING_ON, LAST = "BSUW", "IELM", "ESLUW"
SCHEMES = {"auto": BEGINNING + GOING_ON, "IOB1": "BI", "IOB2": "BI", "BIOES": "BIESMW", "BILOU": "BILU", "IO": "I"}
TYPED = re.compile(rf"[{BEGINNING}{GOING_ON}]-(\S+)")


class Tag(NamedTuple):
    """One word's tag."""

    letter: str  # of the scheme; or O
    kind: str = ""  # type of mention; "" where tags are letters alone
    counts: bool = True  # False: a type that the task ignores


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


def kind_of(tag: str) -> str | None:
    """The type of mention in something that looks like a tag with one: `B-Disease`; else None."""
    found = TYPED.fullmatch(tag)
    return None if found is None else found.group(1)


@dataclass
class Evidence:
    """What a file's tags say about its scheme."""

    letters: set[str] = field(default_factory=set)
    begun: int = 0  # mentions that begin with B (S, U, W) after O or at the start of a sentence: IOB1 has none
    headless: int = 0  # I's (E, L, M) without a mention to go on with
    first_headless: int = 0  # its line

    def add(self, tags: Sequence[Tag], lines: Sequence[int]) -> None:
        """A sentence's tags, and in which lines they are."""
        before = OUTSIDE
        for tag, line in zip(tags, lines, strict=True):
            self.letters.add(tag.letter)
            if tag.letter in BEGINNING:
                self.begun += before.letter == "O"
            elif tag.letter != "O" and not _goes_on(before, tag):
                self.headless += 1
                self.first_headless = self.first_headless or line
            before = tag

    @property
    def is_iob1(self) -> bool:
        """Mentions begin with I, and none with B but where it touches another one. In IOB2 the first has a B."""
        return self.headless > 0 and not self.begun

    @property
    def is_mixed(self) -> bool:
        """Mentions begin with B, yet some I has none to go on with."""
        return self.headless > 0 and self.begun > 0

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


def plain_tags(tags: Sequence[Tag], i_begins: bool) -> list[str]:
    """B, I and O of a sentence. `i_begins`: an I without a mention to go on with begins one; else it stays an I."""
    found = []
    before = OUTSIDE
    for tag in tags:
        begins = tag.letter in BEGINNING or (i_begins and not _goes_on(before, tag))
        found.append("O" if tag.letter == "O" or not tag.counts else "B" if begins else "I")
        before = tag
    return found


def _goes_on(before: Tag, tag: Tag) -> bool:
    return before.letter not in "O" + LAST and before.kind == tag.kind

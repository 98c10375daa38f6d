"""`bc5cdr`, as the original's command lines spelled both of its tasks: which of them a data folder is of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["OLD_NAME", "kind_in"]

OLD_NAME = "bc5cdr"

# How a mention's last word ends: that decides for over half of the published mentions, for one in a hundred wrongly.
KINDS: Mapping[str, re.Pattern[str]] = {
    "disease": re.compile(
        r".*(itis|emia|osis|oses|omas?|path(y|ies)|algia|ache|trophy|penia|spasms?|tension|tensive|cardia|toxicity|"
        r"uria|edema|kinesias?|malacia|rrhag(e|ia)|pain|failure|diseases?|syndromes?|disorders?|cancers?|tumou?rs?|"
        r"seizures?|fever|injur(y|ies)|infections?|infarction|dysfunction|damage|death|stroke|nausea|vomiting|"
        r"depression|bleeding|inflammation|ulcers?|rash|epilepsy|diabetes|asthma|migraine)"
    ),
    "chem": re.compile(r".{2,}(ine|ide|ate|ol|one|ium|am|in|en|vir|mab|azole|pril|acid)|acid"),
}
A_FEW, TIMES = 3, 5  # of one kind there must be at least so many, and so many times more than of the other


def kind_in(data_dir: Path, filenames: Iterable[str]) -> str | None:
    """disease | chem: by the folder's name, else by what is tagged in its files; None if not clear."""
    folder = data_dir.absolute().name.lower()
    kinds = [kind for kind in KINDS if kind in folder]
    return kinds[0] if len(kinds) == 1 else _tagged_kind(data_dir, filenames)


def _tagged_kind(data_dir: Path, filenames: Iterable[str]) -> str | None:
    """disease | chem: what is tagged in a folder's files, which have the same text in both; None if not clear."""
    try:
        path = next(data_dir / name for name in filenames if (data_dir / name).is_file())
        lines = path.read_text(encoding="utf-8", errors="replace").lower().splitlines()
    except (OSError, StopIteration):
        return None
    mentions: list[list[str]] = []  # the line of the last word of each
    inside = False
    for cells in map(str.split, lines):
        tag = cells[-1] if len(cells) > 1 else "o"
        inside = tag.startswith("b") or (inside and tag.startswith("i"))
        if tag.startswith("b"):
            mentions.append(cells)
        elif inside:
            mentions[-1] = cells
    found = Counter(_kind(cells[0], cells[-1]) for cells in mentions)
    for kind, other in (("disease", "chem"), ("chem", "disease")):
        if found[kind] >= max(A_FEW, TIMES * found[other]):
            return kind
    return None


def _kind(word: str, tag: str) -> str | None:
    """Of a mention: as its tag says (b-disease), else as its last word ends."""
    typed = (kind for kind in KINDS if kind in tag)
    by_ending = (kind for kind, ending in KINDS.items() if ending.fullmatch(word))
    return next(typed, None) or next(by_ending, None)

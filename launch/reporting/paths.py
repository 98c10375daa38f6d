"""Paths of this machine, in what is passed on to others: only their last parts, so that tables made elsewhere of the
same runs are the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePath

from tasks.published import recipe_for

CUT = "..."  # stands for the part that is left out; no path to anything begins so
# Not what follows a letter, as in and/or, nor a URL, nor what is cut already.
ABSOLUTE = re.compile(r"(?<![\w.:/~-])/(?:[^\s/'\"`,;:()\[\]<>|]+/)*([^\s/'\"`,;:()\[\]<>|]+)/?")


def shortened(text: str) -> str:
    """Absolute paths in a text as `.../name`. Done twice, it changes nothing more."""
    return ABSOLUTE.sub(rf"{CUT}/\1", text)


def tails(names: Iterable[str]) -> dict[str, str]:
    """The last parts of each name or path, as many as tell it from the others; all of it where that is not enough."""
    parts = {name: PurePath(name).parts for name in names}
    found: dict[str, str] = {}
    for length in range(1, 1 + max(map(len, parts.values()), default=0)):
        count = Counter(own[-length:] for own in parts.values())
        for name, own in parts.items():
            if name not in found and length >= len(own):
                found[name] = CUT + name if name.startswith("/") else name
            elif name not in found and count[own[-length:]] == 1:
                found[name] = str(PurePath(*own[-length:]))
    return found


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Absolute path -> `.../` and its last parts, longest paths first: as many as tell its folder from the others.

    What lay in one folder does so still, and an encoder's path keeps the parts by which its recipe is known.
    """
    inside: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        inside.setdefault(str(PurePath(name).parent), []).append(name)
    found: dict[str, str] = {}
    for folder, tail in tails(inside).items():
        absolute = [name for name in inside[folder] if name.startswith("/")]
        parts = PurePath(folder).parts[1:]  # without the root
        for length in range(min(len(PurePath(tail).parts), len(parts)), len(parts) + 1):
            short = {name: str(PurePath(CUT, *parts[-length:], PurePath(name).name)) for name in absolute}
            if all(recipe_for(short[name]) == recipe_for(name) for name in absolute):
                break
        found |= short
    return dict(sorted(found.items(), key=lambda item: (-len(item[0]), item[0])))


def renamed(text: str, names: Mapping[str, str]) -> str:
    """A text with `short_names` in place of these paths."""
    for path, short in names.items() if "/" in text else ():
        text = text.replace(path, short)
    return text

"""What to say when somebody names something that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from harness.task import UserError

__all__ = ["unknown"]


def unknown(kind: str, given: str, known: Iterable[str]) -> UserError:
    """The error for a name that is none of `known`: it offers the nearest one and lists all."""
    names = list(known)
    nearest = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.4)
    offer = f"did you mean {nearest[0]!r}? " if nearest else ""
    return UserError(f"unknown {kind} {given!r}; {offer}known: {', '.join(names)}")

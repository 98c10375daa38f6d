"""Faults of what users write, each in one line: what is wrong, the nearest name, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import PlainValidator, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from harness.task import UserError

__all__ = [
    "LONGEST_TEXT",
    "checked_by",
    "fault",
    "faults",
    "is_count",
    "is_line",
    "lines",
    "no_such_key",
    "one_of",
    "shown",
    "unknown",
]

LONGEST_TEXT, LONGEST_SHOWN = 200, 40


def unknown(kind: str, given: str, known: Iterable[str]) -> UserError:
    """The error for a name that is none of `known`: it offers the nearest one and lists all."""
    names = list(known)
    nearest = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.4)
    offer = f"did you mean {nearest[0]!r}? " if nearest else ""
    return UserError(f"unknown {kind} {given!r}; {offer}known: {', '.join(names)}")


def fault(what: str, remedy: str) -> PydanticCustomError:
    """To raise in a validator."""
    return PydanticCustomError("fault", "{what}; {remedy}", {"what": what, "remedy": remedy})


def faults(found: Mapping[tuple[str, ...], tuple[str, str]]) -> ValidationError:
    """Several to raise at once, of keys below the field that a validator checks: place -> what is wrong, what to do."""
    details = [InitErrorDetails(type=fault(*said), loc=place, input=None) for place, said in found.items()]
    return ValidationError.from_exception_data("faults", details)


def one_of(value: Any, known: Iterable[str]) -> str:
    """The value, a name that is known. Raises the fault for any other."""
    if not isinstance(value, str) or value not in known:
        what = "missing" if value is None else f"{shown(value)} is none"
        raise fault(what, f"{_nearest(value, known)}give one of {', '.join(known)}")
    return value


def no_such_key(key: str, known: Sequence[str]) -> tuple[str, str]:
    """(what is wrong, what to do) of a key that is none of the known ones."""
    return "no such key", f"{_nearest(key, known)}there are {', '.join(known)}"


def checked_by(is_right: Callable[[Any], bool], wrong: str) -> PlainValidator:
    """For a field's type. `wrong` says what a value is that is not right, and what to give in its place."""

    def check(value: Any) -> Any:
        if not is_right(value):
            what, remedy = wrong.split("; ", 1)
            raise fault(f"{shown(value)} is {what}", remedy)
        return value

    return PlainValidator(check)


def lines(
    error: ValidationError, where: str, keys: Mapping[tuple[str, ...], Sequence[str]], missing: Mapping[str, str]
) -> str:
    """Every fault, a line each. `keys` of each table, and what to do where a key is missing."""
    found = []
    for one in error.errors(include_url=False):
        place, said = tuple(map(str, one["loc"])), one["msg"]
        key = ".".join(place)
        if one["type"] == "missing":
            said = f"missing; {missing[key]}"
        elif one["type"] == "extra_forbidden":
            said = "; ".join(no_such_key(place[-1], keys[place[:-1]]))
        elif one["type"] == "model_type":
            said = f"{shown(one['input'])} is no table; write [{key}] and below it {', '.join(keys[place])}"
        if not key.isprintable() or len(key) > LONGEST_SHOWN:
            key = repr(key)[: LONGEST_SHOWN + 2]
        found.append(f"{where}: key {key}: {said}")
    return "\n".join(found)


def is_line(value: Any) -> bool:
    """Text that can stand in a table: printable, neither empty nor long, without white space around it."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) == len(value) <= LONGEST_TEXT


def is_count(value: Any, most: int) -> bool:
    """A whole number from 1 on."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def shown(value: Any) -> str:
    """A value in an error: on one line, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list within lists
        return f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _nearest(value: Any, known: Iterable[str]) -> str:
    names = {name.lower(): name for name in known}
    word = value.lower()[:LONGEST_TEXT] if isinstance(value, str) else ""
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {names[close[0]]}? " if close else ""

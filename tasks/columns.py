"""[columns] of a definition: which columns of its files hold the texts, and what is to be predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.task import SPLITS
from tasks.faults import fault, faults, is_count, is_line, no_such_key, shown

__all__ = ["checked", "of_split", "texts_of"]

MOST_COLUMNS = 1000


def checked(
    given: Any, either: Sequence[tuple[str, ...]], target: str, files: Sequence[str], has_header: Mapping[str, bool]
) -> dict[str, Any]:
    """The columns of all files, and under the name of a split those of its file alone.

    `either`: columns of the texts, one of these; `files`: the splits that have one; a file without a header has its
    columns by number. Raises all faults at once.
    """
    names = (
        *(() if target == "tag" else ("index",)),
        *dict.fromkeys(name for texts in either for name in texts),
        target,
    )
    if not isinstance(given, Mapping):
        raise fault(f"{shown(given)} is no table", f"write [columns] and below it {', '.join((*names, *SPLITS))}")
    tables = {split: given[split] for split in SPLITS if split in given}
    for split, columns in tables.items():
        if not isinstance(columns, Mapping):
            raise faults({(split,): ("is no table", f"write [columns.{split}] and below it the columns")})
    common = {name: column for name, column in given.items() if name not in SPLITS}
    if common or not set(files) <= set(tables):
        tables[""] = common
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    for split, columns in tables.items():
        by_number = not all(has_header[one] for one in SPLITS if one == split or (not split and one not in tables))
        known = names if split else (*names, *SPLITS)
        for name, said in _faults_of(columns, either, target, known, by_number):
            found[tuple(part for part in (split, name) if part)] = said
    if len({texts_of(columns, either) for columns in tables.values()}) > 1:
        found.setdefault((), ("one sentence in one file and two in another", "give all files the same texts"))
    if found:
        raise faults(found)
    in_order = {split: {name: columns[name] for name in names if name in columns} for split, columns in tables.items()}
    return in_order.pop("", {}) | in_order


def of_split(columns: Mapping[str, Any], split: str) -> dict[str, Any]:
    """The columns of a split's file: what [columns.<split>] says, else [columns]."""
    return columns.get(split) or {name: column for name, column in columns.items() if name not in SPLITS}


def texts_of(columns: Mapping[str, Any], either: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Which columns of texts are meant."""
    return next((texts for texts in either if set(texts) & set(columns)), either[0])


def _faults_of(
    given: Mapping[str, Any], either: Sequence[tuple[str, ...]], target: str, known: Sequence[str], by_number: bool
) -> Iterator[tuple[str, tuple[str, str]]]:
    """(column or "", (what is wrong, what to do)) of the columns of a file."""
    texts = texts_of(given, either)
    wanted = "its number, counted from 1" if by_number else "its name in the header, or its number from 1"
    for name, column in given.items():
        if name not in known:
            yield name, no_such_key(name, known)
        elif name not in ("index", *texts, target):
            yield name, (f"beside {texts[0]}", f"give {' or '.join(' and '.join(names) for names in either)}")
        elif not is_count(column, MOST_COLUMNS) and (by_number or not is_line(column)):
            yield name, (f"{shown(column)} is no column", f"give {wanted}")
    for name in (*texts, target):
        if name not in given:
            yield name, ("missing", "name the column that holds it")
    places = [column for column in given.values() if isinstance(column, int | str)]
    if len(set(places)) < len(places):
        yield "", ("two of them are the same column", "give each its own")

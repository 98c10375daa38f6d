"""The keys of a task file: which there are, in which family, and what is wrong with their values."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from harness.task import SPLITS, UserError
from tasks.conll import LONGEST_SENTENCE
from tasks.published import TITLES
from tasks.recipes import COMMON
from tasks.schemes import SCHEMES
from tasks.tables import PLAIN_FILENAMES

__all__ = ["FAMILIES", "TAG_COLUMNS", "check", "columns_of", "header_of"]

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
TAKEN = (*TITLES, "bc5cdr", "total")  # the ten, an old name of two of them, and a column of the leaderboard
TAG_COLUMNS = ("word", "tag")
RECIPE = ("learning_rate", "num_train_epochs", *COMMON)
SEPARATORS = ("tab", "blanks")
MOST_COLUMNS, MOST_WORDS = 1000, 10_000
LONGEST_TEXT, LONGEST_SHOWN = 200, 40


@dataclass(frozen=True)
class Family:
    """What a task file of a family may say."""

    metrics: Mapping[str, str]  # name in the file -> key in Report.values
    texts: Sequence[tuple[str, ...]]  # columns of the texts: one of these
    target: str  # column of what is to be predicted
    least_labels: int | None  # None: it has no labels
    keys: tuple[str, ...]  # beside COMMON_KEYS


COMMON_KEYS = ("name", "title", "family", "metric", "files", "columns", "recipe")
PAIR = ("sentence1", "sentence2")
FAMILIES: Mapping[str, Family] = {
    "similarity": Family({"Pearson": "pearson"}, (PAIR,), "score", None, ("header",)),
    "tagging": Family(
        {"mention F1": "f1"},
        (("word",),),
        "tag",
        0,
        ("labels", "ignored", "collapse_types", "scheme", "separator", "comment", "longest_sentence"),
    ),
    "multiclass": Family(
        {"accuracy": "accuracy", "micro F1": "micro_f1", "macro F1": "macro_f1"},
        (("sentence",), PAIR),
        "label",
        2,
        ("labels", "negative", "header"),
    ),
    "multilabel": Family(
        {"example-based F1": "f1", "micro F1": "micro_f1"}, (("sentence",),), "labels", 1, ("labels", "header")
    ),
}
ALL_KEYS = tuple(dict.fromkeys((*COMMON_KEYS, *(key for family in FAMILIES.values() for key in family.keys))))


def check(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The definition: the same with every default. Raises UserError that lists every fault, a line each."""
    checked = _Checked(values, where)
    name = values.get("family")
    if not isinstance(name, str) or name not in FAMILIES:
        checked.one_of("family", FAMILIES)
        raise checked.error()
    family = FAMILIES[name]
    known = (*COMMON_KEYS, *family.keys)
    for key in values:
        if key in ALL_KEYS and key not in known:
            checked.fault(key, f"does not belong to family {name}", "remove it")
        elif key not in known:
            checked.fault(key, "no such key", _nearest(key, known) + f"there are {', '.join(known)}")
    _identity(checked, family)
    if family.least_labels is not None:
        _labels(checked, family)
    if "negative" in family.keys:
        _negative(checked)
    _files(checked)
    _columns(checked, family)
    _forms(checked, family)
    _recipe(checked)
    if checked.faults:
        raise checked.error()
    return checked.found


def columns_of(definition: Mapping[str, Any], split: str) -> dict[str, str | int]:
    """The columns of a split's file: what [columns.<split>] says, else [columns]."""
    columns = definition["columns"]
    return dict(columns[split]) if split in columns else {k: v for k, v in columns.items() if k not in SPLITS}


def header_of(definition: Mapping[str, Any], split: str) -> bool:
    """Whether a split's file has a header."""
    header = definition["header"]
    return bool(header[split] if isinstance(header, Mapping) else header)


@dataclass
class _Checked:
    """A file's values on their way to a definition."""

    values: Mapping[str, Any]
    where: str
    found: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def fault(self, key: str, what: str, remedy: str) -> None:
        self.faults.append(f"{self.where}: key {_one_line(key)}: {what}; {remedy}")

    def error(self) -> UserError:
        return UserError("\n".join(self.faults))

    def one_of(self, key: str, known: Iterable[str]) -> bool:
        """Whether the value is one of those; it is taken over."""
        value, names = self.values.get(key), tuple(known)
        if isinstance(value, str) and value in names:
            self.found[key] = value
            return True
        listed = f"one of {', '.join(names)}"
        if key not in self.values:
            self.fault(key, "missing", f"give {listed}")
        else:
            self.fault(key, f"{_shown(value)} is none", _nearest(value, names) + f"give {listed}")
        return False

    def take(self, key: str, default: Any, is_right: Callable[[Any], bool], wanted: str) -> None:
        """Take a value over, or its default where it is not given; None is left out."""
        value = self.values.get(key, default)
        if key in self.values and not is_right(value):
            self.fault(key, f"{_shown(value)} is wrong", f"give {wanted}")
        elif value is not None:
            self.found[key] = value

    def table(self, key: str, known: Sequence[str]) -> Mapping[str, Any] | None:
        """The table of that name; None, with a fault, where it is none. Its unknown keys are faults."""
        values = self.values.get(key, {})
        if not isinstance(values, Mapping):
            self.fault(key, f"{_shown(values)} is no table", f"write [{key}] and below it {', '.join(known)}")
            return None
        for name in values:
            if name not in known:
                self.fault(f"{key}.{name}", "no such key", _nearest(name, known) + f"there are {', '.join(known)}")
        return values


def _identity(checked: _Checked, family: Family) -> None:
    name = checked.values.get("name")
    if "name" not in checked.values:
        checked.fault("name", "missing", "give the task a name, such as my_task")
    elif not isinstance(name, str) or NAME.fullmatch(name) is None:
        remedy = "use a letter, then letters, digits and _, all lower-case, 40 at most"
        checked.fault("name", f"{_shown(name)} is no plain name", remedy)
    elif name in TAKEN:
        checked.fault("name", f"{name!r} is taken", "give the task a name of its own, it is another task")
    else:
        checked.found["name"] = name
    checked.take("title", name, _is_line, "a line of text")
    checked.found["family"] = checked.values["family"]
    checked.one_of("metric", family.metrics)


def _labels(checked: _Checked, family: Family) -> None:
    is_tagging = family.target == "tag"
    for key in ("labels", "ignored") if is_tagging else ("labels",):
        labels = checked.values.get(key, [] if is_tagging else None)
        if labels is None:
            checked.fault(key, "missing", 'list them all: labels = ["one", "two"]')
        elif not isinstance(labels, list) or not all(_is_line(label) for label in labels):
            remedy = f"give a list of short texts in quotes, {LONGEST_TEXT} characters at most, no tabs or line ends"
            checked.fault(key, f"{_shown(labels)} is no list of labels", remedy)
        elif twice := [label for number, label in enumerate(labels) if label in labels[:number]]:
            checked.fault(key, f"{_shown(twice[0])} is there twice", "remove one")
        elif len(labels) < (family.least_labels or 0):
            checked.fault(key, f"{len(labels)} of them", f"give at least {family.least_labels}")
        elif family.target == "labels" and (commas := [label for label in labels if "," in label]):
            checked.fault(key, f"{_shown(commas[0])} holds a comma", "write it without; commas separate labels")
        elif is_tagging and (odd := [kind for kind in labels if len(kind.split()) > 1 or kind[:2] in ("B-", "I-")]):
            checked.fault(key, f"{_shown(odd[0])} is no type of mention", "write `X` for the tags B-X and I-X")
        else:
            checked.found[key] = list(labels)
    both = set(checked.found.get("labels", ())) & set(checked.found.get("ignored", ()))
    if both:
        checked.fault("ignored", f"{_shown(min(both))} is in labels too", "remove one")
    elif checked.found.get("ignored") and not checked.found.get("labels"):
        checked.fault("ignored", "without labels nothing can be told apart", "list in labels what is to be found")
    kinds = checked.found.get("labels", ())
    if is_tagging and len(kinds) > 1 and checked.values.get("collapse_types") is not True:
        reason = f"calling every {kinds[0]} a {kinds[1]} would score 100"
        remedy = "keep one and list the others under ignored (they count as O), or write collapse_types = true"
        checked.fault("labels", f"{len(kinds)} types of mention, which the score counts as one ({reason})", remedy)


def _negative(checked: _Checked) -> None:
    labels, metric = checked.found.get("labels"), checked.found.get("metric")
    negative = checked.values.get("negative")
    if "negative" in checked.values:
        if labels is not None and negative not in labels:
            checked.fault("negative", f"{_shown(negative)} is no label", f"give one of {', '.join(labels)}")
        elif metric == "accuracy":
            checked.fault("negative", "accuracy counts every class", 'leave it out, or metric = "micro F1"')
        else:
            checked.found["negative"] = negative
    elif metric == "micro F1":
        remedy = 'name the class that does not count, or metric = "accuracy", which is micro F1 over all classes'
        checked.fault("negative", "missing", remedy)


def _files(checked: _Checked) -> None:
    """Train and test have a file; dev may be left out, or be ""."""
    given = checked.table("files", SPLITS)
    if given is None:
        return
    is_given = "files" in checked.values
    files: dict[str, Any] = {split: given.get(split) if is_given else PLAIN_FILENAMES[split] for split in SPLITS}
    if files["dev"] == "" or (is_given and "dev" not in given):
        del files["dev"]
    for split, name in files.items():
        if is_given and split not in given:
            checked.fault(f"files.{split}", "missing", "name the file of train and of test; dev may be left out")
        elif not _is_line(name) or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            checked.fault(f"files.{split}", f"{_shown(name)} is no file's name", "name a file in the data folder")
    names = [str(PurePosixPath(name)) for name in files.values() if isinstance(name, str)]
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        checked.fault("files", f"{_shown(twice[0])} is the file of two splits", "give each split a file of its own")
    checked.found["files"] = files


def _columns(checked: _Checked, family: Family) -> None:
    """[columns] of all files, and [columns.test] and the like in its place for the file of one split."""
    texts = dict.fromkeys(name for columns in family.texts for name in columns)
    index = () if family.target == "tag" else ("index",)
    names = (*index, *texts, family.target)
    given = checked.table("columns", (*names, *SPLITS))
    if given is None:
        return
    splits = {split: columns for split, columns in given.items() if split in SPLITS}
    if faulty := [split for split, columns in splits.items() if not isinstance(columns, Mapping)]:
        checked.fault(f"columns.{faulty[0]}", "is no table", f"write [columns.{faulty[0]}] and below it the columns")
        return
    common = {name: column for name, column in given.items() if name not in SPLITS}
    tables: dict[str, Mapping[str, Any]] = dict(splits)
    if common or any(split not in splits for split in checked.found.get("files", SPLITS)):
        tables[""] = common
    found = {split: _of_file(checked, family, split, columns, names) for split, columns in tables.items()}
    if len({tuple(name for name in columns if name in texts) for columns in found.values()}) > 1:
        checked.fault("columns", "one sentence in one file and two in another", "give all files the same texts")
    checked.found["columns"] = found.pop("", {}) | {split: found[split] for split in SPLITS if split in found}


def _of_file(
    checked: _Checked, family: Family, split: str, given: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    """The checked columns of one split's file, or (split "") of all."""
    key = f"columns.{split}" if split else "columns"
    if split:
        for name in given:
            if name not in names:
                checked.fault(f"{key}.{name}", "no such key", _nearest(name, names) + f"there are {', '.join(names)}")
    chosen = next((columns for columns in family.texts if set(columns) & set(given)), family.texts[0])
    for name in (*chosen, family.target):
        if name not in given:
            checked.fault(f"{key}.{name}", "missing", "name the column that holds it")
    for name in (name for columns in family.texts for name in columns):
        if name in given and name not in chosen:
            checked.fault(f"{key}.{name}", f"beside {chosen[0]}", f"give {' or '.join(map(_joined, family.texts))}")
    by_number = family.target == "tag" or _lacks_header(checked, split)
    for name, column in given.items():
        is_number = isinstance(column, int) and not isinstance(column, bool) and 0 < column <= MOST_COLUMNS
        if not is_number and (by_number or not _is_line(column)):
            wanted = "its number, counted from 1" if by_number else "its name in the header, or its number from 1"
            checked.fault(f"{key}.{name}", f"{_shown(column)} is no column", f"give {wanted}")
    places = [column for column in given.values() if isinstance(column, int | str)]
    if len(set(places)) < len(places):
        checked.fault(key, "two of them are the same column", "give each its own")
    return {name: given[name] for name in names if name in given and name in ("index", *chosen, family.target)}


def _lacks_header(checked: _Checked, split: str) -> bool:
    """Whether a file to which those columns belong has no header."""
    header = checked.values.get("header")
    if not isinstance(header, Mapping):
        return header is False
    columns = checked.values["columns"]
    return any(
        header.get(one) is False for one in ([split] if split else [one for one in SPLITS if one not in columns])
    )


def _forms(checked: _Checked, family: Family) -> None:
    if "header" in family.keys:
        files = list(checked.found.get("files", SPLITS))
        example = ", ".join(f"{split} = true" for split in files)
        wanted = f"true or false, or a table that says it for each file: header = {{ {example} }}"
        checked.take("header", True, lambda value: _is_header(value, files), wanted)
        header = checked.found.get("header")
        if isinstance(header, Mapping) and len(set(header.values())) == 1:
            checked.found["header"] = next(iter(header.values()))
    if "separator" in family.keys:
        checked.take("separator", "tab", lambda value: value in SEPARATORS, f"one of {', '.join(SEPARATORS)}")
        checked.take("comment", None, _is_line, "what lines start with that are to be skipped")
        wanted = f"a number of words from 1 to {MOST_WORDS}"
        checked.take("scheme", None, lambda value: value in tuple(SCHEMES), f"one of {', '.join(SCHEMES)}")
        checked.take("collapse_types", None, lambda value: isinstance(value, bool), "true or false")
        for key, default in (("scheme", "auto"), ("collapse_types", False)):  # runs of before these keys are the same
            if checked.found.get(key) == default:
                del checked.found[key]
        checked.take("longest_sentence", LONGEST_SENTENCE, _is_word_count, wanted)


def _recipe(checked: _Checked) -> None:
    given = checked.table("recipe", RECIPE)
    if given is None:
        return
    for name, value in given.items():
        if not _is_number(value):
            checked.fault(f"recipe.{name}", f"{_shown(value)} is no number", "give a number")
    checked.found["recipe"] = dict(sorted(given.items()))


def _is_header(value: Any, files: Sequence[str]) -> bool:
    """true, false, or one of them for each split that has a file (and dev, so that its file may come and go)."""
    if not isinstance(value, Mapping):
        return isinstance(value, bool)
    return set(files) <= value.keys() <= set(SPLITS) and all(isinstance(one, bool) for one in value.values())


def _is_word_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_WORDS


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _is_line(value: Any) -> bool:
    """Text that can stand in a table: printable, neither empty nor long, without white space around it."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) == len(value) <= LONGEST_TEXT


def _joined(names: Sequence[str]) -> str:
    return " and ".join(names)


def _nearest(value: Any, known: Iterable[str]) -> str:
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(value).lower()[:LONGEST_TEXT], names, n=1) if isinstance(value, str) else []
    return f"did you mean {names[close[0]]}? " if close else ""


def _shown(value: Any) -> str:
    """A value in an error: on one line, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list within lists
        return f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _one_line(key: str) -> str:
    return key if key.isprintable() and len(key) <= LONGEST_SHOWN else repr(key)[: LONGEST_SHOWN + 2]

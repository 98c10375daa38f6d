"""A task is a TOML file: the one model of such a file, and the one way from it to a Task.

    name = "symptoms"                   # of run folders and columns
    family = "multiclass"               # or similarity, tagging, multilabel
    metric = "micro F1"
    labels = ["none", "mild", "severe"]
    negative = "none"
    [columns]
    sentence = "text"                   # a name in the header of the files, or a column's number
    label = "degree"

tasks/definitions/ holds those of BLUE; a custom task is such a file elsewhere. docs/custom_tasks.md has whole examples
and the table of all keys. A checked definition is plain values, every default filled in, so that two files that mean
the same are the same; it is kept in a run's config.json as `own_task`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from harness import validation
from harness.files import MOST_DOTS, settings_text
from harness.task import SPLITS, Task, UserError
from harness.validation import fault, faults_below, near, one_of, shown
from tasks import conll
from tasks.metrics import TAGS, tags_of
from tasks.multiclass import MulticlassTask
from tasks.multilabel import MultilabelTask
from tasks.published import COMMON
from tasks.readers import PLAIN_FILENAMES, Layout
from tasks.similarity import SimilarityTask
from tasks.tagging import TaggingTask

SHIPPED = Path(__file__).parent / "definitions"
# Names that no custom task may have: BLUE's, what the original called two of them, a column of the report. Those of
# other benchmarks it may: people had files of these names before we shipped some.
TAKEN = {*(path.stem for path in (SHIPPED / "blue").glob("*.toml")), "bc5cdr", "total"}
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
NO_TYPE = re.compile(r"\s|^[BI]-|^O$")  # in what is given as a type of mention
LARGEST_FILE = 100_000  # bytes
LONGEST_TEXT = 200  # characters
MOST_WORDS, MOST_COLUMNS = 10_000, 1000
SEPARATORS = ("tab", "blanks")


# What a definition may say stands in the class of its family. metrics: name in the file -> key in Report.values; texts:
# columns of the texts, one of these; target: column of what is to be predicted; formats: in place of columns, name ->
# columns of its texts; keys: beside COMMON_KEYS; defaults: of those keys; least_labels: 0 where they may be left out.
Family = type[SimilarityTask] | type[TaggingTask] | type[MulticlassTask] | type[MultilabelTask]
FAMILIES: Mapping[str, Family] = {
    "similarity": SimilarityTask,
    "tagging": TaggingTask,
    "multiclass": MulticlassTask,
    "multilabel": MultilabelTask,
}
COMMON_KEYS = ("name", "title", "family", "metric", "files", "format", "columns", "train_splits", "recipe")
# Said by a format, so that a definition with one cannot have them.
OF_A_FORMAT = ("columns", "header", "separator", "scheme")
# Left out of a checked definition where they say this: runs that began before there was such a key are the same.
OMITTED = {"scheme": "auto", "collapse_types": False, "disjoint": False, "train_splits": ["train"], "label_titles": []}
Faults = dict[tuple[str, ...], PydanticCustomError]  # by their places below a table
RECIPE_NUMBERS = (
    *("learning_rate", "num_train_epochs", *COMMON, "warmup_ratio", "layerwise_lr_decay", "adam_beta1", "adam_beta2"),
    *("reinit_top_layers", "label_smoothing", "early_stopping_patience", "stride"),
)
RECIPE_TEXTS = ("lr_scheduler", "freeze_layers", "class_weights", "head", "pooling", "window_pooling")


def _is_text_or_number(value: Any) -> bool:
    return _is_line(value) or _is_number(value)


def _is_line(value: Any) -> bool:
    """Text that can stand in a table: printable, neither empty nor long, without white space around it."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) == len(value) <= LONGEST_TEXT


def _is_lines(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_line, value))


def _is_weights(value: Any) -> bool:
    """A file's name, or what it held, which may be long: `launch.run.settings.own_task` puts that in its place."""
    return _is_line(value) or (isinstance(value, str) and value.isprintable() and value.startswith("{"))


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any, most: int = MOST_WORDS) -> bool:
    """A whole number from 1 on."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _is_inside(value: Any) -> bool:
    """A file in the data folder."""
    return _is_line(value) and not PurePosixPath(value).is_absolute() and ".." not in PurePosixPath(value).parts


SHORT_TEXTS = f"short texts in quotes, {LONGEST_TEXT} characters at most, no tabs or line ends"
A_LIST = f"no list of labels; give a list of {SHORT_TEXTS}"
# Of keys with plain values: what is right, what any other value is and what to give in its place.
FORMS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "title": (_is_line, "wrong; give a line of text"),
    "collapse_types": (_is_flag, "wrong; give true or false"),
    "labels": (_is_lines, A_LIST),
    "ignored": (_is_lines, A_LIST),
    "label_titles": (_is_lines, A_LIST),
    "separator": (SEPARATORS.__contains__, f"wrong; give one of {', '.join(SEPARATORS)}"),
    "comment": (_is_line, "wrong; give what lines start with that are to be skipped"),
    "scheme": (tuple(conll.SCHEMES).__contains__, f"wrong; give one of {', '.join(conll.SCHEMES)}"),
    "disjoint": (_is_flag, "wrong; give true or false"),
    "longest_sentence": (_is_count, f"wrong; give a number of words from 1 to {MOST_WORDS}"),
    "train_splits": ((["train"], ["train", "dev"]).__contains__, 'wrong; give ["train"] or ["train", "dev"]'),
}


def _complaint(key: str, value: Any, above: Mapping[str, Any]) -> str | None:
    """What is wrong with the value of a key beside those above it in the definition, and what to do."""
    labels, metric, family = above.get("labels"), above.get("metric"), FAMILIES[above["family"]]
    listed = value if isinstance(value, list) else []
    is_tagging = family.target == "tag"
    match key:
        case "labels" if value is None and family.least_labels:
            return 'missing; list them all: labels = ["one", "two"]'
        case "labels" | "ignored" if twice := [one for number, one in enumerate(listed) if one in listed[:number]]:
            return f"{shown(twice[0])} is there twice; remove one"
        case "labels" if value is not None and len(listed) < family.least_labels:
            return f"{len(listed)} of them; give at least {family.least_labels}"
        case "labels" if family.target == "labels" and (commas := [label for label in listed if "," in label]):
            return f"{shown(commas[0])} holds a comma; write it without; commas separate labels"
        case "labels" | "ignored" if is_tagging and (odd := [one for one in listed if NO_TYPE.search(one)]):
            return f"{shown(odd[0])} is no type of mention; write `X` for the tags B-X and I-X"
        case "ignored" if both := set(listed) & set(labels or ()):
            return f"{shown(min(both))} is in labels too; remove one"
        case "ignored" if listed and labels == []:
            return "without labels nothing can be told apart; list in labels what is to be found"
        case "label_titles" if listed and labels and len(listed) != len(labels):
            return f"{len(listed)} of them for {len(labels)} labels; give one for each, in the same order"
        case "negative" if value is None and metric == "micro F1" and family.target == "label":
            remedy = 'name the class that does not count, or metric = "accuracy", which is micro F1 over all classes'
            return f"missing; {remedy}"
        case "negative" if value is not None and labels is not None and value not in labels:
            return f"{shown(value)} is no label; give one of {', '.join(labels)}"
        case "negative" if value is not None and metric in ("accuracy", "MCC"):
            return f'{metric} counts every class; leave it out, or metric = "micro F1"'
        case "disjoint" if value and len(labels or ()) > 1 and not above.get("collapse_types"):
            return "mentions of several types are scored as seqeval does, none of them disjoint; leave it out"
        case "train_splits" if not set(listed) <= set(above.get("files", SPLITS)):
            return "dev has no file; name it under [files], or train on train alone"
    return None


RECIPE_FORMS = {
    **dict.fromkeys(RECIPE_NUMBERS, (_is_number, "no number; give a number")),
    **dict.fromkeys(RECIPE_TEXTS, (_is_text_or_number, "no text; write it in quotes")),
    "class_weights": (_is_weights, "no text; write a file's name in quotes, relative to this file, or `balanced`"),
}


def _check_table(table: Any, key: str, forms: Mapping[str, tuple[Callable[[Any], bool], str]]) -> None:
    """Raises all faults of a table of plain values: `forms` says of each key that it may have what FORMS says."""
    if not isinstance(table, Mapping):
        raise _no_table(table, key, tuple(forms))
    found: Faults = {
        (name,): fault(f"{shown(value)} is {forms[name][1]}") if name in forms else _no_such_key(name, tuple(forms))
        for name, value in table.items()
        if name not in forms or not forms[name][0](value)
    }
    if key == "files":
        missing = fault("missing; name the file of train and of test; dev may be left out")
        found |= {(split,): missing for split in ("train", "test") if split not in table}
    if found:
        raise faults_below(found)


def _check_files(value: Any) -> dict[str, str]:
    is_right = {"train": _is_inside, "dev": lambda name: name == "" or _is_inside(name), "test": _is_inside}
    wrong = "no file's name; name a file in the data folder"
    _check_table(value, "files", {split: (form, wrong) for split, form in is_right.items()})
    files = {split: str(value[split]) for split in SPLITS if value.get(split)}
    plain = [str(PurePosixPath(name)) for name in files.values()]
    if twice := [name for number, name in enumerate(plain) if name in plain[:number]]:
        raise fault(f"{shown(twice[0])} is the file of two splits; give each split a file of its own")
    return files


def _no_table(value: Any, key: str, known: Sequence[str]) -> PydanticCustomError:
    return fault(f"{shown(value)} is no table; write [{key}] and below it {', '.join(known)}")


def _no_such_key(key: str, known: Sequence[str]) -> PydanticCustomError:
    return fault(f"no such key; {near(key, known)}there are {', '.join(known)}")


def _check_header(value: Any, files: Sequence[str]) -> Any:
    """true, false, or one of them for each split that has a file (and dev, so that its file may come and go)."""
    if isinstance(value, Mapping) and set(files) <= value.keys() <= set(SPLITS):
        if all(isinstance(one, bool) for one in value.values()):
            return dict(value) if len(set(value.values())) > 1 else next(iter(value.values()))
    elif isinstance(value, bool):
        return value
    example = ", ".join(f"{split} = true" for split in files)
    remedy = f"give true or false, or a table that says it for each file: header = {{ {example} }}"
    raise fault(f"{shown(value)} is wrong; {remedy}")


def _check_columns(value: Any, above: Mapping[str, Any]) -> Any:
    """The columns of all files, and under the name of a split those of its file alone, in place of them."""
    family, given = FAMILIES[above["family"]], {} if value is None else value
    index = () if family.target == "tag" else ("index",)
    names = (*index, *dict.fromkeys(name for texts in family.texts for name in texts), family.target)
    if not isinstance(given, Mapping):
        raise _no_table(given, "columns", (*names, *SPLITS))
    tables: dict[tuple[str, ...], Any] = {(split,): given[split] for split in SPLITS if split in given}
    common = {name: column for name, column in given.items() if name not in SPLITS}
    if common or not {(split,) for split in above.get("files", SPLITS)} <= tables.keys():
        tables[()] = common
    found: Faults = {}
    for place, table in tables.items():
        if not isinstance(table, Mapping):
            found[place] = fault(f"is no table; write [columns.{place[0]}] and below it the columns")
            continue
        splits = place or [split for split in SPLITS if (split,) not in tables]
        by_number = family.target == "tag" or not all(_has_header(above.get("header"), split) for split in splits)
        of_table = _faults_of_columns(table, family, names if place else (*names, *SPLITS), by_number)
        found |= {(*place, *below): error for below, error in of_table.items()}
    if len({_texts_of(table, family) for table in tables.values() if isinstance(table, Mapping)}) > 1:
        found.setdefault((), fault("one sentence in one file and two in another; give all files the same texts"))
    if found:
        raise faults_below(found)
    in_order = {place: {name: table[name] for name in names if name in table} for place, table in tables.items()}
    common = in_order.pop((), {})
    return common | {split: table for (split,), table in in_order.items()}


def _faults_of_columns(table: Mapping[str, Any], family: Family, known: Sequence[str], by_number: bool) -> Faults:
    """The faults of the columns of a file, by their places below the table."""
    texts = _texts_of(table, family)
    wanted = "its number, counted from 1" if by_number else "its name in the header, or its number from 1"
    found: Faults = {}
    for name, column in table.items():
        if name not in known:
            found[(name,)] = _no_such_key(name, known)
        elif name not in ("index", *texts, family.target):
            either = " or ".join(" and ".join(names) for names in family.texts)
            found[(name,)] = fault(f"beside {texts[0]}; give {either}")
        elif not _is_count(column, MOST_COLUMNS) and (by_number or not _is_line(column)):
            found[(name,)] = fault(f"{shown(column)} is no column; give {wanted}")
    missing = fault("missing; name the column that holds it")
    found |= {(name,): missing for name in (*texts, family.target) if name not in table}
    places = [column for column in table.values() if isinstance(column, int | str)]
    if len(set(places)) < len(places):
        found[()] = fault("two of them are the same column; give each its own")
    return found


class Definition(BaseModel):
    """A task. `checked` fills the defaults in that depend on the family."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Checks of one field against another look back: they see the fields above their own.
    name: str = Field(None, validate_default=True)
    title: str | None = None
    family: str
    metric: str = Field(None, validate_default=True)
    collapse_types: bool | None = None
    labels: list[str] | None = Field(None, validate_default=True)
    ignored: list[str] | None = None
    label_titles: list[str] | None = None
    negative: Any = Field(None, validate_default=True)
    files: Any = PLAIN_FILENAMES  # split -> name in the data folder; there may be no dev set
    format: str | None = None
    header: Any = None
    columns: Any = Field(None, validate_default=True)
    separator: str | None = None
    comment: str | None = None
    scheme: str | None = None
    disjoint: bool | None = None
    longest_sentence: int | None = None
    train_splits: list[str] | None = None
    recipe: Any = Field({}, validate_default=True)  # in place of the encoder's recipe; flags win over both

    @field_validator("*", mode="plain")
    @classmethod
    def _checked(cls, value: Any, info: ValidationInfo) -> Any:
        """The value, where the family has that key, no format says it already, and it fits those above it."""
        above, key = info.data, str(info.field_name)
        if key == "name":
            if value is None:
                raise fault("missing; give the task a name, such as my_task")
            if not isinstance(value, str) or NAME.fullmatch(value) is None:
                remedy = "use a letter, then letters, digits and _, all lower-case, 40 at most"
                raise fault(f"{shown(value)} is no plain name; {remedy}")
            if value in TAKEN and info.context is not SHIPPED:
                raise fault(f"{value!r} is taken; give the task a name of its own, it is another task")
        if value is not None and "family" in above:
            if key not in (*COMMON_KEYS, *FAMILIES[above["family"]].keys):
                raise fault(f"does not belong to family {above['family']}; remove it")
            if key in OF_A_FORMAT and (form := above.get("format")) is not None:
                raise fault(f"beside format {form}, which says it; remove one of them")
        if value is not None and key in FORMS and not FORMS[key][0](value):
            raise fault(f"{shown(value)} is {FORMS[key][1]}")
        if "family" in above and (said := _complaint(key, value, above)) is not None:
            raise fault(said)
        if key in ("metric", "format"):
            family = FAMILIES[above["family"]]
            return one_of(value, family.metrics if key == "metric" else family.formats)
        if key == "header":
            return _check_header(value, above.get("files", SPLITS))
        if key == "columns":
            return None if above.get("format", "faulty") is not None else _check_columns(value, above)
        if key == "recipe":
            _check_table(value, key, RECIPE_FORMS)
            return dict(sorted(value.items()))
        return _check_files(value) if key == "files" else value

    def values(self) -> dict[str, Any]:
        """The definition as plain values, for a run's settings."""
        found = {"name": self.name, "title": self.name, **self.model_dump(exclude_none=True)}
        found = {key: value for key, value in found.items() if OMITTED.get(key) != value}
        return found | ({"collapse_types": False} if self.is_typed else {})  # without it: see `build`

    @property
    def is_typed(self) -> bool:
        """Whether it has several types of mention that are told apart."""
        return self.family == "tagging" and len(self.labels or ()) > 1 and not self.collapse_types

    def layout(self, split: str) -> Layout | conll.Form:
        """How a split's file is written."""
        columns = {} if self.format else _columns_of(self.columns, split)
        if self.family != "tagging":
            headers = {one: _has_header(self.header, one) for one in self.files}
            return Layout(split, columns, headers, FAMILIES[self.family].target, self.format)
        form = conll.BLUE
        if not self.format:
            word, tag, blanks = columns["word"] - 1, columns["tag"] - 1, self.separator == "blanks"
            form = conll.Form(word, tag, blanks=blanks, plain=not self.labels, scheme=self.scheme or "auto")
        kinds, ignored = tuple(self.labels or ()), tuple(self.ignored or ())
        longest, typed = self.longest_sentence or conll.LONGEST_SENTENCE, self.is_typed
        # All but BLUE's rule for mentions of one type is seqeval's.
        form = replace(form, plain=form.plain and not typed, typed=typed, repairs=typed or self.metric != "mention F1")
        return replace(form, comment=self.comment, kinds=kinds, ignored=ignored, longest=longest)

    def task(self) -> Task:
        """The task that is defined."""
        family, labels = FAMILIES[self.family], tuple(self.labels or ())
        if self.family == "tagging":
            labels = tags_of(labels) if self.is_typed else TAGS
        return family(
            name=self.name,
            title=self.title or self.name,
            filenames=self.files,
            layout=self.layout,
            score_key=family.metrics[self.metric],
            labels=labels,
            label_titles=tuple(self.label_titles or ()),
            negative=self.negative,
            train_splits=tuple(self.train_splits or ("train",)),
            disjoint=bool(self.disjoint),
        )


def _columns_of(columns: Mapping[str, Any], split: str) -> dict[str, Any]:
    """The columns of a split's file: what [columns.<split>] says, else [columns]."""
    return columns.get(split) or {name: column for name, column in columns.items() if name not in SPLITS}


def _texts_of(columns: Mapping[str, Any], family: Family) -> tuple[str, ...]:
    """Which columns of texts are meant."""
    return next((texts for texts in family.texts if set(texts) & set(columns)), family.texts[0])


def _has_header(header: Any, split: str) -> bool:
    return bool(header.get(split, True) if isinstance(header, Mapping) else header is not False)


def checked(values: Mapping[str, Any], where: str, shipped: bool = False) -> Definition:
    """The definition that a file's values make. Raises UserError that lists every fault, a line each."""
    try:
        family = FAMILIES[one_of(values.get("family"), FAMILIES)]
    except PydanticCustomError as error:
        raise UserError(f"{where}: key family: {error.message()}") from None
    said, keys = OF_A_FORMAT if "format" in values else (), (*COMMON_KEYS, *family.keys)
    filled = {**{key: value for key, value in family.defaults.items() if key not in said}, **values}
    return validation.checked(
        lambda: Definition.model_validate(filled, context=SHIPPED if shipped else None),
        f"{where}: key ",
        lambda key: f"; {near(key, keys)}there are {', '.join(keys)}",
    )


def read(path: Path) -> tuple[dict[str, Any], Path | None]:
    """(definition, data folder where the file names one). Raises UserError that lists every fault, a line each."""
    where = " ".join(str(path).splitlines())
    if not os.path.isfile(path):
        raise UserError(f"--task_file {where}: no such file; name a TOML file that defines a task")
    if os.path.getsize(path) > LARGEST_FILE:
        raise UserError(f"--task_file {where}: larger than {LARGEST_FILE} bytes; name a TOML file, not the data")
    content = settings_text(path, f"--task_file {where}", "check its permissions, and that it is UTF-8 text")
    if max((line.count(".") for line in content.splitlines()), default=0) > MOST_DOTS:
        raise UserError(f"{where}: a line of more than {MOST_DOTS} dots; no key and no value needs so many")
    try:
        values = tomllib.loads(content)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: not TOML ({reason}); docs/custom_tasks.md has files to start from") from None
    folder = values.pop("data_dir", None)
    definition = checked(values, where).values()
    if folder is None:
        return definition, None
    if not isinstance(folder, str) or not folder.strip() or not folder.isprintable():
        raise UserError(f"{where}: key data_dir: no folder's name; write it in quotes, relative to this file")
    return definition, Path(os.path.normpath(path.absolute().parent / os.path.expanduser(folder)))


def build(definition: Mapping[str, Any], where: str = "own_task") -> Task:
    """The task of a definition that a run keeps. Raises UserError where somebody has changed it to one that is none."""
    labels = definition.get("labels")
    if definition.get("family") == "tagging" and isinstance(labels, list) and len(labels) > 1:
        definition = {"collapse_types": True, **definition}  # what runs of before that key meant; newer ones have it
    return checked(definition, where, shipped=True).task()


def shipped(path: Path) -> Definition:
    """That of a file in tasks/definitions/."""
    return checked(tomllib.loads(path.read_text(encoding="utf-8")), path.name, shipped=True)


def digest(definition: Mapping[str, Any]) -> str:
    """SHA-256 of a checked definition's plain values, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True, default=list).encode()).hexdigest()


def text(definition: Mapping[str, Any], data_dir: str | None = None) -> str:
    """A task file of that meaning; `read` gives the same definition back."""
    named = {"data_dir": data_dir} if data_dir is not None and data_dir.isprintable() else {}
    plain = {name: value for name, value in definition.items() if not isinstance(value, dict)}
    lines = [f"{name} = {_toml(value)}" for name, value in (plain | named).items()]
    for table in (name for name in definition if name not in plain):
        lines += ["", f"[{table}]", *(f"{name} = {_toml(value)}" for name, value in definition[table].items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """JSON of printable text, numbers and lists is TOML too; tables are written in one line."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{name} = {_toml(one)}' for name, one in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)

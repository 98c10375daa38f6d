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

import json
import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from harness.files import MOST_DOTS, settings_text
from harness.task import SPLITS, Example, Task, UserError
from tasks import columns, conll, multiclass, multilabel, similarity, tagging
from tasks.faults import LONGEST_TEXT, checked_by, fault, is_count, is_line, lines, one_of, shown
from tasks.schemes import SCHEMES
from tasks.tables import PLAIN_FILENAMES, Layout, locate

__all__ = ["Definition", "build", "checked", "read", "shipped", "text", "text_columns"]

SHIPPED = Path(__file__).parent / "definitions"
# Names that no custom task may have: the shipped ones, what the original called two of them, a column of the report.
TAKEN = {*(path.stem for path in SHIPPED.rglob("*.toml")), "bc5cdr", "total"}
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
LARGEST_FILE = 100_000  # bytes
SEPARATORS = ("tab", "blanks")
MOST_WORDS = 10_000


@dataclass(frozen=True)
class Family:
    """What the definition of a task of a family may say."""

    metrics: Mapping[str, str]  # name in the file -> key in Report.values
    texts: Sequence[tuple[str, ...]]  # columns of the texts: one of these
    target: str  # column of what is to be predicted
    formats: Mapping[str, tuple[str, ...]]  # in place of columns: name -> columns of its texts
    least_labels: int  # 0: they may be left out
    keys: tuple[str, ...]  # beside COMMON_KEYS
    defaults: Mapping[str, Any]  # of its keys; title and files have theirs


COMMON_KEYS = ("name", "title", "family", "metric", "files", "format", "columns", "train_splits", "recipe")
SENTENCE, PAIR = ("sentence",), ("sentence1", "sentence2")
FAMILIES: Mapping[str, Family] = {
    "similarity": Family(
        metrics={"Pearson": "pearson"},
        texts=(PAIR,),
        target="score",
        formats={"blue-pairs": PAIR},
        least_labels=0,
        keys=("header",),
        defaults={"header": True},
    ),
    "tagging": Family(
        metrics={"mention F1": "f1"},
        texts=(("word",),),
        target="tag",
        formats={"blue-words": ("word",)},
        least_labels=0,
        keys=("labels", "ignored", "collapse_types", "scheme", "separator", "comment", "longest_sentence", "disjoint"),
        defaults={"labels": [], "ignored": [], "separator": "tab", "longest_sentence": conll.LONGEST_SENTENCE},
    ),
    "multiclass": Family(
        metrics={"accuracy": "accuracy", "micro F1": "micro_f1", "macro F1": "macro_f1"},
        texts=(SENTENCE, PAIR),
        target="label",
        formats={"blue-relations": SENTENCE, "blue-pairs": PAIR},
        least_labels=2,
        keys=("labels", "label_titles", "negative", "header"),
        defaults={"header": True},
    ),
    "multilabel": Family(
        metrics={"example-based F1": "f1", "micro F1": "micro_f1"},
        texts=(SENTENCE,),
        target="labels",
        formats={"blue-documents": SENTENCE},
        least_labels=1,
        keys=("labels", "label_titles", "header"),
        defaults={"header": True},
    ),
}
# Said by a format, so that a definition with one cannot have them.
OF_A_FORMAT = ("columns", "header", "separator", "scheme")
# Left out of a checked definition where they say this: runs that began before there was such a key are the same.
WITHOUT_EFFECT = {
    **{"scheme": "auto", "collapse_types": False, "disjoint": False},
    **{"train_splits": ["train"], "label_titles": []},
}


def _is_inside(value: Any) -> bool:
    """A file in the data folder."""
    return is_line(value) and not PurePosixPath(value).is_absolute() and ".." not in PurePosixPath(value).parts


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


A_LIST = f"give a list of short texts in quotes, {LONGEST_TEXT} characters at most, no tabs or line ends"
A_FILE = "no file's name; name a file in the data folder"
Line = Annotated[str, checked_by(is_line, "wrong; give a line of text")]
Lines = Annotated[
    list[str],
    checked_by(lambda value: isinstance(value, list) and all(map(is_line, value)), f"no list of labels; {A_LIST}"),
]
Flag = Annotated[bool, checked_by(lambda value: isinstance(value, bool), "wrong; give true or false")]
File = Annotated[str, checked_by(_is_inside, A_FILE)]
FileOrNone = Annotated[str, checked_by(lambda value: value == "" or _is_inside(value), A_FILE)]
Number = Annotated[float, checked_by(_is_number, "no number; give a number")]
Beginning = Annotated[str, checked_by(is_line, "wrong; give what lines start with that are to be skipped")]
Separator = Annotated[str, checked_by(lambda value: value in SEPARATORS, f"wrong; give one of {', '.join(SEPARATORS)}")]
Scheme = Annotated[str, checked_by(lambda value: value in tuple(SCHEMES), f"wrong; give one of {', '.join(SCHEMES)}")]
WordCount = Annotated[
    int, checked_by(lambda value: is_count(value, MOST_WORDS), f"wrong; give a number of words from 1 to {MOST_WORDS}")
]
TrainSplits = Annotated[
    list[str],
    checked_by(lambda value: value in (["train"], ["train", "dev"]), 'wrong; give ["train"] or ["train", "dev"]'),
]


class Table(BaseModel):
    """A part of a definition."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Files(Table):
    """File names in the data folder; there may be no dev set."""

    train: File
    dev: FileOrNone = ""
    test: File

    @model_validator(mode="after")
    def _are_different(self) -> Files:
        names = [str(PurePosixPath(name)) for name in self.by_split.values()]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise fault(f"{shown(name)} is the file of two splits", "give each split a file of its own")
        return self

    @property
    def by_split(self) -> dict[str, str]:
        return {split: name for split in SPLITS if (name := getattr(self, split))}


class Recipe(Table):
    """Settings in place of those of the encoder's recipe; flags win over both."""

    learning_rate: Number | None = None
    num_train_epochs: Number | None = None
    max_seq_length: Number | None = None
    per_gpu_train_batch_size: Number | None = None
    per_gpu_eval_batch_size: Number | None = None
    gradient_accumulation_steps: Number | None = None
    seed: Number | None = None
    weight_decay: Number | None = None
    warmup_steps: Number | None = None
    adam_epsilon: Number | None = None
    max_grad_norm: Number | None = None


class Definition(Table):
    """A task. `checked` fills the defaults in that depend on the family."""

    # Checks of one field against another look back: they see the fields above their own.
    name: str
    title: Line | None = None
    family: str
    metric: str
    collapse_types: Flag | None = None
    labels: Lines | None = Field(None, validate_default=True)
    ignored: Lines | None = None
    label_titles: Lines | None = None
    negative: Any = Field(None, validate_default=True)
    files: Files = Files(**PLAIN_FILENAMES)
    format: str | None = None
    header: Any = None
    columns: Any = Field(None, validate_default=True)
    separator: Separator | None = None
    comment: Beginning | None = None
    scheme: Scheme | None = None
    disjoint: Flag | None = None
    longest_sentence: WordCount | None = None
    train_splits: TrainSplits | None = None
    recipe: Recipe = Recipe()

    @field_validator("*", mode="before")
    @classmethod
    def _has_a_place(cls, value: Any, info: ValidationInfo) -> Any:
        """Whether the family has that key, and no format says it already."""
        family, key = info.data.get("family"), str(info.field_name)
        if value is not None and family is not None:
            if key not in (*COMMON_KEYS, *FAMILIES[family].keys):
                raise fault(f"does not belong to family {family}", "remove it")
            if key in OF_A_FORMAT and (form := info.data.get("format")) is not None:
                raise fault(f"beside format {form}, which says it", "remove one of them")
        return value

    @field_validator("name", mode="plain")
    @classmethod
    def _name(cls, value: Any, info: ValidationInfo) -> str:
        if not isinstance(value, str) or NAME.fullmatch(value) is None:
            remedy = "use a letter, then letters, digits and _, all lower-case, 40 at most"
            raise fault(f"{shown(value)} is no plain name", remedy)
        if value in TAKEN and info.context is not SHIPPED:
            raise fault(f"{value!r} is taken", "give the task a name of its own, it is another task")
        return value

    @field_validator("metric", "format", mode="plain")
    @classmethod
    def _is_of_the_family(cls, value: Any, info: ValidationInfo) -> str | None:
        family = FAMILIES[info.data["family"]]
        return one_of(value, family.metrics if info.field_name == "metric" else family.formats)

    @field_validator("labels", "ignored")
    @classmethod
    def _labels(cls, labels: list[str] | None, info: ValidationInfo) -> list[str] | None:
        family, is_tagging = FAMILIES[info.data["family"]], info.data["family"] == "tagging"
        if labels is None:
            if info.field_name == "labels" and family.least_labels:
                raise fault("missing", 'list them all: labels = ["one", "two"]')
            return None
        if twice := [label for number, label in enumerate(labels) if label in labels[:number]]:
            raise fault(f"{shown(twice[0])} is there twice", "remove one")
        if len(labels) < family.least_labels:
            raise fault(f"{len(labels)} of them", f"give at least {family.least_labels}")
        if family.target == "labels" and (commas := [label for label in labels if "," in label]):
            raise fault(f"{shown(commas[0])} holds a comma", "write it without; commas separate labels")
        if is_tagging and (odd := [kind for kind in labels if len(kind.split()) > 1 or kind[:2] in ("B-", "I-")]):
            raise fault(f"{shown(odd[0])} is no type of mention", "write `X` for the tags B-X and I-X")
        if info.field_name == "ignored":
            if both := set(labels) & set(info.data.get("labels", ())):
                raise fault(f"{shown(min(both))} is in labels too", "remove one")
            if labels and info.data.get("labels") == []:
                raise fault("without labels nothing can be told apart", "list in labels what is to be found")
        elif is_tagging and len(labels) > 1 and not info.data.get("collapse_types"):
            raise fault(
                f"{len(labels)} types of mention, which the score counts as one (calling every {labels[0]} a "
                f"{labels[1]} would score 100)",
                "keep one and list the others under ignored (they count as O), or write collapse_types = true",
            )
        return labels

    @field_validator("label_titles")
    @classmethod
    def _titles(cls, titles: list[str] | None, info: ValidationInfo) -> list[str] | None:
        labels = info.data.get("labels")
        if titles and labels and len(titles) != len(labels):
            raise fault(f"{len(titles)} of them for {len(labels)} labels", "give one for each, in the same order")
        return titles

    @field_validator("negative")
    @classmethod
    def _negative(cls, value: Any, info: ValidationInfo) -> Any:
        labels, metric = info.data.get("labels"), info.data.get("metric")
        if value is None and metric == "micro F1" and info.data["family"] == "multiclass":
            remedy = 'name the class that does not count, or metric = "accuracy", which is micro F1 over all classes'
            raise fault("missing", remedy)
        if value is not None and labels is not None and value not in labels:
            raise fault(f"{shown(value)} is no label", f"give one of {', '.join(labels)}")
        if value is not None and metric == "accuracy":
            raise fault("accuracy counts every class", 'leave it out, or metric = "micro F1"')
        return value

    @field_validator("header")
    @classmethod
    def _header(cls, value: Any, info: ValidationInfo) -> Any:
        """true, false, or one of them for each split that has a file (and dev, so that its file may come and go)."""
        files = _splits(info)
        if isinstance(value, Mapping) and set(files) <= value.keys() <= set(SPLITS):
            if all(isinstance(one, bool) for one in value.values()):
                return dict(value) if len(set(value.values())) > 1 else next(iter(value.values()))
        elif value is None or isinstance(value, bool):
            return value
        example = ", ".join(f"{split} = true" for split in files)
        remedy = f"give true or false, or a table that says it for each file: header = {{ {example} }}"
        raise fault(f"{shown(value)} is wrong", remedy)

    @field_validator("columns")
    @classmethod
    def _columns(cls, value: Any, info: ValidationInfo) -> Any:
        """[columns] of all files, and [columns.test] and the like in its place for the file of one split."""
        if info.data.get("format", "faulty") is not None:
            return None
        family, header = FAMILIES[info.data["family"]], info.data.get("header")
        has_header = {split: family.target != "tag" and _has_header(header, split) for split in SPLITS}
        given = {} if value is None else value
        return columns.checked(given, family.texts, family.target, _splits(info), has_header)

    @field_validator("train_splits")
    @classmethod
    def _train_splits(cls, splits: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if splits and not set(splits) <= set(_splits(info)):
            raise fault("dev has no file", "name it under [files], or train on train alone")
        return splits

    def values(self) -> dict[str, Any]:
        """The definition as plain values, for a run's settings."""
        found = {"name": self.name, "title": self.name, **self.model_dump(exclude_none=True)}
        found |= {"files": self.files.by_split, "recipe": dict(sorted(found["recipe"].items()))}
        return {key: value for key, value in found.items() if WITHOUT_EFFECT.get(key) != value}

    def form(self, split: str) -> conll.Form:
        """Tagging: how a split's file is written."""
        kinds, ignored = tuple(self.labels or ()), tuple(self.ignored or ())
        longest = self.longest_sentence or conll.LONGEST_SENTENCE
        if self.format:
            return replace(conll.BLUE, comment=self.comment, kinds=kinds, ignored=ignored, longest=longest)
        its = columns.of_split(self.columns, split)
        return conll.Form(
            its["word"] - 1,
            its["tag"] - 1,
            blanks=self.separator == "blanks",
            comment=self.comment,
            kinds=kinds,
            ignored=ignored,
            plain=not kinds,
            scheme=self.scheme or "auto",
            longest=longest,
        )

    def layout(self, split: str) -> Layout:
        """The other families: where in a split's table everything is."""
        splits = self.files.by_split
        header = {one: _has_header(self.header, one) for one in splits}
        its = {} if self.format else columns.of_split(self.columns, split)
        return Layout(split, its, header, FAMILIES[self.family].target, self.format)

    def task(self) -> Task:
        """The task that is defined."""
        described: dict[str, Any] = {
            "name": self.name,
            "title": self.title or self.name,
            "filenames": self.files.by_split,
            "read": partial(_read, definition=self),
            "train_splits": tuple(self.train_splits or ("train",)),
        }
        if self.family == "similarity":
            return similarity.task(**described)
        if self.family == "tagging":
            return tagging.task(form=self.form("test"), disjoint=bool(self.disjoint), **described)
        described |= {"labels": tuple(self.labels or ()), "label_titles": tuple(self.label_titles or ())}
        score_key = FAMILIES[self.family].metrics[self.metric]
        if self.family == "multilabel":
            return multilabel.task(score_key=score_key, **described)
        return multiclass.task(score_key=score_key, negative=self.negative, **described)


def _read(data_dir: Path, split: str, definition: Definition) -> list[Example]:
    """Task.read. No closure: a task can be pickled."""
    files = definition.files.by_split
    path, labels = locate(data_dir, split, files), tuple(definition.labels or ())
    if definition.family == "tagging":
        others = {data_dir / name: definition.form(other) for other, name in files.items() if other != split}
        return conll.read_sentences(path, split, definition.form(split), others)
    layout = definition.layout(split)
    if definition.family == "similarity":
        return similarity.read(path, layout)
    if definition.family == "multiclass":
        return multiclass.read(path, layout, labels)
    return multilabel.read(path, layout, labels)


def checked(values: Mapping[str, Any], where: str, shipped: bool = False) -> Definition:
    """The definition that a file's values make. Raises UserError that lists every fault, a line each."""
    name = values.get("family")
    try:
        one_of(name, FAMILIES)
    except PydanticCustomError as error:
        raise UserError(f"{where}: key family: {error.message()}") from None
    family = FAMILIES[str(name)]
    said = OF_A_FORMAT if "format" in values else ()
    defaults = {key: value for key, value in family.defaults.items() if key not in said}
    try:
        return Definition.model_validate({**defaults, **values}, context=SHIPPED if shipped else None)
    except ValidationError as error:
        keys = {(): (*COMMON_KEYS, *family.keys), ("files",): SPLITS, ("recipe",): tuple(Recipe.model_fields)}
        files = "name the file of train and of test; dev may be left out"
        missing = {"name": "give the task a name, such as my_task", "files.train": files, "files.test": files}
        missing["metric"] = f"give one of {', '.join(family.metrics)}"
        raise UserError(lines(error, where, keys, missing)) from None


def read(path: Path) -> tuple[dict[str, Any], Path | None]:
    """(definition, data folder where the file names one). Raises UserError that lists every fault, a line each."""
    where = " ".join(str(path).splitlines())
    try:
        if not path.is_file():
            raise UserError(f"--task_file {where}: no such file; name a TOML file that defines a task")
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"--task_file {where}: larger than {LARGEST_FILE} bytes; name a TOML file, not the data")
        content = settings_text(path, f"--task_file {where}", "check its permissions, and that it is UTF-8 text")
        if max((line.count(".") for line in content.splitlines()), default=0) > MOST_DOTS:
            raise UserError(f"{where}: a line of more than {MOST_DOTS} dots; no key and no value needs so many")
        values = tomllib.loads(content)
    except OSError as error:
        raise UserError(f"--task_file {where}: cannot be read ({error.strerror}); check its permissions") from None
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
        definition = {"collapse_types": True, **definition}  # what runs of before that key meant; `read` asks for it
    return checked(definition, where).task()


def shipped(name: str) -> Task:
    """The task of a file in tasks/definitions/."""
    return checked(tomllib.loads((SHIPPED / name).read_text(encoding="utf-8")), name, shipped=True).task()


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


def text_columns(definition: Mapping[str, Any]) -> tuple[str, ...]:
    """What the task's examples are made of: sentence, or sentence1 and sentence2."""
    if definition["family"] == "tagging":
        return SENTENCE
    family, of_files = FAMILIES[definition["family"]], definition.get("columns", {})
    if "format" in definition:
        return family.formats[definition["format"]]
    return columns.texts_of(columns.of_split(of_files, "train"), family.texts)


def _splits(info: ValidationInfo) -> tuple[str, ...]:
    """Those that have a file."""
    return tuple(info.data["files"].by_split) if "files" in info.data else SPLITS


def _has_header(header: Any, split: str) -> bool:
    return bool(header.get(split, True) if isinstance(header, Mapping) else header is not False)

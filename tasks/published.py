"""What is published of the tasks: recipes (recipes.toml), scores of encoders and sizes of the data (published.toml),
and their corpora (corpora.toml)."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from harness.validation import unknown


class Mean(NamedTuple):
    """Test score over five seeds, times 100."""

    mean: float
    std: float


@dataclass(frozen=True)
class Size:
    """How many there are of something in each split."""

    what: str  # documents | rows | mentions | words of mentions | positive | false | a label
    train: int
    dev: int
    test: int
    tolerance: float = 0.01  # relative difference that says nothing
    note: str = ""  # why test has another number than the corpus itself


@dataclass(frozen=True)
class Distribution:
    """One file that anyone may download."""

    url: str
    file: str  # its name here
    licence: str  # terms in words, and where they stand
    sha256: str | None = None  # None: nobody publishes one, so that the first download sets it


@dataclass(frozen=True)
class Corpus:
    """A published corpus."""

    tasks: tuple[str, ...] = ()  # that are made of it
    expects: str = ""  # what launch/prepare.py --source takes, in words
    download: Distribution | None = None  # None: not open to everyone
    apply: str = ""  # then, where to apply
    dev_ids: frozenset[str] = frozenset()  # of the documents of a split, where a list of them is published
    test_ids: frozenset[str] = frozenset()  # the same


@dataclass(frozen=True)
class Setting:
    """How an encoder was fine-tuned for a task."""

    learning_rate: float
    epochs: int
    dev: float | None = None  # times 100; None where nothing (usable) is published
    test: float | None = None
    note: str = ""
    flags: Mapping[str, Any] = field(default_factory=dict)  # further settings of this task


@dataclass(frozen=True)
class Recipe:
    """An encoder, or a kind of them, and its settings by task."""

    title: str
    lower_case: bool
    settings: Mapping[str, Setting]
    like: Mapping[str, str] = field(default_factory=dict)  # family -> task, in place of LIKE's
    model: str | None = None  # Hugging Face hub id of the encoder that the scores belong to
    pattern: str | None = None  # searched in the lower-case name of a model; None: taken by --recipe alone
    flags: Mapping[str, Any] = field(default_factory=dict)  # of all tasks, in place of COMMON's
    search: Mapping[str, list[float | int]] | None = None  # what `submit.py --tune` tries; None: `search_space`


def _file(name: str) -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


_SCORES, _SIZES = (_file("published.toml")[name] for name in ("scores", "sizes"))
SOURCE: str = _SCORES["source"]
SEEDS: int = _SCORES["seeds"]
# Title of the encoder -> task, and "total" -> score.
ROWS = TypeAdapter(dict[str, dict[str, Mean]]).validate_python(_SCORES["rows"])
SIZES: Mapping[str, tuple[Size, ...]] = {
    task: tuple(Size(what, **size) for what, size in sizes.items()) for task, sizes in _SIZES.items()
}
_RECIPES = _file("recipes.toml")
COMMON: Mapping[str, float | int | bool] = _RECIPES["common"]  # settings of all tasks and encoders
LIKE: Mapping[str, str] = _RECIPES["like"]  # family of a task without settings -> the task whose settings are taken
RECIPES = TypeAdapter(dict[str, Recipe]).validate_python(_RECIPES["recipes"])


def recipe_for(model_name: str, task: str = "") -> str:
    """The recipe of an encoder by its hub id or path, the default where it is none of them, or has no settings for the
    task while the default has.

    The last three parts of a path are looked at, the last one first, so that a folder of checkpoints may carry the
    name, and a home folder cannot.
    """
    for part in reversed(PurePath(model_name.lower()).parts[-3:]):
        for name, recipe in RECIPES.items():
            suits = task in recipe.settings or task not in RECIPES[_RECIPES["default"]].settings
            if recipe.pattern is not None and re.search(recipe.pattern, part) and suits:
                return name
    return str(_RECIPES["default"])


def like(recipe: str, task: str, family: str) -> str:
    """The task whose settings a recipe takes for this one: itself, or one of its family. Raises UserError for an
    unknown recipe."""
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    found = RECIPES[recipe]
    return task if task in found.settings else {**LIKE, **found.like}[family]


def defaults(recipe: str, task: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a task that a recipe has settings for, by flag name. `own`: what its definition says."""
    found = RECIPES[recipe]
    setting = found.settings[task]
    main = {"learning_rate": setting.learning_rate, "num_train_epochs": setting.epochs}
    return functools.reduce(over, (own, found.flags, main, setting.flags), dict(COMMON))


def over(usual: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` in place of what is usual; a warm-up in steps or as a share is given in place of the other, too, and a
    DeepSpeed JSON, which says the precision itself, in place of that."""
    other = {"warmup_steps": "warmup_ratio", "warmup_ratio": "warmup_steps", "precision": "ds_config"}
    return {name: value for name, value in usual.items() if other.get(name) not in given} | dict(given)


def search_space(recipe: str, task: str, family: str) -> dict[str, list[float | int]]:
    """What a recipe names to be searched; else learning rates, and the numbers of epochs that the published recipes
    name for a task, or for the one that is like it: what they were chosen from, as far as it is known."""
    if own := RECIPES[recipe].search:
        return dict(own)
    known = task if any(task in each.settings for each in RECIPES.values()) else like(recipe, task, family)
    published = [each.settings[known] for each in RECIPES.values() if known in each.settings]
    scored = [setting for setting in published if setting.test is not None] or published
    epochs = sorted({setting.epochs for setting in scored})
    return {"learning_rate": _RECIPES["search"]["learning_rate"], "num_train_epochs": epochs}


_CORPORA = _file("corpora.toml")
# What a table does not say is that of the table it is `like`: the same files, converted in another way.
CORPORA = TypeAdapter(dict[str, Corpus]).validate_python(
    {name: {**_CORPORA.get(table.pop("like", ""), {}), **table} for name, table in _CORPORA.items()}
)

# What corpora are published as, and no task folder holds.
RAW = re.compile(
    r"(?!readme|license|manifest).*\.(xml|jsonl|docx|con|rel|ann|txt|zip|tar|tgz|gz|bz2|xz|rar|7z)"
    r"|(chemprot_|annotation_pairs).*\.tsv|(.*-IOB|JNLPBA)/devel\.tsv|(GAD/)?1/train\.tsv"
    r"|ori_pqal\.json|.*[0-9]b([0-9]_golden)?\.json",
    re.IGNORECASE,
)
MOST_LOOKED_AT = 1000  # files


def how_to_convert(task: str, folder: Path) -> str | None:
    """The command that makes a task's folder of the published corpus, where the folder seems to hold that."""
    corpus = next((name for name, published in CORPORA.items() if task in published.tasks), None)
    paths = islice(folder.rglob("*"), MOST_LOOKED_AT) if folder.is_dir() else ()
    if corpus is None or not any(
        path.is_file() and any(map(RAW.fullmatch, (path.name, "/".join(path.relative_to(folder).parts[-2:]))))
        for path in paths
    ):
        return None
    return f"python launch/prepare.py {corpus} --source {folder} --out DIR, then DIR/{task}"

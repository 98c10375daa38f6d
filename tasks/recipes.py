"""How each encoder was fine-tuned for each task: the look-up in recipes.toml, which has values and sources."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from tasks.faults import unknown

__all__ = ["COMMON", "DEFAULT", "LIKE", "RECIPES", "Recipe", "Setting", "defaults", "recipe_for"]


@dataclass(frozen=True)
class Setting:
    """One cell of the published tables."""

    learning_rate: float
    epochs: int
    dev: float | None = None  # times 100; None where nothing (usable) is published
    test: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Recipe:
    """An encoder and its settings, by task."""

    title: str
    model: str  # Hugging Face hub id of the encoder that the scores belong to
    pattern: str  # regular expression, searched in the lower-case name of a model
    lower_case: bool
    settings: Mapping[str, Setting]


_FILE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
DEFAULT: str = _FILE["default"]
COMMON: Mapping[str, float | int | bool] = _FILE["common"]
LIKE: Mapping[str, str] = _FILE["like"]  # family of a custom task -> the task whose settings are taken
RECIPES: Mapping[str, Recipe] = {
    name: Recipe(**{**recipe, "settings": {task: Setting(**one) for task, one in recipe["settings"].items()}})
    for name, recipe in _FILE["recipes"].items()
}


def recipe_for(model_name: str) -> str:
    """The recipe of an encoder by its hub id or path, DEFAULT where it is none of them.

    The last three parts of a path are looked at, the last one first, so that a folder of checkpoints may carry the
    name, and a home folder cannot.
    """
    for part in reversed(PurePath(model_name.lower()).parts[-3:]):
        for name, recipe in RECIPES.items():
            if re.search(recipe.pattern, part):
                return name
    return DEFAULT


def defaults(recipe: str, task: str) -> dict[str, float | int | bool]:
    """The configuration of a task under a recipe, by flag name. Raises UserError for an unknown recipe or task."""
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    settings = RECIPES[recipe].settings
    if task not in settings:
        raise unknown("task", task, settings)
    setting = settings[task]
    return {"learning_rate": setting.learning_rate, "num_train_epochs": setting.epochs, **COMMON}

"""How each encoder was fine-tuned for each task, and what it scored: values, no code but the look-up.

Source: the tables of sy-wada/blue_benchmark_with_transformers. Scores are as printed there, times 100.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from tasks.faults import unknown

__all__ = ["COMMON", "DEFAULT", "LIKE", "RECIPES", "Mean", "Recipe", "Setting", "defaults", "recipe_for"]

DEFAULT = "biobert-v1.1"

COMMON: Mapping[str, float | int | bool] = {
    "max_seq_length": 128,
    "per_gpu_train_batch_size": 32,
    "per_gpu_eval_batch_size": 32,
    "gradient_accumulation_steps": 1,
    "seed": 12,
    "weight_decay": 0.0,
    "warmup_steps": 0,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
}


@dataclass(frozen=True)
class Setting:
    """One cell of the published tables."""

    learning_rate: float
    epochs: int
    dev: float | None = None  # times 100; None where nothing (usable) is published
    test: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Mean:
    """Test score over five seeds, times 100."""

    mean: float
    std: float


@dataclass(frozen=True)
class Recipe:
    """An encoder and its settings, by task."""

    title: str
    model: str  # Hugging Face hub id of the encoder that the scores belong to
    pattern: str  # regular expression, searched in the lower-case name of a model
    lower_case: bool
    settings: Mapping[str, Setting]
    five_seeds: Mapping[str, Mean] = field(default_factory=dict)  # by task, and "total", the plain mean of the ten


MEDSTS_NOTE = (
    "The page of this encoder repeats its MedNLI row here (85.3 / 83.1), surely by mistake. "
    "85.0 is from the main table of the same source; no dev score is known."
)

BIOBERT = Recipe(
    title="BioBERT-Base v1.1 cased",
    model="dmis-lab/biobert-base-cased-v1.1",
    pattern=r"biobert",
    lower_case=False,
    settings={
        "medsts": Setting(3e-5, 6, None, 85.0, MEDSTS_NOTE),
        "biosses": Setting(4e-5, 50, 90.5, 90.9),
        "bc5cdr_disease": Setting(5e-5, 30, 100.0, 85.8),
        "bc5cdr_chem": Setting(3e-5, 30, 99.9, 93.2),
        "clefe": Setting(5e-5, 30, 98.9, 76.9),
        "ddi2013": Setting(5e-5, 10, 84.7, 80.9),
        "chemprot": Setting(3e-5, 8, 77.0, 73.2),
        "i2b2_2010": Setting(3e-5, 7, 70.6, 74.2),
        "hoc": Setting(5e-5, 15, 89.7, 85.9),
        "mednli": Setting(3e-5, 6, 85.3, 83.1),
    },
    five_seeds={
        "total": Mean(82.8, 0.1),
        "medsts": Mean(84.9, 0.5),
        "biosses": Mean(89.3, 1.7),
        "bc5cdr_disease": Mean(85.7, 0.4),
        "bc5cdr_chem": Mean(93.3, 0.1),
        "clefe": Mean(78.0, 0.8),
        "ddi2013": Mean(80.4, 0.4),
        "chemprot": Mean(73.3, 0.4),
        "i2b2_2010": Mean(74.5, 0.6),
        "hoc": Mean(85.8, 0.6),
        "mednli": Mean(82.9, 0.7),
    },
)

BLUEBERT_P = Recipe(
    title="BlueBERT-Base P",
    model="bionlp/bluebert_pubmed_uncased_L-12_H-768_A-12",
    pattern=r"bluebert|ncbi.?bert",
    lower_case=True,
    settings={
        "medsts": Setting(5e-5, 9, 87.2, 85.3),
        "biosses": Setting(4e-5, 50, 91.5, 88.5),
        "bc5cdr_disease": Setting(5e-5, 30, 100.0, 86.2),
        "bc5cdr_chem": Setting(5e-5, 30, 99.9, 93.5),
        "clefe": Setting(4e-5, 30, 98.9, 77.7),
        "ddi2013": Setting(3e-5, 5, 85.9, 81.2),
        "chemprot": Setting(5e-5, 5, 76.4, 73.5),
        "i2b2_2010": Setting(5e-5, 5, 63.2, 74.2),
        "hoc": Setting(5e-5, 5, 87.7, 86.2),
        "mednli": Setting(4e-5, 15, 84.8, 82.7),
    },
    five_seeds={
        "total": Mean(82.9, 0.1),
        "medsts": Mean(84.8, 0.5),
        "biosses": Mean(90.3, 2.0),
        "bc5cdr_disease": Mean(86.2, 0.4),
        "bc5cdr_chem": Mean(93.3, 0.3),
        "clefe": Mean(78.3, 0.4),
        "ddi2013": Mean(80.7, 0.6),
        "chemprot": Mean(73.5, 0.5),
        "i2b2_2010": Mean(73.9, 0.8),
        "hoc": Mean(86.3, 0.7),
        "mednli": Mean(82.1, 0.8),
    },
)

BLUEBERT_PM = Recipe(
    title="BlueBERT-Base P+M",
    model="bionlp/bluebert_pubmed_mimic_uncased_L-12_H-768_A-12",
    pattern=r"(bluebert|ncbi.?bert).*(mimic|[_-]p\+?m\b)",
    lower_case=True,
    settings={
        "medsts": Setting(5e-5, 9, 88.5, 84.4),
        "biosses": Setting(5e-5, 50, 85.8, 85.2),
        "bc5cdr_disease": Setting(3e-5, 20, 100.0, 84.6),
        "bc5cdr_chem": Setting(5e-5, 20, 99.9, 92.2),
        "clefe": Setting(5e-5, 30, 98.8, 79.5),
        "ddi2013": Setting(4e-5, 10, 84.8, 79.3),
        "chemprot": Setting(4e-5, 9, 72.0, 68.8),
        "i2b2_2010": Setting(5e-5, 8, 84.2, 75.7),
        "hoc": Setting(3e-5, 5, 87.2, 85.2),
        "mednli": Setting(4e-5, 7, 86.4, 82.8),
    },
    five_seeds={
        "total": Mean(81.6, 0.5),
        "medsts": Mean(84.6, 0.8),
        "biosses": Mean(82.0, 5.1),
        "bc5cdr_disease": Mean(84.7, 0.3),
        "bc5cdr_chem": Mean(92.3, 0.1),
        "clefe": Mean(79.9, 0.4),
        "ddi2013": Mean(78.8, 0.8),
        "chemprot": Mean(68.6, 0.5),
        "i2b2_2010": Mean(75.8, 0.3),
        "hoc": Mean(85.0, 0.4),
        "mednli": Mean(83.9, 0.8),
    },
)

OUBIOBERT = Recipe(
    title="ouBioBERT-Base",
    model="seiya/oubiobert-base-uncased",
    pattern=r"oubiobert",
    lower_case=True,
    settings={
        "medsts": Setting(3e-5, 10, 85.7, 84.4),
        "biosses": Setting(3e-5, 50, 89.3, 93.1),
        "bc5cdr_disease": Setting(5e-5, 30, 100.0, 87.3),
        "bc5cdr_chem": Setting(4e-5, 30, 99.9, 93.5),
        "clefe": Setting(3e-5, 30, 98.8, 80.5),
        "ddi2013": Setting(5e-5, 10, 84.9, 81.7),
        "chemprot": Setting(4e-5, 7, 77.8, 75.3),
        "i2b2_2010": Setting(3e-5, 8, 70.6, 74.0),
        "hoc": Setting(3e-5, 15, 87.3, 86.3),
        "mednli": Setting(3e-5, 9, 86.2, 83.9),
    },
    five_seeds={
        "total": Mean(83.8, 0.3),
        "medsts": Mean(84.9, 0.6),
        "biosses": Mean(92.3, 0.8),
        "bc5cdr_disease": Mean(87.4, 0.1),
        "bc5cdr_chem": Mean(93.7, 0.2),
        "clefe": Mean(80.1, 0.4),
        "ddi2013": Mean(81.1, 1.5),
        "chemprot": Mean(75.0, 0.3),
        "i2b2_2010": Mean(74.0, 0.8),
        "hoc": Mean(86.4, 0.5),
        "mednli": Mean(83.6, 0.7),
    },
)

# For the sample runs with the small embedded encoder. Not published and not tuned on real data: 3e-5 through a pooler
# that was never trained learns nothing, hence the larger learning rate.
MINILM = Recipe(
    title="MiniLM-L6 (demonstration)",
    model="sentence-transformers/all-MiniLM-L6-v2",
    pattern=r"minilm",
    lower_case=True,
    settings={
        "medsts": Setting(3e-4, 10),
        "biosses": Setting(3e-4, 20),
        "bc5cdr_disease": Setting(3e-4, 3),
        "bc5cdr_chem": Setting(3e-4, 3),
        "clefe": Setting(3e-4, 3),
        "ddi2013": Setting(3e-4, 5),
        "chemprot": Setting(3e-4, 5),
        "i2b2_2010": Setting(3e-4, 5),
        "hoc": Setting(3e-4, 5),
        "mednli": Setting(3e-4, 4),
    },
)

# In the order in which a model's name is tried: the special before the general.
RECIPES: Mapping[str, Recipe] = {
    "oubiobert": OUBIOBERT,
    "bluebert-pm": BLUEBERT_PM,
    "bluebert-p": BLUEBERT_P,
    "biobert-v1.1": BIOBERT,
    "minilm": MINILM,
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


# For a task of the user's own: the task of the same family whose settings are taken.
LIKE: Mapping[str, str] = {
    "similarity": "medsts",
    "tagging": "bc5cdr_disease",
    "multiclass": "mednli",
    "multilabel": "hoc",
}


def defaults(recipe: str, task: str) -> dict[str, float | int | bool]:
    """The configuration of a task under a recipe, by flag name. Raises UserError for an unknown recipe or task."""
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    settings = RECIPES[recipe].settings
    if task not in settings:
        raise unknown("task", task, settings)
    setting = settings[task]
    return {"learning_rate": setting.learning_rate, "num_train_epochs": setting.epochs, **COMMON}

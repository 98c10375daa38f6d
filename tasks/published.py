"""What papers call the tasks, and the published scores that a leaderboard shows beside its own."""

from __future__ import annotations

from collections.abc import Mapping

from tasks import hoc
from tasks.recipes import RECIPES, Mean

__all__ = ["LABEL_TITLES", "ROWS", "SEEDS", "SOURCE", "TITLES"]

SOURCE = "sy-wada/blue_benchmark_with_transformers: test scores, mean (standard deviation) over five seeds"
SEEDS = 5

TITLES: Mapping[str, str] = {
    "medsts": "MedSTS",
    "biosses": "BIOSSES",
    "bc5cdr_disease": "BC5CDR-disease",
    "bc5cdr_chem": "BC5CDR-chemical",
    "clefe": "ShARe/CLEFE",
    "ddi2013": "DDI",
    "chemprot": "ChemProt",
    "i2b2_2010": "i2b2 2010",
    "hoc": "HoC",
    "mednli": "MedNLI",
}

# What labels stand for, where their names do not say it: task -> in the order of its labels.
LABEL_TITLES: Mapping[str, tuple[str, ...]] = {"hoc": hoc.HALLMARKS}

# Title of the encoder -> task, and "total" -> score times 100.
ROWS: Mapping[str, Mapping[str, Mean]] = {
    recipe.title: recipe.five_seeds for recipe in RECIPES.values() if recipe.five_seeds
}

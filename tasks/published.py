"""The published scores that a leaderboard shows beside its own."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.recipes import RECIPES, Mean

__all__ = ["ROWS", "SEEDS", "SOURCE"]

SOURCE = "sy-wada/blue_benchmark_with_transformers: test scores, mean (standard deviation) over five seeds"
SEEDS = 5

# Title of the encoder -> task, and "total" -> score times 100.
ROWS: Mapping[str, Mapping[str, Mean]] = {
    recipe.title: recipe.five_seeds for recipe in RECIPES.values() if recipe.five_seeds
}

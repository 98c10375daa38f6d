"""How sure a score and a place are: 95 % intervals by bootstrap over seeds and examples, and ranks with ties.

A resample draws seeds with replacement and, apart from them, units of the test set (examples, documents or sentences):
the same units in all seeds, and in all systems that answered the same questions (Sellam et al. 2022, "The MultiBERTs",
call it the multi-bootstrap). With one seed units alone are drawn, and the interval says nothing about other seeds.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.predictions import Score

RESAMPLES = 9999
SEED = 0
CELLS_AT_ONCE = 2_000_000  # numbers in one batch of resamples
LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
METHOD = (
    f"{100 * LEVEL:.0f} % intervals by bootstrap (BCa, {RESAMPLES} resamples, seed {SEED}) of test predictions over "
    "seeds and over examples, documents or sentences, the same ones in all seeds; in brackets the rank, from best to "
    "worst place: rows share places unless one is better in a paired bootstrap of the examples at 5 %, corrected for "
    "the number of rows (Bonferroni), on the seeds that all have, whose spread is added as in a t-test"
)


@dataclass(frozen=True)
class Resampled:
    """A system's score and its bootstrap distribution; `cubes` and `squares` make up the acceleration of `interval`."""

    score: float
    draws: np.ndarray  # [RESAMPLES]
    cubes: float
    squares: float


def generator(*names: str) -> np.random.Generator:
    """The same numbers for the same names in every report."""
    return np.random.default_rng([SEED, *(zlib.crc32(name.encode()) for name in names)])


def over_units(values: np.ndarray, score: Score, task: str) -> np.ndarray:
    """Scores [RESAMPLES, runs] of resamples of the units of `values` [units, runs, k]."""
    count, *shape = values.shape
    flat, drawing = values.reshape(count, -1), generator(task)
    at_once = max(1, CELLS_AT_ONCE // max(flat.shape))
    scores = []
    for start in range(0, RESAMPLES, at_once):
        number = min(at_once, RESAMPLES - start)
        drawn = drawing.integers(count, size=(number, count)) + count * np.arange(number)[:, None]
        often = np.bincount(drawn.ravel(), minlength=number * count).reshape(number, count)
        with np.errstate(invalid="ignore"):  # predictions that are not finite score 0
            scores.append(score((often.astype(np.float64) @ flat).reshape(number, *shape)))
    return np.concatenate(scores)


def over_seeds(scores: np.ndarray, task: str) -> np.ndarray:
    """Means [RESAMPLES] over seeds drawn from `scores` [RESAMPLES, seeds]: for as many seeds always the same draws."""
    count = scores.shape[1]
    drawn = generator(task, "seeds").integers(count, size=scores.shape)
    # Sums in another order differ in the last digit, and ties with the score itself count in `interval`.
    return np.asarray(np.take_along_axis(scores, drawn, axis=1).mean(axis=1).round(12))


def resampled(values: np.ndarray, score: Score, scores: np.ndarray, task: str) -> Resampled:
    """Of one system's `values` [units, seeds, k] and what `over_units` made of them."""
    total, (units, seeds, _) = values.sum(axis=0), values.shape
    by_seed = score(total)
    jackknives = [(by_seed.sum() - by_seed) / (seeds - 1)] if seeds > 1 else []
    if units > 1:
        with np.errstate(invalid="ignore"):  # a score is made of sums over all units, hence the factor
            jackknives.append(score((total - values) * (units / (units - 1))).mean(axis=1))
    cubes = squares = 0.0
    for without in jackknives:  # as scipy.stats.bootstrap does for several samples (Efron and Tibshirani 1993, 15.36)
        influence = (len(without) - 1) * (without.mean() - without) / len(without)
        cubes, squares = cubes + float((influence**3).sum()), squares + float((influence**2).sum())
    return Resampled(float(by_seed.mean().round(12)), over_seeds(scores, task), cubes, squares)


def mean(parts: Sequence[Resampled], weights: Sequence[float]) -> Resampled:
    """Of a mean of scores on different tasks, which share neither examples nor runs. The weights add up to 1."""
    return Resampled(
        float(np.average([part.score for part in parts], weights=weights).round(12)),
        np.average([part.draws for part in parts], axis=0, weights=weights).round(12),
        sum(weight**3 * part.cubes for weight, part in zip(weights, parts, strict=True)),
        sum(weight**2 * part.squares for weight, part in zip(weights, parts, strict=True)),
    )


def interval(of: Resampled) -> tuple[float, float] | None:
    """Bias-corrected and accelerated (Efron 1987): what scipy.stats.bootstrap gives for the same resamples.

    None where there is none: all resamples score the same, or all lie on one side of the score.
    """
    from scipy.special import ndtr, ndtri

    below, up_to = np.mean(of.draws < of.score), np.mean(of.draws <= of.score)
    share = (below + up_to) / 2
    if not 0 < share < 1 or of.draws.min() == of.draws.max():
        return None
    shift = ndtri(share)
    acceleration = of.cubes / of.squares**1.5 / 6 if of.squares > 0 else 0.0
    moved = shift + ndtri([TAIL, 1 - TAIL])
    low, high = np.quantile(of.draws, ndtr(shift + moved / (1 - acceleration * moved)))
    return float(low.round(6)), float(high.round(6))  # the same on processors that round otherwise


# ---- rows of one column against each other
@dataclass(frozen=True)
class Compared:
    """Rows on the units and seeds that all of them have, of one task or of a mean of several."""

    labels: Sequence[str]
    means: np.ndarray  # [rows]: scores over these seeds
    draws: np.ndarray  # [RESAMPLES, rows]: of resampled units, the same ones for all rows
    errors: np.ndarray  # [tasks, rows]: standard errors over seeds; 0 for one seed, which does not tell
    noise: np.ndarray  # [tasks, RESAMPLES]: Student's t


def compared(labels: Sequence[str], by_seed: np.ndarray, scores: np.ndarray, task: str) -> Compared:
    """Of the rows' scores [rows, seeds] and of what `over_units` made of them [RESAMPLES, rows, seeds]."""
    seeds = by_seed.shape[1]
    errors, noise = np.zeros(len(labels)), np.zeros(RESAMPLES)
    if seeds > 1:
        errors = np.sqrt(by_seed.var(axis=1, ddof=1) / seeds)
        noise = generator(task, "noise").standard_t(2 * (seeds - 1), RESAMPLES)
    return Compared(labels, by_seed.mean(axis=1), scores.mean(axis=2).round(12), errors[None], noise[None])


def compared_mean(parts: Sequence[Compared], weights: Sequence[float], labels: Sequence[str]) -> Compared:
    """Of a mean of scores on different tasks, for those rows that are in all of them. The weights add up to 1."""
    places = [[part.labels.index(label) for label in labels] for part in parts]
    chosen = list(zip(parts, places, weights, strict=True))
    return Compared(
        labels,
        np.sum([weight * part.means[place] for part, place, weight in chosen], axis=0),
        np.sum([weight * part.draws[:, place] for part, place, weight in chosen], axis=0),
        np.concatenate([weight * part.errors[:, place] for part, place, weight in chosen]),
        np.concatenate([part.noise for part in parts]),
    )


def ahead(of: Compared) -> np.ndarray:
    """[rows, rows]: whether the first one is better than the second by more than chance.

    That is so where it scores higher in all but 2.5 % of resamples, divided by the number of other rows (Bonferroni).
    What other seeds could have changed is added to each resample as in a t-test with pooled seeds: resamples of few
    seeds vary too little, and of equal systems with five seeds too many would be told apart.
    """
    count = len(of.labels)
    enough = 1 - TAIL / max(1, count - 1)
    better = np.zeros((count, count), dtype=bool)
    for one in range(count):
        for other in range(one):
            gap = of.draws[:, one] - of.draws[:, other] + np.hypot(of.errors[:, one], of.errors[:, other]) @ of.noise
            better[one, other], better[other, one] = (gap > 0).mean() >= enough, (gap < 0).mean() >= enough
    return better


def ranks(better: np.ndarray) -> list[tuple[int, int]]:
    """Best and worst place of each row, from 1, by `ahead`: rows that cannot be told apart share places.

    So made up of all pairs of a row, they hold its true rank with 95 % (Mogstad et al. 2024).
    """
    count = len(better)
    return [(1 + int(before), count - int(behind)) for before, behind in zip(better.sum(0), better.sum(1), strict=True)]

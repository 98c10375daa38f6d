"""Is a difference in test scores more than chance? Approximate randomisation, paired by example.

If two systems were equally good, it would not matter whose answer to an example is whose: the answers are exchanged at
random, and p is the share of exchanges after which the scores lie at least as far apart as they do (Noreen 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import tasks
from harness.config import nearest
from harness.errors import UserError, first_line
from launch.reporting.collect import answers_of
from launch.reporting.leaderboard import Leaderboard, Row
from tasks.predictions import Units, units

RESAMPLES = 9999
SEED = 0
CELLS_AT_ONCE = 4_000_000  # memory of one batch of exchanges
METHOD = (
    f"approximate randomisation (paired, two-sided, {RESAMPLES} exchanges, seed {SEED}) on test predictions; the score "
    "is the mean over the seeds that both have, and an example's answers are exchanged in all of them at once; "
    "p-values are not corrected for the number of tests"
)


@dataclass(frozen=True)
class Test:
    """One model against the baseline on one task."""

    row: str
    task: str
    difference: float | None  # mean over `seeds` of (row - baseline), a fraction; None where it was not tested
    p: float | None
    seeds: Sequence[int] = ()
    remark: str = ""  # what was exchanged, or why it was not tested


def choose(board: Leaderboard, name: str) -> Row:
    """The row of that label, or the only one whose label begins so. Raises UserError that lists the labels."""
    labels = [row.label for row in board.rows]
    fitting = [row for row in board.rows if row.label.lower().startswith(name.lower())]
    fitting = [row for row in fitting if row.label == name] or fitting
    if len(fitting) == 1:
        return fitting[0]
    what = "fits several rows" if fitting else "no such row"
    known = ", ".join(labels) or "none, since no run counts"
    raise UserError(f"--baseline {name}: {what}{nearest(name, labels)}; rows: {known}")


def compare(board: Leaderboard, baseline: Row) -> list[Test]:
    """Every other row against the baseline, task by task."""
    tests = []
    for task in (*tasks.TASKS, *board.own):
        known: dict[int, Units] = {}  # of the baseline, by seed
        for row in board.rows:
            if row is baseline or task not in row.cells or task not in baseline.cells:
                continue
            runs, of_baseline = row.cells[task].runs, baseline.cells[task].runs
            seeds = sorted(set(runs) & set(of_baseline))
            difference = p = None
            try:
                if not seeds:
                    raise UserError("no seed that both have")
                for seed in seeds:
                    known[seed] = known.get(seed) or units(*answers_of(of_baseline[seed]))
                ours, theirs = [units(*answers_of(runs[seed])) for seed in seeds], [known[seed] for seed in seeds]
                if any(one.gold != ours[0].gold for one in (*ours, *theirs)):
                    raise UserError("predictions of different data")
                values = [np.concatenate([one.values for one in side], axis=1) for side in (ours, theirs)]
                difference, p = randomise(values[0], values[1], ours[0])
                remark = f"{len(ours[0].gold)} {ours[0].name}s, mean over {len(seeds)} seed(s)"
            except UserError as error:
                remark = f"not tested: {error}"
            except Exception as error:  # whatever is wrong with the predictions of one, the others are tested
                remark = f"not tested: {type(error).__name__}: {first_line(error)}"
            tests.append(Test(row.label, task, difference, p, seeds, remark))
    return tests


def randomise(ours: np.ndarray, theirs: np.ndarray, form: Units) -> tuple[float, float]:
    """(difference, p) of two systems' values [units, seeds * k]."""
    from scipy import stats

    width = form.values.shape[1]

    def scores(sums: np.ndarray) -> np.ndarray:
        by_seed = sums.reshape(*sums.shape[:-1], -1, width)
        return np.asarray(form.score(by_seed).mean(axis=-1))

    totals = ours.sum(0), theirs.sum(0)
    difference = float(scores(totals[0]) - scores(totals[1]))
    gap = theirs - ours
    gap = gap[np.any(gap != 0, axis=1)]  # an exchange of equal answers changes nothing
    if not len(gap) or not np.isfinite(gap).all():
        return difference, 1.0

    def statistic(left: np.ndarray, right: np.ndarray, axis: int) -> Any:
        """`left` and `right` hold numbers of answers: from len(gap) on they are the other system's."""
        moved = (np.moveaxis(left, axis, -1) >= len(gap)).astype(np.float64) @ gap
        return scores(totals[0] + moved) - scores(totals[1] - moved)

    numbers = np.arange(len(gap))
    done = stats.permutation_test(
        (numbers, numbers + len(gap)),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, CELLS_AT_ONCE // len(gap)),
        rng=np.random.default_rng(SEED),
    )
    return difference, float(done.pvalue)

"""Is a difference in test scores more than chance? Approximate randomisation, paired by example.

If two systems were equally good, it would not matter whose answer to an example is whose: the answers are exchanged at
random, and p is the share of exchanges after which the scores lie at least as far apart as they do (Noreen 1989).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import tasks
from harness.config import nearest
from harness.errors import UserError, first_line
from launch.reporting.collect import Run, answers_of
from launch.reporting.leaderboard import Cell, Leaderboard, Row
from tasks.units import Units, units

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
    fitting = [row for row in board.rows if row.label == name] or [
        row for row in board.rows if row.label.lower().startswith(name.lower())
    ]
    if len(fitting) == 1:
        return fitting[0]
    what = "fits several rows" if fitting else "no such row"
    known = ", ".join(labels) or "none, since no run counts"
    raise UserError(f"--baseline {name}: {what}{nearest(name, labels)}; rows: {known}")


def compare(board: Leaderboard, baseline: Row) -> list[Test]:
    """Every other row against the baseline, task by task."""
    return [
        test
        for task in (*tasks.TASKS, *board.own)
        if task in baseline.cells
        for test in _compare_on(task, board, baseline.cells[task])
    ]


def _compare_on(task: str, board: Leaderboard, baseline: Cell) -> Iterator[Test]:
    known: dict[int, Units] = {}
    for row in board.rows:
        cell = row.cells.get(task)
        if cell is None or cell is baseline:
            continue
        seeds = sorted(set(cell.runs) & set(baseline.runs))
        try:
            known |= {seed: _units(baseline.runs[seed]) for seed in seeds if seed not in known}
            pairs = [(_units(cell.runs[seed]), known[seed]) for seed in seeds]
            yield _test(row.label, task, seeds, pairs)
        except UserError as error:
            yield Test(row.label, task, None, None, seeds, f"not tested: {error}")
        except Exception as error:  # whatever is wrong with the predictions of one, the others are tested
            yield Test(row.label, task, None, None, seeds, f"not tested: {type(error).__name__}: {first_line(error)}")


def _units(run: Run) -> Units:
    return units(run.definition, answers_of(run))


def _test(label: str, task: str, seeds: Sequence[int], pairs: Sequence[tuple[Units, Units]]) -> Test:
    if not pairs:
        return Test(label, task, None, None, (), "not tested: no seed that both have")
    first = pairs[0][0]
    if any(one.gold != first.gold for pair in pairs for one in pair):
        return Test(label, task, None, None, seeds, "not tested: predictions of different data")
    ours = np.concatenate([pair[0].values for pair in pairs], axis=1)
    theirs = np.concatenate([pair[1].values for pair in pairs], axis=1)
    difference, p = randomise(ours, theirs, first)
    count = len(first.gold)
    return Test(label, task, difference, p, seeds, f"{count} {first.name}s, mean over {len(seeds)} seed(s)")


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

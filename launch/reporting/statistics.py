"""Is a difference in test scores more than chance? Approximate randomisation, paired by example.

If two systems were equally good, it would not matter whose answer to an example is whose: the answers are exchanged at
random, and p is the share of exchanges after which the scores lie at least as far apart as they do (Noreen 1989).
That takes the trained weights as given. With several seeds each exchange therefore adds what other seeds could have
changed: Student's t with 2 (seeds - 1) degrees of freedom times the standard error of the difference over seeds, as in
a t-test. The disagreement of seeds on single examples counts in both parts, so p errs on the safe side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

import tasks
from harness.config import nearest
from harness.errors import UserError, first_line
from launch.reporting import intervals
from launch.reporting.intervals import CELLS_AT_ONCE, Compared, Resampled, generator
from launch.reporting.leaderboard import Leaderboard, Row, best_of
from tasks.predictions import Units

RESAMPLES = 9999
SIGNIFICANT = 0.05
ENOUGH_SEEDS = 5
METHOD = (
    f"approximate randomisation (paired, two-sided, {RESAMPLES} exchanges, seed {intervals.SEED}) of test predictions; "
    "the score is the mean over the seeds that both have, an example's answers are exchanged in all of them at once, "
    "and the spread over seeds is added as in a t-test; p (Holm) is corrected by Holm over the tasks of one row; "
    f"*: p (Holm) < {SIGNIFICANT}"
)
CAUTION = (
    f"caution: with fewer than {ENOUGH_SEEDS} seeds the spread over seeds is hardly known, with one not at all, and "
    "other seeds may say otherwise"
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
    corrected: float | None = None  # p by Holm over the tasks of the row

    @property
    def is_significant(self) -> bool:
        """Of the corrected p."""
        return self.corrected is not None and self.corrected < SIGNIFICANT


def method(tests: Sequence[Test]) -> str:
    """What the tests are, with a caution where seeds are few."""
    is_few = any(test.p is not None and len(test.seeds) < ENOUGH_SEEDS for test in tests)
    return METHOD + (f"; {CAUTION}" if is_few else "")


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
        for row in board.rows:
            if row.label == baseline.label or task not in row.cells or task not in baseline.cells:
                continue
            runs, of_baseline = row.cells[task].runs, baseline.cells[task].runs
            seeds = sorted(set(runs) & set(of_baseline))
            difference = p = None
            try:
                if not seeds:
                    raise UserError("no seed that both have")
                ours, theirs = [runs[seed].units for seed in seeds], [of_baseline[seed].units for seed in seeds]
                if any(one.gold != ours[0].gold for one in (*ours, *theirs)):
                    raise UserError("predictions of different data")
                difference, p = randomise(_stacked(ours), _stacked(theirs), ours[0], task)
                remark = f"{len(ours[0].values)} {ours[0].name}s, mean over {len(seeds)} seed(s)"
            except UserError as error:
                remark = f"not tested: {error}"
            except Exception as error:  # whatever is wrong with the predictions of one, the others are tested
                remark = f"not tested: {type(error).__name__}: {first_line(error)}"
            tests.append(Test(row.label, task, difference, p, seeds, remark))
    by_row: dict[str, dict[str, float]] = {}
    for test in tests:
        if test.p is not None:
            by_row.setdefault(test.row, {})[test.task] = test.p
    corrected = {row: holm(of_row) for row, of_row in by_row.items()}
    return [replace(test, corrected=corrected.get(test.row, {}).get(test.task)) for test in tests]


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Corrected p-values (Holm 1979): the smallest times their number, the next times one less, never falling."""
    found, so_far = {}, 0.0
    for place, name in enumerate(sorted(ps, key=lambda name: ps[name])):
        so_far = max(so_far, min(1.0, (len(ps) - place) * ps[name]))
        found[name] = so_far
    return found


def _stacked(systems: Sequence[Units]) -> np.ndarray:
    """[units, seeds, k]"""
    return np.stack([one.values for one in systems], axis=1)


def randomise(ours: np.ndarray, theirs: np.ndarray, form: Units, task: str = "") -> tuple[float, float]:
    """(difference, p) of two systems' values [units, seeds * k].

    `scipy.stats.permutation_test` says the same for one seed, and takes twenty times as long.
    """
    ours, theirs = [side.reshape(len(side), -1, form.values.shape[1]) for side in (ours, theirs)]
    totals = ours.sum(axis=0), theirs.sum(axis=0)
    scores = form.score(totals[0]), form.score(totals[1])
    difference, seeds = float(scores[0].mean() - scores[1].mean()), len(scores[0])
    gap = (theirs - ours).reshape(len(ours), -1)
    gap = gap[np.any(gap != 0, axis=1)]  # an exchange of equal answers changes nothing
    if not len(gap) or not np.isfinite(gap).all():
        return difference, 1.0
    random, parts = generator(task, "exchanges"), []
    at_once = max(1, CELLS_AT_ONCE // len(gap))
    for start in range(0, RESAMPLES, at_once):
        size = (min(at_once, RESAMPLES - start), -(-len(gap) // 8))
        bits = np.unpackbits(random.integers(256, size=size, dtype=np.uint8), axis=1, count=len(gap))
        moved = (bits.astype(np.float64) @ gap).reshape(len(bits), *totals[0].shape)
        parts.append((form.score(totals[0] + moved) - form.score(totals[1] - moved)).mean(axis=1))
    draws = np.concatenate(parts)
    if seeds > 1:
        error = np.sqrt((scores[0].var(ddof=1) + scores[1].var(ddof=1)) / seeds)
        draws += error * random.standard_t(2 * (seeds - 1), RESAMPLES)
    as_far = np.abs(draws) >= abs(difference) - 1e-12  # rounding must not untie what is tied
    return difference, float((1 + as_far.sum()) / (1 + RESAMPLES))  # the answers as they are count as one exchange


# ---- intervals, ranks and what is bold
def assess(board: Leaderboard) -> Leaderboard:
    """The board with intervals, ranks and what is bold, as the test predictions of its runs say.

    Where they cannot be read, or rows have no seed or not the examples in common, what is bold stays as it was.
    """
    resampled: dict[str, dict[str, Resampled]] = {}
    found: dict[str, Compared] = {}
    reasons: dict[str, str] = {}
    for task in (*tasks.TASKS, *board.own):
        rows = [row for row in board.rows if task in row.cells]
        if rows:
            resampled[task], comparison, reasons[task] = _of_task(rows, task)
            found |= {} if comparison is None else {task: comparison}
    for total in ("total", "total_shared"):
        weights = board.suite.weights(total)
        parts, rows = [*weights.values()], [row for row in board.rows if total in row.cells]
        resampled[total] = {
            row.label: intervals.mean([resampled[task][row.label] for task in weights], parts)
            for row in rows
            if all(row.label in resampled[task] for task in weights)
        }
        compared = [row.label for row in rows if not row.is_choice]
        if compared and set(weights) <= set(found):
            found[total] = intervals.compared_mean([found[task] for task in weights], parts, compared)
    best, ranks = {}, {}
    for column, comparison in found.items():
        better, labels = intervals.ahead(comparison), comparison.labels
        behind_best = better[comparison.means.argmax()]
        tied = [label for label, is_behind in zip(labels, behind_best, strict=True) if not is_behind]
        best[column] = best_of(dict(zip(labels, comparison.means, strict=True)), tied)
        ranks[column] = dict(zip(labels, intervals.ranks(better), strict=True)) if len(labels) > 1 else {}
    rows = []
    for row in board.rows:
        cells = {}
        for column, cell in row.cells.items():
            one = resampled[column].get(row.label)
            cells[column] = replace(
                cell,
                is_best=row.label in best[column] if column in best else cell.is_best,
                interval=None if one is None else intervals.interval(one),
                rank=ranks.get(column, {}).get(row.label),
            )
        rows.append(replace(row, cells=cells))
    return replace(board, rows=rows, remarks=_remarks(board, rows, reasons, set(found)))


def _remarks(board: Leaderboard, rows: Sequence[Row], reasons: Mapping[str, str], compared: set[str]) -> list[str]:
    """`reasons`: by column, why predictions are not used, where some are not."""
    titles, lines = board.every_column, []
    if choices := [row.label for row in rows if row.is_choice]:
        lines.append(f"neither bold nor ranked, as no test score may choose settings of a model: {'; '.join(choices)}")
    if without := [column for column, reason in reasons.items() if reason and column not in compared]:
        names = ", ".join(titles[column] for column in without)
        lines.append(f"bold by printed means, without ranks: {names} ({reasons[without[0]]})")
    for column, reason in reasons.items():
        if reason and column in compared:
            lines.append(f"{titles[column]}: not all runs are compared ({reason})")
    if any(len(cell.runs) < ENOUGH_SEEDS for row in rows for cell in row.cells.values() if cell.runs and cell.interval):
        lines.append(f"intervals, ranks and bold: {CAUTION}")
    return lines


def _of_task(rows: Sequence[Row], task: str) -> tuple[dict[str, Resampled], Compared | None, str]:
    """(by label what intervals need; the comparison of the rows; why there is none, or which run is not in it)."""
    runs: dict[tuple[str, int], Units] = {}  # by label and seed
    reason = ""
    for row in rows:
        for seed, run in sorted(row.cells[task].runs.items()):
            try:
                runs[row.label, seed] = run.units
            except UserError as error:
                reason = reason or str(error)
            except Exception as error:  # whatever is wrong with one run's predictions, the others are reported
                reason = reason or f"{run.name}: {type(error).__name__}: {first_line(error)}"
    scores: dict[tuple[str, int], np.ndarray] = {}
    golds = {one.gold: one for one in runs.values()}
    for gold, form in golds.items():  # those that answered the same questions together
        keys = [key for key, one in runs.items() if one.gold == gold]
        drawn = intervals.over_units(_stacked([runs[key] for key in keys]), form.score, task)
        scores |= {key: drawn[:, place] for place, key in enumerate(keys)}
    resampled = {}
    for row in rows:
        keys = [(row.label, seed) for seed in sorted(row.cells[task].runs)]
        if all(key in runs for key in keys) and len({runs[key].gold for key in keys}) == 1:
            drawn = np.stack([scores[key] for key in keys], axis=1)
            values = _stacked([runs[key] for key in keys])
            resampled[row.label] = intervals.resampled(values, runs[keys[0]].score, drawn, task)
    labels = [row.label for row in rows if not row.is_choice]
    if not labels:
        return resampled, None, reason
    seeds = sorted(set.intersection(*({seed for label, seed in runs if label == name} for name in labels)))
    systems = [[runs[label, seed] for seed in seeds] for label in labels]
    if not seeds or len({one.gold for system in systems for one in system}) > 1:
        return resampled, None, reason or ("predictions of different data" if seeds else "no seed that all rows have")
    by_seed = np.array([[one.score(one.values.sum(axis=0)) for one in system] for system in systems])
    drawn = np.stack([np.stack([scores[label, seed] for seed in seeds], axis=1) for label in labels], axis=1)
    return resampled, intervals.compared(labels, by_seed, drawn, task), reason

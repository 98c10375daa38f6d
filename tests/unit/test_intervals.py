"""Bootstrap intervals against scipy's on the same resamples, and ranks of rows that cannot be told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_up_runs import gold, spoil
from scipy import stats

import tasks
from harness.task import Example, Prediction
from launch.reporting import intervals
from launch.reporting.intervals import Compared, Resampled
from tasks.predictions import Answers, Units, units


class System:
    """Answers of several seeds to the same examples, and the score of some of both, by the task's own metric."""

    def __init__(self, task: str, seeds: int = 1, rows: int = 30, skill: float = 0.7) -> None:
        self.task, self.known, self.examples = task, tasks.get(task), list(gold(task, "test", rows))
        self.predictions: list[list[Prediction]] = []
        for seed in range(seeds):
            generator = np.random.default_rng([seed, rows])
            self.predictions.append([spoil(self.known, one, skill + 0.05 * seed, generator) for one in self.examples])

    @property
    def units(self) -> list[Units]:
        return [units(self.known, Answers(Path("f.tsv"), self.examples, each, [])) for each in self.predictions]

    @property
    def resampled(self) -> Resampled:
        found = self.units
        values = np.stack([one.values for one in found], axis=1)
        scores = intervals.over_units(values, found[0].score, self.task)
        return intervals.resampled(values, found[0].score, scores, self.task)

    def score(self, seeds: Any, numbers: Any) -> float:
        examples: list[Example] = [self.examples[int(number)] for number in numbers]
        scores = []
        for seed in seeds:
            predictions = [self.predictions[int(seed)][int(number)] for number in numbers]
            scores.append(self.known.metric(examples, predictions).score)
        return float(np.round(np.mean(scores), 12))


def scipys(of: Resampled, data: tuple[np.ndarray, ...], statistic: Callable[..., float]) -> tuple[float, float]:
    """scipy's interval of our resamples: its bias from them, its acceleration from its own jackknife."""
    given = SimpleNamespace(bootstrap_distribution=of.draws)
    found = stats.bootstrap(data, statistic, n_resamples=0, bootstrap_result=given, method="BCa", vectorized=False)
    low, high = found.confidence_interval
    return float(low), float(high)


@pytest.mark.parametrize("task", ["mednli", "ddi2013", "medsts"])
class TestAgainstScipy:
    """Tagging and documents are no resample of rows to the task's metric; their units add up in test_significance."""

    def test_one_level(self, task: str) -> None:
        system = System(task)
        ours = intervals.interval(system.resampled)
        theirs = scipys(system.resampled, (np.arange(30),), lambda numbers: system.score([0], numbers))
        assert ours == pytest.approx(theirs, abs=1e-6)

    def test_one_level_with_resamples_of_its_own(self, task: str) -> None:
        found = System(task).units[0]

        def score(numbers: np.ndarray, axis: int) -> np.ndarray:
            drawn = found.values[np.moveaxis(numbers, axis, -1)]  # a score is made of sums over all units
            return found.score(drawn.mean(axis=-2) * len(found.values))

        theirs = stats.bootstrap((np.arange(30),), score, method="BCa", rng=np.random.default_rng(1))
        assert intervals.interval(System(task).resampled) == pytest.approx(theirs.confidence_interval, abs=0.02)

    def test_seeds_and_examples(self, task: str) -> None:
        """To scipy they are two samples of one statistic."""
        system = System(task, seeds=4)
        ours, theirs = system.resampled, scipys(system.resampled, (np.arange(4), np.arange(30)), system.score)
        assert intervals.interval(ours) == pytest.approx(theirs, abs=1e-6)
        assert ours.score == pytest.approx(np.mean([one.score(one.values.sum(0)) for one in system.units]))


def test_seeds_widen_an_interval() -> None:
    """By as much as they differ: of equal seeds there is the interval of one."""
    one, several = System("mednli"), System("mednli", seeds=5)
    several.predictions = one.predictions * 5
    assert intervals.interval(several.resampled) == pytest.approx(intervals.interval(one.resampled))
    spread = System("mednli", seeds=5)
    by_seed = spread.units
    values = np.stack([one.values for one in by_seed], axis=1)
    scores = intervals.over_units(values, by_seed[0].score, "mednli")
    assert intervals.over_seeds(scores, "mednli").var() > scores.mean(axis=1).var()


def test_a_mean_of_tasks_is_a_statistic_of_all_their_samples() -> None:
    one, other = System("mednli", seeds=3), System("medsts", seeds=2)
    total = intervals.mean([one.resampled, other.resampled], [0.25, 0.75])

    def score(*data: np.ndarray) -> float:
        return float(np.round(0.25 * one.score(*data[:2]) + 0.75 * other.score(*data[2:]), 12))

    theirs = scipys(total, (np.arange(3), np.arange(30), np.arange(2), np.arange(30)), score)
    assert intervals.interval(total) == pytest.approx(theirs, abs=1e-6)


def test_the_same_in_every_report_and_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    first = System("hoc", seeds=2).resampled
    monkeypatch.setattr(intervals, "CELLS_AT_ONCE", 1000)
    second = System("hoc", seeds=2).resampled
    assert (first.draws == second.draws).all() and intervals.interval(first) == intervals.interval(second)


def test_of_different_tasks_resamples_have_nothing_in_common() -> None:
    values = System("mednli").units[0].values[:, None]
    draws = [intervals.over_units(values, System("mednli").units[0].score, task)[:, 0] for task in ("a", "b")]
    assert abs(np.corrcoef(*draws)[0, 1]) < 0.05


@pytest.mark.parametrize("task", ["mednli", "medsts"])
def test_no_interval_where_every_resample_scores_the_same(task: str) -> None:
    system = System(task)
    system.predictions = [[Prediction(one.label) for one in system.examples]]
    assert intervals.interval(system.resampled) is None


def test_a_diverged_model_scores_0_without_a_warning() -> None:
    system = System("medsts", seeds=2)
    system.predictions = [[Prediction(float("nan")) for _ in system.examples]] * 2
    assert system.resampled.score == 0 and intervals.interval(system.resampled) is None


def compared(*rows: tuple[float, float], common: float = 0.0, errors: Any = None) -> Compared:
    """Of (mean, deviation) of each row; `common`: deviation of what all rows have in each resample."""
    generator, count = np.random.default_rng(0), len(rows)
    shared = common * generator.normal(size=9999)
    draws = np.stack([mean + deviation * generator.normal(size=9999) + shared for mean, deviation in rows], axis=1)
    means, labels = np.array([mean for mean, _ in rows]), [str(number) for number in range(count)]
    errors = np.zeros((1, count)) if errors is None else np.array([errors])
    return Compared(labels, means, draws, errors, generator.standard_t(8, (1, 9999)))


def ranks(*rows: tuple[float, float], **more: Any) -> list[tuple[int, int]]:
    return intervals.ranks(intervals.ahead(compared(*rows, **more)))


class TestRanks:
    def test_rows_far_apart_have_one_place_each(self) -> None:
        assert ranks((0.8, 0.001), (0.9, 0.001), (0.7, 0.001)) == [(2, 2), (1, 1), (3, 3)]

    def test_rows_that_cannot_be_told_apart_share_places(self) -> None:
        assert ranks((0.9, 0.01), (0.901, 0.01), (0.7, 0.001)) == [(1, 2), (1, 2), (3, 3)]

    def test_equal_rows_share_all_places(self) -> None:
        assert ranks(*[(0.9, 0.0)] * 3) == [(1, 3)] * 3

    def test_a_row_between_two_that_differ_ties_with_both(self) -> None:
        assert ranks((0.90, 0.01), (0.88, 0.01), (0.86, 0.01)) == [(1, 2), (1, 3), (2, 3)]

    def test_what_is_hard_for_all_rows_does_not_tie_them(self) -> None:
        assert ranks((0.90, 0.001), (0.89, 0.001), common=0.05) == [(1, 1), (2, 2)]

    def test_more_rows_need_a_larger_difference(self) -> None:
        """0.032 is 2.26 standard errors: 0.012 lies beyond, which is less than 0.025 and more than 0.025 / 4."""
        two = (0.9, 0.01), (0.868, 0.01)
        assert ranks(*two) == [(1, 1), (2, 2)]
        assert ranks(*two, (0.1, 0.0), (0.1, 0.0), (0.1, 0.0))[:2] == [(1, 2), (1, 2)]

    def test_seeds_that_differ_tie_rows(self) -> None:
        two = (0.9, 0.001), (0.89, 0.001)
        assert ranks(*two, errors=[0.001, 0.001]) == [(1, 1), (2, 2)]
        assert ranks(*two, errors=[0.01, 0.001]) == [(1, 2), (1, 2)]

    def test_of_a_total(self) -> None:
        """Two tasks on which one row is better by 0.02 each, with a standard error of 0.011 each: told apart on none of
        them, and on their mean (0.02, 0.0078)."""
        rows, other = compared((0.9, 0.0078), (0.88, 0.0078), (0.5, 0.0)), compared((0.7, 0.0078), (0.72, 0.0078))
        other = replace(other, labels=["1", "0"], draws=other.draws[::-1])
        assert intervals.ranks(intervals.ahead(rows))[:2] == intervals.ranks(intervals.ahead(other)) == [(1, 2)] * 2
        total = intervals.compared_mean([rows, other], [0.5, 0.5], ["0", "1"])
        assert total.means == pytest.approx([0.81, 0.79])
        assert intervals.ranks(intervals.ahead(total)) == [(1, 1), (2, 2)]

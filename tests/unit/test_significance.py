"""Approximate randomisation: p-values counted by hand, what is called different by chance, and Holm's correction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_runs import gold, made_up, spoil
from scipy import stats

import tasks
from harness.errors import UserError
from harness.task import Example, Prediction
from launch.reporting import collect, intervals, leaderboard, statistics, tables
from tasks.predictions import Answers, Units, units


def answers(task: str, examples: list[Example], predictions: list[Prediction]) -> Units:
    return units(tasks.get(task), Answers(Path("f.tsv"), examples, predictions, []))


@pytest.mark.parametrize("task", tasks.TASKS)
def test_units_add_up_to_the_score(task: str) -> None:
    known, examples = tasks.get(task), list(gold(task, "test", 60))
    for seed in range(3):
        predictions = [
            spoil(known, example, 0.7, np.random.default_rng([seed, i])) for i, example in enumerate(examples)
        ]
        found = answers(task, examples, predictions)
        assert found.score(found.values.sum(0)) == pytest.approx(known.metric(examples, predictions).score, abs=1e-12)


def test_sentences_without_their_words_are_the_same_questions() -> None:
    """Predictions are passed on without the text of the corpus."""
    examples = list(gold("bc5cdr_chem", "test", 20))
    bare = [replace(example, texts=("",) * len(example.texts)) for example in examples]
    alike = [Prediction(example.label) for example in examples]
    assert answers("bc5cdr_chem", examples, alike).gold == answers("bc5cdr_chem", bare, alike).gold
    assert answers("bc5cdr_chem", examples, alike).gold != answers("bc5cdr_chem", examples[1:], alike[1:]).gold


def labelled(gold_labels: str, predicted: str) -> Units:
    names = {"c": "contradiction", "e": "entailment", "n": "neutral"}
    examples = [Example(str(i), (), names[label]) for i, label in enumerate(gold_labels)]
    return answers("mednli", examples, [Prediction(names[label]) for label in predicted])


def test_p_of_a_case_that_can_be_counted() -> None:
    """Five examples on which only A is right, one on which only B is: of 2^6 exchanges, those that leave a difference
    of at least 4/8 either way have 5 or 6 on one side: 2 * (6 + 1) = 14."""
    a, b = labelled("cccccccc", "ccccccnc"), labelled("cccccccc", "cnnnnncc")
    difference, p = statistics.randomise(a.values, b.values, a)
    assert difference == pytest.approx(4 / 8) and p == pytest.approx(14 / 64, abs=0.015)


def test_p_agrees_with_scipy() -> None:
    generator = np.random.default_rng(3)
    a, b = (labelled("cenc" * 25, "".join(generator.choice([*"cccen"], 100))) for _ in range(2))

    def difference(left: np.ndarray, right: np.ndarray, axis: int) -> Any:
        """`left` and `right` hold numbers of answers: from 100 on they are the other system's."""
        both = np.concatenate([a.values, b.values])
        return a.score(both[np.moveaxis(left, axis, -1)].sum(-2)) - a.score(both[np.moveaxis(right, axis, -1)].sum(-2))

    numbers = np.arange(100)
    given = {"permutation_type": "samples", "vectorized": True, "batch": 500, "rng": np.random.default_rng(0)}
    theirs = stats.permutation_test((numbers, numbers + 100), difference, **given)
    found = statistics.randomise(a.values, b.values, a)
    assert 0.05 < theirs.pvalue < 0.95 and found == pytest.approx((theirs.statistic, theirs.pvalue), abs=0.02)


def test_systems_that_answer_alike_do_not_differ() -> None:
    a = labelled("cenc", "ceec")
    assert statistics.randomise(a.values, a.values, a) == (0.0, 1.0)


def test_seeds_are_averaged_and_exchanged_together() -> None:
    """Two seeds with the same answers are one system twice: difference and p stay."""
    a, b = labelled("cccccccc", "ccccccnc"), labelled("cccccccc", "cnnnnncc")
    twice = [np.concatenate([one.values, one.values], axis=1) for one in (a, b)]
    assert statistics.randomise(*twice, a) == pytest.approx(statistics.randomise(a.values, b.values, a))


def test_seeds_that_differ_make_a_difference_less_certain() -> None:
    """The same mean over seeds: once of equal seeds, once of seeds that lie far apart."""
    few, many, none = "c" * 40 + "n" * 20, "c" * 50 + "n" * 10, "c" * 30 + "n" * 30
    a, b, c = (labelled("c" * 60, answers) for answers in (few, many, none))
    baseline = labelled("c" * 60, "n" * 40 + "c" * 20)
    even = np.concatenate([a.values, a.values], axis=1)
    uneven = np.concatenate([b.values, c.values], axis=1)
    theirs = np.concatenate([baseline.values] * 2, axis=1)
    (first, sure), (second, unsure) = (statistics.randomise(ours, theirs, a) for ours in (even, uneven))
    assert first == pytest.approx(second) and sure < 0.05 < unsure


@pytest.mark.parametrize(
    ("ps", "corrected"),
    [
        ({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}, {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}),
        ({"a": 0.04}, {"a": 0.04}),
        ({"a": 0.6, "b": 0.9}, {"a": 1.0, "b": 1.0}),
        ({}, {}),
    ],
)
def test_holm_as_worked_by_hand(ps: dict[str, float], corrected: dict[str, float]) -> None:
    assert statistics.holm(ps) == pytest.approx(corrected)


SIMULATED, EXAMPLES = 1000, 150
MOST_CALLED = 0.065  # of equal systems, at 0.05: 1000 pairs say it to 0.007


def simulated(family: str, seeds: int, generator: np.random.Generator, gap: float = 0.0) -> list[np.ndarray]:
    """Values [examples, seeds, k] of two systems, the first one better by `gap`, in units of how examples differ.

    What is hard differs by example, and by system in which examples; seeds differ by as much as the choice of examples
    changes a score, as those of encoders do; the rest is chance.
    """
    common, sides = generator.normal(size=(EXAMPLES, 1)), []
    for better in (gap, 0.0):
        own = 0.7 * generator.normal(size=(EXAMPLES, 1)) + 0.5 * generator.normal(size=(EXAMPLES, seeds))
        of_seed = better + (generator.normal(size=seeds) / EXAMPLES**0.5 if seeds > 1 else 0.0)
        skill = 1 + common + own + of_seed
        if family == "similarity":
            gold = np.broadcast_to(np.linspace(-1, 1, EXAMPLES)[:, None], skill.shape)
            said = gold + 0.3 * np.exp(-of_seed) * (common + own)
            parts = [gold, said, gold**2, said**2, gold * said]
        elif family == "tagging":
            mentions = np.random.default_rng(0).poisson(2, size=(EXAMPLES, 1))
            found = generator.binomial(mentions, 1 / (1 + np.exp(-skill)))
            parts = [found, generator.poisson(0.3 / (1 + np.exp(skill))), mentions - found]
        else:
            parts = [skill > 0, skill <= 0, skill <= 0]
        sides.append(np.stack(parts, axis=2).astype(float))
    return sides


def called_different(family: str, seeds: int, pairs: int, gap: float = 0.0) -> tuple[float, float]:
    """Share of pairs that the test of a baseline calls different, and share that ranks and bold tell apart."""
    generator = np.random.default_rng([len(family), seeds])
    if family == "similarity":
        examples = [Example(str(number), (), float(number % 5)) for number in range(EXAMPLES)]
        form = answers("medsts", examples, [Prediction(float(number % 3)) for number in range(EXAMPLES)])
    else:
        form = labelled("cen", "cee")
    by_test = by_rank = 0
    for _ in range(pairs):
        ours, theirs = simulated(family, seeds, generator, gap)
        by_test += statistics.randomise(ours, theirs, form)[1] < statistics.SIGNIFICANT
        both = np.concatenate([ours, theirs], axis=1)
        scores = intervals.over_units(both, form.score, "").reshape(-1, 2, seeds)
        by_seed = form.score(both.sum(axis=0)).reshape(2, seeds)
        by_rank += intervals.ahead(intervals.compared(["a", "b"], by_seed, scores, "")).any()
    return by_test / pairs, by_rank / pairs


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (statistics, intervals):
        monkeypatch.setattr(module, "RESAMPLES", 999)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize("family", ["multiclass", "tagging", "similarity"])
def test_equal_systems_are_rarely_called_different(family: str, seeds: int, few_resamples: None) -> None:
    assert max(called_different(family, seeds, SIMULATED)) <= MOST_CALLED


@pytest.mark.parametrize("family", ["multiclass", "tagging", "similarity"])
def test_systems_that_differ_are_called_different(family: str, few_resamples: None) -> None:
    assert min(called_different(family, 5, 20, gap=0.6)) >= 0.9


def test_p_falls_with_the_difference() -> None:
    examples = list(gold("biosses", "test", 40))
    known = tasks.get("biosses")

    def system(skill: float, seed: int) -> Units:
        generator = np.random.default_rng(seed)
        return answers("biosses", examples, [spoil(known, example, skill, generator) for example in examples])

    same = statistics.randomise(system(0.7, 1).values, system(0.7, 2).values, system(0.7, 1))[1]
    other = statistics.randomise(system(0.9, 1).values, system(0.3, 2).values, system(0.9, 1))[1]
    assert other < 0.01 < 0.1 < same


class TestRows:
    @pytest.fixture
    def board(self, tmp_path: Path) -> leaderboard.Leaderboard:
        for model, skill in (("encoder-a", 0.5), ("encoder-b", 0.95)):
            for seed in (1, 2):
                for task in ("mednli", "clefe", "hoc", "medsts"):
                    made_up(tmp_path / task / model / str(seed), task, model, seed, skill=skill, rows=60)
        made_up(tmp_path / "other", "ddi2013", "encoder-b", 1)
        return leaderboard.build(collect.find([tmp_path]))

    def test_every_task_that_both_have(self, board: leaderboard.Leaderboard) -> None:
        tests = statistics.compare(board, statistics.choose(board, "encoder-a"))
        assert {test.task for test in tests} == {"mednli", "clefe", "hoc", "medsts"}
        for test in tests:
            assert test.row == "encoder-b" and list(test.seeds) == [1, 2]
            means = {row.label: row.cells[test.task].mean for row in board.rows}
            assert test.difference == pytest.approx(means["encoder-b"] - means["encoder-a"])
            assert test.p is not None and test.p < 0.05
        assert "60 examples, mean over 2 seed(s)" in {test.remark for test in tests}

    def test_both_ps_are_shown_and_the_star_follows_the_corrected_one(self, board: leaderboard.Leaderboard) -> None:
        tests = statistics.compare(board, statistics.choose(board, "encoder-a"))
        ps = {test.task: test.p for test in tests if test.p is not None}
        assert {test.task: test.corrected for test in tests} == pytest.approx(statistics.holm(ps))
        said = json.loads(tables.as_json(board, tests, "encoder-a"))["significance"]
        assert [(one["p"], one["corrected"]) for one in said["tests"]] == [(test.p, test.corrected) for test in tests]
        assert "Holm over the tasks of one row" in said["method"]
        test = replace(tests[0], p=0.02, corrected=0.08)
        assert tables.test_cells(board, test)[3:5] == ("0.020", "0.080")
        assert tables.test_cells(board, replace(test, corrected=0.04))[3:5] == ("0.020", "0.040*")
        for text in (tables.markdown(board, [test], "encoder-a"), tables.latex(board, [test], "encoder-a")):
            assert "p (Holm)" in text and "0.080" in text and "0.080*" not in text

    def test_caution_with_few_seeds(self, board: leaderboard.Leaderboard) -> None:
        tests = statistics.compare(board, statistics.choose(board, "encoder-a"))
        assert "fewer than 5 seeds" in statistics.method(tests)
        assert "fewer than" not in statistics.method([replace(test, seeds=range(5)) for test in tests])

    def test_other_data_is_not_compared(self, board: leaderboard.Leaderboard) -> None:
        cell = next(row for row in board.rows if row.label == "encoder-b").cells["mednli"]
        path = cell.runs[2].folder / "predictions" / "test.tsv"
        path.write_text(path.read_text().replace("test-3\t", "test-3x\t"))
        (cell.runs[1].folder / "predictions" / "test.tsv").unlink()
        by_task = {t.task: t for t in statistics.compare(board, statistics.choose(board, "encoder-a"))}
        assert by_task["mednli"].p is None and "cannot be read" in by_task["mednli"].remark
        assert by_task["hoc"].p is not None

    def test_choosing_a_baseline(self, board: leaderboard.Leaderboard) -> None:
        with pytest.raises(UserError, match=r"--baseline encoder: fits several rows.*encoder-b, encoder-a"):
            statistics.choose(board, "encoder")
        with pytest.raises(UserError, match="--baseline bert: no such row"):
            statistics.choose(board, "bert")


def test_choices_of_one_model_are_never_bold(tmp_path: Path) -> None:
    """Bold would invite choosing among them by test; the usual settings stand for the model."""
    for seed in (12, 13):
        made_up(tmp_path / f"u{seed}", "mednli", "encoder-a", seed, skill=0.6)
        made_up(tmp_path / f"b{seed}", "mednli", "encoder-b", seed, skill=0.3)
        for rate, skill in (("1e-5", 0.9), ("2e-5", 0.95)):
            flags = ("--learning_rate", rate)
            made_up(tmp_path / f"{rate}-{seed}", "mednli", "encoder-a", seed, skill=skill, flags=flags)
    built = leaderboard.build(collect.find([tmp_path]))
    for assessed in (built, statistics.assess(built)):
        bold = {row.label for row in assessed.rows if row.cells["mednli"].is_best}
        assert len(assessed.rows) == 4 and "encoder-a" in bold and not any("learning_rate" in label for label in bold)

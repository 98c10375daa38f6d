"""Approximate randomisation: the exact p-value of a small case, and the published score out of units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up_runs import gold, made_up, spoil

import tasks
from harness.errors import UserError
from harness.task import Example, Prediction
from launch.reporting import collect, leaderboard, statistics
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


def labelled(gold_labels: str, predicted: str) -> Units:
    names = {"c": "contradiction", "e": "entailment", "n": "neutral"}
    examples = [Example(str(i), (), names[label]) for i, label in enumerate(gold_labels)]
    return answers("mednli", examples, [Prediction(names[label]) for label in predicted])


def test_p_is_exact_in_a_case_small_enough() -> None:
    """Five examples on which only A is right, one on which only B is: of 2^6 exchanges, those that leave a difference
    of at least 4/8 either way have 5 or 6 on one side: 2 * (6 + 1) = 14."""
    a, b = labelled("cccccccc", "ccccccnc"), labelled("cccccccc", "cnnnnncc")
    difference, p = statistics.randomise(a.values, b.values, a)
    assert difference == pytest.approx(4 / 8) and p == pytest.approx(14 / 64)


def test_systems_that_answer_alike_do_not_differ() -> None:
    a = labelled("cenc", "ceec")
    assert statistics.randomise(a.values, a.values, a) == (0.0, 1.0)


def test_seeds_are_averaged_and_exchanged_together() -> None:
    """Two seeds with the same answers are one system twice: difference and p stay."""
    a, b = labelled("cccccccc", "ccccccnc"), labelled("cccccccc", "cnnnnncc")
    twice = [np.concatenate([one.values, one.values], axis=1) for one in (a, b)]
    assert statistics.randomise(*twice, a) == pytest.approx(statistics.randomise(a.values, b.values, a))


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

    def test_other_data_is_not_compared(self, board: leaderboard.Leaderboard) -> None:
        cell = next(row for row in board.rows if row.label == "encoder-b").cells["mednli"]
        path = cell.runs[2].folder / "predictions" / "test.tsv"
        path.write_text(path.read_text().replace("test-3\t", "test-3x\t"))
        (cell.runs[1].folder / "predictions" / "test.tsv").unlink()
        by_task = {t.task: t for t in statistics.compare(board, statistics.choose(board, "encoder-a"))}
        assert by_task["mednli"].p is None and "cannot be read" in by_task["mednli"].remark
        assert by_task["hoc"].p is not None

    def test_choosing_a_baseline(self, board: leaderboard.Leaderboard) -> None:
        with pytest.raises(UserError, match=r"--baseline encoder: fits several rows.*encoder-a, encoder-b"):
            statistics.choose(board, "encoder")
        with pytest.raises(UserError, match="--baseline bert: no such row"):
            statistics.choose(board, "bert")

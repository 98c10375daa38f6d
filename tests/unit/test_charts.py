"""What the page's charts show, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up_runs import made_up

import tasks
from launch.reporting import charts, collect, page


def test_curves_are_mean_and_range_by_epoch(tmp_path: Path) -> None:
    runs = [collect.read_all([made_up(tmp_path / str(seed), "mednli", seed=seed)])[0] for seed in (1, 2)]
    for run, scores in zip(runs, ((0.5, 0.7), (0.6, 0.9)), strict=True):
        rows = [{"epoch": float(i), "dev_score": score} for i, score in enumerate(scores, 1)]
        object.__setattr__(run, "epochs", rows)
    part = charts.Part(0, "encoder-a", runs, [])
    low, high, mean = charts.curves(part, "dev_score")
    assert [list(line.y) for line in (low, high, mean)] == [[50, 70], [60, 90], [55, 80]]
    assert list(mean.x) == [1, 2] and list(mean.customdata) == [2, 2]
    assert charts.curves(part, "dev_loss") == []


def test_calibration() -> None:
    one, other = [3, 2.7, 3.0], [1, 0.5, 0.0]
    count, claimed, true, error = charts.calibration([np.array([one, [0, 0, 0]]), np.array([[1, 0.9, 0.0], other])])
    assert claimed == [0.9, 0.5] and true == [0.75, 0.0]
    assert count == [4, 1] and error == pytest.approx((4 * 0.15 + 1 * 0.5) / 5)


def test_predictions_that_do_not_give_the_score_are_named(tmp_path: Path) -> None:
    run = collect.read_all([made_up(tmp_path / "a", "mednli", score=0.123)])[0]
    assert "result.json says 0.1230" in charts.answered(run).remark
    assert charts.answered(collect.read_all([made_up(tmp_path / "b", "mednli")])[0]).remark == ""


def test_many_models_leave_room_for_fewer_examples(tmp_path: Path) -> None:
    one = charts.answered(collect.read_all([made_up(tmp_path / "a", "clefe", rows=100, skill=0.1)])[0])
    few = page.errors(tasks.get("clefe"), [(0, one)], with_text=False)
    many = page.errors(tasks.get("clefe"), [(row, one) for row in range(4000)], with_text=False)
    assert len(few["ids"]) == few["wrong"] and len(many["ids"]) <= 100
    assert all(len(model["answers"]) == len(many["ids"]) for model in many["models"])

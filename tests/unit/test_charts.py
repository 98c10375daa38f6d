"""What the page's charts show, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_runs import made_up

import tasks
from launch.reporting import charts, collect, error_browser


def test_curves_are_mean_and_range_by_epoch(tmp_path: Path) -> None:
    runs = [collect.read_all([made_up(tmp_path / str(seed), "mednli", seed=seed)])[0] for seed in (1, 2)]
    for run, scores in zip(runs, ((0.5, 0.7), (0.6, 0.9)), strict=True):
        rows = [{"epoch": float(i), "dev_score": score} for i, score in enumerate(scores, 1)]
        object.__setattr__(run, "epochs", rows)
    assert charts.curves(runs) == {
        "dev_score": {"epoch": [1.0, 2.0], "mean": [0.55, 0.8], "low": [0.5, 0.7], "high": [0.6, 0.9], "n": [2, 2]}
    }


def test_calibration() -> None:
    one, other = charts.Bin(3, 2.7, 3.0), charts.Bin(1, 0.5, 0.0)
    found = charts.calibration([[one, None], [charts.Bin(1, 0.9, 0.0), other]])
    assert found is not None and found["claimed"] == [0.9, 0.5] and found["true"] == [0.75, 0.0]
    assert found["count"] == [4, 1] and found["error"] == pytest.approx((4 * 0.15 + 1 * 0.5) / 5)


def test_predictions_that_do_not_give_the_score_are_named(tmp_path: Path) -> None:
    run = collect.read_all([made_up(tmp_path / "a", "mednli", score=0.123)])[0]
    assert "result.json says 0.1230" in charts.answered(run).remark
    assert charts.answered(collect.read_all([made_up(tmp_path / "b", "mednli")])[0]).remark == ""


def test_many_models_leave_room_for_fewer_examples(tmp_path: Path) -> None:
    one = charts.answered(collect.read_all([made_up(tmp_path / "a", "clefe", rows=100, skill=0.1)])[0])
    few = error_browser.of_task(tasks.get("clefe"), [(0, one)], with_text=False)
    many = error_browser.of_task(tasks.get("clefe"), [(row, one) for row in range(4000)], with_text=False)
    assert len(few["ids"]) == few["wrong"] and len(many["ids"]) <= 100
    assert all(len(model["answers"]) == len(many["ids"]) for model in many["models"])

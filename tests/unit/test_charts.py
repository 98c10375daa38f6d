"""What the page's charts show, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_runs import made_up

import tasks
from harness.task import Example, Prediction
from launch.jobs.suites import natural
from launch.reporting import board_charts, charts, collect, leaderboard, page, series, statistics
from launch.reporting.leaderboard import Leaderboard
from tasks.predictions import Answers


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
    few = page.errors(tasks.get("clefe"), "test", [(0, one)], with_text=False)
    many = page.errors(tasks.get("clefe"), "test", [(row, one) for row in range(4000)], with_text=False)
    assert len(few["ids"]) == few["wrong"] and len(many["ids"]) <= 100
    assert all(len(model["answers"]) == len(many["ids"]) for model in many["models"])


def test_no_two_names_look_alike() -> None:
    long = "a-model-with-a-name-that-is-much-too-long [learning_rate={}, batch=8-and-a-tail]"
    found = charts.names([long.format(rate) for rate in ("3e-05", "4e-05")] + ["a<b>"])
    assert len({*found.values()}) == 3 and all(len(name) < charts.MOST_LETTERS + 6 for name in found.values())
    assert found["a<b>"] == "a&lt;b&gt;"


def board_of(tmp_path: Path, *made: tuple[str, str, int, float]) -> Leaderboard:
    """Of runs (task, model, seed, test score)."""
    for number, (task, model, seed, score) in enumerate(made):
        made_up(tmp_path / str(number), task, model, seed, rows=12, score=score)
    return leaderboard.build(collect.find([tmp_path]))


def test_a_negative_score_is_on_the_board_chart(tmp_path: Path) -> None:
    board = board_of(tmp_path, ("biosses", "a", 1, -0.31), ("biosses", "a", 2, -0.33), ("mednli", "a", 1, 0.5))
    made = board_charts.of_board(board, {"biosses": "BIOSSES"}, {"a": 0})
    assert made.layout.yaxis.range == (-40, 101)
    [row] = board.rows
    cells = {"biosses": dataclasses.replace(row.cells["biosses"], interval=(-0.7, 0.1))}
    board = dataclasses.replace(board, rows=[dataclasses.replace(row, cells=cells)])
    made = board_charts.of_board(board, {"biosses": "BIOSSES"}, {"a": 0})
    assert made.layout.yaxis.range == (-80, 101)  # with a bar from the interval's lower to its upper end
    assert [*made.data[0].error_y.arrayminus, *made.data[0].error_y.array] == pytest.approx([38, 42])
    assert made.data[0].y == pytest.approx([-32]) and made.data[0].x == ("BIOSSES",)


def test_differences_to_a_baseline(tmp_path: Path) -> None:
    cells = [("biosses", "a", -0.2), ("biosses", "b", 0.3), ("mednli", "a", 0.5), ("mednli", "b", 0.46)]
    board = board_of(tmp_path, *((task, model, 1, score) for task, model, score in [*cells, ("hoc", "b", 0.4)]))
    tests = [
        statistics.Test("b", "biosses", 0.4, 0.005, corrected=0.01),
        statistics.Test("b", "mednli", -0.04, 0.2, corrected=0.2),
    ]
    columns = {name: board.columns[name] for name in ("biosses", "mednli", "hoc")}
    found = board_charts.of_differences(board, columns, tests, "a")
    assert found is not None
    against_a, against_b = found.data[:2]
    assert [trace.name for trace in found.data[:3]] == ["a", "b", "ouBioBERT-Base"]
    assert against_a.x == ("BIOSSES", "MedNLI") and against_a.y == ("b",)
    assert against_a.z == ([40.0, -4.0],)  # as it was tested, on the seeds that both have
    assert against_a.customdata == (["p = 0.010 (Holm)", "not significant, p = 0.200 (Holm)"],)
    assert against_b.z == ([-50.0, 4.0],) and against_b.customdata == (["not tested", "not tested"],)
    of_published = dict(zip(found.data[2].y, found.data[2].z, strict=True))
    assert of_published["a"] == [pytest.approx(-112.3), pytest.approx(-33.6), None]
    assert found.layout.coloraxis.cmax == -found.layout.coloraxis.cmin == board_charts.WIDEST
    assert board_charts.of_differences(leaderboard.build([]), {}, [], "") is None


def test_tuning_chart_has_a_line_for_each_choice_of_the_other_settings() -> None:
    tried = [({"learning_rate": rate, "num_train_epochs": n}, dev) for n, rate, dev in [
        (5, 4e-5, [0.7, 0.8]), (5, 3e-5, [0.7]), (10, 3e-5, [-0.1]), (10, 4e-5, [0.8, 0.82])]]  # fmt: skip
    made = charts.tuning([charts.Trials(3, "a", tried, {"learning_rate": 4e-5, "num_train_epochs": 10})])
    five, ten, star = made.data
    assert five.name == "a, epochs 5" and five.x == (3e-5, 4e-5) and five.y == (70, 75) and five.meta == 3
    assert ten.y == (-10, 81) and ten.customdata == (1, 2) and five.error_y.array == pytest.approx([0, 7.071], abs=1e-3)
    assert star.marker.symbol == "star" and star.x == (4e-5,) and star.y == (81,)
    assert made.layout.xaxis.title.text == "learning rate" and made.layout.xaxis.tickvals == (3e-5, 4e-5)
    words = charts.tuning([charts.Trials(0, "a", [({"pooling": "cls"}, [0.5]), ({"pooling": None}, [0.6])])])
    assert words.layout.xaxis.type == "category" and [*words.data[0].y] == [60, 50]
    lists = charts.tuning([charts.Trials(0, "a", [({"layers": [1, 2]}, [0.5])], {"layers": [1, 2]})])
    assert [trace.x for trace in lists.data] == [("[1, 2]",), ("[1, 2]",)]


def test_tried_settings_are_those_of_trials_until_one_is_chosen(tmp_path: Path) -> None:
    values = [{"learning_rate": rate} for rate in (3e-5, 4e-5)]
    for place, (one, seed) in enumerate([(values[0], 1000), (values[0], 1001), (values[1], 1000)]):
        made_up(tmp_path / f"trial-{place}", "mednli", "a", seed, search={"kind": "trial", "values": one})
    runs = collect.find([tmp_path])
    [(run, trials, chosen)] = page.searched(runs)
    assert run.model == "a" and chosen is None and [one for one, _ in trials] == values
    assert [len(dev) for _, dev in trials] == [2, 1]
    tried = [{"values": one, "dev": [0.25]} for one in values] + [{"values": {"learning_rate": 1e-3}, "dev": []}]
    record = {"kind": "chosen", "values": values[1], "tried": tried, "dev": 0.25}
    made_up(tmp_path / "chosen", "mednli", "a", search=record)
    [(run, trials, chosen)] = page.searched(collect.find([tmp_path]))
    assert chosen == values[1] and [dev for _, dev in trials] == [[0.25], [0.25]] and run.seed == 12


def test_confidence_is_of_the_answer_that_was_given() -> None:
    task, hoc = tasks.get("mednli"), tasks.get("hoc")
    examples = [Example(str(number), (), task.labels[0]) for number in range(2)]
    given = Answers(Path(), examples, [Prediction(task.labels[place]) for place in (2, 0)], [2, 3])
    assert charts.confidence(task, given, np.array([[0.1, 0.2, 0.7], [0.4, 0.5, 0.1]])).tolist() == [0.7, 0.4]
    labels = (1, 0) + (0,) * (len(hoc.labels) - 2)
    several = Answers(Path(), [Example("0", (), labels)], [Prediction(labels)], [2])
    claimed = np.array([[0.9, 0.3] + [0.05] * (len(labels) - 2)])
    assert charts.confidence(hoc, several, claimed) == pytest.approx([0.7])


def test_errors_on_dev_say_that_dev_was_trained_on(tmp_path: Path) -> None:
    def found(name: str, **result: bool) -> dict[str, Any]:
        run = collect.read_all([made_up(tmp_path / name, "ddi2013", **result)])[0]
        return page.errors(tasks.get("ddi2013"), "dev", [(0, charts.answered(run, "dev"))], with_text=False)

    plain = found("a")
    assert plain["remarks"] == [] and plain["ids"][0].startswith("dev-")
    assert len(plain["models"][0]["sure"]) == len(plain["ids"]) and 0.4 <= plain["models"][0]["sure"][0] <= 1
    assert found("b", dev_was_trained_on=True)["remarks"] == ["dev was trained on"]


def test_checkpoints_are_charted_by_their_steps(tmp_path: Path) -> None:
    for step, seed, score in ((2000, 1, 0.5), (2000, 2, 0.6), (10000, 1, -0.1)):
        made_up(tmp_path / f"{step}-{seed}", "mednli", f"/ckpts/step-{step}", seed, rows=12, score=score)
    test, dev = charts.along(series.checkpoints(collect.find([tmp_path])), "Score by checkpoint", "step").data
    assert test.name == "/ckpts/step-*, test" and test.x == (2000, 10000) and test.y == (55, -10)
    assert test.error_y.array == pytest.approx([7.071, 0], abs=1e-3) and test.customdata == (2, 1)
    assert dev.line.dash == "dot" and dev.x == (2000, 10000) and test.meta is None


def test_names_sort_by_their_numbers() -> None:
    assert sorted(["step-10000", "step-2000", "9", "a²"], key=natural) == ["9", "a²", "step-2000", "step-10000"]

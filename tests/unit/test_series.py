"""Checkpoints of one pre-training in the report: their order, and the data of the chart of score against step."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_runs import made_up

from launch.reporting import collect, leaderboard, series


@pytest.fixture
def runs(tmp_path: Path) -> list[collect.Run]:
    for task in ("mednli", "hoc"):
        for step, score in ((2, 0.5), (10, 0.75), (100, 0.625)):
            for seed in (1, 2):
                folder, model = tmp_path / f"{task}-{step}-{seed}", f"/ckpts/step-{step}"
                made_up(folder, task, model, seed, rows=4, score=score + seed / 64)
        for number, score in enumerate((0.7, 0.1)):
            made_up(tmp_path / f"{task}-v{number}", task, f"dmis-lab/biobert-v1.{number}", 1, rows=4, score=score)
    made_up(tmp_path / "medsts", "medsts", "/ckpts/step-2", 1, rows=4)
    made_up(tmp_path / "sample", "mednli", "/ckpts/step-10", 1, rows=4, data_dir=None)
    return collect.find([tmp_path])


def test_rows_are_in_the_order_of_the_steps(runs: list[collect.Run]) -> None:
    """Not in that of their scores; versions of a model are no series."""
    labels = [row.label for row in leaderboard.build(runs).rows]
    assert labels == ["biobert-v1.0", "step-2", "step-10", "step-100", "biobert-v1.1"]


def test_scores_by_step(runs: list[collect.Run]) -> None:
    hoc, found = series.checkpoints(runs)
    assert (found.name, found.run.task, found.run.data, hoc.run.task) == ("/ckpts/step-*", "mednli", "given", "hoc")
    assert [point.at for point in found.points] == [2, 10, 100]
    assert [[*point.test] for point in found.points] == [
        [mean + seed / 64 for seed in (1, 2)] for mean in (0.5, 0.75, 0.625)
    ]
    assert all(len(point.dev) == 2 for point in found.points)
    labels = leaderboard.row_labels(runs)
    assert [labels[point.row] for point in found.points] == ["step-2", "step-10", "step-100"]


def test_two_series_of_the_same_names_stay_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        for step in (1, 2):
            made_up(tmp_path / f"{folder}{step}", "mednli", f"/{folder}/step-{step}", 1, rows=4, score=step / 10)
    runs = collect.find([tmp_path])
    assert [one.name for one in series.checkpoints(runs)] == ["/a/step-*", "/b/step-*"]
    assert [row.label for row in leaderboard.build(runs).rows] == [
        "a/step-1", "a/step-2", "b/step-1", "b/step-2"
    ]  # fmt: skip


def test_a_share_of_the_data_is_nothing_to_choose(tmp_path: Path) -> None:
    """Not even where the least data has the best dev score: a row for each share, of which none was searched."""
    for fraction, score in ((0.1, 0.75), (0.3, 0.5), (1, 0.625)):
        search = {"kind": "sweep", "values": {"train_fraction": fraction}}
        flags = ("--train_fraction", str(fraction))
        folder = tmp_path / str(fraction)
        made_up(folder, "mednli", "/models/a", 1, score=score, skill=score, flags=flags, search=search)
    rows = leaderboard.build(collect.find([tmp_path])).rows
    assert {row.label: row.cells["mednli"].mean for row in rows} == {
        "a": 0.625, "a [train_fraction=0.1]": 0.75, "a [train_fraction=0.3]": 0.5
    }  # fmt: skip
    assert not any(set(row.cells["mednli"].marks) & set("cb") or row.cells["mednli"].is_best for row in rows)


def test_both_a_share_and_a_setting_in_one_sweep(tmp_path: Path) -> None:
    """The setting is chosen among the runs of one share."""
    for fraction, decay, score in ((0.5, 0.0, 0.75), (0.5, 0.1, 0.5), (1, 0.0, 0.25), (1, 0.1, 0.625)):
        search = {"kind": "sweep", "values": {"train_fraction": fraction, "weight_decay": decay}}
        flags = ("--train_fraction", str(fraction), "--weight_decay", str(decay))
        folder = tmp_path / f"{fraction}-{decay}"
        made_up(folder, "mednli", "/models/a", 1, score=score, skill=score, flags=flags, search=search)
    rows = leaderboard.build(collect.find([tmp_path])).rows
    assert sorted(row.cells["mednli"].mean for row in rows) == [0.625, 0.75]


def test_a_learning_curve_is_of_runs_that_differ_in_the_share_alone(tmp_path: Path) -> None:
    """Of a sweep and of single runs, those of the whole training data among them; other settings are other curves."""
    for fraction, score in ((0.1, 0.5), (0.3, 0.625), (1, 0.75)):
        for seed in (1, 2):
            search = {"kind": "sweep", "values": {"train_fraction": fraction}} if fraction < 1 else None
            folder, flags = tmp_path / f"{fraction}-{seed}", ("--train_fraction", str(fraction))
            made_up(folder, "mednli", "/models/a", seed, rows=4, score=score + seed / 64, flags=flags, search=search)
    for fraction in ("0.1", "0.5"):
        flags = ("--train_fraction", fraction, "--weight_decay", "0.1")
        made_up(tmp_path / f"decay-{fraction}", "mednli", "/models/a", 1, rows=4, score=0.5, flags=flags)
        made_up(tmp_path / f"b-{fraction}", "hoc", "/models/b", 1, rows=4, flags=("--train_fraction", "0.1"))
    runs = collect.find([tmp_path])
    one, other = series.learning_curves(runs)
    assert (one.name, one.run.task, other.name) == ("a", "mednli", "a [weight_decay=0.1]")
    assert [point.at for point in one.points] == [0.1, 0.3, 1.0] and [point.at for point in other.points] == [0.1, 0.5]
    assert [[*point.test] for point in one.points] == [[x + 1 / 64, x + 2 / 64] for x in (0.5, 0.625, 0.75)]
    labels = [row.label for row in leaderboard.build(runs).rows]
    assert "a [train_fraction=0.5, weight_decay=0.1]" in labels and len(set(labels)) == len(labels)

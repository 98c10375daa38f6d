"""Searches for settings in the report: the overview of what was chosen, sweeps, and how either is marked."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import made_up

from launch import report
from launch.reporting import collect, leaderboard, overview, searches
from launch.reporting import tables as report_tables
from launch.reporting.leaderboard import Leaderboard

BASIS = "dev, 40 examples, trained on train alone"


def chosen(
    root: Path, task: str, rate: float, epochs: int, *tests: float, trials: int = 4, warning: str = "", **more: Any
) -> None:
    """Runs with chosen values, from seed 1 on, of a search whose best dev score is 0.85."""
    search = {
        "kind": "chosen", "values": {"learning_rate": rate, "num_train_epochs": epochs}, "sampler": "grid",
        "space": {"learning_rate": [3e-5, 4e-5], "num_train_epochs": [5, 10]}, "trials": trials, "seeds": [1000],
        "folds": 0, "device_hours": 0.4, "dev": 0.85, "basis": BASIS, "warning": warning,
        "tried": [{"values": {"learning_rate": rate, "num_train_epochs": epochs}, "dev": [0.84, 0.86]},
                  {"values": {"learning_rate": 9e-5, "num_train_epochs": 9}, "dev": [0.5]},
                  {"values": {"learning_rate": 8e-5, "num_train_epochs": 9}, "dev": []}],
    }  # fmt: skip
    flags = ["--learning_rate", str(rate), "--num_train_epochs", str(epochs)]
    for seed, score in enumerate(tests, 1):
        folder = root / task / more.get("model", "encoder-a") / f"seed-{seed}"
        made_up(folder, task, seed=seed, score=score, rows=120, flags=flags, search=search, **more)


def trial(root: Path, task: str, rate: float, **more: Any) -> None:
    search = {"kind": "trial", "values": {"learning_rate": rate}}
    flags = ["--learning_rate", str(rate), "--train_splits", "train"]
    made_up(root / task / "tune" / str(rate), task, seed=1000, rows=4, flags=flags, search=search, **more)


def point(root: Path, rate: float, dev: float | None, test: float, epochs: int = 5, seed: int = 1) -> Path:
    """A run of a sweep on MedNLI; `dev`: None where dev was not scored."""
    search = {"kind": "sweep", "values": {"learning_rate": rate, "num_train_epochs": epochs}}
    flags = ["--learning_rate", str(rate), "--num_train_epochs", str(epochs)]
    folder = root / f"learning_rate={rate},num_train_epochs={epochs}" / f"seed-{seed}"
    scores = {"test": {"score": test, "metric": "accuracy", "loss": 0.1, "examples": 120}}
    if dev is not None:
        scores["dev"] = {"score": dev, "metric": "accuracy", "loss": 0.1, "examples": 120}
    return made_up(folder, "mednli", seed=seed, rows=4, flags=flags, search=search, scores=scores)


def board(root: Path) -> Leaderboard:
    return leaderboard.build(collect.find([root]))


class TestOverview:
    def test_a_row_a_task_and_model(self, tmp_path: Path) -> None:
        chosen(tmp_path, "mednli", 4e-5, 10, 0.81, 0.83)
        chosen(tmp_path, "hoc", 3e-5, 5, 0.6)
        (table,) = overview.build(collect.find([tmp_path]))
        assert [*table.head] == [
            "task", "model", "learning rate", "epochs", "dev", "test", "seeds", "trials", "device hours", "sampler"
        ]  # fmt: skip
        assert [[*row] for row in table.rows] == [
            ["HoC", "encoder-a (tuned)", "3e-05", "5", "85.0", "60.0", "1", "4", "0.40", "grid"],
            ["MedNLI", "encoder-a (tuned)", "4e-05", "10", "85.0", "82.0 (1.4)", "2", "4", "0.40", "grid"],
        ]
        space = "searched (grid): learning rate 3e-05, 4e-05; epochs 5, 10"
        assert [*table.notes] == [f"HoC, MedNLI: {space}", f"HoC, MedNLI: {BASIS}"]
        chosen(tmp_path, "hoc", 3e-5, 5, 0.6, model="encoder-b", warning="few")
        (table,) = overview.build(collect.find([tmp_path]))
        assert "HoC (encoder-b (tuned)): few" in table.notes

    def test_every_form_says_the_same(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        chosen(tmp_path / "runs", "mednli", 4e-5, 10, 0.81, 0.83)
        assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
        shown = capsys.readouterr().out
        cells = ["MedNLI", "encoder-a (tuned)", "4e-05", "10", "85.0", "82.0 (1.4)", "2", "4", "0.40", "grid"]
        lines = [" ".join(line.split()) for line in shown.splitlines()]
        assert lines.index("encoder-a (tuned)") < lines.index(" ".join([cells[0], *cells[2:]])) and BASIS in shown
        out = tmp_path / "out"
        assert f"| {' | '.join(cells)} |" in (out / "overview.md").read_text()
        assert " & ".join(cells) in (out / "overview.tex").read_text()
        assert all("learning rate 3e-05, 4e-05" in (out / f"overview.{form}").read_text() for form in ("md", "tex"))
        first, *tried = csv.DictReader(io.StringIO((out / "overview.csv").read_text()))
        expected = {"kind": "chosen", "data": "given", "task": "mednli", "learning_rate": "4e-05", "dev": "0.85"}
        expected |= {
            "test": repr((0.81 + 0.83) / 2),
            "seeds": "1 2",
            "trials": "4",
            "device_hours": "0.4",
        }
        assert {key: first[key] for key in expected} == expected and first["remarks"] == BASIS
        assert [(one["kind"], one["dev"], one["dev_scores"], one["test"]) for one in tried] == [
            ("tried", "0.85", "0.84 0.86", ""), ("tried", "0.5", "0.5", ""), ("tried", "", "", "")
        ]  # fmt: skip

    def test_sample_data_has_a_table_of_its_own(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        chosen(tmp_path / "runs", "mednli", 4e-5, 10, 0.81)
        chosen(tmp_path / "runs", "hoc", 4e-5, 10, 0.9191, data_dir=None)
        given, sample = overview.build(collect.find([tmp_path / "runs"]))
        assert "SAMPLE DATA" in sample.title and "SAMPLE DATA" not in given.title
        assert [table.rows[0][0] for table in (given, sample)] == ["MedNLI", "HoC (SAMPLE DATA)"]
        assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
        shown = capsys.readouterr().out
        for text in (shown, *((tmp_path / "out" / f"overview.{form}").read_text() for form in ("md", "tex"))):
            assert text.index("SAMPLE DATA") < text.index("91.9")
        lines = [*csv.DictReader(io.StringIO((tmp_path / "out" / "overview.csv").read_text()))]
        assert {line["data"] for line in lines if line["task"] == "hoc"} == {"SAMPLE DATA"}
        assert "91.9" not in "".join((tmp_path / "out" / f"leaderboard.{form}").read_text() for form in ("md", "tex"))

    def test_models_in_natural_order_and_numbers_as_a_user_writes_them(self, tmp_path: Path) -> None:
        values = {"kind": "chosen", "values": {"num_train_epochs": 5.0}, "device_hours": 0.0123, "dev": 0.5}
        for step in (10, 2):
            made_up(tmp_path / str(step), "mednli", f"/c/step-{step}", search=values, score=0.8)
        (table,) = overview.build(collect.find([tmp_path]))
        assert [[*row[1:4], row[7]] for row in table.rows] == [
            ["step-2 (tuned)", "5", "50.0", "0.0123"], ["step-10 (tuned)", "5", "50.0", "0.0123"]
        ]  # fmt: skip

    def test_no_searches_no_overview(self, tmp_path: Path) -> None:
        made_up(tmp_path / "runs", "mednli")
        assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
        assert not list((tmp_path / "out").glob("overview.*"))

    def test_other_chosen_values_are_another_line(self, tmp_path: Path) -> None:
        chosen(tmp_path / "a", "mednli", 4e-5, 10, 0.81)
        chosen(tmp_path / "b", "mednli", 3e-5, 10, 0.91, 0.93)
        (table,) = overview.build(collect.find([tmp_path]))
        assert [row[2] for row in table.rows] == ["3e-05", "4e-05"]
        (row,) = board(tmp_path).rows  # seed 1 of one of the searches, seed 2 of the other
        assert "x" in row.cells["mednli"].marks or "r" in row.cells["mednli"].marks

    @pytest.mark.parametrize(
        ("search", "said"),
        [
            ({"kind": "chosn", "values": {}}, "kind"),
            ({"kind": "chosen"}, "values"),
            ({"kind": "sweep", "values": 3}, ""),
        ],
    )
    def test_a_damaged_record_costs_no_other_run(self, search: dict[str, Any], said: str, tmp_path: Path) -> None:
        made_up(tmp_path / "good", "mednli")
        made_up(tmp_path / "bad", "mednli", search=search)
        bad, good = collect.find([tmp_path])
        assert (bad.status, good.status) == ("broken", "finished") and f"search: {said}" in bad.reason


class TestLeaderboard:
    def test_tuned_is_one_row_whatever_was_chosen(self, tmp_path: Path) -> None:
        chosen(tmp_path, "mednli", 4e-5, 10, 0.81)
        chosen(tmp_path, "hoc", 3e-5, 5, 0.6)
        made_up(tmp_path / "plain", "mednli", seed=1, score=0.7, rows=120)
        found = {row.label: {*row.cells} - {"total"} for row in board(tmp_path).rows}
        assert found == {"encoder-a": {"mednli"}, "encoder-a (tuned)": {"mednli", "hoc"}}

    def test_settings_that_were_not_searched_stay_in_the_label(self, tmp_path: Path) -> None:
        search = {"kind": "chosen", "values": {"learning_rate": 4e-5}}
        flags = ["--learning_rate", "4e-5", "--max_seq_length", "64"]
        made_up(tmp_path / "a", "mednli", flags=flags, search=search)
        made_up(tmp_path / "b", "mednli")
        assert "encoder-a (tuned) [max_seq_length=64]" in [row.label for row in board(tmp_path).rows]

    def test_trials_are_nowhere(self, tmp_path: Path) -> None:
        made_up(tmp_path / "plain", "mednli", score=0.7)
        trial(tmp_path, "mednli", 3e-5)
        trial(tmp_path, "mednli", 4e-5, finished=False)
        trial(tmp_path, "hoc", 4e-5, data_dir=None)
        found = board(tmp_path)
        assert [row.label for row in found.rows] == ["encoder-a"] and found.left_out == []
        assert found.rows[0].cells["mednli"].marks == "t"  # not u: no run of the row is unfinished
        said = "runs of trials are finished, none has the chosen values yet"
        assert [*found.missing] == [
            f"MedNLI, encoder-a: 1 of 2 {said}", f"HoC, encoder-a (SAMPLE DATA): 1 of 1 {said}"
        ]  # fmt: skip
        chosen(tmp_path / "chosen", "mednli", 4e-5, 10, 0.81)
        assert [line.partition(":")[0] for line in board(tmp_path).missing] == ["HoC, encoder-a (SAMPLE DATA)"]

    def test_other_budgets_are_marked(self, tmp_path: Path) -> None:
        chosen(tmp_path, "hoc", 4e-5, 10, 0.6)
        chosen(tmp_path, "hoc", 4e-5, 10, 0.5, model="encoder-b")
        assert "b" not in "".join(row.cells["hoc"].marks for row in board(tmp_path).rows)  # the same for both
        chosen(tmp_path, "mednli", 4e-5, 10, 0.81)
        chosen(tmp_path, "mednli", 4e-5, 10, 0.7, model="encoder-b", trials=9)
        made_up(tmp_path / "plain", "mednli", "encoder-c", seed=1, score=0.7, rows=120)
        found = board(tmp_path)
        assert {row.label: row.cells["mednli"].marks for row in found.rows} == {
            "encoder-a (tuned)": "b", "encoder-b (tuned)": "b", "encoder-c": ""
        }  # fmt: skip
        trials = "(trials a task: encoder-a (tuned) 8, encoder-b (tuned) 8 or 18, encoder-c 0)"
        assert found.marks["b"].endswith(trials)
        assert all(trials in form(found) for form in (report_tables.markdown, report_tables.latex))


class TestSweep:
    def test_the_best_by_dev_is_the_one_point_of_the_leaderboard(self, tmp_path: Path) -> None:
        for seed in (1, 2):
            point(tmp_path, 3e-5, 0.80 + seed / 100, 0.70, seed=seed)
            point(tmp_path, 5e-5, 0.70 + seed / 100, 0.99, seed=seed)  # the best on test, and not chosen
        point(tmp_path, 9e-5, None, 0.98)
        made_up(tmp_path / "plain", "mednli", seed=1, score=0.6, rows=120)
        found = board(tmp_path)
        rows = {row.label: row.cells["mednli"] for row in found.rows}
        assert {label: cell.scores for label, cell in rows.items()} == {
            "encoder-a (sweep)": [0.7, 0.7],
            "encoder-a": [0.6],
        }
        assert rows["encoder-a (sweep)"].marks == "dcb"[1:] and found.left_out == []
        assert found.marks["c"].endswith("sweep (trials a task: encoder-a (sweep) 6)")
        assert [*found.missing] == [
            "sweep of MedNLI, encoder-a: 1 of 3 settings have no dev score and cannot be chosen"
        ]

    @pytest.mark.parametrize(
        ("others", "expected"),
        [
            ([(3e-5, 5), (3e-5, 3)], (3e-5, 3)),
            ([(5e-5, 3), (4e-5, 3)], (4e-5, 3)),
            ([(1e-5, 10), (5e-5, 3)], (5e-5, 3)),
        ],
    )
    def test_ties(self, others: list[tuple[float, int]], expected: tuple[float, int], tmp_path: Path) -> None:
        for number, (rate, epochs) in enumerate(others):
            point(tmp_path, rate, 0.8, 0.9 - number / 10, epochs)
        (found,) = searches.find(collect.find([tmp_path]))
        assert (found.values["learning_rate"], found.values["num_train_epochs"]) == expected

    def test_a_table_of_values_against_dev(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for seed in (1, 2):
            point(tmp_path / "runs", 3e-5, 0.80 + seed / 50, 0.7, seed=seed)
            point(tmp_path / "runs", 5e-5, 0.70, 0.9876, seed=seed)
        _, table = overview.build(collect.find([tmp_path / "runs"]))
        assert (table.title, [*table.head]) == (
            "Sweep: MedNLI, encoder-a (sweep)", ["learning rate", "epochs", "dev", "seeds"]
        )  # fmt: skip
        assert [[*row] for row in table.rows] == [["3e-05", "5", "83.0 (1.4)", "2"], ["5e-05", "5", "70.0 (0.0)", "2"]]
        assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
        texts = [path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix != ".html"]
        assert not any("98.8" in text or "0.9876" in text for text in (capsys.readouterr().out, *texts))

    def test_points_with_fewer_seeds_are_said(self, tmp_path: Path) -> None:
        point(tmp_path, 3e-5, 0.8, 0.7)
        point(tmp_path, 3e-5, 0.8, 0.7, seed=2)
        point(tmp_path, 5e-5, 0.9, 0.7)
        (line,) = board(tmp_path).missing
        assert line.startswith("sweep of MedNLI, encoder-a: some settings have dev scores of fewer seeds")

    def test_a_sweep_without_any_dev_score(self, tmp_path: Path) -> None:
        point(tmp_path, 3e-5, None, 0.9)
        assert board(tmp_path).rows == [] and len(board(tmp_path).missing) == 1

    def test_the_newest_run_of_a_seed_counts(self, tmp_path: Path) -> None:
        old = point(tmp_path / "a", 3e-5, 0.9, 0.5)
        point(tmp_path / "b", 3e-5, 0.4, 0.6)
        os.utime(old / "result.json", (1, 1))
        assert [one.dev for one in searches.find(collect.find([tmp_path]))] == [0.4]


def test_a_sweep_whose_dev_was_trained_on_says_so(tmp_path: Path) -> None:
    for rate in ("3e-5", "5e-5"):
        search = {"kind": "sweep", "values": {"learning_rate": float(rate)}}
        flags = ("--learning_rate", rate)
        made_up(tmp_path / rate, "bc5cdr_disease", flags=flags, search=search, rows=8)
    (found,) = searches.find(collect.find([tmp_path]))
    assert any("dev was trained on" in remark for remark in found.remarks)


def test_rows_of_other_tasks_are_no_choices_of_one_model(tmp_path: Path) -> None:
    made_up(tmp_path / "a", "mednli", flags=("--num_train_epochs", "77"), rows=40)
    made_up(tmp_path / "b", "hoc", flags=("--warmup_steps", "5"), rows=40)
    for task in ("mednli", "hoc"):
        made_up(tmp_path / f"o{task}", task, "other", rows=40)
    assert not any(row.is_choice for row in leaderboard.build(collect.find([tmp_path])).rows)

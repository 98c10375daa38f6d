"""The leaderboard of launch/report.py against numbers worked out by hand, and what must never be averaged over."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import own_files
import pytest
from made_up_runs import made_up
from rich.console import Console

import tasks
from harness.errors import UserError
from launch import report
from launch.jobs import suite_record, suites
from launch.reporting import collect, leaderboard, page
from launch.reporting import tables as report_tables
from launch.reporting.leaderboard import Leaderboard
from launch.run import settings

SCORES = {  # test scores of two seeds; the means are 0.82, 0.84, ... 1.00, each with a deviation of 0.01 * sqrt(2)
    task: (0.81 + 0.02 * number, 0.83 + 0.02 * number) for number, task in enumerate(tasks.BLUE)
}


def ten(root: Path, model: str = "encoder-a", lower: float = 0.0, **more: Any) -> None:
    for task, scores in SCORES.items():
        for seed, score in zip((1, 2), scores, strict=True):
            made_up(root / task / model / f"seed-{seed}", task, model, seed, score=score - lower, rows=4, **more)


def board(root: Path) -> Leaderboard:
    return leaderboard.build(collect.find([root]))


def terminal(found: Leaderboard) -> list[str]:
    """The lines that a terminal of 100 columns shows."""
    console = Console(width=100, record=True, file=open(os.devnull, "w"))
    console.print(report_tables.terminal(found, console.width))
    return console.export_text().splitlines()


def only(root: Path, label: str = "encoder-a") -> leaderboard.Row:
    return next(row for row in board(root).rows if row.label == label)


class TestNumbers:
    def test_mean_deviation_and_total(self, tmp_path: Path) -> None:
        ten(tmp_path)
        row = only(tmp_path)
        assert report_tables.cell(row.cells["medsts"].mean, row.cells["medsts"].std) == "82.0 (1.4)"
        assert report_tables.cell(row.cells["mednli"].mean, row.cells["mednli"].std) == "100.0 (1.4)"
        assert row.cells["ddi2013"].mean == pytest.approx(0.92) and len(row.cells["ddi2013"].runs) == 2
        assert row.total is not None  # of the seeds' own totals 0.90 and 0.92
        assert row.total.mean == pytest.approx(0.91) and row.total.std == pytest.approx(0.01 * 2**0.5)

    def test_every_form_says_the_same(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        ten(tmp_path / "runs")
        ten(tmp_path / "runs", "encoder-b", lower=0.1)
        assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--published"]) == 0
        shown = capsys.readouterr().out
        line = next(line for line in shown.splitlines() if line.startswith("│ encoder-a"))
        assert [cell.strip() for cell in line.split("│")[2:5]] == ["2", "91.0 (1.4)", "82.0 (1.4) t"]
        assert "84.9 (0.5)" in next(line for line in shown.splitlines() if "BioBERT-Base v1.1" in line)
        markdown = (tmp_path / "out" / "leaderboard.md").read_text()
        assert "| encoder-a | 2 | **91.0 (1.4)** | **82.0 (1.4)**<sup>t</sup> |" in markdown
        assert "| encoder-b | 2 | 81.0 (1.4) | 72.0 (1.4)<sup>t</sup> |" in markdown
        with open(tmp_path / "out" / "leaderboard.csv", newline="") as file:
            rows = {(row["model"], row["task"]): row for row in csv.DictReader(file)}
        assert float(rows["encoder-b", "total"]["mean"]) == pytest.approx(0.81)
        assert rows["encoder-a", "medsts"]["scores"] == "0.81 0.83" and rows["encoder-a", "medsts"]["seeds"] == "1 2"
        assert rows["encoder-a", "medsts"]["best"] == "1" and rows["encoder-b", "medsts"]["best"] == "0"
        assert rows["ouBioBERT-Base", "biosses"]["mean"] == "0.923"
        values = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
        assert [row["model"] for row in values["rows"]] == ["encoder-a", "encoder-b"]
        assert values["rows"][0]["tasks"]["hoc"]["scores"] == {"1": SCORES["hoc"][0], "2": SCORES["hoc"][1]}
        assert {path.stat().st_mode & 0o077 for path in (tmp_path / "out").iterdir()} == {0}

    def test_a_narrow_terminal_gets_a_column_a_model(self, tmp_path: Path) -> None:
        ten(tmp_path)
        lines = [[cell.strip() for cell in line.split("│")] for line in terminal(board(tmp_path))]
        assert next(line for line in lines if "MedNLI" in line)[1:3] == ["MedNLI", "100.0 (1.4) t"]

    def test_a_terminal_of_100_columns_holds_every_model(self, tmp_path: Path) -> None:
        """In several tables, without a cell in two lines, however long the models' names are."""
        models = [f"an-encoder-with-a-name-that-has-no-end-{number}" for number in range(1, 6)]
        for lower, model in enumerate(models):
            ten(tmp_path, model, lower / 100)
        made_up(tmp_path / "more", "hoc", models[0], seed=3, score=0.7, rows=4)
        for published in (False, True):
            shown = terminal(leaderboard.build(collect.find([tmp_path]), published))
            assert max(map(len, shown)) <= 100
            scores = [line for line in shown if line.startswith("│ MedNLI")]
            assert len(scores) > 1 and " ".join(scores).count("(1.4) t") == len(models)
            assert all(f"{100 - lower:.1f} (1.4) t" in " ".join(scores) for lower in range(len(models)))
            assert any("ouBioBERT" in line for line in shown) == published

    def test_few_tasks_are_a_row_a_model(self, tmp_path: Path) -> None:
        """Tasks without a run of ours have no column, but with the published rows."""
        for task in ("mednli", "hoc"):
            made_up(tmp_path / task, task, score=0.8, rows=4)
        (head,) = [line for line in terminal(board(tmp_path)) if line.startswith("┃ model")]
        assert [cell.strip() for cell in head.strip("┃").split("┃")] == [
            "model", "seeds", "Total", "Total (2 of 10)", "HoC", "MedNLI"
        ]  # fmt: skip
        forms = [
            "".join(
                form(found) for form in (report_tables.markdown, report_tables.latex, report_tables.comma_separated)
            )
            for found in (board(tmp_path), leaderboard.build(collect.find([tmp_path]), published=True))
        ]
        assert ["BIOSSES |" in form and "biosses" in form and "BIOSSES &" in form for form in forms] == [False, True]
        assert ["BioBERT-Base v1.1" in form for form in forms] == [False, True]

    def test_settings_of_all_rows_stand_once_above_the_table(self, tmp_path: Path) -> None:
        for number, rate in enumerate(("1e-4", "2e-4")):
            flags = ["--max_seq_length", "64", "--learning_rate", rate]
            made_up(tmp_path / rate, "mednli", seed=1, score=0.8 + number / 10, flags=flags)
        found = board(tmp_path)
        assert found.shared == "max_seq_length=64"
        assert {row.label for row in found.rows} == {
            "encoder-a [learning_rate=0.0001]", "encoder-a [learning_rate=0.0002]"
        }  # fmt: skip
        assert [line for line in terminal(found) if "max_seq_length" in line] == ["All rows: max_seq_length=64"]
        texts = [report_tables.markdown(found), report_tables.latex(found), report_tables.comma_separated(found)]
        assert [text.replace("\\", "").lower().count("all rows: max_seq_length=64") for text in texts] == [1, 1, 1]
        assert [text.replace("\\", "").count("max_seq_length") for text in texts] == [1, 1, 1]
        assert json.loads(report_tables.as_json(found))["settings_of_all_rows"] == "max_seq_length=64"
        made_up(tmp_path / "plain", "mednli", "encoder-b", seed=1, score=0.8)
        assert board(tmp_path).shared == ""

    def test_settings_that_all_rows_have_on_one_task_are_in_no_label(self, tmp_path: Path) -> None:
        """As [overrides.<task>] of a suite's file makes them: a model is one row, with a total."""
        longer = ["--num_train_epochs", "7"]
        for model in ("m", "n"):
            made_up(tmp_path / "hoc" / model, "hoc", model, score=0.8, rows=4, flags=longer)
            made_up(tmp_path / "mednli" / model, "mednli", model, score=0.6, rows=4)
        found = board(tmp_path)
        assert [row.label for row in found.rows] == ["m", "n"] and found.shared == "HoC num_train_epochs=7.0"
        assert found.rows[0].cells["total_shared"].mean == pytest.approx(0.7)
        made_up(tmp_path / "hoc" / "other", "hoc", "m", score=0.8, rows=4)
        assert {row.label for row in board(tmp_path).rows} == {
            "m", "m [num_train_epochs=7.0]", "n", "n [num_train_epochs=7.0]"
        }  # fmt: skip

    def test_long_labels_that_differ_at_the_end_stay_apart(self, tmp_path: Path) -> None:
        name = "an-encoder-with-a-name-that-has-no-end"
        for rate in ("1e-4", "2e-4"):
            made_up(tmp_path / rate, "mednli", name, flags=["--max_grad_norm", "0.5", "--learning_rate", rate])
        made_up(tmp_path / "other", "mednli", "encoder-b")
        found = board(tmp_path)
        labels = [row.label for row in found.rows]
        assert len(set(labels)) == 3
        for text in (report_tables.markdown(found), report_tables.latex(found).replace("\\", "")):
            assert all(text.count(label) >= 1 for label in labels)
        head = [line.strip("┃").split("┃") for line in terminal(found) if line.startswith("┃")]
        names = ["".join("".join(cells).split()) for cells in zip(*head, strict=True)]
        assert names == ["model", *("".join(label.split()) for label in labels)]

    def test_equal_to_the_decimal_that_is_shown_are_both_best(self, tmp_path: Path) -> None:
        made_up(tmp_path / "a", "mednli", "encoder-a", score=0.81234)
        made_up(tmp_path / "b", "mednli", "encoder-b", score=0.81201)
        found = board(tmp_path)
        assert [row.cells["mednli"].is_best for row in found.rows] == [True, True]
        assert [row.cells["mednli"].std for row in found.rows] == [None, None]


class TestNothingIsAveragedOverSilently:
    def test_no_total_without_all_ten(self, tmp_path: Path) -> None:
        for task in tasks.BLUE[:9]:
            made_up(tmp_path / task, task, score=0.8, rows=4)
        assert only(tmp_path).total is None
        assert "encoder-a: no total without MedNLI" in report_tables.notes(board(tmp_path))
        assert "| encoder-a | 1 | lacks MedNLI | 80.0 |" in report_tables.markdown(board(tmp_path))
        assert ">lacks MedNLI</td>" in page.build(collect.find([tmp_path]), board(tmp_path), [], "", with_text=False)

    def test_rows_that_lack_tasks_have_a_total_over_what_all_have(self, tmp_path: Path) -> None:
        """The shared tasks are MedSTS, BIOSSES and HoC: of encoder-a 0.82, 0.84 and 0.98 with a deviation of
        0.01 * sqrt(2) over seeds' means, of encoder-b 0.1 less."""
        ten(tmp_path)
        for task in ("medsts", "biosses", "hoc"):
            for seed, score in zip((1, 2), SCORES[task], strict=True):
                made_up(tmp_path / "b" / task / str(seed), task, "encoder-b", seed, score=score - 0.1, rows=4)
        found = board(tmp_path)
        assert [*found.columns.values()][:3] == ["Total", "Total (3 of 10)", "MedSTS"]
        shared = {row.label: row.cells["total_shared"] for row in found.rows}
        assert {label: one.mean for label, one in shared.items()} == pytest.approx(
            {"encoder-a": 0.88, "encoder-b": 0.78}
        )
        assert shared["encoder-b"].std == pytest.approx(0.01 * 2**0.5)
        assert [row.total is None for row in found.rows] == [False, True]
        line = next(line for line in report_tables.markdown(found).splitlines() if line.startswith("| encoder-b"))
        assert line.startswith("| encoder-b | 2 | lacks 7 | 78.0 (1.4) | 72.0 (1.4)")
        note = (
            "encoder-b: no total without BC5CDR-disease, BC5CDR-chemical, ShARe/CLEFE, DDI, ChemProt, i2b2 2010, MedNLI"
        )
        assert note in report_tables.notes(found)
        said = "Total (3 of 10): over the tasks that all rows have, MedSTS, BIOSSES, HoC."
        texts = [report_tables.markdown(found), report_tables.latex(found), report_tables.comma_separated(found)]
        assert all(said in text for text in texts) and "lacks 7 &" in texts[1]
        values = json.loads(report_tables.as_json(found))
        assert values["rows"][1]["total"] is None and len(values["rows"][1]["lacks"]) == 7
        assert values["rows"][1]["total_shared"]["mean"] == pytest.approx(0.78)
        assert values["suite"]["shared"] == ["medsts", "biosses", "hoc"]

    def test_a_total_over_one_task_is_none(self, tmp_path: Path) -> None:
        ten(tmp_path)
        made_up(tmp_path / "b", "hoc", "encoder-b", seed=1, score=0.5, rows=4)
        assert "total_shared" not in board(tmp_path).columns

    def test_a_missing_seed_marks_the_shared_total_too(self, tmp_path: Path) -> None:
        for task, seed in (("hoc", 1), ("hoc", 2), ("mednli", 1)):
            made_up(tmp_path / task / str(seed), task, seed=seed, score=0.5, rows=4)
        shared = only(tmp_path).cells["total_shared"]
        assert (shared.mean, shared.std, shared.marks) == (0.5, None, "s")

    def test_choices_among_the_settings_of_one_model_are_in_order_of_their_names(self, tmp_path: Path) -> None:
        """No test score orders them; models are in the order of their totals."""
        for model, rate, score in (("m", "1e-4", 0.1), ("m", "2e-4", 0.9), ("m", "3e-4", 0.3), ("n", "1e-4", 0.2)):
            for task in ("hoc", "mednli"):
                made_up(
                    tmp_path / task / model / rate, task, model, score=score, rows=4, flags=["--learning_rate", rate]
                )
        rates = ["m [learning_rate=0.0001]", "m [learning_rate=0.0002]", "m [learning_rate=0.0003]"]
        assert [row.label for row in board(tmp_path).rows] == ["n [learning_rate=0.0001]", *rates]

    def test_a_missing_seed_is_marked(self, tmp_path: Path) -> None:
        ten(tmp_path)
        made_up(tmp_path / "more", "hoc", seed=3, score=0.7, rows=4)
        row = only(tmp_path)
        assert row.seeds == [1, 2, 3] and "s" in row.cells["medsts"].marks and "s" not in row.cells["hoc"].marks
        assert row.total is not None and row.total.std is None and "s" in row.total.marks
        assert report_tables.numbers(row, "medsts") == ("82.0 (1.4)", "ts", " n=2")

    def test_sample_data_never_enters(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        made_up(tmp_path / "a", "mednli", "encoder-a", data_dir=None)
        assert board(tmp_path).rows == []
        assert report.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
        assert "No run counts" in capsys.readouterr().out
        for name in ("md", "tex", "json"):
            text = (tmp_path / "out" / f"leaderboard.{name}").read_text()
            assert "SAMPLE DATA" in text and "encoder-a |" not in text and "encoder-a &" not in text
            assert name == "json" or ("No run counts for a leaderboard." in text and "BIOSSES" not in text)

    def test_a_result_that_says_sample_counts_as_sample(self, tmp_path: Path) -> None:
        made_up(tmp_path / "a", "mednli", data="sample")
        assert board(tmp_path).rows == []

    def test_unfinished_and_failed_runs(self, tmp_path: Path) -> None:
        made_up(tmp_path / "a", "mednli", seed=1, score=0.8)
        made_up(tmp_path / "b", "mednli", seed=2, finished=False)
        failed = made_up(tmp_path / "c", "mednli", seed=3, finished=False)
        (failed / "train.log").write_text(
            "2026-01-01 10:00:00 INFO task    mednli\n2026-01-01 10:00:01 ERROR The run failed: loss is not a number\n"
            "2026-01-01 10:00:02 INFO To upload the run's figures: wandb sync x\n"
        )
        statuses = {run.folder.name: (run.status, run.reason) for run in collect.find([tmp_path])}
        assert statuses["b"] == ("stopped", "no result.json, after epoch 4; the same command goes on")
        assert statuses["c"] == ("failed", "loss is not a number")
        cell = only(tmp_path).cells["mednli"]
        assert cell.scores == [0.8] and "u" in cell.marks
        with open(failed / "train.log", "a") as log:  # resumed, and no failure since
            log.write("2026-01-01 11:00:00 INFO task    mednli\n")
        assert collect.read_all([failed])[0].status == "stopped"

    def test_a_run_that_goes_on_is_running(self, tmp_path: Path) -> None:
        from contextlib import ExitStack

        from harness import lock, run_folder

        made_up(tmp_path / "a", "mednli", finished=False)
        with ExitStack() as stack:
            lock.acquire(run_folder.RunFolder(tmp_path / "a"), stack)
            assert collect.read_all([tmp_path / "a"])[0].status == "running"
        assert collect.read_all([tmp_path / "a"])[0].status == "stopped"

    def test_other_settings_are_another_row(self, tmp_path: Path) -> None:
        made_up(tmp_path / "a", "mednli", score=0.8)
        made_up(tmp_path / "b", "mednli", seed=13, score=0.7, flags=["--learning_rate", "1e-4"])
        made_up(tmp_path / "c", "mednli", "x/encoder-a", score=0.6)
        labels = {row.label: row.cells["mednli"].scores for row in board(tmp_path).rows}
        assert labels == {"encoder-a": [0.8], "encoder-a [learning_rate=0.0001]": [0.7], "x/encoder-a": [0.6]}

    def test_a_repeated_seed_counts_once(self, tmp_path: Path) -> None:
        older, newer = made_up(tmp_path / "z", "mednli", score=0.8), made_up(tmp_path / "a", "mednli", score=0.7)
        os.utime(older / "result.json", (1, 1))
        found = board(tmp_path)
        cell = found.rows[0].cells["mednli"]
        assert cell.scores == [0.7] and "r" in cell.marks
        assert [(run.folder, why) for run, why in found.left_out] == [(older, f"seed 12 was run again in {newer.name}")]

    def test_marks_of_dev(self, tmp_path: Path) -> None:
        made_up(tmp_path / "a", "bc5cdr_chem", rows=120)
        made_up(tmp_path / "b", "mednli", rows=120)
        row = only(tmp_path)
        assert row.cells["bc5cdr_chem"].marks == "dt" and row.cells["mednli"].marks == ""

    def test_few_positive_ones_are_a_tiny_dev_set(self, tmp_path: Path) -> None:
        folder = made_up(tmp_path / "a", "i2b2_2010", rows=120)
        result = json.loads((folder / "result.json").read_text())
        assert result["scores"]["dev"]["examples"] >= 100
        result["scores"]["dev"] |= {"TP": 8, "FN": 2}
        (folder / "result.json").write_text(json.dumps(result))
        assert only(tmp_path).cells["i2b2_2010"].marks == "t"

    def test_batches_of_another_size_are_marked(self, tmp_path: Path) -> None:
        made_up(tmp_path / "a", "mednli", seed=1, rows=120)
        made_up(tmp_path / "b", "mednli", seed=2, rows=120, examples_per_step=64)
        assert only(tmp_path).cells["mednli"].marks == "x"

    @pytest.mark.parametrize(("share", "marks"), [(0.12, "l"), (0.01, "")])
    def test_long_texts_that_were_cut_are_marked(self, share: float, marks: str, tmp_path: Path) -> None:
        made_up(tmp_path / "a", "mednli", seed=1, rows=120, cut={"train": 0.5, "test": share})
        made_up(tmp_path / "b", "mednli", seed=2, rows=120)
        found = board(tmp_path)
        assert found.rows[0].cells["mednli"].marks == marks and [*found.marks] == ["l"] * bool(marks)
        assert all(text.endswith("(encoder-a MedNLI 12 %)") for text in found.marks.values())


class TestSuites:
    def record(self, root: Path, **suites: suite_record.Total) -> None:
        for name, total in suites.items():
            suite_record.record_total([root / "a", root / "b"], name, total)

    def runs(self, root: Path) -> None:
        """Scores of two seeds: 0.5 and 0.7 on MedSTS, 0.3 and 0.5 on BIOSSES, 0.8 and 1.0 on HoC."""
        for task, score in (("medsts", 0.5), ("biosses", 0.3), ("hoc", 0.8)):
            for seed in (1, 2):
                made_up(root / task / "m" / f"seed-{seed}", task, "m", seed, score=score + 0.2 * (seed - 1), rows=4)

    def test_the_mean_of_its_tasks(self, tmp_path: Path) -> None:
        self.runs(tmp_path)
        self.record(tmp_path, mine=suite_record.Total(tasks=("medsts", "biosses")))
        (row,) = board(tmp_path).rows
        assert row.total is not None and row.total.mean == pytest.approx((0.6 + 0.4) / 2)
        assert row.total.std == pytest.approx(0.1 * 2**0.5)
        text = report_tables.markdown(board(tmp_path))
        assert "the total is the mean of the 2 tasks of suite mine." in text
        assert "not of suite mine, and not in the total: HoC" in text
        (one, *_) = leaderboard.build(collect.find([tmp_path]), published=True).published
        assert one.total is not None and one.total.mean == pytest.approx((0.849 + 0.923) / 2)

    def test_the_mean_of_the_means_of_groups(self, tmp_path: Path) -> None:
        self.runs(tmp_path)
        groups = {"Similarity": ("medsts", "biosses"), "Documents": ("hoc",)}
        self.record(tmp_path, mine=suite_record.Total(tasks=("medsts", "biosses", "hoc"), groups=groups))
        (row,) = board(tmp_path).rows  # 0.5 and 0.9; a plain mean would be 0.633
        assert row.total is not None and row.total.mean == pytest.approx(0.7)
        assert row.total.std == pytest.approx(0.1 * 2**0.5)
        said = "suite mine, Similarity (MedSTS, BIOSSES); Documents (HoC)."
        assert said in report_tables.latex(board(tmp_path))

    def test_custom_tasks_of_a_suite_count(self, tmp_path: Path) -> None:
        task = own_files.write("multiclass", tmp_path / "data")
        config, _ = settings.parse(["--task_file", str(task), "--model_name_or_path", "m"])
        self.runs(tmp_path)
        self.record(tmp_path, mine=suite_record.Total(tasks=("medsts", "harm")))
        assert [board(tmp_path).lacking(row) for row in board(tmp_path).rows] == [["harm"]]
        folder = made_up(tmp_path / "harm" / "m" / "seed-1", "mednli", "m", 1, score=0.5, rows=4)
        for name, more in (("config.json", {"own_task": config.own_task}), ("result.json", {})):
            values = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(values | {"task": "harm"} | more))
        (row,) = board(tmp_path).rows
        assert row.total is not None and row.total.mean == pytest.approx((0.6 + 0.5) / 2)
        assert row.total.marks == "s" and board(tmp_path).outside == ["biosses", "hoc"]

    def test_runs_of_several_suites(self, tmp_path: Path) -> None:
        self.runs(tmp_path)
        total = suite_record.Total(tasks=("medsts", "biosses"))
        self.record(tmp_path, one=total, other=suite_record.Total(tasks=("hoc",)))
        assert board(tmp_path).rows[0].total is None
        said = "runs of several suites (one, other): the total is of the ten tasks of BLUE; of another by --suite NAME"
        assert said in board(tmp_path).missing
        (row,) = leaderboard.build(collect.find([tmp_path]), suite_name="other").rows
        assert row.total is not None and row.total.mean == row.cells["hoc"].mean
        only_hoc = leaderboard.build([run for run in collect.find([tmp_path]) if run.task == "hoc"])
        assert only_hoc.suite.name == "other" and only_hoc.missing == []
        with pytest.raises(UserError, match="unknown suite 'oter'; did you mean 'other'"):
            leaderboard.build(collect.find([tmp_path]), suite_name="oter")

    def test_records_of_schema_1_and_damaged_ones(self, tmp_path: Path) -> None:
        self.runs(tmp_path)
        for text in ('{"schema": 1, "left_out": {}}', "{", '{"suites": {"x": 3}}'):
            (tmp_path / "suite.json").write_text(text)
            assert board(tmp_path).suite.name == "" and board(tmp_path).rows[0].total is None


class TestBlurb:
    """Published scores of BioLinkBERT-Base (Yasunaga et al. 2022, arXiv 2203.15827, table 6), whose published mean of
    six groups is 83.39: NER 86.39, PICO 73.97, relations 81.56, similarity 93.25, documents 84.35, questions 80.815."""

    SCORES: ClassVar = {
        "blurb_bc5_chem": 93.75, "blurb_bc5_disease": 86.10, "ncbi_disease": 88.18, "bc2gm": 84.90, "jnlpba": 79.03,
        "ebm_pico": 73.97, "blurb_chemprot": 77.57, "blurb_ddi": 82.72, "gad": 84.39, "blurb_biosses": 93.25,
        "blurb_hoc": 84.35, "pubmedqa": 70.20, "bioasq": 91.43,
    }  # fmt: skip

    def runs(self, tmp_path: Path) -> Path:
        for task, score in self.SCORES.items():
            made_up(tmp_path / "runs" / task, task, score=score / 100, rows=4)
        return tmp_path

    def record(self, tmp_path: Path) -> None:
        suite = suites.read("blurb")
        total = suite_record.Total(tasks=suite.tasks, groups=suite.total)
        suite_record.record_total([tmp_path / "runs" / task for task in suite.tasks], suite.name, total)

    def test_the_mean_of_its_groups(self, tmp_path: Path) -> None:
        self.record(self.runs(tmp_path))
        (row,) = board(tmp_path).rows
        assert row.total is not None and round(100 * row.total.mean, 2) == 83.39
        assert list(board(tmp_path).columns) == ["total", *self.SCORES]

    def test_tasks_that_were_run_one_by_one(self, tmp_path: Path) -> None:
        """No suite is recorded, and none of BLUE's tasks is there."""
        (row,) = (found := board(self.runs(tmp_path))).rows
        assert found.suite.name == "blurb" and row.total is not None and round(100 * row.total.mean, 2) == 83.39

    def test_tasks_of_blue_beside_it_have_columns_and_no_part_in_the_total(self, tmp_path: Path) -> None:
        self.record(self.runs(tmp_path))
        for task in ("chemprot", "hoc"):
            made_up(tmp_path / "runs" / task, task, score=0.01, rows=4)
        (row,) = (found := board(tmp_path)).rows
        assert row.total is not None and round(100 * row.total.mean, 2) == 83.39
        assert row.cells["hoc"].mean == 0.01 and row.cells["blurb_hoc"].mean == pytest.approx(0.8435)
        assert found.outside == ["chemprot", "hoc"]
        assert "not of suite blurb, and not in the total: ChemProt; HoC" in report_tables.notes(found)

    def test_beside_the_ten_it_has_columns_and_no_part_in_the_total(self, tmp_path: Path) -> None:
        ten(self.runs(tmp_path))
        row = only(tmp_path)
        assert row.total is not None and row.total.mean == pytest.approx(0.91)
        assert board(tmp_path).outside == list(self.SCORES)
        found = leaderboard.build(collect.find([tmp_path]), suite_name="blurb")
        assert found.outside == list(SCORES) and len(found.rows) == 1
        assert found.rows[0].total is not None and round(100 * found.rows[0].total.mean, 2) == 83.39

    def test_without_runs_the_table_is_of_the_ten(self, tmp_path: Path) -> None:
        made_up(tmp_path / "a", "gad", data_dir=None)
        assert list(board(tmp_path).columns) == ["total", *tasks.BLUE]

    def test_a_task_that_was_custom_before_it_shipped_keeps_a_column_of_its_own(self, tmp_path: Path) -> None:
        definition = {**tasks.facts("bioasq"), "name": "gad"}
        for number, own in enumerate((None, definition)):
            folder = made_up(tmp_path / str(number), "gad", score=0.5, rows=4)
            values = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(values | {"own_task": own}))
        (row,) = board(tmp_path).rows
        assert [name.partition("#")[0] for name in row.cells] == ["gad", "gad"]


class TestOtherDataAndOtherMetrics:
    def of_data(self, folder: Path, seed: int, score: float, data: dict[str, str], model: str = "encoder-a") -> None:
        recorded = {"data": data, "definition": "", "predictions": {}, "with_tokens": {}}
        made_up(folder, "mednli", model, seed, score=score, rows=120, digests=recorded)

    def test_runs_of_other_data_share_no_mean(self, tmp_path: Path) -> None:
        """The data of most runs keeps the column; those of other data have one of their own, in no total."""
        ten(tmp_path / "ten")
        same = {split: f"{split:0>64}" for split in ("train", "dev", "test")}
        self.of_data(tmp_path / "a", 3, 0.5, same | {"test": "3f2a1c" + "0" * 58})
        self.of_data(tmp_path / "b", 4, 0.5, same | {"test": "3f2a1c" + "0" * 58})
        self.of_data(tmp_path / "c", 5, 0.1, same | {"train": "7" * 64})
        self.of_data(tmp_path / "d", 6, 1.0, {"train": same["train"], "test": same["test"]})  # dev was not read
        found = board(tmp_path)
        row = only(tmp_path)
        assert row.cells["mednli"].scores == [0.99, 1.01, 1.0] and row.total is not None
        assert row.cells["mednli [test data 3f2a1c]"].scores == [0.5, 0.5]
        assert row.cells["mednli [train data 777777]"].scores == [0.1]
        assert found.columns["mednli [test data 3f2a1c]"] == "MedNLI [test data 3f2a1c]"
        notes = "\n".join(report_tables.notes(found))
        assert "in the total: MedNLI [test data 3f2a1c]; MedNLI [train data 777777]" in notes
        assert "[ ]: runs on other data, or scored by another version" in notes
        text = report_tables.markdown(found)
        assert "| MedNLI [test data 3f2a1c] |" in text and "<sup>x" not in text

    def test_scores_of_two_metric_versions_share_no_mean(self, tmp_path: Path) -> None:
        for seed, version in ((1, 1), (2, 1), (3, 2)):
            made_up(tmp_path / str(seed), "mednli", seed=seed, score=0.1 * seed, rows=120, metric_version=version)
        row = only(tmp_path)
        assert row.cells["mednli"].scores == pytest.approx([0.1, 0.2])
        assert row.cells["mednli [metric v2]"].scores == pytest.approx([0.3])

    def test_the_page_has_a_section_for_each(self, tmp_path: Path) -> None:
        for seed, version in ((1, 1), (2, 1), (3, 2)):
            made_up(tmp_path / "runs" / str(seed), "mednli", seed=seed, rows=120, metric_version=version)
        assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
        assert "MedNLI [metric v2]" in (tmp_path / "out" / "report.html").read_text()

    def test_a_folder_counts_where_no_digest_is_known(self, tmp_path: Path) -> None:
        """The same data in another folder is the same data; of older runs nobody can tell."""
        made_up(tmp_path / "a", "mednli", seed=1, score=0.8, rows=120)
        made_up(tmp_path / "b", "mednli", seed=2, score=0.6, rows=120, data_dir="/elsewhere")
        assert only(tmp_path).cells["mednli"].marks == "" and len(only(tmp_path).cells["mednli"].scores) == 2
        old: dict[str, Any] = {"metric_version": None, "digests": None, "rows": 120, "score": 0.7}
        made_up(tmp_path / "c", "mednli", seed=3, **old)
        made_up(tmp_path / "d", "mednli", seed=4, data_dir="/elsewhere", **old)
        cell = only(tmp_path).cells["mednli"]
        assert cell.marks == "x" and cell.scores == [0.8, 0.6, 0.7, 0.7]


BROKEN = {
    "no JSON": ("result.json", "{", "result.json: not JSON"),
    "a list": ("result.json", "[]", "result.json: must be a table"),
    "empty": ("result.json", "{}", "task is missing"),
    "no score": ("result.json", {"scores": {"test": {}}}, "scores.test.score is missing"),
    "not a number": ("result.json", {"scores": {"test": {"score": None}}}, "scores.test.score = None: must be"),
    "no metric": ("result.json", {"scores": {"test": {"score": 0.5}}}, "scores.test.metric is missing"),
    "neither given nor sample": ("result.json", {"data": "x"}, "data = 'x': must be 'given' or 'sample'"),
    "no timing": ("result.json", {"timing": None}, "timing = None: must be"),
    "an endless number": ("result.json", b'{"seed": 1e999}', "result.json"),
    "settings of another type": ("config.json", {"num_train_epochs": "three"}, "num_train_epochs = 'three': must be"),
    "a setting beyond all numbers": ("config.json", {"max_steps": 10**400}, "max_steps is no number"),
    "another seed": ("result.json", {"seed": 13}, "its seed is 13, config.json says 12"),
    "no settings": ("config.json", None, "config.json: missing"),
    "settings of a later version": ("config.json", {"later": 1}, "later"),
    "an unknown task": ("config.json", {"task": "mednly"}, "mednli"),
    "binary": ("result.json", b"\xff\xfe", "not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_run_is_reported(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, change, expected = BROKEN[kind]
    made_up(tmp_path / "good", "mednli", score=0.8)
    path = made_up(tmp_path / "bad", "mednli", score=0.2) / name
    if change is None:
        path.unlink()
    elif isinstance(change, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    else:
        path.write_bytes(change if isinstance(change, bytes) else change.encode())
    assert report.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    note = next(line for line in out.splitlines() if line.startswith("left out:"))
    assert "left out: bad (" in note and str(tmp_path) not in note and "broken" in note and expected in note
    assert [row.label for row in board(tmp_path).rows] == ["encoder-a"]
    assert only(tmp_path).cells["mednli"].mean == 0.8


@pytest.mark.parametrize(("count", "lines"), [(5, 5), (6, 1)])
def test_many_runs_left_out_for_one_reason(
    count: int, lines: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up(tmp_path / "good", "mednli", score=0.8)
    for seed in range(count):
        made_up(tmp_path / f"sample-{seed}", "mednli", seed=seed, data="sample")
    assert report.main([str(tmp_path)]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out:")]
    assert len(notes) == lines and all("SAMPLE DATA" in note for note in notes)
    assert (f"{count} runs, sample-0 to sample-{count - 1}" in notes[0]) == (lines == 1)


def test_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for folder, expected in (
        (tmp_path / "none", "no such folder"),
        (tmp_path / "empty", "is empty"),
        (tmp_path / "file", "is a file, not a folder"),
        (tmp_path, "no run folder"),
    ):
        assert report.main([str(folder)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and expected in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--output", "; did you mean --out?"),
        ("--baselin", "; did you mean --baseline?"),
        ("--qq", "--qq: no such flag; --help lists them\n"),
    ],
)
def test_unknown_flag(flag: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path), flag, "x"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_the_model_folder_of_a_run_is_no_run(tmp_path: Path) -> None:
    folder = made_up(tmp_path / "a", "mednli")
    for name in ("model", "code/x", "checkpoints/1"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    other = made_up(tmp_path / "mednli" / "model" / "seed-1", "mednli")  # of an encoder that is called so
    assert [run.folder for run in collect.find([tmp_path, folder])] == [folder, other]


def test_the_command_repeats_the_run(tmp_path: Path) -> None:
    import shlex

    from launch.run import settings

    flags = ["--learning_rate", "1e-4", "--train_splits", "train", "--select", "best_dev", "--precision", "fp32"]
    folder = made_up(tmp_path / "a b", "clefe", "some/oubiobert-base", 7, flags=flags, world_size=2)
    run = collect.read_all([folder])[0]
    words = shlex.split(collect.command(run))
    assert words[:4] == ["deepspeed", "--num_gpus", "2", "launch/train.py"]
    config, _ = settings.parse(words[4:])
    assert run.config is not None and config.identity(inputs=True) == run.config.identity(inputs=True)
    assert config.output_dir == str(folder)


def test_latex_is_whole(tmp_path: Path) -> None:
    from pylatexenc.latexwalker import LatexEnvironmentNode, LatexWalker

    ten(tmp_path)
    ten(tmp_path, "encoder-b", lower=0.1)
    made_up(tmp_path / "x", "mednli", "odd_50%&#{x}~^\\ <model>", seed=1, score=0.5)
    text = report_tables.latex(leaderboard.build(collect.find([tmp_path]), published=True))
    nodes, _, _ = LatexWalker(text, tolerant_parsing=False).get_latex_nodes()
    tables = [node for node in nodes if isinstance(node, LatexEnvironmentNode)]
    assert [table.environmentname for table in tables] == ["table*"]
    inner = next(n for n in tables[0].nodelist if isinstance(n, LatexEnvironmentNode))
    rows = [line for line in inner.latex_verbatim().splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + 3 + 4  # head, ours, published
    plain = [line.replace(r"\&", "").replace(r"\textbackslash{}", "") for line in rows]
    assert {line.count("&") for line in plain} == {12}
    assert r"\textbf{82.0 (1.4)}" in text and r"odd\_50\%" in text

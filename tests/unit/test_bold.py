"""What is bold in a column, intervals and ranks of a leaderboard, and what they rest on."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import made_up

import tasks
from launch import report
from launch.reporting import collect, leaderboard, statistics, tables
from launch.reporting.leaderboard import Leaderboard, Score
from tasks import predictions

TASK = "medsts"


def runs(root: Path, model: str, skill: float, seeds: tuple[int, ...] = (1, 2), task: str = TASK, **more: Any) -> None:
    for seed in seeds:
        made_up(root / task / model / f"seed-{seed}", task, model, seed, skill=skill, **{"rows": 60, **more})


def board(root: Path) -> Leaderboard:
    return leaderboard.build(collect.find([root]))


def cells(found: Leaderboard, column: str = TASK) -> dict[str, Score]:
    return {row.label: row.cells[column] for row in found.rows if column in row.cells}


def bold(found: Leaderboard, column: str = TASK) -> set[str]:
    return {label for label, cell in cells(found, column).items() if cell.is_best}


class TestByPrintedMeans:
    def test_a_row_that_stands_alone_is_the_best_of_nothing(self, tmp_path: Path) -> None:
        runs(tmp_path, "a", 0.9)
        assert bold(board(tmp_path)) == bold(statistics.assess(board(tmp_path))) == set()

    def test_nothing_is_bold_for_0(self, tmp_path: Path) -> None:
        for model in "ab":
            runs(tmp_path, model, 0.9, score=0.0004)
        assert bold(board(tmp_path)) == set()

    def test_the_seeds_that_all_have_decide(self, tmp_path: Path) -> None:
        """a has the better mean, by a seed that b has not."""
        for model, scores in (("a", {1: 0.80, 2: 0.80, 3: 0.99}), ("b", {1: 0.82, 2: 0.82}), ("c", {1: 0.7, 2: 0.9})):
            for seed, score in scores.items():
                runs(tmp_path, model, 0.9, (seed,), score=score, rows=4)
        found = board(tmp_path)
        means = leaderboard.common_means(found.rows, TASK, found.suite)
        assert means == pytest.approx({"a": 0.80, "b": 0.82, "c": 0.8})
        assert cells(found)["a"].mean > cells(found)["b"].mean and bold(found) == {"b"}

    def test_a_total_too(self, tmp_path: Path) -> None:
        for task in tasks.BLUE:
            for model, scores in (("a", {1: 0.80, 2: 0.99}), ("b", {1: 0.82})):
                for seed, score in scores.items():
                    runs(tmp_path, model, 0.9, (seed,), task, score=score, rows=4)
        assert bold(board(tmp_path), "total") == {"b"}

    def test_settings_of_one_model_are_not_compared(self, tmp_path: Path) -> None:
        """No test score may choose among them: bold would."""
        for name, flags in (("usual", []), ("other", ["--learning_rate", "1e-4"])):
            runs(tmp_path / name, "a", 0.9, flags=flags)
        found = statistics.assess(board(tmp_path))
        assert len(found.rows) == 2 and bold(found) == set()
        assert all(cell.interval and cell.rank is None for cell in cells(found).values())
        assert any("no test score may choose" in note for note in tables.notes(found))
        for model, skill in (("b", 0.5), ("c", 0.6)):
            runs(tmp_path / "more", model, skill)
        found = statistics.assess(board(tmp_path))
        assert "a" in bold(found) and bold(found) <= {"a", "b", "c"}  # its usual settings stand for the model
        ranks = {label: cell.rank for label, cell in cells(found).items()}
        assert {label for label, rank in ranks.items() if rank} == {"a", "b", "c"}


class TestByPredictions:
    def test_what_cannot_be_told_apart_from_the_best_is_bold(self, tmp_path: Path) -> None:
        for model, skill in (("a", 0.80), ("b", 0.79), ("c", 0.1)):
            runs(tmp_path, model, skill, (1, 2, 3))
        assert len(bold(board(tmp_path))) == 1
        found = statistics.assess(board(tmp_path))
        assert bold(found) == {"a", "b"}
        assert {label: cell.rank for label, cell in cells(found).items()} == {"a": (1, 2), "b": (1, 2), "c": (3, 3)}
        for cell in cells(found).values():
            assert cell.interval is not None and cell.interval[0] < cell.mean < cell.interval[1]

    def test_a_total_has_interval_and_rank(self, tmp_path: Path) -> None:
        for task in tasks.BLUE:
            for model, skill in (("a", 0.9), ("b", 0.88), ("c", 0.4)):
                runs(tmp_path, model, skill, (1, 2), task, rows=30)
        found = statistics.assess(board(tmp_path))
        totals = cells(found, "total")
        assert totals["c"].rank == (3, 3) and bold(found, "total") <= {"a", "b"} and bold(found, "total")
        ends = [cells(found, column)["a"].interval for column in ("total", *tasks.BLUE)]
        widths = [high - low for low, high in filter(None, ends)]
        assert widths[0] < sum(widths[1:]) / len(widths[1:])  # examples and seeds of ten tasks
        assert ends[0] and ends[0][0] < totals["a"].mean < ends[0][1]

    def test_one_seed_says_nothing_of_others(self, tmp_path: Path) -> None:
        for model in "ab":
            runs(tmp_path, model, 0.8, (1,))
        found = statistics.assess(board(tmp_path))
        assert cells(found)["a"].interval and "fewer than 5 seeds" in "\n".join(tables.notes(found))

    def test_no_caution_with_five_seeds(self, tmp_path: Path) -> None:
        for model in "ab":
            runs(tmp_path, model, 0.8, (1, 2, 3, 4, 5), rows=20)
        assert statistics.assess(board(tmp_path)).remarks == []

    def test_each_file_is_read_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for model in "abc":
            runs(tmp_path, model, 0.8)
        times: Counter[Path] = Counter()
        real = predictions.read

        def read(task: Any, path: Path) -> Any:
            times[path] += 1
            return real(task, path)

        monkeypatch.setattr(predictions, "read", read)
        found = board(tmp_path)
        assert not times  # a leaderboard alone needs none
        found = statistics.assess(found)
        statistics.compare(found, statistics.choose(found, "a"))
        statistics.compare(found, statistics.choose(found, "b"))
        assert len(times) == 6 and set(times.values()) == {1}


class TestUnusablePredictions:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for model, skill in (("a", 0.8), ("b", 0.79)):
            runs(tmp_path, model, skill)
            runs(tmp_path, model, skill, task="mednli")
        return tmp_path

    def predicted(self, root: Path, model: str, seed: int) -> Path:
        return root / TASK / model / f"seed-{seed}" / "predictions" / "test.tsv"

    def test_no_predictions(self, root: Path) -> None:
        shutil.rmtree(self.predicted(root, "b", 1).parent)
        shutil.rmtree(self.predicted(root, "b", 2).parent)
        found = statistics.assess(board(root))
        assert bold(found) == bold(board(root)) and bold(found, "mednli") == {"a", "b"}
        a, b = cells(found)["a"], cells(found)["b"]
        assert a.interval is not None and a.rank is b.interval is b.rank is None
        note = next(note for note in tables.notes(found) if note.startswith("bold by printed means"))
        assert "MedSTS (" in note and "(medsts/b/seed-1/predictions/test.tsv:" in note and "MedNLI" not in note

    def test_of_one_seed(self, root: Path) -> None:
        self.predicted(root, "b", 1).write_text("index\tgold\tprediction\nx\n")
        found = statistics.assess(board(root))
        a, b = cells(found)["a"], cells(found)["b"]
        assert a.interval is not None and b.interval is None and a.rank == b.rank == (1, 2)
        note = next(note for note in tables.notes(found) if note.startswith("MedSTS: not all runs are compared"))
        assert "(medsts/b/seed-1/predictions/test.tsv:" in note

    def test_of_another_score(self, root: Path) -> None:
        """Otherwise interval and bold would be those of other numbers than the table shows."""
        path = self.predicted(root, "b", 1).parents[1] / "result.json"
        result = json.loads(path.read_text())
        result["scores"]["test"]["score"] += 0.01
        path.write_text(json.dumps(result))
        found = statistics.assess(board(root))
        assert cells(found)["b"].interval is None
        assert any("result.json says" in note for note in tables.notes(found))

    def test_of_different_data(self, root: Path) -> None:
        for seed in (1, 2):
            path = self.predicted(root, "b", seed)
            path.write_text(path.read_text().replace("test-3\t", "test-3x\t"))
        found = statistics.assess(board(root))
        assert all(cell.rank is None and cell.interval for cell in cells(found).values())
        assert any("MedSTS (predictions of different data)" in note for note in tables.notes(found))

    def test_no_common_seed(self, tmp_path: Path) -> None:
        runs(tmp_path, "a", 0.8, (1, 2))
        runs(tmp_path, "b", 0.8, (3,))
        found = statistics.assess(board(tmp_path))
        assert any("no seed that all rows have" in note for note in tables.notes(found))


def test_every_file_has_intervals_and_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model, skill in (("a", 0.85), ("b", 0.84), ("c", 0.1)):
        runs(tmp_path / "runs", model, skill, (1, 2, 3))
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--baseline", "c"]) == 0
    assert "p (Holm)" in capsys.readouterr().out
    texts = {path.suffix: path.read_text() for path in (tmp_path / "out").iterdir()}
    rows = {row["model"]: row["tasks"][TASK] for row in json.loads(texts[".json"])["rows"]}
    assert rows["a"]["rank"] == [1, 2] and rows["c"]["rank"] == [3, 3]
    assert [rows[label]["best"] for label in "abc"] == [True, True, False]
    low, high = rows["a"]["interval"]
    assert low < rows["a"]["mean"] < high
    line = next(line for line in csv.DictReader(io.StringIO(texts[".csv"])) if line["model"] == "a")
    assert [float(line["low"]), float(line["high"])] == [low, high]
    assert (line["rank_best"], line["rank_worst"], line["best"]) == ("1", "2", "1")
    ends = [f"{leaderboard.printed(end):.1f}" for end in (low, high)]
    assert f"| MedSTS | {'-'.join(ends)} (1-2) |" in texts[".md"]
    assert f"MedSTS & {'--'.join(ends)} (1--2) &" in texts[".tex"]
    assert "(3) |" in texts[".md"]
    for kind in (".md", ".tex", ".html"):
        assert "5 seeds" in texts[kind] and "Bonferroni" in texts[kind] and "Holm" in texts[kind], kind

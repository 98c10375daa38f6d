"""Several seeds as one system, against answers worked out by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import made_up

import tasks
from harness.task import Example, Prediction
from launch import report
from launch.reporting import collect, ensembles, leaderboard
from tasks.predictions import Answers


def answers(*values: object) -> Answers:
    examples = [Example(str(number), (), None) for number in range(len(values))]
    return Answers(Path("f.tsv"), examples, [Prediction(value) for value in values], [])


def together(task: str, *members: Answers, probabilities: list[np.ndarray] | None = None) -> list[object]:
    return [prediction.value for prediction in ensembles.combined(tasks.get(task), members, probabilities)]


class TestCombined:
    def test_majority(self) -> None:
        one, two, three = answers("n", "n", "c"), answers("c", "c", "n"), answers("c", "e", "e")
        assert together("mednli", one, two, three) == ["c", "n", "c"]  # of a tie, what the first seed says

    def test_the_first_seed_among_the_tied(self) -> None:
        """The first seed's own answer is not among the tied ones: the second seed's is."""
        members = [answers(value) for value in ("n", "e", "c", "c", "e")]
        assert together("mednli", *members) == ["e"]

    def test_mean_probability(self) -> None:
        labels = tasks.get("mednli").labels
        one, other = answers(labels[0]), answers(labels[1])
        sure = [np.array([[0.5, 0.4, 0.1]]), np.array([[0.1, 0.8, 0.1]])]
        assert together("mednli", one, other, probabilities=sure) == [labels[1]]
        assert together("mednli", one, other) == [labels[0]]

    def test_words(self) -> None:
        members = [answers(("B", "I", "O")), answers(("O", "I", "O")), answers(("B", "O", "O"))]
        assert together("clefe", *members) == [("B", "I", "O")]

    def test_labels(self) -> None:
        members = [answers((1, 0, 1)), answers((0, 0, 1))]
        assert together("hoc", *members) == [(1, 0, 1)]  # the first seed's answers to the first label
        means = [np.array([[0.9, 0.4, 0.2]]), np.array([[0.2, 0.7, 0.2]])]
        assert together("hoc", *members, probabilities=means) == [(1, 1, 0)]

    def test_scores(self) -> None:
        assert together("medsts", answers(1.0, 4.0), answers(2.0, 5.0)) == [1.5, 4.5]


class TestReport:
    @pytest.fixture
    def runs(self, tmp_path: Path) -> Path:
        for task in ("mednli", "clefe", "hoc", "medsts"):
            for seed in (1, 2, 3):
                made_up(tmp_path / "runs" / task / str(seed), task, seed=seed, skill=0.6, rows=60)
        made_up(tmp_path / "runs" / "alone", "ddi2013", seed=1, rows=20)
        return tmp_path / "runs"

    def test_a_row_of_its_own_that_is_never_the_best(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = runs.parent / "out"
        made_up(runs / "other", "mednli", "other", seed=1, skill=0.3, rows=60)
        assert report.main([str(runs), "--out", str(out), "--ensemble"]) == 0
        assert "encoder-a (ensemble of 3 seeds)" in capsys.readouterr().out
        lines = (out / "leaderboard.md").read_text().splitlines()
        single, ensemble = [line for line in lines if line.startswith("| encoder")]
        assert "**" in single and "**" not in ensemble and "(ensemble of 3 seeds)" in ensemble
        board = json.loads((out / "leaderboard.json").read_text())
        (row,), (seeds, _) = board["ensembles"], board["rows"]
        assert set(row["tasks"]) == {"mednli", "clefe", "hoc", "medsts"}  # one seed is no ensemble
        assert all(cell["score"] > seeds["tasks"][task]["mean"] for task, cell in row["tasks"].items())
        kinds = [
            (line["kind"], line["task"]) for line in csv.DictReader(io.StringIO((out / "leaderboard.csv").read_text()))
        ]
        assert ("ensemble", "mednli") in kinds and ("ensemble", "ddi2013") not in kinds
        assert "Ensembles: the mean probability" in (out / "leaderboard.tex").read_text()

    def test_without_the_flag_there_is_none(self, runs: Path) -> None:
        assert leaderboard.build(collect.find([runs])).ensembles == ()

    def test_the_score_is_the_metric_of_the_joint_answers(self, runs: Path) -> None:
        found = {run.seed: run for run in collect.find([runs]) if run.task == "mednli"}
        board = leaderboard.build(list(found.values()))
        ((row,), remarks) = ensembles.build(board)
        tables = [
            [line.split("\t")[1:] for line in path.read_text().splitlines()[1:]]
            for path in (run.folder / "predictions" / "test_probabilities.tsv" for run in found.values())
        ]
        mean = np.mean(np.array(tables, dtype=float), axis=0)
        gold = [example.label for example in collect.answers_of(found[1])[1].examples]
        right = [tasks.get("mednli").labels[place] == label for place, label in zip(mean.argmax(1), gold, strict=True)]
        assert row.cells["mednli"].mean == pytest.approx(sum(right) / len(right)) and remarks == []

    def test_a_seed_without_probabilities_makes_it_a_vote(self, runs: Path) -> None:
        (runs / "hoc" / "2" / "predictions" / "test_probabilities.tsv").unlink()
        found = [run for run in collect.find([runs]) if run.task == "hoc"]
        members = [collect.answers_of(run)[1] for run in found]
        score = tasks.get("hoc").metric(members[0].examples, ensembles.combined(tasks.get("hoc"), members)).score
        ((row,), _) = ensembles.build(leaderboard.build(found))
        assert row.cells["hoc"].mean == score

    def test_other_data_and_damaged_files_are_said(self, runs: Path) -> None:
        path = runs / "mednli" / "2" / "predictions" / "test.tsv"
        path.write_text(path.read_text().replace("test-3\t", "test-3x\t"))
        (runs / "medsts" / "1" / "predictions" / "test.tsv").unlink()
        ((row,), remarks) = ensembles.build(leaderboard.build(collect.find([runs])))
        assert set(row.cells) - {"total", "total_shared"} == {"clefe", "hoc"}
        assert [line.partition(": ")[0] for line in remarks] == [
            "no ensemble of encoder-a on MedSTS", "no ensemble of encoder-a on MedNLI"
        ]  # fmt: skip
        assert remarks[1].endswith("its seeds have predictions of different data")

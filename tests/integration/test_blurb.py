"""BLURB's suite from its command to its table: 13 runs of a tiny encoder, and the total of six groups."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import fmean

import pytest
from running import SMALL, cut

import tasks
from launch import report, submit

pytestmark = pytest.mark.slow


def test_the_suite_runs_and_its_total_is_the_mean_of_its_groups(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On copies of the samples, which are data like any other: a run of a sample itself is in no table."""
    for task in tasks.SUITES["blurb"]:
        cut(task, tmp_path / "data" / task, 24)
    monkeypatch.setenv("DATASET_DIR", str(tmp_path / "data"))
    line = ["--suite", "blurb", "--model", str(tiny_bert), "--seeds", "1", "--cluster", "debug"]
    line += ["--output_dir", str(tmp_path / "out"), *SMALL, "--max_steps", "3"]
    assert submit.main(line) == 0
    scores = {}
    for task in tasks.SUITES["blurb"]:
        result = json.loads((tmp_path / "out" / task / "tiny-bert" / "seed-12" / "result.json").read_text())
        scores[task] = result["scores"]["test"]["score"]
        assert result["data"] == "given"
    assert scores["blurb_biosses"] and scores["gad"]
    capsys.readouterr()
    assert report.main([str(tmp_path / "out"), "--out", str(tmp_path / "report"), "--suite", "blurb"]) == 0
    (row,) = [row for row in csv.reader((tmp_path / "report/leaderboard.csv").open()) if "total" in row]
    total = fmean(fmean(scores[task] for task in group) for group in tasks.TOTALS["blurb"].values())
    assert float(row[3]) == pytest.approx(total)
    text = (tmp_path / "report/leaderboard.md").read_text()
    assert "the means of the groups of suite blurb, NER (BC5-chem (BLURB), " in text
    assert "| model | seeds | Total | BC5-chem (BLURB) |" in text and "MedNLI" not in text
    assert submit.main(["status", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("finished") >= 13

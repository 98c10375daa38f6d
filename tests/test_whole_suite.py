"""benchmarks/whole_suite.py: made-up data of the published sizes that its readers take, and a run of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from benchmarks import whole_suite

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("task", tasks.TASKS)
def test_made_up_rows_are_of_the_published_number(task: str, tmp_path: Path) -> None:
    share = 0.2
    folder = whole_suite.made_up(task, tmp_path / task, share)
    for split in ("train", "dev", "test"):
        examples = tasks.get(task).read(folder, split)
        wanted = max(1, round(share * whole_suite.published_size(task, split)))
        if tasks.get(task).family == "tagging":
            mentions = sum(list(example.label).count("B") for example in examples)
            once = sum(list(e.label).count("B") for e in tasks.get(task).read(tasks.sample_dir(task), split))
            assert wanted <= mentions < wanted + once
        else:
            assert len(examples) == wanted


@pytest.mark.slow
def test_it_runs(tiny_bert: Path, tmp_path: Path) -> None:
    more = [
        "--tasks",
        "biosses,hoc",
        "--share",
        "0.02",
        "--model",
        str(tiny_bert),
        "--out",
        str(tmp_path / "figures.json"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.whole_suite", *more, "--max_steps", "3", "--no_cuda"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "biosses" in done.stdout and "(made-up rows)" in done.stdout
    kept = json.loads((tmp_path / "figures.json").read_text())
    assert [row["task"] for row in kept["tasks"]] == ["biosses", "hoc"] and kept["seconds"] > 0

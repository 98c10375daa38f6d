"""The real corpora (and the made-up stand-ins of the credentialed four) through the one command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from running import arguments, run

import tasks

pytestmark = [pytest.mark.realdata, pytest.mark.slow]


def folder_of(task: str) -> Path:
    root = Path(os.environ.get("BLUE_DATA_DIR", "nowhere"))
    for place in (root / "blue" / task, root / "blue_synthetic" / task):
        if place.is_dir():
            return place
    pytest.skip(f"no {task} in $BLUE_DATA_DIR")


@pytest.mark.parametrize("task", tasks.BLUE)
def test_real_data_trains_and_scores_dev(task: str, tiny_bert: Path, tmp_path: Path) -> None:
    more = ("--data_dir", str(folder_of(task)), "--max_steps", "2", "--no-eval_every_epoch", "--max_seq_length", "32")
    result = run([*arguments(task, tiny_bert, tmp_path / "run", *more), "--do_train", "--do_eval"])
    assert result["data"] == "given" and "note" not in result
    rows = len(tasks.get(task).read(folder_of(task), "dev"))
    assert result["scores"]["dev"]["examples"] == rows
    assert "SAMPLE" not in (tmp_path / "run" / "train.log").read_text()

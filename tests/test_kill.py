"""SIGKILL at any moment, then the same command again: the result is that of a run that was left alone."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from encoders import tiny_encoder
from running import arguments, clean_environment
from safetensors.torch import load_file

SCRIPT = Path(__file__).resolve().parent.parent / "launch" / "train.py"


def start(line: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(SCRIPT), *line], env=clean_environment(), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def finish(line: list[str], folder: Path) -> dict[str, object]:
    running = start(line)
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 0, said
    result = json.loads((folder / "result.json").read_text())
    return {key: result[key] for key in ("scores", "epochs", "steps")}


def kill_after(seconds: float, line: list[str], folder: Path) -> bool:
    """SIGKILL so long after training has begun to save; True where the run had not finished before."""
    running = start(line)
    before = set((folder / "checkpoints").glob("step-*"))
    while running.poll() is None and not set((folder / "checkpoints").glob("step-*")) - before:
        time.sleep(0.02)
    time.sleep(seconds)
    running.kill()
    running.communicate()
    return not (folder / "result.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ds_config", ["bf16_zero1"])
def test_a_killed_run_ends_as_one_that_was_left_alone(ds_config: str, tmp_path: Path) -> None:
    model = tiny_encoder(tmp_path / "model", dropout=0.1)
    more = ("--precision", "auto", "--ds_config", ds_config, "--num_train_epochs", "12", "--save_steps", "3")
    whole = finish(arguments("biosses", model, tmp_path / "whole", *more), tmp_path / "whole")
    line = arguments("biosses", model, tmp_path / "killed", *more)
    moments = random.Random(12)
    killed = sum(kill_after(moments.uniform(0, 1.5), line, tmp_path / "killed") for _ in range(3))
    assert killed >= 1
    assert finish(line, tmp_path / "killed") == whole
    ours, theirs = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    left = {path.name for path in (tmp_path / "killed").iterdir()} - {
        path.name for path in (tmp_path / "whole").iterdir()
    }
    assert left == set()

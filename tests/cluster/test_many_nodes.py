"""A decoder of 100 million weights under ZeRO-3 on four nodes of a real SLURM, stopped, and resumed on two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from encoders import tiny_encoder
from running import arguments, cut, run

from harness.ds import config as ds_config
from launch import submit

if TYPE_CHECKING:
    from slurm_fixture import Slurm

pytest_plugins = ("slurm_fixture",)
pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 6
SIZES = {"hidden_size": 768, "num_attention_heads": 12, "num_key_value_heads": 12, "head_dim": 64,
         "num_hidden_layers": 14, "intermediate_size": 2048, "initializer_range": 0.02}  # fmt: skip
PROFILE = 'partition = "debug"\ncpus_per_task = 1\ntime = 30\nsetup = ["export OMP_NUM_THREADS=1"]\n'


def losses(folder: Path) -> list[float]:
    """Of each step that is logged, the last line perhaps being written."""
    path = folder / "metrics.jsonl"
    whole = (
        [text for text in path.read_text().splitlines(keepends=True) if text.endswith("\n")] if path.exists() else []
    )
    return [row["values"]["train/loss"] for row in map(json.loads, whole) if row["kind"] == "step"]


def test_four_nodes_then_two(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are those of stage 0 in one process, at the same number of examples a step, but for float32's rounding.

    Where steps take seconds, ranks agree on a stop request after each.
    """
    model = tiny_encoder(tmp_path / "model", "llama", **SIZES)
    assert 95e6 < (model / "model.safetensors").stat().st_size / 4 < 105e6
    cut("mednli", tmp_path / "data", 8 * STEPS)
    zero3 = dict(ds_config.read("bf16_zero3").settings)
    del zero3["bf16"]
    (tmp_path / "zero3.json").write_text(json.dumps(zero3))
    (tmp_path / "cluster.toml").write_text(PROFILE)

    def line(folder: Path, name: str) -> list[str]:
        more = ("--data_dir", str(tmp_path / "data"), "--global_batch_size", "8", "--num_train_epochs", "1",
                "--logging_steps", "1", "--learning_rate", "1e-4", "--max_seq_length", "32")  # fmt: skip
        return arguments("mednli", model, folder, *more, "--ds_config", name)

    folder, one = tmp_path / "nodes", tmp_path / "one"
    many = line(folder, str(tmp_path / "zero3.json"))
    job = slurm.send(many, tmp_path / "cluster.toml", "--nodes", "4")
    slurm.wait_until(job, lambda: losses(folder) != [], "a step")
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    submit.main(["cancel", str(folder)])  # in this process: a program of its own would take some steps to start
    slurm.wait_for_end(job)
    assert 1 <= len(losses(folder)) < STEPS and not (folder / "result.json").exists()
    assert slurm.recorded(job, "NNodes")[-1] == "4"

    slurm.wait_for_end(slurm.send(many, tmp_path / "cluster.toml", "--nodes", "2"))
    result, expected = json.loads((folder / "result.json").read_text()), run(line(one, "fp32"))
    assert (result["world_size"], result["examples_per_step"], result["steps"]) == (2, 8, STEPS)
    assert "was written by 4 processes" in (folder / "train.log").read_text()
    assert losses(folder) == pytest.approx(losses(one), rel=1e-5)
    assert len(losses(one)) == STEPS
    for split in ("dev", "test"):
        assert result["scores"][split]["loss"] == pytest.approx(expected["scores"][split]["loss"], rel=1e-5)

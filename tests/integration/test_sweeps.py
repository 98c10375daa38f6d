"""docs/sweep.yaml and launch/train.py under wandb's own sweep agent, with commands as its server sends them."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
import wandb_offline
from encoders import tiny_encoder
from running import clean_environment
from wandb.sdk.launch.sweeps import utils as sweeps
from wandb.wandb_agent import Agent

from harness import tracking
from harness.config import RunConfig
from launch.run import settings

ROOT = Path(__file__).parents[2]
RATES = {"first0id": 1e-3, "second1d": 3e-5}  # by the id that the server gives the run
FEW = {
    "max_steps": 4,
    "per_gpu_train_batch_size": 8,
    "max_seq_length": 64,
    "precision": "fp32",
    "wandb_mode": "offline",
}


@pytest.fixture
def example() -> dict[str, Any]:
    found = sweeps.load_sweep_config(str(ROOT / "docs" / "sweep.yaml"))
    assert found is not None
    return found


def swept(monkeypatch: pytest.MonkeyPatch, run: str, sweep: str = "sw33p") -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
    monkeypatch.setenv("WANDB_RUN_ID", run)


def test_the_example_names_what_there_is(example: dict[str, Any]) -> None:
    assert (ROOT / example["program"]).is_file()
    assert set(example["parameters"]) <= {field.name for field in dataclasses.fields(RunConfig)}
    assert example["metric"]["name"] in tracking.BEST and example["metric"]["goal"] == "maximize"
    rate = example["parameters"]["learning_rate"]
    assert isinstance(rate["min"], float) and isinstance(rate["max"], float)


def test_each_run_of_a_sweep_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["--task", "mednli", "--model_name_or_path", "a/m", "--seed", "3"]

    def folder(*more: str) -> str:
        return settings.parse([*line, *more])[0].output_dir

    usual = folder()
    swept(monkeypatch, "one")
    assert (
        folder("--learning_rate=1e-5") == folder("--learning_rate=1e-5") == str(Path(usual).parent / "sweep-sw33p/one")
    )
    assert folder("--output_dir", str(tmp_path)) == str(tmp_path / "one")
    swept(monkeypatch, "two")
    assert folder() == str(Path(usual).parent / "sweep-sw33p/two")
    monkeypatch.delenv("WANDB_SWEEP_ID")  # an id alone is no sweep
    assert (folder(), folder("--output_dir", "x")) == (usual, "x")


@pytest.mark.slow
def test_an_agent_drives_runs(example: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.teardown()  # before its variables are taken away: one names a process that would be gone when it comes back
    for name in {*os.environ} - {*clean_environment()} | {name for name in os.environ if name.startswith("WANDB")}:
        monkeypatch.delenv(name)
    model = tiny_encoder(tmp_path / "tiny")
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_DIR"):  # which the agent sets in this process
        monkeypatch.setenv(name, "")
    for name, value in (("WANDB_SWEEP_ID", "sw33p"), ("WANDB_DIR", str(tmp_path)), ("PYTHONPATH", str(ROOT)),
                        ("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}"),
                        ("OMP_NUM_THREADS", "1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    agent = Agent(api=None, queue=None, sweep_id="sw33p")
    agent._sweep_command = example["command"]
    for run, rate in RATES.items():
        values = {"task": "mednli", "model_name_or_path": str(model), "learning_rate": rate, "no_cuda": True, **FEW}
        values |= {"overwrite_output_dir": False, "wandb_mode": "offline"}
        args = {name: {"value": value} for name, value in values.items()}
        agent._command_run({"run_id": run, "program": str(ROOT / example["program"]), "args": args})
        assert agent._run_processes[run].wait() == 0
    place = tmp_path / "runs/sample/mednli/tiny/sweep-sw33p"
    assert {path.name for path in place.iterdir()} == set(RATES)
    for run, rate in RATES.items():
        header = wandb_offline.header(place / run)
        assert (header["run_id"], header["config"]["learning_rate"]) == (run, rate)
        [record] = [r["run"] for r in wandb_offline.records(place / run) if r["type"] == "run"]
        assert record["sweep_id"] == "sw33p"
        assert any(example["metric"]["name"] in row for row in wandb_offline.history(place / run))
        assert "wandb sync" in (place / run / "train.log").read_text()

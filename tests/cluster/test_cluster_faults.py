"""Runs on two nodes of a real SLURM that are disturbed in every way, against one that was left alone: bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import wandb_offline
from encoders import tiny_encoder
from running import arguments, cut

from launch import submit

if TYPE_CHECKING:
    from slurm_fixture import Slurm

pytest_plugins = ("slurm_fixture",)
pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1200)]

EPOCHS = 8  # of 17 steps
SAVE_STEPS = 10
LIMIT, DELAY = 30, 90  # minutes of a job; seconds before their end that the stop request comes
PROFILE = f"""
partition = "debug"
cpus_per_task = 1
time = {LIMIT}
signal_delay_s = {DELAY}
setup = ["export OMP_NUM_THREADS=1"]
"""
ZERO_2 = {
    "bf16": {"enabled": True},
    "zero_optimization": {"stage": 2},
    "zero_allow_untested_optimizer": True,
    "gradient_clipping": "auto",
}


@dataclass(frozen=True)
class Sender:
    """Sends the same run into different folders."""

    slurm: Slurm
    place: Path

    def line(self, folder: Path) -> list[str]:
        more = ("--data_dir", str(self.place / "data"), "--num_train_epochs", str(EPOCHS), "--logging_steps", "3")
        batch = ("--per_gpu_train_batch_size", "4", "--save_steps", str(SAVE_STEPS), "--wandb_mode", "offline")
        more += ("--learning_rate", "5e-3")
        precision = ("--precision", "bf16", "--ds_config", str(self.place / "zero2.json"))
        return arguments("bc5cdr_disease", self.place / "model", folder, *more, *batch, *precision)

    def send(self, folder: Path) -> str:
        return self.slurm.send(self.line(folder), self.place / "cluster.toml", "--nodes", "2")

    def finish(self, job: str, folder: Path) -> None:
        try:
            self.slurm.wait_for_end(job)
            assert (folder / "result.json").is_file()
        except BaseException:
            print(said(folder))
            raise


@pytest.fixture(scope="module")
def sender(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Sender:
    place = tmp_path_factory.mktemp("faults")
    tiny_encoder(place / "model", dropout=0.1)
    cut("bc5cdr_disease", place / "data", 60)
    (place / "zero2.json").write_text(json.dumps(ZERO_2))
    (place / "cluster.toml").write_text(PROFILE)
    return Sender(slurm, place)


@pytest.fixture(scope="module")
def undisturbed(sender: Sender) -> Path:
    """The folder of the run that is left alone; what was submitted is what `--print` shows."""
    slurm, folder = sender.slurm, sender.place / "whole"
    job = sender.send(folder)
    script = (folder / "submitit" / f"{job}_submission.sh").read_text()
    sender.finish(job, folder)
    request = ("--gpus_per_node", "0", "--profile", str(sender.place / "cluster.toml"), "--nodes", "2", "--print")
    assert slurm.run(sys.executable, submit.__file__, *sender.line(folder), *request) == script
    assert slurm.recorded(job, "State,ExitCode,NNodes") == ["COMPLETED|0:0|2"]
    return folder


# ---- what a run left behind
def rows(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text() if (folder / "metrics.jsonl").exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def last_step(folder: Path) -> int:
    return max((int(row["step"]) for row in rows(folder)), default=0)


def said(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((folder / "submitit").glob("*_log.out")))


def figures(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    return {name: result[name] for name in ("scores", "epochs", "steps", "world_size", "precision")}


def curve(folder: Path) -> list[tuple[str, int, float]]:
    return [
        (row["kind"], row["step"], row["values"].get("train/loss", row["values"].get("dev/score")))
        for row in rows(folder)
    ]


def check_same(folder: Path, undisturbed: Path) -> None:
    ours, theirs = figures(folder), figures(undisturbed)
    assert ours == theirs
    assert len(ours["epochs"]) == EPOCHS and ours["world_size"] == 2 and ours["precision"] == "bf16"
    weights = Path("model") / "model.safetensors"
    assert (folder / weights).read_bytes() == (undisturbed / weights).read_bytes()
    assert curve(folder) == curve(undisturbed)


def check_one_wandb_run(folder: Path, parts: int) -> None:
    identity = (folder / "wandb_id").read_text().strip()
    logs = wandb_offline.logs(folder)
    assert len(logs) == parts and {log.stem for log in logs} == {f"run-{identity}"}
    headers = [record["run"]["run_id"] for record in wandb_offline.records(folder) if record["type"] == "run"]
    assert set(headers) == {identity}
    found = {(row["epoch"], row["dev/score"]) for row in wandb_offline.history(folder) if "dev/score" in row}
    expected = [(entry["epoch"], entry["dev"]["score"]) for entry in figures(folder)["epochs"]]
    assert sorted(found) == expected  # lived or logged twice, an epoch has the same score twice


# ---- disturbances
def freeze(slurm: Slurm, job: str) -> list[int]:
    """Stop both ranks' clocks, so that the run does not end before SLURM has noticed something."""
    tasks = slurm.tasks(job)
    assert set(tasks) == {0, 1}
    for pid in tasks.values():
        os.kill(pid, signal.SIGSTOP)
    return list(tasks.values())


def heard(pid: int, number: signal.Signals) -> bool:
    """Whether the signal waits for the process, or has ended it already."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("ShdPnd", "SigPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def reach_time_limit(slurm: Slurm, job: str) -> None:
    """Let the job's time run out but for the seconds before which SLURM sends its signal."""
    frozen = freeze(slurm, job)
    try:
        minutes = int(slurm.run("squeue", "-h", "-o", "%M", "-j", job).split(":")[-2]) + 2
        slurm.run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
        slurm.wait_until(job, lambda: all(heard(pid, signal.SIGUSR2) for pid in frozen), "SLURM's signal", 75)
    finally:
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    slurm.wait_until(job, lambda: slurm.state(job) == "PENDING", "the requeue")
    slurm.run("scontrol", "update", f"JobId={job}", f"TimeLimit={LIMIT}")


def kill_rank_0(slurm: Slurm, job: str) -> None:
    """It has the log, the metrics and wandb. The other one ends within seconds."""
    os.kill(slurm.tasks(job)[0], signal.SIGKILL)
    killed = time.monotonic()
    slurm.wait_until(job, lambda: not slurm.tasks(job), "the end of the other rank", 60)
    assert time.monotonic() - killed < 20


def cut_node_off(slurm: Slurm, job: str) -> None:
    """It dies without a word to anyone, and SLURM starts the job on the others."""
    assert slurm.run("squeue", "-h", "-o", "%N", "-j", job).strip() == "node[1-2]"
    try:
        restarts = slurm.restarts(job)
        slurm.cluster("cut", "node2")
        slurm.wait_until(job, lambda: slurm.restarts(job) > restarts, "the requeue")
        states = slurm.run("sinfo", "-hN", "-p", "debug", "-o", "%N %T").splitlines()
        assert any(row.startswith("node2 down") for row in states), states
    finally:
        slurm.cluster("up")


DISTURBANCES: dict[str, Callable[[Slurm, str], object]] = {
    "killed rank": kill_rank_0,
    "lost node": cut_node_off,
    "scancel --signal": lambda slurm, job: slurm.run("scancel", "--signal=USR2", job),
    "time limit": reach_time_limit,
    "scontrol requeue": lambda slurm, job: slurm.run("scontrol", "requeue", job),
}


def test_one_job_disturbed_in_every_way(sender: Sender, undisturbed: Path, tmp_path: Path) -> None:
    """And all of that without accounting."""
    with_accounting, folder = sender.slurm, tmp_path / "run"
    slurm = with_accounting.without_accounting(tmp_path)
    assert slurm.run("sacct", "-nX", check=False) == ""
    sender = Sender(slurm, sender.place)
    job, mark = sender.send(folder), tmp_path / "copy runs"
    (copy,) = (folder / "code").iterdir()
    with open(copy / "launch" / "train.py", "a") as file:  # what runs is the copy, not the tree that sent the job
        file.write(f"\nPath({str(mark)!r}).touch()\n")
    for number, (name, disturb) in enumerate(DISTURBANCES.items(), start=1):
        before = last_step(folder) or SAVE_STEPS  # the first one comes after a checkpoint
        slurm.wait_until(job, lambda before=before: last_step(folder) > before, f"a step before {name}")  # type: ignore[misc]
        disturb(slurm, job)
        slurm.wait_until(job, lambda number=number: slurm.restarts(job) == number, f"the requeue after {name}")  # type: ignore[misc]
    sender.finish(job, folder)
    assert slurm.restarts(job) == len(DISTURBANCES)
    check_same(folder, undisturbed)
    check_one_wandb_run(folder, parts=len(DISTURBANCES) + 1)
    text = said(folder)
    assert "is gone" in text
    # Of the life in which a rank was killed; later ones have what a tracker says that SLURM ends first.
    logs = [path.read_text() for path in (folder / "submitit").glob("*_log.out")]
    assert not any("Traceback" in log.split("Starting with JobEnvironment")[1] for log in logs)
    assert "crashed at step-" in text and ": requeued" in text
    assert f"Requeued job {job}" in text and "from the checkpoint" in text
    assert mark.exists()
    assert with_accounting.recorded(job) == ["REQUEUED", "NODE_FAIL", "REQUEUED", "REQUEUED", "REQUEUED", "COMPLETED"]

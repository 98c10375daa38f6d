"""Runs on two nodes of a real SLURM that are disturbed in every way, against one that was left alone: bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import wandb_offline
from encoders import tiny_encoder
from running import arguments, cut

if TYPE_CHECKING:
    from slurm_fixture import Slurm

pytest_plugins = ("slurm_fixture",)
pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1200)]

EPOCHS = 6  # of 17 steps
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
        batch = ("--per_gpu_train_batch_size", "4", "--save_steps", "10", "--wandb_mode", "offline")
        more += ("--learning_rate", "5e-3")
        precision = ("--precision", "bf16", "--ds_config", str(self.place / "zero2.json"))
        return arguments("bc5cdr_disease", self.place / "model", folder, *more, *batch, *precision)

    def send(self, folder: Path) -> str:
        return self.slurm.send(self.line(folder), self.place / "cluster.toml", "--nodes", "2")

    def finish(self, job: str, folder: Path) -> None:
        try:
            self.slurm.wait_until(job, (folder / "result.json").is_file, "the result")
        except BaseException:
            print(said(folder))
            raise
        self.slurm.wait_until(job, lambda: self.slurm.state(job) == "COMPLETED", "the job's end")


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
    folder = sender.place / "whole"
    sender.finish(sender.send(folder), folder)
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


def recorded(slurm: Slurm, job: str) -> list[str]:
    """How each start of the job ended, as sacct has it."""
    return slurm.run("sacct", "-nXPD", "-o", "State", "-j", job).split()


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


def test_preempted_three_times(sender: Sender, undisturbed: Path, tmp_path: Path) -> None:
    """scancel --signal, the time limit, scontrol requeue."""
    slurm, folder = sender.slurm, tmp_path / "run"
    job = sender.send(folder)
    disturbances: list[Callable[[], object]] = [
        lambda: slurm.run("scancel", "--signal=USR2", job),
        lambda: reach_time_limit(slurm, job),
        lambda: slurm.run("scontrol", "requeue", job),
    ]
    for number, disturb in enumerate(disturbances, start=1):
        before = last_step(folder)
        slurm.wait_until(job, lambda before=before: last_step(folder) > before, "a step more")  # type: ignore[misc]
        disturb()
        slurm.wait_until(job, lambda number=number: slurm.restarts(job) == number, "the requeue")  # type: ignore[misc]
    sender.finish(job, folder)
    assert slurm.restarts(job) == 3
    check_same(folder, undisturbed)
    check_one_wandb_run(folder, parts=4)
    assert recorded(slurm, job) == ["REQUEUED"] * 3 + ["COMPLETED"]


def test_a_killed_rank(sender: Sender, undisturbed: Path, tmp_path: Path) -> None:
    """Rank 0, which has the log, the figures and wandb: the others end within seconds, and the job comes back. All of
    that without accounting."""
    with_accounting, folder = sender.slurm, tmp_path / "run"
    slurm = with_accounting.without_accounting(tmp_path)
    assert slurm.run("sacct", "-nX", check=False) == ""
    sender = Sender(slurm, sender.place)
    job = sender.send(folder)
    slurm.wait_until(job, lambda: last_step(folder) > 20, "some steps")
    os.kill(slurm.tasks(job)[0], signal.SIGKILL)
    killed = time.monotonic()
    slurm.wait_until(job, lambda: not slurm.tasks(job), "the end of the other rank", 60)
    assert time.monotonic() - killed < 20
    sender.finish(job, folder)
    assert slurm.restarts(job) == 1
    check_same(folder, undisturbed)
    check_one_wandb_run(folder, parts=2)
    text = said(folder)
    assert "is gone" in text and "Traceback" not in text
    assert "crashed at step-0001-" in text and ": requeued" in text
    assert recorded(with_accounting, job) == ["REQUEUED", "COMPLETED"]


def test_a_node_that_dies(sender: Sender, undisturbed: Path, tmp_path: Path) -> None:
    """Without a word to anyone, where it has a cable. SLURM finds it dead and starts the job on the others."""
    slurm, folder = sender.slurm, tmp_path / "run"
    job = sender.send(folder)
    slurm.wait_until(job, lambda: last_step(folder) > 20, "some steps")
    nodes = slurm.run("squeue", "-h", "-o", "%N", "-j", job).strip()
    assert nodes == "node[1-2]"
    try:
        slurm.cluster("cut", "node2")
        slurm.wait_until(job, lambda: slurm.restarts(job) == 1, "the requeue")
        states = slurm.run("sinfo", "-hN", "-p", "debug", "-o", "%N %T").splitlines()
        assert any(row.startswith("node2 down") for row in states), states
    finally:
        slurm.cluster("up")
    sender.finish(job, folder)
    assert slurm.restarts(job) == 1
    check_same(folder, undisturbed)
    check_one_wandb_run(folder, parts=2)
    assert recorded(slurm, job) == ["NODE_FAIL", "COMPLETED"]

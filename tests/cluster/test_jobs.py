"""Jobs on a real SLURM (see slurm_cluster.sh): cancelled, stopped in any phase, without progress; train.sbatch too."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from encoders import tiny_encoder
from running import arguments

if TYPE_CHECKING:
    from slurm_fixture import Slurm

pytest_plugins = ("slurm_fixture",)
pytestmark = [pytest.mark.slurm, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


def long_run(tmp_path: Path, folder: Path, *more: str) -> list[str]:
    """Some seconds of training."""
    model = tiny_encoder(tmp_path / "model", dropout=0.1)
    return arguments("biosses", model, folder, "--num_train_epochs", "15", "--logging_steps", "3", *more)


def wait_for_rows(folder: Path, rows: int, seconds: float = 100) -> None:
    metrics = folder / "metrics.jsonl"
    until = time.monotonic() + seconds
    while not metrics.exists() or len(metrics.read_text().splitlines()) < rows:
        assert time.monotonic() < until, "no metrics in time"
        time.sleep(0.05)


def send(slurm: Slurm, tmp_path: Path, line: list[str]) -> str:
    """The id of the submitted job."""
    path = tmp_path / "cluster.toml"
    path.write_text('partition = "debug"\ncpus_per_task = 1\ntime = 30\nsetup = ["export OMP_NUM_THREADS=1"]\n')
    return slurm.send(line, path)


def logs(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((folder / "submitit").glob("*_log.out")))


def test_a_cancelled_run_does_not_come_back(slurm: Slurm, tmp_path: Path) -> None:
    number = send(slurm, tmp_path, long_run(tmp_path, tmp_path / "run"))
    wait_for_rows(tmp_path / "run", 4)
    slurm.run("scancel", number)
    slurm.wait_for_end(number, 60)
    time.sleep(3)  # it is not requeued later either
    ended = slurm.recorded(number)
    assert slurm.is_over(number) and len(ended) == 1 and ended[0].startswith("CANCELLED"), logs(tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


def sbatch(slurm: Slurm, tmp_path: Path, nodes: int) -> str:
    """Submit a long run by slurm/train.sbatch; returns the job's id. Its output is `log`."""
    text = (ROOT / "slurm" / "train.sbatch").read_text()
    values = {"<partition>": "debug", "<devices a node>": "1", "--nodes=1": f"--nodes={nodes}",
              "--cpus-per-task=8": "-c1", "$PWD/blue-": f"{tmp_path}/blue-"}  # fmt: skip
    for name, value in values.items():
        assert name in text
        text = text.replace(name, value)
    script = tmp_path / "train.sbatch"
    script.write_text(text.replace("#SBATCH --gpus-per-node=1\n", ""))
    line = long_run(tmp_path, tmp_path / "run", "--per_gpu_eval_batch_size", "1")  # so that scoring takes a while
    path = f"{Path(sys.executable).parent}:{slurm.env['PATH']}"
    sent = slurm.run(
        "sbatch", "--parsable", f"--chdir={ROOT}", f"--output={tmp_path}/log", str(script), *line, PATH=path
    )
    return sent.strip()


def test_sbatch_alone_ends_a_job_that_makes_no_progress(slurm: Slurm, tmp_path: Path) -> None:
    number, log = sbatch(slurm, tmp_path, nodes=1), tmp_path / "log"
    for starts in (1, 2, 3, 4):
        began = lambda starts=starts: log.exists() and log.read_text().count("starting: ") == starts  # noqa: E731
        slurm.wait_until(number, began, f"start {starts}", 150)
        slurm.run("scancel", "--signal=USR2", number)
    slurm.wait_for_end(number, 60)
    said = log.read_text()
    assert said.count(": requeued") == 3 and said.count("after 3 requeues without a newer one") == 1, said
    assert slurm.recorded(number, "State,ExitCode")[-1] == "FAILED|77:0"


def test_sbatch_alone_requeues_a_run_stopped_in_any_phase(slurm: Slurm, tmp_path: Path) -> None:
    number = sbatch(slurm, tmp_path, nodes=2)
    log, phases = tmp_path / "log", ("starting: ", "loading ", "step 1/", "scoring dev")
    for restarts, words in enumerate(phases):

        def reached(restarts: int = restarts, words: str = words) -> bool:
            starts = re.split("(?=starting: )", log.read_text())[1:] if log.exists() else []
            return len(starts) > restarts and words in starts[restarts]

        slurm.wait_until(number, reached, f"{words!r} after {restarts} restarts", 150)
        slurm.run("scancel", "--signal=USR2", number)
    slurm.wait_for_end(number)
    said = log.read_text()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["world_size"] == 2 and "from the checkpoint" in said, said
    assert slurm.restarts(number) == len(phases)

"""Suites on a real SLURM (see slurm_cluster.sh): arrays, retries, cancel and requeue."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from encoders import tiny_encoder
from running import SMALL, cut

from launch import submit

if TYPE_CHECKING:
    from slurm_fixture import Slurm

pytest_plugins = ("slurm_fixture",)
pytestmark = pytest.mark.slurm

SCRIPT = Path(submit.__file__)
QUOTA = 64  # KiB of a file: less than a checkpoint, more than a log
PROFILE = 'partition = "debug"\ncpus_per_task = 1\ntime = 30\nenvironment = ["SLURM_CONF", "OMP_NUM_THREADS=1"]\n'


def line(tmp_path: Path, text: str) -> list[str]:
    """The command line of a suite of tiny runs, without SLURM's part."""
    if not (tmp_path / "data").exists():
        cut("biosses", tmp_path / "data", 40)
        tiny_encoder(tmp_path / "tiny", dropout=0.1)
    (tmp_path / "suite.toml").write_text(
        f'tasks = ["biosses"]\nmodels = ["{tmp_path}/tiny"]\n{text}[overrides.biosses]\ndata_dir = "{tmp_path}/data"\n'
    )
    (tmp_path / "cluster.toml").write_text(PROFILE)
    return ["--suite", str(tmp_path / "suite.toml"), "--output_dir", str(tmp_path / "out"), *SMALL]


def command(slurm: Slurm, *words: str) -> str:
    return slurm.run(sys.executable, str(SCRIPT), *words, timeout=300)


def states(slurm: Slurm, tmp_path: Path) -> dict[str, dict[str, object]]:
    """What `status` says, by seed."""
    rows = [json.loads(text) for text in command(slurm, "status", str(tmp_path / "out"), "--json").splitlines()]
    return {Path(row["folder"]).name: row for row in rows}


def ended(slurm: Slurm, tmp_path: Path, job: str) -> dict[str, dict[str, object]]:
    """The states once the job or array has left the queue."""
    slurm.wait_for_end(job)
    print(*(path.read_text() for path in (tmp_path / "out").rglob("*_log.out")), sep="\n")
    return states(slurm, tmp_path)


def test_an_array_of_four_runs_over_two_nodes(slurm: Slurm, tmp_path: Path) -> None:
    """Each run has a rank on both nodes, so that all that go on at once share them, and need a port each."""
    words = line(tmp_path, "seeds = 4\n[overrides]\nmax_steps = 2\n")
    number = slurm.send(words, tmp_path / "cluster.toml", "--nodes", "2")
    assert set(states(slurm, tmp_path)) == {f"seed-{seed}" for seed in range(12, 16)}
    again = command(slurm, *words, "--cluster", "slurm", "--gpus_per_node", "0", "--nodes", "2")
    finished = re.search(r"(\d) of 4 runs finished before", again)  # on an idle machine some are
    assert again.count("skipped: ") + (int(finished[1]) if finished else 0) == 4
    assert "job  " not in again  # the same command twice sends nothing twice
    found = ended(slurm, tmp_path, number)
    assert {row["state"] for row in found.values()} == {"finished"}
    results = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("result.json")]
    assert len(results) == 4 and {result["world_size"] for result in results} == {2}
    assert {row["job"] for row in found.values()} == {f"{number}_{index}" for index in range(4)}
    assert not list((tmp_path / "out").rglob(".meeting*"))
    said = command(slurm, "logs", str(tmp_path / "out/biosses/tiny/seed-14"), "--rank", "1")
    assert "Job completed successfully" in said


@pytest.mark.slow
def test_one_that_fails_is_tried_three_times_and_one_that_is_cancelled_is_sent_again(
    slurm: Slurm, tmp_path: Path
) -> None:
    words = line(tmp_path, "seeds = [1]\n[overrides]\nmax_steps = 3\n")
    (tmp_path / "cluster.toml").write_text(
        PROFILE + f'setup = ["ulimit -f {QUOTA}"]\n'
    )  # a disk that may have room again
    number = slurm.send(words, tmp_path / "cluster.toml")
    found = ended(slurm, tmp_path, number)
    assert found["seed-1"]["state"] == "failed" and "free some space" in str(found["seed-1"]["reason"])
    assert slurm.restarts(number) == 2
    noted = (tmp_path / f"out/biosses/tiny/seed-1/submitit/{number}.attempts").read_text().splitlines()
    assert {json.loads(row)["failed"] for row in noted if "failed" in row} == {0, 1, 2}

    words = line(tmp_path, "seeds = [2, 3]\n[overrides]\nnum_train_epochs = 40\nlogging_steps = 1\n")
    number = slurm.send(words, tmp_path / "cluster.toml")
    folder = tmp_path / "out/biosses/tiny/seed-2"
    slurm.wait_until(number, (folder / "checkpoints").exists, "a checkpoint", 120)
    assert "asked to stop at its next step" in command(slurm, "cancel", str(folder))
    found = ended(slurm, tmp_path, number)
    assert [found[name]["state"] for name in ("seed-2", "seed-3")] == ["stopped", "finished"]
    again = re.search(r"\bjob\s+(\d+)", command(slurm, "requeue", str(folder)))
    assert again and ended(slurm, tmp_path, again[1])["seed-2"]["state"] == "finished"
    assert "Resumed after" in command(slurm, "logs", str(folder), "--lines", "500")

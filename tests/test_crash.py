"""Which crash of a SLURM job is followed by a requeue. On a real cluster: test_cluster_faults.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from running import clean_environment, free_port

from launch import crash
from launch.train import EXIT_LOST

ROOT = Path(__file__).resolve().parent.parent


def crashed(*checkpoints: str) -> list[dict[str, Any]]:
    return [
        {"crashed": number, "status": 137, "checkpoint": checkpoint} for number, checkpoint in enumerate(checkpoints)
    ]


@pytest.mark.parametrize("status", [9, 137, 139, 134, 15, 143, EXIT_LOST])
def test_a_rank_ended_by_a_signal_or_the_loss_of_another_comes_back(status: int) -> None:
    assert crash.verdict(status, [], 0, "step-0001-000004") == (True, "crashed at step-0001-000004")


@pytest.mark.parametrize("status", [1, 2, 75, 126, 127, 255])
def test_another_status_does_not_come_back(status: int) -> None:
    assert crash.verdict(status, [], 0, "step-0001-000004")[0] is False


def failed(restart: int, mistake: bool = False) -> dict[str, Any]:
    return {"failed": restart, "by": "rank 1 on node2", "error": "list index out of range", "mistake": mistake}


def test_a_rank_that_failed_by_itself_is_tried_twice_more() -> None:
    why = "rank 1 on node2 failed: list index out of range"
    assert crash.verdict(137, [failed(0)], 0, "") == (True, why)
    assert crash.verdict(1, [failed(0), failed(2)], 2, "") == (True, why)
    assert crash.verdict(1, [failed(0), failed(1), failed(2), failed(2)], 2, "") == (False, why)
    assert crash.verdict(137, [failed(0), failed(1), failed(2)], 3, "")[1].startswith("crashed")  # that was before


def test_a_mistake_of_the_users_does_not_come_back_though_others_were_killed() -> None:
    assert crash.verdict(137, [failed(0, mistake=True)], 0, "")[0] is False


def test_crashes_without_progress_come_to_an_end() -> None:
    assert crash.verdict(137, crashed("a", "b", "b"), 3, "c")[0] is True
    assert crash.verdict(137, crashed("b"), 1, "b")[0] is True
    again, why = crash.verdict(137, crashed("a", "b", "b"), 3, "b")
    assert not again and why == "crashed 3 times at b; the same command goes on from there"
    assert crash.verdict(137, crashed("", ""), 2, "") == (
        False,
        "crashed 3 times before its first checkpoint; the same command goes on from there",
    )


def test_newest_checkpoint_is_found_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 9,999 epochs a run that goes on would otherwise be taken for one that crashes at the same place."""
    requeued = tmp_path / "scontrol"
    requeued.write_text(f"#!/bin/sh\necho $* >> {tmp_path}/requeued\n")
    requeued.chmod(0o700)
    notes, saved = tmp_path / "attempts", tmp_path / "run" / "checkpoints"
    for name, value in {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "BLUE_ATTEMPTS": notes,
        "SLURM_JOB_ID": "7",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(crash, "job_state", lambda: "RUNNING")
    notes.write_text(json.dumps({"began": 0, "run": str(tmp_path / "run")}) + "\n")
    names = ["step-9998-999999", "step-9999-000000", "step-10000-000000", "step-10000-999999", "step-10000-1000000"]
    for name in names:
        (saved / name).mkdir(parents=True)
        crash.main(137)
    assert [record.get("checkpoint") for record in map(json.loads, notes.read_text().splitlines())] == [None, *names]
    assert (tmp_path / "requeued").read_text() == "requeue 7\n" * len(names)


RANK = """
import os, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from harness import distributed
from launch import crash, failures
distributed.init(no_cuda=True)
print("here", flush=True)
try:
    with crash.noted(Path("run")):
        if os.environ["RANK"] == "1":
            sys.argv[1] == "raise" and 1 / 0
            time.sleep(600)
        dist.all_reduce(torch.zeros(1))
except Exception as error:
    distributed.leave(failures.report(error))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("end", "statuses"), [("kill", (EXIT_LOST, -9)), ("raise", (EXIT_LOST, 1))])
def test_the_other_rank_ends_in_one_line(end: str, statuses: tuple[int, int], tmp_path: Path) -> None:
    port = str(free_port())
    ranks = []
    for rank in ("0", "1"):
        env = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
               crash.ATTEMPTS: str(tmp_path / "attempts"), "PYTHONPATH": str(ROOT)}  # fmt: skip
        whole, command = {**clean_environment(), **env}, [sys.executable, "-c", RANK, end]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        ranks.append(subprocess.Popen(command, env=whole, cwd=tmp_path, text=True, **pipes))  # type: ignore[call-overload]
    for process in ranks:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
    if end == "kill":
        time.sleep(0.2)
        os.kill(ranks[1].pid, signal.SIGKILL)
    heard = [process.communicate(timeout=60)[1] for process in ranks]
    assert tuple(process.returncode for process in ranks) == statuses
    assert "Traceback" not in heard[0] and "another rank ended" in heard[0]
    noted = [json.loads(line) for line in (tmp_path / "attempts").read_text().splitlines()]
    failed = [record["error"] for record in noted if "failed" in record]
    assert failed == (["division by zero"] if end == "raise" else [])
    assert (tmp_path / "attempts").stat().st_mode & 0o077 == 0

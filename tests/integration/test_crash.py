"""Which crash of a SLURM job is followed by a requeue. On a real cluster: test_cluster_faults.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from running import clean_environment, free_port

from harness.errors import (
    EXIT_LOST,
    EXIT_NO_PROGRESS,
    EXIT_STOPPED,
    TrainingFailed,
    UserError,
    is_final,
    training_error,
)
from launch.jobs import requeue, slurm
from launch.jobs import status as run_status
from launch.run import failures

ROOT = Path(__file__).resolve().parents[2]


def begun(*checkpoints: str) -> list[dict[str, Any]]:
    """Records of one start after another, each with the newest checkpoint there was."""
    return [{"began": number, "run": "run", "checkpoint": name} for number, name in enumerate(checkpoints)]


def failed(restart: int, final: bool = False) -> dict[str, Any]:
    return {"failed": restart, "by": "rank 1 on node2", "error": "list index out of range", "final": final}


@pytest.mark.parametrize("status", [9, 137, 139, 134, 15, 143, EXIT_LOST])
def test_a_rank_ended_by_a_signal_or_the_loss_of_another_comes_back(status: int) -> None:
    assert requeue.decide(status, [], 0, "step-0001-000004") == (True, status, "crashed at step-0001-000004")


def test_a_run_that_stopped_comes_back() -> None:
    assert requeue.decide(EXIT_STOPPED, [], 0, "") == (True, EXIT_STOPPED, "stopped before its first checkpoint")


@pytest.mark.parametrize("status", [1, 2, 126, 127, 255])
def test_another_status_does_not_come_back(status: int) -> None:
    assert requeue.decide(status, [], 0, "step-0001-000004")[:2] == (False, status)


def test_a_rank_that_failed_by_itself_is_tried_twice_more() -> None:
    why = "rank 1 on node2 failed: list index out of range"
    assert requeue.decide(137, [failed(0)], 0, "") == (True, 137, why)
    assert requeue.decide(1, [failed(0), failed(2)], 2, "") == (True, 1, why)
    assert requeue.decide(1, [failed(0), failed(1), failed(2), failed(2)], 2, "") == (False, 1, why)
    assert requeue.decide(137, [*begun("", "a", "b", "c"), failed(0), failed(1)], 3, "c")[2].startswith("crashed")


def test_what_would_fail_again_does_not_come_back_though_others_were_killed() -> None:
    assert requeue.decide(137, [failed(0, final=True)], 0, "")[0] is False


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (UserError("no such file"), True),
        (
            training_error(torch.OutOfMemoryError("CUDA out of memory"), 3, 1e-5, lambda: "--lora_rank 16 needs 2 GiB"),
            True,
        ),
        (
            training_error(
                RuntimeError("DefaultCPUAllocator: can't allocate memory"),
                3,
                1e-5,
                lambda: "--lora_rank 16 needs 2 GiB",
            ),
            True,
        ),
        (
            training_error(
                Exception("Current loss scale already at minimum"), 3, 1e-5, lambda: "--lora_rank 16 needs 2 GiB"
            ),
            True,
        ),
        (TrainingFailed("the disk is full"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_runs_are_reproducible_and_so_are_their_failures(error: Exception, final: bool) -> None:
    assert is_final(error) is final


@pytest.mark.parametrize("status", [137, EXIT_LOST, EXIT_STOPPED])
class TestWithoutProgress:
    """Crashes and preemptions alike."""

    def test_after_three_requeues_it_ends(self, status: int) -> None:
        for restart in range(3):
            assert requeue.decide(status, begun(*["b"] * (restart + 1)), restart, "b")[0] is True
        again, left_with, why = requeue.decide(status, begun("b", "b", "b", "b"), 3, "b")
        assert (again, left_with) == (False, EXIT_NO_PROGRESS) and "at b, after 3 requeues without a newer one" in why

    def test_before_the_first_checkpoint(self, status: int) -> None:
        assert requeue.decide(status, begun("", "", ""), 2, "")[0] is True
        assert requeue.decide(status, begun("", "", "", ""), 3, "")[:2] == (False, EXIT_NO_PROGRESS)

    def test_one_that_advances_is_never_ended(self, status: int) -> None:
        names = [f"step-0001-{number:06d}" for number in range(40)]
        for restart, name in enumerate(names[1:]):
            assert requeue.decide(status, begun(*names[: restart + 1]), restart, name)[0] is True

    def test_starts_that_ended_before_they_could_be_noted_count(self, status: int) -> None:
        assert requeue.decide(status, [], 2, "")[0] is True
        assert requeue.decide(status, [], 3, "")[:2] == (False, EXIT_NO_PROGRESS)
        assert requeue.decide(status, begun("a", "b"), 3, "b")[0] is True
        assert requeue.decide(status, begun("a", "b"), 4, "b")[:2] == (False, EXIT_NO_PROGRESS)


def test_the_newest_checkpoint_is_the_one_of_the_highest_numbers(tmp_path: Path) -> None:
    assert requeue.newest_checkpoint(tmp_path) == ""
    for name in ("step-9999-000001", "step-10000-000001", "step-10000-1000000", "step-10000-999999"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert requeue.newest_checkpoint(tmp_path) == "step-10000-1000000"


class TestAttempts:
    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv(requeue.ATTEMPTS, str(tmp_path / "attempts"))
        return tmp_path / "attempts"

    def test_torn_and_foreign_lines_are_skipped(self, file: Path, tmp_path: Path) -> None:
        with requeue.noted(tmp_path):
            pass
        nested = b"[" * 100_000
        for torn in (b'{"failed": 1, "by": "ra', b"\xff\x00", b"[1, 2]", b'{"failed": "0"}', b'{"began": 3}', nested):
            with open(file, "ab") as lines:
                lines.write(torn)
            with pytest.raises(ZeroDivisionError), requeue.noted(tmp_path):
                1 / 0  # noqa: B018
        records = requeue._records()
        assert [next(iter(record)) for record in records] == ["began", *["began", "failed"] * 6]

    def test_an_error_that_names_an_undecodable_file_counts(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="a"), requeue.noted(tmp_path):
            raise OSError("a \udcff b")
        assert requeue._records()[-1]["error"] == "a \\udcff b"

    def test_none_and_a_folder_in_its_place(self, file: Path) -> None:
        assert requeue._records() == []
        file.mkdir()
        assert requeue._records() == []

    def test_a_rank_asks_before_it_hands_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The requeue by submitit's own handler, which knows nothing of checkpoints."""
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
        monkeypatch.setattr(slurm.shutil, "which", lambda name: name)
        monkeypatch.setattr(requeue, "job_state", lambda: "TIMEOUT")
        for restart in range(4):
            monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
            with requeue.noted(tmp_path):
                pass
            if restart < 3:
                assert slurm._hand_over(tmp_path) == {"status": "stopped"}
        with pytest.raises(SystemExit) as end:
            slurm._hand_over(tmp_path)
        assert end.value.code == EXIT_NO_PROGRESS
        assert "requeued 3 times without a newer checkpoint" in capsys.readouterr().err
        attempt = run_status.read_attempt(tmp_path)
        assert attempt is not None and attempt.state == "failed" and "without a newer checkpoint" in attempt.reason
        (tmp_path / "checkpoints" / "step-0001-000002").mkdir(parents=True)
        assert slurm._hand_over(tmp_path) == {"status": "stopped"}


class TestReason:
    """attempt.json is written by the rank that failed first, and by no rank that fell with it."""

    def fail(self, folder: Path, errors: Mapping[int, tuple[BaseException, str | None]], monkeypatch: Any) -> None:
        """Of ranks that have all begun, in that order."""
        begun = {}
        for rank in sorted(errors):
            monkeypatch.setenv("RANK", str(rank))
            begun[rank] = run_status.recorded(folder)
            begun[rank].__enter__()
        for rank, (error, silent) in errors.items():
            monkeypatch.setenv("RANK", str(rank))
            if silent is not None:
                setattr(error, failures.SILENT, silent)
            assert not begun[rank].__exit__(type(error), error, None)

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_of_two_ranks(self, order: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        memory = training_error(
            torch.OutOfMemoryError("CUDA out of memory"), 3, 1e-5, lambda: "--lora_rank 16 needs 2 GiB"
        )
        assert memory is not None
        errors = {0: (RuntimeError("Connection closed by peer"), "train.log"), 1: (memory, "")}
        self.fail(tmp_path, {rank: errors[rank] for rank in order}, monkeypatch)
        attempt = run_status.read_attempt(tmp_path)
        assert attempt is not None and attempt.final and attempt.reason.startswith("out of memory at step 3")

    def test_before_the_ranks_know_each_other(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fail(tmp_path, {rank: (RuntimeError(f"of rank {rank}"), None) for rank in (0, 1)}, monkeypatch)
        attempt = run_status.read_attempt(tmp_path)
        assert attempt is not None and not attempt.final and attempt.reason == "RuntimeError: of rank 0"


def test_newest_checkpoint_is_found_by_number(tmp_path: Path) -> None:
    """After 9,999 epochs a run that goes on would otherwise be taken for one that stays at the same place."""
    assert requeue.newest_checkpoint(tmp_path) == ""
    names = ["step-9998-999999", "step-9999-000000", "step-10000-000000", "step-10000-999999", "step-10000-1000000"]
    for name in names:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        assert requeue.newest_checkpoint(tmp_path) == name


RANK = """
import os, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from harness import distributed
from launch.jobs import requeue
from launch.run import failures
distributed.init(no_cuda=True)
print("here", flush=True)
try:
    with requeue.noted(Path("run")):
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
               requeue.ATTEMPTS: str(tmp_path / "attempts"), "PYTHONPATH": str(ROOT)}  # fmt: skip
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
    noted = [json.loads(line) for line in (tmp_path / "attempts").read_text().split("\n") if line]
    failed = [record["error"] for record in noted if "failed" in record]
    assert failed == (["division by zero"] if end == "raise" else [])
    assert (tmp_path / "attempts").stat().st_mode & 0o077 == 0

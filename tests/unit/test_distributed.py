"""Rank and world size from every launcher's environment, and the collectives on two real processes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from running import clean_environment, free_port, start_processes

from harness import device, distributed
from harness.errors import UserError

SRUN = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "77"}
SHELL = {**SRUN, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_PTY_PORT": "40001"}
STEP = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No launcher before, no process group and no variable of it afterwards."""
    before, joined = dict(os.environ), dist.is_initialized()
    for name in list(os.environ):
        if name.startswith(("SLURM_", "MASTER_")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            del os.environ[name]
    yield
    if not joined:  # a group of other tests in this process stays: DeepSpeed keeps handles on it
        distributed.close()
    os.environ.clear()
    os.environ.update(before)


class TestEnvironment:
    @pytest.mark.parametrize(
        ("environment", "place"),
        [
            pytest.param({}, (0, 1, 0, 1), id="plain"),
            pytest.param(
                {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
                (3, 4, 1, 2),
                id="torchrun",
            ),
            pytest.param(
                {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"}, (3, 4, 1, 2), id="deepspeed"
            ),
            pytest.param({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2, 0, 2), id="no local figures"),
            pytest.param({"WORLD_SIZE": "4"}, (0, 1, 0, 1), id="half of a launcher"),
            pytest.param({**SRUN, **STEP, "SLURM_NTASKS": "4"}, (3, 4, 1, 2), id="srun"),
            pytest.param(
                {**SRUN, "SLURM_NTASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, (3, 4, 1, 2), id="ntasks"
            ),
            pytest.param({**SRUN, **STEP, "SLURM_NTASKS": "64"}, (3, 4, 1, 2), id="step smaller than its job"),
            pytest.param({**SRUN, "SLURM_NTASKS": "4"}, (3, 4, 1, 4), id="no tasks per node"),
            pytest.param({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "77"}, (0, 1, 0, 1), id="sbatch"),
            pytest.param({**SHELL, **STEP}, (0, 1, 0, 1), id="typed into the shell of srun --pty"),
            pytest.param({**SHELL, **STEP, "SLURM_TASK_PID": str(os.getpid())}, (0, 4, 0, 2), id="srun --pty python"),
            pytest.param({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "77"}, (0, 1, 0, 1), id="salloc"),
            pytest.param(
                {**SRUN, **STEP, "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
                (0, 2, 0, 2),
                id="deepspeed in srun",
            ),
        ],
    )
    def test_place(self, environment: dict[str, str], place: tuple[int, int, int, int]) -> None:
        assert distributed.from_environment(environment) == place


def test_an_srun_in_the_shell_of_another_inherits_its_port() -> None:
    task = subprocess.Popen(["sleep", "60"], start_new_session=True)  # without a terminal, as slurmstepd starts one
    try:
        assert distributed.from_environment({**SHELL, **STEP, "SLURM_TASK_PID": str(task.pid)}) == (0, 4, 0, 2)
    finally:
        task.kill()
        task.wait()


@pytest.mark.parametrize(
    ("environment", "said"),
    [({}, ""), ({"SLURM_NTASKS": "1"}, ""), ({**SHELL, **STEP}, "4 tasks"), ({"SLURM_NTASKS": "2"}, "2 tasks")],
)
def test_one_process_in_a_job_of_several_tasks_is_said(environment: dict[str, str], said: str) -> None:
    assert said in distributed.unused_tasks(environment) and bool(said) == bool(distributed.unused_tasks(environment))


class TestDevice:
    def test_neither_tests_nor_what_they_start_see_a_gpu(self) -> None:
        """DeepSpeed, which tests import before a run has chosen its device, is on the CPU in them."""
        hidden = clean_environment()
        assert (hidden["CUDA_VISIBLE_DEVICES"], hidden["DS_ACCELERATOR"]) == ("", "cpu")
        assert not torch.cuda.is_available()

    @pytest.mark.parametrize(
        ("local_rank", "visible", "environment", "number"),
        [
            pytest.param(1, 4, {}, 1, id="all shown"),
            pytest.param(2, 1, {"SLURM_STEP_ID": "0", "CUDA_VISIBLE_DEVICES": "2"}, 0, id="one bound to each rank"),
            pytest.param(2, 1, {"CUDA_VISIBLE_DEVICES": "2"}, None, id="not SLURM"),
            pytest.param(2, 1, {"SLURM_STEP_ID": "0"}, None, id="a machine with one"),
            pytest.param(2, 2, {"SLURM_STEP_ID": "0", "CUDA_VISIBLE_DEVICES": "0,1"}, None, id="too few"),
            pytest.param(
                1,
                1,
                {"SLURM_STEP_ID": "0", "CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_ON_NODE": "1"},
                None,
                id="one for two ranks",
            ),
        ],
    )
    def test_number(self, local_rank: int, visible: int, environment: dict[str, str], number: int | None) -> None:
        assert device.device_number(local_rank, visible, environment) == number


class TestOneProcess:
    def test_is_a_world_of_its_own(self) -> None:
        world = distributed.init(no_cuda=True)
        assert (world.rank, world.size, world.device.type, world.is_main) == (0, 1, "cpu", True)

    def test_needs_no_address(self) -> None:
        distributed.init(no_cuda=True)
        assert "MASTER_ADDR" not in os.environ

    def test_variables_that_a_shell_has_left_over_do_not_count(self) -> None:
        """DeepSpeed takes LOCAL_RANK for the number of the GPU."""
        os.environ.update(LOCAL_RANK="3", WORLD_SIZE="4", LOCAL_WORLD_SIZE="4")
        assert distributed.init(no_cuda=True).size == 1
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        assert [os.environ[name] for name in names] == ["0", "0", "1", "1"]

    def test_can_begin_again(self) -> None:
        assert distributed.init(no_cuda=True) == distributed.init(no_cuda=True)

    def test_collectives_are_plain_values(self) -> None:
        world = distributed.init(no_cuda=True)
        distributed.barrier()
        assert (distributed.gather(1), distributed.broadcast(2), distributed.on_main(lambda: 3)) == ([1], 2, 3)
        assert (distributed.agree(True, world.device), distributed.agree(False, world.device)) == (True, False)

    def test_error_comes_through(self) -> None:
        distributed.init(no_cuda=True)
        with pytest.raises(UserError, match="no"):
            distributed.on_main(_refuse)


def _refuse() -> None:
    raise UserError("no")


class Stubborn(Exception):
    """Its copy cannot be made: pickle calls the class with the message alone."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def _refuse_stubbornly() -> None:
    raise Stubborn("by", "no means")


def _rank(rank: int, port: int, folder: str) -> None:
    """What one of two ranks sees; written down as JSON."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    world = distributed.init(no_cuda=True)
    acted: list[int] = []
    seen: dict[str, Any] = {
        "place": [world.rank, world.size, world.is_main],
        "gather": distributed.gather({"rank": rank}),
        "broadcast": distributed.broadcast(f"from {rank}"),
        "agree": [distributed.agree(votes[rank], world.device) for votes in ((0, 0), (0, 1), (1, 0), (1, 1))],
        "on_main": distributed.on_main(lambda: acted.append(rank) or f"from {rank}"),
        "acted": acted,
    }
    try:
        distributed.on_main(_refuse)
    except UserError as error:
        seen["error"] = str(error)
        seen["of another rank"] = isinstance(error.__cause__, distributed.RaisedOnMain)
    try:
        distributed.on_main(_refuse_stubbornly)
    except Exception as error:
        seen["stubborn"] = f"{type(error).__name__}: {error}"
    distributed.barrier()
    distributed.close()
    Path(folder, f"{rank}.json").write_text(json.dumps({**seen, "left": not dist.is_initialized()}))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two real processes saw."""
    folder = tmp_path_factory.mktemp("ranks")
    port = free_port()
    start_processes(_rank, (port, str(folder)), 2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("place", [[0, 2, True], [1, 2, False]]),
        ("gather", [[{"rank": 0}, {"rank": 1}]] * 2),
        ("broadcast", ["from 0"] * 2),
        ("agree", [[False, True, True, True]] * 2),
        ("on_main", ["from 0"] * 2),
        ("acted", [[0], []]),
        ("error", ["no"] * 2),
        ("of another rank", [False, True]),
        ("stubborn", ["Stubborn: by no means", "RuntimeError: Stubborn: by no means"]),
        ("left", [True] * 2),
    ],
)
def test_two_processes(name: str, expected: list[Any], two_ranks: list[dict[str, Any]]) -> None:
    assert [seen[name] for seen in two_ranks] == expected


class TestLostPeer:
    @pytest.mark.parametrize(
        ("error", "lost"),
        [
            (RuntimeError("[/x/gloo/transport/tcp/pair.cc:537] Read error [::1]:1: Connection reset by peer"), True),
            (RuntimeError("[/x/gloo/transport/tcp/pair.cc:1] Connection closed by peer [127.0.0.1]:1"), True),
            (RuntimeError("[/x/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv"), True),
            (RuntimeError("NCCL error: remote process exited or there was a network error"), True),
            (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
            (ConnectionResetError(104, "Connection reset by peer"), False),  # a hub's or wandb's
            (ValueError("gloo: Connection closed by peer"), False),
        ],
    )
    def test_is_known_by_its_words(self, error: Exception, lost: bool) -> None:
        assert distributed.lost_peer(error) is lost

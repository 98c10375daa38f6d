"""Rank, world size and address from the environment, for every launcher; the few collectives that a run needs.

Launchers: the deepspeed launcher and torchrun set RANK, WORLD_SIZE and LOCAL_RANK; srun sets SLURM_*; plain `python`
sets nothing and is one process.
"""

from __future__ import annotations

import datetime
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from harness import UserError

Value = TypeVar("Value")

PEER_IS_GONE = re.compile(r"/gloo/.*(by peer|Broken pipe|[Tt]imed out)|ncclRemoteError|ncclSystemError", re.DOTALL)
TIMEOUT = datetime.timedelta(minutes=30)  # of one collective: rank 0 may write a model or wait for wandb meanwhile


@dataclass(frozen=True)
class World:
    """Where this process stands."""

    rank: int  # of all processes
    size: int
    local_rank: int  # of the processes on this machine
    local_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Rank 0 alone writes files, logs to people and talks to wandb."""
        return self.rank == 0


def from_environment(environment: Mapping[str, str]) -> tuple[int, int, int, int]:
    """(rank, size, local rank, local size) that the launcher gave; (0, 1, 0, 1) without one."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        size = int(environment["WORLD_SIZE"])
        local_size = int(environment.get("LOCAL_WORLD_SIZE") or environment.get("LOCAL_SIZE") or size)
        return int(environment["RANK"]), size, int(environment.get("LOCAL_RANK", 0)), local_size
    if "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:  # srun; sbatch alone sets no step
        size = int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or 1)
        per_node = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", str(size)))
        local_size = int(per_node.group()) if per_node else size
        return int(environment["SLURM_PROCID"]), size, int(environment.get("SLURM_LOCALID", 0)), local_size
    return 0, 1, 0, 1


def init(no_cuda: bool = False) -> World:
    """Join the process group (gloo on CPU, nccl on CUDA), once a process; a single process needs no port.

    Raises UserError where a rank has no device.
    """
    rank, size, local_rank, local_size = from_environment(os.environ)
    cuda = torch.cuda.is_available() and not no_cuda
    if cuda and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"--num_gpus: rank {rank} needs GPU number {local_rank}, but this machine shows "
            f"{torch.cuda.device_count()}; ask for fewer, or check CUDA_VISIBLE_DEVICES"
        )
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))
    _export(rank, size, local_rank, local_size)
    if not dist.is_initialized():
        backend = "nccl" if cuda else "gloo"
        if size == 1:
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        else:
            dist.init_process_group(backend, rank=rank, world_size=size, timeout=TIMEOUT)
    return World(rank, size, local_rank, local_size, device)


def _export(rank: int, size: int, local_rank: int, local_size: int) -> None:
    """The variables that DeepSpeed and torch read themselves; under srun they are ours to set."""
    names = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": local_size}
    for name, value in names.items():
        os.environ.setdefault(name, str(value))
    if size > 1:
        if "MASTER_ADDR" not in os.environ:
            os.environ["MASTER_ADDR"] = _first_host()
        # Two jobs on one node have different ids; within a job, steps differ.
        job, step = int(os.environ.get("SLURM_JOB_ID", 0)), int(os.environ.get("SLURM_STEP_ID", 0))
        os.environ.setdefault("MASTER_PORT", str(20000 + (job * 61 + step) % 12000))  # below Linux's ephemeral ports


def _first_host() -> str:
    """A host of rank 0 that every rank can reach: under srun the step's first node, else this machine."""
    nodes = os.environ.get("SLURM_STEP_NODELIST")
    if nodes is None or os.environ.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1"
    # Not SLURM_LAUNCH_NODE_IPADDR: that is where srun was typed, which may be a login node.
    try:
        listed = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        return listed.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:  # in a container there may be no scontrol
        raise UserError(
            f"SLURM_STEP_NODELIST {nodes}: scontrol cannot expand it; set MASTER_ADDR to the first node"
        ) from error


def barrier() -> None:
    """Wait for all ranks."""
    if dist.get_world_size() > 1:
        dist.barrier()


def gather(value: Any) -> list[Any]:
    """Each rank's value, in order of rank, on every rank."""
    if dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """Rank 0's value on every rank."""
    if dist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def on_main(action: Callable[[], Value]) -> Value:
    """Rank 0 alone acts; every rank gets its value, or raises what it raised."""
    outcome: tuple[Value | None, Exception | None] = (None, None)
    if dist.get_rank() == 0:
        try:
            outcome = (action(), None)
        except Exception as error:
            outcome = (None, error)
    value, failure = broadcast(outcome)
    if failure is not None:
        raise failure
    return cast(Value, value)


def agree(flag: bool, device: torch.device) -> bool:
    """True on all ranks where it is true on any: how a stop request of one becomes a decision of all."""
    if dist.get_world_size() == 1:
        return flag
    votes = torch.tensor([int(flag)], device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def lost_peer(error: BaseException) -> bool:
    """Whether this is what gloo, NCCL or the store raise when another rank is gone: not this rank's own failure."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, dist.DistNetworkError | dist.DistStoreError) or PEER_IS_GONE.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def close() -> None:
    """Leave the process group; for the end of a program, not of a run."""
    if dist.is_initialized():
        dist.destroy_process_group()


def leave(status: int) -> NoReturn:
    """End the program.

    With several ranks the interpreter is not torn down: a worker thread of gloo that is still at it would abort the
    process, and a launcher would report a finished run as failed. Nor is the group left after a failure, since others
    may be waiting in a collective.
    """
    several = dist.is_initialized() and dist.get_world_size() > 1
    if status == 0:
        close()
    if several:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)

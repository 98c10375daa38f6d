"""Rank, world size and address from the environment, for every launcher; the few collectives that a run needs.

Launchers: the deepspeed launcher and torchrun set RANK, WORLD_SIZE and LOCAL_RANK; srun sets SLURM_*; plain `python`
sets nothing and is one process, as is one that was typed into the shell of `salloc` or `srun --pty bash`.
"""

from __future__ import annotations

import datetime
import logging
import os
import pickle
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from harness.errors import UserError
from harness.rendezvous import RaisedOnMain, Rendezvous

Value = TypeVar("Value")

PEER_IS_GONE = re.compile(  # what gloo, NCCL and the store say
    r"gloo.*(?:by peer|Broken pipe|closed|[Tt]imed out|timeout)|got 0 bytes|ncclRemoteError|ncclSystemError|"
    r"remote process exited",
    re.DOTALL,
)
TIMEOUT = datetime.timedelta(minutes=30)  # of one collective: rank 0 may write a model or wait for wandb meanwhile
MEETING_SECONDS = 60.0  # ranks wait so long for each other; they start within seconds of each other

_store: TCPStore | None = None  # of several ranks, once they have met


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
    launched = "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment  # srun; sbatch alone sets no step
    if launched and not _typed_into_a_shell(environment):
        size = int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or 1)
        per_node = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", str(size)))
        local_size = int(per_node.group()) if per_node else size
        return int(environment["SLURM_PROCID"]), size, int(environment.get("SLURM_LOCALID", 0)), local_size
    return 0, 1, 0, 1


def _typed_into_a_shell(environment: Mapping[str, str]) -> bool:
    """Whether the step's task is the shell of `srun --pty bash`: with -n4 its variables name tasks that run nothing.

    `srun --pty python launch/train.py` is the task itself. An srun within that shell inherits the variable, but its
    tasks have no terminal.
    """
    task = environment.get("SLURM_TASK_PID", "")
    if "SLURM_PTY_PORT" not in environment or task == str(os.getpid()):
        return False
    try:
        terminal = Path(f"/proc/{task}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[4]
    except OSError:
        return True
    return terminal != "0"


def unused_tasks(environment: Mapping[str, str]) -> str:
    """What to say of a single process in a SLURM job of several tasks; "" elsewhere."""
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or "1"
    return "" if tasks == "1" else f"one process, not started by srun: the job's {tasks} tasks are not used"


def init(no_cuda: bool = False, shared: Path | None = None, seconds: float = MEETING_SECONDS) -> World:
    """Join the process group (gloo on CPU, nccl on CUDA), once a process; a single process needs no port.

    `shared`: a folder that all ranks see; where the launcher gave no port, rank 0 writes its address there.
    Raises UserError where a rank has no device, or the ranks have not met in `seconds` (harness/rendezvous.py).
    """
    rank, size, local_rank, local_size = from_environment(os.environ)
    cuda = torch.cuda.is_available() and not no_cuda
    number = device_number(local_rank, torch.cuda.device_count(), os.environ) if cuda else local_rank
    if number is None:
        raise UserError(
            f"--num_gpus: rank {rank} needs GPU number {local_rank}, but this machine shows "
            f"{torch.cuda.device_count()}; ask for fewer, or check CUDA_VISIBLE_DEVICES"
        )
    device = torch.device("cuda", number) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))
    # The variables that DeepSpeed and torch read themselves; DeepSpeed takes LOCAL_RANK for the device's number.
    names = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": number, "LOCAL_WORLD_SIZE": local_size}
    for name, value in names.items():
        os.environ.setdefault(name, str(value))
    if not dist.is_initialized():
        global _store
        _store = None if size == 1 else Rendezvous(rank, size, shared, seconds, TIMEOUT).store()
        backend = "nccl" if cuda else "gloo"
        dist.init_process_group(
            backend, store=HashStore() if _store is None else _store, rank=rank, world_size=size, timeout=TIMEOUT
        )
    return World(rank, size, local_rank, local_size, device)


def device_number(local_rank: int, visible: int, environment: Mapping[str, str]) -> int | None:
    """Which of the `visible` GPUs a rank has; None where there is none for it.

    Under `--gpus-per-task=1` SLURM shows each rank its own GPU alone, as number 0. One GPU on a node that has no more
    for the job looks the same, but is one GPU for all its ranks.
    """
    if local_rank < visible:
        return local_rank
    bound = "SLURM_STEP_ID" in environment and environment.get("CUDA_VISIBLE_DEVICES", "") != ""
    return 0 if visible == 1 and bound and environment.get("SLURM_GPUS_ON_NODE") != "1" else None


def shared_store(name: str) -> Store | None:
    """What ranks exchange outside of collectives, under keys of that name: a connection of its own, since one that
    waits would keep others from it. None for a single rank."""
    if _store is None:
        return None
    connection = TCPStore(_store.host, _store.port, is_master=False, wait_for_workers=False, timeout=TIMEOUT)
    return PrefixStore(name, connection)


def started_collectives() -> int:
    """How many collectives this rank has started, over all process groups."""
    groups: list[Any] = list(dist.distributed_c10d._world.pg_map)
    return sum(group._get_sequence_number_for_group() for group in groups)


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
    if dist.get_world_size() == 1:
        return action()
    outcome: tuple[Value | None, Exception | None] = (None, None)
    if dist.get_rank() == 0:
        try:
            outcome = (action(), None)
        except Exception as error:
            broadcast((None, _portable(error)))
            raise
    value, failure = broadcast(outcome)
    if failure is not None:
        raise failure from RaisedOnMain("on rank 0")
    return cast(Value, value)


def _portable(error: Exception) -> Exception:
    """The error, or its text where pickle cannot carry it: the other ranks would wait for it for ever."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # whatever an exception's own __reduce__ raises
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


def agree(flag: bool, device: torch.device) -> bool:
    """True on all ranks where it is true on any: how a stop request of one becomes a decision of all."""
    if dist.get_world_size() == 1:
        return flag
    votes = torch.tensor([int(flag)], device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def lost_peer(error: BaseException) -> bool:
    """Whether this is what gloo, NCCL or the store raise when another rank is gone: not this rank's own failure."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, dist.DistNetworkError | dist.DistStoreError):
            return True
        if isinstance(cause, RuntimeError) and PEER_IS_GONE.search(str(cause)):
            return True
        cause = cause.__cause__ or cause.__context__
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

"""Rank, world size and address from the environment, for every launcher; the few collectives that a run needs.

Launchers: the deepspeed launcher and torchrun set RANK, WORLD_SIZE and LOCAL_RANK; srun sets SLURM_*; plain `python`
sets nothing and is one process, as is one that was typed into the shell of `salloc` or `srun --pty bash`.

Until all ranks are there each waits in Python, where a signal is heard, and says whom it waits for.
"""

from __future__ import annotations

import datetime
import logging
import os
import pickle
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, TCPStore

from harness import UserError, files

Value = TypeVar("Value")

PEER_IS_GONE = re.compile(  # what gloo, NCCL and the store say
    r"gloo.*(?:by peer|Broken pipe|closed|[Tt]imed out|timeout)|got 0 bytes|ncclRemoteError|ncclSystemError|"
    r"remote process exited",
    re.DOTALL,
)
TIMEOUT = datetime.timedelta(minutes=30)  # of one collective: rank 0 may write a model or wait for wandb meanwhile

MEETING_SECONDS = 300.0  # ranks wait so long for each other; they start within seconds of each other
SILENT_SECONDS = 4.0  # of which they wait so long before they say so

logger = logging.getLogger(__name__)


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


def init(no_cuda: bool = False, shared: Path | None = None) -> World:
    """Join the process group (gloo on CPU, nccl on CUDA), once a process; a single process needs no port.

    `shared`: a folder that all ranks see; where the launcher gave no port, rank 0 tells there where it listens.
    Raises UserError where a rank has no device, or does not hear from rank 0.
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
        _join("nccl" if cuda else "gloo", rank, size, shared)
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


def _join(backend: str, rank: int, size: int, shared: Path | None) -> None:
    if size == 1:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    elif "MASTER_PORT" in os.environ:
        store = _launchers_store(rank, size)
        _wait_for_all(store, rank, size)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    elif shared is None:
        raise UserError("MASTER_PORT: not set by the launcher, and there is no folder in which rank 0 could tell it")
    else:
        place = shared / meeting_file(os.environ)
        store = _listen(place, size) if rank == 0 else _look_for(place, size)
        _wait_for_all(store, rank, size)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        if rank == 0:
            place.unlink(missing_ok=True)  # every rank has joined


def _launchers_store(rank: int, size: int) -> TCPStore:
    """The store at the address that the launcher gave: torchrun's own, else rank 0's."""
    host, port = os.environ.setdefault("MASTER_ADDR", "127.0.0.1"), int(os.environ["MASTER_PORT"])
    if rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        try:
            return TCPStore(host, port, size, is_master=True, timeout=TIMEOUT, wait_for_workers=False)
        except dist.DistNetworkError as error:
            raise UserError(
                f"MASTER_PORT {port}: rank 0 cannot listen there, another run may have it; deepspeed --master_port, "
                "torchrun --master-port or MASTER_PORT names another"
            ) from error

    def answers() -> bool:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return True
        except OSError:
            return False

    _wait(answers, lambda: f"rank 0 at {host} port {port} (has it been started?)")
    return TCPStore(host, port, size, is_master=False, timeout=TIMEOUT, wait_for_workers=False)


def _wait_for_all(store: TCPStore, rank: int, size: int) -> None:
    """Rank 0 sees whether all are there, and lets them go on together."""
    everyone = "all ranks"
    store.set(f"rank {rank}", "")
    if rank > 0:
        _wait(lambda: store.check([everyone]), lambda: "rank 0 to hear of all ranks")
        return

    def missing() -> list[int]:
        return [other for other in range(size) if not store.check([f"rank {other}"])]

    def awaited() -> str:
        numbers = ", ".join(map(str, missing()))
        return f"{len(missing())} of {size} ranks (number {numbers}; have they been started?)"

    _wait(lambda: not missing(), awaited)
    store.set(everyone, "")


def _wait(look: Callable[[], Value], awaited: Callable[[], str]) -> Value:
    """What `look` finds at last. Raises UserError where that takes MEETING_SECONDS."""
    started, told = time.monotonic(), False
    while not (found := look()):
        waited = time.monotonic() - started
        if waited > MEETING_SECONDS:
            raise UserError(f"waited {MEETING_SECONDS:.0f} s for {awaited()}; start all ranks, or run one process")
        if waited > SILENT_SECONDS and not told:
            told = True
            logger.warning("waiting for %s ...", awaited())
        time.sleep(0.1)
    return found


def meeting_file(environment: Mapping[str, str]) -> str:
    """Where rank 0 tells its address: a name that no other job, step or restart of the job has."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return ".".join((".meeting", *(environment.get(name, "0") for name in names), "partial"))


def _listen(place: Path, size: int) -> TCPStore:
    """Rank 0's store, on a port that the system knows to be free; nobody has to guess or to agree on one."""
    one_machine = os.environ.get("SLURM_STEP_NUM_NODES", "1") == "1"
    name = "127.0.0.1" if one_machine else os.environ.get("SLURMD_NODENAME", os.uname().nodename)
    host = os.environ.setdefault("MASTER_ADDR", name)
    store = TCPStore(host, 0, size, is_master=True, timeout=TIMEOUT, wait_for_workers=False)
    os.environ["MASTER_PORT"] = str(store.port)
    try:
        files.write(place, f"{host} {store.port}")
    except OSError as error:
        raise UserError(f"--output_dir {place.parent}: cannot be written ({error.strerror})") from error
    return store


def _look_for(place: Path, size: int) -> TCPStore:
    def address() -> list[str]:
        try:
            os.listdir(place.parent)  # a network file system may else remember for long that the file was not there
            return place.read_text(encoding="utf-8").split()
        except OSError:
            return []

    host, port = _wait(address, lambda: f"rank 0's word in --output_dir {place.parent} (do all nodes see that folder?)")
    os.environ.setdefault("MASTER_ADDR", host)
    os.environ["MASTER_PORT"] = port
    return TCPStore(host, int(port), size, is_master=False, timeout=TIMEOUT, wait_for_workers=False)


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


class RaisedOnMain(Exception):
    """The cause of an error that `on_main` hands to the other ranks: it is rank 0's to report."""


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
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, dist.DistNetworkError | dist.DistStoreError):
            return True
        if isinstance(seen, RuntimeError) and PEER_IS_GONE.search(str(seen)):
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

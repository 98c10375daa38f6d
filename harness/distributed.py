"""Rank and world size from the environment, for every launcher; how ranks meet; the few collectives that a run needs.

Launchers: the deepspeed launcher and torchrun set RANK, WORLD_SIZE and LOCAL_RANK; srun sets SLURM_*; plain `python`
sets nothing and is one process, as is one that was typed into the shell of `salloc` or `srun --pty bash`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import pickle
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from harness import device as device_of_process
from harness import files
from harness.errors import UserError, causes

Value = TypeVar("Value")

PEER_IS_GONE = re.compile(  # what gloo, NCCL and the store say
    r"gloo.*(?:by peer|Broken pipe|closed|[Tt]imed out|timeout)|got 0 bytes|ncclRemoteError|ncclSystemError|"
    r"remote process exited",
    re.DOTALL,
)
TIMEOUT = datetime.timedelta(minutes=30)  # of one collective: rank 0 may write a model or wait for wandb meanwhile
MEETING_SECONDS = 60.0  # ranks wait so long for each other; they start within seconds of each other
WARN_SECONDS = 4.0  # ranks wait so long before the log says so
ANOTHER_PORT = "deepspeed --master_port, torchrun --master-port or MASTER_PORT names another"

logger = logging.getLogger(__name__)

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


def init(
    no_cuda: bool = False, shared: Path | None = None, seconds: float = MEETING_SECONDS, tf32: bool = False
) -> World:
    """Join the process group (gloo on CPU, nccl on CUDA), once a process; a single process needs no port.

    `shared`: a folder that all ranks see; where the launcher gave no port, rank 0 writes its address there.
    Raises UserError where a rank has no device, or the ranks have not met in `seconds`.
    """
    rank, size, local_rank, local_size = from_environment(os.environ)
    device = device_of_process.set_up(no_cuda, tf32, local_rank)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))
    # The variables that DeepSpeed and torch read themselves; DeepSpeed takes LOCAL_RANK for the device's number. Set
    # whatever was there: one that a shell has left over would send this process to another rank's GPU.
    number = local_rank if device.index is None else device.index
    names = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": number, "LOCAL_WORLD_SIZE": local_size}
    os.environ.update({name: str(value) for name, value in names.items()})
    if not dist.is_initialized():
        global _store
        _store = None if size == 1 else Rendezvous(rank, size, shared, seconds).store()
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=HashStore() if _store is None else _store, rank=rank, world_size=size, timeout=TIMEOUT
        )
    return World(rank, size, local_rank, local_size, device)


class RaisedOnMain(Exception):
    """The cause of an error that all ranks have alike: it is rank 0's to report."""


@dataclass(frozen=True)
class Rendezvous:
    """One rank's way to the others. `shared`: the run folder, which all ranks must see.

    Until all are there each rank waits in Python, where a signal is heard, says whom it waits for, and gives up after
    `seconds` in one line that names the ranks, host, port or folder: a UserError, of all methods. torch alone would
    wait in silence for half an hour.
    """

    rank: int
    size: int
    shared: Path | None
    seconds: float

    def store(self) -> TCPStore:
        """The store that all ranks share, once all are there and see the run folder."""
        place = None
        if "MASTER_PORT" not in os.environ:
            if self.shared is None:
                raise UserError("MASTER_PORT: not set by the launcher, and no folder where rank 0 could write its own")
            place = self.shared / meeting_file(os.environ)
        store = self.connect(place)
        try:
            self.wait_for_all(store, place)
        finally:
            if self.rank == 0 and place is not None:
                place.unlink(missing_ok=True)
        store.set_timeout(TIMEOUT)
        return store

    def connect(self, place: Path | None = None) -> TCPStore:
        """torchrun's store, else rank 0's, at the address that the launcher gave.

        `place`: a file for the address where it gave none: rank 0 takes a port that the system knows to be free.
        """
        if self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return self._listen(place)
        if place is not None:

            def address() -> list[str]:
                with contextlib.suppress(OSError):
                    os.listdir(place.parent)  # a network file system may remember for long that the file was not there
                    return place.read_text(encoding="utf-8").split()
                return []

            where = f"rank 0's address in --output_dir {place.parent} (do all nodes see that folder?)"
            host, os.environ["MASTER_PORT"] = self._wait(address, lambda: where)
            os.environ.setdefault("MASTER_ADDR", host)
        host, port = os.environ.setdefault("MASTER_ADDR", "127.0.0.1"), int(os.environ["MASTER_PORT"])

        def answers() -> bool:
            with contextlib.suppress(OSError):
                socket.create_connection((host, port), timeout=1).close()
                return True
            return False

        self._wait(answers, lambda: f"rank 0 at {host} port {port} (has it been started?)")
        found: list[TCPStore] = []

        def reach() -> None:
            with contextlib.suppress(dist.DistNetworkError, dist.DistStoreError):
                found.append(self._at(host, port, is_master=False))

        thread = threading.Thread(target=reach, daemon=True)  # torch waits for ever where nothing is answered at all
        thread.start()
        thread.join(self.seconds)
        if not found:
            raise UserError(f"MASTER_PORT {port}: another program answers there on {host}; {ANOTHER_PORT}")
        return found[0]

    def _listen(self, place: Path | None) -> TCPStore:
        one_machine = place is None or os.environ.get("SLURM_STEP_NUM_NODES", "1") == "1"
        name = "127.0.0.1" if one_machine else os.environ.get("SLURMD_NODENAME", os.uname().nodename)
        host, port = os.environ.setdefault("MASTER_ADDR", name), int(os.environ["MASTER_PORT"]) if place is None else 0
        try:
            store = self._at(host, port, is_master=True)
        except dist.DistNetworkError as error:
            raise UserError(
                f"MASTER_PORT {port}: rank 0 cannot listen there on {host}, another run may have it; {ANOTHER_PORT}"
            ) from error
        if place is not None:
            os.environ["MASTER_PORT"] = str(store.port)
            try:
                files.write(place, f"{host} {store.port}")
            except OSError as error:
                raise files.not_writable(place.parent, error) from error
        return store

    def wait_for_all(self, store: TCPStore, place: Path | None = None) -> None:
        """Until all ranks are there with the same command and have seen a file that rank 0 leaves in the run folder.

        Nobody trains for an epoch first. `place`: as for `connect`.
        """
        # The store of torchrun outlives a start of the ranks.
        start = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        here, folder = os.uname().nodename, None if self.shared is None else str(self.shared)
        file = self._leave_file(self.shared) if self.rank == 0 and self.shared is not None else None
        try:
            if self.rank == 0:
                start.set("command", json.dumps([self.size, folder, here, file and file.name]))
            self._wait(lambda: start.check(["command"]), lambda: "rank 0 to say what it runs")
            size, theirs, host, name = json.loads(start.get("command"))
            if (size, theirs) != (self.size, folder):
                self._refuse(f"{size} ranks, here {self.size}" if size != self.size
                             else f"--output_dir {theirs}, here {folder}")  # fmt: skip
            hint = "" if place is None else f", and do they see {place.parent}"
            self._gather(start, "rank", "", f"have they been started{hint}?")
            if folder is None:
                return
            until = time.monotonic() + self.seconds / 2  # so that all hear of it in time
            # Listed: a network file system may remember that it was not there.
            while not (sees := _lists(folder, name)) and time.monotonic() < until:
                time.sleep(0.1)
            blind = self._gather(start, "sees", "" if sees else f"rank {self.rank} on {here}", f"do they see {folder}?")
        finally:
            if file is not None:
                file.unlink(missing_ok=True)
        if any(blind):
            alike = UserError(
                f"--output_dir {folder}: {next(filter(None, blind))} does not see what rank 0 writes there on {host}; "
                "name a folder that all nodes share"
            )
            if self.rank > 0:
                raise alike from RaisedOnMain("on rank 0")
            time.sleep(1)  # so that the others read it: the store ends with this process
            raise alike

    def _leave_file(self, folder: Path) -> Path:
        here = os.uname().nodename
        file = folder / f".meeting.{here}.{os.getpid()}.partial"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f".meeting.{here}.*.partial"):
                number = left.name.removesuffix(".partial").rpartition(".")[2]
                if left == file or not Path(f"/proc/{number}").exists():  # of a start that was killed here
                    left.unlink(missing_ok=True)
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise files.not_writable(folder, error) from error
        return file

    def _refuse(self, differs: str) -> NoReturn:
        where = f"{os.environ.get('MASTER_ADDR')} port {os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"MASTER_PORT: rank 0 at {where} runs another command ({differs}); give each run a port of its own, and "
            "all its ranks the same command"
        )

    def _gather(self, store: Store, what: str, mine: str, question: str) -> list[str]:
        """Each rank's text under that name, once all have set theirs."""
        keys = [f"{what} {rank}" for rank in range(self.size)]
        store.set(keys[self.rank], mine)

        def awaited() -> str:
            missing = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
            return f"{len(missing)} of {self.size} ranks (number {', '.join(missing)}; {question})"

        self._wait(lambda: store.check(keys), awaited)
        return [store.get(key).decode() for key in keys]

    def _at(self, host: str, port: int, is_master: bool) -> TCPStore:
        limit = datetime.timedelta(seconds=self.seconds)
        return TCPStore(host, port, self.size, is_master=is_master, timeout=limit, wait_for_workers=False)

    def _wait(self, look: Callable[[], Value], awaited: Callable[[], str]) -> Value:
        """What `look` finds at last."""
        started, warned = time.monotonic(), False
        while True:
            try:
                if found := look():
                    return found
                waited = time.monotonic() - started
                if waited > self.seconds:
                    raise UserError(
                        f"waited {self.seconds:.0f} s for {awaited()}; start all ranks, or run one process "
                        "(--rendezvous_seconds waits longer)"
                    )
                if waited > WARN_SECONDS and not warned:
                    warned = True
                    logger.warning("waiting for %s ...", awaited())
            except dist.DistNetworkError as error:
                raise UserError("rank 0 has left before all ranks had met; what it says tells why") from error
            time.sleep(0.1)


def meeting_file(environment: Mapping[str, str]) -> str:
    """Where rank 0 writes its address: a name that no other job, step or restart of the job has."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return ".".join((".meeting", *(environment.get(name, "0") for name in names), "partial"))


def _lists(folder: str, name: str) -> bool:
    try:
        return name in os.listdir(folder)
    except OSError:
        return False


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


def feed_main(items: Iterator[Any], action: Callable[[], Value]) -> Value:
    """`on_main` of an action that takes from `items`, which all ranks make together; the others drop theirs."""
    value: Value | None = None
    failure: Exception | None = None
    if dist.get_rank() == 0:
        try:
            value = action()
        except Exception as error:
            failure = error
    for _ in items:  # also where rank 0 has failed: the others are at it
        pass

    def outcome() -> Value:
        if failure is not None:
            raise failure
        return cast(Value, value)

    return on_main(outcome)


def on_each(action: Callable[[], Value]) -> list[Value]:
    """Every rank acts; all get each one's value, in order of rank, or raise what the first that failed raised."""
    value: Value | None = None
    failure: Exception | None = None
    try:
        value = action()
    except Exception as error:
        failure = error
    outcomes = gather((value, None if failure is None else _portable(failure)))
    for rank, (_, found) in enumerate(outcomes):
        if found is not None and rank == dist.get_rank():
            assert failure is not None
            raise failure
        if found is not None:
            raise found from RaisedOnMain(f"on rank {rank}")
    return [cast(Value, each) for each, _ in outcomes]


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
    return largest(float(flag), device) > 0


def largest(number: float, device: torch.device) -> float:
    """The largest of the ranks' numbers, in float32. Collective; waits for the device."""
    if dist.get_world_size() == 1:
        return number
    numbers = torch.tensor([number], dtype=torch.float32, device=device)
    dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
    return float(numbers.item())


def lost_peer(error: BaseException) -> bool:
    """Whether this is what gloo, NCCL or the store raise when another rank is gone: not this rank's own failure."""
    return any(
        isinstance(cause, dist.DistNetworkError | dist.DistStoreError)
        or (isinstance(cause, RuntimeError) and PEER_IS_GONE.search(str(cause)) is not None)
        for cause in causes(error)
    )


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

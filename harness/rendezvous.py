"""How the ranks of a run meet: where rank 0 listens, who is missing, and whether all see the run folder.

Until all ranks are there each waits in Python, where a signal is heard, says whom it waits for, and gives up in one
line that names the ranks, host, port or folder. torch alone would wait in silence for half an hour.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from harness import files
from harness.errors import UserError

Value = TypeVar("Value")

WARN_SECONDS = 4.0  # ranks wait so long before the log says so
EVERYONE, COMMAND, TOKEN, UNSHARED = "all ranks", "command", "token", "unshared"  # keys in rank 0's store

logger = logging.getLogger(__name__)


class RaisedOnMain(Exception):
    """The cause of an error that all ranks have alike: it is rank 0's to report."""


@dataclass(frozen=True)
class Rendezvous:
    """One rank's way to the others. `shared`: the run folder, which all ranks must see.

    `seconds`: how long ranks wait for each other. All methods raise UserError where that is not enough.
    """

    rank: int
    size: int
    shared: Path | None
    seconds: float
    timeout: datetime.timedelta  # of the store once all are there

    def store(self) -> TCPStore:
        """The store that all ranks share, once all are there and see the run folder."""
        if "MASTER_PORT" in os.environ:
            store, place = self.launchers_store(), None
        elif self.shared is None:
            raise UserError("MASTER_PORT: not set by the launcher, and no folder where rank 0 could write its own")
        else:
            place = self.shared / meeting_file(os.environ)
            store = self.listen(place) if self.rank == 0 else self.look_for(place)
        try:
            self.wait_for_all(store)
            if self.shared is not None:
                self.check_shared(store, self.shared)
        finally:
            if self.rank == 0 and place is not None:
                place.unlink(missing_ok=True)
        store.set_timeout(self.timeout)
        return store

    def launchers_store(self) -> TCPStore:
        """The store at the address that the launcher gave: torchrun's own, else rank 0's."""
        host, port = os.environ.setdefault("MASTER_ADDR", "127.0.0.1"), int(os.environ["MASTER_PORT"])
        another = "deepspeed --master_port, torchrun --master-port or MASTER_PORT names another"
        if self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            try:
                return TCPStore(host, port, self.size, is_master=True, timeout=self._limit, wait_for_workers=False)
            except dist.DistNetworkError as error:
                raise UserError(
                    f"MASTER_PORT {port}: rank 0 cannot listen there on {host}, another run may have it; {another}"
                ) from error

        def answers() -> bool:
            try:
                socket.create_connection((host, port), timeout=1).close()
                return True
            except OSError:
                return False

        self._wait(answers, lambda: f"rank 0 at {host} port {port} (has it been started?)")
        store = self._connect(host, port)
        if store is None:
            raise UserError(f"MASTER_PORT {port}: another program answers there on {host}; {another}")
        return store

    def wait_for_all(self, store: TCPStore) -> None:
        """Rank 0 sees whether all are there, and lets them go on together."""
        # The store of torchrun outlives a start of the ranks.
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        everyone, command = f"{start} {EVERYONE}", f"{start} {COMMAND}"
        ours = json.dumps([self.size, None if self.shared is None else str(self.shared)])
        if self.rank == 0:
            store.set(command, ours)
        else:
            self._wait(lambda: store.check([command]), lambda: "rank 0 to say what it runs")
            self._check_command(store.get(command).decode(), ours)
        store.set(f"{start} rank {self.rank}", "")
        if self.rank > 0:
            self._wait(lambda: store.check([everyone]), lambda: "rank 0 to hear of all ranks")
            return

        def missing() -> list[int]:
            return [other for other in range(self.size) if not store.check([f"{start} rank {other}"])]

        def awaited() -> str:
            numbers = ", ".join(map(str, missing()))
            return f"{len(missing())} of {self.size} ranks (number {numbers}; have they been started?)"

        self._wait(lambda: not missing(), awaited)
        store.set(everyone, "")

    def _check_command(self, theirs: str, ours: str) -> None:
        if theirs == ours:
            return
        where = f"{os.environ.get('MASTER_ADDR')} port {os.environ.get('MASTER_PORT')}"
        (size, folder), (our_size, our_folder) = json.loads(theirs), json.loads(ours)
        differs = f"{size} ranks, here {our_size}" if size != our_size else f"--output_dir {folder}, here {our_folder}"
        raise UserError(
            f"MASTER_PORT: rank 0 at {where} runs another command ({differs}); give each run a port of its own, and "
            "all its ranks the same command"
        )

    def check_shared(self, store: TCPStore, folder: Path) -> None:
        """Rank 0 leaves a file in the run folder, and the others look for it. Nobody trains for an epoch first."""
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        token, unshared = f"{start} {TOKEN}", f"{start} {UNSHARED}"
        here = os.uname().nodename
        if self.rank == 0:
            file = folder / f".meeting.{here}.{os.getpid()}.partial"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for left in folder.glob(f".meeting.{here}.*.partial"):
                    number = left.name.removesuffix(".partial").rpartition(".")[2]
                    if left == file or not Path(f"/proc/{number}").exists():  # of a start that was killed here
                        left.unlink(missing_ok=True)
                os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            except OSError as error:
                raise _not_writable(folder, error) from error
            store.set(token, json.dumps([here, file.name]))
        self._wait(lambda: store.check([token]), lambda: "rank 0 to write into the run folder")
        host, name = json.loads(store.get(token))

        def visible() -> bool:
            try:
                return name in os.listdir(folder)  # listed: a network file system may remember that it was not there
            except OSError:
                return False

        def seen_by_all() -> bool:
            return all(store.check([f"{start} sees {other}"]) for other in range(self.size))

        until = time.monotonic() + self.seconds / 2  # so that all hear of it in time
        while not visible() and time.monotonic() < until and not store.check([unshared]):
            time.sleep(0.1)
        if visible():
            store.set(f"{start} sees {self.rank}", "")
        else:
            store.set(unshared, f"rank {self.rank} on {here}")
        self._wait(lambda: store.check([unshared]) or seen_by_all(), lambda: f"all ranks to look at {folder}")
        if self.rank == 0:
            file.unlink(missing_ok=True)
        if store.check([unshared]):
            alike = UserError(
                f"--output_dir {folder}: {store.get(unshared).decode()} does not see what rank 0 writes there on "
                f"{host}; name a folder that all nodes share"
            )
            if self.rank > 0:
                raise alike from RaisedOnMain("on rank 0")
            time.sleep(1)  # so that the others read it: the store ends with this process
            raise alike

    def listen(self, place: Path) -> TCPStore:
        """Rank 0's store, on a port that the system knows to be free; nobody has to guess or to agree on one."""
        one_machine = os.environ.get("SLURM_STEP_NUM_NODES", "1") == "1"
        name = "127.0.0.1" if one_machine else os.environ.get("SLURMD_NODENAME", os.uname().nodename)
        host = os.environ.setdefault("MASTER_ADDR", name)
        store = TCPStore(host, 0, self.size, is_master=True, timeout=self._limit, wait_for_workers=False)
        os.environ["MASTER_PORT"] = str(store.port)
        try:
            files.write(place, f"{host} {store.port}")
        except OSError as error:
            raise _not_writable(place.parent, error) from error
        return store

    def look_for(self, place: Path) -> TCPStore:
        """The store at the address that rank 0 wrote down."""

        def address() -> list[str]:
            try:
                os.listdir(place.parent)  # a network file system may remember for long that the file was not there
                return place.read_text(encoding="utf-8").split()
            except OSError:
                return []

        where = f"rank 0's address in --output_dir {place.parent}"
        host, port = self._wait(address, lambda: f"{where} (do all nodes see that folder?)")
        os.environ.setdefault("MASTER_ADDR", host)
        os.environ["MASTER_PORT"] = port
        store = self._connect(host, int(port))
        if store is None:
            raise UserError(f"rank 0 at {host} port {port} cannot be reached from {os.uname().nodename}")
        return store

    def _connect(self, host: str, port: int) -> TCPStore | None:
        """None where no store answers there. In a thread: torch waits for ever where nothing is answered at all."""
        found: list[TCPStore] = []

        def connect() -> None:
            with contextlib.suppress(dist.DistNetworkError, dist.DistStoreError):
                found.append(
                    TCPStore(host, port, self.size, is_master=False, timeout=self._limit, wait_for_workers=False)
                )

        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        thread.join(self.seconds)
        return found[0] if found else None

    @property
    def _limit(self) -> datetime.timedelta:
        return datetime.timedelta(seconds=self.seconds)

    def _wait(self, look: Callable[[], Value], awaited: Callable[[], str]) -> Value:
        """What `look` finds at last."""
        started, warned = time.monotonic(), False
        while True:
            try:
                found = look()
            except dist.DistNetworkError as error:
                raise UserError("rank 0 has left before all ranks had met; what it says tells why") from error
            if found:
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
            time.sleep(0.1)


def meeting_file(environment: Mapping[str, str]) -> str:
    """Where rank 0 writes its address: a name that no other job, step or restart of the job has."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return ".".join((".meeting", *(environment.get(name, "0") for name in names), "partial"))


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(f"--output_dir {folder}: cannot be written ({error.strerror}); name another folder")

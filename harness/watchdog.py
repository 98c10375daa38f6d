"""Ends a run on all ranks where one of them stands still, and says which one, where, and in which phase.

Two things are watched. A thread of each rank sends a heartbeat once a second: a process that was stopped, or whose
machine froze, sends none. The thread that works says by `beat` that it advances: one that waits for ever does not. Who
waits for another rank does not advance either: the rank that has started the fewest collectives keeps the others
waiting.

Time is counted in turns of the watching thread, not by the clock: a job that is suspended as a whole (by SLURM, Ctrl-Z,
a closed lid) does not age.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from threading import Event, Thread, current_thread
from time import monotonic

from torch._C._distributed_c10d import Store

from harness.distributed import World, shared_store, started_collectives

TURN_SECONDS = 1.0
TEN_STEPS = 10.0  # so many median steps are no alarm, however long a step takes
FIRST_STEPS = 3  # in which kernels are compiled and tuned, memory is claimed, files are read for the first time
# Minutes that the working thread may take without a beat, where the phase has no steps by which to know what is usual.
# Its process must send heartbeats all the same.
PATIENCE = {"loading": 30.0, "tokenising": 30.0, "first steps": 30.0, "compiling": 30.0, "saving": 10.0}
WORKING = ("training", "evaluation")  # phases with beats at short intervals


@dataclass(frozen=True)
class Heartbeat:
    """What a rank sends of itself."""

    turn: int  # of its watching thread
    phase: str
    idle: float  # seconds since its working thread's last beat
    limit: float  # seconds that are allowed there
    silence: float  # seconds without a heartbeat that are allowed
    collectives: int  # started so far


@dataclass(frozen=True)
class Stuck:
    """What was found. `answers`: its process runs, but the thread that works does not advance."""

    ranks: tuple[int, ...]
    phase: str
    seconds: float
    answers: bool


def judge(heartbeats: Mapping[int, Heartbeat], silent: Mapping[int, float], patience: float) -> Stuck | None:
    """Which rank keeps the others waiting for too long. `silent`: seconds since each one's last heartbeat."""
    for rank, seconds in silent.items():
        if seconds > patience:
            phase = heartbeats[rank].phase if rank in heartbeats else "loading"
            return Stuck((rank,), phase, round(seconds, 1), answers=False)
    if not heartbeats:
        return None
    fewest = min(each.collectives for each in heartbeats.values())
    behind = {rank: each for rank, each in heartbeats.items() if each.collectives == fewest}
    if not all(each.idle > each.limit for each in behind.values()):
        return None
    first = behind[min(behind)]
    return Stuck(tuple(sorted(behind)), first.phase, round(first.idle, 1), answers=True)


class Watchdog:
    """Use as `with Watchdog(...):` on all ranks alike, around what may hang; `beat` and `phase` then speak to it."""

    def __init__(
        self, world: World, minutes: float, *, compiles: bool, end: Callable[[Stuck, str, Event], None], token: str = ""
    ) -> None:
        """`minutes`: without a heartbeat, or a beat in training and evaluation, where steps and pauses are shorter.

        `end` gets what was found, this rank's phase, and what is set where the run ends by itself meanwhile; it ends
        the process. `token`: of this start of the run.
        """
        self.rank, self.size, self.base, self.compiles = world.rank, world.size, 60.0 * minutes, compiles
        self._end, self._token = end, token
        self.phase = "loading"
        self._beats = 0  # of the working thread, which alone writes this
        self.steps = 0  # beats in this phase
        self._gaps: deque[float] = deque(maxlen=101)  # seconds between beats in training
        self._longest = 0.0  # pause that ended well
        self._last = monotonic()
        self._turn, self._counted, self._idle = 0, 0, 0.0  # of the watching thread; beats until its last turn
        self._pausing = False  # whether a pause is one that tells what is usual
        self._heartbeats = {self.rank: Heartbeat(0, self.phase, 0.0, self.base, self.base, 0)}
        self._silent: dict[int, float] = {}
        self._verdict: Stuck | None = None
        self._done, self._phase_changed = Event(), Event()
        self._thread = Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> Watchdog:
        global _current
        _current = self
        if self.base > 0:
            self._thread.start()
            if self.size > 1 and (store := shared_store(self._token)) is not None:
                Thread(target=self._exchange, args=(store,), daemon=True, name="watchdog-exchange").start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From here on nothing is watched."""
        global _current
        self._done.set()
        self._phase_changed.set()
        if _current is self:
            _current = None
        if self._thread.is_alive() and self._thread is not current_thread():
            self._thread.join(TURN_SECONDS)

    # ---- the thread that works
    def beat(self) -> None:
        """It advances."""
        now = monotonic()
        gap, self._last = now - self._last, now
        if self.steps > FIRST_STEPS and self.phase == "training":
            self._gaps.append(gap)
        self._beats += 1
        self.steps += 1

    def enter(self, name: str) -> None:
        """Another phase begins."""
        self.beat()
        self.phase, self.steps = name, FIRST_STEPS + 1 if name == "evaluation" and self._gaps else 0
        self._phase_changed.set()

    # ---- the threads that watch it
    def limits(self) -> tuple[float, float]:
        """Seconds that a rank may take for a beat in this phase, and between two heartbeats."""
        usual = TEN_STEPS * statistics.median(self._gaps) if self._gaps else 0.0
        silence = max(self.base, usual, self._longest)
        phase = self.phase if self.phase not in WORKING or self.steps > FIRST_STEPS else "first steps"
        if phase in WORKING and self.compiles:  # for each new shape
            phase = "compiling"
        return max(silence, 60.0 * PATIENCE.get(phase, 0.0)), silence

    def _watch(self) -> None:
        before = monotonic()
        while not self._done.wait(TURN_SECONDS):
            now = monotonic()
            passed, before = min(now - before, 2 * TURN_SECONDS), now  # more: this process was stopped, too
            if (found := self.turn(passed)) is not None:
                self._verdict = found  # rank 0 lets the others know, while the store is there
                self._end(found, self.phase, self._done)
                return

    def turn(self, seconds: float) -> Stuck | None:
        """Look around; `seconds` have passed since the last time."""
        if self._beats != self._counted:
            if self._pausing:
                self._longest = max(self._longest, self._idle)
            self._counted, self._idle = self._beats, 0.0
        else:
            self._idle += seconds
        self._pausing = self.phase == "saving" or (self.phase in WORKING and self.steps > FIRST_STEPS)
        limit, silence = self.limits()
        self._turn += 1
        self._heartbeats[self.rank] = Heartbeat(
            self._turn, self.phase, round(self._idle, 1), limit, silence, started_collectives()
        )
        for rank in range(self.size) if self.rank == 0 else (0,):
            self._silent[rank] = 0.0 if rank == self.rank else self._silent.get(rank, 0.0) + seconds
        if self._verdict is not None or self.rank == 0:
            return self._verdict or judge(self._heartbeats, self._silent, silence)
        found = judge({}, self._silent, silence)  # each other rank sees rank 0 alone, which sees all
        if found is not None and 0 in self._heartbeats:
            found = dataclasses.replace(found, phase=self._heartbeats[0].phase)
        return found

    def _exchange(self, store: Store) -> None:
        """Send one's own heartbeat and read the others'. In a thread of its own, since the store may not answer: it
        blocks for ever where rank 0's process is stopped."""
        while not self._done.is_set():
            self._phase_changed.wait(TURN_SECONDS)
            self._phase_changed.clear()
            try:
                if self._verdict is not None and self.rank == 0:
                    store.set("watchdog found", json.dumps(asdict(self._verdict)))
                mine = dataclasses.replace(self._heartbeats[self.rank], phase=self.phase)
                store.set(f"watchdog {self.rank}", json.dumps(asdict(mine)))
                for rank in range(self.size) if self.rank == 0 else (0,):
                    if rank != self.rank and store.check([f"watchdog {rank}"]):
                        received = Heartbeat(**json.loads(store.get(f"watchdog {rank}")))
                        if rank not in self._heartbeats or self._heartbeats[rank].turn != received.turn:
                            self._silent[rank] = 0.0
                        self._heartbeats[rank] = received
                if self.rank != 0 and store.check(["watchdog found"]):
                    verdict = json.loads(store.get("watchdog found"))
                    self._verdict = Stuck(**verdict | {"ranks": tuple(verdict["ranks"])})
                    return
            except (RuntimeError, KeyError, ValueError, TypeError):  # rank 0 has left, or is being torn down
                continue


_current: Watchdog | None = None


def beat() -> None:
    """Called by the thread that works, wherever it has advanced: a step, a batch, a file."""
    if _current is not None:
        _current.beat()


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """What the thread that works does meanwhile: one of WORKING or PATIENCE."""
    watched = _current
    if watched is None:
        yield
        return
    before, steps = watched.phase, watched.steps
    watched.enter(name)
    try:
        yield
    finally:
        watched.enter(before)
        watched.steps = max(steps, watched.steps)  # it goes on where it was

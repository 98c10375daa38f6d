"""launch/train.py with a fault in it: what rank `FAULT_RANK` (or `all`) does at its third optimizer step.

FAULT=crash FAULT_RANK=1 torchrun --nproc_per_node 2 tests/crashing.py --task mednli
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from harness.errors import UserError

STEP = 3


class Unpicklable(Exception):
    """As some libraries' own: holds what pickle cannot carry."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


def crash() -> None:
    raise ValueError("an operand was wrong")


def memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def mistake() -> None:
    raise UserError("data.tsv:3: no label; put one there")


def vanish() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(600)


FAULTS: dict[str, Callable[[], None]] = {f.__name__: f for f in (crash, memory, mistake, vanish, hang)}


def prepare(rank: int, faults: dict[int, str], **settings: float) -> None:
    """Put a fault into the engine of this rank: {rank: name}. `settings`: constants of launch/run/failures.py."""
    from harness.ds.engine import Engine
    from launch.run import failures, result

    for name, value in settings.items():
        setattr(failures, name, value)
    if faults.get(rank) == "unpicklable":

        def finish(*parts: Any) -> None:
            raise Unpicklable("no such luck")

        result.finish = finish  # type: ignore[assignment]
    elif rank in faults:
        original, steps = Engine.micro_step, iter(range(1, 1_000_000))

        def micro_step(self: Engine, *batch: Any) -> torch.Tensor:
            if next(steps) == STEP:
                FAULTS[faults[rank]]()
            return original(self, *batch)

        Engine.micro_step = micro_step  # type: ignore[method-assign]


if __name__ == "__main__":
    from harness import distributed
    from launch import train

    own = distributed.from_environment(os.environ)[0]
    prepare(own, {own: os.environ["FAULT"]} if os.environ["FAULT_RANK"] in (str(own), "all") else {})
    distributed.leave(train.main(sys.argv[1:]))

"""Runs on two ranks, of which one stands still in a phase; what became of them, as JSON, for test_watchdog.py.

python tests/freezes.py FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from running import arguments

SECONDS = 6.0  # of --watchdog_minutes
SCENARIOS = {  # phase or fault: (the rank, where, at which call)
    "loading": (0, "harness.model.build", 1),
    "training": (1, "harness.ds.engine.Engine.micro_step", 6),
    "evaluation": (0, "harness.evaluate.collate", 2),
    "saving": (1, "harness.ds.engine.Engine.save", 1),
    "hang": (1, "harness.ds.engine.Engine.micro_step", 6),
}


def stop() -> None:
    time.sleep(1.5)  # a run this small is in another phase each moment, and ranks tell theirs every second
    os.kill(os.getpid(), signal.SIGSTOP)


def hang() -> None:
    time.sleep(600)


def before(path: str, action: Callable[[int], None]) -> None:
    """Call `action` with the number of the call, from 1 on, before each one of a function or method."""
    place, _, name = path.rpartition(".")
    modules = [module for key, module in sys.modules.items() if key == place]
    owner = modules[0] if modules else getattr(sys.modules[place.rpartition(".")[0]], place.rpartition(".")[2])
    original, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def acted(*args: Any, **more: Any) -> Any:
        action(next(calls))
        return original(*args, **more)

    setattr(owner, name, acted)


def freeze(rank: int, name: str) -> None:
    """In a rank, before its run."""
    whose, path, number = SCENARIOS[name]
    if rank == whose:
        before(path, lambda call: (hang if name == "hang" else stop)() if call == number else None)


def dawdle(rank: int) -> None:
    """Slow, but healthy: an evaluation as long as many steps, a slow disk, and wandb's upload on rank 0."""
    before("harness.evaluate.collate", lambda call: time.sleep(0.5))
    before("harness.ds.engine.Engine.save", lambda call: time.sleep(2 * SECONDS if rank == call % 2 else 0))
    before("harness.tracking.Tracker.close", lambda call: time.sleep(2 * SECONDS if rank == 0 else 0))


def watched(folder: Path, model: Path, name: str) -> list[str]:
    return arguments("biosses", model, folder / name, "--max_steps", "12", "--per_gpu_train_batch_size", "4",
                     "--per_gpu_eval_batch_size", "1", "--save_steps", "6", "--watchdog_minutes", str(SECONDS / 60),
                     "--logging_steps", "1")  # fmt: skip


def main(place: Path) -> None:
    import forked  # not where tests import this file: nothing may run beside it
    from encoders import tiny_encoder

    model = tiny_encoder(place / "model")
    seen: dict[str, Any] = {}
    for name, (rank, _, _) in SCENARIOS.items():
        line, screen = watched(place, model, name), place / f"{name}.screen"
        ranks = forked.start(line, 2, screen, prepare=partial(freeze, name=name))
        statuses = dict(ranks.wait(60))
        seen[name] = {
            "statuses": [statuses[rank], statuses[1 - rank]],  # the faulty one's first
            "apart": max(ranks.ended.values()) - min(ranks.ended.values()),
            "screen": screen.read_text(),
            "log": (place / name / "train.log").read_text(),
            "who": f"rank {rank} (process {ranks.processes[rank]} on {os.uname().nodename})",
            "other": f"rank {1 - rank} (process {ranks.processes[1 - rank]} on {os.uname().nodename})",
        }
        if name == "saving":
            again = forked.start(line, 2, place / f"{name}.again")
            seen[name]["again"] = [again.wait()[rank] for rank in (0, 1)]
    ranks = forked.start(watched(place, model, "healthy"), 2, place / "healthy.screen", prepare=dawdle)
    while ranks.running() and not list((place / "healthy").glob("checkpoints/step-*")):
        time.sleep(0.05)
    ranks.signal(signal.SIGSTOP)  # as SLURM suspends a job
    time.sleep(2 * SECONDS)
    ranks.signal(signal.SIGCONT)
    statuses = dict(ranks.wait())
    seen["healthy"] = {"statuses": [statuses[0], statuses[1]], "screen": (place / "healthy.screen").read_text()}
    (place / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A training run's state on disk: complete or invisible, and the same on all ranks.

`checkpoints/step-<n>/` holds DeepSpeed's files (weights, optimizer, loss scale, schedule), one rng file a rank, and
state.json. It is written under another name and renamed when whole; state.json lists every file with its size, so that
a torn copy is noticed and passed over.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from harness import UserError
from harness.distributed import World, barrier, broadcast

logger = logging.getLogger(__name__)

STATE = "state.json"


class Savable(Protocol):
    """What holds the tensors: `harness.engine.Engine`."""

    def save(self, folder: Path) -> None:
        """Write into `folder`. Collective."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Collective."""


@dataclass
class TrainState:
    """Everything that must survive a restart and is in no tensor."""

    epoch: int = 0  # epochs finished, their evaluation included
    step_in_epoch: int = 0  # optimizer steps tried in the current epoch: the place in the data
    losses: list[float] = field(default_factory=list)  # mean loss of each of those steps
    window: int = 0  # how many of them the last row of train figures already covers
    applied_steps: int = 0  # optimizer steps that changed the weights
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry a finished epoch
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0

    def best_epoch(self) -> int | None:
        """The epoch (from 1) with the highest dev score, the earliest of equals; None without dev scores."""
        scored = [entry for entry in self.history if "dev" in entry]
        return max(scored, key=lambda entry: (entry["dev"]["score"], -entry["epoch"]))["epoch"] if scored else None


def save(root: Path, engine: Savable, state: TrainState, world: World, keep: int) -> None:
    """Write a checkpoint and prune older ones. Collective.

    A place that is saved already is left as it is: the run is deterministic, and replacing it would leave a moment
    without a checkpoint.
    """
    name = f"step-{state.epoch:04d}-{state.step_in_epoch:06d}"
    aside = root / f".{name}.partial"
    if broadcast(_whole(root / name) is not None if world.is_main else None):
        return
    if world.is_main:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    barrier()
    engine.save(aside)
    torch.save(_random_states(), aside / f"rng-{world.rank}.pt")
    barrier()
    if world.is_main:
        files = {str(p.relative_to(aside)): p.stat().st_size for p in sorted(aside.rglob("*")) if p.is_file()}
        content = {"state": dataclasses.asdict(state), "world": world.size, "files": files}
        with open(aside / STATE, "w", encoding="utf-8") as handle:
            json.dump(content, handle)
            handle.flush()
            os.fsync(handle.fileno())
        shutil.rmtree(root / name, ignore_errors=True)  # a torn one, or it would have been kept above
        os.replace(aside, root / name)
        prune(root, keep)
    barrier()


def restore(root: Path, engine: Savable, world: World) -> TrainState:
    """The newest complete checkpoint into the engine, or a fresh state. Collective; rank 0 chooses for all."""
    found: tuple[Path, dict[str, Any]] | None = broadcast(newest(root) if world.is_main else None)
    if found is None:
        return TrainState()
    folder, content = found
    if content["world"] != world.size:
        raise UserError(
            f"{folder}: written by {content['world']} processes, this run has {world.size}; start it with "
            f"{content['world']}, or name another --output_dir"
        )
    engine.load(folder)
    _set_random_states(torch.load(folder / f"rng-{world.rank}.pt", weights_only=True))
    return TrainState(**content["state"])


def newest(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """(folder, state.json) of the newest checkpoint whose files are all there in full."""
    for folder in sorted(root.glob("step-*"), reverse=True):
        content = _whole(folder)
        if content is not None:
            return folder, content
        logger.warning("%s is not complete and is passed over.", folder)
    return None


def _whole(folder: Path) -> dict[str, Any] | None:
    """state.json of a checkpoint whose files are all there in full, else None."""
    try:
        content: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in content["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if whole else None


def prune(root: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what a killed save left behind."""
    for folder in sorted(root.glob("step-*"), reverse=True)[keep:] + list(root.glob(".step-*.partial")):
        shutil.rmtree(folder, ignore_errors=True)


def _random_states() -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, numbers, spare = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ),
        "python": (version, list(numbers), spare),
    }


def _set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, numbers, spare = states["python"]
    random.setstate((version, tuple(numbers), spare))

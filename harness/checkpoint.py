"""A training run's state on disk: complete or invisible, and the same on all ranks.

`checkpoints/step-<epoch>-<step>/` holds the engine's files (float32 weights, moments, loss scale, schedule; under ZeRO
each rank's part, which any number of ranks reads at any ZeRO stage), one rng file a rank, and state.json. It is written
under another name and renamed when whole and on the disk; state.json lists every file with its size and digest, and has
a digest itself, so that a torn or changed copy is noticed and skipped, and says to which model it belongs.

`checkpoints/best-<digest>.safetensors` holds the weights of the best epoch so far where those are to be reported. A
state names them by their digest, so that they belong to the scores in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import tensor_file, watchdog
from harness.distributed import World, broadcast, on_each, on_main
from harness.ds.engine import Engine
from harness.errors import UserError
from harness.files import flush, sha256
from harness.run_folder import STATE_FILE, newest_first
from harness.tensor_file import Stream

logger = logging.getLogger(__name__)

TORN = "is not complete"
OF_ANOTHER_MODEL = "is of another model"
DAMAGED = "is damaged ({} changed after it was written)"
# What reading a state.json raises that was cut short, zeroed, or written by something else.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass
class TrainState:
    """Everything that must survive a restart and is in no tensor."""

    epoch: int = 0  # epochs finished, their evaluation included
    step_in_epoch: int = 0  # optimizer steps tried in the current epoch: the place in the data
    losses: list[float] = field(default_factory=list)  # mean loss of each of those steps
    window: int = 0  # how many of them the last row of train metrics already covers
    applied_steps: int = 0  # optimizer steps that changed the weights
    examples_per_step: int = 0  # of all devices together: stays when their number changes
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry a finished epoch
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    best: dict[str, Any] | None = None  # `epoch`, and `sha256` of its weights: what `save_best` gave

    def best_epoch(self) -> int | None:
        """The epoch (from 1) with the highest dev score, the earliest of equals; None without dev scores."""
        scored = [entry for entry in self.history if "dev" in entry]
        return max(scored, key=lambda entry: (entry["dev"]["score"], -entry["epoch"]))["epoch"] if scored else None

    def epochs_without_gain(self) -> int:
        """Epochs since the one with the best dev score; 0 without dev scores."""
        best = self.best_epoch()
        return 0 if best is None else self.history[-1]["epoch"] - best


@watchdog.phase("saving")
def save(root: Path, engine: Engine, state: TrainState, world: World, keep: int) -> None:
    """Write a checkpoint and prune older ones. Collective.

    A place that is saved already is left as it is: it is of the same run, and replacing it would leave a moment
    without a checkpoint.
    """
    name = f"step-{state.epoch:04d}-{state.step_in_epoch:06d}"
    partial = root / f".{name}.partial"
    signature = engine.signature()
    if broadcast(_fault(root / name, signature) is None if world.is_main else None):
        return

    def begin() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    on_main(begin)

    def write() -> dict[str, tuple[int, str]]:
        engine.save(partial)
        torch.save(_random_states(), partial / f"rng-{world.rank}.pt")
        return _written(partial, world)

    written = dict(sorted(item for part in on_each(write) for item in part.items()))

    def finish() -> None:
        content = {"state": dataclasses.asdict(state), "world": world.size, "model": signature}
        content["files"] = {file: size for file, (size, _) in written.items()}
        content["sha256"] = {file: digest for file, (_, digest) in written.items()}
        content = json.loads(json.dumps(content))  # as it will be read
        content["digest"] = _digest(content)
        (partial / STATE_FILE).write_text(json.dumps(content), encoding="utf-8")
        for file in (STATE_FILE, "."):  # on the disk before it gets its name: power may fail too
            flush(partial / file)
        if (root / name).exists():  # torn or of another model, or it would have been kept above
            shutil.rmtree(root / name)
        os.replace(partial, root / name)
        flush(root)
        prune(root, keep, signature)

    on_main(finish)


def _written(folder: Path, world: World) -> dict[str, tuple[int, str]]:
    """(size, digest) of each file that this rank wrote, once it is on the disk: other ranks may not see them yet, and
    this one has them in its cache. Names say the rank, those without are rank 0's."""
    found = {}
    for path in folder.rglob("*"):
        rank = re.search(r"-(\d+)\.\w+$", path.name)
        if path.is_file() and (int(rank[1]) if rank else 0) == world.rank:
            flush(path)
            found[str(path.relative_to(folder))] = (path.stat().st_size, _sha256(path, anew=True))
    return found


def restore(root: Path, engine: Engine, world: World) -> TrainState:
    """The newest complete checkpoint into the engine, or a fresh state. Collective; rank 0 chooses for all."""
    found: tuple[Path, dict[str, Any]] | None = broadcast(newest(root, engine.signature()) if world.is_main else None)
    if found is None:
        return TrainState()
    folder, content = found
    engine.load(folder)
    state = TrainState(**content["state"])
    if content["world"] != world.size:
        logger.info("%s was written by %d processes; %d go on.", folder, content["world"], world.size)
    restore_random_numbers(folder, world.rank, state.applied_steps)
    return state


def restore_random_numbers(folder: Path, rank: int, steps: int) -> None:
    """As they were; a rank more than there were gets a stream of its own that it has not been through before."""
    if not (folder / f"rng-{rank}.pt").is_file():
        # Drawn anew from the run's seed it would repeat the dropout masks of the first epoch.
        torch.manual_seed(torch.initial_seed() + 1_000_003 * (steps + 1))
        return
    states = torch.load(folder / f"rng-{rank}.pt", weights_only=True)
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, numbers, spare = states["python"]
    random.setstate((version, tuple(numbers), spare))


def newest(root: Path, signature: str) -> tuple[Path, dict[str, Any]] | None:
    """(folder, its state.json) of the newest checkpoint that is whole and of this model; warns of each one newer."""
    for folder in newest_first(root):
        fault = _fault(folder, signature)
        if fault is None:
            return folder, _read(folder)
        logger.warning("%s %s and is skipped.", folder, fault)
    return None


def newest_state(root: Path) -> TrainState | None:
    """The state of the newest whole checkpoint, whatever its model; says nothing of the others. Rank 0 alone.

    For what is decided before there is a model to compare with.
    """
    whole = (folder for folder in newest_first(root) if _fault(folder, None) is None)
    return next((TrainState(**_read(folder)["state"]) for folder in whole), None)


def _read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    return content


def _fault(folder: Path, signature: str | None) -> str | None:
    """Why a checkpoint cannot be used; None where it can."""
    try:
        content = _read(folder)
        state, model = TrainState(**content["state"]), content["model"]
        if any((folder / name).stat().st_size != size for name, size in content["files"].items()):
            return TORN
        if ("sha256" in content or "digest" in content) and content["digest"] != _digest(content):
            return DAMAGED.format(STATE_FILE)
        written = {folder / name: digest for name, digest in content.get("sha256", {}).items()}  # older ones have none
        if state.best is not None:
            written[best_file(folder.parent, state.best)] = state.best["sha256"]
        for path, digest in written.items():
            if _sha256(path) != digest:
                return DAMAGED.format(path.name)
    except UNREADABLE:
        return TORN
    return None if signature in (None, model) else OF_ANOTHER_MODEL


def _digest(content: Mapping[str, Any]) -> str:
    """Of all that is in state.json, but for the digest itself."""
    text = json.dumps({name: value for name, value in content.items() if name != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


_digests: dict[tuple[int, ...], str] = {}


def _sha256(path: Path, anew: bool = False) -> str:
    """Of a file; one that this process has read before, and that nobody wrote to since, is not read again."""
    stat = path.stat()
    key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if anew or key not in _digests:
        _digests[key] = sha256(path)
    return _digests[key]


def prune(root: Path, keep: int, signature: str) -> None:
    """Remove all but the newest `keep` usable checkpoints, and what is damaged or a killed save left behind.

    Those of another model are not ours to remove.
    """
    faults = {folder: _fault(folder, signature) for folder in newest_first(root)}
    usable = [folder for folder, fault in faults.items() if fault is None]
    useless = [folder for folder, fault in faults.items() if fault not in (None, OF_ANOTHER_MODEL)]
    for folder in usable[keep:] + useless + list(root.glob(".step-*.partial")):
        shutil.rmtree(folder, ignore_errors=True)
    _prune_best(root, None)


def save_best(root: Path, weights: Stream, epoch: int) -> dict[str, Any]:
    """Write the weights of the best epoch so far, for `TrainState.best`. Rank 0 alone.

    Those that a checkpoint names stay beside them until it is pruned.
    """
    partial = root / ".step-best.partial"  # a folder, cleared like that of a checkpoint
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensor_file.write(partial / "weights", weights)
    best = {"epoch": epoch, "sha256": _sha256(partial / "weights", anew=True)}
    flush(partial / "weights")
    os.replace(partial / "weights", best_file(root, best))
    partial.rmdir()
    flush(root)
    _prune_best(root, best)
    return best


def load_best(root: Path, best: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What `save_best` wrote. Raises UserError where the file has changed since."""
    from safetensors.torch import load_file

    path = best_file(root, best)
    if not path.is_file() or _sha256(path) != best["sha256"]:
        raise UserError(
            f"{path}: changed or gone since the best epoch's weights were written there; start the same command "
            "again: it trains from the newest checkpoint that is whole"
        )
    return load_file(path)


def best_file(root: Path, best: Mapping[str, Any]) -> Path:
    """Where the weights lie that a state names; by their digest, since those of a later start may differ."""
    return root / f"best-{best['sha256'][:16]}.safetensors"


def _prune_best(root: Path, newest: dict[str, Any] | None) -> None:
    """Remove best weights that no checkpoint names, of whatever model, and that are not the newest."""
    named = [newest] if newest else []
    for folder in newest_first(root):
        with contextlib.suppress(*UNREADABLE):
            named.append(_read(folder)["state"].get("best"))
    kept = {best_file(root, best) for best in named if best}
    for path in set(root.glob("best-*.safetensors")) - kept:
        path.unlink(missing_ok=True)


def _random_states() -> dict[str, Any]:
    """As `torch.load` takes them with weights_only."""
    name, keys, *rest = np.random.get_state(legacy=True)
    version, numbers, spare = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": (version, list(numbers), spare),
    }

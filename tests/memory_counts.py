"""Bytes of live tensors in a step, beside the estimate: run as a program, which forks its ranks.

python memory_counts.py OUTPUT RANKS; prints nothing, and each rank writes OUTPUT.<rank>: a JSON object for each case.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import warm  # noqa: F401 - before what imports torch

from running import free_port

SIZES = {"2 x 64": (2, 64), "4 x 256": (4, 256), "6 x 384": (6, 384)}  # layers, width
# name -> DeepSpeed JSON, more settings
CASES: dict[int, dict[str, tuple[str, dict[str, Any]]]] = {
    1: {
        "fp32": ("fp32", {}),
        "bf16_autocast": ("bf16_autocast", {}),
        "bf16_zero1": ("bf16_zero1", {}),
        "adapters": ("bf16_zero1", {"lora_rank": 8}),
        "checkpointing": ("fp32", {"gradient_checkpointing": True}),
    },
    2: {
        "bf16_zero1": ("bf16_zero1", {}),
        "bf16_zero2": ("bf16_zero2", {}),
        "bf16_zero3": ("bf16_zero3", {}),
        "adapters": ("bf16_zero3", {"lora_rank": 8}),
    },
}
BUCKET = 100_000  # of gradients, in place of one that is larger than these encoders
LONGEST, MICRO = 64, 8


@dataclass(frozen=True)
class Classes:
    """Of three classes."""

    num_outputs: int = 3
    per_word: bool = False

    def loss(self, logits: Any, labels: Any) -> Any:
        from torch.nn import functional

        return functional.cross_entropy(logits.float(), labels, reduction="sum")

    training_loss = loss


def live(already: frozenset[int], more: list[Any]) -> dict[int, int]:
    """Bytes by storage, of all tensors that Python knows and `more`, without those that were there `already`."""
    import torch

    gc.collect()
    found = {}
    for each in [*gc.get_objects(), *more]:
        if isinstance(each, torch.Tensor) and each.device.type == "cpu":
            for tensor in (each, each.grad if each.is_leaf else None):
                if tensor is not None and tensor.untyped_storage().data_ptr() not in (0, *already):
                    found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return found


def count(folder: Path, name: str, more: dict[str, Any], world: Any) -> dict[str, int]:
    """At the end of the last forward pass of the second step, which has two: all parts are there at once."""
    import torch

    from harness import activations, config, memory, model
    from harness.ds import config as ds_config
    from harness.ds import engine

    before = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]  # held: no address is used again
    already = frozenset(live(frozenset(), before))
    run = config.RunConfig(task="x", model_name_or_path=str(folder), ds_config=name, per_gpu_train_batch_size=MICRO,
                           gradient_accumulation_steps=2, max_seq_length=LONGEST, **more)  # fmt: skip
    ds, plan = ds_config.read(name), config.batch_plan(run, world.size)
    if ds.stage >= 2:
        zero = {**ds.settings["zero_optimization"], "reduce_bucket_size": BUCKET}
        ds = ds_config.DeepSpeedConfig(name, {**ds.settings, "zero_optimization": zero})
    network = model.build(run, 3, False)
    choice = memory.fit(run, ds, plan, world, Classes(), LONGEST).now
    needs = memory.estimate(network, choice, LONGEST, world.device, {})
    found = activations.measure(network, [LONGEST] * MICRO, torch.float32, ds.autocast, world.device)
    running = engine.build(network, Classes(), run, ds, plan, 20, world)
    running.train(True)
    saved: list[Any] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    batch = activations._batch([LONGEST] * MICRO, False, network.takes_segments)
    for _ in range(3):
        running.micro_step(batch, 0.5)
    inner, counted = running.inner, {}
    backward = inner.backward

    def count_first(loss: Any) -> None:
        counted.update(live(already, saved))
        saved.clear()
        backward(loss)

    inner.backward = count_first
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        running.micro_step(batch, 0.5)
    inner.backward = backward
    running.close()
    parts = {part: getattr(needs, part) for part in ("weights", "gradients", "optimizer", "buffers", "activations")}
    largest = sorted(counted.values())[-6:]
    if choice.checkpointing:  # nothing is computed again yet
        needs = replace(needs, activations=needs.activations - found.layer)
    total = needs.static + needs.buffers + needs.activations + needs.host
    return {"counted": sum(counted.values()), "estimated": total, **parts, "host": needs.host, "largest": largest}


def rank(output: str, ranks: int, number: int, folders: dict[str, Path]) -> None:
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number))
    import torch

    from harness import distributed

    world = distributed.init(no_cuda=True)
    original = torch.nn.functional.linear
    results: dict[str, Any] = {}
    for title, folder in folders.items():
        for case, (name, more) in CASES[ranks].items():
            try:
                results[f"{title}, {case}"] = count(folder, name, more, world)
            except Exception:
                results[f"{title}, {case}"] = {"error": traceback.format_exc()}
            torch.nn.functional.linear = original
            Path(f"{output}.{number}").write_text(json.dumps(results))


def encoders(place: Path) -> dict[str, Path]:
    """Those of SIZES."""
    import torch
    from encoders import tiny_encoder

    with torch.random.fork_rng(devices=[]):
        return {
            title: tiny_encoder(place / str(width), "bert", dropout=0.1, num_hidden_layers=layers, hidden_size=width,
                                intermediate_size=4 * width, num_attention_heads=4, vocab_size=2000)
            for title, (layers, width) in SIZES.items()
        }  # fmt: skip


if __name__ == "__main__":
    output, ranks = sys.argv[1], int(sys.argv[2])
    os.environ.update(WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(free_port()))  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folders = encoders(Path(place))
        children = []
        for number in range(ranks):
            if not (child := os.fork()):
                try:
                    rank(output, ranks, number, folders)
                except BaseException:
                    traceback.print_exc()
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)

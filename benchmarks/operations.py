"""How many operations a training step starts, and how often it waits for the device, with the DeepSpeed fixes or not.

A model as small as BERT-base keeps a GPU busy for less time than the host needs to start its operations: then their
number is what a step costs. Counted on the CPU, with 12 layers of a narrow encoder, whose weights are as many as
BERT-base's; views and empty tensors, which start nothing on a device, are left out.

    python -m benchmarks.operations [--layers 12] [--ds_configs fp16_zero0,fp16_zero1,fp16_zero2,fp16_zero3]
    torchrun --standalone --nproc_per_node 2 -m benchmarks.operations
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tasks
from harness import distributed, logs, model
from harness.config import BatchPlan, RunConfig
from harness.data import collate
from harness.ds import config as ds_config
from harness.ds import engine, fixes
from harness.task import Batch, Encoded

NOTHING = {
    "view", "detach", "t", "transpose", "expand", "unsqueeze", "squeeze", "slice", "_unsafe_view", "alias", "select",
    "permute", "as_strided", "narrow", "split", "empty", "empty_like", "lift_fresh", "_record_function_enter_new",
    "_record_function_exit",
}  # fmt: skip
WAITS = {"_local_scalar_dense", "nonzero"}  # the host reads what the device has computed
ROWS = 8


class Count(TorchDispatchMode):
    """Counts the operations that PyTorch starts within it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_name: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation._overloadpacket.__name__
        if name not in NOTHING:
            self.by_name[name] += 1
        return operation(*args, **(kwargs or {}))

    @property
    def waits(self) -> int:
        """How many of them made the host wait."""
        return sum(self.by_name[name] for name in WAITS)


def counted(call: Callable[[], Any]) -> Count:
    """The operations of a call."""
    count = Count()
    with count:
        call()
    return count


def narrow(layers: int, folder: Path) -> RunConfig:
    """A run's settings with an encoder of many small weights, made in `folder`."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 300}
    torch.manual_seed(0)
    BertModel(BertConfig(num_hidden_layers=layers, **sizes)).save_pretrained(folder)
    return RunConfig(task="mednli", model_name_or_path=str(folder), pooling="mean")


def build(config: RunConfig, world: distributed.World) -> tuple[engine.Engine, Batch]:
    """(an engine that has made two steps, the batch that it made them on)."""
    task = tasks.get(config.task)
    net = model.build(config, task.num_outputs, task.per_word).train()
    ds, plan = ds_config.resolve(config, world), BatchPlan(ROWS, world.size, 1, ROWS * world.size)
    trained = engine.build(net, task, config, ds, plan, 100, world)
    ids = np.random.default_rng(0).integers(5, 300, (ROWS, 16)).tolist()
    batch = collate(Encoded(ids, [[0] * 16] * ROWS, [0] * ROWS), range(ROWS), 0)
    while trained.applied_steps < 2:  # the first makes buffers, and a high loss scale costs some before it
        trained.micro_step(batch, 1 / ROWS)
    return trained, batch


def step(trained: engine.Engine, batch: Batch) -> tuple[Count, Count]:
    """Operations of (forward and backward, the optimizer's step)."""
    passes = counted(lambda: trained.inner.backward(trained.task.loss(trained.inner(batch), batch.labels) / ROWS))
    return passes, counted(trained.inner.step)


def main() -> None:
    """A row a DeepSpeed JSON, with the fixes and without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--ds_configs", default="fp16_zero0,fp16_zero1,fp16_zero2,fp16_zero3,bf16_zero1,fp32")
    args = parser.parse_args()
    logs.quiet_libraries(has_cuda=False)
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True  # slow on most CPUs, and no slower to count
    with tempfile.TemporaryDirectory() as folder:
        config = narrow(
            args.layers, Path(folder)
        )  # on each rank: among several, transformers writes on the first alone
        world = distributed.init(no_cuda=True)
        say = print if world.is_main else lambda *_, **__: None
        say(
            "| | forward and backward | step | waits in the step | DeepSpeed alone: step | waits |\n" + "|---" * 6 + "|"
        )
        for name in args.ds_configs.split(","):
            cells: list[int] = []
            for alone in (False, True):
                with mock.patch.object(fixes, "apply", lambda *_: None) if alone else nullcontext():
                    trained, batch = build(dataclasses.replace(config, ds_config=name), world)
                passes, rest = step(trained, batch)
                cells += [rest.by_name.total(), rest.waits] if alone else [
                    passes.by_name.total(), rest.by_name.total(), rest.waits
                ]  # fmt: skip
                trained.close()
            say(f"| {name} | " + " | ".join(map(str, cells)) + " |", flush=True)
        distributed.close()


if __name__ == "__main__":
    main()

"""What a training step starts on a GPU: operations, waits and copies, and how many shapes of packed rows an epoch has.

A model as small as BERT-base keeps a GPU busy for less time than the host needs to start its operations: then their
number is what a step costs. No GPU is needed to count them. Tensors lie on PyTorch's meta device, which computes
nothing: whatever is not for a CPU is done as on a GPU, attention and dropout are the operations that CUDA has for them,
and whatever is read from the device is 0. Views and empty tensors, which start nothing, are left out. The encoder has
BERT-base's layers and weights in number, but not their width, on which the number of operations does not depend.

    python -m benchmarks.operations [--layers 12] [--ds_configs fp16_zero0,fp16_zero1] [--by_name]
    torchrun --standalone --nproc_per_node 2 -m benchmarks.operations --device cpu
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.nn import functional
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

import tasks
from harness import distributed, logs, model
from harness.config import BatchPlan, RunConfig
from harness.data import collate, epoch_order
from harness.ds import config as ds_config
from harness.ds import engine, fixes
from harness.rows import equal_rows
from harness.task import Batch, Encoded

NOTHING = {
    "view", "detach", "t", "transpose", "expand", "unsqueeze", "squeeze", "slice", "_unsafe_view", "alias", "select",
    "permute", "as_strided", "narrow", "split", "unbind", "empty", "empty_like", "empty_strided", "new_empty",
    "new_empty_strided", "lift_fresh", "_record_function_enter_new", "_record_function_exit",
}  # fmt: skip
WAITS = {"_local_scalar_dense", "nonzero"}  # the host reads what the device has computed
ROWS = 8
META = torch.device("meta")
PHASES = ("forward", "backward", "step")
LENGTHS = Path(__file__).parent / "lengths.json"  # task -> tokens of a training example -> number of such examples
LONGEST = 128  # of the published recipes


class Count(TorchDispatchMode):
    """Counts the operations that PyTorch starts within it, and answers for the meta device what is asked of it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_name: Counter[str] = Counter()
        self.copies = 0  # tensors from the host to the device
        self.read = 0  # and from the device to the host, the host waiting

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = operation._overloadpacket.__name__, kwargs or {}
        if name not in NOTHING:
            self.by_name[name] += 1
        if name in ("copy_", "_to_copy"):
            target, source = (args[0], args[1]) if name == "copy_" else (kwargs.get("device") or args[0], args[0])
            to, of = getattr(target, "device", target), source.device
            self.copies += of.type == "cpu" != to.type
            if to.type == "cpu" != of.type:
                self.read += not (kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,)))
                empty = target if name == "copy_" else torch.empty_like(source, device="cpu", dtype=kwargs.get("dtype"))
                return empty.zero_() if of == META else operation(*args, **kwargs)
        if name == "_local_scalar_dense" and args[0].device == META:
            return torch.zeros((), dtype=args[0].dtype).item()
        if name == "_fused_adamw_" and args[0][0].device == META:  # it has no implementation there
            return None
        return operation(*args, **kwargs)

    @property
    def waits(self) -> int:
        """How often the host waited for the device."""
        return self.read + sum(self.by_name[name] for name in WAITS)


def counted(call: Callable[[], Any]) -> Count:
    """The operations of a call."""
    count = Count()
    with count:
        call()
    return count


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    scale: Any = None,
    **_: Any,
) -> torch.Tensor:
    """functional.scaled_dot_product_attention as CUDA has it under a mask: boolean masks become a bias each time."""
    bias = attn_mask
    if bias is not None and bias.dtype == torch.bool:
        bias = torch.where(bias, 0.0, torch.scalar_tensor(-torch.inf, dtype=q.dtype, device=q.device))
    if bias is not None:
        bias = bias.expand(*q.shape[:3], k.shape[2])
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    output: torch.Tensor = kernel(q, k, v, bias, torch.is_grad_enabled(), dropout_p, False, scale=scale)[0]
    return output


def dropout(tensor: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """functional.dropout as CUDA has it: one operation."""
    return torch.native_dropout(tensor, p, True)[0] if training and p else tensor


@contextmanager
def like_a_gpu(world: distributed.World) -> Iterator[tuple[distributed.World, list[int]]]:
    """(a world whose device is the meta device, a list that gets an entry when DeepSpeed waits for the device)."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    waits: list[int] = []
    accelerator = get_accelerator()

    def on_meta() -> list[str]:
        return [META.type]

    with ExitStack() as stack:
        for owner, name, value in (
            (accelerator, "device_name", lambda *_: META.type),
            (accelerator, "current_device_name", lambda: META.type),
            (accelerator, "is_fp16_supported", lambda: True),
            (accelerator, "synchronize", lambda *_: waits.append(1)),
            (functional, "scaled_dot_product_attention", attention),
            (functional, "dropout", dropout),
            (importlib.import_module("torch.optim.optimizer"), "_get_fused_kernels_supported_devices", on_meta),
            (_foreach_utils, "_get_foreach_kernels_supported_devices", on_meta),
            (deepspeed.ops, "__compatible_ops__", {}),  # nothing to compile
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(Count())
        yield dataclasses.replace(world, device=META), waits


def narrow(layers: int, folder: Path, pooling: str = "mean") -> RunConfig:
    """A run's settings with an encoder of many small weights, made in `folder`."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 300}
    torch.manual_seed(0)
    encoder = BertModel(BertConfig(num_hidden_layers=layers, **sizes))
    encoder.pooler.dense.bias.data.fill_(0.01)  # as of a trained one
    encoder.save_pretrained(folder)
    return RunConfig(task="mednli", model_name_or_path=str(folder), pooling=pooling)


def made_up(lengths: list[int]) -> Batch:
    """Examples of these numbers of tokens."""
    draw = np.random.default_rng(0)
    ids = [draw.integers(5, 300, length).tolist() for length in lengths]
    return collate(Encoded(ids, [[0] * len(row) for row in ids], [0] * len(ids)), range(len(ids)), 0)


def build(
    config: RunConfig, world: distributed.World, batch: Batch | None = None, net: Any = None
) -> tuple[engine.Engine, Batch]:
    """(an engine that has made two steps, the batch that it made them on)."""
    task, batch = tasks.get(config.task), batch or made_up([16] * ROWS)
    net = net or model.build(config, task.num_outputs, task.per_word)
    size = len(batch.examples)
    ds, plan = ds_config.resolve(config, world), BatchPlan(size, world.size, 1, size * world.size)
    trained = engine.build(net.train(), task, config, ds, plan, 100, world)
    while trained.applied_steps < 2:  # the first makes buffers, and a high loss scale costs some before it
        trained.micro_step(batch, 1 / size)
    return trained, batch


def step(trained: engine.Engine, batch: Batch) -> tuple[Count, Count]:
    """Operations of (forward and backward, the optimizer's step)."""
    size = len(batch.examples)
    passes = counted(lambda: trained.inner.backward(trained.task.loss(trained.inner(batch), batch.labels) / size))
    return passes, counted(trained.inner.step)


def phases(trained: engine.Engine, batch: Batch) -> dict[str, Count]:
    """Operations of a micro-step: up to autograd, in it, and what follows it."""
    found = {phase: Count() for phase in PHASES}
    now = ExitStack()
    backward = torch.autograd.backward

    def enter(phase: str) -> None:
        now.close()
        now.enter_context(found[phase])

    def watched(*args: Any, **kwargs: Any) -> None:
        enter("backward")
        backward(*args, **kwargs)
        enter("step")

    with mock.patch.object(torch.autograd, "backward", watched), now:
        enter("forward")
        trained.micro_step(batch, 1 / len(batch.examples))
    return found


def on_gpu(config: RunConfig, world: distributed.World, lengths: list[int]) -> tuple[dict[str, Count], int]:
    """(operations of a step by phase, how often the host waited in it), examples of `lengths` packed."""
    task = tasks.get(config.task)
    net = model.build(config, task.num_outputs, task.per_word)
    with like_a_gpu(world) as (gpu, waits):
        trained, batch = build(config, gpu, made_up(lengths), net.to(META))
        waits.clear()
        found = phases(trained, batch)
        waited = len(waits) + sum(count.waits for count in found.values())
        trained.close()
    return found, waited


def lengths_of(task: str) -> np.ndarray:
    """Tokens of each example of a task's training split, at most LONGEST."""
    counts = json.loads(LENGTHS.read_text(encoding="utf-8"))[task]
    lengths = np.repeat(np.array(list(counts), int), list(counts.values()))
    return lengths.clip(max=LONGEST)


def shapes(lengths: np.ndarray, batch: int = 32, seed: int = 1, epoch: int = 0) -> tuple[set[tuple[int, ...]], float]:
    """(the shapes [R, T] of an epoch's packed batches on a GPU, slots for each token)."""
    order = np.array(epoch_order(len(lengths), seed, epoch))
    found = [equal_rows(lengths[order[at : at + batch]]).owner.shape for at in range(0, len(order), batch)]
    return set(found), sum(map(np.prod, found)) / float(lengths.sum())


def table(names: list[str], config: RunConfig, world: distributed.World, device: str, by_name: bool) -> None:
    """A row a DeepSpeed JSON."""
    say = print if world.is_main else lambda *_, **__: None
    say("| | forward | backward | step | waits | copies to the device | DeepSpeed alone: step | waits |")
    say("|---" * 8 + "|")
    lengths = np.random.default_rng(1).choice(lengths_of("chemprot"), 32).tolist()
    for name in names:
        cells: list[int] = []
        for alone in (False, True):
            with mock.patch.object(fixes, "apply", lambda *_: None) if alone else nullcontext():
                run = dataclasses.replace(config, ds_config=name)
                if device == "meta":
                    found, waits = on_gpu(run, world, lengths)
                else:
                    trained, batch = build(run, world)
                    found = phases(trained, batch)
                    waits = sum(count.waits for count in found.values())
                    trained.close()
            starts = [found[phase].by_name.total() for phase in PHASES]
            cells += [starts[2], waits] if alone else [*starts, waits, sum(count.copies for count in found.values())]
            if by_name and not alone:
                for phase in PHASES:
                    say(f"{name} {phase}: " + ", ".join(f"{n} {k}" for k, n in found[phase].by_name.most_common()))
        say(f"| {name} | " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    """A row a DeepSpeed JSON, with the fixes and without; a row a task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--ds_configs", default="fp16_zero0,fp16_zero1,fp16_zero2,bf16_zero1,fp32")
    parser.add_argument("--device", choices=("meta", "cpu"), default="meta")
    parser.add_argument("--by_name", action="store_true", help="which operations they are")
    args = parser.parse_args()
    logs.quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        # Before ranks meet: then transformers would write on the first alone.
        config = narrow(args.layers, Path(folder), "pooler")
        world = distributed.init(no_cuda=True)
        from deepspeed.accelerator import get_accelerator

        get_accelerator().is_fp16_supported = lambda: True  # slow on most CPUs, and no slower to count
        table(args.ds_configs.split(","), config, world, args.device, args.by_name)
        distributed.close()
    if world.is_main:
        print("\n| | shapes in an epoch | slots a token |\n|---|---|---|")
        for task in tasks.BLUE:
            found, slots = shapes(lengths_of(task))
            print(f"| {task} | {len(found)} | {slots:.2f} |")


if __name__ == "__main__":
    main()

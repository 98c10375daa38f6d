"""What DeepSpeed costs: our engine against the same packed model in loops of our own, the same batches in turn.

Two loops without DeepSpeed. `autocast` does what the engine does on a CPU: float32 weights, bf16 within the passes,
clipping by the gradients' norm, fused AdamW. `mixedprecision` does what that needs and no more: bf16 weights, float32
copies, gradients to float32, clipping, AdamW on the copies, weights copied back. Prints medians of forward
and backward, of the rest of the step and of the ratios, in seconds of this process.

    python -m benchmarks.engine_tax --data_dir $BLUE_DATA_DIR/blue/bc5cdr_disease --task bc5cdr_disease --steps 20
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import tasks
from benchmarks.bench import model_folder
from harness import distributed, logs, model
from harness.config import BatchPlan, RunConfig
from harness.data import collate, epoch_order
from harness.ds import config as ds_config
from harness.ds import engine
from harness.task import Batch, Task
from harness.tokenizer import load_tokenizer


class Autocast:
    """Float32 weights, passes under autocast."""

    def __init__(self, net: model.EncoderWithHead, task: Task, rate: float) -> None:
        self.net, self.task = net, task
        self.weights = list(net.parameters())
        self.optimizer = torch.optim.AdamW(self.updated(), lr=rate, eps=1e-8, weight_decay=0.0, fused=True)

    def updated(self) -> list[torch.Tensor]:
        """What the optimizer changes."""
        return list(self.weights)

    def forward_backward(self, batch: Batch) -> None:
        """Gradients of the mean loss."""
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.net(batch)
        (self.task.loss(logits, batch.labels) / len(batch.units)).backward()

    def step(self) -> None:
        """Clip and update."""
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()


class MixedPrecision(Autocast):
    """Mixed precision by hand: bf16 weights and a float32 copy of them."""

    def updated(self) -> list[torch.Tensor]:
        """The float32 copies."""
        self.net.to(torch.bfloat16)
        self.fp32 = [weight.detach().float() for weight in self.weights]
        return self.fp32

    def forward_backward(self, batch: Batch) -> None:
        """Gradients of the mean loss."""
        (self.task.loss(self.net(batch), batch.labels) / len(batch.units)).backward()

    def step(self) -> None:
        """Gradients to float32, clip, update, copy back."""
        for fp32, weight in zip(self.fp32, self.weights, strict=True):
            fp32.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        torch.nn.utils.clip_grad_norm_(self.fp32, 1.0, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_([*self.weights], self.fp32)


class Ours:
    """The engine, its forward and backward apart from its step."""

    def __init__(self, built: engine.Engine) -> None:
        self.engine = built

    def forward_backward(self, batch: Batch) -> None:
        """As micro_step, up to the step."""
        self.engine.inner.backward(self.engine.task.loss(self.engine.inner(batch), batch.labels) / len(batch.units))

    def step(self) -> None:
        """As micro_step, the step alone."""
        self.engine.inner.step()


def seconds(call: Callable[[], None]) -> float:
    """Of this process."""
    began = time.process_time()
    call()
    return time.process_time() - began


def main() -> None:
    """A line a system, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="bc5cdr_disease")
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--model", default="embedded", choices=("base", "embedded"))
    parser.add_argument("--ds_config", default=None)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = tasks.get(args.task)
    logs.quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        world = distributed.init(no_cuda=True)
        path = model_folder(args.model, Path(folder))
        config = RunConfig(task=task.name, model_name_or_path=path, pooling="mean", ds_config=args.ds_config)
        tokenizer = load_tokenizer(config)
        encoded = task.features(task.read(args.data_dir, "train")[: 40 * args.batch], tokenizer, 128)
        net = model.build(config, task.num_outputs, task.per_word).train()
        loops = {
            f"own loop, {kind.__name__.lower()}": kind(copy.deepcopy(net), task, config.learning_rate)
            for kind in (Autocast, MixedPrecision)
        }
        ds, plan = ds_config.resolve(config, world), BatchPlan(args.batch, 1, 1, args.batch)
        built = engine.build(net, task, config, ds, plan, 10**4, world)
        systems: dict[str, Autocast | Ours] = {**loops, "engine": Ours(built)}
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
        order = epoch_order(len(encoded), 1, 0)
        for number in range(args.steps + 2):
            chosen = [order[(number * args.batch + i) % len(order)] for i in range(args.batch)]
            batch = collate(encoded, chosen, 0)
            for name, system in systems.items():
                passes = seconds(lambda s=system, b=batch: s.forward_backward(b))  # type: ignore[misc]
                spent[name].append((passes, seconds(system.step)))
        for rows in spent.values():
            del rows[:2]  # they make buffers and kernels
        for name, rows in spent.items():
            passes, steps = (statistics.median(column) for column in zip(*rows, strict=True))
            print(f"{name:18s} forward and backward {passes:.3f} s, step {steps:.3f} s")
        for name in loops:
            ratio = statistics.median(sum(a) / sum(b) for a, b in zip(spent[name], spent["engine"], strict=True))
            print(f"engine {ratio:.2f} x as fast as {name}, without DeepSpeed (median of {args.steps} pairs)")
        distributed.close()


if __name__ == "__main__":
    main()

"""Ours and the plain loop on the same batches, step by step: loss and gradient norm of both, dropout off.

What is left of a difference in scores when these agree is chance: the dropout masks.

    python -m benchmarks.side_by_side --task hoc --data_dir $BLUE_DATA_DIR/blue/hoc --steps 40 [--precision bf16]
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tasks
from benchmarks.bench import model_folder
from benchmarks.peers import plain_loop
from benchmarks.peers.original_adam import OriginalAdamW
from harness import distributed, logs, model
from harness.config import BatchPlan, RunConfig
from harness.data import collate, epoch_steps
from harness.ds import config as ds_config
from harness.ds import engine
from harness.task import Task
from harness.tokenizer import load_tokenizer

TOTAL = 10**4  # steps of the schedule


@dataclass
class Comparison:
    """Of each step: (ours, the plain loop's)."""

    losses: list[tuple[float, float]] = field(default_factory=list)
    norms: list[tuple[float, float]] = field(default_factory=list)
    distance: float = 0.0  # L2 norm of the difference between both systems' last weights
    movement: float = 0.0  # the same between ours and those that it began with


def undropped(network: nn.Module) -> nn.Module:
    """Without dropout, in training too."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def compare(task: Task, data: Path, path: str, config: RunConfig, steps: int, world: distributed.World) -> Comparison:
    """Both systems over the first `steps` steps of an epoch."""
    tokenizer, batch = load_tokenizer(config), config.per_gpu_train_batch_size
    examples = (task if config.stride is None else task.whole()).read(data, "train")
    encoded = task.features(examples, tokenizer, config.max_seq_length, config.stride)
    net = model.build(config, task.num_outputs, task.per_word)
    undropped(net)
    initial = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    plain = plain_loop.Network(path, task.num_outputs, task.per_word, config.seed)
    undropped(plain)
    plan = BatchPlan(batch, 1, 1, batch)
    ours = engine.build(net, task, config, ds_config.resolve(config, world), plan, TOTAL, world)
    ours.train(True)
    step = plain_step(task, plain.train(), tokenizer, config)
    found = Comparison()
    for passes, _ in zip(epoch_steps(encoded, plan, config.seed, 0, 0), range(steps), strict=False):
        (share,) = passes
        loss = float(ours.micro_step(collate(encoded, share.examples, tokenizer.pad_token_id), share.scale))
        other_loss, other_norm = step([examples[i] for i in share.examples])
        found.losses.append((loss, other_loss))
        found.norms.append((ours.metrics().grad_norm or 0.0, other_norm))
    weights = ours.weights()
    ours.close()
    others = {name.replace("linear.", "classifier."): weight.detach() for name, weight in plain.named_parameters()}
    found.distance = apart(weights, others)
    found.movement = apart(weights, initial)
    return found


def plain_step(task: Task, plain: plain_loop.Network, tokenizer: Any, config: RunConfig) -> Any:
    """examples -> (loss, gradient norm) of a step of the plain loop."""
    args = argparse.Namespace(chunks=1, length=config.max_seq_length, precision=config.precision, stride=config.stride)
    optimizer = OriginalAdamW(plain.parameters(), lr=config.learning_rate, eps=config.adam_epsilon)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / TOTAL)

    def step(examples: list[Any]) -> tuple[float, float]:
        loss = plain_loop.backward(task, plain, tokenizer, examples, args)
        norm = float(nn.utils.clip_grad_norm_(plain.parameters(), 1.0))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return loss, norm

    return step


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """L2 norm of the difference."""
    return math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in one))


def main() -> None:
    """A line a step, then how far apart the weights are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--stride", type=int, help="windows that overlap by so many tokens, of single texts")
    args = parser.parse_args()
    logs.quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        path = model_folder("embedded", Path(folder))
        config = RunConfig(
            task=args.task, model_name_or_path=path, pooling="mean", seed=args.seed, precision=args.precision,
            learning_rate=args.learning_rate, per_gpu_train_batch_size=args.batch,
            max_seq_length=args.max_seq_length, stride=args.stride,
        )  # fmt: skip
        world = distributed.init(no_cuda=True)
        found = compare(tasks.get(args.task), args.data_dir, path, config, args.steps, world)
        distributed.close()
    for number, (losses, norms) in enumerate(zip(found.losses, found.norms, strict=True), start=1):
        print("step {:3d}   loss {:.5f} {:.5f}   gradient norm {:.4f} {:.4f}".format(number, *losses, *norms))
    print(f"weights moved by {found.movement:.4f} and are {found.distance:.2g} apart")


if __name__ == "__main__":
    main()

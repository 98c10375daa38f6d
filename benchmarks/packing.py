"""What a layout costs: seconds of forward and backward of the same batches, padded, bucketed and packed in turn.

One process, one thread, bf16 weights and dropout as in a run on a CPU. Prints the median of each layout and of the
ratios to `padded`, step by step, so that a busy machine slows all alike.

    python benchmarks/packing.py --data_root $BLUE_DATA_DIR/blue --steps 10
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

import tasks
from harness import model
from harness.config import EMBEDDED, RunConfig
from harness.data import collate, epoch_order
from harness.packing import PADDED, Layout
from harness.task import Batch, Task
from harness.tokenizer import load_tokenizer


def step(net: model.EncoderWithHead, task: Task, batch: Batch) -> float:
    """Seconds of this process in forward and backward."""
    net.zero_grad(set_to_none=True)
    started = time.process_time()
    (task.loss(net(batch), batch.labels) / len(batch.examples)).backward()
    return time.process_time() - started


def measure(name: str, args: argparse.Namespace) -> None:
    """One line a layout."""
    config = RunConfig(task=name, model_name_or_path=args.model, seed=1)
    task, tokenizer = tasks.get(name), load_tokenizer(config)
    examples = task.read(args.data_root / name, "train")[: 40 * args.batch]
    encoded = task.features(examples, tokenizer, args.length)
    net = model.build(config, task.num_outputs, task.per_word).to(torch.bfloat16).train()
    layouts = {"padded": PADDED, "bucketed": Layout("bucketed"), "packed": net.layout}
    order = epoch_order(len(encoded), 1, 0)
    seconds: dict[str, list[float]] = {layout: [] for layout in layouts}
    pieces, slots = 0, 0
    for number in range(args.steps + 1):
        batch = collate(encoded, order[number * args.batch : (number + 1) * args.batch], 0)
        pieces, slots = pieces + batch.tokens, slots + batch.input_ids.numel()
        for layout in layouts:
            net.layout = layouts[layout]
            spent = step(net, task, batch)
            if number:  # the first makes buffers and kernels
                seconds[layout].append(spent)
    print(f"{name}: {pieces / slots:.0%} of the padded batches are tokens")
    for layout, spent_each in seconds.items():
        ratio = statistics.median(p / s for p, s in zip(seconds["padded"], spent_each, strict=True))
        print(f"  {layout:10s} {statistics.median(spent_each):.3f} s a step, {ratio:.2f} x padded", flush=True)


def main() -> None:
    """All tasks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_root", type=Path, required=True, help="folder of the tasks' folders")
    parser.add_argument("--tasks", default="chemprot,bc5cdr_disease,hoc")
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in args.tasks.split(","):
        measure(name, args)


if __name__ == "__main__":
    main()

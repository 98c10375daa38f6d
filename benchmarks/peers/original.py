"""Peer (a): the recipe of the original scripts: all padded to full length, fp32 (fp16 on a GPU), a plain loop.

python -m benchmarks.peers.original --task chemprot --data_dir DIR --model M --steps 6
"""

from __future__ import annotations

import random
import time
from typing import Any

import torch

from benchmarks.peers import feed


def main() -> None:
    """Train some steps, predict dev, print a line."""
    parser = feed.arguments(__doc__)
    args = parser.parse_args()
    torch.manual_seed(1)
    task, tokenizer = feed.load(args)
    train = feed.rows(task, tokenizer, task.read(args.data_dir, "train"), args.length, padded=True)
    dev = feed.rows(task, tokenizer, task.read(args.data_dir, "dev"), args.length, padded=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = feed.model_for(task, args.model).to(device)
    half = args.precision == "fp16"
    scaler = torch.amp.GradScaler(device.type, enabled=half)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, eps=1e-8, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (10 * args.steps))
    watch = feed.Stopwatch(args.warmup, args.steps)
    model.train()
    order = random.Random(1).sample(range(len(train)), len(train))
    for step in range(args.steps):
        chosen = [train[order[k % len(order)]] for k in range(step * args.batch, (step + 1) * args.batch)]
        batch = tensors(chosen, device)
        with torch.autocast(device.type, torch.float16, enabled=half):
            loss = model(**batch).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        model.zero_grad()
        loss.item()  # the original summed its losses so
        watch.step(len(chosen), sum(sum(row["attention_mask"]) for row in chosen))
    model.eval()
    began = time.time()
    with torch.no_grad():
        for start in range(0, len(dev), args.batch):
            with torch.autocast(device.type, torch.float16, enabled=half):
                model(**tensors(dev[start : start + args.batch], device)).logits.float().cpu()
    watch.report(len(dev), time.time() - began)


def tensors(rows: list[dict[str, Any]], device: torch.device) -> dict[str, torch.Tensor]:
    """A batch of rows of equal length."""
    return {name: torch.tensor([row[name] for row in rows], device=device) for name in rows[0]}


if __name__ == "__main__":
    main()

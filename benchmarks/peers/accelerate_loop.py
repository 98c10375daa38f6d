"""Peer (d): accelerate around a plain loop, with dynamic padding and bf16 (fp16 on a GPU).

python -m benchmarks.peers.accelerate_loop --task chemprot --data_dir DIR --model M --steps 6
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from benchmarks.peers import feed


def main() -> None:
    """Train some steps, predict dev, print a line."""
    args = feed.arguments(__doc__).parse_args()
    torch.manual_seed(1)
    task, tokenizer = feed.load(args)
    accelerator = Accelerator(mixed_precision="no" if args.precision == "fp32" else args.precision)
    train: Any = feed.rows(task, tokenizer, task.read(args.data_dir, "train"), args.length, padded=False)
    dev = feed.rows(task, tokenizer, task.read(args.data_dir, "dev"), args.length, padded=False)
    collate = feed.collator(task, tokenizer)
    watched = feed.Watched(collate)
    optimizer: torch.optim.Optimizer
    model = feed.model_for(task, args.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, eps=1e-8, weight_decay=0.0, fused=True)
    batches: Any = DataLoader(train, batch_size=args.batch, shuffle=True, collate_fn=watched)
    held: Any = DataLoader(feed.longest_first(dev), batch_size=2 * args.batch, collate_fn=collate)
    model, optimizer, batches, held = accelerator.prepare(model, optimizer, batches, held)
    watch = feed.Stopwatch(args.warmup, args.steps)
    model.train()
    endless = itertools.chain.from_iterable(itertools.repeat(batches))
    for batch in itertools.islice(endless, args.steps):
        accelerator.backward(model(**batch).loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        watch.step(*watched.seen[len(watch.ends)])  # batches are fetched ahead: the n-th step used the n-th
    model.eval()
    began = time.time()
    with torch.inference_mode():
        for batch in held:
            accelerator.gather_for_metrics(model(**batch).logits.float().cpu())
    watch.report(len(dev), time.time() - began)


if __name__ == "__main__":
    main()

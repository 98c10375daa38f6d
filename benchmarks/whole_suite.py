"""The ten tasks with their published recipes and sizes, one after another in one process, dev scored after every epoch.

    python -m benchmarks.whole_suite
    python -m benchmarks.whole_suite --data DIR/blue --num_train_epochs 1 --tasks biosses,medsts

Corpora are taken from --data where they are; for the others the made-up sample is repeated up to the published number
of rows (tagging: of mentions), so that the work is of the right size and the scores mean nothing. The model has random
weights of BERT-base size. A checkpoint is written once a minute and after the last epoch: an epoch on a GPU is shorter
than it takes. Prints seconds, examples a second and peak memory of each task; --out keeps them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import tasks
from benchmarks.bench import model_folder
from benchmarks.made_up import made_up
from harness import logs, versions


def run(task: str, data: Path, model: str, folder: Path, more: list[str]) -> dict[str, Any]:
    """Seconds and rates of one run with its published recipe.

    `recipe_seconds`: of the run with the recipe's epochs, where `more` asks for fewer: each as long as those made.
    """
    from launch import train
    from launch.run import settings

    began = time.perf_counter()
    flags = ["--task", task, "--data_dir", str(data), "--model_name_or_path", model, "--recipe", "biobert-v1.1",
             "--pooling", "pooler", "--do_lower_case", "--wandb_mode", "offline",
             "--save_minutes", "1", "--output_dir", str(folder)]  # fmt: skip
    recipe, _ = settings.parse(flags)
    config, _ = settings.parse([*flags, *more])
    result = train.run(config)
    seconds, timing = time.perf_counter() - began, result["timing"]
    examples = len(tasks.get(task).read(data, "train")) * float(config.num_train_epochs)
    an_epoch = (timing["train_seconds"] + timing["evaluation_seconds"]) / len(result["epochs"])
    return {
        "task": task,
        "seconds": seconds,
        "training_seconds": timing["train_seconds"],
        "examples_per_second": examples / timing["train_seconds"],
        "epochs": config.num_train_epochs,
        "recipe_epochs": recipe.num_train_epochs,
        "recipe_seconds": seconds + an_epoch * (float(recipe.num_train_epochs) - len(result["epochs"])),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with a folder for each corpus that is there")
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=list(tasks.BLUE))
    parser.add_argument("--model", default="base", help="base, embedded or a folder [base]")
    parser.add_argument("--share", type=float, default=1.0, help="of the published sizes, for made-up rows [1]")
    parser.add_argument("--out", type=Path, help="file of the figures")
    args, more = parser.parse_known_args()
    logs.quiet_libraries()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        named = args.model in ("base", "embedded")
        model = model_folder(args.model, Path(scratch) / "model") if named else args.model
        began = time.perf_counter()
        for task in args.tasks:
            given = args.data / task if args.data and (args.data / task).is_dir() else None
            data = given or made_up(task, Path(scratch) / "data" / task, args.share)
            rows.append({**run(task, data, model, Path(scratch) / "runs" / task, more), "made_up": given is None})
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    total = time.perf_counter() - began
    for row in rows:
        rates = f"{row['epochs']:g} epochs {row['seconds']:7.1f} s, {row['examples_per_second']:7.0f} examples/s"
        print(f"{row['task']:16s} {rates}{'  (made-up rows)' if row['made_up'] else ''}")
    print(f"{'all':16s} {total:.1f} s on {device}" + (f", peak {peak:.0f} MiB" if peak else ""))
    if args.out:
        kept = {"device": device, "seconds": total, "peak_mib": peak, "tasks": rows, "versions": versions.installed(),
                "commit": versions.commit(), "command": " ".join(sys.argv[1:])}  # fmt: skip
        args.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

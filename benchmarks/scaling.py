"""What a run costs against the number of its rows and against their length: seconds, which should grow linearly.

Rows: made-up rows of a task, read, made into token ids, trained on for an epoch and predicted. Lengths: training steps
and predictions of the same number of tokens in examples of one length each. Seconds of this process, the embedded
encoder, batches of 32.

    python -m benchmarks.scaling [--task mednli] [--rows 500,1000,2000] [--lengths 16,32,64,128,256,512] [--pieces 2048]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tasks
from benchmarks.bench import model_folder
from benchmarks.made_up import made_up, published_size
from harness import distributed, evaluate, logs, model
from harness.config import BatchPlan, RunConfig
from harness.data import collate, epoch_steps
from harness.ds import config as ds_config
from harness.ds import engine
from harness.task import Encoded, Task
from harness.tokenizer import load_tokenizer

BATCH, REPEATS = 32, 3


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """(of this process, what the call returned)."""
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def by_rows(task: Task, trained: engine.Engine, tokenizer: Any, rows: int, folder: Path) -> dict[str, float]:
    """Seconds of each part of a run on `rows` rows."""
    data = made_up(task.name, folder, rows / published_size(task.name, "train"))
    read, examples = seconds(lambda: task.read(data, "train"))
    tokenise, encoded = seconds(lambda: task.features(examples, tokenizer, 128))

    def epoch() -> None:
        trained.train(True)
        for passes in epoch_steps(encoded, BatchPlan(BATCH, 1, 1, BATCH), 1, 0, 0):
            for each in passes:
                trained.micro_step(collate(encoded, each.examples, 0), each.scale)
        trained.train(False)

    train, _ = seconds(epoch)
    predict, _ = seconds(lambda: evaluate.predict(trained.forward, encoded, BATCH, trained.world, 0))
    return {"read": read, "tokenise": tokenise, "train": train, "predict": predict}


def by_length(trained: engine.Engine, length: int, pieces: int) -> dict[str, float]:
    """Seconds of a training step and of a prediction of `pieces` tokens in examples of `length`."""
    draw, count = np.random.default_rng(length), pieces // length
    ids = draw.integers(1000, 20000, (count, length)).tolist()
    encoded = Encoded(ids, [[0] * length] * count, [0] * count)
    batch = collate(encoded, range(count), 0)
    trained.train(True)
    steps = [seconds(lambda: trained.micro_step(batch, 1 / count))[0] for _ in range(REPEATS + 1)][1:]
    trained.train(False)
    with torch.no_grad():
        passes = [seconds(lambda: trained.forward(batch))[0] for _ in range(REPEATS + 1)][1:]
    return {"train": statistics.median(steps), "predict": statistics.median(passes)}


def show(what: str, found: dict[int, dict[str, float]]) -> None:
    """A Markdown table."""
    names = list(next(iter(found.values())))
    print(f"| {what} | " + " | ".join(f"{name}, s" for name in names) + " |")
    print("|---:" * (len(names) + 1) + "|")
    for number, row in found.items():
        print(f"| {number} | " + " | ".join(f"{row[name]:.2f}" for name in names) + " |")
    print(flush=True)


def main() -> None:
    """Two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mednli")
    for name, default in (("rows", [500, 1000, 2000]), ("lengths", [16, 32, 64, 128, 256, 512])):
        parser.add_argument(f"--{name}", type=lambda text: [int(n) for n in text.split(",")], default=default)
    parser.add_argument("--pieces", type=int, default=2048, help="of all examples of one length")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logs.quiet_libraries()
    task = tasks.get(args.task)
    with tempfile.TemporaryDirectory() as folder:
        world = distributed.init(no_cuda=True)
        path = model_folder("embedded", Path(folder))
        config = RunConfig(task=task.name, model_name_or_path=path, pooling="mean")
        tokenizer = load_tokenizer(config)
        net = model.build(config, task.num_outputs, task.per_word)
        ds, plan = ds_config.resolve(config, world), BatchPlan(BATCH, 1, 1, BATCH)
        trained = engine.build(net, task, config, ds, plan, 10**4, world)
        by_length(trained, 64, args.pieces)  # buffers and kernels
        show("rows", {n: by_rows(task, trained, tokenizer, n, Path(folder) / str(n)) for n in args.rows})
        if task.family == "multiclass":
            show("tokens an example", {n: by_length(trained, n, args.pieces) for n in args.lengths})
        distributed.close()


if __name__ == "__main__":
    main()

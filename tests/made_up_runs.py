"""Run folders as a run leaves them, without training: predictions are the sample's gold labels, spoilt at random."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import tasks
from harness import run_folder
from harness.config import RunConfig
from harness.files import sha256, write
from harness.run_folder import RunFolder
from harness.task import Example, Prediction, Task
from launch.run import digests, settings
from tasks.tagging import TaggingTask


@cache
def gold(task: str, split: str, rows: int) -> tuple[Example, ...]:
    return tuple(tasks.get(task).read(tasks.sample_dir(task), split)[:rows])


def made_up(
    folder: Path,
    task: str,
    model: str = "encoder-a",
    seed: int = 12,
    *,
    skill: float = 0.8,
    rows: int = 40,
    epochs: int = 4,
    score: float | None = None,
    data_dir: str | None = "/data",
    finished: bool = True,
    flags: Sequence[str] = (),
    search: dict[str, Any] | None = None,
    **result: Any,
) -> Path:
    """`score` replaces the test score that follows from the predictions; `result` adds to result.json or replaces.

    Gold labels are those of `data_dir`, where it is there, else of the first `rows` of the sample. Without it the run
    is one on sample data. `metric_version=None, digests=None` make one of an older version.
    """
    argv = ["--task", task, "--model_name_or_path", model, "--seed", str(seed), "--output_dir", str(folder)]
    config, _ = settings.parse([*argv, *(["--data_dir", f"{data_dir}/{task}"] if data_dir else []), *flags])
    config = dataclasses.replace(config, search=search)
    paths, known = RunFolder(folder), tasks.get(task)
    generator = np.random.default_rng([seed, zlib.crc32(f"{task} {model}".encode())])
    write(paths.config, json.dumps(config.to_dict()))
    scores = {}
    for split in ("dev", "test"):
        there = config.data_dir is not None and (Path(config.data_dir) / known.filenames[split]).is_file()
        examples = known.read(Path(str(config.data_dir)), split) if there else gold(task, split, rows)
        predictions = [spoil(known, example, skill, generator) for example in examples]
        if isinstance(known, TaggingTask):
            predictions = known.repaired(examples, predictions)  # as a run does
        report = known.metric(examples, predictions)
        write(paths.prediction(split), "\n".join(known.rows(examples, predictions)) + "\n")
        if predictions[0].scores is not None:
            lines = ["\t".join(["index", *known.labels])]
            for example, prediction in zip(examples, predictions, strict=True):
                lines.append("\t".join([example.id, *(f"{p:.6f}" for p in prediction.scores or ())]))
            write(paths.prediction(f"{split}_probabilities"), "\n".join(lines) + "\n")
        head = {"score": report.score, "metric": report.metric, "loss": 1 - skill, "examples": len(examples)}
        per_class = {label: dict(figures) for label, figures in report.per_class.items()}
        scores[split] = {**head, **report.values, "per_class": per_class, "warnings": list(report.warnings)}
    if score is not None:
        scores["test"]["score"] = score
    write_fingerprint(paths, config)
    write_metrics(paths, epochs, scores["dev"]["score"], generator)
    if not finished:
        return folder
    values = {
        "task": task, "model": config.model_name_or_path, "recipe": config.recipe, "seed": seed,
        "data": "given" if data_dir else "sample", "selected": "last", "best_epoch": epochs,
        "dev_was_trained_on": "dev" in known.train_splits, "scores": scores, "epochs": [], "steps": 10 * epochs,
        "precision": "fp16", "world_size": 1, "examples_per_step": 32,
        "timing": {"total_seconds": 1800.0, "train_seconds": 1500.0, "evaluation_seconds": 200.0},
        "versions": {}, "commit": "0" * 40, **({"search": search} if search else {}),
        "metric_version": known.metric_version,
        "digests": digests.of_result(config, paths, ("dev", "test"), {}),
    }  # fmt: skip
    written = {name: value for name, value in (values | result).items() if value is not None}
    write(paths.result, run_folder.result_text(digests.sealed(written) if "digests" in written else written))
    return folder


def write_fingerprint(paths: RunFolder, config: RunConfig) -> None:
    """Of the data files where they are there; else of the same unknown data for all runs."""
    place = tasks.sample_dir(config.task) if config.data_dir is None else Path(config.data_dir)
    data = {}
    for split, name in tasks.get(config.task).filenames.items():
        data[split] = sha256(place / name) if (place / name).is_file() else f"{split:0>64}"
    values: dict[str, Any] = {"schema": 1, "data": data, "tokenizer": {}, "weights": {}, "definition": None}
    values |= {"precision": "fp16", "ds_config": {}, "versions": {}, "commit": "0" * 40, "threads": 1, "changes": []}
    write(paths.fingerprint, json.dumps(values, indent=2) + "\n")


def spoil(task: Task, example: Example, skill: float, generator: np.random.Generator) -> Prediction:
    """The gold answer with probability `skill`, by word in tagging and by label in multilabel tasks."""
    if task.family == "similarity":
        return Prediction(float(example.label + (1 - skill) * 3 * generator.normal()))
    if task.family == "tagging":
        claimed = [
            str(generator.choice((task.labels[0], "O", "O", "O"))) if tag == "O" else "O" for tag in example.label
        ]
        kept = generator.random(len(claimed)) < np.where(np.array(example.label) == "O", 0.8 + 0.2 * skill, skill)
        return Prediction(tuple(tag if k else c for k, tag, c in zip(kept, example.label, claimed, strict=True)))
    if task.family == "multilabel":
        scores = [np.clip(0.15 + 0.7 * v + 0.8 * (1 - skill) * generator.normal(), 0.01, 0.99) for v in example.label]
        return Prediction(tuple(int(score > 0.5) for score in scores), tuple(map(float, scores)))
    right = generator.random() < skill
    value = example.label if right else str(generator.choice(task.labels))
    top = generator.uniform(0.4, 0.99)
    rest = (1 - top) / (len(task.labels) - 1)
    return Prediction(value, tuple(top if label == value else rest for label in task.labels))


def write_metrics(paths: RunFolder, epochs: int, final: float, generator: np.random.Generator) -> None:
    lines: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        step = {"train/loss": 1 / epoch, "train/lr": 1e-5, "train/grad_norm": 1.0}
        rates = {"train/examples_per_second": 100 + generator.normal(), "train/tokens_per_second": 4000.0}
        lines.append({"kind": "step", "step": 10 * epoch, "epoch": None, "time": 0.0, "values": {**step, **rates}})
        losses = {"train/epoch_loss": 0.8 * math.exp(-epoch / 3), "dev/loss": 0.5 * math.exp(-epoch / 4) + 0.1}
        values = {
            **{name: value * (1 + 0.1 * generator.normal()) for name, value in losses.items()},
            "dev/score": final * (1 - math.exp(-1.5 * epoch)) + 0.01 * generator.normal() * (epoch < epochs),
        }
        lines.append({"kind": "epoch", "step": 10 * epoch, "epoch": float(epoch), "time": 0.0, "values": values})
    write(paths.metrics, "".join(json.dumps(line) + "\n" for line in lines))

"""Scores of a split: each example predicted exactly once at any world size, the metric computed once over all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness import watchdog
from harness.config import RunConfig
from harness.data import collate, evaluation_batches, labels_of
from harness.distributed import World, gather
from harness.errors import TrainingFailed, is_out_of_memory
from harness.files import write
from harness.run_folder import RunFolder
from harness.task import Batch, Encoded, Example, Prediction, Report, Task

Forward = Callable[[Batch], torch.Tensor]
OPTIONAL_FILES = ("_all_logits.txt", "_roc_auc_for_each_class.txt")  # written with --output_all_logits


@dataclass(frozen=True)
class Split:
    """Examples and their token ids."""

    name: str
    examples: Sequence[Example]
    encoded: Encoded

    @property
    def cut(self) -> float:
        """The share of examples, in tagging of words, that max_seq_length cut."""
        by_word = self.encoded.positions is not None
        total = sum(len(example.texts) for example in self.examples) if by_word else len(self.examples)
        return sum(self.encoded.cut or ()) / max(1, total)


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a split gave."""

    split: str
    report: Report
    loss: float  # mean over examples (tagging: over scored words) of the whole split
    predictions: list[Prediction]  # in file order
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As in result.json."""
        report = self.report
        return {
            "score": report.score,
            "metric": report.metric,
            "loss": self.loss,
            "examples": len(self.predictions),
            **report.values,
            "per_class": {k: dict(v) for k, v in report.per_class.items()},
            "warnings": list(report.warnings),
        }


def evaluate(forward: Forward, split: Split, task: Task, config: RunConfig, world: World, pad_id: int) -> Evaluation:
    """Predict the split and score it. Collective; every rank computes the same from the gathered logits."""
    started = time.perf_counter()
    with watchdog.phase("evaluation"):
        try:
            rows = predict(forward, split.encoded, config.per_gpu_eval_batch_size, world, pad_id)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingFailed(
                f"out of memory while {split.name} was scored: lower --per_gpu_eval_batch_size (it is "
                f"{config.per_gpu_eval_batch_size}; scores do not depend on it)"
                + (", or --max_seq_length: all windows of a text go together" if config.stride is not None else ""),
                deterministic=True,
            ) from error
        predictions = decode(task, split.examples, split.encoded, rows)
        watchdog.beat()
        report = task.metric(split.examples, predictions)
    order = range(len(split.encoded))
    joined = np.concatenate(rows) if split.encoded.positions is not None else np.stack(rows)
    loss = float(task.loss(torch.from_numpy(joined), labels_of(split.encoded, order)))
    loss /= max(1, sum(split.encoded.units(i) for i in order))  # 0 where the split has no scored word
    return Evaluation(split.name, report, loss, predictions, time.perf_counter() - started)


def predict(forward: Forward, encoded: Encoded, size: int, world: World, pad_id: int) -> list[np.ndarray]:
    """Logits of each example, in order. Collective."""
    answers: dict[int, np.ndarray] = {}
    for part in gather(logits(forward, encoded, evaluation_batches(encoded, size, world.rank, world.size), pad_id)):
        answers.update(part)
    assert sorted(answers) == list(range(len(encoded))), "every example must have been predicted"
    return [answers[i] for i in range(len(encoded))]


def logits(
    forward: Forward, encoded: Encoded, batches: Sequence[tuple[int, ...]], pad_id: int
) -> dict[int, np.ndarray]:
    """Of each example in the batches, by its number: float32 [outputs], in tagging [scored words, outputs]."""
    # Logits stay on the device until the last pass has begun: fetched one by one, it would idle between them.
    passes: list[tuple[tuple[int, ...], tuple[int, ...], torch.Tensor]] = []
    # Not inference_mode: what ZeRO-3 gathers within it stays, and cannot be trained on after a step that overflowed.
    with torch.no_grad():
        for chosen in batches:
            batch = collate(encoded, chosen, pad_id)
            passes.append((chosen, batch.units, forward(batch)))
            watchdog.beat()
    found: dict[int, np.ndarray] = {}
    for chosen, units, output in passes:
        rows, ends = output.float().cpu().numpy(), np.cumsum(units)
        for example, begin, end in zip(chosen, ends - np.asarray(units), ends, strict=True):
            found[example] = rows[begin:end] if encoded.positions is not None else rows[begin]
    return found


def decode(task: Task, examples: Sequence[Example], encoded: Encoded, rows: Sequence[np.ndarray]) -> list[Prediction]:
    """The prediction of each whole example from its logits."""
    words: Sequence[Sequence[int]] = [()] * len(examples)
    if encoded.words is not None:
        of_rows = encoded.words
        words = [[word for row in encoded.rows(i) for word in of_rows[row]] for i in range(len(examples))]
    whole = zip(examples, rows, words, strict=True)
    return task.repaired(examples, [task.align(example, task.decode(own), scored) for example, own, scored in whole])


def write_files(evaluation: Evaluation, split: Split, task: Task, folder: RunFolder, config: RunConfig) -> None:
    """predictions/<split>.tsv, <split>_probabilities.tsv where the head has them, and the results under their original
    names. Rank 0 alone."""
    write(folder.prediction(split.name), "\n".join(task.rows(split.examples, evaluation.predictions)) + "\n")
    if all(prediction.scores is not None for prediction in evaluation.predictions):
        lines = ["\t".join(["index", *task.labels])]  # a column a label: what calibration is drawn from
        for example, prediction in zip(split.examples, evaluation.predictions, strict=True):
            lines.append("\t".join([example.id, *(f"{score:.6f}" for score in prediction.scores or ())]))
        write(folder.prediction(f"{split.name}_probabilities"), "\n".join(lines) + "\n")
    files = task.files(split.name, split.examples, evaluation.predictions, evaluation.report)
    for name, text in files.items():
        if name.endswith(OPTIONAL_FILES) and not config.output_all_logits:
            continue
        if name.endswith("_results.txt"):
            text = text.rstrip("\n") + f"\nloss = {evaluation.loss}\n"
        write(folder.original(name), text)

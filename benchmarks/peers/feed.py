"""What all peers share: a task's rows as token ids, the model with the standard head, and a stopwatch.

Nothing of ours but the readers of the files: a peer tokenises, labels and batches as its own users do.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import tasks
from harness.task import Example, Task

IGNORED = -100  # a label that the losses of transformers leave out


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The flags that every peer takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--task", required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, required=True, help="optimizer steps")
    parser.add_argument("--warmup", type=int, default=1, help="how many of them, the first, are not timed")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="bf16")
    return parser


def rows(task: Task, tokenizer: Any, examples: Sequence[Example], length: int, padded: bool) -> list[dict[str, Any]]:
    """Token ids and labels, padded to `length` or not at all."""
    padding = "max_length" if padded else False
    made = []
    for example in examples:
        texts = [list(example.texts)] if task.family == "tagging" else list(example.texts)
        split = task.family == "tagging"
        found = tokenizer(*texts, is_split_into_words=split, truncation=True, max_length=length, padding=padding)
        row: dict[str, Any] = dict(found)
        if split:
            words = found.word_ids()
            firsts = [None if word in words[:i] else word for i, word in enumerate(words)]
            row["labels"] = [IGNORED if word is None else task.labels.index(example.label[word]) for word in firsts]
        elif task.family == "multiclass":
            row["labels"] = task.labels.index(example.label)
        else:
            row["labels"] = [float(v) for v in example.label] if task.family == "multilabel" else float(example.label)
        made.append(row)
    return made


def longest_first(rows: list[dict[str, Any]]) -> Any:
    """The rows by length; the libraries take a list, though their types ask for a Dataset."""
    return sorted(rows, key=lambda row: -len(row["input_ids"]))


def model_for(task: Task, path: str) -> Any:
    """The transformers model with the standard head of the task's family, in float32."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    if task.family == "tagging":
        return AutoModelForTokenClassification.from_pretrained(path, num_labels=len(task.labels), dtype=torch.float32)
    kind = {"multiclass": "single_label_classification", "multilabel": "multi_label_classification"}
    return AutoModelForSequenceClassification.from_pretrained(
        path,
        num_labels=task.num_outputs,
        problem_type=kind.get(task.family, "regression"),
        dtype=torch.float32,
    )


def collator(task: Task, tokenizer: Any) -> Any:
    """Dynamic padding to a multiple of 8."""
    from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

    kind = DataCollatorForTokenClassification if task.family == "tagging" else DataCollatorWithPadding
    return kind(tokenizer, pad_to_multiple_of=8)


def load(args: argparse.Namespace) -> tuple[Task, Any]:
    """The task and the model's tokenizer."""
    from transformers import AutoTokenizer

    return tasks.get(args.task), AutoTokenizer.from_pretrained(args.model)


class Watched:
    """The collator, which sees every batch; it remembers how much was in each: (examples, tokens)."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.seen: list[tuple[int, int]] = []

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        self.seen.append((len(rows), sum(len(row["input_ids"]) for row in rows)))
        return self.inner(rows)


@dataclass
class Stopwatch:
    """Times a peer's steps and prints its last line. The device is waited for at the end of the warm-up and of the last
    step alone: between them the host may run ahead, as it does for the peer's users."""

    warmup: int
    steps: int
    ends: list[float] = field(default_factory=list)
    examples: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def step(self, examples: int, tokens: int) -> None:
        """An optimizer step has ended that saw so many examples and tokens (padding left out)."""
        if len(self.ends) + 1 in (self.warmup, self.steps) and torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.time())
        self.examples.append(examples)
        self.tokens.append(tokens)

    def report(self, evaluated: int, evaluation_seconds: float) -> None:
        """One JSON line: the program's last."""
        seconds = self.ends[-1] - self.ends[self.warmup - 1]
        print(
            json.dumps(
                {
                    "timed_from": self.ends[self.warmup - 1],
                    "examples_per_second": sum(self.examples[self.warmup :]) / seconds,
                    "tokens_per_second": sum(self.tokens[self.warmup :]) / seconds,
                    "eval_examples_per_second": evaluated / evaluation_seconds,
                    "device_mib": device_mib(),
                }
            )
        )


def device_mib() -> float:
    """The most that PyTorch had in use on the GPU in this process; 0 without one."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0

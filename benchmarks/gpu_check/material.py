"""What the parts measure with: encoders with random weights, rows, and an engine that trains on them step by step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import tasks
from benchmarks import bench
from benchmarks.gpu_check.part import Job
from benchmarks.made_up import made_up
from harness import distributed, logs, model
from harness.config import BatchPlan, RunConfig
from harness.data import collate, epoch_order
from harness.distributed import World
from harness.ds import config as ds_config
from harness.ds import engine
from harness.task import Batch
from harness.tokenizer import load_tokenizer

TASK = "chemprot"
BATCHES = 40  # that steps go through, again and again
STEPS = 10**4  # of the schedule: the learning rate hardly falls
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
NARROW = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}


@dataclass(frozen=True)
class Sizes:
    """How much each part does."""

    warmup: int  # steps that are not timed
    steps: dict[int, int]  # batch -> timed steps of a run
    settled: int  # steps before a profile: each shape came three times, so that CUDA graphs are captured
    profiled: int  # steps in a profile
    compared: int  # steps of each DeepSpeed JSON
    dev_rows: int  # that are predicted
    tasks: tuple[str, ...]  # of the whole suite
    share: float  # of the published sizes
    lengths: tuple[int, ...]  # of packed rows: 64 mod 128, where cuDNN gave NaN, and 0


FULL = Sizes(
    warmup=10, steps={32: 200, 256: 60}, settled=3 * BATCHES, profiled=10, compared=20, dev_rows=256,
    tasks=tasks.BLUE, share=1.0, lengths=(64, 192, 320, 128),
)  # fmt: skip
SMALL = Sizes(
    warmup=2, steps={32: 2, 256: 1}, settled=2, profiled=2, compared=3, dev_rows=16,
    tasks=("biosses", "hoc"), share=0.05, lengths=(64, 192),
)  # fmt: skip


def sizes(job: Job) -> Sizes:
    """Of the check, or of its small form."""
    return SMALL if job.small else FULL


def encoder(job: Job, kind: str) -> str:
    """The folder of an encoder: `base` (in the small form a tiny one), `exact` (narrow and without dropout) or
    `deberta`; made where another part has not yet."""
    folder = job.scratch / "models" / kind
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        if kind == "deberta":
            _deberta(partial, job.small)
        else:
            shape = TINY if job.small else NARROW if kind == "exact" else {}
            bench.model_folder("base", partial, **shape, **(NO_DROPOUT if kind == "exact" else {}))
        partial.rename(folder)
    return str(folder)


def _deberta(folder: Path, small: bool) -> None:
    """DeBERTa-v3's architecture at its base size, with BERT's tokenizer."""
    from transformers import DebertaV2Config, DebertaV2Model

    published: dict[str, Any] = {
        "relative_attention": True, "position_buckets": 256, "pos_att_type": ["p2c", "c2p"], "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0,
    }  # fmt: skip
    if small:
        published |= TINY | {"vocab_size": 30_522}
    torch.manual_seed(1)
    bench.save_with_tokenizer(DebertaV2Model(DebertaV2Config(**published)), folder)


def rows(job: Job, task: str) -> Path:
    """The data folder of a task: the corpus where --data has it, else made-up rows of the published number."""
    if job.data and (job.data / task).is_dir():
        return job.data / task
    folder = job.scratch / "rows" / task
    return folder if folder.is_dir() else made_up(task, folder, sizes(job).share)


@cache
def start() -> World:
    """The process group of this process, as a run joins it."""
    logs.quiet_libraries()
    world = distributed.init()
    if world.device.type == "cpu":  # DeepSpeed refuses fp16 where it is slow; PyTorch computes in it all the same
        from deepspeed.accelerator import get_accelerator

        get_accelerator().is_fp16_supported = lambda: True
    return world


def wait() -> None:
    """For all that the device has been given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Rows:
    """The first training rows of the task, in one random order whatever the seed, and again where they end."""

    def __init__(self, job: Job, config: RunConfig) -> None:
        self.size, self.task = config.per_gpu_train_batch_size, tasks.get(TASK)
        self.examples = self.task.read(rows(job, TASK), "train")[: BATCHES * self.size]
        self.encoded = self.task.features(self.examples, load_tokenizer(config), config.max_seq_length)
        self.order = epoch_order(len(self.encoded), 1, 0)

    def chosen(self, number: int) -> list[int]:
        """Which rows step `number` sees, from 0."""
        return [self.order[place % len(self.order)] for place in range(number * self.size, (number + 1) * self.size)]

    def batch(self, number: int) -> Batch:
        """They as a batch."""
        return collate(self.encoded, self.chosen(number), 0)


def settings(job: Job, kind: str, batch: int, **given: Any) -> RunConfig:
    """Of a run with that encoder."""
    usual: dict[str, Any] = {"pooling": "pooler"} if kind == "base" else {}
    usual |= {"learning_rate": 5e-5, "per_gpu_train_batch_size": batch, "do_lower_case": True, "seed": 1}
    return RunConfig(task=TASK, model_name_or_path=encoder(job, kind), **(usual | given))


class Trained:
    """An engine and real batches: what the training loop does, a step at a time."""

    def __init__(self, job: Job, config: RunConfig) -> None:
        self.world, self.rows = start(), Rows(job, config)
        task, size = self.rows.task, self.rows.size
        plan = BatchPlan(size, self.world.size, 1, size * self.world.size)
        network = model.build(config, task.num_outputs, task.per_word)
        ds = ds_config.resolve(config, self.world)
        self.engine = engine.build(network, task, config, ds, plan, STEPS, self.world)
        self.engine.train(True)

    def step(self, number: int, scale: float = 1.0) -> torch.Tensor:
        """One optimizer step; its mean loss, times `scale`."""
        return self.engine.micro_step(self.rows.batch(number), scale / self.rows.size)

    def applied(self, number: int) -> float:
        """The loss of a step that was applied: one whose fp16 gradients overflowed is made again at a lower scale."""
        while True:
            before = self.engine.metrics().skipped
            loss = float(self.step(number))
            if self.engine.metrics().skipped == before:
                return loss


@contextmanager
def trained(job: Job, kind: str, batch: int, **given: Any) -> Iterator[Trained]:
    """A `Trained`, on the GPU where there is one; its memory is given back."""
    one = Trained(job, settings(job, kind, batch, **given))
    try:
        yield one
    finally:
        one.engine.close()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

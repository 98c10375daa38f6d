"""Parts that measure: where a step's time goes, ours against its peers, what single settings bring, the whole suite."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks import bench, whole_suite
from benchmarks.gpu_check.material import TASK, Trained, encoder, rows, sizes, start, trained, wait
from benchmarks.gpu_check.part import Job
from benchmarks.gpu_check.report import NOT_MEASURED
from benchmarks.gpu_check.trace import summary

TIMED = 5  # times as many steps are timed as are in a profile
NAMED = 5  # kernels in the table; the file has more
PHASES = ("forward", "backward", "step")  # of DeepSpeed's engine; what it is not asked for is in none of them


def profile(job: Job) -> None:
    """BERT-base at each batch: the rate, kernels a step, idle share of the device, host time by phase."""
    for batch in sizes(job).steps:
        title = f"batch {batch}"
        with job.report.attempt(title), trained(job, "base", batch) as one:
            for number in range(sizes(job).settled):
                one.step(number)
            seconds, host = _timed(one, TIMED * sizes(job).profiled)
            job.report.measure(title, f"{batch / seconds:,.0f} examples/s, {1000 * seconds:.2f} ms a step",
                               examples_per_second=batch / seconds, seconds=seconds)  # fmt: skip
            phases = ", ".join(f"{name} {1000 * spent:.2f} ms" for name, spent in host.items())
            job.report.measure(f"{title}: host", phases, **host)
            found = _profiled(one, sizes(job).profiled, job.scratch / "trace.json")
            # Of the step as it was timed: in a profile the host is slower, and the device idle for longer.
            found["idle"] = max(0.0, 1 - found["busy_ms"] / 1000 / seconds)
            counts = ", ".join(f"{found[name]:.0f} {name}" for name in ("kernels", "launches", "copies", "waits"))
            value = f"{counts}; busy {found['busy_ms']:.2f} ms, idle {100 * found['idle']:.0f} %"
            job.report.measure(f"{title}: device", value, **found)
            for name, spent, times in found["longest"][:NAMED]:
                job.report.measure(f"{title}: kernel", f"{spent:.3f} ms in {times:.0f} calls: {name}")


def _timed(one: Trained, steps: int) -> tuple[float, dict[str, float]]:
    """Seconds of a step, and of the host's in each phase, without a profiler."""
    spent = dict.fromkeys(("collate", *PHASES), 0.0)

    def clocked(call: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def inner(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **more)
            finally:
                spent[phase] += time.perf_counter() - began

        return inner

    collate, inner = clocked(one.rows.batch, "collate"), one.engine.inner
    with ExitStack() as stack:
        for phase in PHASES:
            stack.enter_context(mock.patch.object(inner, phase, clocked(getattr(inner, phase), phase)))
        wait()
        began = time.perf_counter()
        for number in range(steps):
            one.engine.micro_step(collate(number), 1 / one.rows.size)
        host = time.perf_counter() - began
        wait()
        seconds = time.perf_counter() - began
    return seconds / steps, {name: value / steps for name, value in (spent | {"all": host}).items()}


def _profiled(one: Trained, steps: int, file: Path) -> dict[str, Any]:
    """The numbers of a trace over so many steps."""
    on_gpu = [torch.profiler.ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, *on_gpu]) as on:
        for number in range(steps):
            one.step(number)
        wait()
    on.export_chrome_trace(str(file))
    return summary(json.loads(file.read_text(encoding="utf-8")), steps)


def peers_32(job: Job) -> None:
    """Ours, each peer, at a batch of 32."""
    _peers(job, 32)


def peers_256(job: Job) -> None:
    """The same at 256."""
    if job.small:  # the same code once more
        job.report.row("all", "as at 32", NOT_MEASURED)
        return
    _peers(job, 256)


def _peers(job: Job, batch: int) -> None:
    """Ours in fp16 and bf16, then the peers, with benchmarks.bench: the same rows, a process each."""
    measured = Measured(job, "base", batch)
    measured.ours("ours", [])
    if not job.small:  # other flags for the same programs
        measured.ours("ours_bf16", ["--precision", "bf16"])
        measured.peer("hf")
        measured.peer("hf_bf16")
    for name in ("hf_deepspeed", "accelerate", "original"):
        measured.peer(name)


class Measured:
    """Systems on the same rows, each a row of the table; the first is what the others are compared with."""

    def __init__(self, job: Job, kind: str, batch: int) -> None:
        self.job, self.model, self.first = job, encoder(job, kind), 0.0
        self.pooling = ["--pooling", "pooler" if kind == "base" else "cls"]  # as the peers' heads
        size = sizes(job)
        steps = size.warmup + size.steps[batch]
        self.args = argparse.Namespace(batch=batch, steps=steps, warmup=size.warmup)
        self.place = job.scratch / f"{job.report.content['part']}-{batch}"
        self.data = bench.cut_data(TASK, rows(job, TASK), self.place / "data" / TASK, steps * batch, size.dev_rows)

    def ours(self, name: str, more: Sequence[str]) -> None:
        """A run of launch/train.py with `more` flags."""
        folder = self.place / "run"
        self._row(name, lambda: bench.ours(TASK, self.data, self.model, self.args, folder, [*self.pooling, *more]))
        shutil.rmtree(folder, ignore_errors=True)

    def peer(self, name: str) -> None:
        """A peer of benchmarks.bench."""
        self._row(name, lambda: bench.peer(name, TASK, self.data, self.model, self.args, self.place / f"{name}.log"))

    def _row(self, name: str, measure: Callable[[], dict[str, float]]) -> None:
        with self.job.report.attempt(name):
            found = measure()
            rate = found["examples_per_second"]
            self.first = self.first or rate
            against = "" if self.first == rate else f" (the first is {self.first / rate:.2f} x as fast)"
            value = f"{rate:,.0f} examples/s{against}, {found['device_mib']:,.0f} MiB, evaluation "
            value += f"{found['eval_examples_per_second']:,.0f} examples/s, start {found['startup_seconds']:.0f} s"
            self.job.report.measure(name, value, **found)


def graphs(job: Job) -> None:
    """CUDA graphs on and off."""
    for batch in [32] if job.small else sizes(job).steps:
        _with_and_without(job, "--no-cuda_graphs", batch)


def compiled(job: Job) -> None:
    """--compile on and off."""
    if job.small:  # a minute of compiling, which tests/integration/test_compiled.py has as well
        job.report.row("all", "as CUDA graphs on and off", NOT_MEASURED)
        return
    _with_and_without(job, "--compile", 32)


def _with_and_without(job: Job, flag: str, batch: int) -> None:
    measured = Measured(job, "base", batch)
    if not job.small:
        measured.ours(f"without {flag}, batch {batch}", [])
    measured.ours(f"{flag}, batch {batch}", [flag])
    shutil.rmtree(measured.place)


def deberta(job: Job) -> None:
    """An encoder that cannot be packed, of DeBERTa-v3's base size, against Hugging Face Trainer."""
    measured = Measured(job, "deberta", 32)
    measured.ours("ours", [])
    if not job.small:
        measured.peer("hf")


def suite(job: Job) -> None:
    """One real epoch of each task, and the time of all with the recipes' epochs."""
    start()
    total, model, size = 0.0, encoder(job, "base"), sizes(job)
    more = ["--num_train_epochs", "1"] if not job.small else ["--max_steps", "2"]
    for task in size.tasks:
        with job.report.attempt(task):
            folder = job.scratch / "suite" / task
            found = whole_suite.run(task, rows(job, task), model, folder, more)
            shutil.rmtree(folder)
            total += found["recipe_seconds"]
            value = f"{found['seconds']:.1f} s with one epoch, {found['recipe_seconds']:.0f} s with the recipe's "
            value += f"{found['recipe_epochs']:g}; {found['examples_per_second']:,.0f} examples/s in training"
            job.report.measure(task, value, **{k: v for k, v in found.items() if k != "task"})
    if all(row["outcome"] != "failed" for row in job.report.content["rows"]):
        job.report.measure("all", f"{total / 60:.1f} min, start and final scores of each run included", seconds=total)

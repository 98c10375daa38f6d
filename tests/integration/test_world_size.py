"""A run goes on with another number of devices: the same batch, schedule and order of data, at any ZeRO stage."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from encoders import tiny_encoder
from hypothesis import given
from hypothesis import strategies as st
from running import arguments, run_on_ranks

from harness.config import BatchPlan, RunConfig, batch_plan
from harness.data import epoch_steps, steps_per_epoch
from harness.task import Encoded

CONFIGS = ("fp32", "bf16_autocast", "fp16_zero0", "bf16_zero1", "fp16_zero2", "fp16_zero3")


@given(
    examples=st.integers(1, 90),
    micro=st.integers(1, 8),
    accumulation=st.integers(1, 3),
    worlds=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    seed=st.integers(0, 5),
)
def test_each_example_is_seen_once_an_epoch_whatever_the_devices(
    examples: int, micro: int, accumulation: int, worlds: list[int], seed: int
) -> None:
    config = RunConfig(per_gpu_train_batch_size=micro, gradient_accumulation_steps=accumulation)
    first = batch_plan(config, worlds[0])
    encoded = Encoded([[2, 3]] * examples, None, [0] * examples)
    steps = steps_per_epoch(examples, first)
    seen: Counter[int] = Counter()
    for part, world in enumerate(worlds):  # each goes on where the one before stopped
        plan = batch_plan(config, world, None if part == 0 else first.total)
        assert (plan.total, steps_per_epoch(examples, plan)) == (first.total, steps) and plan.micro <= micro
        begin, end = (steps * k // len(worlds) for k in (part, part + 1))
        seen += taken(encoded, plan, seed, begin, end)
    assert seen == Counter(range(examples))


def taken(encoded: Encoded, plan: BatchPlan, seed: int, begin: int, end: int) -> Counter[int]:
    """Examples of the steps from `begin` to before `end` over all ranks, as often as they count."""
    ranks = [list(epoch_steps(encoded, plan, seed, 0, rank, begin))[: end - begin] for rank in range(plan.world)]
    return Counter(i for steps in ranks for passes in steps for micro in passes if micro.scale for i in micro.examples)


@pytest.mark.parametrize(
    ("world", "micro", "accumulation"),
    [(1, 8, 4), (2, 8, 2), (3, 6, 2), (4, 8, 1), (8, 4, 1), (32, 1, 1), (64, 1, 1)],
)
def test_batch_of_a_run_begun_on_two_devices(world: int, micro: int, accumulation: int) -> None:
    config = RunConfig(per_gpu_train_batch_size=8, gradient_accumulation_steps=2)
    total = batch_plan(config, 2).total
    assert batch_plan(config, world, total) == BatchPlan(micro, world, accumulation, 32)


def lines(model: Path, output: Path) -> list[list[str]]:
    more = ("--precision", "auto", "--num_train_epochs", "2", "--save_steps", "4", "--keep_checkpoints", "99",
            "--logging_steps", "1")  # fmt: skip
    return [arguments("biosses", model, output / name, *more, "--ds_config", name) for name in CONFIGS]


def stopped(whole: Path, copy: Path) -> Path:
    """The run folders as a kill in the middle of the second epoch leaves them."""
    shutil.copytree(whole, copy)
    for folder in copy.iterdir():
        shutil.rmtree(folder / "model")
        (folder / "result.json").unlink()
        for path in (folder / "checkpoints").iterdir():
            if path.name > "step-0001-000003":
                shutil.rmtree(path)
    return copy


def losses(folder: Path) -> list[float]:
    rows = [json.loads(text)["values"] for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


@pytest.mark.slow
def test_a_run_of_two_ranks_goes_on_with_one_or_four(tmp_path: Path) -> None:
    """Without dropout the losses are the same but for rounding, so that a step more or less would show."""
    model = tiny_encoder(tmp_path / "model")
    whole = tmp_path / "2"
    undisturbed = run_on_ranks(2, lines(model, whole), tmp_path / "answers2")
    for world in (1, 4):
        folder = stopped(whole, tmp_path / str(world))
        results: list[Any] = run_on_ranks(world, lines(model, folder), tmp_path / f"answers{world}")
        for name, before, after in zip(CONFIGS, undisturbed, results, strict=True):
            assert not isinstance(after, str), after
            assert (after["world_size"], after["examples_per_step"]) == (world, 16)
            if not name.startswith("fp16"):  # where a step may overflow on one number of ranks and not on another
                assert after["steps"] == before["steps"] == 20
            if name == "fp32":  # half precision moves the correlation of so small a model by more
                assert abs(after["scores"]["dev"]["score"] - before["scores"]["dev"]["score"]) < 0.005
            assert after["scores"]["dev"]["loss"] == pytest.approx(before["scores"]["dev"]["loss"], rel=0.01)
            log = (folder / name / "train.log").read_text()
            assert "was written by 2 processes" in log
            tolerance = 1e-5 if name == "fp32" else 3e-2
            assert len(losses(whole / name)) == 20
            assert losses(folder / name) == pytest.approx(losses(whole / name), rel=tolerance, abs=tolerance)

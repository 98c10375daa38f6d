"""Budgets of a training step on a GPU: what it starts, how often it waits, what it copies, how many shapes it has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tasks
from benchmarks import operations
from harness import distributed
from harness.config import RunConfig
from harness.distributed import World

# The most that BERT-base may start in a step with 32 sentences.
FORWARD, BACKWARD = 230, 340
STEP = {"fp16_zero0": 12, "fp16_zero1": 60, "fp16_zero2": 60, "bf16_zero1": 60, "fp32": 12}
WAITS = {"fp16_zero0": 0, "fp16_zero1": 2, "fp16_zero2": 2, "bf16_zero1": 2, "fp32": 0}  # ZeRO reads the norm
COPIES = 1
SHAPES = 8


@pytest.fixture(scope="module")
def world() -> World:
    return distributed.init(no_cuda=True)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return operations.narrow(12, tmp_path_factory.mktemp("bert"), "pooler")


@pytest.mark.parametrize(
    "name", [name if name == "fp16_zero0" else pytest.param(name, marks=pytest.mark.slow) for name in STEP]
)
def test_a_step_starts_no_more_than_its_budget(bert: RunConfig, world: World, name: str) -> None:
    lengths = np.random.default_rng(1).choice(operations.lengths_of("chemprot"), 32).tolist()
    run = RunConfig.from_dict(bert.to_dict() | {"ds_config": name})
    found, waits = operations.on_gpu(run, world, lengths)
    starts = {phase: count.by_name.total() for phase, count in found.items()}
    assert starts["forward"] <= FORWARD
    assert starts["backward"] <= BACKWARD
    assert starts["step"] <= STEP[name]
    assert waits <= WAITS[name]
    assert sum(count.copies for count in found.values()) <= COPIES
    # It is a whole step, and on a GPU's branches.
    assert found["step"].by_name["_fused_adamw_"] > 0 and found["backward"].by_name["mm"] >= 50
    assert found["forward"].by_name["_scaled_dot_product_efficient_attention"] == 12


@pytest.mark.parametrize("task", tasks.BLUE)
def test_an_epoch_has_few_shapes(task: str) -> None:
    lengths = operations.lengths_of(task)
    assert lengths.max() <= operations.LONGEST and len(lengths) > 60
    assert len(operations.shapes(lengths)[0]) <= SHAPES


class TestCount:
    def test_of_copies(self) -> None:
        def copies() -> None:
            there = torch.ones(2).to("meta")
            there.copy_(torch.ones(2))
            there.to(torch.float16).copy_(there)

        count = operations.counted(copies)
        assert (count.copies, count.waits) == (2, 0)

    def test_of_waits(self) -> None:
        there, pinned = torch.ones(2, device="meta"), torch.ones(2)
        with operations.Count() as count:
            assert float(there.sum()) == 0 and there.cpu().tolist() == [0, 0] and there.tolist() == [0, 0]
            assert count.waits == 3
            pinned.copy_(there, non_blocking=True)
            assert float(pinned.sum()) == 0
        assert (count.copies, count.read) == (0, 2)

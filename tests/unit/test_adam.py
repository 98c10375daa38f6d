"""AdamW under every ds_config is that of the original: step by step, after overflows, and in a resumed run."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_engine import ALL, CrossEntropy, batches, copied, custom, fresh, furthest, settings, start
from test_engine import own_linear as own_linear
from test_engine import world as world
from torch import nn

from benchmarks.peers.original_adam import BETA2, OriginalAdamW
from harness import parameters
from harness.config import RunConfig
from harness.distributed import World
from harness.ds import optimizer_state
from harness.ds.engine import Engine

STEPS = 24


def by_hand(run: RunConfig, kind: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of the same training without DeepSpeed, with an optimizer of that kind."""
    from transformers import get_linear_schedule_with_warmup

    net = fresh()
    optimizer = kind(parameters.groups(net, run), lr=run.learning_rate, eps=run.adam_epsilon)
    schedule = get_linear_schedule_with_warmup(optimizer, run.warmup_steps, STEPS)
    losses = []
    for batch in batches(STEPS):
        loss = CrossEntropy().loss(net(batch), batch.labels) / 8
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), run.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, {name: weight.detach() for name, weight in net.named_parameters()}


@pytest.mark.parametrize(
    "given",
    [
        {"adam_epsilon": 1e-8, "weight_decay": 0.0},
        {"adam_epsilon": 1e-5, "weight_decay": 0.1, "warmup_steps": 3, "learning_rate": 3e-3},
        {"adam_epsilon": 1e-4, "weight_decay": 10.0},
    ],
    ids=["as published", "warm-up and decay", "much of both"],
)
def test_losses_are_those_of_the_rule(world: World, given: dict[str, Any]) -> None:
    run = settings("fp32", **given)
    running = start(world, run, steps=STEPS)
    losses = [float(running.micro_step(batch, 1 / 8)) for batch in batches(STEPS)]
    weights = copied(running)
    running.close()
    expected, by_rule = by_hand(run, OriginalAdamW)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-6)
    if given["adam_epsilon"] > 1e-8:  # below that, biases without a gradient go wherever rounding errors send them
        assert furthest(weights, by_rule) < 1e-5
    torchs, _ = by_hand(run, torch.optim.AdamW)
    assert np.abs(np.subtract(torchs, expected)).max() > 1e-5


def listen(running: Engine) -> list[dict[str, Any]]:
    """Adam's settings at each of its steps from now on, and how many steps it counts before it."""
    seen: list[dict[str, Any]] = []

    def hook(adam: torch.optim.Optimizer, *_: Any) -> None:
        for group in adam.param_groups:
            if group["params"]:  # under ZeRO-3 a group has some in its own turn alone
                steps = int(adam.state.get(group["params"][0], {}).get("step", 0))
                seen.append({**{key: value for key, value in group.items() if key != "params"}, "steps": steps})

    optimizer_state.of(running.inner).adam.register_step_pre_hook(hook)
    return seen


def check(seen: list[dict[str, Any]], run: RunConfig, steps: list[int]) -> None:
    assert sorted({one["steps"] for one in seen}) == steps
    decays = set()
    for one in seen:
        assert one["eps"] * math.sqrt(1 - BETA2 ** (one["steps"] + 1)) == pytest.approx(run.adam_epsilon)
        usual = run.learning_rate * (1 - one["steps"] / 20)  # as `start` lays out the schedule
        product = one["lr"] * one["weight_decay"]
        decays.add(product > 0)
        assert one["lr"] == pytest.approx(usual * (1 - product))
        assert product == pytest.approx(usual * run.weight_decay) or product == 0
    assert decays == {True, False}


@pytest.mark.usefixtures("fp16_allowed")
@pytest.mark.parametrize("name", ALL)
def test_every_ds_config(world: World, tmp_path: Path, name: str) -> None:
    """Also in a resumed run; and nothing of it is seen outside a step."""
    run = settings(name, weight_decay=3.0)
    running = start(world, run)
    seen = listen(running)
    before = [
        {key: copy.copy(value) for key, value in group.items() if key not in ("params", "lr")}
        for group in running.inner.optimizer.param_groups
    ]
    for batch in batches()[:2]:
        running.micro_step(batch, 1 / 8)
    after = running.inner.optimizer.param_groups
    assert [{key: group[key] for key in own} for group, own in zip(after, before, strict=True)] == before
    assert running.metrics().lr == pytest.approx(run.learning_rate * 0.9)
    check(seen, run, [0, 1])
    running.save(tmp_path)
    running.close()
    again = start(world, run)
    again.load(tmp_path)
    seen = listen(again)
    again.micro_step(batches()[2], 1 / 8)
    check(seen, run, [2])
    again.close()


@pytest.mark.usefixtures("fp16_allowed")
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_steps_that_overflowed_are_not_counted(world: World, tmp_path: Path, stage: int) -> None:
    fp16 = {"enabled": True, "loss_scale": 0, "initial_scale_power": 24, "hysteresis": 1, "min_loss_scale": 1}
    run = settings(custom(tmp_path, fp16=fp16, zero_optimization={"stage": stage}))
    running = start(world, run)
    seen = listen(running)
    while running.applied_steps < 2:
        running.micro_step(batches()[0], 1 / 8)
    assert running.metrics().skipped > 0
    check(seen, run, [0, 1])
    running.close()


def test_accumulated_passes_are_one_step(world: World) -> None:
    run = settings("fp32", gradient_accumulation_steps=2)
    running = start(world, run)
    seen = listen(running)
    for batch in batches()[:4]:
        running.micro_step(batch, 1 / 8)
    check(seen, run, [0, 1])
    running.close()


def test_all_that_a_weight_was_may_be_decayed(world: World) -> None:
    """A rate times a decay of 1: the original's weights are 0 then, and no number is divided by 0."""
    running = start(world, settings("fp32", learning_rate=1.0, weight_decay=1.0))
    running.micro_step(batches()[0], 1 / 8)
    weights = running.weights()
    assert float(weights["classifier.weight"].abs().max()) < 1e-5
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    running.close()

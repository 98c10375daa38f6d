"""A fixed DeepSpeed engine does as DeepSpeed does, in fewer operations, and rightly where that does not."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from running import assert_user_error

from benchmarks import operations
from harness import distributed
from harness.config import RunConfig
from harness.distributed import World
from harness.ds import config as ds_config
from harness.ds import fixes
from harness.ds.engine import Engine, OriginalAdam
from harness.task import Batch

FIXED = ("fp16_zero0", "fp16_zero1", "fp16_zero2", "bf16_zero1", "fp32")
Start = Callable[..., tuple[Engine, Batch]]


@pytest.fixture(scope="module")
def world() -> World:
    return distributed.init(no_cuda=True)


@pytest.fixture
def start(world: World, tmp_path: Path, fp16_allowed: None) -> Start:
    """Two steps of training under a JSON of ds_configs/, where asked for with other settings of fp16."""

    def started(name: str, layers: int = 2, **fp16: Any) -> tuple[Engine, Batch]:
        given = json.loads((ds_config.CONFIGS / f"{name}.json").read_text())
        if "fp16" in given:
            given["fp16"] |= {"initial_scale_power": 10, **fp16}  # at which nothing overflows
        file = tmp_path / "settings.json"
        file.write_text(json.dumps(given))
        settings = operations.narrow(layers, tmp_path / f"{layers}-layers").to_dict() | {"ds_config": str(file)}
        torch.manual_seed(1)
        return operations.build(RunConfig.from_dict(settings), world)

    return started


@pytest.mark.parametrize("name", FIXED)
def test_the_steps_operations_do_not_grow_with_the_number_of_weights(start: Start, name: str) -> None:
    counts = []
    for layers in (1, 5):
        trained, batch = start(name, layers)
        _, step = operations.step(trained, batch)
        trained.close()
        counts.append(step)
    few, many = counts
    assert few.by_name == many.by_name
    assert few.waits == {"fp32": 0, "fp16_zero0": 0}.get(name, few.waits) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fp16_zero0", "fp16_zero1", "fp16_zero2", "bf16_zero1", "fp32"])
def test_trains_as_deepspeed_alone(start: Start, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def course(name: str) -> tuple[dict[str, torch.Tensor], list[float]]:
        trained, batch = start(name)
        norms = []
        for _ in range(4):
            trained.micro_step(batch, 1 / len(batch.examples))
            norms.append(trained.metrics().grad_norm or math.nan)
        weights = {key: value.clone() for key, value in trained.weights().items()}
        trained.close()
        return weights, norms

    initial = start(name)[0].weights()
    weights, norms = course(name)
    monkeypatch.setattr(fixes, "apply", lambda inner, world: None)
    # In fp16 at stage 0 and in float32 DeepSpeed alone forgets scale, first step or norm: stage 1 does not.
    alone, norms_alone = course({"fp16_zero0": "fp16_zero1"}.get(name, name))
    if name != "fp32":
        assert norms == pytest.approx(norms_alone, rel=2e-3)
    apart = max(float((weights[key] - alone[key]).abs().max()) for key in weights)
    moved = max(float((weights[key] - initial[key]).abs().max()) for key in weights)
    assert apart < (0.05 if name == "fp16_zero0" else 0.01) * moved


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fp16_zero0", "fp16_zero1", "fp16_zero2", "fp16_zero2_offload", "bf16_zero1"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_that_overflowed_is_found(start: Start, name: str, value: float) -> None:
    trained, batch = start(name, hysteresis=1)
    before = {key: weight.clone() for key, weight in trained.weights().items()}
    bias = trained.module.classifier.bias

    def overflow(gradient: torch.Tensor) -> torch.Tensor:
        return torch.cat([gradient[:1] * 0 + value, gradient[1:]])

    handle = bias.register_hook(overflow)
    trained.micro_step(batch, 1 / len(batch.examples))
    handle.remove()
    after = trained.weights()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert trained.metrics().skipped == 1
    assert trained.metrics().loss_scale == (None if name == "bf16_zero1" else 512)
    trained.micro_step(batch, 1 / len(batch.examples))
    assert trained.applied_steps == 3 and math.isfinite(trained.metrics().grad_norm or math.nan)
    trained.close()


def given_gradients(trained: Engine, value: float) -> None:
    """Other gradients for every parameter, `value` at the first place of the first."""
    torch.manual_seed(5)
    for parameter in trained._fp16_step.fp16:
        parameter.grad = torch.randn_like(parameter)
    trained._fp16_step.fp16[0].grad.view(-1)[0] = value


@pytest.mark.parametrize(("max_grad_norm", "largest"), [(1.0, 1.0), (1e30, 1.0), (1e3, 60.0)])
def test_scale_and_clipping_are_one_factor(start: Start, max_grad_norm: float, largest: float) -> None:
    """Equal to clipped and unscaled gradients that plain AdamW steps by."""
    trained, _ = start("fp16_zero0")
    optimizer, step = trained.inner.optimizer, trained._fp16_step
    optimizer.clip_grad = max_grad_norm
    given_gradients(trained, largest)
    unscaled = [parameter.grad.double() / optimizer.loss_scale for parameter in step.fp16]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in unscaled]))
    factor = min(1.0, max_grad_norm / (float(norm) + 1e-6))
    plain = torch.optim.AdamW([weight.detach().clone().requires_grad_() for weight in step.fp32], lr=1e-3, fused=True)
    own = optimizer.optimizer
    for weight, other, gradient in zip(step.fp32, plain.param_groups[0]["params"], unscaled, strict=True):
        plain.state[other] = {name: value.clone() for name, value in own.state[weight].items()}
        other.grad = (gradient * factor).float()
    plain.param_groups[0] |= {name: own.param_groups[0][name] for name in ("lr", "betas", "eps", "weight_decay")}
    OriginalAdam(plain).steps = trained._adam.steps
    optimizer.step()
    plain.step()
    for weight, other in zip(step.fp32, plain.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=6e-11)
    trained.close()


def test_the_host_learns_of_an_overflow_between_forward_and_backward(start: Start) -> None:
    """Until then the step counts as applied; afterwards nothing is as if it had been."""
    trained, batch = start("fp16_zero0")
    inner, adam = trained.inner, trained.inner.optimizer.optimizer
    first = adam.state[trained._fp16_step.fp32[0]]
    steps, rate, scale = float(first["step"]), adam.param_groups[0]["lr"], inner.optimizer.loss_scale
    given_gradients(trained, math.inf)
    with operations.Count() as count:
        inner.step()
    assert count.waits == 0 and (inner.skipped_steps, inner.global_steps) == (0, 3)
    trained._unsettled = True
    scales: list[float] = []
    handle = trained.module.classifier.register_forward_hook(lambda *_: scales.append(inner.optimizer.loss_scale))
    trained.micro_step(batch, 1 / len(batch.examples))
    handle.remove()
    assert scales == [scale] and inner.optimizer.loss_scale == scale / 2
    assert (inner.skipped_steps, trained.applied_steps) == (1, 3)
    assert float(first["step"]) == steps + 1 == trained._adam.steps
    assert adam.param_groups[0]["lr"] < rate
    trained.close()


def test_gradients_are_divided_by_the_scale_that_they_had(start: Start) -> None:
    """DeepSpeed's stage 0 doubles the scale where it is time to, and divides by the doubled one."""
    trained, _ = start("fp16_zero0", loss_scale_window=1)
    optimizer = trained.inner.optimizer
    scale, fp16, fp32 = optimizer.loss_scale, optimizer.fp16_groups[0][0], optimizer.fp32_groups[0][0]
    moment = optimizer.optimizer.state[fp32]["exp_avg"]
    for group in optimizer.fp16_groups:
        for other in group:
            other.grad = torch.zeros_like(other)
    fp16.grad = torch.full_like(fp16, 2**-10 * scale)  # norm 2**-10 * sqrt(numel), far below where clipping begins
    expected = 0.9 * moment + 0.1 * 2**-10
    optimizer.step()
    assert optimizer.loss_scale == 2 * scale
    torch.testing.assert_close(moment, expected)
    assert optimizer._global_grad_norm == pytest.approx(2**-10 * math.sqrt(fp16.numel()), rel=1e-4)
    trained.close()


def test_ranks_exchange_gradients_in_fp16(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 they would be twice as large; and a gradient near the largest number of fp16 survives the mean."""
    trained, _ = start("fp16_zero0")
    step = trained._fp16_step
    assert step is not None
    sent: list[torch.Tensor] = []

    def from_two_equal_ranks(tensor: torch.Tensor) -> None:
        sent.append(tensor.clone())
        tensor *= 2

    monkeypatch.setattr(step, "world", dataclasses.replace(step.world, size=2))
    monkeypatch.setattr(dist, "all_reduce", from_two_equal_ranks)
    largest = torch.finfo(torch.float16).max
    for parameter in step.fp16:
        parameter.grad = torch.zeros_like(parameter)
    step.fp16[0].grad[0] = largest  # type: ignore[index]
    step()
    assert [(each.dtype, each.numel()) for each in sent] == [(torch.float16, step.flat.numel())]
    assert sent[0].max() == largest / 2 and step.settle()
    trained.close()


def test_an_attribute_to_be_replaced_that_is_gone_is_named(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a name that nobody calls a fix would change nothing, and gradients would be wrong."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    monkeypatch.delattr(DeepSpeedEngine, "clip_fp32_gradients")
    assert_user_error(lambda: start("fp32"), "DeepSpeedEngine.clip_fp32_gradients is missing", "install a version")

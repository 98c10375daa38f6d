"""Captured passes: the same numbers in the same places as passes that are started one operation after another."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import free_port, start_processes

import tasks
from harness import distributed, model
from harness.config import BatchPlan, RunConfig
from harness.data import collate
from harness.distributed import World
from harness.ds import config as ds_config
from harness.ds import engine, graphs
from harness.ds.engine import Engine
from harness.rows import PackedBatch, equal_rows, in_rows
from harness.task import Batch, Encoded
from harness.tokenizer import load_tokenizer

FOUR = ("medsts", "bc5cdr_disease", "mednli", "hoc")  # one of each family
pytestmark = pytest.mark.usefixtures("fp16_allowed")


@pytest.fixture(scope="module")
def world() -> World:
    return distributed.init(no_cuda=True)


class StandIn:
    """In the place of graphs.cuda_capture: what is captured is not done then, and a replay does it."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, action: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            action()

        return replay


def start(world: World, encoder: Path, name: str, **more: Any) -> tuple[Engine, list[Batch]]:
    """(an engine with dropout, in rows as on a GPU, batches of which several have the same shape); `more`: settings."""
    usual = {"ds_config": "fp16_zero0", "learning_rate": 1e-3}
    config = RunConfig(task=name, model_name_or_path=str(encoder), **usual, **more)
    task, tokenizer = tasks.get(name), load_tokenizer(config)
    examples = task.read(tasks.sample_dir(name), "train")[:12]
    encoded = task.features(examples, tokenizer, 64 if config.stride is None else 24, config.stride)
    net = model.build(config, task.num_outputs, task.per_word).train()
    net.layout = dataclasses.replace(net.layout, few_shapes=True)
    plan = BatchPlan(4, world.size, 1, 4 * world.size)
    torch.manual_seed(3 + world.rank)
    running = engine.build(net, task, config, ds_config.resolve(config, world), plan, 20, world)
    pad = int(tokenizer.pad_token_id)
    first = (0, 3, 6, 1, 4, 7, 2, 5) if config.stride is None else (0, 3) * 4  # windows have many shapes
    return running, [collate(encoded, [i, i + 1, i + 2, (i + 5) % 12], pad) for i in first]


def course(running: Engine, batches: list[Batch]) -> tuple[list[float], dict[str, torch.Tensor]]:
    losses = [float(running.micro_step(batch, 1 / sum(batch.units))) for batch in batches]
    weights = {name: weight.clone() for name, weight in running.weights().items()}
    running.close()
    return losses, weights


@pytest.mark.parametrize(
    ("name", "more"), [*((name, {}) for name in FOUR), ("mednli", {"lora_rank": 4}), ("mednli", {"stride": 8})]
)
def test_replayed_passes_are_those_that_were_recorded(
    name: str, more: dict[str, int], world: World, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With adapters too, where nothing else has a gradient, and of windows."""
    running, batches = start(world, tiny_bert, name, **more)
    stand_in = StandIn()
    running.use_graphs(stand_in)
    losses, weights = course(running, batches)
    assert stand_in.captured >= 2 and stand_in.replayed >= 6
    monkeypatch.setattr(graphs, "CAPTURED_AT", 10**9)
    eager, batches = start(world, tiny_bert, name, **more)
    never = StandIn()
    eager.use_graphs(never)
    assert course(eager, batches)[0] == losses and never.captured == 0
    eager, batches = start(world, tiny_bert, name, **more)
    eager.use_graphs(never)
    _, expected = course(eager, batches)
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


def _rank(rank: int, port: int, encoder: str, folder: str) -> None:
    """One of two ranks, whose shapes come for the third time at different steps; leaves its weights."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    world = distributed.init(no_cuda=True)
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True
    for name, captured_at in (("captured", 3), ("eager", 10**9)):
        graphs.CAPTURED_AT = captured_at
        running, batches = start(world, Path(encoder), "mednli")
        stand_in = StandIn()
        running.use_graphs(stand_in)
        batches = [batches[0] if rank else each for each in batches]
        weights = course(running, batches)[1] | {"captured": torch.tensor(stand_in.captured)}
        torch.save(weights, Path(folder) / f"{name}-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_reduce_after_a_replay(tiny_bert: Path, tmp_path: Path) -> None:
    start_processes(_rank, (free_port(), str(tiny_bert), str(tmp_path)), 2)
    found = {path.stem: torch.load(path, weights_only=True) for path in tmp_path.glob("*.pt")}
    assert [int(found[name].pop("captured")) > 0 for name in sorted(found)] == [True, True, False, False]
    for name, weights in found.items():
        assert all(torch.equal(weights[key], found["eager-0"][key]) for key in weights), name


def test_an_overflow_is_left_out_and_halves_the_scale(world: World, tiny_bert: Path) -> None:
    running, batches = start(world, tiny_bert, "mednli")
    running.use_graphs(StandIn())
    for batch in batches[:5]:
        running.micro_step(batch, 0.25)
    before = {name: weight.clone() for name, weight in running.weights().items()}
    scale, applied = running.metrics().loss_scale, running.applied_steps
    assert scale is not None
    running.micro_step(batches[5], 1e30)
    assert all(torch.equal(before[name], weight) for name, weight in running.weights().items())
    running.micro_step(batches[6], 0.25)
    metrics = running.metrics()
    assert metrics.loss_scale == scale / 2 == float(running.graphs.loss_scale)  # type: ignore[union-attr]
    assert (metrics.skipped, running.applied_steps) == (1, applied + 1) and math.isfinite(metrics.grad_norm or math.nan)
    running.close()


def test_an_encoder_that_cannot_be_recorded(
    world: World, tiny_bert: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    running, batches = start(world, tiny_bert, "hoc")
    running.use_graphs(refuse)
    losses, weights = course(running, batches)
    assert [r.getMessage() for r in caplog.records if "cuda_graphs" in r.getMessage()] == [
        "--cuda_graphs: not with this encoder (operation not permitted when stream is capturing)."
    ]
    eager, batches = start(world, tiny_bert, "hoc")
    expected, expected_weights = course(eager, batches)
    assert losses == expected and all(torch.equal(weights[key], expected_weights[key]) for key in weights)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    labels=st.sampled_from(["classes", "score", "several"]),
    segments=st.booleans(),
)
def test_a_batch_in_one_buffer(lengths: list[int], labels: str, segments: bool) -> None:
    draw = np.random.default_rng(sum(lengths))
    ids = [draw.integers(1, 90, length).tolist() for length in lengths]
    given_labels: dict[str, list[Any]] = {
        "classes": draw.integers(0, 3, len(lengths)).tolist(),
        "score": draw.random(len(lengths)).tolist(),
        "several": draw.random((len(lengths), 3)).tolist(),
    }
    encoded = Encoded(ids, [[1] * length for length in lengths] if segments else None, given_labels[labels])
    batch = collate(encoded, range(len(lengths)), 0)
    packed = in_rows(batch, np.asarray(lengths), equal_rows(np.asarray(lengths)), 2)
    buffer = packed.flatten()
    again = packed.within(buffer.clone())
    for each in dataclasses.fields(PackedBatch):
        one, other = getattr(packed, each.name), getattr(again, each.name)
        same = torch.equal(one, other) and one.dtype == other.dtype if isinstance(one, torch.Tensor) else one is other
        assert same or one == other
    other_ids = Encoded([[number + 1 for number in row] for row in ids], encoded.token_type_ids, encoded.labels)
    second = collate(other_ids, range(len(lengths)), 0)
    assert in_rows(second, np.asarray(lengths), equal_rows(np.asarray(lengths)), 2).shapes() == packed.shapes()


def test_means_of_long_examples_in_half_precision(tiny_bert: Path) -> None:
    """The sum of 512 tokens may be more than fp16 holds, their mean is not."""
    from harness.packing import Encoding

    hidden = torch.full((512, 4), 200.0, dtype=torch.float16)
    mean = Encoding(hidden, torch.tensor([0]), None).mean(torch.tensor([512]))
    assert mean.dtype == torch.float16 and torch.allclose(mean, torch.tensor(200.0, dtype=torch.float16), rtol=1e-3)


def test_a_capture_that_failed_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own end of a capture fails after an operation that is not allowed: stream and pool stay as they were in
    it, and the error that is raised is not the cause."""
    streams, ended, modes = ["usual"], [], []

    class Capture:
        def __init__(self, graph: object, pool: object, capture_error_mode: str) -> None:
            modes.append(capture_error_mode)

        def __enter__(self) -> None:
            streams.append("capture")

        def __exit__(self, *_: object) -> None:
            raise RuntimeError("previous error during capture")

    def not_allowed() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    for name, value in {
        "graph_pool_handle": lambda: (0, 1),
        "CUDAGraph": lambda: None,
        "current_stream": lambda device: streams[-1],
        "set_stream": streams.append,
        "device": lambda device: contextlib.nullcontext(),
        "graph": Capture,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *given: ended.append(given))
    with pytest.raises(RuntimeError, match="operation not permitted"):
        graphs.cuda_capture(torch.device("cuda", 2))(not_allowed)
    assert (streams[-1], ended, modes) == ("usual", [(2, (0, 1))], ["thread_local"])


def test_an_engine_that_is_closed_keeps_no_graphs(world: World, tiny_bert: Path) -> None:
    running, batches = start(world, tiny_bert, "mednli")
    running.use_graphs(StandIn())
    for _ in range(graphs.CAPTURED_AT):
        running.micro_step(batches[0], 0.25)
    kept = running.graphs
    assert kept is not None and len(kept._captured) == 1
    running.close()
    assert not kept._captured

"""Bytes that ranks send, by arithmetic (docs/scaling.md), against the collectives that were called."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import free_port, start_processes

from benchmarks import traffic
from benchmarks.traffic import CASES, NARROW, Case

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[2, 4])
def counted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("traffic")
    traffic.encoder(folder / "encoder")
    start_processes(_rank, (dict(os.environ), request.param, free_port(), folder), request.param)
    found: dict[str, Any] = pickle.loads((folder / "found.pickle").read_bytes())
    return found


def _rank(rank: int, environment: dict[str, str], world_size: int, port: int, folder: Path) -> None:
    os.environ.clear()
    os.environ.update(
        environment,
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1",
    )  # fmt: skip
    torch.set_num_threads(1)
    from harness import distributed, logs

    logs.quiet_libraries()
    world = distributed.init(no_cuda=True)
    rows = [(case, expected, sent.total, losses) for case, expected, sent, losses in traffic.count(world, folder)]
    own, plain = folder / f"rank-{rank}", Case(3, "fp32").run(str(folder / "encoder"), folder / f"rank-{rank}")

    # Those of ds_configs/, with which all of the encoder may be there at once.
    zero = {"stage3_param_persistence_threshold": NARROW["stage3_param_persistence_threshold"]}
    run = replace(plain, ds_config=traffic.settings(3, "fp32", own, **zero))
    shipped = traffic.measure(run, world)[2]
    if rank == 0:
        (folder / "found.pickle").write_bytes(pickle.dumps({"rows": rows, "shipped": shipped}))
    distributed.close()


def test_counted_bytes_are_those_of_the_arithmetic(counted: dict[str, Any]) -> None:
    assert [row[0] for row in counted["rows"]] == list(CASES)
    for case, expected, sent, _ in counted["rows"]:
        assert sent == pytest.approx(sum(expected.values()), rel=0.05), case


def test_every_stage_has_the_losses_of_stage_0(counted: dict[str, Any]) -> None:
    losses = {case: losses for case, _, _, losses in counted["rows"]}
    for stage in (1, 2, 3):
        np.testing.assert_allclose(losses[Case(stage, "fp32")], losses[Case(0, "fp32")], rtol=1e-4)


def test_sizes_change_no_loss(counted: dict[str, Any]) -> None:
    """Those for layers 128 wide against those of ds_configs/."""
    losses = {case: losses for case, _, _, losses in counted["rows"]}
    np.testing.assert_allclose(counted["shipped"], losses[Case(3, "fp32")], rtol=1e-6)

"""Ours trains as the plain loop does, which shares nothing with it but the readers: the same losses and gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from encoders import tiny_encoder

import tasks
from benchmarks import side_by_side
from harness import distributed
from harness.config import RunConfig

WHOLE, WINDOWS = (128, None), (32, 8)  # longest input, stride
FOUR = ("medsts", "bc5cdr_disease", "chemprot", "hoc")  # one of each family


@pytest.mark.parametrize(
    ("name", "inputs"), [*((name, WHOLE) for name in FOUR), *((name, WINDOWS) for name in FOUR if name != "medsts")]
)
def test_the_same_losses_gradients_and_weights(name: str, inputs: tuple[int, int | None], tmp_path: Path) -> None:
    """In windows, too, which the plain loop has from transformers; of pairs it has none."""
    path = str(tiny_encoder(tmp_path / "bert"))
    config = RunConfig(
        task=name, model_name_or_path=path, pooling="mean", seed=3, precision="fp32", learning_rate=1e-3,
        per_gpu_train_batch_size=8, max_seq_length=inputs[0], stride=inputs[1],
    )  # fmt: skip
    world = distributed.init(no_cuda=True)
    found = side_by_side.compare(tasks.get(name), tasks.sample_dir(name), path, config, 8, world)
    assert len(found.losses) == 8
    np.testing.assert_allclose(*np.array(found.losses).T, rtol=1e-4)
    np.testing.assert_allclose(*np.array(found.norms).T, rtol=1e-3)
    assert found.distance < 1e-2 * found.movement

"""On a CUDA device: every ds_config, and the default of one GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from running import arguments, run

from harness.ds.config import CONFIGS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("ds_config", sorted(path.stem for path in CONFIGS.glob("*.json")))
def test_a_run_on_the_gpu(ds_config: str, tiny_bert: Path, tmp_path: Path) -> None:
    more = ("--precision", "auto", "--ds_config", ds_config, "--num_train_epochs", "1")
    result = run(arguments("mednli", tiny_bert, tmp_path / "run", *more))
    assert result["precision"] == ds_config.split("_")[0]
    assert result["epochs"][0]["dev"]["score"] == result["scores"]["dev"]["score"]


def test_fp16_is_the_default(tiny_bert: Path, tmp_path: Path) -> None:
    result = run(arguments("mednli", tiny_bert, tmp_path / "run", "--precision", "auto", "--max_steps", "2"))
    assert result["precision"] == "fp16"

"""Fixtures that several test files use."""

from __future__ import annotations

import gc
import os
import string
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Tests compute on the CPU, and so do the programs that they start: before torch is imported. The environment that
# whoever runs the tests has is for tests/gpu, which starts programs with it; xdist's workers inherit both.
os.environ.setdefault("GPUS_OF_TESTS", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["DS_ACCELERATOR"] = "cpu"  # tests import deepspeed before a run has chosen its device

from harness.logs import quiet_libraries

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads only wait for each other
for variable in ("PROJECT", "ENTITY", "RUN_GROUP", "NAME", "TAGS"):  # of whoever runs the tests
    os.environ.pop(f"WANDB_{variable}", None)
quiet_libraries()  # before any test imports deepspeed, transformers or wandb

hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")  # a busy one is slow, not wrong

# Files of minutes, longest first: dealt out whole to two processes, they must not come when one of them is done.
LONG = (
    "gpu_check", "watchdog", "faults", "ranks", "world_size", "adapters", "train", "local", "tutorial",
    "corpora_realdata", "own_tasks", "storage", "fuzz", "failures", "whole_suite", "engine", "realdata", "page",
    "submit",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


def pytest_collection_finish() -> None:
    gc.freeze()  # each run ends with a collection, which would look through all that the test files have imported


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A BERT tokenizer made in memory: letters, digits, their continuations and a few whole words."""
    from transformers import BertTokenizer

    letters = list(string.ascii_lowercase + string.digits)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = ["the", "patient", "has", "no", "fever", "drug", "gene", "aspirin", ".", ",", "@", "$"]
    pieces = special + letters + [f"##{letter}" for letter in letters] + words
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, do_lower_case=True)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny BERT with a pooler that looks trained."""
    from encoders import tiny_encoder

    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny-bert", "bert")


@pytest.fixture
def fp16_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed refuses fp16 on a CPU without its instructions; PyTorch computes in it all the same, only slower."""
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: True)

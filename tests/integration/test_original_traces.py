"""Losses, rates and norms of the original's first steps, with its order of the examples and its first weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import tasks
from harness import config, data, distributed, model
from harness.config import RunConfig
from harness.ds import config as ds_config
from harness.ds import engine
from harness.tokenizer import load_tokenizer

pytestmark = pytest.mark.realdata

STS2 = {
    "gradient_accumulation_steps": 2, "weight_decay": 0.1, "warmup_steps": 2, "adam_epsilon": 1e-6,
    "learning_rate": 1e-2,
}  # fmt: skip
# Name of the trace, task, folder under data/, folder under models/, settings beside the common ones.
TRACES: list[tuple[str, str, str, str, dict[str, Any]]] = [
    ("sts", "medsts", "medsts", "tiny_sts", {}),
    ("stsacc2", "medsts", "medsts80", "tiny_sts", STS2),
    ("clefe", "clefe", "clefe", "tiny_ner", {}),
    ("nohash", "clefe", "clefe_nohash", "tiny_ner", {}),
    ("ddi2", "ddi2013", "ddi2013", "tiny_re", {"num_train_epochs": 1.0}),
    ("mednli", "mednli", "mednli", "tiny_nli", {}),
    ("hoc", "hoc", "hoc", "tiny_hoc", {"num_train_epochs": 1.0}),
]


@pytest.mark.parametrize(("trace", "name", "place", "encoder", "more"), TRACES, ids=[each[0] for each in TRACES])
def test_every_step(
    trace: str, name: str, place: str, encoder: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(os.environ.get("BLUE_DATA_DIR", "nowhere")) / "original_traces"
    if not root.is_dir():
        pytest.skip("no original_traces in $BLUE_DATA_DIR")
    original = json.loads((root / f"{trace}.json").read_text())
    monkeypatch.setattr(data, "epoch_order", lambda examples, seed, epoch: original["orders"][epoch])
    common: dict[str, Any] = {"per_gpu_train_batch_size": 8, "learning_rate": 3e-3, "num_train_epochs": 2.0}
    task, folder = tasks.get(name), root / "models" / encoder
    run = RunConfig(
        task=name, model_name_or_path=str(folder), do_lower_case=True, precision="fp32",
        pooling=None if task.per_word else "pooler", **(common | more),
    )  # fmt: skip
    world, plan = distributed.init(no_cuda=True), config.batch_plan(run, 1)
    tokenizer = load_tokenizer(run, task.per_word)
    examples = [task.read(root / "data" / place, split) for split in task.train_splits]
    encoded = data.join([task.features(split, tokenizer, run.max_seq_length) for split in examples])
    steps = data.total_steps(len(encoded), plan, run.num_train_epochs, run.max_steps)
    net = model.build(run, task.num_outputs, task.per_word, tokenizer)
    weights = load_file(folder / "model.safetensors")
    net.classifier.load_state_dict({part: weights[f"classifier.{part}"] for part in ("weight", "bias")})
    running = engine.build(net, task, run, ds_config.resolve(run, world), plan, steps, world)
    losses: list[float] = []
    rates: list[float] = []
    norms: list[float | None] = []
    units: list[int] = []
    for epoch in range(len(original["orders"])):
        for passes in data.epoch_steps(encoded, plan, run.seed, epoch, rank=0):
            rates.append(running.metrics().lr)
            for micro in passes:
                batch = data.collate(encoded, micro.examples, int(tokenizer.pad_token_id))
                losses.append(float(running.micro_step(batch, micro.scale)))
                units.append(sum(batch.units))
            norms.append(running.metrics().grad_norm)
    running.close()
    assert (len(rates), steps, units) == (original["steps"], original["steps"], original["units"])
    assert rates == pytest.approx(original["lr"])
    assert losses == pytest.approx(original["losses"], rel=0, abs=1e-5)
    assert norms == pytest.approx(original["norm_before_clip"], rel=1e-4)

"""--compile: the same mathematics from compiled layers, and layers as they are where nothing can be compiled."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import tiny_encoder
from running import arguments, run

import tasks
from harness import model
from harness.config import RunConfig
from harness.data import collate
from harness.ds.config import DeepSpeedConfig
from harness.ds.engine import compile_layers, layers
from harness.tokenizer import load_tokenizer

CPU = torch.device("cpu")


def built(folder: Path, kind: str) -> tuple[model.EncoderWithHead, RunConfig]:
    config = RunConfig(
        task="mednli", model_name_or_path=str(tiny_encoder(folder / kind, kind)), pooling="mean", compile=True
    )
    return model.build(config, 3, per_word=False), config


@pytest.mark.slow
def test_loss_and_gradients_are_those_of_layers_as_they_are(tmp_path: Path) -> None:
    network, config = built(tmp_path, "bert")
    task = tasks.get("mednli")
    examples = task.read(tasks.sample_dir("mednli"), "train")[:30]
    encoded = task.features(examples, load_tokenizer(config), 96)
    batches = [collate(encoded, list(range(begin, end)), 0) for begin, end in ((0, 11), (11, 18), (18, 30))]

    def passes() -> list[Any]:
        found = []
        for batch in batches:
            network.zero_grad()
            loss = task.loss(network(batch), batch.labels)
            loss.backward()
            gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
            with torch.no_grad():
                found.append([loss.detach(), network(batch), *gradients])
        return found

    network.eval()  # no dropout: compiled layers draw other masks
    expected = passes()
    compile_layers(network, config, DeepSpeedConfig("fp32", {}), CPU)
    assert all(layer._compiled_call_impl is not None for layer in layers(network.encoder))
    for one, other in zip(passes(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_layers_are_found(tmp_path: Path) -> None:
    from transformers import AlbertConfig, AlbertModel

    assert [len(layers(built(tmp_path, kind)[0].encoder)) for kind in ("bert", "distilbert", "modernbert")] == [2, 2, 2]
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "embedding_size": 16}
    albert = AlbertModel(AlbertConfig(vocab_size=50, **sizes))
    assert layers(albert) == list(albert.encoder.albert_layer_groups)  # its lists hold lists


@pytest.mark.parametrize(("stage", "said"), [(0, "no compiler today"), (3, "ZeRO-3")])
def test_where_nothing_can_be_compiled_layers_run_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stage: int, said: str
) -> None:
    def refuse(_: Any) -> Any:
        raise RuntimeError("no compiler today\nmore about it")

    monkeypatch.setattr(torch, "compile", refuse)
    network, config = built(tmp_path, "bert")
    with caplog.at_level(logging.WARNING):
        compile_layers(network, config, DeepSpeedConfig("mine", {"zero_optimization": {"stage": stage}}), CPU)
    assert said in caplog.text and "more about it" not in caplog.text
    assert not any(layer._compiled_call_impl for layer in layers(network.encoder)) and not network.layout.few_shapes


@pytest.mark.slow
def test_a_run_with_compiled_layers(tiny_bert: Path, tmp_path: Path) -> None:
    result = run(arguments("mednli", tiny_bert, tmp_path / "run", "--compile", "--max_steps", "3"))
    # The layers are compiled once for training and once for scoring: rounding may differ.
    assert result["scores"]["dev"]["loss"] == pytest.approx(result["epochs"][-1]["dev"]["loss"], rel=1e-4)

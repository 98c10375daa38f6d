"""--compile: the same mathematics from compiled layers, and layers as they are where nothing can be compiled."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import KINDS, tiny_encoder
from running import arguments, run
from torch import nn
from torch._dynamo import config as dynamo
from torch._dynamo.utils import counters

import tasks
from harness import model
from harness.config import RunConfig
from harness.data import collate
from harness.ds.config import DeepSpeedConfig
from harness.ds.engine import compile_layers
from harness.packing import fit_to_device
from harness.recompute import layers
from harness.task import Encoded
from harness.tokenizer import load_tokenizer

CPU, META = torch.device("cpu"), torch.device("meta")


def built(folder: Path, kind: str, dropout: float = 0.0) -> tuple[model.EncoderWithHead, RunConfig]:
    encoder = tiny_encoder(folder / kind, kind, dropout=dropout)
    config = RunConfig(task="mednli", model_name_or_path=str(encoder), pooling="mean", compile=True)
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_layer_runs_as_it_is_after_many_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Graphs of a GPU's branches, which is what is not a CPU: traced, but not compiled any further."""
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **given: compiled(self, **given, backend="eager"))
    torch.compiler.reset()
    counters["stats"].clear()
    with dynamo.patch(fail_on_recompile_limit_hit=True, recompile_limit=8):  # 8 is PyTorch's own
        network, config = built(tmp_path, kind, dropout=0.1)
        fit_to_device(network, META, whole_weights=False)
        compile_layers(network, config, DeepSpeedConfig("fp32", {}), CPU)
        network.to(META)
        # Rows shorter and longer than ModernBERT's window, examples alone and among others.
        for lengths in ([40] * 3, [90], [40], [90] * 9, [120] * 40, [8], [7, 9]):
            tokens = [[5] * length for length in lengths]
            batch = collate(Encoded(tokens, tokens, [0] * len(lengths)), range(len(lengths)), 0).to(META)
            network.train()(batch).sum().backward()
            for mode in (torch.no_grad(), torch.inference_mode()):
                with mode:
                    network.eval()(batch)
    assert 2 <= counters["stats"]["unique_graphs"] <= 16


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

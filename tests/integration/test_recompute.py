"""--gradient_checkpointing: the same run to the bit, with dropout and without, at every stage, packed and padded."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import KINDS, T5, tiny_encoder
from running import arguments, assert_user_error, cut, fingerprint, run, run_on_ranks
from torch.autograd.graph import saved_tensors_hooks

import tasks
from ds_configs import __file__ as ds_configs
from harness import model, recompute
from harness.config import RunConfig
from harness.data import collate
from harness.ds.engine import Engine
from harness.packing import PADDED
from harness.recompute import layers, recompute_layers
from harness.tokenizer import load_tokenizer

CONFIGS = ("fp32", "stage1", "stage2", "stage3", "fp16_zero0", "fp16_zero2", "fp16_zero3", "bf16_autocast")
ON = "--gradient_checkpointing"


def fp32_at(stage: int, folder: Path) -> Path:
    """A DeepSpeed JSON in fp32 at a stage that ds_configs/ has in half precision alone."""
    values = json.loads((Path(ds_configs).parent / "fp32.json").read_text())
    path = folder / f"stage{stage}.json"
    path.write_text(json.dumps(values | {"zero_optimization": {"stage": stage}}))
    return path


def pairs(folder: Path, kind: str, dropout: float) -> list[list[str]]:
    """Each run twice, without and with the flag: one of each head, in each layout, under each JSON."""
    encoder = tiny_encoder(folder / kind, kind, dropout=dropout)
    paths = {f"stage{stage}": str(fp32_at(stage, folder)) for stage in (1, 2, 3)}
    lines = []
    for number, name in enumerate(CONFIGS):
        task = ("hoc", "bc5cdr_disease")[number % 2]
        data = folder / "data" / task
        if not data.is_dir():
            cut(task, data, 21)
        for packing in ("auto", "padded"):
            more = ["--data_dir", str(data), "--max_steps", "3", "--ds_config", paths.get(name, name)]
            more += ["--packing", packing, "--precision", "auto"]
            for flag in ([], [ON]):
                output = folder / f"{name}-{packing}" / ("with" if flag else "without")
                lines.append(arguments(task, encoder, output, *more, *flag))
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize(("kind", "dropout"), [("bert", 0.1), ("llama", 0.0)])
def test_every_file_of_a_run(kind: str, dropout: float, world: int, tmp_path: Path) -> None:
    results = run_on_ranks(world, pairs(tmp_path, kind, dropout), tmp_path / "answers")
    failed = [result for result in results if isinstance(result, str)]
    assert not failed, failed[0]
    for folder in sorted(tmp_path.glob("*-*")):
        assert fingerprint(folder / "with") == fingerprint(folder / "without"), folder.name


def test_with_adapters(tmp_path: Path) -> None:
    """No input of a layer then has a gradient but for those of adapters."""
    encoder, data = tiny_encoder(tmp_path / "llama", "llama", dropout=0.1), cut("hoc", tmp_path / "data", 21)
    for name, flags in (("without", ()), ("with", (ON,))):
        more = ("--data_dir", str(data), "--max_steps", "3", "--lora_rank", "4", "--lora_dropout", "0.1")
        run(arguments("hoc", encoder, tmp_path / name, *more, *flags))
    assert fingerprint(tmp_path / "with") == fingerprint(tmp_path / "without")


@pytest.mark.slow
def test_a_run_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no other run: one that was killed goes on with it, and ends as it would have ended."""
    encoder = tiny_encoder(tmp_path / "tiny", dropout=0.1)
    flags = ("--max_steps", "8", "--save_steps", "2", "--logging_steps", "1")
    run(arguments("hoc", encoder, tmp_path / "whole", *flags))
    line = arguments("hoc", encoder, tmp_path / "resumed", *flags)
    micro_step, passes = Engine.micro_step, iter(range(1, 100))

    def full(self: Engine, *batch: Any) -> Any:
        if next(passes) == 6:
            raise SystemExit(137)
        return micro_step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "micro_step", full)
        with pytest.raises(SystemExit):
            run(line)
    computed, plain = [], recompute.checkpoint
    monkeypatch.setattr(recompute, "checkpoint", lambda *given, **named: computed.append(1) or plain(*given, **named))
    run([*line, ON])
    assert len(computed) == 2 * 4  # two layers, in the four steps behind the checkpoint
    assert fingerprint(tmp_path / "resumed") == fingerprint(tmp_path / "whole")


def built(folder: Path, kind: str, **more: Any) -> tuple[model.EncoderWithHead, Callable[[], torch.Tensor]]:
    """A network in training and a pass over a batch that gives its loss, with dropout."""
    config = RunConfig(task="mednli", model_name_or_path=str(tiny_encoder(folder / kind, kind, dropout=0.1, **more)))
    task, tokenizer = tasks.get("mednli"), load_tokenizer(config)
    encoded = task.features(task.read(tasks.sample_dir("mednli"), "train")[:8], tokenizer, 64)
    network, batch = model.build(config, 3, per_word=False).train(), collate(encoded, range(8), 0)

    def loss() -> torch.Tensor:
        torch.manual_seed(1)
        network.zero_grad()
        return task.loss(network(batch), batch.labels)

    return network, loss


def kept(loss: Callable[[], torch.Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once; the weights are not counted."""
    found: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss()
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


@pytest.mark.parametrize("layout", ["chosen", "padded"])
@pytest.mark.parametrize("kind", [*KINDS, "llama", "mistral", "qwen3", "gemma2", *T5])
def test_the_same_gradients_of_less_memory(tmp_path: Path, kind: str, layout: str) -> None:
    depth = {"n_layers": 8} if kind == "distilbert" else {"num_layers": 8} if kind == "t5" else {"num_hidden_layers": 8}
    network, loss = built(tmp_path, kind, **({} if kind in ("t5gemma", "gemma2") else depth))
    if layout == "padded":
        network.layout = PADDED

    def gradients() -> list[torch.Tensor | None]:
        loss().backward()
        return [p.grad for p in network.parameters()]

    expected, before = gradients(), kept(loss)
    recompute_layers(network.encoder)
    for one, other in zip(gradients(), expected, strict=True):
        assert one is other is None or (one is not None and other is not None and torch.equal(one, other))
    assert kept(loss) < (0.6 if len(layers(network.encoder)) < 8 else 0.3) * before


def test_evaluation_computes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, loss = built(tmp_path, "bert")
    recompute_layers(network.encoder)
    monkeypatch.setattr(recompute, "checkpoint", None)
    with torch.no_grad():
        loss()
    network.eval()
    loss()


def test_an_encoder_without_layers(tmp_path: Path) -> None:
    network, _ = built(tmp_path, "bert")
    network.encoder.encoder.layer = None
    assert_user_error(lambda: recompute_layers(network.encoder), "--gradient_checkpointing: a bert has no list of")


@pytest.mark.slow
def test_compiled_layers(tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Compiled or not, losses are those of layers as they are, to rounding."""
    found = {}
    for name, flags in (("plain", []), ("both", [ON, "--compile"])):
        with caplog.at_level(logging.INFO):
            found[name] = run(arguments("mednli", tiny_bert, tmp_path / name, "--max_steps", "3", *flags))
    one, other = (result["epochs"][-1]["train_loss"] for result in found.values())
    assert other == pytest.approx(one, rel=1e-4)

"""Layers of encoders, and what is set by layer: learning rates, freezing, a new start; schedules and betas."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import DECODERS, KINDS, T5, settings_for, tiny_encoder, tiny_masked_lm
from running import assert_user_error
from safetensors.torch import load_file, save_file
from test_engine import ALL, CrossEntropy, batches, copied, custom, fresh, furthest
from test_engine import own_linear as own_linear
from test_engine import settings as of_engine
from test_engine import world as world
from torch import nn
from transformers import AlbertConfig, AlbertModel, AutoConfig, AutoModel, MPNetConfig, XLMConfig, XLMModel

from benchmarks.peers.original_adam import OriginalAdamW
from harness import config, memory, model, parameters
from harness import config as run_config
from harness.config import RunConfig
from harness.distributed import World
from harness.ds import config as ds_config
from harness.ds import engine, optimizer_state
from harness.errors import UserError
from harness.recompute import layers
from harness.twin import twin

STEPS = 10


def settings(folder: Path, **given: Any) -> RunConfig:
    return RunConfig(task="x", model_name_or_path=str(folder), max_seq_length=32, **given)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("encoders")
    return {kind: tiny_encoder(place / kind, kind) for kind in (*KINDS, *DECODERS, *T5)}


@pytest.fixture
def albert(tmp_path: Path) -> Path:
    sizes = {"embedding_size": 16, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    AlbertModel(AlbertConfig(vocab_size=60, num_hidden_layers=3, **sizes)).save_pretrained(tmp_path)
    return tmp_path


def prepared(run: RunConfig, world: World) -> model.EncoderWithHead:
    """test_engine's tiny BERT as `model.build` leaves a network."""
    net = fresh()
    parameters.prepare(net, net.encoder, run)
    return net


def start(world: World, run: RunConfig, steps: int = STEPS) -> engine.Engine:
    ds, plan = ds_config.resolve(run, world), config.batch_plan(run, world.size)
    return engine.build(prepared(run, world), CrossEntropy(), run, ds, plan, steps, world)


class TestDepths:
    @pytest.mark.parametrize("kind", [*KINDS, *DECODERS, *T5])
    def test_of_every_architecture(self, encoders: dict[str, Path], kind: str) -> None:
        """Whether the weights are there or still in their files."""
        run = settings(encoders[kind], layerwise_lr_decay=0.5)
        depths = model.build(run, 3, per_word=False).depths
        network = model.build(run, 3, per_word=False, in_parts=True)
        assert network.depths == depths
        found = {name: set[int]() for name in ("table", "layer 0", "layer 1", "head", "other")}
        lists = [{id(p) for p in layer.parameters()} for layer in layers(network.encoder)]
        table = network.encoder.get_input_embeddings().weight
        for name, parameter in network.named_parameters():
            at = [number for number, own in enumerate(lists) if id(parameter) in own]
            place = "table" if parameter is table else "head" if name.startswith("classifier") else "other"
            found[f"layer {at[0]}" if at else place].add(depths[name])
        assert (found["table"], found["layer 0"], found["layer 1"], found["head"]) == ({0}, {1}, {2}, {3})
        assert found["other"] <= {0, 3}

    def test_what_lies_outside_the_layers_is_asked_of_the_encoder(self, encoders: dict[str, Path]) -> None:
        behind = {"pooler", "final_norm", "norm", "final_layer_norm"}
        for kind, folder in encoders.items():
            depths = model.build(settings(folder, layerwise_lr_decay=0.5), 3, per_word=False).depths
            outside = {name: depth for name, depth in depths.items() if depth in (0, 3) and "encoder." in name}
            assert outside and {name: 3 * (name.split(".")[1] in behind) for name in outside} == outside, kind

    def test_tables_that_come_after_the_layers_in_the_class(self) -> None:
        """MPNet's relative positions are registered behind the layers, and read before them."""
        encoder = AutoModel.from_config(
            MPNetConfig(vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64)
        )
        net = model.EncoderWithHead(encoder, 3, "pooler", 0.0)
        parameters.prepare(net, encoder, settings(Path("x"), layerwise_lr_decay=0.5))
        assert net.depths["encoder.encoder.relative_attention_bias.weight"] == 0
        assert net.depths["encoder.pooler.dense.weight"] == 4 == net.depths["classifier.weight"]

    def test_shared_and_scattered_layers_are_refused(self, albert: Path) -> None:
        for given in ({"freeze_layers": 1}, {"reinit_top_layers": 1}, {"layerwise_lr_decay": 0.9}):
            name, value = next(iter(given.items()))
            run = settings(albert, **given)
            for call in (lambda run=run: parameters.check(run), lambda run=run: model.build(run, 3, False)):
                assert_user_error(call, f"--{name} {value}", "albert", "weights of its own", "leave it out")
        xlm = XLMModel(XLMConfig(vocab_size=60, emb_dim=32, n_layers=2, n_heads=2))
        run = settings(Path("x"), layerwise_lr_decay=0.9)
        net = model.EncoderWithHead(xlm, 3, "mean", 0.0)
        assert_user_error(lambda: parameters.prepare(net, xlm, run), "(xlm)", "cannot be counted")

    def test_all_of_such_an_encoder_can_be_frozen(self, albert: Path) -> None:
        run = settings(albert, freeze_layers="encoder")
        parameters.check(run)
        network = model.build(run, 3, per_word=False)
        assert [name for name, p in network.named_parameters() if p.requires_grad] == [
            "classifier.weight",
            "classifier.bias",
        ]

    def test_layers_beyond_the_encoder(self, encoders: dict[str, Path], tmp_path: Path) -> None:
        """Told by its config, before there are weights."""
        AutoConfig.from_pretrained(encoders["bert"]).save_pretrained(tmp_path)
        parameters.check(settings(tmp_path, freeze_layers=1, reinit_top_layers=1))
        parameters.check(settings(tmp_path, freeze_layers=2))
        for given, parts in (
            ({"freeze_layers": "3"}, "--freeze_layers 3: | has 2 layers; ask for at most 2"),
            ({"reinit_top_layers": 30}, "--reinit_top_layers 30: | has 2 layers"),
            ({"freeze_layers": "1", "reinit_top_layers": 2}, "--freeze_layers 1 --reinit_top_layers 2: | lower one"),
        ):
            run = settings(tmp_path, **given)
            assert_user_error(lambda run=run: parameters.check(run), *parts.split(" | "))

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"freeze_layers": "encoder", "reinit_top_layers": 1}, "would never be trained"),
            ({"freeze_layers": "0", "lora_rank": 4}, "--freeze_layers: not with --lora_rank"),
            ({"reinit_top_layers": 1, "lora_rank": 4}, "--reinit_top_layers: not with --lora_rank"),
            ({"warmup_ratio": 0.1, "warmup_steps": 5}, "--warmup_ratio 0.1 and --warmup_steps 5"),
        ],
    )
    def test_settings_that_exclude_each_other(self, given: dict[str, Any], said: str) -> None:
        assert_user_error(lambda: run_config.check(settings(Path("x"), **given)), said)

    @pytest.mark.parametrize("value", ["-1", "1.5", "all", "", "3,4"])
    def test_no_number_of_layers(self, value: str) -> None:
        with pytest.raises(ValueError, match="number of layers"):
            settings(Path("x"), freeze_layers=value)

    def test_numbers_of_files_and_shells(self) -> None:
        assert {settings(Path("x"), freeze_layers=value).freeze_layers for value in (3, "3", "03")} == {"3"}


def expected_rates(run: RunConfig, decay: float) -> dict[str, float]:
    """By the name of a parameter of `fresh()`, a BERT of two layers, written out."""
    powers = {"embeddings": 3, "layer.0.": 2, "layer.1.": 1, "pooler": 0, "classifier": 0}
    return {
        name: run.learning_rate * decay ** next(power for part, power in powers.items() if part in name)
        for name, _ in fresh().named_parameters()
    }


def zero(folder: Path, stage: int) -> str:
    folder.mkdir(exist_ok=True)
    return custom(folder, zero_optimization={"stage": stage, "stage3_param_persistence_threshold": 0})


def by_hand(run: RunConfig, rates: dict[str, float], share: list[float]) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of a plain loop with a group for each parameter; `share` of the peak rate, by step."""
    net = fresh()
    named = [(name, weight) for name, weight in net.named_parameters() if name in rates]
    for name, weight in net.named_parameters():
        weight.requires_grad_(name in rates)
    groups = [
        {"params": [weight], "weight_decay": run.weight_decay if weight.dim() > 1 else 0.0} for _, weight in named
    ]
    adam = OriginalAdamW(groups, 1.0, run.adam_epsilon, (run.adam_beta1, run.adam_beta2))
    losses = []
    for now, batch in zip(share, batches(len(share)), strict=True):
        for (name, _), group in zip(named, adam.param_groups, strict=True):
            group["lr"] = rates[name] * now
        loss = CrossEntropy().loss(net(batch), batch.labels) / 8
        loss.backward()
        nn.utils.clip_grad_norm_([weight for _, weight in named], run.max_grad_norm)
        adam.step()
        adam.zero_grad()
        losses.append(float(loss.detach()))
    return losses, {name: weight.detach().clone() for name, weight in named}


def linear(warmup: int, steps: int = STEPS) -> list[float]:
    return [step / warmup if step < warmup else (steps - step) / (steps - warmup) for step in range(steps)]


class TestRates:
    @pytest.mark.parametrize("stage", [0, 1, 2, 3])
    def test_by_layer_it_is_a_plain_loop_of_that_rule(self, world: World, tmp_path: Path, stage: int) -> None:
        """With everything else that a step has; and in a resumed half."""
        run = of_engine(
            zero(tmp_path, stage), layerwise_lr_decay=0.6, warmup_ratio=0.25, adam_beta1=0.8, adam_beta2=0.99
        )
        running = start(world, run)
        losses, rates = [], []
        for number, batch in enumerate(batches(STEPS)):
            rates.append(running.metrics().lr)
            losses.append(float(running.micro_step(batch, 1 / 8)))
            if number == STEPS // 2:
                (tmp_path / "half").mkdir()
                running.save(tmp_path / "half")
        weights = copied(running)
        running.close()
        assert rates == pytest.approx([run.learning_rate * share for share in linear(3)])  # the head's; 2.5 rounded up
        exact, expected = by_hand(run, expected_rates(run, 0.6), linear(3))
        np.testing.assert_allclose(losses, exact, rtol=0, atol=1e-6)
        assert furthest(weights, expected) < 1e-6
        for other in ({"layerwise_lr_decay": 0.7}, {"adam_beta1": 0.9}, {"adam_beta2": 0.999}):  # each shows
            changed = run_config.dataclasses.replace(run, **other)
            decay = float(changed.layerwise_lr_decay or 1)
            assert furthest(weights, by_hand(changed, expected_rates(run, decay), linear(3))[1]) > 1e-5
        again = start(world, run)
        again.load(tmp_path / "half")
        assert [float(again.micro_step(batch, 1 / 8)) for batch in batches(STEPS)[STEPS // 2 + 1 :]] == losses[6:]
        resumed = copied(again)
        again.close()
        assert all(torch.equal(resumed[name], weights[name]) for name in weights)

    @pytest.mark.usefixtures("fp16_allowed")
    @pytest.mark.parametrize("name", ALL)
    def test_every_ds_config_moves_each_layer_by_its_rate(self, world: World, name: str) -> None:
        """Adam's first step is the learning rate, whatever the gradient is."""
        run = of_engine(name, layerwise_lr_decay=0.5, adam_epsilon=1e-10, weight_decay=0.0)
        running = start(world, run)
        before = copied(running)
        running.micro_step(batches()[0], 1 / 8)
        after = copied(running)
        assert running.metrics().lr == pytest.approx(run.learning_rate * 0.9)
        running.close()
        for weight, rate in expected_rates(run, 0.5).items():
            if "key.bias" not in weight and "token_type" not in weight:  # which have no gradient but rounding errors
                step = (after[weight] - before[weight]).abs()
                assert float(step.max()) == pytest.approx(rate, rel=1e-2), weight

    def test_groups_are_as_before_without_it(self) -> None:
        for decay, number in ((0.1, 2), (0.0, 1)):
            groups = parameters.groups(fresh(), of_engine(weight_decay=decay))
            assert len(groups) == number and all(group.keys() == {"params", "weight_decay"} for group in groups)

    @pytest.mark.parametrize(
        ("given", "share"),
        [
            ({}, linear(0)),
            ({"warmup_steps": 4}, linear(4)),
            ({"warmup_ratio": 0.31}, linear(4)),
            ({"warmup_ratio": 1.0}, [step / STEPS for step in range(STEPS)]),
            ({"lr_scheduler": "constant"}, [1.0] * STEPS),
            ({"lr_scheduler": "constant", "warmup_ratio": 0.2}, [0.0, 0.5] + [1.0] * 8),
            (
                {"lr_scheduler": "cosine", "warmup_steps": 2},
                [0.0, 0.5] + [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)],
            ),
        ],
    )
    def test_schedules(self, given: dict[str, Any], share: list[float]) -> None:
        adam = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=2e-3)
        schedule, rates = engine.schedule(adam, of_engine(**given), STEPS), []
        for _ in range(STEPS):
            rates.append(adam.param_groups[0]["lr"])
            adam.step()
            schedule.step()
        assert rates == pytest.approx([2e-3 * one for one in share])

    @pytest.mark.usefixtures("fp16_allowed")
    def test_a_step_that_overflowed_leaves_every_group_where_it_was(self, world: World, tmp_path: Path) -> None:
        fp16 = {"enabled": True, "loss_scale": 0, "initial_scale_power": 24, "hysteresis": 1, "min_loss_scale": 1}
        for stage in range(4):
            path = custom(tmp_path, fp16=fp16, zero_optimization={"stage": stage})
            running = start(world, of_engine(path, layerwise_lr_decay=0.5, lr_scheduler="cosine"))
            running.micro_step(batches()[0], 1 / 8)
            assert running.metrics().skipped == 1
            rates = sorted({group["lr"] for group in running.inner.optimizer.param_groups})
            running.close()
            assert rates == pytest.approx([1e-3 / 8, 1e-3 / 4, 1e-3 / 2, 1e-3])


FROZEN = {"0": ("embeddings",), "1": ("embeddings", "layer.0."), "encoder": ("encoder.",)}


class TestFreezing:
    @pytest.mark.usefixtures("fp16_allowed")
    @pytest.mark.parametrize("name", ALL)
    def test_frozen_weights_stay_and_are_in_no_state(self, world: World, tmp_path: Path, name: str) -> None:
        for value, parts in FROZEN.items():
            run = of_engine(name, freeze_layers=value, layerwise_lr_decay=0.9)
            running, folder = start(world, run), tmp_path / value
            folder.mkdir()
            before = {key: p.detach().clone() for key, p in running.module.named_parameters()}
            losses = [float(running.micro_step(batch, 1 / 8)) for batch in batches()[:3]]
            assert losses[2] != losses[0]
            stream = running.stream()
            assert stream.shapes.keys() == {key for key in before if not any(part in key for part in parts)}
            trained = sum(math.prod(shape) for shape in stream.shapes.values())
            list(stream.tensors)
            state = optimizer_state.of(running.inner)
            if "zero" not in name or "zero0" in name:
                assert sum(tensor.numel() for tensor in state.stepped()) == trained
            for key, p in running.module.named_parameters():
                if "zero3" not in name and key not in stream.shapes:
                    assert torch.equal(p, before[key]), key
            running.save(folder)
            weights = copied(running)
            running.close()
            saved = load_file(folder / optimizer_state.TENSORS)
            assert {key.partition(".")[2] for key in saved} == stream.shapes.keys()
            again = start(world, run)
            again.load(folder)
            found = copied(again)
            again.close()
            assert all(torch.equal(found[key], weights[key]) for key in weights)

    @pytest.mark.parametrize("stage", [0, 1, 2, 3])
    def test_the_rest_is_trained_as_in_a_plain_loop(self, world: World, tmp_path: Path, stage: int) -> None:
        run = of_engine(zero(tmp_path, stage), freeze_layers=1)
        running = start(world, run)
        losses = [float(running.micro_step(batch, 1 / 8)) for batch in batches(STEPS)]
        weights = copied(running)
        running.close()
        rates = dict.fromkeys(weights, run.learning_rate)
        assert not [name for name in rates if "embeddings" in name or "layer.0." in name]
        exact, expected = by_hand(run, rates, linear(0))
        np.testing.assert_allclose(losses, exact, rtol=0, atol=1e-6)
        assert furthest(weights, expected) < 1e-6

    def test_what_the_checkpoint_lacks_is_said(
        self, encoders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        state = load_file(encoders["bert"] / "model.safetensors")
        for path in encoders["bert"].iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        state = {name: tensor for name, tensor in state.items() if "pooler" not in name}
        save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
        for value, said in (("encoder", True), ("2", False)):
            caplog.clear()
            model.build(settings(tmp_path, freeze_layers=value, pooling="pooler"), 3, per_word=False)
            assert ("2 tensors that the checkpoint lacks" in caplog.text) == said

    def test_the_layers_of_a_pretrained_head_are_the_heads(self, tmp_path: Path) -> None:
        run = settings(tiny_masked_lm(tmp_path / "lm"), freeze_layers="encoder", head="pretrained")
        network = model.build(run, 3, per_word=False)
        trained = {name for name, p in network.named_parameters() if p.requires_grad}
        assert {name.partition(".")[0] for name in trained} == {"head", "classifier"}
        net = model.build(settings(tmp_path / "lm", layerwise_lr_decay=0.5, head="pretrained"), 3, per_word=False)
        assert {net.depths[name] for name in trained} == {3}

    def test_memory_counts_them_as_frozen(self, encoders: dict[str, Path]) -> None:
        for value in ("0", "1", "encoder"):
            run = settings(encoders["bert"], freeze_layers=value)
            network, task = model.build(run, 3, per_word=False), CrossEntropy()
            without = memory.skeleton(run, task)  # type: ignore[arg-type]
            assert without is not None
            choice = memory.Choice(8, 1, 1, ds_config.read("fp32"), False, None)
            needs = memory.static(without, choice)
            assert needs == memory.static(network, choice)
            trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
            assert (needs.gradients, needs.optimizer) == (4 * trained, 8 * trained)


class TestReinitialisation:
    @pytest.mark.parametrize("kind", [*KINDS, *DECODERS, *T5])
    def test_the_highest_layers_are_drawn_from_the_seed(
        self, encoders: dict[str, Path], tmp_path: Path, kind: str
    ) -> None:
        """The same wherever the weights are and in whatever precision, and the head and what is below as without."""
        plain = weights(settings(encoders[kind]))
        anew = weights(run := settings(encoders[kind], reinit_top_layers=1))
        depths = model.build(run, 3, per_word=False).depths
        for name, tensor in plain.items():
            stays = depths[name] < 2 or name.startswith("classifier")
            is_constant = tensor.std() == 0 if tensor.numel() > 1 else True  # gains and biases of a fresh encoder
            assert torch.equal(tensor, anew[name]) == stays or is_constant, name
        for other in (weights(run), weights(run, in_parts=True), weights(copy_in_16_bits(encoders[kind], tmp_path))):
            assert all(torch.equal(other[name], anew[name]) for name in anew if depths[name] >= 2)
        another = weights(settings(encoders[kind], reinit_top_layers=1, seed=13))
        drawn = [name for name in anew if depths[name] == 2 and anew[name].dim() > 1]
        assert drawn and not [name for name in drawn if torch.equal(another[name], anew[name])]

    @pytest.mark.parametrize("kind", ["bert", "modernbert", "deberta-v2", "t5", "gemma"])
    def test_as_the_architecture_draws_them(self, tmp_path: Path, kind: str) -> None:
        """By their spread in a fresh encoder, weight by weight, where that is wide enough to tell."""
        folder = tiny_encoder(tmp_path / kind, kind)
        anew = weights(settings(folder, reinit_top_layers=2))
        with torch.random.fork_rng():
            encoder = AutoModel.from_config(settings_for(kind, 60, 0.0)).float()
        encoder = encoder.get_encoder() if kind == "t5" else encoder
        compared = 0
        for name, fresh_one in encoder.named_parameters():
            if f"encoder.{name}" in anew and any(part in name for part in ("layers.", "layer.", "block.")):
                own = anew[f"encoder.{name}"]
                if fresh_one.dim() < 2:
                    assert torch.equal(own, fresh_one.detach()), name  # gains and biases
                elif own.numel() >= 1024:
                    assert float(own.std()) == pytest.approx(float(fresh_one.detach().std()), rel=0.2), name
                    compared += 1
        assert compared >= 8

    def test_the_pooler_is_drawn_too(self, encoders: dict[str, Path]) -> None:
        plain, anew = (weights(settings(encoders["bert"], reinit_top_layers=n)) for n in (0, 1))
        assert bool(plain["encoder.pooler.dense.bias"].any()) and not bool(anew["encoder.pooler.dense.bias"].any())

    def test_a_class_that_leaves_weights_as_they_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        net, run = fresh(), settings(Path("x"), reinit_top_layers=1)
        parameters.prepare(net, net.encoder, run)
        monkeypatch.setattr(type(net.encoder), "_init_weights", lambda self, module: None)
        assert_user_error(lambda: parameters.reinitialise(net, run), "--reinit_top_layers 1", "(bert)", "leave it out")

    def test_random_numbers_go_on_as_without(self, encoders: dict[str, Path]) -> None:
        following = []
        for given in ({}, {"reinit_top_layers": 1, "freeze_layers": 0, "layerwise_lr_decay": 0.9}):
            model.build(settings(encoders["modernbert"], **given), 3, per_word=False)
            following.append(torch.rand(3))
        assert torch.equal(*following)


def weights(run: RunConfig, in_parts: bool = False) -> dict[str, torch.Tensor]:
    network = model.build(run, 3, per_word=False, in_parts=in_parts)
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def copy_in_16_bits(encoder: Path, folder: Path) -> RunConfig:
    """Settings of a copy of the encoder."""
    for path in encoder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    state = load_file(folder / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})
    return settings(folder, reinit_top_layers=1)


def test_a_twin_has_the_depths_of_the_whole(encoders: dict[str, Path]) -> None:
    """With more layers than the twin is given."""
    found = AutoConfig.from_pretrained(encoders["bert"])
    found.num_hidden_layers = 5
    encoder = AutoModel.from_config(found)
    net = model.EncoderWithHead(encoder, 3, "pooler", 0.0)
    run = settings(Path("x"), layerwise_lr_decay=0.5)
    parameters.prepare(net, twin(encoder, found), run)
    once = dict(net.depths)
    parameters.prepare(net, encoder, run)
    assert net.depths == once and set(once.values()) == set(range(7))


def test_the_json_of_a_run_says_nothing_else(tmp_path: Path) -> None:
    """Without the settings no forward pass is made and nothing is kept."""
    with pytest.raises(UserError):
        parameters.check(settings(tmp_path, freeze_layers=1))  # asks the model's config, which is not there
    parameters.check(settings(tmp_path))
    assert json.loads("{}") == fresh().depths

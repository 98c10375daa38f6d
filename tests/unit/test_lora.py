"""Adapters: the same training under every JSON, nothing else trained or kept, and folders that peft and we can load."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from encoders import about, tiny_encoder
from running import assert_user_error
from safetensors.torch import load_file, save_file
from test_engine import ALL, HALF, TOLERANCE, CrossEntropy, batches, fresh, furthest, settings
from torch import nn
from transformers import AutoModel

from harness import config, distributed, export, flags, lora, model, parameters
from harness.attention import replace_dropout
from harness.config import RunConfig
from harness.distributed import World
from harness.ds import config as ds_config
from harness.ds import engine, optimizer_state, scoring
from harness.errors import UserError
from harness.files import sha256
from harness.model_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, HEAD_FILE, HEAD_WEIGHTS
from harness.packing import choose
from harness.synonyms import hint
from harness.task import Batch
from harness.tokenizer import load_tokenizer

LABELS = ("a", "b", "c")
KINDS = ("bert", "modernbert", "distilbert", "llama", "qwen3", "gemma", "t5", "t5gemma")


@pytest.fixture(scope="module")
def world() -> World:
    return distributed.init(no_cuda=True)


@pytest.fixture(autouse=True)
def own_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in test_engine.py."""
    monkeypatch.setattr(nn.functional, "linear", nn.functional.linear)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("encoders")
    return {kind: tiny_encoder(place / kind, kind, dropout=0.1) for kind in KINDS}


def adapted(**given: Any) -> tuple[model.EncoderWithHead, RunConfig]:
    """test_engine's tiny BERT with adapters; `given`: settings."""
    run = settings(given.pop("ds_config", None), **{"lora_rank": 4, "lora_dropout": 0.2, **given})
    net = fresh()
    lora.add(net.encoder, run, set())
    replace_dropout(net)
    return net, run


def start(world: World, **given: Any) -> engine.Engine:
    net, run = adapted(**given)
    ds, plan = ds_config.resolve(run, world), config.batch_plan(run, world.size)
    torch.manual_seed(5)  # of dropout
    return engine.build(net, CrossEntropy(), run, ds, plan, 20, world)


def train(running: engine.Engine, part: slice = slice(None)) -> list[float]:
    return [float(running.micro_step(batch, 1 / 8)) for batch in batches()[part]]


def trained(net: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}


def moved(net: model.EncoderWithHead) -> model.EncoderWithHead:
    """With weights of adapters and head as after training: B begins at zero."""
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in trained(net).values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return net.eval()


def partitioned(folder: Path) -> str:
    """fp16_zero3 that takes even the smallest weight away between passes."""
    values = json.loads((ds_config.CONFIGS / "fp16_zero3.json").read_text())
    values["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (folder / "zero3.json").write_text(json.dumps(values))
    return str(folder / "zero3.json")


@pytest.fixture(scope="module")
def losses(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], list[float]]:
    """Without dropout, by JSON and whether the adapters are DoRA."""
    from deepspeed.accelerator import get_accelerator

    found = {}
    names = {**{name: name for name in ALL}, "partitioned": partitioned(tmp_path_factory.mktemp("json"))}
    for name, path in names.items():
        for dora in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(get_accelerator(), "is_fp16_supported", lambda: True)
                patch.setattr(nn.functional, "linear", nn.functional.linear)
                running = start(world, ds_config=path, lora_dora=dora, lora_dropout=0.0)
                found[name, dora] = train(running)
                running.close()
    return found


class TestTraining:
    @pytest.mark.parametrize("dora", [False, True])
    @pytest.mark.parametrize("name", [*TOLERANCE, "partitioned"])
    def test_losses_agree_with_fp32(self, losses: dict[tuple[str, bool], list[float]], name: str, dora: bool) -> None:
        exact = losses["fp32", dora]
        np.testing.assert_allclose(losses[name, dora], exact, atol=TOLERANCE.get(name, TOLERANCE["fp16_zero3"]))
        assert max(exact) - min(exact) > 0.05

    @pytest.mark.parametrize("dora", [False, True])
    @pytest.mark.parametrize("name", [*HALF[1:], "partitioned"])
    def test_fp16_is_the_same_at_every_stage(
        self, losses: dict[tuple[str, bool], list[float]], name: str, dora: bool
    ) -> None:
        np.testing.assert_allclose(losses[name, dora], losses["fp16_zero0", dora], atol=5e-4)

    def test_fp32_is_plain_training(self, losses: dict[tuple[str, bool], list[float]]) -> None:
        """Of all that requires a gradient."""
        from transformers import get_linear_schedule_with_warmup

        from benchmarks.peers.original_adam import OriginalAdamW

        net, run = adapted(lora_dropout=0.0)
        adam = OriginalAdamW(parameters.groups(net, run), lr=run.learning_rate, eps=run.adam_epsilon)
        schedule, found = get_linear_schedule_with_warmup(adam, 0, 20), []
        for batch in batches():
            loss = CrossEntropy().loss(net(batch), batch.labels) / 8
            loss.backward()
            nn.utils.clip_grad_norm_(trained(net).values(), 1.0)
            adam.step()
            schedule.step()
            adam.zero_grad()
            found.append(float(loss.detach()))
        np.testing.assert_allclose(losses["fp32", False], found, rtol=1e-5)

    @pytest.mark.usefixtures("fp16_allowed")
    @pytest.mark.parametrize("name", ALL)
    def test_nothing_else_is_trained_or_saved(self, world: World, tmp_path: Path, name: str) -> None:
        running = start(world, ds_config=name)
        net, _ = adapted()
        wanted = trained(net)
        assert all(".lora_" in key or key.startswith("classifier.") for key in wanted) and len(wanted) == 2 * 13 + 2
        before = {key: p.detach().clone() for key, p in running.module.named_parameters() if key not in wanted}
        train(running)
        after = dict(running.module.named_parameters())
        if "zero3" not in name:  # there the module holds no whole weights
            assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
        weights = running.weights()
        assert weights.keys() == wanted.keys()
        assert all(not torch.equal(weights[key], wanted[key]) for key in wanted if "lora_B" in key)
        running.save(tmp_path)
        running.close()
        written = load_file(tmp_path / optimizer_state.TENSORS)
        assert written.keys() == {f"{kind}.{key}" for kind in ("master", "exp_avg", "exp_avg_sq") for key in wanted}
        assert sum(tensor.numel() for tensor in written.values()) == 3 * sum(p.numel() for p in wanted.values())

    @pytest.mark.usefixtures("fp16_allowed")
    @pytest.mark.parametrize("name", ALL)
    def test_saved_and_resumed(self, world: World, tmp_path: Path, name: str) -> None:
        """To the bit, with dropout before the adapters."""
        running = start(world, ds_config=name)
        first = train(running, slice(3))
        running.save(tmp_path)
        state = torch.get_rng_state()
        rest, weights = train(running, slice(3, None)), running.weights()
        weights = {key: tensor.clone() for key, tensor in weights.items()}
        signature = running.signature()
        running.close()
        again = start(world, ds_config=name)
        assert again.signature() == signature
        again.load(tmp_path)
        torch.set_rng_state(state)
        assert train(again, slice(3, None)) == rest != first
        assert furthest(again.weights(), weights) == 0
        again.close()

    @pytest.mark.usefixtures("fp16_allowed")
    @pytest.mark.parametrize("after", HALF)
    def test_resumed_at_another_stage(self, world: World, tmp_path: Path, after: str) -> None:
        for folder in (tmp_path / "first", tmp_path / "second"):
            folder.mkdir()
        running = start(world, ds_config="fp16_zero3")
        train(running, slice(3))
        running.save(tmp_path / "first")
        running.close()
        again = start(world, ds_config=after)
        again.load(tmp_path / "first")
        again.save(tmp_path / "second")
        again.close()
        first, second = (load_file(tmp_path / name / optimizer_state.TENSORS) for name in ("first", "second"))
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

    def test_other_adapters_have_another_signature(self, world: World) -> None:
        found = []
        for given in ({}, {"lora_rank": 5}, {"lora_dora": True}, {"lora_targets": ("query",)}):
            running = start(world, ds_config="fp32", **given)
            found.append(running.signature())
            running.close()
        assert len(set(found)) == 4

    @pytest.mark.parametrize("name", ["fp32", "bf16_autocast", "bf16_zero1"])
    def test_scoring_computes_as_training_does(self, world: World, name: str) -> None:
        running = start(world, ds_config=name)
        train(running, slice(2))
        running.train(False)
        written, run = adapted(ds_config=name)
        written.load_state_dict(running.weights(), strict=False)
        ds, plan = ds_config.resolve(run, world), config.batch_plan(run, world.size)
        with scoring.forward_as_trained(written.eval(), run, ds, plan, world) as forward, torch.no_grad():
            ours, theirs = forward(batches()[1]), running.forward(batches()[1])
        assert (ours - theirs).abs().mean() < (1e-6 if name == "fp32" else 2e-4)
        running.close()


class TestFreshModel:
    @pytest.mark.parametrize("kind", KINDS)
    def test_answers_as_without(self, encoders: dict[str, Path], kind: str) -> None:
        """The head is the same to the bit, and so is the encoder with adapters that have learnt nothing yet."""
        plain, with_adapters = (
            model.build(RunConfig(model_name_or_path=str(encoders[kind]), lora_rank=rank), 3, False).eval()
            for rank in (None, 4)
        )
        for name in ("weight", "bias"):
            assert torch.equal(getattr(plain.classifier, name), getattr(with_adapters.classifier, name))
        assert with_adapters.layout == plain.layout
        with torch.inference_mode():
            torch.testing.assert_close(with_adapters(batches()[0]), plain(batches()[0]))

    def test_the_pooler_belongs_to_the_encoder(self, encoders: dict[str, Path]) -> None:
        for pooling in ("pooler", "mean"):
            built = model.build(
                RunConfig(model_name_or_path=str(encoders["bert"]), lora_rank=4, pooling=pooling), 3, False
            )
            assert any("pooler" in name for name in trained(built)) == (pooling == "pooler")
            assert not any("embeddings" in name or "base_layer" in name for name in trained(built))

    def test_initial_weights_depend_on_name_and_seed_alone(self) -> None:
        one, other = (adapted(seed=seed)[0] for seed in (12, 13))
        torch.manual_seed(99)
        again, fewer = adapted(seed=12)[0], adapted(seed=12, lora_targets=("key",))[0]
        values, same, less, others = (trained(net.encoder) for net in (one, again, fewer, other))
        assert all(torch.equal(values[name], same[name]) for name in values)
        assert less and all(torch.equal(less[name], values[name]) for name in less)
        first = [name for name in values if "lora_A" in name]
        assert all(not torch.equal(values[name], others[name]) for name in first)
        assert len({round(values[name].sum().item(), 6) for name in first}) == len(first)
        bound = 32**-0.5  # of a uniform distribution, as peft and nn.Linear have it
        assert 0.9 * bound < float(values["encoder.layer.0.attention.self.query.lora_A.default.weight"].max()) < bound

    def test_dropout_is_the_one_that_resumes(self) -> None:
        kinds = {type(module) for module in adapted()[0].modules() if isinstance(module, nn.Dropout)}
        assert len(kinds) == 1 and nn.Dropout not in kinds

    def test_alpha_is_twice_the_rank(self) -> None:
        for given, scale in (({}, 2.0), ({"lora_alpha": 6}, 1.5)):
            layer = adapted(**given)[0].encoder.encoder.layer[0].attention.self.query
            assert layer.scaling == {lora.ADAPTER: scale}

    def test_targets(self) -> None:
        def layers(*asked: str) -> set[str]:
            return {name.partition(".lora_")[0] for name in trained(adapted(lora_targets=asked)[0].encoder)}

        assert layers("query", "1.attention.self.key") == {
            "encoder.layer.0.attention.self.query", "encoder.layer.1.attention.self.query",
            "encoder.layer.1.attention.self.key",
        }  # fmt: skip
        assert len(layers("all-linear")) == len(layers("query", "key", "value", "dense")) == 13

    def test_a_rank_that_saves_nothing_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            adapted(lora_rank=32)
            assert not caplog.records
            adapted(lora_rank=33)
        assert "--lora_rank 33: larger than 13 of 13 layers are wide" in caplog.text


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "albert", "gpt2"])
def test_merged_weights_answer_as_the_adapters_do(encoders: dict[str, Path], kind: str, dora: bool) -> None:
    if kind == "gpt2":  # whose linear layers are transposed
        from transformers import GPT2Config, GPT2Model

        encoder = GPT2Model(GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=2)).eval()
    elif kind == "albert":  # whose layers share their weights
        encoder = albert()
    else:
        encoder = model.build(RunConfig(model_name_or_path=str(encoders[kind]), pooling="mean"), 3, False).encoder
    names = [name for name, _ in encoder.named_parameters()]
    ids = torch.arange(5, 37).reshape(2, 16)
    lora.add(encoder, RunConfig(model_name_or_path=kind, lora_rank=4, lora_dora=dora), set())
    encoder.eval()
    with torch.inference_mode():
        before = encoder(input_ids=ids).last_hidden_state
        moved(encoder)
        expected = encoder(input_ids=ids).last_hidden_state
        lora.merge(encoder)
        found = encoder(input_ids=ids).last_hidden_state
    assert (found - expected).abs().max() < 1e-5 < 1e-2 < (before - expected).abs().max()
    assert [name for name, _ in encoder.named_parameters()] == names


def albert() -> Any:
    from transformers import AlbertConfig, AlbertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return AlbertModel(AlbertConfig(vocab_size=100, embedding_size=16, **sizes, **none))


def test_a_pooler_that_is_the_layer_itself_is_packed_as_padded() -> None:
    """ALBERT's, which with an adapter is no nn.Linear any more."""
    net = model.EncoderWithHead(albert(), 3, "pooler", 0.0)
    lora.add(net.encoder, RunConfig(model_name_or_path="albert", lora_rank=4), set())
    assert any("pooler" in name for name in trained(net))
    moved(net)
    ids = torch.arange(5, 37).reshape(2, 16)
    batch = Batch(ids, torch.ones_like(ids), None, None, ids[:, 0], (0, 1), (1, 1), (16, 9))
    batch.attention_mask[1, 9:] = 0
    with torch.inference_mode():
        padded = net(batch)
        net.layout = choose(net.encoder, "packed")
        torch.testing.assert_close(net(batch), padded, atol=1e-5, rtol=0)


def saved(folder: Path, encoder: Path, **given: Any) -> tuple[model.EncoderWithHead, Any, Path]:
    """A model with adapters of that encoder, its tokenizer, and what a run writes of it."""
    run = RunConfig(model_name_or_path=str(encoder), **{"lora_rank": 4, **given})
    tokenizer = load_tokenizer(run)
    built = moved(model.build(run, 3, False, tokenizer))
    base = export.Base(str(encoder), None, {"model.safetensors": sha256(encoder / "model.safetensors")})
    export.save(folder, built, dict(trained(built)), tokenizer, about(LABELS, "multiclass"), base)
    return built, tokenizer, folder


@torch.inference_mode()
def logits(net: model.EncoderWithHead, tokenizer: Any) -> torch.Tensor:
    rows = tokenizer(["the patient has no fever", "aspirin"], padding=True, return_tensors="pt")
    mask = rows["attention_mask"]
    return net(Batch(rows["input_ids"], mask, None, None, mask[:, 0], (0, 1), (1, 1)))


class TestFolder:
    @pytest.mark.parametrize("dora", [False, True])
    @pytest.mark.parametrize("kind", KINDS)
    def test_loads_again(self, encoders: dict[str, Path], tmp_path: Path, kind: str, dora: bool) -> None:
        built, tokenizer, folder = saved(tmp_path / "model", encoders[kind], lora_dora=dora)
        loaded = model.load(folder)
        torch.testing.assert_close(logits(loaded.model, loaded.tokenizer), logits(built, tokenizer))
        names = {path.name for path in folder.iterdir()}
        assert {ADAPTER_CONFIG, ADAPTER_WEIGHTS, HEAD_WEIGHTS, HEAD_FILE, "config.json"} < names
        assert not names & {"model.safetensors"}
        size = sum((folder / name).stat().st_size for name in (ADAPTER_WEIGHTS, HEAD_WEIGHTS))
        assert size < 0.6 * (encoders[kind] / "model.safetensors").stat().st_size

    @pytest.mark.parametrize(("kind", "pooling"), [("bert", "pooler"), *((kind, "mean") for kind in KINDS)])
    def test_loads_by_peft(
        self, encoders: dict[str, Path], tmp_path: Path, kind: str, pooling: str, recwarn: pytest.WarningsRecorder
    ) -> None:
        """As its README says; no layer of the base has an adapter that none was written for, as BERT's pooler."""
        built, tokenizer, folder = saved(tmp_path / "model", encoders[kind], pooling=pooling)
        theirs = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(encoders[kind]), folder).eval()
        assert not [warning for warning in recwarn if "adapter keys" in str(warning.message)]
        rows = tokenizer(["the patient has no fever"], return_tensors="pt")
        rows.pop("token_type_ids", None)
        of_encoder = theirs.get_encoder() if "t5" in kind else theirs
        with torch.inference_mode():
            torch.testing.assert_close(
                of_encoder(**rows).last_hidden_state, built.encoder(**rows).last_hidden_state, atol=1e-5, rtol=0
            )
        assert any("lora_" in name and "pooler" in name for name, _ in theirs.named_parameters()) == (
            pooling == "pooler"
        )
        assert "PeftModel.from_pretrained" in (folder / "README.md").read_text()
        assert str(encoders[kind]) not in (folder / "README.md").read_text()

    def test_is_the_same_each_time(self, encoders: dict[str, Path], tmp_path: Path) -> None:
        for name in ("one", "other"):
            saved(tmp_path / name, encoders["bert"])
        for path in (tmp_path / "one").iterdir():
            assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()

    def test_what_the_encoder_has_no_weights_for_is_trained_and_kept(
        self, encoders: dict[str, Path], tmp_path: Path
    ) -> None:
        """A pooler that is not in the file, and rows for added tokens."""
        bare = tmp_path / "bare"
        shutil.copytree(encoders["bert"], bare)
        weights = load_file(bare / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
        save_file(kept, bare / "model.safetensors", metadata={"format": "pt"})
        added = json.loads((bare / "tokenizer.json").read_text())
        token = {"content": "newtoken", "special": False, "single_word": False, "lstrip": False, "rstrip": False}
        added["added_tokens"].append({"id": len(added["model"]["vocab"]), "normalized": True, **token})
        (bare / "tokenizer.json").write_text(json.dumps(added))
        built, tokenizer, folder = saved(tmp_path / "model", bare, pooling="pooler")
        beside = {name for name in trained(built) if ".lora_" not in name and not name.startswith("classifier")}
        assert beside == {
            "encoder.pooler.dense.weight", "encoder.pooler.dense.bias", "encoder.embeddings.word_embeddings.weight",
        }  # fmt: skip
        assert len(tokenizer) == built.encoder.config.vocab_size > len(load_tokenizer_of(encoders["bert"]))
        loaded = model.load(folder)
        torch.testing.assert_close(logits(loaded.model, loaded.tokenizer), logits(built, tokenizer))

    def test_of_another_base(self, encoders: dict[str, Path], tmp_path: Path) -> None:
        base = tmp_path / "base"
        shutil.copytree(encoders["bert"], base)
        _, _, folder = saved(tmp_path / "model", base)
        weights = load_file(base / "model.safetensors")
        weights["embeddings.word_embeddings.weight"][5, 5] += 1e-3
        save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
        parts = (f"{folder / ADAPTER_CONFIG}: its adapters are of another base", "model.safetensors is not what they")
        assert_user_error(lambda: model.load(folder), *parts, "base_model_name_or_path")
        shutil.rmtree(base)
        assert_user_error(lambda: model.load(folder), f"is not there ({base})", "base_model_name_or_path")
        values = json.loads((folder / ADAPTER_CONFIG).read_text())  # as the message says
        values["base_model_name_or_path"] = str(encoders["bert"])
        (folder / ADAPTER_CONFIG).write_text(json.dumps(values))
        assert model.load(folder).model.pooling == "pooler"

    @pytest.mark.parametrize(
        ("name", "change", "parts"),
        [
            (ADAPTER_CONFIG, lambda path: path.write_text("{"), ("cannot be read", "get the file again")),
            (ADAPTER_CONFIG, lambda path: path.write_text("[]"), ("cannot be read", "get the file again")),
            (ADAPTER_CONFIG, lambda path: path.unlink(), ("cannot be read", "get the file again")),
            (ADAPTER_CONFIG, lambda path: edited(path, r=5), ("lora_A.weight is [4, 32]", "say [5, 32]")),
            (ADAPTER_CONFIG, lambda path: edited(path, target_modules=["x"]), ("no adapters can be made",)),
            (ADAPTER_CONFIG, lambda path: edited(path, target_modules=["query"]), ("the encoder say nothing",)),
            (ADAPTER_CONFIG, lambda path: edited(path, lora_alpha="x"), ("no adapters can be made",)),
            (ADAPTER_CONFIG, lambda path: edited(path, target_modules=None), ("no adapters can be made",)),
            (ADAPTER_WEIGHTS, lambda path: path.unlink(), ("get the folder again",)),
            (ADAPTER_WEIGHTS, lambda path: path.write_bytes(path.read_bytes()[:-8]), ("get the folder again",)),
            (ADAPTER_WEIGHTS, lambda path: path.write_text("version https://git-lfs x"), ("Git LFS pointer",)),
            (HEAD_WEIGHTS, lambda path: path.unlink(), (f"{HEAD_WEIGHTS}: cannot be read",)),
            (HEAD_WEIGHTS, lambda path: save_file({}, path), ("lacks classifier.bias",)),
        ],
    )
    def test_of_damaged_files(
        self, encoders: dict[str, Path], tmp_path: Path, name: str, change: Any, parts: tuple[str, ...]
    ) -> None:
        folder = saved(tmp_path / "model", encoders["bert"])[2]
        change(folder / name)
        assert_user_error(lambda: model.load(folder), str(folder), *parts)

    def test_is_no_encoder_to_train(self, encoders: dict[str, Path], tmp_path: Path) -> None:
        folder = saved(tmp_path / "model", encoders["bert"])[2]
        run = RunConfig(model_name_or_path=str(folder))
        assert_user_error(lambda: model.build(run, 3, False), str(folder), "is an adapter", "--merge_lora", "peft")


def load_tokenizer_of(folder: Path) -> Any:
    return load_tokenizer(RunConfig(model_name_or_path=str(folder)))


def edited(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


class TestBadInput:
    def test_targets(self) -> None:
        listed = "its linear layers are dense, key, query, value"
        assert_user_error(lambda: adapted(lora_targets=("querry",)), "--lora_targets querry", "mean query?", listed)
        what = "LayerNorm is no linear layer (LayerNorm)"
        assert_user_error(
            lambda: adapted(lora_targets=("query", "LayerNorm")), "--lora_targets LayerNorm", what, listed
        )
        assert_user_error(lambda: adapted(lora_targets=("word_embeddings",)), "(Embedding)", listed)
        assert_user_error(
            lambda: adapted(lora_targets=("output",)), "is no linear layer (BertOutput, BertSelfOutput)", listed
        )

    def test_peft_is_missing_or_too_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lora.check_installed("--lora_rank")
        with monkeypatch.context() as patch:
            patch.setattr(lora, "OLDEST", (99, 1))
            assert_user_error(
                lambda: lora.check_installed("x"), "x needs peft 99.1 or newer, here is 0.", "pip install"
            )
        monkeypatch.setitem(sys.modules, "peft", None)  # as Python marks what cannot be imported
        assert_user_error(adapted, "--lora_rank needs the library peft", "pip install 'blue-harness[lora]'")

    def test_without_training(self) -> None:
        with pytest.raises(UserError, match="--lora_rank: nothing is trained here"):
            config.check(RunConfig(task="x", model_name_or_path="y", lora_rank=4, trained=False))

    @pytest.mark.parametrize("flag", ["lora", "use_lora", "lora_r", "peft"])
    def test_other_names(self, flag: str) -> None:
        assert hint(flag, flags.known_names(), "--") == "; did you mean --lora_rank?"
        assert "--freeze_layers" in hint("freeze", flags.known_names(), "--")


def test_the_card_of_a_turned_decoder_loads_it_turned(tmp_path: Path) -> None:
    """Its own config says that attention is causal, that of the folder says what was trained."""
    place = tiny_encoder(tmp_path / "llama", "llama")
    run = RunConfig(task="x", model_name_or_path=str(place), attention="bidirectional", lora_rank=2)
    built = model.build(run, 3, per_word=False).eval()
    kept = {name: value for name, value in built.named_parameters() if value.requires_grad}
    base = export.Base(str(place), None, {"model.safetensors": sha256(place / "model.safetensors")})
    told = about(("a", "b", "c"), "multiclass")
    export.save(tmp_path / "model", built, kept, load_tokenizer(run), told, base)
    card = (tmp_path / "model" / "README.md").read_text()
    code = card.split("```python\n")[2].split("```")[0].replace("<this folder>", str(tmp_path / "model"))
    found: dict[str, Any] = {}
    exec(code.replace('"llama"', repr(str(place))), found)
    ids = torch.arange(5, 13)[None]
    with torch.no_grad():
        theirs, ours = (each(input_ids=ids).last_hidden_state for each in (found["encoder"].eval(), built.encoder))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)

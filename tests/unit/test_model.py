"""The encoder with a task's head, for every architecture; what is said where a folder does not hold one."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import KINDS, WITH_POOLER, tiny_encoder
from running import assert_user_error
from safetensors.torch import load_file, save_file
from torch import nn

from harness import model, parameters, pretrained
from harness.config import RunConfig
from harness.data import collate
from harness.encoder import choose_pooling
from harness.task import Batch, Encoded
from harness.tokenizer import load_tokenizer

TEXTS = ("No fever.", "The patient has 38.5 degrees & is on aspirin (drug @GENE$).", "a drug of the gene and a fever")
NORMS = ("LayerNorm", "RMSNorm")  # how the classes of normalisations end


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return {kind: tiny_encoder(folder / f"tiny-{kind}", kind) for kind in KINDS}


def settings(folder: Path, **given: Any) -> RunConfig:
    return RunConfig(task="mednli", model_name_or_path=str(folder), **given)


def copied(source: Path, target: Path, *without: str) -> Path:
    shutil.copytree(source, target)
    for name in without:
        (target / name).unlink()
    return target


def write_weights(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def encode(tokenizer: Any, per_word: bool) -> Encoded:
    if not per_word:
        rows = tokenizer(list(TEXTS))
        return Encoded(rows["input_ids"], rows.get("token_type_ids"), [0, 1, 2])
    rows = tokenizer([text.split() for text in TEXTS], is_split_into_words=True)
    words = [rows.word_ids(i) for i in range(len(TEXTS))]
    places = [[row.index(w) for w in sorted({w for w in row if w is not None})] for row in words]
    numbers = [list(range(len(row))) for row in places]
    labels = [[0] * len(row) for row in places]
    return Encoded(rows["input_ids"], rows.get("token_type_ids"), labels, places, numbers)


def logits(built: model.EncoderWithHead, batch: Batch) -> torch.Tensor:
    with torch.inference_mode():
        return built.eval()(batch)


class TestForward:
    @pytest.mark.parametrize("kind", KINDS)
    def test_shapes(self, encoders: dict[str, Path], kind: str) -> None:
        tokenizer = load_tokenizer(settings(encoders[kind]))
        assert tokenizer.is_fast
        encoded, words = encode(tokenizer, False), encode(tokenizer, True)
        assert all(tokenizer.unk_token_id not in row for row in encoded.input_ids + words.input_ids)
        for pooling in ("mean", "cls", *(["pooler"] if kind in WITH_POOLER else [])):
            built = model.build(settings(encoders[kind], pooling=pooling), 3, per_word=False)
            assert built.pooling == pooling
            out = logits(built, collate(encoded, [0, 1, 2], tokenizer.pad_token_id))
            assert out.shape == (3, 3) and out.dtype == torch.float32
            assert (out[0] - out[1]).abs().max() > 1e-4
        built = model.build(settings(encoders[kind]), 4, per_word=True)
        assert built.pooling is None
        out = logits(built, collate(words, [0, 1, 2], tokenizer.pad_token_id))
        assert out.shape == (sum(len(text.split()) for text in TEXTS), 4)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("per_word", [False, True], ids=["mean", "words"])
    def test_padding_changes_nothing(self, encoders: dict[str, Path], kind: str, per_word: bool) -> None:
        tokenizer = load_tokenizer(settings(encoders[kind]))
        encoded = encode(tokenizer, per_word)
        built = model.build(settings(encoders[kind], pooling="mean"), 3, per_word)
        together = logits(built, collate(encoded, [0, 1, 2], tokenizer.pad_token_id))
        alone = [logits(built, collate(encoded, [i], tokenizer.pad_token_id)) for i in range(3)]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)

    def test_mean_is_of_the_tokens(self, encoders: dict[str, Path]) -> None:
        tokenizer = load_tokenizer(settings(encoders["bert"]))
        built = model.build(settings(encoders["bert"], pooling="mean"), 3, per_word=False).eval()
        batch = collate(encode(tokenizer, False), [0], tokenizer.pad_token_id)
        pieces = batch.tokens
        with torch.inference_mode():
            hidden = built.encoder(input_ids=batch.input_ids[:, :pieces]).last_hidden_state
            expected = built.classifier(hidden.mean(1))
        torch.testing.assert_close(logits(built, batch), expected, rtol=1e-4, atol=1e-5)

    def test_segments_reach_the_encoder(self, encoders: dict[str, Path]) -> None:
        built = model.build(settings(encoders["bert"]), 3, per_word=False)
        ids = torch.arange(5, 13)[None]
        plain = Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), None, torch.zeros(1), (0,), (1,))
        pair = Batch(ids, torch.ones_like(ids), (ids > 8).long(), None, torch.zeros(1), (0,), (1,))
        assert not torch.allclose(logits(built, plain), logits(built, pair))


class TestWeights:
    def test_half_precision_file(self, encoders: dict[str, Path], tmp_path: Path) -> None:
        folder = copied(encoders["bert"], tmp_path / "half")
        halved = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
        write_weights(folder, halved)
        declared = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**declared, "dtype": "float16"}))
        built = model.build(settings(folder), 3, per_word=False)
        assert {parameter.dtype for parameter in built.parameters()} == {torch.float32}
        loaded = dict(built.encoder.named_parameters())
        assert all(torch.equal(loaded[name], halved[name].float()) for name in halved)

    def test_seed_draws_the_head_alone(self, encoders: dict[str, Path]) -> None:
        first, again, other = (
            model.build(settings(encoders["bert"], seed=s), 3, False).state_dict() for s in (12, 12, 13)
        )
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert [name for name in first if not torch.equal(first[name], other[name])] == ["classifier.weight"]
        assert first["classifier.weight"].std() == pytest.approx(0.1, rel=0.3)  # the checkpoint's initializer_range

    def test_unused_pooler_is_left_out(self, encoders: dict[str, Path]) -> None:
        assert model.build(settings(encoders["bert"]), 3, per_word=True).encoder.pooler is None
        assert model.build(settings(encoders["bert"], pooling="cls"), 3, per_word=False).encoder.pooler is None

    @pytest.mark.parametrize("kind", KINDS)
    def test_dropout_of_the_head(self, tmp_path: Path, kind: str) -> None:
        built = model.build(settings(tiny_encoder(tmp_path / kind, kind, dropout=0.25)), 3, per_word=False)
        assert built.dropout.p == 0.25

    def test_part_of_the_weights(
        self, encoders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = copied(encoders["bert"], tmp_path / "part")
        weights = load_file(folder / "model.safetensors")
        write_weights(folder, {k: v for k, v in weights.items() if not k.endswith("query.weight")})
        model.build(settings(folder), 3, per_word=False)
        assert "no weights for 2 tensors" in caplog.text and "attention.self.query.weight" in caplog.text

    def test_weights_that_the_file_lacks_come_from_the_seed(self, encoders: dict[str, Path], tmp_path: Path) -> None:
        folder = copied(encoders["bert"], tmp_path / "no-pooler")
        weights = load_file(folder / "model.safetensors")
        write_weights(folder, {k: v for k, v in weights.items() if "pooler" not in k})
        drawn = []
        for seed in (12, 12, 13):
            torch.rand(seed)  # whatever has been drawn in this process before
            built = model.build(settings(folder, pooling="pooler", seed=seed), 3, per_word=False)
            drawn.append(built.encoder.pooler.dense.weight)
        assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])

    def test_other_model_type_is_said(self, encoders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
        model.build(settings(encoders["roberta"], model_type="bert"), 3, per_word=False)
        assert "--model_type bert" in caplog.text and "is a roberta" in caplog.text
        caplog.clear()
        model.build(settings(encoders["roberta"], model_type="RoBERTa"), 3, per_word=False)
        assert not caplog.text


class TestPooling:
    def test_trained_pooler_is_the_default(self, tiny_bert: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert model.build(settings(tiny_bert), 3, per_word=False).pooling == "pooler"
        assert not caplog.text

    def untrained(self, how: str, folder: Path) -> Path:
        tiny_encoder(folder, "bert", trained_pooler=how != "zero bias")
        if how == "no weights":
            weights = load_file(folder / "model.safetensors")
            write_weights(folder, {name: value for name, value in weights.items() if "pooler" not in name})
        return folder

    @pytest.mark.parametrize("how", ["no weights", "zero bias"])
    def test_untrained_pooler(self, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        folder = self.untrained(how, tmp_path / "untrained")
        built = model.build(settings(folder), 3, per_word=False)
        assert built.pooling == "mean" and built.encoder.pooler is None
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "no trained pooler" in record.message and "--pooling mean" in record.message
        caplog.clear()
        asked = model.build(settings(folder, pooling="pooler"), 3, per_word=False)
        assert asked.pooling == "pooler" and asked.encoder.pooler is not None
        (record,) = caplog.records
        assert "never trained" in record.message and "--pooling mean" in record.message
        caplog.clear()
        for pooling in ("mean", "cls"):
            assert model.build(settings(folder, pooling=pooling), 3, per_word=False).pooling == pooling
        model.build(settings(folder), 3, per_word=True)
        assert not caplog.text

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WITH_POOLER])
    def test_kind_without_pooler(self, encoders: dict[str, Path], kind: str, caplog: pytest.LogCaptureFixture) -> None:
        assert model.build(settings(encoders[kind]), 3, per_word=False).pooling == "mean"
        assert "no trained pooler" in caplog.text
        assert_user_error(
            lambda: model.build(settings(encoders[kind], pooling="pooler"), 3, False), "--pooling pooler", kind, "mean"
        )

    def test_albert(self) -> None:
        """Its pooler is the linear layer itself."""
        from transformers import AlbertConfig, AlbertModel

        sizes = {"hidden_size": 16, "embedding_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
        encoder = AlbertModel(AlbertConfig(vocab_size=20, num_hidden_layers=1, **sizes))
        assert choose_pooling(None, encoder, set(), "albert") == "mean"
        nn.init.ones_(encoder.pooler.bias)
        assert choose_pooling(None, encoder, set(), "albert") == "pooler"
        assert choose_pooling(None, encoder, {"pooler.weight"}, "albert") == "mean"


class TestTokenizer:
    @pytest.mark.parametrize("kind", ["bert", "electra", "distilbert"])
    @pytest.mark.parametrize("written", [True, False])
    def test_casing(self, encoders: dict[str, Path], kind: str, written: bool, tmp_path: Path) -> None:
        """The flag wins over the folder, and the tokenizer that is written beside a model keeps it."""
        from transformers import AutoTokenizer

        folder = copied(encoders[kind], tmp_path / "model")
        declared = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**declared, "do_lower_case": written}))
        pieces = {True: ["aspirin", "a", "##t"], False: ["[UNK]", "[UNK]"]}
        for asked in (None, True, False):
            tokenizer = load_tokenizer(settings(folder, do_lower_case=asked))
            assert tokenizer.tokenize("Aspirin \u00c4t") == pieces[written if asked is None else asked]
            tokenizer.save_pretrained(tmp_path / f"written-{asked}")
            again = AutoTokenizer.from_pretrained(tmp_path / f"written-{asked}")
            assert again("Aspirin \u00c4t is")["input_ids"] == tokenizer("Aspirin \u00c4t is")["input_ids"]

    @pytest.mark.parametrize("kind", ["roberta", "modernbert"])
    def test_casing_of_others_is_their_own(
        self, encoders: dict[str, Path], kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        for asked in (None, True, False):
            caplog.clear()
            tokenizer = load_tokenizer(settings(encoders[kind], do_lower_case=asked))
            assert tokenizer.decode(tokenizer("DRUG")["input_ids"], skip_special_tokens=True).strip() == "DRUG"
            assert ("--do_lower_case: has no effect" in caplog.text) == (asked is True)

    def test_casing_of_a_sentencepiece_tokenizer(self, encoders: dict[str, Path]) -> None:
        for asked, expected in ((None, "DRUG"), (True, "drug"), (False, "DRUG")):
            tokenizer = load_tokenizer(settings(encoders["deberta-v2"], do_lower_case=asked))
            assert tokenizer.decode(tokenizer("DRUG")["input_ids"], skip_special_tokens=True).strip() == expected

    def test_capitals_that_no_piece_has(self, tiny_bert: Path, caplog: pytest.LogCaptureFixture) -> None:
        load_tokenizer(settings(tiny_bert))
        assert not caplog.text
        load_tokenizer(settings(tiny_bert, do_lower_case=False))
        assert "no capital letter" in caplog.text

    def test_capitals_that_no_piece_has_by_the_folder(
        self, tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = copied(tiny_bert, tmp_path / "model")
        declared = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**declared, "do_lower_case": False}))
        load_tokenizer(settings(folder))
        assert "no capital letter" in caplog.text and "--do_lower_case" in caplog.text

    @pytest.mark.parametrize("kind", ["roberta", "modernbert"])
    def test_blank_before_each_word(self, encoders: dict[str, Path], kind: str) -> None:
        tokenizer = load_tokenizer(settings(encoders[kind]))
        words = tokenizer(["patient", "has", "fever"], is_split_into_words=True)["input_ids"]
        assert words == tokenizer("patient has fever")["input_ids"]
        assert words != tokenizer("patienthasfever")["input_ids"]

    def test_another_tokenizer(self, encoders: dict[str, Path]) -> None:
        config = settings(encoders["electra"], tokenizer_name=str(encoders["roberta"]))
        assert load_tokenizer(config).cls_token == "<s>"


class TestConfigName:
    """--config_name: the architecture's config from elsewhere, as the original had it."""

    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_it_is_the_config(self, kind: str, tiny_bert: Path, tmp_path: Path) -> None:
        folder = copied(tiny_bert, tmp_path / "model")
        (tmp_path / "config").mkdir()
        declared = json.loads((folder / "config.json").read_text())
        place = tmp_path / "config" / "config.json"
        place.write_text(json.dumps({**declared, "hidden_dropout_prob": 0.3, "num_hidden_layers": 1}))
        name = str(place if kind == "file" else place.parent)
        for config_json in ("another one", "none"):
            built = model.build(settings(folder, config_name=name), 3, per_word=False)
            assert built.dropout.p == 0.3 and len(built.encoder.encoder.layer) == 1, config_json
            assert load_tokenizer(settings(folder, config_name=name)).is_fast
            (folder / "config.json").unlink(missing_ok=True)

    def test_one_that_does_not_fit_is_said(self, tiny_bert: Path, tmp_path: Path) -> None:
        declared = json.loads((tiny_bert / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**declared, "hidden_size": 64}))
        assert_user_error(
            lambda: model.build(settings(tiny_bert, config_name=str(tmp_path)), 3, False), "--model_name_or_path"
        )


class TestRefused:
    """One line that names the setting, what is wrong and what to do."""

    def test_no_such_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "nowhere"
        assert_user_error(
            lambda: model.build(settings(folder), 3, False), str(folder), "name a folder with config.json"
        )
        assert_user_error(lambda: load_tokenizer(settings(folder)), f"--model_name_or_path {folder}: no such folder")

    def test_no_weights(self, tiny_bert: Path, tmp_path: Path) -> None:
        folder = copied(tiny_bert, tmp_path / "x", "model.safetensors")
        assert_user_error(
            lambda: model.build(settings(folder), 3, False), str(folder), "no weights", "model.safetensors"
        )

    def test_cut_weights(self, tiny_bert: Path, tmp_path: Path) -> None:
        folder = copied(tiny_bert, tmp_path / "x")
        whole = (folder / "model.safetensors").read_bytes()
        for kept in (0, 5, len(whole) // 2):
            (folder / "model.safetensors").write_bytes(whole[:kept])
            assert_user_error(lambda: model.build(settings(folder), 3, False), str(folder), "model.safetensors")

    @pytest.mark.parametrize("text", [None, "", "{", "{}", '{"model_type": "nosuch"}'])
    def test_no_config(self, tiny_bert: Path, tmp_path: Path, text: str | None) -> None:
        folder = copied(tiny_bert, tmp_path / "x", "config.json")
        if text is not None:
            (folder / "config.json").write_text(text)
        assert_user_error(lambda: model.build(settings(folder), 3, False), str(folder), "config.json")
        assert_user_error(lambda: load_tokenizer(settings(folder)), str(folder), "config.json")

    @pytest.mark.parametrize("kind", KINDS)
    def test_no_tokenizer(self, encoders: dict[str, Path], tmp_path: Path, kind: str) -> None:
        folder = copied(encoders[kind], tmp_path / "x", "tokenizer.json")
        assert_user_error(lambda: load_tokenizer(settings(folder)), str(folder), "no tokenizer", "--tokenizer_name")
        (folder / "tokenizer_config.json").unlink()
        assert_user_error(lambda: load_tokenizer(settings(folder)), str(folder), "no tokenizer", "--tokenizer_name")

    def test_broken_tokenizer(self, tiny_bert: Path, tmp_path: Path) -> None:
        folder = copied(tiny_bert, tmp_path / "x")
        for text in ("", "{", "{}", "[]"):
            (folder / "tokenizer.json").write_text(text)
            assert_user_error(lambda: load_tokenizer(settings(folder)), str(folder), "tokenizer.json")

    def test_tokenizer_without_fast_version(self, tiny_bert: Path, tmp_path: Path) -> None:
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}')
        config = settings(tiny_bert, tokenizer_name=str(tmp_path))
        assert_user_error(lambda: load_tokenizer(config), f"--tokenizer_name {tmp_path}", "no fast version")

    @pytest.mark.parametrize("weights", ["distilbert", "modernbert", "deberta-v2"])
    def test_weights_of_another_architecture(self, encoders: dict[str, Path], tmp_path: Path, weights: str) -> None:
        folder = copied(encoders["bert"], tmp_path / "x")
        own = load_file(folder / "model.safetensors")
        other = load_file(encoders[weights] / "model.safetensors")
        # Also where the tensors that they share have the same shapes.
        write_weights(folder, {k: v for k, v in other.items() if k not in own or own[k].shape == v.shape})
        assert_user_error(lambda: model.build(settings(folder), 3, False), str(folder), "another architecture")

    def test_weights_of_another_size(self, tiny_bert: Path, tmp_path: Path) -> None:
        folder = copied(tiny_bert, tmp_path / "x")
        declared = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**declared, "vocab_size": 500}))
        assert_user_error(lambda: model.build(settings(folder), 3, False), "word_embeddings.weight", "[500, 32]")

    def test_longer_than_the_positions(self, encoders: dict[str, Path]) -> None:
        """Rows are padded to a multiple of 8, which must have positions too."""
        for kind, longest in (("bert", 160), ("roberta", 152), ("distilbert", 160)):
            model.build(settings(encoders[kind], max_seq_length=longest), 3, False)
            config = settings(encoders[kind], max_seq_length=longest + 1)
            assert_user_error(
                lambda c=config: model.build(c, 3, False), f"--max_seq_length {longest + 1}", f"at most {longest}"
            )

    def test_roberta_has_as_many_positions_as_said(self, encoders: dict[str, Path]) -> None:
        built = model.build(settings(encoders["roberta"], max_seq_length=152), 3, False)
        ids = torch.full((1, 152), 9)
        assert logits(built, Batch(ids, torch.ones_like(ids), None, None, ids, (0,), (1,))).isfinite().all()

    def test_embedded_model_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pretrained, "EMBEDDED", "no-such-package-at-all")
        assert_user_error(lambda: pretrained.find("no-such-package-at-all"), "pip install no-such-package-at-all")

    def test_other_names_stay(self) -> None:
        assert pretrained.find("dmis-lab/biobert-base-cased-v1.1") == "dmis-lab/biobert-base-cased-v1.1"


class TestParameterGroups:
    def names(self, built: nn.Module) -> tuple[set[str], set[str]]:
        decayed, exempt = parameters.groups(built, settings(Path(), weight_decay=0.01))
        assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.01, 0.0)
        known = {id(parameter): name for name, parameter in built.named_parameters()}
        first, second = ([known[id(p)] for p in group["params"]] for group in (decayed, exempt))
        assert sorted(first + second) == sorted(known.values())
        return set(first), set(second)

    def expected(self, built: nn.Module) -> set[str]:
        """Every bias, and every parameter of a normalisation, by the type of its module."""
        return {
            f"{path}.{name}" if path else name
            for path, module in built.named_modules()
            for name, _ in module.named_parameters(recurse=False)
            if name == "bias" or type(module).__name__.endswith(NORMS)
        }

    @pytest.mark.parametrize("kind", KINDS)
    def test_biases_and_norms_are_exempt(self, encoders: dict[str, Path], kind: str) -> None:
        built = model.build(settings(encoders[kind]), 3, per_word=False)
        decayed, exempt = self.names(built)
        assert exempt == self.expected(built)
        assert "classifier.bias" in exempt and "classifier.weight" in decayed
        assert any("embeddings" in name for name in decayed)
        layers = built.encoder.config.num_hidden_layers
        gains = [name for name in exempt if not name.endswith("bias")]
        assert len(gains) >= layers * 2  # two normalisations a layer; ModernBERT's first has one, but a last one

    def test_norms_of_other_names(self) -> None:
        """MegatronBERT calls them `ln`."""
        from transformers import MegatronBertConfig, MegatronBertModel

        sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}
        encoder = MegatronBertModel(MegatronBertConfig(vocab_size=20, **sizes))
        assert self.names(encoder)[1] == self.expected(encoder)

    def test_frozen_parameters_are_left_out(self, tiny_bert: Path) -> None:
        built = model.build(settings(tiny_bert), 3, per_word=False)
        built.encoder.embeddings.requires_grad_(False)
        groups = parameters.groups(built, settings(Path(), weight_decay=0.01))
        held = {id(p) for group in groups for p in group["params"]}
        assert held == {id(p) for name, p in built.named_parameters() if "embeddings" not in name}

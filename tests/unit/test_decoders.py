"""Decoders and encoder-decoders as encoders: which tokens see which, what is pooled, and that model/ is the same."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import DECODERS, NO_PAD, T5, about, settings_for, tiny_encoder
from running import assert_user_error
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification, AutoTokenizer

import tasks
from harness import direction, export, model, model_folder
from harness.config import RunConfig
from harness.data import collate
from harness.model import EncoderWithHead
from harness.model_folder import HEAD_FILE
from harness.packing import PADDED, Layout
from harness.task import Batch, Encoded, Example
from harness.tokenizer import load_tokenizer

LAYOUTS = ("one row", "rows", "bucketed")
TURNED = [(kind, way) for kind in DECODERS for way in (None, "bidirectional")] + [(kind, None) for kind in T5]
TURNED += [("bert", "causal"), ("roberta", "causal"), ("electra", "causal")]
OTHERS: dict[str, dict[str, Any]] = {  # as BioMedLM, BioGPT, Phi, MoE ... are; names of sizes differ
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 64, "num_key_value_heads": 4},
    "biogpt": {},
    "gpt_neox": {},
    "olmo2": {},
    "bloom": {"n_layer": 2, "n_head": 2},
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("decoders")
    return {kind: tiny_encoder(place / kind, kind) for kind in (*DECODERS, *T5, "bert", "roberta", "electra")}


def settings(folder: Path, **given: Any) -> RunConfig:
    return RunConfig(model_name_or_path=str(folder), **{"task": "mednli", "max_seq_length": 96, **given})


def other(folder: Path, kind: str) -> Path:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1)
    config = AutoConfig.for_model(kind, vocab_size=300, initializer_range=0.1, **ids, **sizes | OTHERS[kind])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModel.from_config(config).float().save_pretrained(folder)
    return folder


def outputs(encoder: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        hidden: torch.Tensor = encoder.eval()(input_ids=ids, attention_mask=mask).last_hidden_state
    return hidden


def seen(encoder: Any, length: int, padding: int) -> torch.Tensor:
    """[length, length] bool: whether the output at the first place depends on the token at the second one."""
    ids = torch.arange(5, 5 + length).repeat(length + 1, 1)
    ids[range(1, length + 1), range(length)] += 40
    ids = nn.functional.pad(ids, (0, padding), value=3)
    mask = (torch.arange(length + padding) < length).long().repeat(length + 1, 1)
    hidden = outputs(encoder, ids, mask)[:, :length]
    return ((hidden[1:] - hidden[0]).abs().amax(-1) > 1e-6).T


class TestDirection:
    """By trying: a token's output depends on the tokens that it sees, and on no others."""

    @pytest.mark.parametrize("padding", [0, 4])
    @pytest.mark.parametrize(("kind", "way"), TURNED)
    def test_who_sees_whom(self, folders: dict[str, Path], kind: str, way: str | None, padding: int) -> None:
        built = model.build(settings(folders[kind], attention=way), 3, False)
        causal = built.attention == "causal"
        assert causal == (way == "causal" or (way is None and kind in DECODERS))
        found = seen(built.encoder, 6, padding)
        assert torch.equal(found, torch.ones(6, 6, dtype=torch.bool).tril() if causal else torch.ones_like(found))

    @pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3_text"])
    def test_windows_stay(self, tmp_path: Path, kind: str) -> None:
        """One layer of local attention: 8 tokens back, and bidirectional also 8 ahead."""
        layers = {"num_hidden_layers": 1} | ({} if kind == "mistral" else {"layer_types": ["sliding_attention"]})
        folder = tiny_encoder(tmp_path / kind, kind, **layers)
        place = torch.arange(20)
        distance = place[:, None] - place[None]
        causal = model.build(settings(folder), 3, False).encoder
        assert torch.equal(seen(causal, 20, 2), (distance >= 0) & (distance < 8))
        both = model.build(settings(folder, attention="bidirectional"), 3, False).encoder
        assert torch.equal(seen(both, 20, 2), distance.abs() <= 8)

    @pytest.mark.parametrize("kind", OTHERS)
    @pytest.mark.parametrize("way", [None, "bidirectional"])
    def test_other_architectures(self, tmp_path: Path, kind: str, way: str | None) -> None:
        built = model.build(settings(other(tmp_path / kind, kind), attention=way, max_seq_length=32), 3, False)
        assert built.attention == (way or "causal") and built.pooling == ("mean" if way else "last")
        assert built.layout.kind == ("bucketed" if kind == "bloom" else "packed")

    @pytest.mark.parametrize("kind", ["modernbert", "distilbert", "deberta-v2", "t5", "t5gemma"])
    def test_where_it_cannot_be_changed(self, tmp_path: Path, kind: str) -> None:
        run = settings(tiny_encoder(tmp_path / kind, kind), attention="causal")
        assert_user_error(lambda: model.build(run, 3, False), f"{tmp_path}", "--attention causal", "leave it out")

    def test_a_bert_whose_config_says_decoder(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """As it was trained: causal; and what to do where that is a mistake is said."""
        folder = tiny_encoder(tmp_path / "bert", is_decoder=True)
        with caplog.at_level(logging.INFO):
            built = model.build(settings(folder), 3, False)
        assert built.attention == "causal" and "--attention bidirectional" in caplog.text
        plain = model.build(settings(folder, attention="bidirectional"), 3, False)
        usual = model.build(settings(tiny_encoder(tmp_path / "usual")), 3, False)
        ids = torch.arange(5, 13)[None]
        assert torch.equal(plain.encoder(ids).last_hidden_state, usual.encoder(ids).last_hidden_state)
        assert plain.pooling == "pooler" and plain.attention == "bidirectional" and usual.attention is None

    def test_tokens_that_nobody_used(self, folders: dict[str, Path]) -> None:
        """As Gemma's first hundred: they differ in nothing, so that a change among them tells nothing."""
        encoder = AutoModel.from_pretrained(folders["llama"])
        with torch.no_grad():
            encoder.embed_tokens.weight[:16] = 0.1
        assert direction.is_causal(encoder) is True
        direction.turn(encoder, False)
        assert direction.is_causal(encoder) is False

    def test_no_keys_and_values_are_kept(self, folders: dict[str, Path]) -> None:
        for way in (None, "bidirectional"):
            encoder = model.build(settings(folders["llama"], attention=way), 3, False).encoder
            assert encoder(torch.arange(5, 9)[None]).past_key_values is None


@dataclasses.dataclass
class Case:
    net: EncoderWithHead
    task: Any
    encoded: Encoded
    tokenizer: Any

    def pass_(self, layout: Layout, examples: list[int]) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """(loss, gradients)."""
        self.net.layout = layout
        self.net.zero_grad(set_to_none=True)
        batch = collate(self.encoded, examples, int(self.tokenizer.pad_token_id))
        loss = self.task.loss(self.net(batch), batch.labels) / sum(batch.units)
        loss.backward()
        return loss.detach(), [p.grad for p in self.net.parameters()]


def case(folder: Path, name: str, **given: Any) -> Case:
    task, run = tasks.get(name), settings(folder, task=name, **given)
    tokenizer = load_tokenizer(run, task.per_word)
    encoded = task.features(task.read(tasks.sample_dir(name), "train")[:11], tokenizer, run.max_seq_length)
    return Case(model.build(run, task.num_outputs, task.per_word, tokenizer), task, encoded, tokenizer)


class TestSameMathematics:
    @pytest.mark.parametrize("name", ["mednli", "bc5cdr_disease"])
    @pytest.mark.parametrize("how", LAYOUTS)
    @pytest.mark.parametrize(("kind", "way"), TURNED)
    def test_loss_and_gradients(
        self, folders: dict[str, Path], kind: str, way: str | None, how: str, name: str
    ) -> None:
        parts = case(folders[kind], name, attention=way)
        layout = parts.net.layout
        assert layout.kind == ("bucketed" if kind == "t5" else "packed")
        if how == "bucketed":
            layout = Layout("bucketed")
        elif how == "rows":
            layout = dataclasses.replace(layout, few_shapes=True)
        examples = [3, 0, 10, 7, 5, 1, 2, 9]
        expected, found = parts.pass_(PADDED, examples), parts.pass_(layout, examples)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("how", LAYOUTS[:2])
    @pytest.mark.parametrize("kind", ["llama", "gemma2"])
    def test_another_example_changes_nothing(self, folders: dict[str, Path], kind: str, how: str) -> None:
        parts = case(folders[kind], "mednli")
        net = parts.net.eval()
        if how == "rows":
            net.layout = dataclasses.replace(net.layout, few_shapes=True)
        batch = collate(parts.encoded, [0, 1, 2, 3, 4], int(parts.tokenizer.pad_token_id))
        with torch.inference_mode():
            before = net(batch)
            batch.input_ids[2, : batch.lengths[2]] = batch.input_ids[0, 1]
            after = net(batch)
        others = [0, 1, 3, 4]
        torch.testing.assert_close(after[others], before[others], rtol=0, atol=1e-6)
        assert (after[2] - before[2]).abs().max() > 1e-3

    @pytest.mark.parametrize("kind", ["llama", "gemma2", "t5gemma"])
    def test_other_devices_are_never_waited_for(self, folders: dict[str, Path], kind: str) -> None:
        """On "meta" a number cannot be read."""
        for name in ("mednli", "bc5cdr_disease"):
            parts = case(folders[kind], name)
            net = parts.net.train().to("meta")
            batch = collate(parts.encoded, range(11), int(parts.tokenizer.pad_token_id)).to(torch.device("meta"))
            parts.task.loss(net(batch), batch.labels).backward()
            assert net.classifier.weight.grad is not None and net.classifier.weight.grad.is_meta


class TestPooling:
    @pytest.mark.parametrize("how", [*LAYOUTS, "padded"])
    def test_last_is_each_example_s_last_token(self, folders: dict[str, Path], how: str) -> None:
        parts = case(folders["llama"], "mednli", pooling="last")
        net, chosen = parts.net.eval(), parts.net.layout
        rows = dataclasses.replace(chosen, few_shapes=True)
        net.layout = {"one row": chosen, "rows": rows, "bucketed": Layout("bucketed"), "padded": PADDED}[how]
        batch = collate(parts.encoded, [0, 1, 2, 3], int(parts.tokenizer.pad_token_id))
        with torch.inference_mode():
            found = net(batch)
            for number, length in enumerate(batch.lengths):
                alone = net.encoder(batch.input_ids[number : number + 1, :length]).last_hidden_state[:, -1]
                torch.testing.assert_close(found[number : number + 1], net.classifier(alone), rtol=1e-4, atol=1e-5)

    def test_defaults_are_said(self, folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            assert model.build(settings(folders["qwen3"]), 3, False).pooling == "last"
        assert "pooling last" in caplog.text
        assert model.build(settings(folders["qwen3"], pooling="mean"), 3, False).pooling == "mean"
        assert model.build(settings(folders["qwen3"], attention="bidirectional"), 3, False).pooling == "mean"
        assert model.build(settings(folders["bert"], pooling="last"), 3, False).pooling == "last"

    @pytest.mark.parametrize("pooling", ["pooler", "cls"])
    def test_the_first_token_is_refused(self, folders: dict[str, Path], pooling: str) -> None:
        for folder, way in ((folders["llama"], None), (folders["bert"], "causal")):
            run = settings(folder, pooling=pooling, attention=way)
            assert_user_error(lambda run=run: model.build(run, 3, False), f"--pooling {pooling}", "last or mean")
        run = settings(folders["llama"], pooling="pooler", attention="bidirectional")
        assert_user_error(lambda: model.build(run, 3, False), "has no pooler", "mean")

    def test_a_word_is_read_at_its_last_token(self, folders: dict[str, Path]) -> None:
        """Else a causal model would label a word of which it has seen the beginning alone."""
        parts = case(folders["mistral"], "bc5cdr_disease")
        rows = [Example("0", ("Fever", "of", "anemia"), ("B", "O", "B")), Example("1", ("the", "gene"), ("O", "O"))]
        encoded = parts.task.features(rows, parts.tokenizer, 96)
        tokens = [parts.tokenizer.convert_ids_to_tokens(row) for row in encoded.input_ids]
        ends = [[place for place, nxt in enumerate([*row[1:], "\u2581"], 1) if nxt[0] == "\u2581"] for row in tokens]
        assert [len(places) for places in ends] == [4, 3]  # the first is that of <s>
        net = parts.net.eval()
        with torch.inference_mode():
            found = net(collate(encoded, [0, 1], 2))
            hidden = [net.encoder(torch.tensor([row])).last_hidden_state[0] for row in encoded.input_ids]
            places = [[place - 1 for place in row[1:]] for row in ends]
            expected = torch.cat([net.classifier(each[own]) for each, own in zip(hidden, places, strict=True)])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class TestTokenizers:
    @pytest.mark.parametrize("kind", DECODERS)
    def test_padding(self, folders: dict[str, Path], kind: str, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            tokenizer = load_tokenizer(settings(folders[kind]))
        assert ("has no pad token" in caplog.text) == (kind in NO_PAD)
        assert tokenizer.pad_token == (tokenizer.eos_token if kind in (*NO_PAD, "qwen2", "qwen3") else "<pad>")

    @pytest.mark.parametrize("kind", [*DECODERS, "t5", "bert"])
    def test_pairs_are_two_texts(self, folders: dict[str, Path], kind: str) -> None:
        """Between them there is a token that is in neither; what the tokenizer itself does stays."""
        plain, tokenizer = AutoTokenizer.from_pretrained(folders[kind]), load_tokenizer(settings(folders[kind]))
        pair = tokenizer("no fever", "a gene")
        inner = pair.sequence_ids()[pair.sequence_ids().index(0) :]
        assert None in inner[: inner.index(1)]
        own = plain("no fever", "a gene")["input_ids"]
        added = [tokenizer.eos_token_id] if kind.startswith("qwen") else []
        assert sorted(pair["input_ids"]) == sorted(own + added)
        assert tokenizer("no fever")["input_ids"] == plain("no fever")["input_ids"]

    @pytest.mark.parametrize("kind", DECODERS)
    def test_words_are_those_of_a_text(self, folders: dict[str, Path], kind: str) -> None:
        words = ["anemia-of", "the", "B12/drug"]
        tokenizer = load_tokenizer(settings(folders[kind]), per_word=True)
        found = tokenizer(words, is_split_into_words=True)
        assert set(found.word_ids()) - {None} == {0, 1, 2}
        assert found["input_ids"] == tokenizer(" ".join(words))["input_ids"]


class TestRoundTrip:
    @pytest.mark.parametrize("name", ["mednli", "bc5cdr_disease"])
    @pytest.mark.parametrize(("kind", "way"), TURNED)
    def test_model_folder(
        self, folders: dict[str, Path], tmp_path: Path, kind: str, way: str | None, name: str
    ) -> None:
        parts = case(folders[kind], name, attention=way)
        net = parts.net.eval()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 0.05 * torch.randn(parameter.shape)
        weights = {key: parameter.detach() for key, parameter in net.named_parameters()}
        export.save(tmp_path / "model", net, weights, parts.tokenizer, about(parts.task.labels, parts.task.family))
        again = model.load(tmp_path / "model")
        assert (again.model.attention, again.model.pooling) == (net.attention, net.pooling)
        rows = parts.task.read(tasks.sample_dir(name), "train")[:11]
        encoded = parts.task.features(rows, again.tokenizer, 96)
        assert encoded == parts.encoded and again.tokenizer.pad_token_id == parts.tokenizer.pad_token_id
        batch = collate(encoded, range(11), int(again.tokenizer.pad_token_id))
        with torch.inference_mode():
            expected = net(batch)
            torch.testing.assert_close(again.model(batch), expected, rtol=1e-5, atol=1e-5)
            head, _ = model_folder.read(tmp_path / "model")
            written = json.loads((tmp_path / "model" / HEAD_FILE).read_text())
            assert ("attention" in written) == (net.attention is not None)
            card = (tmp_path / "model" / "README.md").read_text()
            assert ("last subword token" in card) == (net.attention == "causal" and net.pooling is None)
            if head.standard_class is None:
                assert "harness.model" in card
                return
            assert net.pooling is None or kind == "bert"
            theirs, report = AutoModelForTokenClassification.from_pretrained(
                tmp_path / "model", output_loading_info=True
            )
            assert not report["missing_keys"] and not report["unexpected_keys"]
            logits = theirs(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            ours = net(dataclasses.replace(batch, scored=(every := batch.attention_mask.flatten().nonzero()[:, 0])))
            torch.testing.assert_close(logits.flatten(0, 1)[every], ours, rtol=1e-4, atol=1e-5)

    def test_standard_classes(self, folders: dict[str, Path]) -> None:
        """A decoder's head for words is ours by another name; that for texts has no bias, and is not."""
        for per_word, expected in ((True, "LlamaForTokenClassification"), (False, None)):
            net = model.build(settings(folders["llama"]), 3, per_word)
            weights = {name: parameter.detach() for name, parameter in net.named_parameters()}
            config = AutoConfig.from_pretrained(folders["llama"], num_labels=3)
            assert export.standard_class(config, net, weights)[0] == expected

    def test_folders_of_older_versions(self, tiny_bert: Path, tmp_path: Path) -> None:
        net = model.build(settings(tiny_bert), 3, False)
        weights = {name: parameter.detach() for name, parameter in net.named_parameters()}
        tokenizer = load_tokenizer(settings(tiny_bert))
        export.save(tmp_path / "model", net, weights, tokenizer, about(("a", "b", "c"), "multiclass"))
        assert "attention" not in json.loads((tmp_path / "model" / HEAD_FILE).read_text())
        assert model.load(tmp_path / "model").model.attention is None


class TestCheckpoints:
    """As people have them."""

    @pytest.mark.parametrize("kind", T5)
    def test_the_encoder_alone(
        self, folders: dict[str, Path], tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Half the weights are enough, and the other half is never made."""
        folder = shutil.copytree(folders[kind], tmp_path / kind)
        whole = load_file(folder / "model.safetensors")
        half = {name: tensor for name, tensor in whole.items() if not name.startswith("decoder.")}
        assert len(half) < len(whole)
        save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
        if kind == "t5":  # as T5EncoderModel writes it
            config = json.loads((folder / "config.json").read_text()) | {"is_encoder_decoder": False}
            (folder / "config.json").write_text(json.dumps(config))
        built = model.build(settings(folder), 3, False)
        assert "has no weights" not in caplog.text
        expected = model.build(settings(folders[kind]), 3, False).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in built.state_dict().items())

    def test_no_decoder_is_made(self, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        from transformers.models.t5gemma import modeling_t5gemma

        monkeypatch.delattr(modeling_t5gemma, "T5GemmaDecoder")
        assert model.build(settings(folders["t5gemma"]), 3, False).encoder.config.hidden_size == 32

    def test_a_whole_language_model(self, folders: dict[str, Path], tmp_path: Path) -> None:
        from transformers import LlamaForCausalLM

        torch.manual_seed(0)
        whole = LlamaForCausalLM(AutoConfig.from_pretrained(folders["llama"])).float()
        whole.save_pretrained(tmp_path)
        found = model.build(settings(tmp_path), 3, False).encoder.state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in whole.model.state_dict().items())

    @pytest.mark.parametrize("name", ["Gemma3Model", "Gemma3ForConditionalGeneration"])
    def test_the_text_model_of_one_that_sees_images(
        self, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        import transformers

        vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        vision |= {"image_size": 28, "patch_size": 14}
        text = settings_for("gemma3_text", 102, 0.0).to_dict()
        config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
        torch.manual_seed(0)
        whole = getattr(transformers, name)(config).float()
        whole.save_pretrained(tmp_path)
        with caplog.at_level(logging.INFO):
            built = model.build(settings(tmp_path), 3, False)
        assert "its text model is taken" in caplog.text
        inner = getattr(whole, "model", whole).language_model.state_dict()
        assert inner.keys() == built.encoder.state_dict().keys()
        assert all(torch.equal(tensor, inner[key]) for key, tensor in built.encoder.state_dict().items())

    def test_quantised_weights(self, folders: dict[str, Path], tmp_path: Path) -> None:
        folder = shutil.copytree(folders["llama"], tmp_path / "x")
        values = json.loads((folder / "config.json").read_text())
        quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
        (folder / "config.json").write_text(json.dumps(values | quantised))
        assert_user_error(lambda: model.build(settings(folder), 3, False), str(folder), "quantised", "16 or 32 bits")

    def test_what_cannot_be_turned_stays_as_it_was(self, folders: dict[str, Path]) -> None:
        assert direction.is_causal(AutoModel.from_pretrained(folders["llama"])) is True
        assert direction.is_causal(AutoModel.from_pretrained(folders["bert"])) is False


def test_word_ends_of_filled_up_batches() -> None:
    """For CUDA graphs scored places are filled up with other slots, in any order: they must stay within the batch."""
    slots, owner = torch.tensor([1, 4, 9, 0, 1]), torch.tensor([0, 0, 1, 0, 0])
    found = model.word_ends(slots, owner, torch.tensor([8, 16]))
    assert found.tolist()[:3] == [3, 7, 15] and all(0 <= slot < 16 for slot in found.tolist())


def test_one_scored_word_each(folders: dict[str, Path]) -> None:
    """The last word of an example never reaches into the next one."""
    net = model.build(settings(folders["llama"]), 3, True).eval()
    ids = torch.arange(5, 21).reshape(2, 8)
    mask = torch.ones_like(ids)
    scored = torch.tensor([3, 11])
    with torch.inference_mode():
        found = net(Batch(ids, mask, None, scored, ids, (0, 1), (1, 1), (8, 8)))
        expected = net.classifier(net.encoder(ids).last_hidden_state[:, -1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

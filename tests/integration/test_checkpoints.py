"""Checkpoints as people have them: every architecture loads and trains a step on what its own tokenizer makes of the
text, or is refused in one line; oddities of a folder are named, and the remedy that a message gives is right."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import about, byte_level_files, sentencepiece_model, tiny_encoder, word_piece_files
from running import assert_user_error
from safetensors.torch import load_file, save_file

import tasks
from harness import export, model
from harness.config import RunConfig
from harness.data import collate
from harness.errors import UserError
from harness.task import Example
from harness.tokenizer import load_tokenizer
from launch.run import inputs

WORD_PIECE = (
    "bert",
    "electra",
    "distilbert",
    "mpnet",
    "megatron-bert",
    "mobilebert",
    "convbert",
)
BYTE_LEVEL = ("roberta", "longformer", "bart", "led", "gpt2")
SENTENCE_PIECE = {  # the file that each one's published folders hold, alone
    "albert": "spiece.model", "deberta-v2": "spm.model", "xlm-roberta": "sentencepiece.bpe.model",
    "camembert": "sentencepiece.bpe.model", "big_bird": "spiece.model",
    "t5": "spiece.model", "xlnet": "spiece.model", "llama": "tokenizer.model",
}  # fmt: skip
REFUSED = {"fnet": "takes no attention mask"}
WORDS = ("Fever", "of", "the", "patient", "anemia", "Aspirin")


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentencepiece_model(tmp_path_factory.mktemp("spm"))


def settings(folder: Path, **given: Any) -> RunConfig:
    return RunConfig(task="x", model_name_or_path=str(folder), **{"max_seq_length": 48, **given})


def checkpoint(folder: Path, kind: str, spm: Path) -> Path:
    """config.json, weights and the tokenizer's oldest files, without anything that says how they are to be read."""
    from transformers import AutoConfig, AutoModel

    folder.mkdir(parents=True)
    if kind in SENTENCE_PIECE or kind in ("fnet", "rembert"):
        other = {"rembert": "sentencepiece.model", "fnet": "spiece.model"}
        name = SENTENCE_PIECE.get(kind) or other[kind]
        shutil.copy(spm, folder / name)
        size = 300
    elif kind in WORD_PIECE:
        size = word_piece_files(folder)
    else:
        size = byte_level_files(folder)
    values: dict[str, Any] = {"vocab_size": size, "pad_token_id": 1 if kind in BYTE_LEVEL else 0}
    if kind != "xlnet":
        values |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        values |= {"max_position_embeddings": 64}
    if kind == "distilbert":
        values |= {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    if kind in ("bart", "led"):
        sides = ("encoder", "decoder")
        values |= {"d_model": 32} | {f"{side}_{what}": 2 for side in sides for what in ("layers", "attention_heads")}
        values |= {f"{side}_ffn_dim": 64 for side in sides}
        values |= (
            {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64} if kind == "led" else {}
        )
    if kind in ("longformer", "led"):
        values |= {"attention_window": [8, 8]}
    if kind == "t5":
        values |= {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    if kind == "xlnet":
        values |= {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}
    if kind == "mobilebert":
        values |= {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32}
    if kind == "convbert":
        values |= {"embedding_size": 32, "head_ratio": 1}
    if kind == "nystromformer":
        values |= {"num_landmarks": 8, "segment_means_seq_len": 8}
    if kind in ("gpt2", "llama"):
        values |= {"n_embd": 32, "n_layer": 2, "n_head": 2, "num_key_value_heads": 2}
    if kind == "rembert":
        values |= {"input_embedding_size": 16, "output_embedding_size": 16}
    if kind == "albert":
        values |= {"embedding_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        AutoModel.from_config(AutoConfig.for_model(kind, **values)).float().save_pretrained(folder)
    return folder


def plain(folder: Path, **more: Any) -> Any:
    """What transformers makes of the folder, with the casing of its vocabulary."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **more)


def trained_step(config: RunConfig, task: Any, examples: list[Example], tokenizer: Any) -> Any:
    built = model.build(config, task.num_outputs, task.per_word, tokenizer)
    encoded = task.features(examples, tokenizer, config.max_seq_length)
    batch = collate(encoded, range(len(examples)), int(tokenizer.pad_token_id or 0))
    loss = task.loss(built(batch), batch.labels)
    loss.backward()
    assert loss.isfinite() and built.classifier.weight.grad.abs().sum() > 0
    table = built.encoder.get_input_embeddings().weight
    assert table.grad is not None and table.grad.isfinite().all() and table.grad.abs().sum() > 0
    return built, encoded


class TestArchitectures:
    @pytest.mark.parametrize("kind", [*WORD_PIECE, *BYTE_LEVEL, *SENTENCE_PIECE])
    def test_pairs_and_words(self, tmp_path: Path, spm: Path, kind: str) -> None:
        folder = checkpoint(tmp_path / kind, kind, spm)
        config = settings(folder)
        tokenizer, expected = load_tokenizer(config), plain(folder, do_lower_case=False)
        pairs = [Example(str(n), (" ".join(WORDS), "no " + WORDS[n]), "entailment") for n in (0, 1)]
        _, encoded = trained_step(config, tasks.get("mednli"), pairs, tokenizer)
        ids = expected(*pairs[0].texts)["input_ids"]
        if kind in ("gpt2", "llama"):  # from their oldest files they put nothing between the texts
            first, second = (expected(text)["input_ids"] for text in pairs[0].texts)
            assert ids == first + second
            ids = [*first, tokenizer.eos_token_id, *second]
        assert encoded.input_ids[0] == ids
        assert len(set(encoded.input_ids[0])) > 8

        tokenizer = load_tokenizer(config, per_word=True)
        rows = [Example("0", WORDS, ("O", "O", "O", "O", "B", "I")), Example("1", WORDS[:2], ("B", "O"))]
        task = tasks.get("bc5cdr_chem")
        built, encoded = trained_step(config, task, rows, tokenizer)
        behind_blank = plain(folder, do_lower_case=False, add_prefix_space=True)
        blank = " " if kind == "llama" else ""  # of its SentencePiece file alone transformers makes no such switch
        assert encoded.input_ids[0] == behind_blank(blank + " ".join(WORDS))["input_ids"]
        assert tokenizer(" ".join(WORDS))["input_ids"] == encoded.input_ids[0]

        weights = {name: parameter.detach() for name, parameter in built.named_parameters()}
        export.save(tmp_path / "model", built, weights, tokenizer, about(task.labels, task.family))
        again = model.load(tmp_path / "model")
        assert again.tokenizer(list(WORDS), is_split_into_words=True)["input_ids"] == encoded.input_ids[0]
        batch = collate(encoded, [0, 1], 0)
        with torch.inference_mode():
            torch.testing.assert_close(again.model(batch), built.eval()(batch), rtol=1e-4, atol=1e-5)

    def test_forgotten_ends(self, tmp_path: Path, spm: Path) -> None:
        """transformers puts no [CLS] and [SEP] around RemBERT's inputs until its tokenizer was saved once."""
        folder = checkpoint(tmp_path / "rembert", "rembert", spm)
        tokenizer = load_tokenizer(settings(folder))
        encoded = tokenizer("no fever", "fever")
        first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
        assert encoded["input_ids"][0] == first and encoded["input_ids"].count(last) == 2
        tokenizer.save_pretrained(tmp_path / "saved")
        assert plain(tmp_path / "saved")("no fever", "fever")["input_ids"] == encoded["input_ids"]

    @pytest.mark.parametrize("kind", REFUSED)
    def test_refused(self, tmp_path: Path, spm: Path, kind: str) -> None:
        folder = checkpoint(tmp_path / kind, kind, spm)
        assert_user_error(lambda: model.build(settings(folder), 3, False), str(folder), REFUSED[kind])

    def test_no_encoder_of_text(self, tmp_path: Path) -> None:
        from transformers import ViTConfig, ViTModel

        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(tmp_path)
        assert_user_error(lambda: model.build(settings(tmp_path), 3, False), "is no encoder of text (vit")

    def test_byte_level_behind_a_pattern(self, tiny_bert: Path, tmp_path: Path) -> None:
        """As EuroBERT has it: the byte level's own switch would put blanks into words too."""
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        byte_level_files(tmp_path)
        backend = Tokenizer(models.BPE.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")))
        pattern = pre_tokenizers.Split(Regex(r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([pattern, bytes_])
        folder = tmp_path / "tokenizer"
        PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>").save_pretrained(folder)
        words = ["anemia-of", "the", "B12/drug"]
        config = settings(tiny_bert, tokenizer_name=str(folder))
        found = load_tokenizer(config, per_word=True)(words, is_split_into_words=True)["input_ids"]
        assert found == plain(folder)(" " + " ".join(words))["input_ids"]
        sentence = load_tokenizer(config)("anemia of")["input_ids"]
        assert sentence == plain(folder)("anemia of")["input_ids"]


def edited(source: Path, target: Path, *drop: str, **values: Any) -> Path:
    """A copy of a folder with another config.json."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    config = {name: value for name, value in config.items() if name not in drop}
    (target / "config.json").write_text(json.dumps(config | values))
    return target


class TestCasing:
    def folder(self, target: Path, source: Path, *, cased: bool, **written: Any) -> Path:
        shutil.copytree(source, target)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (target / name).unlink()
        word_piece_files(target, cased=cased)
        if written:
            (target / "tokenizer_config.json").write_text(json.dumps(written))
        return target

    @pytest.mark.parametrize("below", ["x/clinical", "biobert/models/pubmed-uncased", "bluebert-uncased/cased"])
    @pytest.mark.parametrize("cased", [True, False])
    def test_vocabulary_decides_whatever_the_folder_is_called(
        self, tiny_bert: Path, tmp_path: Path, below: str, cased: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        from launch.run.settings import complete

        folder = self.folder(tmp_path / below, tiny_bert, cased=cased)
        filled = complete({"task": "mednli", "model_name_or_path": str(folder)})
        assert filled.get("do_lower_case") is None
        with caplog.at_level(logging.INFO):
            found = load_tokenizer(settings(folder)).tokenize("Fever Patient")
        assert found == (["Fever", "Patient"] if cased else ["fever", "patient"])
        assert ("capitals are kept" if cased else "lower-cased") + ", as its vocabulary says" in caplog.text
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    @pytest.mark.parametrize("lower", [True, False])
    def test_files_win_over_the_vocabulary(
        self, tiny_bert: Path, tmp_path: Path, lower: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = self.folder(tmp_path / "biobert", tiny_bert, cased=lower, do_lower_case=lower)
        assert load_tokenizer(settings(folder)).tokenize("Fever") == (["fever"] if lower else ["[UNK]"])
        assert ("--no-do_lower_case?" if lower else "no capital letter") in caplog.text
        caplog.clear()
        tokenizer = load_tokenizer(settings(folder, do_lower_case=not lower))
        assert tokenizer.tokenize("Fever") == (["Fever"] if lower else ["fever"]) and not caplog.text

    def test_tokenizer_json_alone(self, tiny_bert: Path, tmp_path: Path) -> None:
        folder = self.folder(tmp_path / "x", tiny_bert, cased=True, do_lower_case=False)
        load_tokenizer(settings(folder)).save_pretrained(folder)
        (folder / "tokenizer_config.json").unlink()
        (folder / "vocab.txt").unlink()
        assert load_tokenizer(settings(folder)).tokenize("Fever") == ["Fever"]

    def test_cased_sentencepiece_of_a_class_that_lower_cases(self, tmp_path: Path, spm: Path) -> None:
        folder = checkpoint(tmp_path / "albert", "albert", spm)
        tokenizer = load_tokenizer(settings(folder))
        assert tokenizer.decode(tokenizer("Fever")["input_ids"], skip_special_tokens=True) == "Fever"


class TestArchitectureSaid:
    def test_by_the_flag_alone(self, tiny_bert: Path, tmp_path: Path) -> None:
        folder = edited(tiny_bert, tmp_path / "bert-roberta", "model_type", "architectures")
        for call in (lambda: model.build(settings(folder), 3, False), lambda: load_tokenizer(settings(folder))):
            assert_user_error(call, str(folder), "config.json says no model_type", "--model_type")
        config = settings(folder, model_type="bert")
        assert model.build(config, 3, False).encoder.config.model_type == "bert"
        assert load_tokenizer(config).tokenize("fever") == ["fever"]
        assert_user_error(lambda: model.build(settings(folder, model_type="brt"), 3, False), "--model_type brt", "bert")

    def test_bert_config(self, tiny_bert: Path, tmp_path: Path) -> None:
        """What the message says is done, and then it loads: the weights lie as the original programs named them."""
        folder = edited(tiny_bert, tmp_path / "x", "model_type", "architectures")
        (folder / "config.json").rename(folder / "bert_config.json")
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save({f"bert.{name}": tensor for name, tensor in weights.items()}, folder / "pytorch_model.bin")
        assert_user_error(
            lambda: load_tokenizer(settings(folder)),
            "holds bert_config.json in place of config.json; rename it to config.json and give --model_type bert",
        )
        (folder / "bert_config.json").rename(folder / "config.json")
        built = model.build(settings(folder, model_type="bert"), 3, False)
        assert all(torch.equal(tensor, built.encoder.state_dict()[name]) for name, tensor in weights.items())


class TestFolders:
    """One line for each, that names what lies there."""

    @pytest.fixture()
    def folder(self, tiny_bert: Path, tmp_path: Path) -> Path:
        return edited(tiny_bert, tmp_path / "x")

    def both(self, folder: Path, *parts: str) -> None:
        with pytest.raises(UserError) as caught:
            load_tokenizer(settings(folder))
            model.build(settings(folder), 3, False)
        text = str(caught.value)
        assert text.startswith(f"--model_name_or_path {folder}: ") and "\n" not in text, text
        assert all(part in text for part in parts), text

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
    def test_files_that_are_something_else(self, folder: Path, name: str) -> None:
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
        for content, said in ((pointer, "git lfs pull"), ("<!DOCTYPE html><html>", "web page"), ("", "is empty")):
            (folder / name).write_text(content)
            self.both(folder, f"{name} is", said)

    def test_git_lfs_pointers_of_other_files(self, folder: Path, spm: Path) -> None:
        pointer = "version https://git-lfs.github.com/spec/v1\n"
        for name in ("vocab.txt", "spm.model"):
            (folder / name).write_text(pointer)
            self.both(folder, f"{name} is a Git LFS pointer")
            (folder / name).unlink()
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_text(pointer)
        self.both(folder, "pytorch_model.bin is a Git LFS pointer")

    @pytest.mark.parametrize("name", ["model.ckpt-1000000", "biobert_model.ckpt"])
    def test_tensorflow(self, folder: Path, name: str) -> None:
        (folder / "model.safetensors").unlink()
        for part in ("index", "meta", "data-00000-of-00001"):
            (folder / f"{name}.{part}").write_bytes(b"0")
        self.both(folder, "is a TensorFlow checkpoint", f"--tf_checkpoint {folder}/{name} ", "transformers 4")
        (folder / "config.json").rename(folder / "bert_config.json")
        self.both(folder, "is a TensorFlow checkpoint", f"--config {folder}/bert_config.json", "--model_type bert")

    @pytest.mark.parametrize(
        ("name", "said"), [("tf_model.h5", "from_tf=True"), ("flax_model.msgpack", "from_flax=True")]
    )
    def test_other_frameworks(self, folder: Path, name: str, said: str) -> None:
        (folder / "model.safetensors").rename(folder / name)
        self.both(folder, name, said)

    def test_adapter(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text("{}")
        self.both(folder, "is an adapter", "merge")
        (folder / "config.json").unlink()
        self.both(folder, "is an adapter", "merge")

    def test_folder_above(self, folder: Path) -> None:
        self.both(folder.parent, "its folders have: name one of them (x)")

    def test_shards(self, folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "a.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        built = model.build(settings(folder), 3, False)
        assert all(torch.equal(tensor, built.encoder.state_dict()[name]) for name, tensor in weights.items())
        (folder / "a.safetensors").rename(folder / "b.safetensors")
        self.both(folder, "names 1 files that are not there (a.safetensors)")

    def test_values_that_are_no_numbers(self, folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["embeddings.word_embeddings.weight"][3, 4] = float("nan")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        self.both(folder, "embeddings.word_embeddings.weight holds 1 values that are NaN or infinite")

    @pytest.mark.parametrize("before", ["module.", "model.", "bert.", "module.bert.", "encoder.", "net.0.bert."])
    @pytest.mark.parametrize("form", ["safetensors", "bin", "state_dict", "model"])
    def test_prefixes_and_nesting(self, folder: Path, before: str, form: str) -> None:
        weights = load_file(folder / "model.safetensors")
        other = {"cls.predictions.bias": torch.zeros(3)}
        named = {f"{before}{name}": tensor for name, tensor in weights.items()} | other
        if form == "safetensors":
            save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
        else:
            (folder / "model.safetensors").unlink()
            whole = named if form == "bin" else {form: named, "epoch": 3, "optimizer": {"state": {0: {"step": 1}}}}
            torch.save(whole, folder / "pytorch_model.bin")
        built = model.build(settings(folder), 3, False)
        found = built.encoder.state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in weights.items())

    def test_foreign_pickles(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        path = folder / "pytorch_model.bin"
        torch.save({"model": {}, "args": Path("x")}, path)
        self.both(folder, "is a pickle of Python objects", "state_dict()")
        path.write_bytes(pickle.dumps({"weights": Path("x")}))
        self.both(folder, "pytorch_model.bin is")
        path.write_bytes(b"PK\x03\x04 cut")
        self.both(folder, "cut short or damaged")
        path.unlink()
        torch.save({"model": {}, "args": Path("x")}, folder / "checkpoint_best.pt")
        self.both(folder, "checkpoint_best.pt is a pickle of Python objects")

    def test_another_name(self, folder: Path) -> None:
        """Renamed as the message says, it loads."""
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save({"state_dict": {f"model.{k}": v for k, v in weights.items()}}, folder / "last.ckpt")
        torch.save({}, folder / "optimizer.pt")
        self.both(folder, "rename last.ckpt to pytorch_model.bin")
        (folder / "last.ckpt").rename(folder / "pytorch_model.bin")
        found = model.build(settings(folder), 3, False).encoder.state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in weights.items())


class TestFit:
    """The tokenizer against the embeddings."""

    def test_added_tokens_get_rows(self, tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        folder = edited(tiny_bert, tmp_path / "x")
        tokenizer = load_tokenizer(settings(folder))
        rows = len(tokenizer)
        tokenizer.add_tokens(["@DRUG$", "@GENE$"])
        tokenizer.save_pretrained(folder)
        tokenizer = load_tokenizer(settings(folder))
        pairs = [Example("0", ("the @DRUG$", "of @GENE$"), "neutral")]
        built, encoded = trained_step(settings(folder), tasks.get("mednli"), pairs, tokenizer)
        assert max(encoded.input_ids[0]) == rows + 1 and built.encoder.config.vocab_size == rows + 2
        assert f"has {rows} embeddings, its tokenizer {rows + 2} tokens: 2 rows were added" in caplog.text
        weights = {name: parameter.detach() for name, parameter in built.named_parameters()}
        export.save(tmp_path / "model", built, weights, tokenizer, about(("a", "b", "c"), "multiclass"))
        batch = collate(encoded, [0], 0)
        with torch.inference_mode():
            found = model.load(tmp_path / "model").model(batch)
            torch.testing.assert_close(found, built.eval()(batch), rtol=1e-4, atol=1e-5)

    def test_tokenizer_of_another_model(self, tiny_bert: Path, tmp_path: Path) -> None:
        other = tiny_encoder(tmp_path / "other", "roberta")
        config = settings(tiny_bert, tokenizer_name=str(other))
        tokenizer = load_tokenizer(config)
        rows = model.build(config, 3, False).encoder.config.vocab_size
        assert_user_error(
            lambda: model.build(config, 3, False, tokenizer),
            f"its tokenizer has {len(tokenizer)} tokens, its embeddings have {rows} rows", "--tokenizer_name",
        )  # fmt: skip

    def test_one_segment(self, tmp_path: Path) -> None:
        from transformers import AutoConfig, AutoModel

        folder = tiny_encoder(tmp_path / "x")
        config = AutoConfig.from_pretrained(folder, type_vocab_size=1)
        AutoModel.from_config(config).save_pretrained(folder)
        tokenizer = load_tokenizer(settings(folder))
        pairs = [Example("0", ("the drug", "of gene"), "neutral")]
        _, encoded = trained_step(settings(folder), tasks.get("mednli"), pairs, tokenizer)
        assert max(encoded.token_type_ids[0]) == 1

    @pytest.mark.parametrize(
        ("kind", "longest"), [("mpnet", 62), ("longformer", 62), ("nystromformer", 64), ("bart", 64)]
    )
    def test_positions(self, tmp_path: Path, spm: Path, kind: str, longest: int) -> None:
        """Of the embedding table itself: in some the first position lies behind the padding id."""
        folder = checkpoint(tmp_path / kind, kind, spm)
        built = model.build(settings(folder), 3, False)
        assert model.positions(built.encoder) == longest
        limit = longest // 8 * 8
        ids = torch.full((1, limit), 9)
        assert (
            built.eval().encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.isfinite().all()
        )
        config = settings(folder, max_seq_length=limit + 1)
        assert_user_error(lambda: model.build(config, 3, False), f"at most {limit}")


class TestCode:
    """What comes with a model runs where it was asked for, and nowhere else."""

    @pytest.fixture()
    def folder(self, tiny_bert: Path, tmp_path: Path) -> Path:
        names = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
        folder = edited(tiny_bert, tmp_path / "own", model_type="own-bert", auto_map=names)
        (folder / "own.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
            "from transformers import BertConfig, BertModel\n\n\n"
            "class OwnConfig(BertConfig):\n    model_type = 'own-bert'\n\n\n"
            "class OwnModel(BertModel):\n    config_class = OwnConfig\n"
        )
        return folder

    @pytest.fixture(autouse=True)
    def no_questions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def answer(*_: object) -> str:
            raise AssertionError("a question on standard input")

        monkeypatch.setattr("builtins.input", answer)

    def test_refused_in_one_line(self, folder: Path, tmp_path: Path) -> None:
        for call in (lambda: load_tokenizer(settings(folder)), lambda: model.build(settings(folder), 3, False)):
            assert_user_error(call, "comes with code of its own (auto_map in config.json", "--trust_remote_code")
        assert not (tmp_path / "ran").exists()

    def test_is_loaded_whole_under_zero3(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        """What it does with weights while they are loaded is its own affair; that costs memory, and is said."""
        run = settings(folder, trust_remote_code=True)
        with caplog.at_level("WARNING"):
            built = model.build(run, 3, False, in_parts=True)
        (line,) = [line for line in caplog.messages if "every process loads all weights" in line]
        assert str(folder) in line and "it comes with code of its own" in line and "\n" not in line
        assert built.source is None and type(built.encoder).__name__ == "OwnModel"

    def test_known_architecture_is_the_library_s_own(self, folder: Path, tmp_path: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
        built = model.build(settings(folder), 3, False, load_tokenizer(settings(folder)))
        assert type(built.encoder).__module__.startswith("transformers.models.") and not (tmp_path / "ran").exists()
        weights = {name: parameter.detach() for name, parameter in built.named_parameters()}
        export.save(tmp_path / "model", built, weights, load_tokenizer(settings(folder)), about(("a", "b", "c"), "x"))
        assert model.load(tmp_path / "model") and not (tmp_path / "ran").exists()

    def test_tokenizer_with_code(self, tiny_bert: Path, tmp_path: Path) -> None:
        """A folder with the files of a BERT's is read as one; without them there is nothing but the code."""
        folder = edited(tiny_bert, tmp_path / "x")
        written = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
        (folder / "tokenizer_config.json").write_text(json.dumps(written))
        (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        assert load_tokenizer(settings(folder)).tokenize("fever") == ["fever"]
        (folder / "tokenizer.json").unlink()
        assert_user_error(lambda: load_tokenizer(settings(folder)), "code of its own", "--trust_remote_code")
        assert not (tmp_path / "ran").exists()

    def test_runs_where_it_is_trusted(self, folder: Path, tmp_path: Path) -> None:
        config = settings(folder, trust_remote_code=True)
        tokenizer = load_tokenizer(config)
        built = model.build(config, 3, False, tokenizer)
        assert (tmp_path / "ran").exists() and type(built.encoder).__name__ == "OwnModel"
        weights = {name: parameter.detach() for name, parameter in built.named_parameters()}
        export.save(tmp_path / "model", built, weights, tokenizer, about(("a", "b", "c"), "multiclass"))
        assert_user_error(lambda: model.load(tmp_path / "model"), "--trust_remote_code")
        again = model.load(tmp_path / "model", trust_remote_code=True)
        assert type(again.model.encoder).__name__ == "OwnModel"


class TestRevision:
    def test_is_of_hub_models_alone(self, tiny_bert: Path) -> None:
        config = settings(tiny_bert, revision="v1")
        assert_user_error(lambda: load_tokenizer(config), "--revision v1", "is a folder")

    def test_commit_of_the_cache(self, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        cache, commit = tmp_path / "cache", "0123456789" * 4
        place = cache / "models--lab--own-bert"
        shutil.copytree(tiny_bert, place / "snapshots" / commit)
        (place / "refs").mkdir()
        (place / "refs" / "v1").write_text(commit)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        config = RunConfig(task="x", model_name_or_path="lab/own-bert", revision="v1", cache_dir=str(cache))
        assert inputs.weights(config).commit == commit
        assert model.build(config, 3, False, load_tokenizer(config)).encoder.config.model_type == "bert"
        assert inputs.weights(settings(tiny_bert)).commit is None

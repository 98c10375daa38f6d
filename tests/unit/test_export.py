"""What a run writes as `model/`: the same logits when it is loaded again, by us and by the standard classes."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import KINDS, about, tiny_encoder
from running import assert_user_error
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

import tasks
from harness import export, files, model
from harness.config import RunConfig
from harness.errors import UserError
from harness.model_folder import HEAD_FILE
from harness.task import Batch
from harness.tokenizer import load_tokenizer

LABELS = ("contradiction", "entailment", "neutral")
POOLED_STANDARD = {"bert": "BertForSequenceClassification"}  # by the pooler
WORD_STANDARD = {
    "bert": "BertForTokenClassification",
    "roberta": "RobertaForTokenClassification",
    "electra": "ElectraForTokenClassification",
    "distilbert": "DistilBertForTokenClassification",
    "deberta-v2": "DebertaV2ForTokenClassification",
}
CASES = [(kind, pooling) for kind in KINDS for pooling in ("pooler", "cls", "mean", None)]
CASES = [case for case in CASES if case[1] != "pooler" or case[0] in ("bert", "roberta")]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return {kind: tiny_encoder(folder / kind, kind, dropout=0.1) for kind in KINDS}


def build(folder: Path, pooling: str | None, outputs: int = 3) -> tuple[model.EncoderWithHead, Any]:
    """A model whose weights and bias differ from what any seed gives, as after training."""
    config = RunConfig(model_name_or_path=str(folder), pooling=pooling)
    built = model.build(config, outputs, per_word=pooling is None)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return built.eval(), load_tokenizer(config)


def weights_of(built: model.EncoderWithHead) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in built.named_parameters()}


def save(
    folder: Path, built: model.EncoderWithHead, tokenizer: Any, labels: Any = LABELS, family: str = "multiclass"
) -> Path:
    export.save(folder, built, weights_of(built), tokenizer, about(labels, family))
    return folder


def batch(tokenizer: Any, per_word: bool) -> tuple[Batch, Any]:
    """Two texts, one of them padded; for the standard classes the tokenizer's own tensors."""
    rows = tokenizer(["the patient has no fever", "aspirin"], ["a drug.", "gene"], padding=True, return_tensors="pt")
    mask = rows["attention_mask"]
    places = mask.flatten().nonzero().flatten() if per_word else None
    count = int(mask.sum()) if per_word else 2
    labels = torch.zeros(count, dtype=torch.int64)
    units = tuple(mask.sum(1).tolist()) if per_word else (1, 1)
    return Batch(rows["input_ids"], mask, rows.get("token_type_ids"), places, labels, (0, 1), units), rows


@torch.inference_mode()
def logits(built: model.EncoderWithHead, tokenizer: Any) -> torch.Tensor:
    return built(batch(tokenizer, built.pooling is None)[0])


@torch.inference_mode()
def standard_logits(folder: Path, pooling: str | None) -> torch.Tensor:
    """As a user would compute them, without this project."""
    auto = AutoModelForTokenClassification if pooling is None else AutoModelForSequenceClassification
    loaded, report = auto.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert not loaded.training and loaded.dtype == torch.float32
    rows = batch(AutoTokenizer.from_pretrained(folder), pooling is None)[1]
    out: torch.Tensor = loaded(**rows).logits
    return out if pooling is not None else out[rows["attention_mask"].bool()]


class TestRoundTrip:
    @pytest.mark.parametrize(("kind", "pooling"), CASES)
    def test_loads_again(self, encoders: dict[str, Path], tmp_path: Path, kind: str, pooling: str | None) -> None:
        built, tokenizer = build(encoders[kind], pooling)
        folder = save(tmp_path / "model", built, tokenizer)
        loaded = model.load(folder)
        assert not loaded.model.training and loaded.model.pooling == pooling
        assert loaded.model.dropout.p == built.dropout.p == 0.1
        assert loaded.tokenizer("Aspirin: a gene?")["input_ids"] == tokenizer("Aspirin: a gene?")["input_ids"]
        torch.testing.assert_close(logits(loaded.model, loaded.tokenizer), logits(built, tokenizer))
        written = {f.dtype for f in load_file(folder / "model.safetensors").values()}
        assert written == {torch.float32}
        assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"

    @pytest.mark.parametrize(
        ("kind", "pooling", "name"),
        [(kind, "pooler", name) for kind, name in POOLED_STANDARD.items()]
        + [(kind, None, name) for kind, name in WORD_STANDARD.items()],
    )
    def test_standard_class(
        self, encoders: dict[str, Path], tmp_path: Path, kind: str, pooling: str | None, name: str
    ) -> None:
        built, tokenizer = build(encoders[kind], pooling)
        folder = save(tmp_path / "model", built, tokenizer)
        assert json.loads((folder / HEAD_FILE).read_text())["standard_class"] == name
        assert json.loads((folder / "config.json").read_text())["architectures"] == [name]
        torch.testing.assert_close(standard_logits(folder, pooling), logits(built, tokenizer), rtol=1e-4, atol=1e-5)
        card = (folder / "README.md").read_text()
        assert f"AutoModelFor{'TokenClassification' if pooling is None else 'SequenceClassification'}" in card
        assert "harness.model" not in card

    @pytest.mark.parametrize(
        ("kind", "pooling"),
        [(k, p) for k, p in CASES if not (p == "pooler" and k == "bert") and not (p is None and k in WORD_STANDARD)],
    )
    def test_without_standard_class(
        self, encoders: dict[str, Path], tmp_path: Path, kind: str, pooling: str | None
    ) -> None:
        """The class that AutoModelFor... would take has another head: the folder must not pass for one of it."""
        built, tokenizer = build(encoders[kind], pooling)
        folder = save(tmp_path / "model", built, tokenizer)
        assert json.loads((folder / HEAD_FILE).read_text())["standard_class"] is None
        assert not json.loads((folder / "config.json").read_text()).get("architectures")
        card = (folder / "README.md").read_text()
        assert "from harness.model import load" in card and "random head" in card
        assert f"pooling: {pooling or 'one row a word'}" in card


class TestFolder:
    @pytest.mark.parametrize("pooling", ["pooler", None])
    def test_labels(self, tiny_bert: Path, tmp_path: Path, pooling: str | None) -> None:
        labels = LABELS if pooling else ("B", "I", "O")
        built, tokenizer = build(tiny_bert, pooling)
        folder = save(tmp_path / "model", built, tokenizer, labels, "multiclass" if pooling else "tagging")
        declared = json.loads((folder / "config.json").read_text())
        assert declared["id2label"] == {str(i): label for i, label in enumerate(labels)}
        assert declared["label2id"] == {label: i for i, label in enumerate(labels)}
        assert declared.get("problem_type") == ("single_label_classification" if pooling else None)
        task = "text-classification" if pooling else "token-classification"
        answer = pipeline(task, model=str(folder), tokenizer=str(folder), device="cpu")("the patient has no fever")
        names = {row["label" if pooling else "entity"] for row in answer}
        assert names and names <= set(labels)

    @pytest.mark.parametrize("name", ["medsts", "hoc"])
    def test_problem_types(self, tiny_bert: Path, tmp_path: Path, name: str) -> None:
        task = tasks.get(name)
        built, tokenizer = build(tiny_bert, "pooler", task.num_outputs)
        folder = save(tmp_path / "model", built, tokenizer, task.labels, task.family)
        declared = json.loads((folder / "config.json").read_text())
        expected = {"medsts": "regression", "hoc": "multi_label_classification"}
        assert declared["problem_type"] == expected[name]
        assert standard_logits(folder, "pooler").shape == (2, task.num_outputs)
        assert tuple(declared["id2label"].values()) == (task.labels or ("LABEL_0",))

    def test_the_model_in_training_is_untouched(self, tiny_bert: Path, tmp_path: Path) -> None:
        built, tokenizer = build(tiny_bert, "pooler")
        before, state = built.encoder.config.to_dict(), torch.get_rng_state()
        weights = weights_of(built)
        save(tmp_path / "model", built.train(), tokenizer)
        assert built.training and built.encoder.config.to_dict() == before
        assert torch.equal(torch.get_rng_state(), state)  # a resumed run and one that writes more often stay the same
        assert all(torch.equal(parameter, weights[name]) for name, parameter in built.named_parameters())

    def test_float32_are_what_is_written(self, tiny_bert: Path, tmp_path: Path) -> None:
        """Not the weights of the module, which are half precision in fp16 runs."""
        built, tokenizer = build(tiny_bert, "pooler")
        float32 = weights_of(built)
        export.save(tmp_path / "model", built.half(), float32, tokenizer, about(LABELS, "multiclass"))
        loaded = dict(model.load(tmp_path / "model").model.named_parameters())
        assert all(torch.equal(loaded[name], float32[name]) for name in float32)
        assert json.loads((tmp_path / "model" / HEAD_FILE).read_text())["standard_class"]

    def test_casing_goes_with_it(self, tiny_bert: Path, tmp_path: Path) -> None:
        built, _ = build(tiny_bert, "pooler")
        cased = load_tokenizer(RunConfig(model_name_or_path=str(tiny_bert), do_lower_case=False))
        folder = save(tmp_path / "model", built, cased)
        again = model.load(folder).tokenizer
        assert again.tokenize("Aspirin is") == cased.tokenize("Aspirin is") == ["[UNK]", "is"]

    def test_replaced_whole(self, tiny_bert: Path, tmp_path: Path) -> None:
        built, tokenizer = build(tiny_bert, "pooler")
        folder = save(tmp_path / "model", built, tokenizer)
        # What a process killed half-way leaves must not be in the way.
        for name in (".model.partial", ".model.abcd_123.partial"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "rest").touch()
        built, tokenizer = build(tiny_bert, "mean", outputs=5)
        save(folder, built, tokenizer, labels=())
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
        assert model.load(folder).model.classifier.out_features == 5

    def test_it_lists_its_files(self, tiny_bert: Path, tmp_path: Path) -> None:
        folder = save(tmp_path / "model", *build(tiny_bert, "pooler"))
        listed = json.loads((folder / HEAD_FILE).read_text())["files"]
        assert sorted([*listed, HEAD_FILE]) == sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))

    @pytest.mark.parametrize("stray", ["added_tokens.json", "inner/notes.txt", "linked"])
    def test_of_somebody_else_nothing_is_replaced(self, stray: str, tiny_bert: Path, tmp_path: Path) -> None:
        built, tokenizer = build(tiny_bert, "pooler")
        folder = save(tmp_path / "model", built, tokenizer)
        if stray == "linked":
            (folder / stray).symlink_to(tiny_bert)
        else:
            files.write(folder / stray, "mine")
        before = sorted(tmp_path.rglob("*"))
        assert_user_error(lambda: save(folder, built, tokenizer), f"model/{stray} in it is not of the run", "move it")
        assert sorted(tmp_path.rglob("*")) == before

    def test_links_in_the_way_are_not_followed(self, tiny_bert: Path, tmp_path: Path) -> None:
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        (tmp_path / "run").mkdir()
        for name in (".model.partial", ".model.old"):
            (tmp_path / "run" / name).symlink_to(theirs)
        save(tmp_path / "run" / "model", *build(tiny_bert, "pooler"))
        assert list(theirs.iterdir()) == []

    def test_a_failure_leaves_the_old_one(self, tiny_bert: Path, tmp_path: Path) -> None:
        built, tokenizer = build(tiny_bert, "pooler")
        folder = save(tmp_path / "model", built, tokenizer)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}

        given = build(tiny_bert, "mean")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # as a disk that is full
        try:
            with pytest.raises(OSError, match="File too large"):
                save(folder, *given)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


class TestLoadRefuses:
    def test_another_folder(self, tiny_bert: Path, tmp_path: Path) -> None:
        for folder in (tiny_bert, tmp_path, tmp_path / "nowhere"):
            with pytest.raises(UserError, match="no fine-tuned model of a run") as caught:
                model.load(folder)
            assert str(folder) in str(caught.value) and "\n" not in str(caught.value)

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pooling": "mean"}'])
    def test_a_broken_head_file(self, tiny_bert: Path, tmp_path: Path, text: str) -> None:
        folder = save(tmp_path / "model", *build(tiny_bert, "pooler"))
        (folder / HEAD_FILE).write_text(text)
        with pytest.raises(UserError, match="no fine-tuned model of a run"):
            model.load(folder)

    def test_missing_weights(self, tiny_bert: Path, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        folder = save(tmp_path / "model", *build(tiny_bert, "pooler"))
        state = load_file(folder / "model.safetensors")
        del state["classifier.bias"]
        save_file(state, folder / "model.safetensors")
        with pytest.raises(UserError, match=r"lacks classifier\.bias"):
            model.load(folder)

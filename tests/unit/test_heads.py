"""--head pretrained: the checkpoint's own prediction head, as transformers' class has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import about, tiny_encoder, tiny_masked_lm
from running import assert_user_error
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

import tasks
from harness import export, model
from harness.config import RunConfig
from harness.data import collate
from harness.heads import LAYERS
from harness.model_folder import HEAD_FILE
from harness.packing import PADDED, choose
from harness.task import Batch
from harness.tokenizer import load_tokenizer

WAYS = [("cls", "cls"), ("mean", "mean"), ("cls", "mean"), ("mean", "cls"), ("mean", None)]  # config's, asked for


def build(folder: Path, task: str, pooling: str | None = None, head: str = "pretrained") -> model.EncoderWithHead:
    config = RunConfig(task=task, model_name_or_path=str(folder), pooling=pooling, head=head, max_seq_length=64)
    known = tasks.get(task)
    return model.build(config, known.num_outputs, known.per_word).eval()


def first_batch(folder: Path, task: str) -> Batch:
    config = RunConfig(task=task, model_name_or_path=str(folder))
    tokenizer, known = load_tokenizer(config, tasks.get(task).per_word), tasks.get(task)
    encoded = known.features(known.read(tasks.sample_dir(task), "train")[:11], tokenizer, 64)
    return collate(encoded, range(11), int(tokenizer.pad_token_id))


@torch.inference_mode()
def standard_logits(whole: Any, batch: Batch) -> torch.Tensor:
    found: torch.Tensor = whole(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return found if batch.scored is None else found.flatten(0, 1)[batch.scored]


@pytest.mark.parametrize(("task", "own", "asked"), [("hoc", *way) for way in WAYS] + [("bc5cdr_disease", "cls", None)])
def test_logits_are_those_of_the_standard_class(task: str, own: str, asked: str | None, tmp_path: Path) -> None:
    folder = tiny_masked_lm(tmp_path / "lm", classifier_pooling=own)
    built, batch = build(folder, task, asked), first_batch(folder, task)
    assert built.pooling == (None if tasks.get(task).per_word else asked or own)
    auto: Any = AutoModelForTokenClassification if built.pooling is None else AutoModelForSequenceClassification
    options = {"num_labels": tasks.get(task).num_outputs, "classifier_pooling": asked or own}
    whole, said = auto.from_pretrained(folder, output_loading_info=True, **options)
    assert set(said["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    whole.classifier.load_state_dict(built.classifier.state_dict())
    expected = standard_logits(whole.eval(), batch)
    with torch.inference_mode():
        for layout in (PADDED, choose(built.encoder, "packed")):
            built.layout = layout
            torch.testing.assert_close(built(batch), expected, rtol=0, atol=1e-6)
    with torch.inference_mode():  # and not those of the last layer alone
        built.head = None
        assert (built(batch) - expected).abs().max() > 0.01


@pytest.mark.parametrize("pooling", ["cls", "mean", None])
def test_it_is_saved_and_loads_with_the_standard_class(pooling: str | None, tmp_path: Path) -> None:
    folder = tiny_masked_lm(tmp_path / "lm")
    task = "mednli" if pooling else "bc5cdr_disease"
    built, batch, known = build(folder, task, pooling), first_batch(folder, task), tasks.get(task)
    weights = {name: parameter.detach() for name, parameter in built.named_parameters()}
    tokenizer = load_tokenizer(RunConfig(model_name_or_path=str(folder)), known.per_word)
    export.save(tmp_path / "model", built, weights, tokenizer, about(known.labels, known.family))
    kind = "Sequence" if pooling else "Token"
    assert (
        json.loads((tmp_path / "model" / HEAD_FILE).read_text())["standard_class"]
        == f"ModernBertFor{kind}Classification"
    )
    auto: Any = AutoModelForSequenceClassification if pooling else AutoModelForTokenClassification
    whole, said = auto.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    loaded = model.load(tmp_path / "model").model
    with torch.inference_mode():
        ours = built(batch)
        torch.testing.assert_close(loaded(batch), ours, rtol=0, atol=1e-6)
    torch.testing.assert_close(standard_logits(whole.eval(), batch), ours, rtol=0, atol=1e-6)
    # And its head may be gone on with.
    again = build(tmp_path / "model", task, pooling)
    assert again.head is not None and built.head is not None
    assert torch.equal(again.head.get_parameter("dense.weight"), built.head.get_parameter("dense.weight"))


def test_the_last_layer_is_that_of_a_fresh_head(tmp_path: Path) -> None:
    folder = tiny_masked_lm(tmp_path / "lm")
    one, other = build(folder, "mednli"), build(folder, "mednli", "cls", "fresh")
    assert torch.equal(one.classifier.weight, other.classifier.weight) and other.head is None
    assert not [name for name, _ in other.named_parameters() if name.startswith(f"{LAYERS}.")]


@pytest.mark.parametrize("form", ["pickle", "module.", "shards"])
def test_wherever_the_weights_lie(form: str, tmp_path: Path) -> None:
    folder = tiny_masked_lm(tmp_path / "lm")
    expected = build(folder, "mednli").head
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if form == "pickle":
        torch.save(state, folder / "pytorch_model.bin")
    elif form == "module.":
        save_file({form + name: tensor for name, tensor in state.items()}, folder / "model.safetensors")
    else:
        places = {name: f"model-0000{number % 2 + 1}-of-00002.safetensors" for number, name in enumerate(sorted(state))}
        for file in set(places.values()):
            part = {name: tensor for name, tensor in state.items() if places[name] == file}
            save_file(part, folder / file, {"format": "pt"})
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    found = build(folder, "mednli").head
    assert found is not None and expected is not None
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert", "deberta-v2", "modernbert"])
def test_an_encoder_without_one_is_refused(kind: str, tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "encoder", kind)
    reason = "no weights for" if kind in ("distilbert", "deberta-v2", "modernbert") else "no layers of its own"
    remedy = "leave --head out"
    assert_user_error(lambda: build(folder, "mednli"), "--head pretrained", folder.name, reason, remedy)


@pytest.mark.parametrize("kind", ["distilbert", "deberta-v2"])
def test_layers_that_are_not_all_that_a_class_computes_are_refused(kind: str, tmp_path: Path) -> None:
    """Fine-tuned ones hold them, but DistilBERT's class has a ReLU behind them, and DeBERTa's layers pool."""
    folder = tiny_encoder(tmp_path / "encoder", kind)
    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(folder)
    assert_user_error(lambda: build(folder, "mednli"), "--head pretrained", "computes more")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    folder = tiny_masked_lm(tmp_path / "lm")
    state = load_file(folder / "model.safetensors")
    state["head.norm.weight"][3] = float("nan")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert_user_error(lambda: build(folder, "mednli"), "head.norm.weight holds values that are NaN")

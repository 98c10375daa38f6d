"""Whole runs of decoders: the flags, predictions by launch/predict.py, and heads of transformers' own classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from encoders import tiny_encoder
from running import arguments, cut, run
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import tasks
from harness import model
from harness.config import RunConfig
from harness.data import collate
from harness.tokenizer import load_tokenizer
from launch import predict


@pytest.mark.parametrize("attention", [None, "bidirectional"])
@pytest.mark.parametrize(("kind", "task"), [("llama", "mednli"), ("qwen3", "medsts"), ("gemma2", "hoc")])
def test_a_run_and_its_predictions(
    kind: str, task: str, attention: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = cut(task, tmp_path / "data", 20)
    flags = [] if attention is None else ["--attention", attention]
    encoder = tiny_encoder(tmp_path / kind, kind, dropout=0.1)
    more = ("--data_dir", str(data), "--max_steps", "4", *flags)
    result = run(arguments(task, encoder, tmp_path / "run", *more))
    head = json.loads((tmp_path / "run" / "model" / "harness_head.json").read_text())
    assert head["attention"] == (attention or "causal") and head["pooling"] == ("mean" if attention else "last")
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "harness.model" in card and f"pooling: {head['pooling']}" in card
    assert result["scores"]["dev"]["loss"] == pytest.approx(result["epochs"][-1]["dev"]["loss"], rel=1e-6)
    capsys.readouterr()
    assert predict.main([str(tmp_path / "run"), "--input", str(data / tasks.get(task).filenames["test"])]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = (tmp_path / "run" / "predictions" / "test.tsv").read_text().splitlines()[1:]
    if task == "medsts":
        assert [a["score"] for a in answers] == pytest.approx([float(row.split("\t")[2]) for row in rows], abs=1e-5)
        return
    likely = (tmp_path / "run" / "predictions" / "test_probabilities.tsv").read_text().splitlines()[1:]
    for answer, row in zip(answers, likely, strict=True):
        found = [float(cell) for cell in row.split("\t")[1:]]
        assert list(answer["probabilities"].values()) == pytest.approx(found, abs=1e-5)


def test_tagging_and_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = cut("bc5cdr_disease", tmp_path / "data", 20)
    encoder = tiny_encoder(tmp_path / "mistral", "mistral")
    run(arguments("bc5cdr_disease", encoder, tmp_path / "run", "--data_dir", str(data), "--max_steps", "30"))
    (tmp_path / "one.txt").write_text("Fever of the patient .\n")
    capsys.readouterr()
    assert predict.main([str(tmp_path / "run"), "--input", str(tmp_path / "one.txt")]) == 0
    assert "mentions" in json.loads(capsys.readouterr().out)
    assert "last subword token" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_a_head_that_others_have_trained(tmp_path: Path) -> None:
    """Of a decoder, without a pad token: each text is read at its own last token, whatever stands beside it."""
    folder = tiny_encoder(tmp_path / "llama", "llama")
    labels = tasks.get("mednli").labels
    named = {"id2label": dict(enumerate(labels)), "label2id": {name: n for n, name in enumerate(labels)}}
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(folder, num_labels=3, **named)
    theirs = AutoModelForSequenceClassification.from_config(config).float().eval()
    theirs.save_pretrained(tmp_path / "published")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "published")
    asked = RunConfig(task="mednli", model_name_or_path=str(tmp_path / "published"))
    task, tokenizer = tasks.get("mednli"), load_tokenizer(asked)
    encoded = task.features(task.read(tasks.sample_dir("mednli"), "train")[:6], tokenizer, 96)
    with torch.inference_mode():
        found = model.load_standard(asked, task)(collate(encoded, range(6), int(tokenizer.pad_token_id)))
        alone = torch.cat([theirs(input_ids=torch.tensor([row])).logits for row in encoded.input_ids])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)

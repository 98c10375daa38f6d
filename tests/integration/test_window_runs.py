"""Runs that read long inputs in windows: the same where all fits, what lies behind the first window is learnt, on any
number of ranks and resumed, and answered alike by predict.py."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from encoders import WORDS, tiny_encoder
from running import arguments, cut, refused, run, run_on_ranks
from safetensors.torch import load_file

import tasks
from harness import model_folder
from launch import predict, train

FOUR = ("medsts", "bc5cdr_disease", "mednli", "hoc")  # one of each family
FILES = ("predictions/dev.tsv", "predictions/test.tsv", "test_results.txt")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("task", FOUR)
def test_where_everything_fits_nothing_differs(task: str, tmp_path: Path) -> None:
    encoder, data = tiny_encoder(tmp_path / "m", max_position_embeddings=320), cut(task, tmp_path / "data", 50)
    if task == "bc5cdr_disease":  # none is cut at longest_sentence either
        for path in data.iterdir():
            sentences = path.read_text().split("\n\n")
            path.write_text("\n\n".join(one for one in sentences if one.count("\n") < 30))
    more = ("--data_dir", str(data), "--max_seq_length", "320", "--max_steps", "8")
    plain = run(arguments(task, encoder, tmp_path / "plain", *more))
    windows = run(arguments(task, encoder, tmp_path / "windows", *more, "--stride", "32", "--window_pooling", "max"))
    assert {name: windows[name] for name in ("scores", "epochs", "steps")} == {
        name: plain[name] for name in ("scores", "epochs", "steps")
    }
    assert_same_weights(tmp_path / "plain", tmp_path / "windows")
    assert all((tmp_path / "plain" / name).read_bytes() == (tmp_path / "windows" / name).read_bytes() for name in FILES)
    assert "cut" not in plain and "cut" not in windows
    assert model_folder.WINDOWS[0] not in (tmp_path / "plain" / "model" / model_folder.HEAD_FILE).read_text()


DEFINITION = """name = "late"
family = "multiclass"
metric = "accuracy"
labels = ["no", "yes"]
header = false
[columns]
index = 1
sentence = 2
label = 3
"""


def late(folder: Path, count: int) -> Path:
    """Texts of 560 subword tokens whose class is told by their last ones alone."""
    draw = random.Random(3)
    folder.mkdir()
    for split in ("train", "dev", "test"):
        rows = []
        for number in range(count):
            label, told = draw.choice((("no", "aspirin"), ("yes", "fever")))
            common = [word for word in WORDS if word not in ("aspirin", "fever")]
            text = " ".join([*draw.choices(common, k=530), *[told] * 30])
            rows.append(f"{split}{number}\t{text}\t{label}\n")
        (folder / f"{split}.tsv").write_text("".join(rows))
    (folder / "task.toml").write_text(f'data_dir = "."\n{DEFINITION}')
    return folder / "task.toml"


def late_line(tmp_path: Path, output: str, *more: str) -> list[str]:
    line = arguments("late", tmp_path / "m", tmp_path / output, "--max_seq_length", "512", "--pooling", "mean", *more)
    usual = ("--per_gpu_eval_batch_size", "8", "--num_train_epochs", "4", "--no-eval_every_epoch")
    return [*line[2:], "--task_file", str(tmp_path / "data" / "task.toml"), "--learning_rate", "3e-3", *usual]


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_what_stands_behind_token_512_is_learnt(
    pooling: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_encoder(tmp_path / "m", max_position_embeddings=512)
    late(tmp_path / "data", 64)
    found = run(late_line(tmp_path, "run", "--stride", "64", "--window_pooling", pooling))
    assert found["scores"]["test"]["score"] >= 0.95 and "cut" not in found
    log = (tmp_path / "run" / "train.log").read_text()
    assert "train: 100.00 % are read in windows, 2 at most, 128 in all" in log
    assert "windows that overlap by 64" in (tmp_path / "run" / "model" / "README.md").read_text()
    # predict.py reads as the run did.
    _, about = model_folder.read(tmp_path / "run" / "model")
    assert about is not None and (about.stride, about.window_pooling) == (64, pooling)
    rows = [line.split("\t") for line in (tmp_path / "data" / "test.tsv").read_text().splitlines()]
    (tmp_path / "in.tsv").write_text("".join(f"{row[0]}\t{row[1]}\n" for row in rows))
    capsys.readouterr()
    assert predict.main([str(tmp_path / "run"), "--input", str(tmp_path / "in.tsv"), "--batch_size", "5"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    written = [line.split("\t")[2] for line in (tmp_path / "run" / "predictions" / "test.tsv").read_text().splitlines()]
    assert [one["label"] for one in answers] == written[1:] and not any("cut" in one for one in answers)
    # So does a run that only scores the model.
    scored = late_line(tmp_path, "scored", "--do_predict")
    scored[scored.index("--model_name_or_path") + 1] = str(tmp_path / "run")
    at = scored.index("--max_seq_length")
    again = run(scored[:at] + scored[at + 2 :])
    assert again["scores"]["test"] == found["scores"]["test"]


def test_without_windows_it_is_not(tmp_path: Path) -> None:
    tiny_encoder(tmp_path / "m", max_position_embeddings=512)
    late(tmp_path / "data", 64)
    found = run(late_line(tmp_path, "run"))
    assert 0.3 < found["scores"]["test"]["score"] < 0.7
    assert found["cut"] == {"train": 1.0, "dev": 1.0, "test": 1.0}
    assert "of the examples are cut off by --max_seq_length 512; --stride N reads longer inputs in windows" in (
        (tmp_path / "run" / "train.log").read_text()
    )


def test_the_same_on_1_and_2_ranks(tiny_bert: Path, tmp_path: Path) -> None:
    """Where a pass of one rank has more windows than that of the other."""
    more = ("--global_batch_size", "8", "--max_steps", "6", "--stride", "8", "--max_seq_length", "40")
    lines = {}
    for world in (1, 2):
        lines[world] = [
            arguments(task, tiny_bert, tmp_path / f"{world}{task}", *more, "--data_dir", str(tmp_path / "data" / task))
            for task in ("bc5cdr_disease", "mednli")
        ]
    for task in ("bc5cdr_disease", "mednli"):
        cut(task, tmp_path / "data" / task, 41)
    # Where all ranks gather weights in every pass.
    zero = (
        "--precision",
        "auto",
        "--ds_config",
        "bf16_zero3",
        "--packing",
        "bucketed",
        "--data_dir",
        str(tmp_path / "data" / "mednli"),
    )
    lines[2].append(arguments("mednli", tiny_bert, tmp_path / "zero", *more, *zero))
    one, two = (run_on_ranks(world, lines[world], tmp_path / f"answers{world}") for world in (1, 2))
    for alone, shared in zip(one, two[:2], strict=True):
        assert shared["epochs"][0]["train_loss"] == pytest.approx(alone["epochs"][0]["train_loss"], abs=1e-5)
        assert shared["scores"]["test"]["loss"] == pytest.approx(alone["scores"]["test"]["loss"], abs=1e-5)
        assert shared["scores"]["test"]["score"] == alone["scores"]["test"]["score"]
    assert two[2]["scores"]["test"]["loss"] == pytest.approx(one[1]["scores"]["test"]["loss"], rel=0.05)


@pytest.mark.parametrize("task", ["hoc", "clefe"])
def test_packed_and_padded_are_the_same_and_a_resumed_run_too(task: str, tmp_path: Path) -> None:
    encoder, data = tiny_encoder(tmp_path / "m", dropout=0.1), str(cut(task, tmp_path / "data", 40))
    more = ("--data_dir", data, "--stride", "8", "--max_seq_length", "24", "--num_train_epochs", "2")
    more += ("--save_steps", "2", "--keep_checkpoints", "99")
    whole = run(arguments(task, encoder, tmp_path / "whole", *more))
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    checkpoints = sorted((tmp_path / "resumed" / "checkpoints").iterdir())
    for path in checkpoints[len(checkpoints) // 2 :]:
        shutil.rmtree(path)
    shutil.rmtree(tmp_path / "resumed" / "model")
    (tmp_path / "resumed" / "result.json").unlink()
    again = run(arguments(task, encoder, tmp_path / "resumed", *more))
    assert again["scores"] == whole["scores"] and again["epochs"] == whole["epochs"]
    assert_same_weights(tmp_path / "whole", tmp_path / "resumed")
    encoder = tiny_encoder(tmp_path / "m", dropout=0.0)
    found = {}
    for packing in ("packed", "padded"):
        line = arguments(task, encoder, tmp_path / packing, *more, "--packing", packing)
        found[packing] = run(line)
    ours, theirs = found["packed"], found["padded"]
    for one, other in zip(ours["epochs"], theirs["epochs"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)
    assert ours["scores"]["test"]["loss"] == pytest.approx(theirs["scores"]["test"]["loss"], abs=1e-5)


def test_long_sentences_are_tagged_in_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a text longer than longest_sentence and than any input: predictions keep every word, and predict.py agrees."""
    words, tags, draw = [], [], random.Random(1)
    for _ in range(60):
        rest = draw.choices(("the", "patient", "has", "no"), k=draw.randint(1, 6))
        words += [*rest, "aspirin", "fever"]
        tags += [*["O"] * len(rest), "B", "I"]
    text = "\n".join(f"{word}\td\t0\t{tag}" for word, tag in zip(words, tags, strict=True)) + "\n\n"
    (tmp_path / "data").mkdir()
    for name in tasks.get("clefe").filenames.values():
        (tmp_path / "data" / name).write_text(text * 3)
    encoder = tiny_encoder(tmp_path / "m")
    more = (
        "--data_dir",
        str(tmp_path / "data"),
        "--stride",
        "16",
        "--max_seq_length",
        "48",
        "--num_train_epochs",
        "30",
    )
    more += ("--per_gpu_train_batch_size", "1", "--learning_rate", "3e-3", "--num_train_epochs", "30")
    found = run(arguments("clefe", encoder, tmp_path / "run", *more))
    assert found["scores"]["test"]["score"] == 1 and found["scores"]["test"]["tokens"] == 3 * len(words)
    predicted = (tmp_path / "run" / "predictions" / "test.tsv").read_text().split("\n\n")[0].splitlines()[1:]
    assert [row.split("\t")[0] for row in predicted] == words and [row.split("\t")[2] for row in predicted] == tags
    (tmp_path / "in.txt").write_text(" ".join(words) + "\n")
    capsys.readouterr()
    assert predict.main([str(tmp_path / "run"), "--input", str(tmp_path / "in.txt"), "--with_text"]) == 0
    (answer,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["text"] for one in answer["mentions"]] == ["aspirin fever"] * 60


def test_a_stride_beyond_the_length_ends_in_a_line(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = arguments("mednli", tiny_bert, tmp_path / "run", "--stride", "40")
    error, _ = refused(train.main, capsys, *line)
    assert "--stride 40: must be less than the 61 tokens of text that --max_seq_length 64 leaves beside 3" in error
    assert not os.path.exists(tmp_path / "run" / "model")

"""What a user gets to read: bad input ends in one line that says what, where and what to do, with exit status 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from encoders import tiny_encoder
from running import arguments

import tasks
from launch import train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the mednli sample that a test may spoil."""
    return shutil.copytree(tasks.sample_dir("mednli"), tmp_path / "mednli")


def complaint(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What stderr says; checks that it is one line and the exit status 2."""
    capsys.readouterr()
    status = train.main(argv)
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert status == 2, lines
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in lines[0]
    return lines[0]


BAD_FILES: dict[str, tuple[Callable[[str], str | bytes], str]] = {
    "empty": (lambda text: "", "train.tsv"),
    "header only": (lambda text: text.splitlines()[0] + "\n", "train.tsv"),
    "a column missing": (lambda text: text.replace("\t", " ", 5), "train.tsv:"),
    "unknown label": (lambda text: text.replace("\tentailment\n", "\tentailmnt\n", 1), "entailmnt"),
    "not UTF-8": (lambda text: text.encode() + b"1\t\xff\xfe\tx\tneutral\n", "train.tsv:602"),
    "empty sentence": (lambda text: text + "9\t\tsomething\tneutral\n", "train.tsv:602"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_data_file(
    kind: str, data: Path, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, named = BAD_FILES[kind]
    bad = spoil((data / "train.tsv").read_text())
    (data / "train.tsv").write_bytes(bad if isinstance(bad, bytes) else bad.encode())
    assert named in complaint(arguments("mednli", tiny_bert, tmp_path / "run", "--data_dir", str(data)), capsys)


FLAGS = {
    "unknown task": (["--task", "mednly"], "mednli"),
    "unknown recipe": (["--recipe", "biobert"], "biobert-v1.1"),
    "unknown flag": (["--learning_rat", "3"], "--learning_rate"),
    "unknown ds_config": (["--ds_config", "fp16_zero4"], "fp16_zero"),
    "no number": (["--learning_rate", "fast"], "--learning_rate fast"),
    "a batch asked for twice": (["--global_batch_size", "24", "--gradient_accumulation_steps", "2"], "accumulation"),
    "too long for the model": (["--max_seq_length", "5000"], "--max_seq_length 5000"),
    "a stray word": (["mednli"], "'mednli'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FLAGS)
def test_a_bad_flag(kind: str, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more, named = FLAGS[kind]
    assert named in complaint(arguments("mednli", tiny_bert, tmp_path / "run", *more), capsys)


def test_a_model_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_encoder(tmp_path / "model")
    (model / "model.safetensors").unlink()
    assert "--model_name_or_path" in complaint(arguments("mednli", model, tmp_path / "run"), capsys)


def test_a_model_that_is_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "--model_name_or_path" in complaint(arguments("mednli", tmp_path / "none", tmp_path / "run"), capsys)


def test_fp16_where_the_device_has_none(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: False)
    message = complaint(arguments("mednli", tiny_bert, tmp_path / "run", "--precision", "fp16"), capsys)
    assert "cannot compute in it" in message and "fp32" in message


def test_the_folder_of_another_run(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = arguments("mednli", tiny_bert, tmp_path / "run", "--max_steps", "1")
    assert train.main(first) == 0
    other = [*first, "--seed", "13"]
    assert "seed is 12, yours 13" in complaint(other, capsys)
    assert train.main([*other, "--overwrite_output_dir"]) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["seed"] == 13


def test_a_folder_with_something_else_in_it(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    assert "not a run" in complaint(arguments("mednli", tiny_bert, tmp_path / "run"), capsys)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"


def test_predicting_with_a_run_that_was_never_trained(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--do_train" in complaint(arguments("mednli", tiny_bert, tmp_path / "run", "--do_predict"), capsys)


def test_an_original_command_line_works(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in the READMEs of 2020, but for the script's name and apex's fp16."""
    line = (
        f"--do_train --do_eval --do_predict --task_name=bc5cdr --data_dir={tasks.sample_dir('bc5cdr_disease')} "
        f"--model_name_or_path={tiny_bert} --output_dir={tmp_path}/run --learning_rate=5e-5 --num_train_epochs=1 "
        "--logging_steps=-1 --save_steps=-1 --config_name= --model_type=bert --max_seq_length=128 "
        "--per_gpu_train_batch_size=32 --per_gpu_eval_batch_size=32 --gradient_accumulation_steps=1 --seed=12 "
        "--do_lower_case --eval_every_epoch --overwrite_output_dir --result_prefix=first_ "
        "--wandb_mode=disabled --precision=fp32"
    )
    assert train.main(line.split()) == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {
        "first_dev_results.txt",
        "first_eval_results.txt",
        "first_test_results.txt",
        "first_test_predictions.txt",
    } <= names
    header = (tmp_path / "run" / "first_dev_results.txt").read_text().splitlines()[0]
    assert header == "Global_step,Epochs,Loss,TP,FP,FN,Prec,Rec,FB1"
    assert "--task bc5cdr: taken as bc5cdr_disease" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_diverging_run_is_explained_and_keeps_its_checkpoint(
    precision: str, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = arguments("medsts", tiny_bert, tmp_path / "run", "--learning_rate", "1e30", "--max_grad_norm", "0")
    status = train.main([*line, "--num_train_epochs", "2", "--save_steps", "1", "--precision", precision])
    error = [text for text in capsys.readouterr().err.splitlines() if text][-1]
    assert status == 1
    assert "not a number at step" in error and "learning rate" in error and "--learning_rate" in error
    assert not (tmp_path / "run" / "result.json").exists()
    assert "not a number at step" in (tmp_path / "run" / "train.log").read_text()


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness import distributed
    from harness.errors import UserError

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for name, value in {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="this machine shows 1"):
        distributed.init()


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_do_not_spin_unless_the_user_says_so(given: str | None, found: str) -> None:
    """OpenMP reads it when torch is loaded, so that it must stand before."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    code = "import launch.train, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [found, "False"]

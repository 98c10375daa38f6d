"""Runs that come to nothing at every stage, and the corrected command after each: it takes the folder over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import own_files
import pytest
from encoders import tiny_encoder
from running import arguments

import tasks
from launch import train
from launch.jobs import status
from launch.reporting import collect


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the biosses sample that a test may spoil."""
    return shutil.copytree(tasks.sample_dir("biosses"), tmp_path / "data" / "biosses")


def spoilt(stage: str, tmp_path: Path, data: Path, model: Path) -> tuple[Path, list[str]]:
    """(model, more flags) of a command that fails at that stage."""
    given = ["--data_dir", str(data)]
    if stage == "no such data folder":
        return model, ["--data_dir", str(tmp_path / "nowhere")]
    if stage == "a line of the data":
        text = (bad := shutil.copytree(data, tmp_path / "bad") / "train.tsv").read_text()
        bad.write_text(text.replace("\t", " ", 3))
        return model, ["--data_dir", str(bad.parent)]
    if stage == "no such model":
        return tmp_path / "no" / "model", given
    if stage == "the precision":
        return model, [*given, "--ds_config", "bf16_autocast", "--precision", "fp32"]
    (weights := shutil.copytree(model, tmp_path / "torn") / "model.safetensors").write_bytes(b"\0" * 8)
    return weights.parent, [*given, "--wandb_mode", "offline"]  # fails when wandb has already begun


@pytest.mark.parametrize(
    "stage", ["no such data folder", "a line of the data", "no such model", "the precision", "the weights"]
)
def test_the_corrected_command_trains(
    stage: str, data: Path, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "run"
    model, more = spoilt(stage, tmp_path, data, tiny_bert)
    assert train.main(arguments("biosses", model, folder, "--max_steps", "2", *more)) == 2
    said = capsys.readouterr().err.removeprefix("error: ").splitlines()[0]
    (found,) = status.read_all(status.find([str(folder.parent)]))
    (run,) = collect.find([folder.parent])
    assert (found.status, found.reason) == ("failed", said) and run.status == "failed"
    # A report is passed on: it names no path of this machine, and quotes no line of the data.
    assert str(tmp_path) not in run.reason
    why = "see the run's log" if stage == "a line of the data" else said.partition(": ")[2].replace(str(tmp_path), "")
    assert run.reason.partition(": ")[2] == why
    wandb = sorted((folder / "wandb").glob("*/*.wandb"))
    assert bool(wandb) == (stage == "the weights")

    right = arguments("biosses", tiny_bert, folder, "--max_steps", "2", "--data_dir", str(data))
    assert train.main(right) == 0
    assert json.loads((folder / "result.json").read_text())["steps"] == 2
    assert f"The run failed: {said}" in (folder / "train.log").read_text()  # nothing is lost
    assert sorted((folder / "wandb").glob("*/*.wandb")) == wandb
    assert collect.read_all([folder])[0].status == "finished"


def test_a_corrected_task_file(tiny_bert: Path, tmp_path: Path) -> None:
    """Its definition is part of the run, and the one that failed is another."""
    path = own_files.write("multiclass", tmp_path / "data")
    good = path.read_text()
    path.write_text(good.replace('["no", "yes"]', '["no", "maybe"]'))
    line = ["--task_file", str(path), *arguments("", tiny_bert, tmp_path / "run", "--max_steps", "1")[2:]]
    assert train.main(line) == 2 and (tmp_path / "run" / "config.json").is_file()
    path.write_text(good)
    assert train.main(line) == 0


def test_figures_make_it_a_run(data: Path, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped after some steps, its folder is not another command's."""
    folder = tmp_path / "run"
    line = arguments("biosses", tiny_bert, folder, "--max_steps", "3", "--logging_steps", "1", "--data_dir", str(data))
    assert train.main(line) == 0
    (folder / "result.json").unlink()
    other = tiny_encoder(tmp_path / "other", dropout=0.5)  # under another name the same one would go on
    line[line.index(str(tiny_bert))] = str(other)
    assert train.main(line) == 2 and "holds another run" in capsys.readouterr().err

"""The command of a finished run, repeated: its table again, and that it was finished before."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import own_files
import pytest
from encoders import tiny_encoder
from running import SMALL, arguments, clean_environment, cut, run, run_on_ranks

from launch import submit, train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """(run folder, command line)."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    line = arguments("biosses", tiny_bert, folder, "--max_steps", "2")
    run(line)
    return folder, line


def assert_shown(folder: Path, said: str) -> None:
    """What was said holds the scores of dev and test, and that nothing new was done."""
    scores = json.loads((folder / "result.json").read_text())["scores"]
    for split in ("dev", "test"):
        (row,) = (line for line in said.splitlines() if line.strip(" │\r").startswith(split))
        assert f"{100 * scores[split]['score']:.2f}" in row
    assert "finished before, on 2" in said and str(folder / "result.json") in said.replace("\r\n", "")


def test_in_a_pipe(finished: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, line = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    for main, words in ((train.main, line), (submit.main, line), (submit.main, [*line, "--cluster", "slurm"])):
        capsys.readouterr()
        assert main(words) == 0
        shown = capsys.readouterr()
        assert_shown(folder, shown.out)
        assert "SAMPLE DATA" in shown.out and shown.err == ""
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"} == before


def test_on_a_terminal(finished: tuple[Path, list[str]]) -> None:
    folder, line = finished
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / "launch" / "train.py"), *line]
    environment = {**clean_environment(), "TERM": "xterm", "COLUMNS": "300"}
    process = subprocess.Popen(command, env=environment, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 65536):
            said += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    assert_shown(folder, said.decode())


@pytest.mark.slow
def test_by_one_of_several_ranks(
    finished: tuple[Path, list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, line = finished
    (result,) = run_on_ranks(2, [line], tmp_path)
    assert result == json.loads((folder / "result.json").read_text())
    said = capfd.readouterr().out
    assert_shown(folder, said)
    assert said.count("finished before") == 1


class TestInputsThatAreGone:
    def test_of_one_of_the_ten(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        model, data = tiny_encoder(tmp_path / "models" / "tiny"), cut("biosses", tmp_path / "data", 20)
        line = arguments("biosses", Path("models/tiny"), tmp_path / "run", "--max_steps", "1", "--data_dir", "data")
        run(line)
        shutil.rmtree(model)
        shutil.rmtree(data)
        capsys.readouterr()
        for main in (train.main, submit.main):
            assert main(line) == 0
            said = capsys.readouterr().out
            assert_shown(tmp_path / "run", said)
            for text in (f"--data_dir {data} is gone now", f"--model_name_or_path {model} is gone now"):
                assert text in said

    def test_task_file(self, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = own_files.write("multiclass", tmp_path / "data")
        line = ["--task_file", str(path), *arguments("", tiny_bert, tmp_path / "run", "--max_steps", "1")[2:]]
        run(line)
        shutil.rmtree(path.parent)
        capsys.readouterr()
        assert train.main(line) == 0
        said = capsys.readouterr().out
        assert_shown(tmp_path / "run", said)
        assert f"--task_file {path} is gone now" in said and f"--data_dir {path.parent} is gone now" in said

    def test_what_is_not_finished_needs_them(
        self, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = cut("biosses", tmp_path / "data", 20)
        line = arguments("biosses", tiny_bert, tmp_path / "run", "--max_steps", "1", "--data_dir", str(data))
        run(line)
        (tmp_path / "run" / "result.json").unlink()
        shutil.rmtree(data)
        assert train.main(line) == 2 and f"--data_dir {data}: " in capsys.readouterr().err


def test_a_suite(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of which all or some runs are finished: one table has them all; what is finished needs no inputs."""
    data = cut("biosses", tmp_path / "data", 20)
    line = ["--tasks", "biosses", "--model", str(tiny_bert), "--output_dir", str(tmp_path / "out"), *SMALL]
    line += ["--max_steps", "1", "--data_dir", str(data), "--cluster", "debug"]
    assert submit.main([*line, "--seeds", "2"]) == 0
    capsys.readouterr()
    assert submit.main([*line, "--seeds", "3"]) == 0
    assert "2 of 3 runs finished before" in capsys.readouterr().out
    shutil.rmtree(data)
    for where in ("debug", "local", "slurm"):
        assert submit.main([*line, "--seeds", "3", "--cluster", where]) == 0
        said = capsys.readouterr().out
        assert "3 of 3 runs finished before" in said
        for seed in (12, 13, 14):
            scores = json.loads((tmp_path / f"out/biosses/tiny-bert/seed-{seed}/result.json").read_text())["scores"]
            (row,) = (row for row in said.splitlines() if f"seed-{seed}" in row)
            assert f"{100 * scores['dev']['score']:.2f}" in row and f"{100 * scores['test']['score']:.2f}" in row

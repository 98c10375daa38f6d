"""What launch/submit.py finds missing before anything starts, and what --skip_missing makes of it."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from encoders import tiny_encoder
from running import SMALL, cut

from harness import run_folder
from harness.run_folder import RunFolder
from launch import report, submit
from launch.jobs import suite_record
from launch.run.settings import parse

TASKS = ("biosses", "medsts", "mednli")


@pytest.fixture(autouse=True)
def no_slurm_and_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever this machine has. A hub that refuses at once stands for one that cannot be reached."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("DATASET_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_encoder(tmp_path / "tiny")


def suite(tmp_path: Path, *models: Path | str, more: Sequence[str] = ()) -> list[str]:
    """A command line for every task but those without data."""
    for task in TASKS[:2]:
        if not (tmp_path / "data" / task).exists():
            cut(task, tmp_path / "data" / task, 20)
    named = ["--tasks", ",".join(TASKS), "--model", *map(str, models), "--output_dir", str(tmp_path / "out")]
    return [*named, *SMALL, "--max_steps", "1", *more]


def faults(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Lines of the one message that ends the command."""
    capsys.readouterr()
    assert submit.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    return said.removeprefix("error: ").splitlines()


def test_one_list_and_nothing_is_made(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = suite(tmp_path, model, tmp_path / "no" / "model", "nobody/knows-it", more=("--cluster", "local"))
    (tmp_path / "data" / "medsts" / "dev.tsv").unlink()
    bad = tmp_path / "data" / "biosses" / "test.tsv"
    bad.write_text(bad.read_text() + "a line of one column\n")
    shutil.copytree(model, tmp_path / "no-weights")
    (tmp_path / "no-weights" / "model.safetensors").unlink()
    shutil.copytree(model, tmp_path / "no-words")
    for path in (tmp_path / "no-words").glob("*token*"):
        path.unlink()
    line[line.index("nobody/knows-it") : line.index("nobody/knows-it") + 1] = [
        "nobody/knows-it", str(tmp_path / "no-weights"), str(tmp_path / "no-words")
    ]  # fmt: skip
    found = faults(capsys, *line, "--seeds", "2")
    expected = (
        "biosses/test.tsv:",
        f"--data_dir {tmp_path}/data/medsts: lacks dev.tsv",
        f"$DATASET_DIR {tmp_path}/data: no folder mednli in it",
        f"--model_name_or_path {tmp_path}/no/model: no such folder",
        "nobody/knows-it: the hub is out of reach, and it is not in the cache",
        f"--model_name_or_path {tmp_path}/no-weights: has no weights",
        f"--model_name_or_path {tmp_path}/no-words: no tokenizer can be loaded",
    )
    assert len(found) == len(expected)  # each once, however many runs need it; nothing would be left to start
    assert [part for part, line in zip(expected, found, strict=True) if part not in line] == []
    assert not (tmp_path / "out").exists()


def test_what_a_share_of_the_data_leaves_out(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    cut("mednli", tmp_path / "data" / "mednli", 30)
    line = suite(tmp_path, model, more=("--tasks", "mednli", "--sweep", "train_fraction=0.05,1", "--cluster", "local"))
    (said,) = faults(capsys, *line)
    assert said.startswith("--train_fraction 0.05: ") and "is in none of the 2 of 30" in said
    assert not (tmp_path / "out").exists()


def test_a_head_that_a_model_lacks(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = suite(tmp_path, model, more=("--tasks", "biosses,medsts", "--head", "pretrained", "--cluster", "local"))
    said = faults(capsys, *line)
    assert [one.partition(":")[0] for one in said] == ["--head pretrained"] and "no layers of its own" in said[0]
    assert not (tmp_path / "out").exists()


def test_windows_without_room(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    cut("hoc", tmp_path / "data" / "hoc", 20)
    line = suite(tmp_path, model, more=("--tasks", "biosses,hoc", "--cluster", "local"))
    said = faults(capsys, *line, "--stride", "62")
    assert "--stride 62: must be less than the 61 tokens" in said[0] and "less than 31;" in said[0]
    said = faults(capsys, *line, "--tasks", "hoc", "--sweep", "stride=31,62")
    assert len(said) == 1 and "--stride 62: must be less than the 62 tokens" in said[0]
    assert not (tmp_path / "out").exists()


def test_the_repaired_suite_starts(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = suite(tmp_path, model, more=("--cluster", "debug"))
    found = faults(capsys, *line)
    assert len(found) == 2 and found[0].startswith(f"$DATASET_DIR {tmp_path}/data: no folder mednli in it")
    assert found[1] == "--skip_missing leaves out mednli and starts the rest"
    cut("mednli", tmp_path / "elsewhere", 20)
    file = tmp_path / "suite.toml"
    file.write_text(f'tasks = {list(TASKS)}\n[overrides.mednli]\ndata_dir = "{tmp_path}/elsewhere"\n')
    assert submit.main(["--suite", str(file), *line[2:]]) == 0
    assert len(list((tmp_path / "out").rglob("result.json"))) == 3


def test_faults_of_the_place_are_in_the_same_list(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = suite(tmp_path, model)
    said = faults(capsys, *line, "--profile", str(tmp_path / "none.toml"))
    assert "--profile" in said[0] and "mednli" in said[1]
    said = faults(capsys, *line, "--cluster", "local", "--gpus_per_node", "1")
    assert "--gpus_per_node 1: no GPU can be used here" in said[0] and "mednli" in said[1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    said = faults(capsys, *line, "--cluster", "local", "--precision", "fp16", "--ds_config", "fp16_zero7")
    assert "CUDA_VISIBLE_DEVICES=6,7: there is a GPU, but PyTorch" in said[0] and "fp16_zero7" in said[1]
    assert "--precision fp16: this cpu cannot" in said[2] and "mednli" in said[3]
    assert "mednli" in faults(capsys, *line, "--cluster", "local", "--no_cuda")[0]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert "CUDA_VISIBLE_DEVICES=6,7: 1 of them" in faults(capsys, *line, "--cluster", "local")[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-0d1e,MIG-4f2a")  # of which CUDA shows one at a time
    assert "mednli" in faults(capsys, *line, "--cluster", "local")[0]


def test_print_says_it_too(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = suite(tmp_path, model, "nobody/knows-it", more=("--print",))
    assert submit.main(line) == 2
    shown = capsys.readouterr()
    assert "#SBATCH --array=0-5" in shown.out and "no folder mednli in it" in shown.err
    # The nodes may have another network and cache than the machine that submits.
    assert "not checked: --model_name_or_path nobody/knows-it" in shown.err
    assert submit.main([*line, "--skip_missing"]) == 0
    shown = capsys.readouterr()
    assert "#SBATCH --array=0-3" in shown.out and "left out: mednli (" in shown.err
    assert not (tmp_path / "out").exists()


def test_without_sbatch_nothing_is_made(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    line = ["--task", "biosses", "--model_name_or_path", str(model), "--output_dir", str(tmp_path / "out")]
    suite(tmp_path, model)
    (said,) = faults(capsys, *line, "--cluster", "slurm")
    assert "there is no sbatch here" in said and not (tmp_path / "out").exists()


def test_paths_inside_a_container_are_not_looked_at(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cluster.toml").write_text(f'container = "image"\ncontainer_mounts = ["{tmp_path}/data:/corpora"]\n')
    line = [
        "--task",
        "mednli",
        "--model_name_or_path",
        str(model),
        "--print",
        "--profile",
        str(tmp_path / "cluster.toml"),
    ]
    assert submit.main([*line, "--data_dir", "/corpora/mednli"]) == 0
    assert submit.main([*line, "--data_dir", "/corporal/mednli"]) == 2


def test_runs_of_others_are_in_the_list(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = suite(tmp_path, model, more=("--cluster", "local"))
    folder = tmp_path / "out" / "biosses" / "tiny" / "seed-12"
    words = ["--task", "biosses", "--model_name_or_path", "other", "--output_dir", str(folder)]
    run_folder.prepare(parse(words)[0])
    assert len(faults(capsys, *line)) == 2  # a failed start is nobody's
    RunFolder(folder).metrics.write_text('{"kind": "step"}\n')
    assert "holds another run" in faults(capsys, *line)[0]


class TestLeftOut:
    def started(self, tmp_path: Path, model: Path) -> list[str]:
        line = suite(tmp_path, model, more=("--cluster", "debug", "--skip_missing"))
        assert submit.main(line) == 0
        return line

    def test_every_table_says_so(self, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.started(tmp_path, model)
        note = f"left out: mednli ($DATASET_DIR {tmp_path}/data: no folder mednli in it"
        short = note.replace(f"{tmp_path}/data", ".../data")  # a report names no path of this machine
        capsys.readouterr()
        assert submit.main(line) == 0  # the table of what is finished
        assert note in capsys.readouterr().out
        for place in ("out", "out/biosses", "out/biosses/tiny/seed-12"):
            assert submit.main(["status", str(tmp_path / place)]) == 0
            assert note in capsys.readouterr().out
            assert report.main([str(tmp_path / place), "--out", str(tmp_path / "report")]) == 0
            assert short in capsys.readouterr().out
        for name in ("report.html", "leaderboard.md", "leaderboard.tex", "leaderboard.csv", "leaderboard.json"):
            assert short in (tmp_path / "report" / name).read_text(), name
        with open(tmp_path / "report" / "leaderboard.csv", newline="") as file:
            assert {row["kind"] for row in csv.DictReader(file)} == {"ours", "note"}

    def test_until_it_is_there(self, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.started(tmp_path, model)
        cut("mednli", tmp_path / "data" / "mednli", 20)
        capsys.readouterr()
        assert submit.main(line) == 0
        assert "left out" not in (said := capsys.readouterr()).out + said.err
        assert report.main([str(tmp_path / "out")]) == 0
        assert "left out: mednli" not in capsys.readouterr().out

    def test_the_total_is_of_the_suite(self, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Whatever of it was run."""
        line = suite(tmp_path, model, more=("--cluster", "debug", "--skip_missing"))
        (tmp_path / "mine.toml").write_text('tasks = ["biosses", "mednli", "hoc"]\n[total]\na = "biosses"\n'
                                            'b = ["mednli", "hoc"]\n')  # fmt: skip
        line[:2] = ["--suite", str(tmp_path / "mine.toml"), "--tasks", "biosses,mednli"]
        assert submit.main(line) == 0
        record = json.loads((tmp_path / "out" / "suite.json").read_text())
        assert record["suites"]["mine"] == {
            "tasks": ["biosses", "mednli", "hoc"], "groups": {"a": ["biosses"], "b": ["mednli", "hoc"]}
        }  # fmt: skip
        assert record["schema"] == 2 and len(record["left_out"]) == 1
        capsys.readouterr()
        assert report.main([str(tmp_path / "out")]) == 0
        assert "lacks MedNLI, HoC" in capsys.readouterr().out or "lacks mednli, hoc" in capsys.readouterr().out

    @pytest.mark.slow
    def test_the_table_of_a_queue_here(self, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = suite(tmp_path, model, tmp_path / "no" / "model", more=("--cluster", "local", "--skip_missing"))
        line[1] = "biosses,mednli"
        assert submit.main(line) == 0
        out = capsys.readouterr().out
        assert "1 finished" in out and out.count("left out: ") == 2
        assert f"left out: model (--model_name_or_path {tmp_path}/no/model: no such folder" in out

    def test_not_everything_can_be(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = suite(tmp_path, tmp_path / "none", more=("--cluster", "local", "--skip_missing"))
        assert f"{tmp_path}/none: no such folder" in "".join(faults(capsys, *line))

    def test_record_of_a_suite_that_was_moved_or_spoilt(self, tmp_path: Path) -> None:
        home, folder = tmp_path / "a", tmp_path / "a" / "t" / "m" / "seed-1"
        suite_record.record_left_out(home, [folder], {home / "u" / "m" / "seed-1": ("u", "no data")})
        assert (home / "suite.json").stat().st_mode & 0o077 == 0
        os.rename(home, tmp_path / "b")
        moved = tmp_path / "b" / "t" / "m" / "seed-1"
        assert suite_record.left_out_notes([moved]) == ["left out: u (no data)"]
        for text in ("{", "[]", json.dumps({"left_out": 3})):
            (tmp_path / "b" / "suite.json").write_text(text)
            assert suite_record.left_out_notes([moved]) == []


def test_a_model_that_is_in_the_download_cache(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut("mednli", tmp_path / "data" / "mednli", 20)
    snapshot = tmp_path / "cache" / "models--some--one" / "snapshots" / "abc"
    shutil.copytree(model, snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    line = suite(tmp_path, "some/one", more=("--cluster", "local", "--print", "--cache_dir", str(tmp_path / "cache")))
    assert submit.main(line) == 0
    for path in snapshot.glob("*token*"):
        path.unlink()
    assert submit.main(line) == 2 and "no tokenizer can be loaded" in capsys.readouterr().err

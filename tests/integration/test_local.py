"""The queue of this machine: launch/jobs/local.py with real workers, and what it shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import wandb_offline
from encoders import tiny_encoder
from running import SMALL, clean_environment, cut, hear_interrupts

from launch import report, submit
from launch.jobs import local
from launch.jobs.local import Board, Row
from launch.jobs.resources import Request
from launch.run.settings import parse

SCRIPT = Path(submit.__file__)


def suite(tmp_path: Path, text: str) -> list[str]:
    """A command line for a suite of tiny runs; the data of its tasks is cut small."""
    for task in ("biosses", "medsts", "mednli"):
        if not (tmp_path / "data" / task).exists():
            cut(task, tmp_path / "data" / task, 40)
    model = tiny_encoder(tmp_path / "tiny", dropout=0.1)
    (tmp_path / "suite.toml").write_text(f'models = ["{model}"]\n{text}')
    return ["--suite", str(tmp_path / "suite.toml"), "--output_dir", str(tmp_path / "out"), *SMALL]


def launched(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**clean_environment(), "DATASET_DIR": str(tmp_path / "data")}
    return subprocess.Popen([sys.executable, str(SCRIPT), *words], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=hear_interrupts)  # fmt: skip


def results(tmp_path: Path) -> set[str]:
    return {str(path.parent.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("result.json")}


def wait_for(folder: Path, name: str, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not list(folder.glob(name)):
        assert time.monotonic() < until, f"no {name} in {folder} in time"
        time.sleep(0.05)


def ended(process: int, seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while Path(f"/proc/{process}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    return not Path(f"/proc/{process}").exists()


@pytest.mark.slow
def test_a_run_that_diverges_fails_once_and_one_whose_worker_dies_is_tried_again(tmp_path: Path) -> None:
    text = 'tasks = ["biosses", "medsts"]\nseeds = [1]\n[overrides.biosses]\nlearning_rate = 1e30\n'
    line = suite(tmp_path, text + "[overrides.medsts]\nlearning_rate = 1e-3\nnum_train_epochs = 4\nsave_steps = 2\n")
    line = [word for word in line if word not in ("--learning_rate", "1e-3")]
    first = launched(tmp_path, *line, "--cluster", "local")
    wait_for(tmp_path / "out/medsts/tiny/seed-1", "checkpoints/step-*")
    attempt = json.loads((tmp_path / "out/medsts/tiny/seed-1/attempt.json").read_text())
    os.kill(attempt["process"], signal.SIGKILL)
    said, _ = first.communicate(timeout=300)
    assert first.returncode == 1, said
    assert results(tmp_path) == {"medsts/tiny/seed-1"}
    assert said.count("biosses/tiny/seed-1: failed") == 1 and "1 finished, 1 failed" in said
    reason = json.loads((tmp_path / "out/biosses/tiny/seed-1/attempt.json").read_text())["reason"]
    assert reason.splitlines()[0] in said
    assert "medsts/tiny/seed-1: failed, the process was ended by SIGKILL" in said
    assert "again, at the end of the queue" in said
    assert "Resumed after" in "".join(path.read_text() for path in (tmp_path / "out/submitit").glob("*_log.out"))

    line = [*line, "--tasks", "medsts"]  # what is finished is not done again
    said, _ = (again := launched(tmp_path, *line, "--cluster", "local")).communicate(timeout=100)
    assert again.returncode == 0 and "finished before, on 2" in said and said.count("test   Pearson") == 1, said


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C, twice", "cancel"])
def test_stopped_the_same_command_goes_on(tmp_path: Path, how: str) -> None:
    text = 'tasks = ["biosses", "medsts", "mednli"]\n[overrides]\nnum_train_epochs = 6\nlogging_steps = 1\n'
    text += "[overrides.biosses]\nnum_train_epochs = 20\n"  # those that are stopped must not come to their end before
    if "twice" in how:
        text += "[overrides.medsts]\nnum_train_epochs = 30\n"
    line = [*suite(tmp_path, text), "--cluster", "local", "--jobs", "2" if "twice" in how else "1"]
    first = launched(tmp_path, *line)
    folder = tmp_path / "out/biosses/tiny/seed-12"
    wait_for(folder, "checkpoints/step-*")
    worker = json.loads((folder / "attempt.json").read_text())["process"]
    if how == "cancel":
        assert submit.main(["cancel", str(folder), str(tmp_path / "out/mednli")]) == 0
    else:
        first.send_signal(signal.SIGINT)
        first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=200)
    assert ended(worker)  # nothing goes on behind one's back
    if how == "cancel":
        assert first.returncode == 75 and results(tmp_path) == {"medsts/tiny/seed-12"}, said
    else:
        assert first.returncode == 75 and results(tmp_path) == set(), said
    states = {json.loads(text)["state"] for text in _output("status", str(tmp_path / "out"), "--json").splitlines()}
    assert states <= {"stopped", "finished"}

    said, _ = (again := launched(tmp_path, *line)).communicate(timeout=300)
    assert again.returncode == 0 and len(results(tmp_path)) == 3, said
    assert "Resumed after" in "".join(path.read_text() for path in (tmp_path / "out/submitit").glob("*_log.out"))


@pytest.mark.slow
def test_killed_halfway_a_suite_does_only_what_is_missing(tmp_path: Path) -> None:
    """And ends with its leaderboard in wandb, a report and a page."""
    text = 'tasks = ["biosses", "mednli"]\nseeds = [1, 2]\n[overrides]\nmax_steps = 12\nlogging_steps = 1\n'
    text += "[overrides.biosses]\nmax_steps = 60\nsave_steps = 4\n"  # so that the third run is not over at once
    line = [*suite(tmp_path, text), "--cluster", "local"]
    line[line.index("--wandb_mode") + 1] = "offline"
    first = launched(tmp_path, *line)
    third = tmp_path / "out/biosses/tiny/seed-2"  # seeds vary slowest
    wait_for(third, "checkpoints/step-*")
    first.kill()
    first.communicate(timeout=60)
    process = json.loads((third / "attempt.json").read_text())["process"]
    assert ended(process) and len(results(tmp_path)) == 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}

    said, _ = (again := launched(tmp_path, *line)).communicate(timeout=300)
    assert again.returncode == 0 and "2 finished, 2 finished before" in said, said
    assert "Resumed after" in "".join(path.read_text() for path in (tmp_path / "out/submitit").glob("*_log.out"))
    assert len(results(tmp_path)) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert f"To upload the suite's leaderboard: wandb sync {tmp_path}/out/wandb/offline-run-" in said
    scores = [json.loads((tmp_path / f"out/mednli/tiny/seed-{seed}/result.json").read_text()) for seed in (1, 2)]
    mean = sum(score["scores"]["test"]["score"] for score in scores) / 2
    summary = wandb_offline.summary(tmp_path / "out")
    assert [value for name, value in summary.items() if name.endswith("/mednli")] == [pytest.approx(mean)]
    assert report.main([str(tmp_path / "out"), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report/report.html").stat().st_size > 10_000


def _output(*words: str) -> str:
    return subprocess.run([sys.executable, str(SCRIPT), *words], env=clean_environment(), capture_output=True,
                          text=True, check=True, timeout=60).stdout  # fmt: skip


class TestDevices:
    def names(self, count: int, **request: int) -> list[tuple[str, str | None, str | None]]:
        workers = local._workers(Request(cluster="local", **request), count, Path("/code"))
        return [(worker.name, worker.environment.get("CUDA_VISIBLE_DEVICES"), worker.environment.get("OMP_NUM_THREADS"))
                for worker in workers]  # fmt: skip

    def test_one_run_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
        assert [(name, device) for name, device, _ in self.names(5)] == [("GPU 2", "2"), ("GPU 3", "3")]
        assert [name for name, *_ in self.names(5, runs_per_gpu=2)] == ["GPU 2", "GPU 3", "GPU 2", "GPU 3"]
        assert [name for name, *_ in self.names(1, runs_per_gpu=2)] == ["GPU 2"]
        assert [name for name, *_ in self.names(9, jobs=3)] == ["GPU 2", "GPU 3", "GPU 2"]

    @pytest.mark.parametrize("kind", ["GPU", "MIG"])
    def test_names_are_passed_on_as_they_are(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        names = [f"{kind}-8932f937-d72c-4106-c12f-20bd9faed9f6", f"{kind}-0a1b2c3d-0000-1111-2222-333344445555"]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(names))
        assert [(name, device) for name, device, _ in self.names(2)] == [(f"GPU {name}", name) for name in names]

    def test_a_share_of_the_cpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        cpus = len(os.sched_getaffinity(0))
        assert self.names(5, gpus_per_node=0) == [("CPU", "", None)]
        assert self.names(5, gpus_per_node=0, jobs=2) == [("CPU", "", str(max(1, cpus // 2)))] * 2

    def test_a_rank_of_the_calling_process_is_not_passed_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RANK", "3")
        monkeypatch.setenv("SLURM_PROCID", "3")
        (worker,) = local._workers(Request(cluster="local"), 1, Path("/code"))
        assert not {"RANK", "SLURM_PROCID"} & worker.environment.keys()


class TestBoard:
    def rows(self, tmp_path: Path, count: int) -> Sequence[Row]:
        line = ["--task", "mednli", "--model_name_or_path", "m", "--num_train_epochs", "4"]
        made = [parse([*line, "--output_dir", str(tmp_path / f"seed-{n}")])[0] for n in range(count)]
        for config in made:
            Path(config.output_dir).mkdir()
        return [Row(config, tmp_path / f"{n}.log") for n, config in enumerate(made)]

    def test_lines_without_a_terminal(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        one, two = rows = self.rows(tmp_path, 2)
        board = Board.build(rows)
        board.change(one, "running", "", "GPU 0")
        (one.folder / "metrics.jsonl").write_text(
            '{"kind": "step", "step": 7, "epoch": null, "values": {}}\n'
            '{"kind": "epoch", "step": 9, "epoch": 1.0, "values": {"dev/score": 0.5}}\n{"kind": "st'
        )
        board.shown = 0.0
        board.show()
        board.change(one, "finished")
        board.change(two, "running", "", "GPU 1")
        two.attempts = 3
        board.change(two, "failed", "loss is not finite")
        board.summary()
        shown = capsys.readouterr()
        assert "[0/2] seed-0: running on GPU 0\n    seed-0: epoch 1/4 step 9 dev 50.00\n" in shown.out
        assert "[1/2] seed-0: finished, dev 50.00\n" in shown.out
        assert "[1/2] seed-1: failed, loss is not finite\n" in shown.out and "1 finished, 1 failed" in shown.out
        assert "seed-1 failed 3 times: loss is not finite" in shown.err and "the same command goes on" in shown.err

    def test_one_run_shows_its_log(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (row,) = rows = self.rows(tmp_path, 1)
        row.log.write_text("of an earlier attempt\n")
        board = Board.build(rows)
        with open(row.log, "a") as log:
            log.write("epoch 1\nerror: loss is not finite\n")
        board.show()
        board.change(row, "failed", "loss is not finite")
        shown = capsys.readouterr()
        assert shown.out == "epoch 1\nerror: loss is not finite\n" and shown.err == ""  # said once

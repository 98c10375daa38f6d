"""One report of a failed run, from the rank that failed first, whatever the launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from running import arguments, clean_environment

from harness import distributed, processes
from harness.errors import EXIT_LOST, Stopped, TrainingFailed, UserError
from harness.processes import Owner
from harness.run_folder import RunFolder
from launch.run import failures
from launch.run.failures import FirstFailure

HERE = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
ENVIRONMENT = {**clean_environment(), "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
CRASHES = ["crash of rank 1", "crash of rank 0", "crash of both", "crash while the other hangs", "not to be pickled"]
ONE_LINE = {  # scenario: how the only line begins
    "out of memory on rank 1": "error: out of memory at step 2, learning rate",
    "mistake seen by rank 1": "error: data.tsv:3: no label; put one there",
    "killed": "error: rank 1 (process ",
    "killed while the other hangs": "error: rank 1 (process ",
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of runs on two ranks, each with another fault (tests/crashes.py)."""
    place = tmp_path_factory.mktemp("crashes")
    done = subprocess.run([sys.executable, str(HERE / "crashes.py"), str(place)], env=ENVIRONMENT, timeout=500,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, dict[str, Any]] = json.loads((place / "seen.json").read_text())
    return found


def reported(screen: str) -> list[str]:
    """The screen from the report on: after the last line of an ordinary run."""
    lines = screen.splitlines()
    ordinary = ("epoch ", "     epoch", "         1", "folder ", "scoring ")
    return lines[max(number for number, line in enumerate(lines) if line.startswith(ordinary)) + 1 :]


@pytest.mark.slow
class TestTwoRanks:
    @pytest.mark.parametrize("name", CRASHES)
    def test_traceback_of_the_first_rank_is_last(self, name: str, seen: dict[str, dict[str, Any]]) -> None:
        lines = reported(seen[name]["screen"])
        assert [line for line in lines if line.startswith("Traceback")] == lines[:1]
        assert lines[-2] in ("ValueError: an operand was wrong", "crashing.Unpicklable: no such luck")

    @pytest.mark.parametrize("name", CRASHES)
    def test_it_names_rank_host_and_log(self, name: str, seen: dict[str, dict[str, Any]]) -> None:
        found = seen[name]
        lines = reported(found["screen"])
        ranks = {"crash of both": (0, 1), "crash of rank 0": (0,), "not to be pickled": (0,)}.get(name, (1,))
        places = [f"rank {rank} of 2, process {found['processes'][rank]} on {found['host']}" for rank in ranks]
        ends = [f"This is the first failure, of {place}. Log: {found['folder']}/train.log" for place in places]
        assert lines[-1] in ends

    @pytest.mark.parametrize("name", CRASHES)
    def test_log_has_the_traceback_of_that_rank_alone(self, name: str, seen: dict[str, dict[str, Any]]) -> None:
        log = seen[name]["log"]
        assert log.count("Traceback (most") == log.count("The run failed: ") == 1
        assert log.rstrip().endswith(("ValueError: an operand was wrong", "Unpicklable: no such luck"))

    @pytest.mark.parametrize(("name", "beginning"), ONE_LINE.items())
    def test_one_line_is_enough(self, name: str, beginning: str, seen: dict[str, dict[str, Any]]) -> None:
        lines = reported(seen[name]["screen"])
        assert len(lines) == 1 and lines[0].startswith(beginning)
        assert f"The run failed: {lines[0].removeprefix('error: ')}" in seen[name]["log"]

    def test_a_killed_rank_is_named(self, seen: dict[str, dict[str, Any]]) -> None:
        for name in ("killed", "killed while the other hangs"):
            process = seen[name]["processes"][1]
            (line,) = reported(seen[name]["screen"])
            assert f"rank 1 (process {process} on {seen[name]['host']}) exited without an error message" in line
            assert "the same command goes on from the last checkpoint" in line

    def test_all_ranks_end_within_seconds(self, seen: dict[str, dict[str, Any]]) -> None:
        assert {name: found["apart"] for name, found in seen.items() if found["apart"] > 10} == {}

    @pytest.mark.parametrize(
        ("name", "statuses"),
        [
            ("crash of rank 1", [EXIT_LOST, 1]),
            ("crash of rank 0", [1, EXIT_LOST]),
            ("crash of both", [1, 1]),
            ("crash while the other hangs", [EXIT_LOST, 1]),
            ("not to be pickled", [1, 1]),
            ("out of memory on rank 1", [EXIT_LOST, 1]),
            ("mistake seen by rank 1", [EXIT_LOST, 2]),
            ("killed", [EXIT_LOST, -9]),
        ],
    )
    def test_exit_statuses(self, name: str, statuses: list[int], seen: dict[str, dict[str, Any]]) -> None:
        assert seen[name]["statuses"] == statuses

    def test_the_same_command_finishes_and_nothing_is_left(self, seen: dict[str, dict[str, Any]]) -> None:
        for found in seen.values():
            assert found["again"] == [0, 0]
            assert any(name.startswith(".first-failure-") for name in found["left"])
            assert [name for name in found["left again"] if name.startswith(".")] == [".lock"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "after"),
    [
        (["torchrun", "--nproc_per_node", "2", "--master_port", "29523"], ["====="]),
        (["deepspeed", "--num_gpus", "2", "--master_port", "29525"], ["[INFO]", "[INFO]", "[ERROR]"]),
    ],
    ids=["torchrun", "deepspeed"],
)
def test_launchers_add_little(launcher: list[str], after: list[str], tiny_bert: Path, tmp_path: Path) -> None:
    """torchrun's own summary shows the same traceback; the deepspeed launcher says which processes it ends."""
    line = arguments("biosses", tiny_bert, tmp_path / "run", "--max_steps", "4", "--no_cuda")
    done = subprocess.run([str(BIN / launcher[0]), *launcher[1:], str(HERE / "crashing.py"), *line], timeout=300,
                          env={**ENVIRONMENT, "FAULT": "crash", "FAULT_RANK": "1", "PATH": f"{BIN}:/usr/bin:/bin"},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    assert done.returncode == 1
    lines = [line.strip() for line in done.stdout.splitlines() if "Writing model shards" not in line]
    end = max(number for number, line in enumerate(lines) if line.startswith("This is the first failure, of rank 1"))
    assert lines[end - 1] == "ValueError: an operand was wrong"
    assert len(lines) - end - 1 == len(after)
    assert all(word in line for word, line in zip(after, lines[end + 1 :], strict=True))
    assert "by peer" not in done.stdout


class TestReport:
    @pytest.mark.parametrize(
        ("error", "status"), [(UserError("--seed x: not a number"), 2), (TrainingFailed("diverged"), 1)]
    )
    def test_what_a_user_can_correct_is_one_line(
        self, error: Exception, status: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        error.add_note("not for the screen")
        assert failures.report(error) == status
        assert capsys.readouterr().err == f"error: {error}\n"

    def test_what_another_rank_reports_is_silent(self, capsys: pytest.CaptureFixture[str]) -> None:
        error = UserError("no")
        error.__cause__ = distributed.RaisedOnMain()
        assert failures.report(error) == 2
        assert capsys.readouterr().err == ""

    def test_where_ranks_have_outputs_of_their_own_it_points_to_the_log(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
        error = RuntimeError("connection lost")
        setattr(error, failures.SILENT, "/runs/x/train.log")
        assert failures.report(error) == 1
        assert capsys.readouterr().err == "error: another rank failed first; see /runs/x/train.log\n"

    def test_a_peer_that_never_came(self, capsys: pytest.CaptureFixture[str]) -> None:
        error = RuntimeError("[../gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]:7048")
        assert failures.report(error) == EXIT_LOST
        assert capsys.readouterr().err.startswith("error: another rank ended before the run had started")

    @pytest.mark.parametrize("error", [UserError("--seed x: not a number"), ValueError("wrong")])
    def test_torchrun_is_told(self, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
        failures.report(error)
        message = json.loads((tmp_path / "error.json").read_text())["message"]
        assert str(error) in message["message"] and str(error) in message["extraInfo"]["py_callstack"]
        assert message["extraInfo"]["timestamp"].isdigit()


def test_a_process_that_has_ended() -> None:
    child = subprocess.Popen(["sleep", "0.5"])
    its = replace(Owner.here(), process=child.pid, started=processes.start(child.pid))
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet waited for
    assert its.is_gone()
    child.wait()
    assert its.is_gone()
    assert not Owner.here().is_gone()


def test_a_stop_that_follows_a_lost_peer_is_no_stop(tmp_path: Path) -> None:
    """A launcher that sees a rank die sends SIGTERM to the others, which may come after the broken connection."""
    world = replace(distributed.init(no_cuda=True), size=2)
    (tmp_path / "train.log").touch()
    with pytest.raises(TrainingFailed, match="another rank is gone"), FirstFailure(RunFolder(tmp_path), world, "x"):
        try:
            raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4711")
        except RuntimeError:
            raise Stopped("stopped by SIGTERM") from None  # a handler says nothing; the context stays

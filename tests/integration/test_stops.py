"""Stop signals from a program's first line to its last, each sent to a real process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from running import arguments, clean_environment, cut, free_port, hear_interrupts
from running import run as run_here

from harness.errors import EXIT_STOPPED
from harness.preemption import SIGNALS

TRAIN = Path(__file__).resolve().parents[2] / "launch" / "train.py"
SECONDS = 120  # of one program


class Program:
    """`python launch/train.py ...`, whose lines are read as they come."""

    def __init__(self, line: Sequence[str], **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(TRAIN), *line],
            env={**clean_environment(), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=hear_interrupts,
        )
        self.out = ""

    def wait_for(self, words: str) -> None:
        assert self.process.stdout is not None
        until = time.monotonic() + SECONDS
        while words not in self.out:
            assert time.monotonic() < until and select.select([self.process.stdout], [], [], SECONDS)[0]
            read = os.read(self.process.stdout.fileno(), 65536)
            if not read:
                pytest.fail(f"ended before {words!r}: {self.end()}")
            self.out += read.decode()

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        return self.end()

    def end(self) -> tuple[int, str]:
        """(exit status, stderr)."""
        out, err = self.process.communicate(timeout=SECONDS)
        self.out += out.decode()
        return self.process.returncode, err.decode()


def assert_stopped(ended: tuple[int, str], *parts: str) -> None:
    status, err = ended
    assert status == EXIT_STOPPED, err
    assert err.count("\n") == 1 and all(part in err for part in parts), err


@pytest.mark.parametrize("number", SIGNALS)
def test_while_libraries_are_imported(number: signal.Signals, tmp_path: Path) -> None:
    program = Program(["--task", "mednli", "--model_name_or_path", "none", "--output_dir", str(tmp_path / "run")])
    program.wait_for("starting: task mednli, model none")
    assert_stopped(program.stop(number), f"stopped by {number.name}; the same command starts again")
    assert not (tmp_path / "run").exists()


def test_one_run_stopped_in_each_phase_ends_as_if_nothing_had_been(tiny_bert: Path, tmp_path: Path) -> None:
    data = cut("biosses", tmp_path / "biosses", 60)
    line = arguments("biosses", tiny_bert, tmp_path / "run", "--data_dir", str(data), "--feature_cache", "none",
                     "--num_train_epochs", "20", "--learning_rate", "1e-4")  # fmt: skip
    for words, number, said in (
        ("tokenising", signal.SIGTERM, "nothing is lost"),
        ("loading tiny", signal.SIGUSR2, "nothing is lost"),
        ("step 1/", signal.SIGINT, "stopped at step"),
        ("scoring dev", signal.SIGUSR2, "nothing is lost"),
    ):
        program = Program(line)
        program.wait_for(words)
        assert_stopped(program.stop(number), said, "same command goes on")
        assert ("step 1/" in program.out) == (words == "step 1/"), words
        assert not (tmp_path / "run" / "result.json").exists()
    result = run_here(line)
    whole = run_here([*line[:5], str(tmp_path / "whole"), *line[6:]])
    assert result["scores"] == whole["scores"] and result["epochs"] == whole["epochs"]


HOLD = """
import time
from harness.preemption import StopRequest
with StopRequest() as stop, stop.deferred():
    print("here", flush=True)
    while True:
        time.sleep(0.05)
        if stop.requested:
            print(stop.requested, flush=True)
"""


def test_a_second_ctrl_c_ends_at_once_but_not_one_that_a_launcher_passes_on() -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "SIGINT\n"
    time.sleep(1.1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == EXIT_STOPPED
    assert process.stderr is not None and process.stderr.read().startswith("ended at once; the same command goes on")


def ranks(number: int, line: Sequence[str]) -> list[Program]:
    """The first `number` of two ranks."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [Program(line, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(number)]


def test_a_rank_that_is_stopped_alone_takes_the_other_with_it(tiny_bert: Path, tmp_path: Path) -> None:
    first, second = ranks(2, arguments("biosses", tiny_bert, tmp_path / "run"))
    first.wait_for("tokenising")
    status, err = second.stop(signal.SIGTERM)
    assert (status, err) == (EXIT_STOPPED, "")
    ended = first.end()
    in_training = "step 1/" in first.out  # on a busy machine the signal may come so late
    assert_stopped(ended, "stopped at step" if in_training else "stopped with another rank; nothing is lost")


def test_a_rank_that_never_comes_is_named_and_ctrl_c_is_heard(tmp_path: Path) -> None:
    (program,) = ranks(1, ["--task", "mednli", "--output_dir", str(tmp_path / "run"), "--no_cuda"])
    assert program.process.stderr is not None
    program.wait_for("starting")
    said = program.process.stderr.readline().decode()
    assert said == "waiting for 1 of 2 ranks (number 1; have they been started?) ...\n"
    assert_stopped(program.stop(signal.SIGINT), "stopped by SIGINT")

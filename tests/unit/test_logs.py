"""Log lines, progress and tables on a real pseudo-terminal, in plain text, and on other ranks."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import logs

ROOT = Path(__file__).parents[2]
log = logging.getLogger("harness.some_module")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    yield
    logs.close()


SCRIPT = """
import logging, pathlib, sys, time, warnings
from harness import logs
logs.setup(True, pathlib.Path(sys.argv[1]))
log = logging.getLogger("harness.x")
with logs.progress(True, 2, 40) as progress:
    for step in range(1, 41):
        progress.step(step / 20, step, 1 / step, 250.0)
        time.sleep(0.015)
        if step == 30:
            log.info("to be copied: %s [CLS]", "/long/path" * 30)
            log.warning("careful")
            print("printed by a library")
            warnings.warn("a Python warning")
        if step % 20 == 0:
            progress.epoch_row({"epoch": step // 20, "dev/score": 0.5})
logs.print_table("Scores", [{"split": "dev", "score": 81.25}, {"split": "test", "metric": "[accuracy]"}])
"""


def on_a_terminal(file: Path) -> str:
    leader, follower = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "110", "LINES": "30"}
    command = [sys.executable, "-c", SCRIPT, str(file)]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    output = b""
    while True:
        try:
            output += os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
    os.close(leader)
    assert process.wait(timeout=30) == 0, output.decode()
    return output.decode()


def as_seen(output: str) -> list[str]:
    """What stays on the screen, of the few things that a terminal can be told: erase the line, go up, go back."""
    lines, row, column = [""], 0, 0
    for text, code in re.findall(r"([^\x1b\r\n]+)|(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", output):
        if code == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif code == "\r":
            column = 0
        elif code.endswith("A"):
            row -= int(code[2:-1])
        elif code.endswith("K"):
            lines[row] = ""
        else:
            lines[row] = lines[row].ljust(column)[:column] + text + lines[row][column + len(text) :]
            column += len(text)
    return [line.rstrip() for line in lines]


def test_terminal_shows_one_live_line_that_nothing_tears(tmp_path: Path) -> None:
    output = on_a_terminal(tmp_path / "train.log")
    assert re.search(r"epoch \d\.\d\d/2 +step \d+/40 +loss 0\.\d{4} +250 examples/s +0:00:0\d left", output)
    seen = as_seen(output)
    for line in (f"to be copied: {'/long/path' * 30} [CLS]", "WARNING: careful", "printed by a library"):
        assert seen.count(line) == 1, seen
    assert [line.split() for line in seen if re.fullmatch(r" +(epoch|\d) +(dev/score|0.5000)", line)] == [
        ["epoch", "dev/score"],
        ["1", "0.5000"],
        ["2", "0.5000"],
    ]
    assert not any("examples/s" in line for line in seen)  # the live line is gone at the end
    assert any("81.2500" in line for line in seen) and any("[accuracy]" in line for line in seen)
    assert "a Python warning" not in output
    kept = (tmp_path / "train.log").read_text()
    for text in ("INFO to be copied", "WARNING careful", "a Python warning", "INFO Scores", "0.5000", "81.2500"):
        assert text in kept
    assert "\x1b" not in kept
    assert (tmp_path / "train.log").stat().st_mode & 0o077 == 0


def test_plain_text_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(True, tmp_path / "train.log")
    with logs.progress(True, 1, 500) as progress:
        for step in range(1, 501):
            progress.step(step / 500, step, None if step == 1 else 0.25, None)
        progress.epoch_row({"epoch": 1, "dev/score": float("nan")})
        progress.epoch_row({"epoch": 2, "dev/score": 0.75})
    log.warning("careful")
    log.debug("not shown")
    logs.print_table("Scores", [{"split": "dev", "score": 81.25}, {"split": "test", "n": 3}])
    assert capsys.readouterr().out.splitlines() == [
        "epoch 0.00/1  step 1/500  ? left",
        "epoch 1.00/1  step 500/500  loss 0.2500  0:00:00 left",
        "     epoch   dev/score",
        "         1         nan",
        "         2      0.7500",
        "WARNING: careful",
        "Scores",
        "split  score    n",
        "dev    81.2500",
        "test            3",
    ]
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WARNING careful$", (tmp_path / "train.log").read_text(), re.M)


def test_plain_lines_come_at_a_moderate_pace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    logs.setup(True, None)
    with logs.progress(True, 3, 10_000) as progress:
        for step in range(5000, 5100):  # resumed at step 5000: time left is told by what this process did
            progress.step(1.5, step, 0.5, 100.0)
            now += 1.0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[1] == "epoch 1.50/3  step 5010/10000  loss 0.5000  100 examples/s  1:23:10 left"


def test_other_ranks_only_warn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")
    logs.setup(False, tmp_path / "train.log")
    with logs.progress(False, 1, 2) as progress:
        progress.step(0.5, 1, 0.5, 10.0)
        progress.epoch_row({"epoch": 1})
    log.info("not shown")
    logs.print_table("not shown", [{"a": 1}])
    warnings.warn("not shown", stacklevel=1)
    log.error("broken")
    assert capsys.readouterr() == ("", "rank 3: ERROR broken\n")
    assert list(tmp_path.iterdir()) == []


def test_set_up_again_and_closed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = logging.NullHandler()
    logs.logger.addHandler(mine)
    try:
        for name in ("one.log", "two.log"):
            logs.setup(True, tmp_path / name)
            log.info("for %s", name)
        assert capsys.readouterr().out == "for one.log\nfor two.log\n"
        assert "two" not in (tmp_path / "one.log").read_text()
        opened = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()]
        assert not any(name.endswith("one.log") for name in opened)
        logs.close()
        logs.close()
        assert logs.logger.handlers == [mine]
        assert logs.logger.propagate and logging.getLogger("py.warnings").propagate
        assert not any(isinstance(h, logging.FileHandler) for h in logging.getLogger("py.warnings").handlers)
    finally:
        logs.logger.removeHandler(mine)


def test_nothing_set_up_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.progress(True, 1, 1) as progress:
        progress.step(1.0, 1, 0.5, 10.0)
    logs.print_table("Scores", [])
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_libraries_are_quiet_and_the_users_wish_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
import os, sys, logging, warnings
from harness import logs
logs.quiet_libraries()
logs.quiet_libraries()
import deepspeed, transformers
from deepspeed.utils import logger
logger.warning("shown?")
logging.getLogger("transformers.some").warning("shown?")
print("environment", os.environ["TRANSFORMERS_VERBOSITY"], len(logger.filters))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRANSFORMERS_VERBOSITY": "critical"}
    environment.pop("DS_ACCELERATOR", None)  # deepspeed then warns that it had to guess
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("environment critical 1\n", "")

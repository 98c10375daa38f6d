"""A rank that stands still ends the run on all ranks, and what is only slow does not."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from freezes import SCENARIOS, SECONDS
from test_failures import ENVIRONMENT, HERE

from harness import watchdog
from harness.distributed import World
from harness.watchdog import Sign, Stuck, Watchdog, judge
from launch.train import EXIT_LOST

WELL = Sign(turn=5, phase="training", idle=1.0, limit=60.0, silence=60.0, begun=10)
LATE = replace(WELL, idle=61.0)


class TestJudge:
    def test_all_is_well(self) -> None:
        assert judge({0: WELL, 1: WELL}, {0: 0.0, 1: 59.0}, 60.0) is None
        assert judge({}, {}, 60.0) is None

    def test_one_that_falls_silent(self) -> None:
        assert judge({0: WELL, 1: WELL}, {0: 0.0, 1: 61.0}, 60.0) == Stuck((1,), "training", 61.0, answers=False)
        assert judge({0: WELL}, {0: 0.0, 1: 61.0}, 60.0) == Stuck((1,), "loading", 61.0, answers=False)

    def test_who_keeps_the_others_waiting(self) -> None:
        signs = {0: replace(LATE, begun=11), 1: LATE, 2: replace(LATE, begun=11)}
        assert judge(signs, {}, 60.0) == Stuck((1,), "training", 61.0, answers=True)

    def test_who_waits_for_one_that_may_take_longer(self) -> None:
        saving = replace(WELL, phase="saving", idle=300.0, limit=600.0)
        assert judge({0: saving, 1: replace(LATE, begun=11, idle=300.0)}, {}, 60.0) is None
        assert judge({0: replace(saving, idle=601.0), 1: replace(LATE, begun=11)}, {}, 60.0) == Stuck(
            (0,), "saving", 601.0, answers=True
        )

    def test_nobody_is_behind(self) -> None:
        assert judge({0: LATE, 1: WELL}, {}, 60.0) is None
        assert judge({0: LATE, 1: LATE}, {}, 60.0) == Stuck((0, 1), "training", 61.0, answers=True)


@contextmanager
def one(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.2, compiles: bool = False) -> Iterator[list[Stuck]]:
    """A watchdog of a single rank; what it finds."""
    monkeypatch.setattr(watchdog, "TURN_SECONDS", 0.02)
    found: list[Stuck] = []
    told = SimpleNamespace(keep_stack=lambda phase: None, end_stuck=found.append)
    with Watchdog(World(0, 1, 0, 1, torch.device("cpu")), seconds / 60, compiles=compiles, begun=lambda: 0, told=told):
        yield found


def work(seconds: float, every: float = 0.01) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        watchdog.beat()
        time.sleep(every)


class TestSingleRank:
    def test_that_advances(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with one(monkeypatch) as found, watchdog.phase("training"):
            work(1.0)
        assert found == []

    @pytest.mark.parametrize("phase", watchdog.WORKING)
    def test_that_stands_still(self, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
        with one(monkeypatch) as found, watchdog.phase(phase):
            work(0.2)
            time.sleep(1.0)
        assert [(stuck.ranks, stuck.phase, stuck.answers) for stuck in found] == [((0,), phase, True)]
        assert found[0].seconds < 0.6

    @pytest.mark.parametrize("phase", watchdog.PATIENCE)
    def test_phases_that_take_their_time(self, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
        with one(monkeypatch) as found, watchdog.phase("training"):
            work(0.2)
            with watchdog.phase(phase):
                time.sleep(0.6)
            work(0.2)
        assert found == []

    def test_patience_has_an_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(watchdog.PATIENCE, "saving", 0.5 / 60)
        with one(monkeypatch) as found, watchdog.phase("saving"):
            time.sleep(1.2)
        assert [stuck.phase for stuck in found] == ["saving"]

    def test_first_steps_and_compiling(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with one(monkeypatch) as found, watchdog.phase("training"):
            watchdog.beat()
            time.sleep(0.6)
        assert found == []
        with one(monkeypatch, compiles=True) as found, watchdog.phase("training"):
            work(0.2)
            time.sleep(0.6)
        assert found == []

    def test_ten_slow_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with one(monkeypatch) as found, watchdog.phase("training"):
            work(0.6, every=0.08)
            time.sleep(0.5)
            watchdog.beat()
        assert found == []

    def test_a_pause_that_ended_well(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is known afterwards that the disk, say, takes its time."""
        with one(monkeypatch) as found, watchdog.phase("training"):
            work(0.2)
            with watchdog.phase("saving"):
                time.sleep(0.8)
            work(0.2)
            time.sleep(0.5)
            work(0.1)
        assert found == []

    def test_never(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with one(monkeypatch, seconds=0.0) as found, watchdog.phase("evaluation"):
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("watchdog")]
        assert found == []

    def test_without_one_nothing_happens(self) -> None:
        watchdog.beat()
        with watchdog.phase("training"):
            watchdog.beat()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("freezes")
    done = subprocess.run([sys.executable, str(HERE / "freezes.py"), str(place)], env=ENVIRONMENT, timeout=500,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((place / "seen.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestTwoRanks:
    @pytest.mark.parametrize("name", SCENARIOS)
    def test_all_end(self, name: str, seen: dict[str, Any]) -> None:
        """A stopped process hears nothing else than SIGKILL."""
        assert seen[name]["statuses"] == [EXIT_LOST if name == "hang" else -9, EXIT_LOST]
        assert seen[name]["apart"] < 10

    @pytest.mark.parametrize("name", SCENARIOS)
    def test_one_line_names_rank_host_and_phase(self, name: str, seen: dict[str, Any]) -> None:
        lines = [line for line in seen[name]["screen"].splitlines() if line.startswith("error: ")]
        what = "has not advanced" if name == "hang" else "shows no sign of life"
        assert len(lines) == 1 and lines[0] == seen[name]["screen"].splitlines()[-1]
        assert lines[0].startswith(f"error: {seen[name]['who']}: {what}")
        assert f", in {'training' if name == 'hang' else name}; the same command goes on" in lines[0]
        assert float(lines[0].split(" for ")[1].split(" s")[0]) < 3 * SECONDS
        assert f"The run failed: {lines[0].removeprefix('error: ')}" in seen[name]["log"]

    @pytest.mark.parametrize("name", SCENARIOS)
    def test_log_has_what_the_others_did(self, name: str, seen: dict[str, Any]) -> None:
        _, _, stack = seen[name]["log"].partition(f"{seen[name]['other']}, in ")
        assert "most recent call last:" in stack and "launch/train.py" in stack

    def test_of_one_that_hangs_it_has_where(self, seen: dict[str, Any]) -> None:
        _, _, stack = seen["hang"]["log"].partition(f"{seen['hang']['who']}, in training")
        assert "freezes.py" in stack and "in hang" in stack

    def test_the_same_command_goes_on(self, seen: dict[str, Any]) -> None:
        assert seen["saving"]["again"] == [0, 0]

    def test_what_is_slow_or_suspended_as_a_whole_raises_no_alarm(self, seen: dict[str, Any]) -> None:
        assert seen["healthy"]["statuses"] == [0, 0]
        assert "error" not in seen["healthy"]["screen"]

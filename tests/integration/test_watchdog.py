"""A rank that stands still ends the run on all ranks, and what is only slow does not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from freezes import SCENARIOS, SECONDS
from test_failures import ENVIRONMENT, HERE

from harness import watchdog
from harness.distributed import World
from harness.errors import EXIT_LOST
from harness.watchdog import Heartbeat, Stuck, Watchdog, judge

WELL = Heartbeat(turn=5, phase="training", idle=1.0, limit=60.0, silence=60.0, collectives=10)
LATE = replace(WELL, idle=61.0)


class TestJudge:
    def test_all_is_well(self) -> None:
        assert judge({0: WELL, 1: WELL}, {0: 0.0, 1: 59.0}, 60.0) is None
        assert judge({}, {}, 60.0) is None

    def test_one_that_falls_silent(self) -> None:
        assert judge({0: WELL, 1: WELL}, {0: 0.0, 1: 61.0}, 60.0) == Stuck((1,), "training", 61.0, answers=False)
        assert judge({0: WELL}, {0: 0.0, 1: 61.0}, 60.0) == Stuck((1,), "loading", 61.0, answers=False)

    def test_who_keeps_the_others_waiting(self) -> None:
        heartbeats = {0: replace(LATE, collectives=11), 1: LATE, 2: replace(LATE, collectives=11)}
        assert judge(heartbeats, {}, 60.0) == Stuck((1,), "training", 61.0, answers=True)

    def test_who_waits_for_one_that_may_take_longer(self) -> None:
        saving = replace(WELL, phase="saving", idle=300.0, limit=600.0)
        assert judge({0: saving, 1: replace(LATE, collectives=11, idle=300.0)}, {}, 60.0) is None
        assert judge({0: replace(saving, idle=601.0), 1: replace(LATE, collectives=11)}, {}, 60.0) == Stuck(
            (0,), "saving", 601.0, answers=True
        )

    def test_nobody_is_behind(self) -> None:
        assert judge({0: LATE, 1: WELL}, {}, 60.0) is None
        assert judge({0: LATE, 1: LATE}, {}, 60.0) == Stuck((0, 1), "training", 61.0, answers=True)


class Life:
    """A single rank, second by second, without its threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.now = 0.0
        monkeypatch.setattr(watchdog, "monotonic", lambda: self.now)
        world = World(0, 1, 0, 1, torch.device("cpu"))
        options = {"minutes": 1.0, "compiles": False, **options}
        self.dog = Watchdog(world, end=lambda *_: None, **options)

    def stand_still(self, seconds: int) -> Stuck | None:
        for _ in range(seconds):
            self.now += 1
            if (found := self.dog.turn(1.0)) is not None:
                return found
        return None

    def work(self, steps: int, seconds: int = 1) -> Stuck | None:
        for _ in range(steps):
            if (found := self.stand_still(seconds)) is not None:
                return found
            self.dog.beat()
        return None


@pytest.fixture
def life(monkeypatch: pytest.MonkeyPatch) -> Life:
    return Life(monkeypatch)


class TestSingleRank:
    @pytest.mark.parametrize("phase", watchdog.WORKING)
    def test_that_stands_still(self, life: Life, phase: str) -> None:
        life.dog.enter(phase)
        assert life.work(1000) is None
        found = life.stand_still(100)
        assert found is not None and (found.ranks, found.phase, found.answers) == ((0,), phase, True)
        assert 60 < found.seconds < 63

    @pytest.mark.parametrize(("phase", "minutes"), watchdog.PATIENCE.items())
    def test_phases_that_take_their_time(self, life: Life, phase: str, minutes: float) -> None:
        life.dog.enter(phase)
        assert life.stand_still(int(60 * minutes) - 5) is None
        found = life.stand_still(10)
        assert found is not None and found.phase == phase

    def test_first_steps_and_compiling(self, life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
        life.dog.enter("training")
        life.dog.beat()
        assert life.stand_still(600) is None
        compiling = Life(monkeypatch, compiles=True)
        compiling.dog.enter("training")
        assert compiling.work(100) is None and compiling.stand_still(600) is None

    def test_ten_slow_steps(self, life: Life) -> None:
        life.dog.enter("training")
        assert life.work(20, seconds=30) is None
        assert life.stand_still(290) is None
        assert life.stand_still(20) is not None

    def test_a_pause_that_ended_well(self, life: Life) -> None:
        """It is known afterwards that the disk, say, takes its time."""
        life.dog.enter("training")
        life.work(10)
        life.dog.enter("saving")
        assert life.stand_still(200) is None
        life.dog.enter("training")
        life.work(10)
        assert life.stand_still(190) is None
        assert life.stand_still(20) is not None

    def test_how_long_is_a_setting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        life = Life(monkeypatch, minutes=5.0)
        life.dog.enter("evaluation")
        assert life.work(10) is None and life.stand_still(290) is None
        assert life.stand_still(20) is not None

    def test_never(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Life(monkeypatch, minutes=0.0).dog as dog:
            assert not dog._thread.is_alive()

    def test_calls_reach_the_one_that_watches(self, life: Life) -> None:
        with life.dog, watchdog.phase("training"):
            watchdog.beat()
            assert (life.dog.phase, life.dog.steps) == ("training", 1)
            with watchdog.phase("saving"):
                assert life.dog.phase == "saving"
            assert (life.dog.phase, life.dog.steps) == ("training", 1)  # it goes on where it was

    def test_without_one_nothing_happens(self) -> None:
        watchdog.beat()
        with watchdog.phase("training"):
            watchdog.beat()
        assert watchdog._current is None


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

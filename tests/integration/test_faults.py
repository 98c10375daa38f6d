"""The short version of `make faults`: a rank killed at each kind of moment, and the other faults."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import clean_environment

HERE = Path(__file__).resolve().parents[1]


def faults(*words: str) -> list[list[str]]:
    """The rows of the table; none of them may be other than as if nothing had happened."""
    path = os.pathsep.join([str(HERE.parent), str(HERE)])
    done = subprocess.run([sys.executable, str(HERE / "faults.py"), *words], capture_output=True, text=True,
                          env={**clean_environment(), "PYTHONPATH": path}, timeout=1100)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split() for line in done.stdout.splitlines() if line.endswith("yes")]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_run_ends_as_one_that_was_left_alone() -> None:
    """Two moments of three cases; `make faults` has thirty of each ZeRO stage and of one rank."""
    rows = faults("--only", "zero1", "zero3", "fp32", "--kill", "2", "--freeze", "0", "--damage", "0", "--change", "0")
    assert len(rows) == 6
    assert {row[3] for row in rows} >= {"saving", "training"}  # the others are over quickly, and may be missed


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_frozen_rank_a_damaged_checkpoint_and_another_input() -> None:
    rows = faults("--only", "zero2", "--kill", "0", "--freeze", "1", "--damage", "1", "--change", "1")
    assert [row[1] for row in rows] == ["freeze", "damage", "change"]

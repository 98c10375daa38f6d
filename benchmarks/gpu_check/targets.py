"""The targets on one H100 or H200, row by row: met, missed or not measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.gpu_check.report import CPU, NOT_MEASURED

Numbers = Callable[[str, str, str], float]  # (part, row, number's name) -> it; LookupError where there is none
RATE, PEAK = "examples_per_second", "device_mib"
HF = ("hf", "hf_bf16")  # Hugging Face Trainer in fp16 and bf16: we are held against the better of the two


def rate(at: Numbers, batch: int) -> float:
    """Ours, examples a second."""
    return at(f"peers_{batch}", "ours", RATE)


def times_hf(at: Numbers) -> float:
    """How many times as fast as Trainer's faster precision, at batch 32."""
    return rate(at, 32) / max(at("peers_32", name, RATE) for name in HF)


def share_of_memory(at: Numbers, batch: int) -> float:
    """Peak device memory as a share of Trainer's smaller one."""
    return at(f"peers_{batch}", "ours", PEAK) / min(at(f"peers_{batch}", name, PEAK) for name in HF)


TARGETS: tuple[tuple[str, Callable[[Numbers], float], Callable[[float], bool], str], ...] = (
    ("at least 5,000 examples/s at batch 32", lambda at: rate(at, 32), lambda x: x >= 5_000, "{:,.0f}"),
    ("at least 10,000 examples/s at batch 256", lambda at: rate(at, 256), lambda x: x >= 10_000, "{:,.0f}"),
    ("at least 4 x HF Trainer at batch 32", times_hf, lambda x: x >= 4, "{:.2f} x"),
    ("BLUE suite under 6 minutes", lambda at: at("suite", "all", "seconds") / 60, lambda x: x < 6, "{:.1f} min"),
    ("memory below HF Trainer's at batch 32", lambda at: share_of_memory(at, 32), lambda x: x < 1, "{:.2f} of it"),
    ("memory below HF Trainer's at batch 256", lambda at: share_of_memory(at, 256), lambda x: x < 1, "{:.2f} of it"),
)


def rows(found: Mapping[str, Mapping[str, Any] | None]) -> list[tuple[str, str, str, str]]:
    """(`target`, which, value, outcome) of every target, from the parts' files."""

    def at(part: str, row: str, number: str) -> float:
        content = found.get(part)
        if content is None or content["device"] == CPU or content["small"]:
            raise LookupError(part)
        return float(next(each["numbers"][number] for each in content["rows"] if each["name"] == row))

    made = []
    for name, compute, is_met, form in TARGETS:
        try:
            value = compute(at)
        except (LookupError, StopIteration):
            made.append(("target", name, "", NOT_MEASURED))
            continue
        made.append(("target", name, form.format(value), "met" if is_met(value) else "missed"))
    return made

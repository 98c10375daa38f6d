"""A trace of torch.profiler in numbers: what the device was given, and how long it had nothing to do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of what a device does
HOST = ("cuda_runtime", "cuda_driver")  # and of the calls by which the host asks for it
LAUNCH = re.compile(r"Launch")  # kernels one by one, and whole graphs
WAIT = re.compile(r"cuda(Stream|Device|Event)Synchronize")
LONGEST = 12  # kernels that are named
NAME = 80  # letters of a kernel's name


def summary(trace: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Of a Chrome trace over `steps` steps, each number a step: kernels, copies, launches, waits, busy_ms (at least
    one kernel or copy runs), longest: (kernel, ms, how often)."""
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    device = [event for event in events if event.get("cat") in DEVICE]
    host = [event["name"] for event in events if event.get("cat") in HOST]
    kernels = [event for event in device if event["cat"] == "kernel"]
    spans = sorted((float(event["ts"]), float(event["ts"]) + float(event["dur"])) for event in device)
    spent: Counter[str] = Counter()
    count = Counter(event["name"][:NAME] for event in kernels)
    for event in kernels:
        spent[event["name"][:NAME]] += event["dur"]
    return {
        "kernels": len(kernels) / steps,
        "copies": sum(event["cat"] == "gpu_memcpy" for event in device) / steps,
        "launches": sum(bool(LAUNCH.search(name)) for name in host) / steps,
        "waits": sum(bool(WAIT.search(name)) for name in host) / steps,
        "busy_ms": _covered(spans) / steps / 1000,
        "longest": [(name, us / steps / 1000, count[name] / steps) for name, us in spent.most_common(LONGEST)],
    }


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Length of what sorted spans cover together: kernels of several streams overlap."""
    covered, reached = 0.0, float("-inf")
    for begin, end in spans:
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered

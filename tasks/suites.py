"""Groups of tasks that are run together, by name."""

from __future__ import annotations

from collections.abc import Mapping

from tasks import TASKS
from tasks.names import unknown

__all__ = ["SUITES", "get"]


def _of(*families: str) -> tuple[str, ...]:
    return tuple(name for name, task in TASKS.items() if task.family in families)


SUITES: Mapping[str, tuple[str, ...]] = {
    "blue": tuple(TASKS),
    # Corpora that anybody may download; the others are clinical text under data use agreements.
    "blue-public": ("biosses", "bc5cdr_disease", "bc5cdr_chem", "ddi2013", "chemprot", "hoc"),
    "blue-similarity": _of("similarity"),
    "blue-ner": _of("tagging"),
    "blue-re": ("ddi2013", "chemprot", "i2b2_2010"),
    "blue-clinical": ("medsts", "clefe", "i2b2_2010", "mednli"),
}


def get(name: str) -> tuple[str, ...]:
    """The tasks of a suite. Raises UserError that names the nearest suite."""
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    return SUITES[name]

"""--class_weights: what an error on each class costs in training, as a file says or by the numbers of examples.

A run's settings hold the weights themselves, as JSON, in place of the file's name: the same weights are the same run,
wherever the file lies, and a run goes on by them when it is gone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import nearest
from harness.errors import Faults, UserError
from harness.files import read_settings
from harness.task import Encoded, Task

BALANCED = "balanced"
REMEDY = 'write a line `"label" = weight` for each label'
ABOVE = "give one of them a number above 0"


def is_file(value: str) -> bool:
    """Whether the setting names a file: it is neither `balanced` nor the weights themselves."""
    return value != BALANCED and not value.startswith("{")


def given(value: str, task: Task, flag: str = "--class_weights") -> str:
    """The setting for what the flag names: `balanced`, or the file's weights as JSON, by label.

    Raises UserError that lists what is wrong with the file, a line each.
    """
    if value == BALANCED:
        return value
    where, content, faults = f"{flag} {value}", _content(value, flag), Faults()
    for label in content.keys() - set(task.labels):
        faults.append(f"{where}: {label}: no label of {task.name}{nearest(label, task.labels)}; {REMEDY}")
    for label in task.labels:
        if label not in content:
            faults.append(f"{where}: label {label} is missing; {REMEDY}")
        elif not _is_weight(content[label]):
            faults.append(f"{where}: label {label}: {content[label]!r} is no weight; give a number of 0 or more")
    faults.refuse()
    if not any(content.values()):
        raise UserError(f"{where}: all weights are 0, so that nothing would be learned; {ABOVE}")
    return json.dumps({label: float(content[label]) for label in task.labels})


def _content(value: str, flag: str) -> Mapping[str, Any]:
    if not is_file(value):  # as it stands in the settings of a run
        try:
            found = json.loads(value)
        except ValueError:
            found = None
        if isinstance(found, dict):
            return found
    return read_settings(Path(value), flag, 'name a TOML file of lines `"label" = weight`, or `balanced`')


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e30 and math.isfinite(value)


def of(setting: str | None, task: Task, training: Encoded) -> tuple[float, ...] | None:
    """The weights of the setting, in the order of the logits; None without one.

    Balanced: n / (k x count) of each of the k classes that occur among n examples, in tagging among n scored words, as
    scikit-learn's compute_class_weight("balanced"); of several labels an example each one's negatives / positives, as
    torch's BCEWithLogitsLoss proposes for its pos_weight. A label that none has weighs 1, or that all have of several.

    Raises UserError where all labels that there are weigh 0.
    """
    if setting is None:
        return None
    counts, total = label_counts(task, training)
    if setting != BALANCED:
        content = json.loads(setting)
        weights = tuple(content[label] for label in task.labels)
        if not any(map(math.prod, zip(weights, counts, strict=True))):
            there = ", ".join(label for label, count in zip(task.labels, counts, strict=True) if count)
            what = "the labels of the training data weigh 0, so that nothing would be learned"
            raise UserError(f"--class_weights: {what}; {ABOVE}: {there}")
        return weights
    known = max(1, sum(count > 0 for count in counts))
    several = task.family == "multilabel"

    def balanced(count: int) -> float:
        if several:
            return (total - count) / count if 0 < count < total else 1.0
        return total / (known * count) if count else 1.0

    return tuple(map(balanced, counts))


def label_counts(task: Task, encoded: Encoded) -> tuple[list[int], int]:
    """(of how many rows of the logits each label is one, the number of rows)."""
    size, labels = len(task.labels), encoded.labels
    if encoded.positions is not None:
        labels = [label for example in labels for label in example]
    if task.family == "multilabel":
        return np.asarray(labels, np.int64).reshape(-1, size).sum(axis=0).tolist(), len(labels)
    return np.bincount(np.asarray(labels, np.int64), minlength=size).tolist(), len(labels)

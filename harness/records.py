"""The files of a run folder read back: whole and of the right types, or one line that says what is wrong with them.

A kill, a full disk or somebody's editor may have left anything there. Whoever reports on many runs must not fail by one
of them, so that all who read these files read them here. Names that this version does not know are left as they are in
result.json; in config.json they are a fault, since they would change what the run means.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from harness.config import MOST, RunConfig
from harness.errors import UserError
from harness.validation import faults

LARGEST = 64 * 2**20  # bytes of a file
LONGEST_LINE = 2**20  # bytes of a line, such as one of metrics.jsonl
Number = Annotated[int | float, Field(ge=-MOST, le=MOST)]
Count = Annotated[int, Field(ge=0, le=10**15)]
T = TypeVar("T")


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Numbers(_Part):
    """What is not named below is a number, too."""

    __pydantic_extra__: dict[str, Number | None] = Field(init=False)


class _Class(_Numbers):
    precision: Number
    recall: Number
    f1: Number
    support: Number


class _Scores(_Numbers):
    """Of one split."""

    score: Number
    metric: str
    loss: Number
    examples: Count
    TP: Count = 0
    FN: Count = 0
    per_class: dict[str, _Class] = {}
    warnings: list[str] = []


class _Timing(_Numbers):
    total_seconds: Number = 0.0
    train_seconds: Number = 0.0
    evaluation_seconds: Number = 0.0


class _Digests(_Part):
    data: dict[str, str] = {}
    definition: str = ""
    predictions: dict[str, str] = {}
    with_tokens: dict[str, str] = {}
    itself: str = ""


class _Result(_Part):
    task: str
    model: str
    seed: Count
    data: Literal["given", "sample"]
    scores: dict[str, _Scores]
    timing: _Timing = _Timing()
    world_size: Count = 1
    examples_per_step: Count | None = None
    selected: str | None = None
    best_epoch: Number | None = None
    dev_was_trained_on: bool = False
    precision: str = ""
    recipe: str | None = None
    empty_splits: list[str] = []
    cut: dict[str, Number] = {}
    versions: dict[str, Any] = {}
    commit: str | None = None
    metric_version: Count | None = None  # None, as the digests: of a version that recorded none
    digests: _Digests | None = None


@dataclass(frozen=True)
class Row:
    """A line of metrics.jsonl; values that were no finite numbers are None."""

    kind: Literal["step", "epoch"]
    step: Count
    values: dict[str, Number | None]
    epoch: Number | None = None


_CONFIG, _RESULT, _ROW = TypeAdapter(RunConfig), TypeAdapter(_Result), TypeAdapter(Row)


def read(path: Path, form: TypeAdapter[T]) -> T:
    """What a JSON file holds. Raises UserError of one line where it is not of that form, or cannot be read at all."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise UserError(f"{path}: is missing" if not os.path.lexists(path) else f"{path}: is not a file")
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > LARGEST:
        raise UserError(f"{path}: larger than any that a run writes ({LARGEST} bytes)")
    try:
        return form.validate_json(content, strict=True)
    except ValidationError as error:
        raise UserError(f"{path}: {faults(error)[0]}") from None


def config(path: Path) -> RunConfig:
    """The settings of a config.json. Raises UserError; a model's config.json has the same name."""
    return read(path, _CONFIG)


def result(path: Path) -> dict[str, Any]:
    """What a result.json holds: all that readers rely on is of the right type. Raises UserError."""
    return read(path, _RESULT).model_dump(exclude_unset=True)


def device_hours(result: Mapping[str, Any]) -> float | None:
    """Hours of training and evaluation times devices, a resumed run's earlier parts included; None where unknown."""
    timing = result.get("timing", {})
    parts = timing.get("train_seconds", 0.0) + timing.get("evaluation_seconds", 0.0)
    seconds = max(timing.get("total_seconds", 0.0), parts)
    return float(seconds * result.get("world_size", 1) / 3600) if seconds else None


def rows(path: Path, start: int = 0) -> Iterator[tuple[bytes, Row | None]]:
    """Each line of a metrics.jsonl from byte `start` on, and what it says. Raises UserError."""
    return lines(path, _ROW, start)


def lines(path: Path, form: TypeAdapter[T], start: int = 0) -> Iterator[tuple[bytes, T | None]]:
    """Each line of a file from byte `start` on, and what it says: None for one that is not of that form.

    A kill cuts the last line short. Line by line: a long run writes more than memory should hold. Raises UserError.
    """
    try:
        if not os.path.lexists(path):
            return
        if not path.is_file():
            raise UserError(f"{path}: is not a file")
        with open(path, "rb") as file:
            file.seek(start)
            while line := file.readline(LONGEST_LINE):
                try:
                    yield line, form.validate_json(line, strict=True)
                except ValidationError:
                    yield line, None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None

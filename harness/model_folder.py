"""What a fine-tuned `model/` says of itself in HEAD_FILE: enough to use it wherever it was copied to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.files import read_json

HEAD_FILE = "harness_head.json"  # beside the encoder's config.json
SCHEMA = 1
POOLINGS = ("pooler", "cls", "mean", None)  # None: a row of logits for each scored word
CHECKS: Mapping[str, Callable[[Any], bool]] = {  # of what the head is built of
    "pooling": lambda value: value in POOLINGS,
    "num_outputs": lambda value: type(value) is int and 0 < value < 100_000,
    "dropout": lambda value: type(value) in (int, float) and 0 <= value < 1,
    "standard_class": lambda value: value is None or isinstance(value, str),
}
AUTO_MAP_FILES = ("config.json", "tokenizer_config.json")  # name the Python files that come with a model


@dataclass(frozen=True)
class About:
    """The task that a model was fine-tuned for, and the settings that its answers depend on."""

    task: str
    own_task: Mapping[str, Any] | None  # the definition of a task that is none of the ten
    family: str
    labels: tuple[str, ...]  # in the order of the logits; () for a score
    max_seq_length: int
    precision: str  # that it was trained in
    data: str  # given | sample
    train_splits: tuple[str, ...]
    encoder: str  # without its path
    recipe: str | None
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """As in HEAD_FILE."""
        return dataclasses.asdict(self)


def locate(path: Path, flag: str = "") -> Path:
    """A model folder as it is; of a run folder its `model/`. Raises UserError for a run folder without one."""
    if (path / HEAD_FILE).is_file() or not path.is_dir():
        return path
    if (path / "model" / HEAD_FILE).is_file():
        return path / "model"
    if _is_run(path / "config.json"):
        where = f"{flag} {path}".strip()
        raise UserError(f"{where}: no fine-tuned model of a run (it has no model/ yet); let the run be trained first")
    return path


def _is_run(config: Path) -> bool:
    try:
        values = read_json(config)
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and {"task", "output_dir", "model_name_or_path"} <= values.keys()


def read_head(folder: Path) -> dict[str, Any]:
    """HEAD_FILE, with what the head is built of checked. Raises UserError where it is none."""
    path = folder / HEAD_FILE
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no fine-tuned model of a run (no such folder); name a run folder or its model/, "
                "or a model of the hub after `hf download NAME --local-dir FOLDER`"
            ) from None
        raise _refused(folder, f"{HEAD_FILE} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(folder, f"{HEAD_FILE} cannot be read: {first_line(error)}") from error
    if not isinstance(head, dict):
        raise _refused(folder, f"{HEAD_FILE} holds no JSON object")
    for name, is_right in CHECKS.items():
        if name not in head or not is_right(head[name]):
            what = f"its {name} is {str(head[name])[:40]!r}" if name in head else f"has no {name}"
            raise _refused(folder, f"{HEAD_FILE}: {what}")
    return head


def read(folder: Path) -> About | None:
    """None where a run of an older version wrote the folder: then the run around it knows. Raises UserError."""
    head = read_head(folder)
    if "task" not in head:
        return None
    kinds: dict[str, tuple[type, ...]] = {
        "task": (str,), "own_task": (dict, type(None)), "family": (str,), "labels": (list,), "max_seq_length": (int,),
        "precision": (str,), "data": (str,), "train_splits": (list,), "encoder": (str,), "recipe": (str, type(None)),
        "seed": (int,),
    }  # fmt: skip
    for name, allowed in kinds.items():
        if name not in head or type(head[name]) not in allowed:
            raise _refused(folder, f"{HEAD_FILE}: {name} is missing or of another kind")
    for name in ("labels", "train_splits"):
        head[name] = tuple(map(str, head[name]))
    if not 8 <= head["max_seq_length"] <= 1_000_000:
        raise _refused(folder, f"{HEAD_FILE}: its max_seq_length is {head['max_seq_length']}")
    return About(**{name: head[name] for name in kinds})


def refuse_code(folder: Path) -> None:
    """Raises UserError where a model comes with Python code of its own, which nobody has asked to be run."""
    for name in AUTO_MAP_FILES:
        try:
            values = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue  # whoever needs the file says what is wrong with it
        if isinstance(values, dict) and values.get("auto_map"):
            raise UserError(
                f"{folder}/{name}: the model comes with code of its own (auto_map), which was not run; "
                "where you trust it, --trust_remote_code"
            )


def first_line(error: BaseException) -> str:
    """What a library's exception says, in one line."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".:")[:200] if text else type(error).__name__


def _refused(folder: Path, what: str) -> UserError:
    return UserError(
        f"{folder}: no fine-tuned model of a run ({what}); name a run folder, its model/ or a download of one, "
        "or train one with --do_train"
    )

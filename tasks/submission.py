"""Predictions in BLURB's form of submission, and back: JSON of dataset_name, model_name and predictions, id -> answer.

An answer is a label, a number, a list of labels (HoC) or of tags, one a word. An id is the example's index; of tagged
sentences, which have none, the number in the file, from 0; of HoC <document>_<n>. The public page asks for one JSON
file a task that matches its schema; the schemas themselves could not be had. Names of fields, of data sets, of tags and
of HoC's labels are those of a public program that checks predictions against copies of them and evaluates them.
"""

from __future__ import annotations

import json
import math
import tomllib
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from harness.task import Example, Prediction, Task, UserError
from tasks.predictions import Answers
from tasks.readers import Row, TableTask, shown


@dataclass(frozen=True)
class Dataset:
    """One of BLURB's."""

    dataset: str  # its name there
    labels: Mapping[str, str] = field(default_factory=dict)  # ours -> there; else the same
    words: bool = False


DATASETS = TypeAdapter(dict[str, Dataset]).validate_python(
    tomllib.loads((Path(__file__).parent / "submission.toml").read_text(encoding="utf-8"))
)
SUFFIXES = (".json", ".zip")
KEYS = {"dataset_name", "model_name", "predictions"}
LARGEST = 256 * 2**20  # bytes of a file; all of JNLPBA's tags are 2 MB


def content(task: Task, answers: Answers, model: str) -> str:
    """The file of one task. Raises UserError where two examples have one id, or a prediction is no finite number."""
    form, found = DATASETS[task.name], {}
    examples, predictions = answers.examples, answers.predictions
    for number, (example, prediction) in enumerate(zip(examples, predictions, strict=True)):
        name = _id(task, example, number)
        if name in found:
            wrong = f"index {shown(example.id)} is there twice"
            raise UserError(f"{answers.path}: {wrong}; BLURB's form has one answer to each: give each its own index")
        if isinstance(prediction.value, float) and not math.isfinite(prediction.value):
            wrong = f"predicts {prediction.value} for {shown(example.id)}"
            raise UserError(f"{answers.path}: {wrong}; JSON has no such number: take a run that did not diverge")
        found[name] = _answer(task, form, prediction)
    values = {"dataset_name": form.dataset, "model_name": model, "predictions": found}
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def read(task: Task, path: Path) -> Answers:
    """A file of that form, or the task's of a zip of them; without gold labels. Raises UserError."""
    if task.name not in DATASETS:
        raise UserError(f"--predictions {path}: BLURB has no data set {task.name}; name one of {', '.join(DATASETS)}")
    form = DATASETS[task.name]
    found = [one for one in _read(path) if one["dataset_name"] == form.dataset]
    if len(found) != 1:
        remedy = f'give a file with "dataset_name": "{form.dataset}", or another --task'
        raise UserError(f"--predictions {path}: {len(found) or 'no'} files of {form.dataset} in it; {remedy}")
    examples, predictions = [], []
    given = found[0]["predictions"].items()
    if task.family == "tagging":
        given = sorted(given, key=lambda one: (len(one[0]), one[0]))  # as numbers
    for number, (name, answer) in enumerate(given):
        try:
            value = _value(task, form, answer)
        except (TypeError, ValueError, KeyError, OverflowError):
            what = shown(answer) if isinstance(answer, str) else type(answer).__name__
            raise UserError(f"{path}: {what} is no answer to {shown(name)}; {_expected(task, form)}") from None
        if task.family == "tagging":
            if name != str(number):
                raise UserError(f"{path}: no sentence {number}; number them from 0, with an answer to each")
            examples.append(Example(f"sentence-{number}", ("",) * len(value), value))
        else:
            index = _index(task, name)
            group = task.group_of(Row(path, 1, (index,))) if isinstance(task, TableTask) else ""
            examples.append(Example(index, (), value, group))
        predictions.append(Prediction(value))
    if not examples:
        raise UserError(f"{path}: no predictions in it; give one for each example")
    return Answers(path, examples, predictions, [1] * len(examples), has_gold=False, has_words=False)


def _read(path: Path) -> list[dict[str, Any]]:
    """What the files hold. Raises UserError for anything else than such files; a README beside them is skipped."""
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                members = [one for one in archive.infolist() if one.filename.endswith(".json")]
                if sum(one.file_size for one in members) > LARGEST:
                    raise UserError(f"--predictions {path}: larger than any predictions are; give the zip of --blurb")
                texts = [archive.read(one) for one in members]
        else:
            texts = [path.read_bytes()]
        found = [json.loads(text, object_pairs_hook=partial(_once, path)) for text in texts]
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"not JSON, or a broken zip ({type(error).__name__})"
        raise UserError(f"--predictions {path}: cannot be read ({reason}); give what --blurb wrote") from None
    for one in found:
        if not isinstance(one, dict) or one.keys() != KEYS or not isinstance(one["predictions"], dict):
            raise UserError(
                f"--predictions {path}: not an object of {', '.join(sorted(KEYS))}; give what --blurb wrote"
            )
    return found


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a file. Raises UserError for a name that is there twice: of two answers none is meant."""
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise UserError(f"--predictions {path}: {shown(twice[0])} is there twice; give one answer to each example")
    return dict(pairs)


def _id(task: Task, example: Example, number: int) -> str:
    match task.family:
        case "tagging":
            return str(number)
        case "multilabel":
            return "_".join(example.id.rsplit("_s", 1))
        case _:
            return example.id


def _index(task: Task, name: str) -> str:
    return "_s".join(name.rsplit("_", 1)) if task.family == "multilabel" else name


def _answer(task: Task, form: Dataset, prediction: Prediction) -> Any:
    value = prediction.value
    match task.family:
        case "tagging":
            return [f"I-{tag[2:]}" if form.words and tag != "O" else tag for tag in value]
        case "multilabel":
            chosen = [label for label, is_there in zip(task.labels, value, strict=True) if is_there]
            return [form.labels.get(label, label) for label in chosen]
        case "multiclass":
            return form.labels.get(value, value)
        case _:
            return value


def _value(task: Task, form: Dataset, answer: Any) -> Any:
    """The prediction that an answer is. Raises TypeError, ValueError or KeyError for one that is none."""
    ours = {form.labels.get(label, label): label for label in task.labels}
    match task.family:
        case "tagging":
            tags = _list(answer)
            if form.words:  # of words of one type that follow each other, the first begins a mention
                pairs = zip(["O", *tags], tags, strict=False)
                tags = [tag if tag in ("O", before) else f"B-{tag[2:]}" for before, tag in pairs]
            return tuple(ours[tag] for tag in tags)
        case "multilabel":
            chosen = {ours[label] for label in _list(answer)}
            return tuple(int(label in chosen) for label in task.labels)
        case "multiclass":
            return ours[answer]
        case _:
            if isinstance(answer, bool) or not isinstance(answer, int | float) or not math.isfinite(answer):
                raise TypeError
            return float(answer)


def _list(answer: Any) -> list[str]:
    if not isinstance(answer, list):
        raise TypeError
    return answer


def _expected(task: Task, form: Dataset) -> str:
    """What an answer is, for messages."""
    labels = [label for label in task.labels if not (form.words and label.startswith("B-"))]
    names = ", ".join(form.labels.get(label, label) for label in labels)
    return {
        "tagging": f"give a list of tags, one a word ({names})",
        "multilabel": f"give a list of {names}",
        "multiclass": f"give one of {names}",
    }.get(task.family, "give a number")

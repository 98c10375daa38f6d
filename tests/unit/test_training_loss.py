"""What the training loss has and the reported one has not: label smoothing and class weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from running import assert_user_error
from sklearn.utils.class_weight import compute_class_weight

import tasks
from harness.config import RunConfig
from harness.errors import UserError
from harness.rows import IGNORED
from harness.task import Encoded, Task
from launch.run import class_weights, settings

CLASSES = ("mednli", "bc5cdr_disease", "hoc")  # a family each
FACTORS = [(0.0, False), (0.1, False), (0.0, True), (0.3, True)]


def changed(name: str, smoothing: float, weighted: bool) -> Task:
    task = tasks.get(name)
    weights = tuple(0.5 + 0.25 * number for number in range(len(task.labels))) if weighted else None
    return dataclasses.replace(task, label_smoothing=smoothing, class_weights=weights)


def some(task: Task, rows: int = 17) -> tuple[torch.Tensor, torch.Tensor]:
    generator, size = torch.Generator().manual_seed(3), len(task.labels)
    logits = 4 * torch.randn(rows, size, generator=generator)
    if task.family == "multilabel":
        return logits, torch.randint(2, (rows, size), generator=generator).float()
    return logits, torch.randint(size, (rows,), generator=generator)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(("smoothing", "weighted"), FACTORS)
def test_the_formula(name: str, smoothing: float, weighted: bool) -> None:
    task = changed(name, smoothing, weighted)
    logits, labels = some(task)
    x, size = logits.double().numpy(), len(task.labels)
    w = np.array(task.class_weights or [1.0] * size)
    if task.family == "multilabel":
        y = labels.double().numpy() * (1 - smoothing) + smoothing / 2
        expected = (w * y * np.log1p(np.exp(-x)) + (1 - y) * np.log1p(np.exp(x))).mean(axis=1).sum()
    else:
        minus_log = np.log(np.exp(x).sum(axis=1, keepdims=True)) - x
        y = (1 - smoothing) * np.eye(size)[labels.numpy()] + smoothing / size
        expected = (y * w * minus_log).sum()
    assert task.training_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    parts = [task.training_loss(logits[n : n + 1], labels[n : n + 1]).item() for n in range(len(logits))]
    assert sum(parts) == pytest.approx(expected, rel=1e-5)  # however ranks and passes cut it
    assert torch.equal(task.loss(logits, labels), tasks.get(name).loss(logits, labels))


@pytest.mark.parametrize("name", [*CLASSES, "medsts"])
def test_without_them_it_is_the_loss(name: str) -> None:
    task = tasks.get(name)
    logits, labels = some(task) if task.labels else (torch.tensor([[1.0], [4.0]]), torch.tensor([2.0, 2.5]))
    assert torch.equal(task.training_loss(logits, labels), task.loss(logits, labels))


@pytest.mark.parametrize(("smoothing", "weighted"), FACTORS)
def test_words_that_only_fill_up_rows_count_for_nothing(smoothing: float, weighted: bool) -> None:
    task = changed("bc5cdr_disease", smoothing, weighted)
    logits, labels = some(task)
    more = torch.nn.functional.pad(labels, (0, 5), value=IGNORED)
    filled = task.training_loss(torch.cat([logits, torch.full((5, 3), 9.0)]), more)
    assert filled.item() == pytest.approx(task.training_loss(logits, labels).item(), rel=1e-6)


# ---- class weights
def encoded(labels: list[list[int]] | list[int] | list[list[float]], per_word: bool = False) -> Encoded:
    ids = [[1]] * len(labels)
    return Encoded(ids, None, labels, [list(range(len(own))) for own in labels] if per_word else None)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60))
def test_balanced_is_scikit_learns(labels: list[int]) -> None:
    found = class_weights.of("balanced", tasks.get("mednli"), encoded(labels))
    present = np.unique(labels)
    expected = dict(zip(present, compute_class_weight("balanced", classes=present, y=labels), strict=True))
    assert found == pytest.approx([expected.get(number, 1.0) for number in range(3)])
    sentences = [labels[:2], labels[2:]]
    assert class_weights.of("balanced", tasks.get("bc5cdr_disease"), encoded(sentences, per_word=True)) == found


def test_balanced_of_several_labels() -> None:
    task = tasks.get("hoc")
    rows = np.zeros((8, len(task.labels)))
    rows[:2, 0], rows[:4, 1], rows[:, 2] = 1, 1, 1
    found = class_weights.of("balanced", task, encoded(rows.tolist()))
    assert found == (3.0, 1.0, 1.0, *[1.0] * (len(task.labels) - 3))  # 6 / 2, 4 / 4; all have it; none has it


def parsed(*words: str) -> RunConfig:
    return settings.parse(["--task", "mednli", "--model_name_or_path", "tiny", *words])[0]


def test_a_file_counts_by_its_content(tmp_path: Path) -> None:
    line = "contradiction = 1\nentailment = 2.5\nneutral = 0\n"
    (tmp_path / "a.toml").write_text(line)
    (tmp_path / "b.toml").write_text("\n".join(reversed(line.split("\n"))) + "# the same\n")
    one, other = (parsed("--class_weights", str(tmp_path / name)) for name in ("a.toml", "b.toml"))
    assert one.identity() == other.identity() != parsed().identity()
    assert class_weights.of(one.class_weights, tasks.get("mednli"), encoded([0])) == (1.0, 2.5, 0.0)
    again = parsed("--class_weights", str(one.class_weights))  # as the report's command has it
    assert again == dataclasses.replace(one, class_weights_file=None)
    assert parsed("--class_weights", "balanced").class_weights == "balanced"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("contradiction = 1\nentailment = 2\n", "label neutral is missing"),
        ("contradiction = 1\nentailment = 2\nneutral = 1\nneutrl = 1\n", "neutrl: no label of mednli; did you mean"),
        ('contradiction = "x"\nentailment = 2\nneutral = 1\n', "label contradiction: 'x' is no weight"),
        ("contradiction = true\nentailment = 2\nneutral = 1\n", "label contradiction: True is no weight"),
        ("contradiction = -1\nentailment = 2\nneutral = 1\n", "label contradiction: -1 is no weight"),
        ("contradiction = inf\nentailment = 2\nneutral = 1\n", "label contradiction: inf is no weight"),
        ("contradiction = 0\nentailment = 0.0\nneutral = 0\n", "all weights are 0"),
        ("contradiction = 1\nentailment =\n", "not TOML"),
    ],
)  # fmt: skip
def test_a_faulty_file(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text(text)
    assert_user_error(lambda: parsed("--class_weights", str(path)), f"--class_weights {path}", said)


def test_labels_of_the_training_data_that_all_weigh_nothing() -> None:
    setting, task = '{"contradiction": 0, "entailment": 0, "neutral": 1}', tasks.get("mednli")
    assert class_weights.of(setting, task, encoded([0, 2])) == (0, 0, 1)
    said = "--class_weights: the labels of the training data weigh 0", "above 0: contradiction, entailment"
    assert_user_error(lambda: class_weights.of(setting, task, encoded([0, 1, 0])), *said)


def test_no_such_file(tmp_path: Path) -> None:
    assert_user_error(lambda: parsed("--class_weights", str(tmp_path / "w.toml")), "w.toml: cannot be read")
    assert_user_error(lambda: parsed("--class_weights", "ballanced"), "--class_weights ballanced", "`balanced`")


def test_weights_of_a_run_stand_for_the_file_that_it_began_with_alone(tmp_path: Path) -> None:
    path, line = tmp_path / "w.toml", ("--output_dir", str(tmp_path / "run"), "--class_weights")
    path.write_text("contradiction = 1\nentailment = 2.5\nneutral = 0\n")
    before = parsed(*line, str(path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(before.to_dict()))
    path.unlink()
    assert parsed(*line, str(path)) == before
    typo = str(tmp_path / "typo.toml")
    assert_user_error(lambda: parsed(*line, typo), "typo.toml: cannot be read")
    assert_user_error(lambda: parsed(*line, typo, "--overwrite_output_dir"), "typo.toml: cannot be read")
    assert_user_error(lambda: parsed(*line, '{"neutral": 1, "entailment": 1}'), "label contradiction is missing")
    with pytest.raises(UserError, match="label contradiction is missing"):
        parsed(*line, "{}")


@pytest.mark.parametrize("words", [("--label_smoothing", "0.1"), ("--class_weights", "balanced")])
def test_a_score_has_no_classes(words: tuple[str, str]) -> None:
    assert_user_error(lambda: parsed("--task", "medsts", *words), " ".join(words), "no classes")

"""Test predictions in BLURB's form of submission: what is written, and that the same scores come back."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import made_up
from running import cut

import tasks
from harness.task import Example, Prediction, UserError
from launch import report, score
from tasks import submission
from tasks.predictions import HEADER, Answers

TASKS = tasks.SUITES["blurb"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each task on given data: runs/<task>, data/<task>."""
    folder = tmp_path_factory.mktemp("blurb")
    for task in TASKS:
        cut(task, folder / "data" / task, 40)
        made_up(folder / "runs" / task, task, "/home/me/encoder-a", data_dir=str(folder / "data"))
    return folder


@pytest.fixture(scope="module")
def exported(root: Path) -> Path:
    assert report.main([str(root / "runs"), "--blurb", str(root / "out.zip")]) == 0
    return root / "out.zip"


def contents(path: Path) -> dict[str, dict[str, Any]]:
    """Data set -> what its file holds."""
    with zipfile.ZipFile(path) as archive:
        found = [json.loads(archive.read(name)) for name in archive.namelist() if name.endswith(".json")]
    return {one["dataset_name"]: one for one in found}


def test_every_data_set_has_a_file_and_the_readme_says_what_was_not_checked(exported: Path) -> None:
    found = contents(exported)
    assert list(found) == [submission.DATASETS[task].dataset for task in submission.DATASETS]
    assert submission.DATASETS.keys() == set(TASKS)
    assert all(one.keys() == submission.KEYS and one["model_name"] == "encoder-a" for one in found.values())
    assert all(name.isdecimal() for name in found["JNLPBA"]["predictions"])
    assert {tag for tags in found["JNLPBA"]["predictions"].values() for tag in tags} <= {"B", "I", "O"}
    tags = {tag for answer in found["EBM PICO"]["predictions"].values() for tag in answer}
    assert tags == {"O", "I-PAR", "I-INT", "I-OUT"}
    assert set(found["GAD"]["predictions"].values()) <= {"0", "1"}
    assert all(isinstance(value, float) for value in found["BIOSSES"]["predictions"].values())
    names = {label for labels in found["HoC"]["predictions"].values() for label in labels}
    assert names <= {"GS", "TPI", "RI", "CE", "CD", "IM", "GI", "A", "PS", "ID"} and names
    with zipfile.ZipFile(exported) as archive:
        text = archive.read("README.txt").decode()
    assert "Not checked" in text and "HoC: micro F1 " in text
    assert "/home/me" not in text and str(exported.parent) not in text


def test_labels_of_hoc_are_the_hallmarks_of_these_names() -> None:
    task = tasks.get("blurb_hoc")
    named = {
        submission.DATASETS[task.name].labels[label]: title
        for label, title in zip(task.labels, task.label_titles, strict=True)
    }
    assert {name: title.split()[0] for name, title in named.items()} == {
        "GS": "evading", "TPI": "tumor", "RI": "enabling", "CE": "cellular", "CD": "resisting", "IM": "activating",
        "GI": "genomic", "A": "inducing", "PS": "sustaining", "ID": "avoiding",
    }  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_the_same_score_comes_back(
    root: Path, exported: Path, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the zip, and from its file alone, whatever the order of the answers is."""
    wanted = json.loads((root / "runs" / task / "result.json").read_text())["scores"]["test"]["score"]
    one = contents(exported)[submission.DATASETS[task].dataset]
    one["predictions"] = dict(reversed(one["predictions"].items()))
    (tmp_path / "one.json").write_text(json.dumps(one))
    for path in (exported, tmp_path / "one.json"):
        command = ["--task", task, "--predictions", str(path), "--data_dir", str(root / "data" / task)]
        assert score.main(command) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["score"] == pytest.approx(wanted, abs=1e-12)
        assert 0 < found["score"] < 1  # else anything would agree


ANSWERS = {
    "jnlpba": st.lists(st.sampled_from(("B", "I", "O")), min_size=1, max_size=6).map(tuple),
    "blurb_hoc": st.lists(st.integers(0, 1), min_size=10, max_size=10).map(tuple),
    "blurb_ddi": st.sampled_from(tasks.get("blurb_ddi").labels),
    "blurb_biosses": st.floats(allow_nan=False, allow_infinity=False),
}


@pytest.mark.parametrize("name", ANSWERS)
@given(data=st.data())
def test_any_answers_come_back(name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    task, values = tasks.get(name), data.draw(st.lists(ANSWERS[name], min_size=1, max_size=12))
    examples = [Example(f"{number}_s0", ("",), value, str(number)) for number, value in enumerate(values)]
    path = tmp_path_factory.getbasetemp() / f"{name}.json"
    answers = Answers(path, examples, [Prediction(value) for value in values], [1] * len(values))
    path.write_text(submission.content(task, answers, "m"))
    found = submission.read(task, path)
    assert [one.value for one in found.predictions] == values and not found.has_gold
    assert name == "jnlpba" or [one.id for one in found.examples] == [one.id for one in examples]


def complaint(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert report.main([str(word) for word in words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def test_runs_that_do_not_belong_together(
    root: Path, tmp_path: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, runs = tmp_path / "out.zip", root / "runs"
    other = made_up(tmp_path / "other", "gad", "encoder-b", data_dir=str(root / "data"))
    assert "are of two encoders" in complaint(capsys, other, runs / "bioasq", "--blurb", out)
    again = made_up(tmp_path / "again", "gad", "/home/me/encoder-a", seed=13, data_dir=str(root / "data"))
    assert "are both of gad; name the folder of one run" in complaint(capsys, again, runs / "gad", "--blurb", out)
    sample = made_up(tmp_path / "sample", "gad", data_dir=None)
    assert "made-up sample data" in complaint(capsys, sample, "--blurb", out)
    blue = made_up(tmp_path / "blue", "hoc")
    assert "no finished run of blurb_bc5_chem" in complaint(capsys, blue, "--blurb", out)
    assert "is there already" in complaint(capsys, runs, "--blurb", exported)
    spoilt = made_up(tmp_path / "spoilt", "gad", data_dir=str(root / "data"))
    path = spoilt / "predictions" / "test.tsv"
    path.write_text("\t".join(HEADER) + "\n" + path.read_text().split("\n", 1)[1].replace("\t1\n", "\t0\n"))
    assert "report.py verify lists" in complaint(capsys, spoilt, "--blurb", out)
    assert not out.exists()


def test_a_part_of_the_tasks(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the page allows; what is missing is said."""
    assert report.main([str(root / "runs" / "gad"), "--blurb", str(tmp_path / "out.zip")]) == 0
    assert list(contents(tmp_path / "out.zip")) == ["GAD"]
    assert "without a run: BC5-chem, " in capsys.readouterr().out


def test_a_run_that_diverged(tmp_path: Path) -> None:
    answers = Answers(tmp_path, [Example("1", ("",), 2.0)], [Prediction(float("nan"))], [1])
    with pytest.raises(UserError, match="predicts nan for '1'; JSON has no such number"):
        submission.content(tasks.get("blurb_biosses"), answers, "m")


def changed(**values: object) -> Callable[[dict[str, Any]], None]:
    return lambda one: one.update(values)


def answered(value: object) -> Callable[[dict[str, Any]], None]:
    return lambda one: one["predictions"].update({next(iter(one["predictions"])): value})


FAULTS: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    ("gad", changed(dataset_name="DDI"), 'no files of GAD in it; give a file with "dataset_name": "GAD"'),
    ("gad", changed(more=1), "not an object of dataset_name, model_name, predictions"),
    ("gad", changed(predictions=[]), "not an object of"),
    ("gad", changed(predictions={}), "no predictions in it"),
    ("gad", answered(1), "int is no answer to '"),
    ("gad", answered("yes"), "'yes' is no answer to '"),
    ("gad", lambda one: one["predictions"].popitem(), "no row for index"),
    ("blurb_biosses", answered("4"), "'4' is no answer to '"),
    ("blurb_biosses", answered(True), "bool is no answer to '"),
    ("blurb_biosses", answered(10**400), "int is no answer to '"),
    ("blurb_biosses", answered(float("nan")), "float is no answer to '"),
    ("blurb_hoc", answered(["GS", "none"]), "list is no answer to '"),
    ("blurb_hoc", answered("GS"), "'GS' is no answer to '"),
    ("ebm_pico", answered(["I-PIC"]), "list is no answer to '0'; give a list of tags, one a word (I-PAR, I-INT, I-"),
    ("jnlpba", answered(["B-protein"]), "list is no answer to '0'; give a list of tags, one a word (B, I, O)"),
    ("jnlpba", answered(["O"]), "a sentence of 1 words, gold has "),
    ("jnlpba", lambda one: one["predictions"].update({"9" * 5000: ["O"]}), "no sentence "),
    ("jnlpba", lambda one: one["predictions"].pop("3"), "no sentence 3; number them from 0"),
]


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_faults(root: Path, exported: Path, tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    task, spoil, part = FAULTS[number]
    one = contents(exported)[submission.DATASETS[task].dataset]
    spoil(one)
    (tmp_path / "one.json").write_text(json.dumps(one))
    command = ["--task", task, "--predictions", str(tmp_path / "one.json"), "--data_dir", str(root / "data" / task)]
    assert score.main(command) == 2
    message = capsys.readouterr().err
    assert part in message and message.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.json", b"[1]", "not an object of"),
        ("a.json", b"{", "cannot be read (not JSON, or a broken zip"),
        ("a.zip", b"PK", "cannot be read (not JSON, or a broken zip"),
        ("a.json", b"[" * 100_000, "cannot be read (not JSON, or a broken zip"),
        ("a.json", None, "cannot be read (No such file"),
        ("a.json", b'{"dataset_name": "GAD", "predictions": {"0": "0", "0": "1"}}', "'0' is there twice; give one"),
    ],
)
def test_no_such_file(
    tmp_path: Path, name: str, content: bytes | None, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert score.main(["--task", "gad", "--predictions", str(tmp_path / name)]) == 2
    assert part in capsys.readouterr().err


def test_other_tasks_and_scores_without_gold(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score.main(["--task", "hoc", "--predictions", str(exported)]) == 2
    assert "BLURB has no data set hoc; name one of" in capsys.readouterr().err
    assert score.main(["--task", "gad", "--predictions", str(exported)]) == 2
    assert "has no gold column; name the task's folder by --data_dir" in capsys.readouterr().err

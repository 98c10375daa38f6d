"""`launch/prepare.py check`, and what training asks of it before a model is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import tasks
from harness.task import Example
from launch import prepare
from tasks.corpora.checks import Survey, quick

SECRET = "Mrs Smith was admitted with chest pain"  # stands for clinical text: must not reach a report
HEADER = "index\tsentence1\tsentence2\tscore\n"


def pairs(split: str, count: int) -> list[Example]:
    return [Example(f"{split}{n}", (f"{SECRET} {split} {n}", "She rests"), float(n % 5)) for n in range(count)]


def published_biosses() -> dict[str, list[Example]]:
    return {"train": pairs("train", 64), "dev": pairs("dev", 16), "test": pairs("test", 20)}


def biosses_folder(folder: Path, splits: dict[str, list[Example]]) -> Path:
    folder.mkdir()
    for split, examples in splits.items():
        rows = [f"{example.id}\t{example.texts[0]}\t{example.texts[1]}\t{example.label}\n" for example in examples]
        (folder / f"{split}.tsv").write_text(HEADER + "".join(rows))
    return folder


class TestQuick:
    def test_says_nothing_of_the_published_sizes(self) -> None:
        assert quick(tasks.get("biosses"), published_biosses()) == []

    def test_says_nothing_of_splits_that_were_not_read(self) -> None:
        assert quick(tasks.get("biosses"), {"test": pairs("test", 20)}) == []

    def test_other_sizes(self) -> None:
        splits = published_biosses() | {"train": pairs("train", 40)}
        assert quick(tasks.get("biosses"), splits) == ["rows: train 40 (published 64)"]

    def test_another_split_of_the_same_documents_is_fine(self) -> None:
        splits = {"train": pairs("train", 60), "dev": pairs("dev", 20), "test": pairs("test", 20)}
        assert quick(tasks.get("biosses"), splits) == []

    def test_empty_split(self) -> None:
        assert "dev: no examples" in quick(tasks.get("biosses"), published_biosses() | {"dev": []})

    def test_test_rows_that_are_trained_on(self) -> None:
        splits = published_biosses()
        splits["test"][3:] = splits["train"][:17]
        (warning,) = quick(tasks.get("biosses"), splits)
        assert warning.startswith("test: 17 rows (85.0%) have a text of train, e.g. train0, train1")
        assert "Smith" not in warning

    def test_a_label_that_train_lacks(self) -> None:
        examples = [Example(str(n), (f"a {n}", "b"), "neutral" if n % 2 else "entailment") for n in range(11232)]
        assert quick(tasks.get("mednli"), {"train": examples}) == ["train: no example of contradiction"]

    def test_headings_that_come_again_are_no_leak(self) -> None:
        splits = {split: [Example(f"{split}-0", ("RESULTS", ":"), ("O", "O"), "g")] * 50 for split in ("train", "test")}
        assert not [line for line in quick(tasks.get("clefe"), splits) if "text of" in line]


def findings(task: str, texts: list[tuple[str, str]]) -> list[str]:
    survey = Survey(tasks.get(task))
    survey.add("train", [Example(f"r{n}", (text,), label) for n, (text, label) in enumerate(texts)])
    return [finding.text for finding in survey.findings()]


class TestSurvey:
    def test_a_text_with_two_labels(self) -> None:
        found = findings("chemprot", [("@GENE$ x @CHEMICAL$", "CPR:3"), ("@GENE$ x @CHEMICAL$", "false")])
        assert "train: 1 rows have a text that another label has too, e.g. r1" in found

    def test_rows_without_marks_and_with_one_for_both(self) -> None:
        found = findings("ddi2013", [("@DRUG$ only", "DDI-false"), ("@DRUG-BRAND$ too", "DDI-int")])
        assert "train: 1 rows without two marked mentions, e.g. r0" in found
        assert "train: 1 rows of two mentions that overlap" in found

    def test_odd_characters(self) -> None:
        texts = ("@GENE$ \ufffd \x07 @CHEMICAL$", "\u03b1-@GENE$ \u00e9 @CHEMICAL$")
        found = findings("chemprot", [(texts[0], "CPR:3"), (texts[1], "false")])
        assert any(line.startswith("train: 1 rows hold odd characters (U+") for line in found)

    def test_an_id_that_may_be_text_is_not_shown(self) -> None:
        survey = Survey(tasks.get("ddi2013"))
        survey.add("train", [Example(SECRET, ("no marks",), "DDI-int")])
        assert not [finding for finding in survey.findings() if "Smith" in finding.text]


class TestCommand:
    def test_fine(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = biosses_folder(tmp_path / "biosses", published_biosses())
        assert prepare.main(["check", str(folder)]) == 0
        shown = capsys.readouterr().out
        assert "no manifest.json" in shown and "Smith" not in shown

    def test_weighty(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = biosses_folder(tmp_path / "x", published_biosses() | {"dev": pairs("train", 16)})
        assert prepare.main(["check", str(folder), "--task", "biosses"]) == 1
        assert "! dev: 16 rows (100.0%) have a text of train" in capsys.readouterr().out

    def test_lengths(self, tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = biosses_folder(tmp_path / "biosses", published_biosses())
        more = ["--model_name_or_path", str(tiny_bert), "--max_seq_length", "20"]
        assert prepare.main(["check", str(folder), *more]) == 1
        assert "! train: 64 examples (100.0%) are cut at 20 word pieces" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("spoil", "part"),
        [
            (lambda folder: (folder / "dev.tsv").unlink(), "dev.tsv: no such file"),
            (lambda folder: (folder / "test.tsv").write_text(HEADER + "1\ta\tb\thigh\n"), "test.tsv:2: score 'high'"),
            (lambda folder: folder.rename(folder.with_name("other")), "which task is it?"),
        ],
    )
    def test_unreadable(self, tmp_path: Path, spoil: object, part: str, capsys: pytest.CaptureFixture[str]) -> None:
        folder = biosses_folder(tmp_path / "biosses", published_biosses())
        assert callable(spoil)
        spoil(folder)
        place = folder if folder.exists() else folder.with_name("other")
        assert prepare.main(["check", str(place)]) == 2
        message = capsys.readouterr().err
        assert part in message and message.count("\n") == 1

    @pytest.mark.parametrize("content", ["{}", "[1]", '{"splits": 3}', '{"splits": {"train": {"file": 1}}}'])
    def test_a_strange_manifest(self, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
        folder = biosses_folder(tmp_path / "biosses", published_biosses())
        (folder / "manifest.json").write_text(content)
        assert prepare.main(["check", str(folder)]) in (0, 1)
        assert "Traceback" not in capsys.readouterr().out

    def test_changed_since_it_was_prepared(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = biosses_folder(tmp_path / "biosses", published_biosses())
        splits = {"train": {"file": "train.tsv", "sha256": "0" * 64}}
        (folder / "manifest.json").write_text(json.dumps({"task": "biosses", "splits": splits}))
        assert prepare.main(["check", str(folder)]) == 1
        assert "changed since they were prepared" in capsys.readouterr().out

    @pytest.mark.parametrize("task", tasks.TASKS)
    def test_every_task(self, tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
        folder = shutil.copytree(tasks.sample_dir(task), tmp_path / task)
        assert prepare.main(["check", str(folder)]) == 1  # samples have not the published sizes
        assert "(published " in capsys.readouterr().out

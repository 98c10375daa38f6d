"""`launch/prepare.py check`, and what training asks of it before a model is loaded."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from blurb_sources import SOURCES

import tasks
from harness.task import Example, UserError
from launch import prepare
from launch.run import inputs, settings
from tasks.checks import Survey, quick
from tasks.published import CORPORA

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


class TestNames:
    def test_labels_of_a_custom_task_are_counted_as_they_are(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Also those that have a meaning in the published figures."""
        labels = ["positive", "negative", "rows", "documents", "mentions", "false"]
        (tmp_path / "task.toml").write_text(
            f'name = "mood"\nfamily = "multiclass"\nmetric = "accuracy"\nlabels = {json.dumps(labels)}\n'
            '[columns]\nsentence = "text"\nlabel = "mood"\n'
        )
        rows = [f"text {n} {label}\t{label}\n" for k, label in enumerate(labels) for n in range(k + 2)]
        for split in ("train", "dev", "test"):
            (tmp_path / f"{split}.tsv").write_text("text\tmood\n" + "".join(rows).replace("text", split))
        assert prepare.main(["check", str(tmp_path), "--task_file", str(tmp_path / "task.toml")]) == 0
        table = [line.split() for line in capsys.readouterr().out.splitlines()]
        for k, label in enumerate(labels):
            assert ["label", label, *[str(k + 2)] * 3] in table
        assert ["rows", *[str(len(rows))] * 3] in table

    def test_the_pairs_of_ddi_that_no_corpus_file_holds(self) -> None:
        survey = Survey(tasks.get("ddi2013"))
        survey.add("test", [Example(f"r{n}", (f"@DRUG$ {n} @DRUG$",), "DDI-false") for n in range(4737)])
        (text,) = [finding.text for finding in survey.findings() if "DrugDDI." in finding.text]
        assert text.startswith("DDI-false: test 4737 (published 4782): the corpus has 4737;")
        survey.add("test", [Example(f"s{n}", (f"@DRUG$ {n} s @DRUG$",), "DDI-false") for n in range(45)])
        assert not [finding.text for finding in survey.findings() if "DrugDDI." in finding.text]

    def test_an_empty_dev_set(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = biosses_folder(tmp_path / "biosses", published_biosses())
        (folder / "dev.tsv").write_text("")
        assert prepare.main(["check", str(folder)]) == 1
        assert "! dev: no examples" in capsys.readouterr().out

    @pytest.mark.parametrize("name", SOURCES)
    def test_a_corpus_that_was_not_converted(
        self, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """In place of a task's folder, unpacked or as it was downloaded: the command that is told converts it."""
        corpus, write = SOURCES[name]
        raw = write(tmp_path / "raw")
        packed = tmp_path / "packed"
        packed.mkdir()
        shutil.make_archive(str(packed / "corpus"), "gztar", raw)
        task = CORPORA[corpus].tasks[0]
        for folder in (packed,) if name == "biosses" else (raw, packed):
            config, _ = settings.parse(["--task", task, "--model_name_or_path", "m", "--data_dir", str(folder)])
            with pytest.raises(UserError) as raised:
                inputs.find_data(config)
            assert prepare.main(["check", str(folder), "--task", task]) == 2
            for said in (str(raised.value), capsys.readouterr().err.strip()):
                command = re.search(r"python launch/prepare\.py (.*) --out DIR, then DIR/(\w+)", said)
                assert command is not None and "\n" not in said
                out = tmp_path / f"out-{folder.name}"
                assert prepare.main([*command[1].split(), "--out", str(out)]) == 0
                assert tasks.get(task).read(out / command[2], "train")


@pytest.mark.parametrize(
    ("task", "name", "wrong"),
    [("bc5cdr_chem", "devel.tsv", "dev.tsv"), ("clefe", "Test.tsv", "test.tsv"), ("mednli", "train.tsv", "train.txt")],
)
def test_a_file_of_another_name(tmp_path: Path, task: str, name: str, wrong: str) -> None:
    folder = Path(shutil.copytree(tasks.sample_dir(task), tmp_path / "data"))
    (folder / name).rename(folder / wrong)
    config, _ = settings.parse(["--task", task, "--model_name_or_path", "m", "--data_dir", str(folder)])
    with pytest.raises(UserError, match=f"lacks {name}; .*; rename {wrong} to {name}"):
        inputs.find_data(config)
    (folder / wrong).rename(folder / name)
    assert inputs.find_data(config) == (folder, "given")


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

    def test_serious(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = biosses_folder(tmp_path / "x", published_biosses() | {"dev": pairs("train", 16)})
        assert prepare.main(["check", str(folder), "--task", "biosses"]) == 1
        assert "! dev: 16 rows (100.0%) have a text of train" in capsys.readouterr().out

    def test_lengths(self, tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = biosses_folder(tmp_path / "biosses", published_biosses())
        more = ["--model_name_or_path", str(tiny_bert), "--max_seq_length", "20"]
        assert prepare.main(["check", str(folder), *more]) == 1
        assert "! train: 64 examples (100.0%) are cut at 20 subword tokens" in capsys.readouterr().out

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

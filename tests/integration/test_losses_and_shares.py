"""Runs with label smoothing, class weights, a pre-trained head, early stopping, and a share of the training data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import tiny_encoder, tiny_masked_lm
from running import arguments, cut, fingerprint, refused, run, run_on_ranks
from safetensors.torch import load_file

from harness.errors import UserError
from launch import train
from launch.run import settings

KNOBS = {  # task -> flags that are its all
    "mednli": ("--label_smoothing", "0.1", "--class_weights", "balanced", "--train_fraction", "0.5"),
    "bc5cdr_disease": (
        *("--label_smoothing", "0.1", "--class_weights", "balanced", "--train_fraction", "0.4"),
        *("--train_splits", "train", "--early_stopping_patience", "3"),
    ),
    "hoc": ("--label_smoothing", "0.2", "--class_weights", "balanced", "--train_fraction", "0.7"),
}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def back_to(folder: Path, checkpoint: str) -> None:
    """As a kill after that checkpoint would have left the run."""
    later = [path for path in (folder / "checkpoints").iterdir() if path.name > checkpoint and path.is_dir()]
    assert later and (folder / "checkpoints" / checkpoint).is_dir()
    for path in (*later, folder / "model"):
        shutil.rmtree(path)
    (folder / "result.json").unlink()


@pytest.mark.parametrize("task", KNOBS)
def test_a_run_goes_on_exactly(task: str, tmp_path: Path) -> None:
    model = tiny_masked_lm(tmp_path / "lm", classifier_dropout=0.1)
    more = (*KNOBS[task], "--head", "pretrained", "--num_train_epochs", "2", "--keep_checkpoints", "9")
    whole = run(arguments(task, model, tmp_path / "whole", *more))
    log = (tmp_path / "whole" / "train.log").read_text()
    assert "of classes in the training loss" in log and f"share   {whole['train_examples']} of" in log
    assert "pre-trained layers" in log and set(whole["class_weights"].values()) != {1.0}
    card = (tmp_path / "whole" / "model" / "README.md").read_text()
    assert f"train, {whole['train_examples']} examples of them" in card and "; class weights " in card
    per_epoch = -(-whole["train_examples"] // 8)
    assert whole["steps"] == 2 * per_epoch
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    back_to(tmp_path / "killed", "step-0001-000000")
    again = run(arguments(task, model, tmp_path / "killed", *more))
    assert {key: again[key] for key in ("scores", "epochs", "steps")} == {
        key: whole[key] for key in ("scores", "epochs", "steps")
    }
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_they_are_the_same_on_1_and_2_ranks(tmp_path: Path) -> None:
    model = tiny_masked_lm(tmp_path / "lm")
    lines = {
        world: [
            arguments(task, model, tmp_path / str(world) / task, *more, "--head", "pretrained",
                      "--global_batch_size", "24", "--max_steps", "12")
            for task, more in KNOBS.items()
        ]
        for world in (1, 2)
    }  # fmt: skip
    one, two = (run_on_ranks(world, lines[world], tmp_path / f"answers{world}") for world in (1, 2))
    for alone, shared in zip(one, two, strict=True):
        assert isinstance(alone, dict) and isinstance(shared, dict), (alone, shared)
        assert shared["epochs"][0]["train_loss"] == pytest.approx(alone["epochs"][0]["train_loss"], rel=1e-5)
        assert shared["scores"]["test"]["loss"] == pytest.approx(alone["scores"]["test"]["loss"], rel=1e-4)
        assert alone["train_examples"] == shared["train_examples"]
        assert alone["class_weights"] == shared["class_weights"]


class TestLoss:
    def test_the_reported_loss_stays_plain(self, tiny_bert: Path, tmp_path: Path) -> None:
        """At a learning rate of nothing all that differs is the training loss."""
        line = ("--learning_rate", "1e-30", "--max_steps", "3")
        plain = run(arguments("mednli", tiny_bert, tmp_path / "plain", *line))
        (tmp_path / "w.toml").write_text("contradiction = 2\nentailment = 2\nneutral = 2\n")
        double = run(
            arguments("mednli", tiny_bert, tmp_path / "double", *line, "--class_weights", str(tmp_path / "w.toml"))
        )
        smooth = run(arguments("mednli", tiny_bert, tmp_path / "smooth", *line, "--label_smoothing", "0.5"))
        assert plain["scores"] == double["scores"] == smooth["scores"]
        losses = [result["epochs"][0]["train_loss"] for result in (plain, double, smooth)]
        assert losses[1] == pytest.approx(2 * losses[0], rel=1e-6) and losses[2] != pytest.approx(losses[0], rel=1e-4)
        assert double["class_weights"] == {"contradiction": 2.0, "entailment": 2.0, "neutral": 2.0}
        assert "class_weights" not in plain and "train_examples" not in plain and "stopped_early" not in plain

    def test_a_weights_file_is_known_by_its_content(
        self, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, moved = tmp_path / "w.toml", tmp_path / "moved.toml"
        path.write_text("contradiction = 1\nentailment = 2\nneutral = 3\n")

        def line(file: Path) -> list[str]:
            return arguments("mednli", tiny_bert, tmp_path / "run", "--max_steps", "2", "--class_weights", str(file))

        first = run(line(path))
        path.rename(moved)
        assert run(line(moved)) == first
        assert run(line(path)) == first  # gone: the run has its own copy
        path.write_text("contradiction = 1\nentailment = 2\nneutral = 4\n")
        assert "holds another run (its class_weights is " in refused(train.main, capsys, *line(path))[0]


class TestShare:
    def test_a_class_that_is_left_out_is_said_before_anything_slow(
        self, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = arguments("chemprot", tiny_bert, tmp_path / "run", "--train_fraction", "0.01")
        error, _ = refused(train.main, capsys, *line)
        assert "--train_fraction 0.01: CPR:" in error and "a larger fraction or another seed" in error
        assert not (tmp_path / "run" / "metrics.jsonl").exists()

    def test_it_scores_all(self, tiny_bert: Path, tmp_path: Path) -> None:
        line = ("--max_steps", "2", "--seed", "3")
        whole = run(arguments("mednli", tiny_bert, tmp_path / "whole", *line))
        part = run(arguments("mednli", tiny_bert, tmp_path / "part", *line, "--train_fraction", "0.3"))
        for split in ("dev", "test"):
            assert part["scores"][split]["examples"] == whole["scores"][split]["examples"]


class TestPatience:
    EVERY = ("--num_train_epochs", "9", "--early_stopping_patience", "2", "--keep_checkpoints", "9")
    STUCK = ("--learning_rate", "1e-30")  # no dev score is better than the first

    def test_it_stops_and_reports_the_best_epoch(self, tiny_bert: Path, tmp_path: Path) -> None:
        line = arguments("mednli", tiny_bert, tmp_path / "run", *self.EVERY, *self.STUCK)
        result = run(line)
        assert [entry["epoch"] for entry in result["epochs"]] == [1, 2, 3]
        assert result["stopped_early"] is True and result["selected"] == "best_dev" and result["best_epoch"] == 1
        log = (tmp_path / "run" / "train.log").read_text()
        assert "stopped after epoch 3: no better dev score than that of epoch 1 in 2 epochs" in log
        assert "the best epoch's weights are reported" in log
        card = (tmp_path / "run" / "model" / "README.md").read_text()
        assert "9 epochs, stopped after epoch 3 (patience 2)" in card
        lr = [row["values"]["train/lr"] for row in rows(tmp_path / "run") if "train/lr" in row["values"]]
        assert 1e-30 * 0.6 < lr[-1] < 1e-30 * 0.7  # the schedule is still one over nine epochs
        assert run(line) == result

    @pytest.mark.parametrize("checkpoint", ["step-0001-000000", "step-0002-000000", "step-0003-000000"])
    def test_it_stops_at_the_same_epoch_after_a_resume(self, checkpoint: str, tiny_bert: Path, tmp_path: Path) -> None:
        line = arguments("biosses", tiny_bert, tmp_path / "run", *self.EVERY, *self.STUCK)
        result = run(line)
        before = fingerprint(tmp_path / "run" / "model")
        if checkpoint == "step-0003-000000":
            shutil.rmtree(tmp_path / "run" / "model")
            (tmp_path / "run" / "result.json").unlink()
        else:
            back_to(tmp_path / "run", checkpoint)
        again = run(line)
        assert again["epochs"] == result["epochs"] and again["scores"] == result["scores"]
        assert again["stopped_early"] and fingerprint(tmp_path / "run" / "model") == before

    def test_a_run_that_gains_goes_to_its_end(self, tiny_bert: Path, tmp_path: Path) -> None:
        more = ("--num_train_epochs", "2", "--early_stopping_patience", "2")
        result = run(arguments("mednli", tiny_bert, tmp_path / "run", *more))
        assert len(result["epochs"]) == 2 and result["stopped_early"] is False

    @pytest.mark.slow
    def test_two_ranks_agree(self, tiny_bert: Path, tmp_path: Path) -> None:
        (result,) = run_on_ranks(
            2, [arguments("biosses", tiny_bert, tmp_path / "run", *self.EVERY, *self.STUCK)], tmp_path / "answers"
        )
        assert isinstance(result, dict), result
        assert len(result["epochs"]) == 3 and result["stopped_early"]

    def test_an_empty_dev_set(self, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = cut("mednli", tmp_path / "data", 8)
        header = (data / "dev.tsv").read_text().splitlines(keepends=True)[0]
        (data / "dev.tsv").write_text(header)
        line = arguments("mednli", tiny_bert, tmp_path / "run", *self.EVERY, "--data_dir", str(data))
        error, _ = refused(train.main, capsys, *line)
        assert "dev.tsv" in error and "--early_stopping_patience needs the dev score" in error


class TestHead:
    CONFIGS = ("fp32", "bf16_zero1", "bf16_zero2", "bf16_zero3", "fp16_zero0", "fp16_zero3")

    def line(self, model: Path, folder: Path, *more: str) -> Sequence[str]:
        return arguments("bc5cdr_disease", model, folder, "--head", "pretrained", "--max_steps", "3", *more)

    @pytest.mark.parametrize("name", CONFIGS)
    def test_every_stage(self, name: str, tmp_path: Path, fp16_allowed: None) -> None:
        """Scored by what is written, with the standard class."""
        model = tiny_masked_lm(tmp_path / "lm")
        result = run(self.line(model, tmp_path / "run", "--precision", "auto", "--ds_config", name))
        last, scored = result["epochs"][-1]["dev"], result["scores"]["dev"]
        assert (scored["score"], scored["loss"]) == pytest.approx((last["score"], last["loss"]), rel=1e-4, abs=1e-5)
        said = json.loads((tmp_path / "run" / "model" / "harness_head.json").read_text())
        assert said["standard_class"] == "ModernBertForTokenClassification" and said["layers"] is True
        before = load_file(model / "model.safetensors")["head.dense.weight"]
        assert 0 < (weights(tmp_path / "run")["head.dense.weight"] - before).abs().max() < 0.1  # trained, from there

    def test_with_adapters(self, tmp_path: Path) -> None:
        model = tiny_masked_lm(tmp_path / "lm")
        result = run(self.line(model, tmp_path / "run", "--lora_rank", "2"))
        last, scored = result["epochs"][-1]["dev"], result["scores"]["dev"]
        assert (scored["score"], scored["loss"]) == pytest.approx((last["score"], last["loss"]), rel=1e-4, abs=1e-5)
        kept = load_file(tmp_path / "run" / "model" / "head.safetensors")
        assert {"classifier.weight", "head.dense.weight", "head.norm.weight"} <= kept.keys()
        merged = run(self.line(model, tmp_path / "merged", "--lora_rank", "2", "--merge_lora"))
        assert merged["scores"]["test"]["loss"] == pytest.approx(result["scores"]["test"]["loss"], rel=1e-5)
        assert "head.dense.weight" in weights(tmp_path / "merged")

    def test_new_text_is_answered(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from launch import predict

        model = tiny_masked_lm(tmp_path / "lm")
        run(arguments("mednli", model, tmp_path / "run", "--head", "pretrained", "--max_steps", "3"))
        (tmp_path / "text.tsv").write_text("the patient has fever\tno fever\n")
        out = tmp_path / "answers.jsonl"
        line = [str(tmp_path / "run"), "--input", str(tmp_path / "text.tsv"), "--output", str(out)]
        assert predict.main(line) == 0, capsys.readouterr().err
        assert len(out.read_text().splitlines()) == 1

    def test_a_model_without_one_is_refused_in_one_line(
        self, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(UserError) as caught:
            run(self.line(tiny_bert, tmp_path / "run"))
        assert "BertForTokenClassification has no layers of its own" in str(caught.value)


def test_settings_of_the_loss_may_be_swept(tmp_path: Path) -> None:
    from launch.jobs import suites

    model = tiny_encoder(tmp_path / "model")
    suite = suites.narrowed(suites.Suite(), "mednli", [str(model)], "2", ["train_fraction=0.1,0.3,1"])
    runs, _ = suites.expand(suite, ["--output_dir", str(tmp_path / "runs")])
    assert sorted({str(one.train_fraction) for one in runs}) == ["0.1", "0.3", "1.0"] and len(runs) == 6
    suite = suites.narrowed(suites.Suite(), "mednli", [str(model)], "1", ["class_weights=,balanced"])
    assert {one.class_weights for one in suites.expand(suite, [])[0]} == {None, "balanced"}
    assert settings.parse(["--task", "mednli", "--model_name_or_path", str(model)])[0].class_weights is None

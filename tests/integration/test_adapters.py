"""Runs with --lora_rank from command line to predictions: small checkpoints, resumed to the bit, merged or not."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from encoders import tiny_encoder
from running import arguments, assert_user_error, cut, refused, run, run_on_ranks
from safetensors.torch import load_file

from harness.ds.config import CONFIGS
from harness.model_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, HEAD_WEIGHTS
from launch import predict, train
from launch.jobs import preflight
from launch.reporting import collect, leaderboard, verify
from launch.run import settings

NAMES = ("fp32", "bf16_autocast", "bf16_zero1", "bf16_zero3", "fp16_zero0", "fp16_zero1", "fp16_zero2", "fp16_zero3")
FLAGS = ("--lora_rank", "4", "--lora_dropout", "0.2", "--num_train_epochs", "2", "--save_steps", "2",
         "--keep_checkpoints", "99", "--logging_steps", "1")  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoders, `model` (BERT) and `llama`; data of 21 rows: not a multiple of anything."""
    folder = tmp_path_factory.mktemp("lora")
    tiny_encoder(folder / "model")
    tiny_encoder(folder / "llama", "llama")
    cut("mednli", folder / "data", 21)
    cut("bc5cdr_disease", folder / "words", 21)
    return folder


def line(place: Path, output: Path, *more: str, task: str = "mednli", encoder: str = "model") -> list[str]:
    data = place / ("data" if task == "mednli" else "words")
    return arguments(task, place / encoder, output, "--data_dir", str(data), *FLAGS, *more)


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(line(place, folder))
    return folder


def stopped(folder: Path) -> None:
    """As a kill in the middle of the second epoch leaves it."""
    shutil.rmtree(folder / "model")
    (folder / "result.json").unlink()
    for path in (folder / "checkpoints").iterdir():
        if path.name > "step-0001-000001":
            shutil.rmtree(path)
    assert list((folder / "checkpoints").iterdir())


def losses(folder: Path) -> list[float]:
    rows = [json.loads(text)["values"] for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


def content(folder: Path) -> dict[str, bytes]:
    """What is kept of a run but for times."""
    kept = {path.name: path.read_bytes() for path in (folder / "model").iterdir() if path.name != "README.md"}
    kept |= {path.name: path.read_bytes() for path in (folder / "predictions").iterdir()}
    return {**kept, "losses": json.dumps(losses(folder)).encode()}


def answers(folder: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert predict.main([str(folder), "--input", str(data / "test.tsv")]) == 0
    return [json.loads(row)["label"] for row in capsys.readouterr().out.splitlines()]


def of_run(folder: Path) -> list[str]:
    rows = (folder / "predictions" / "test.tsv").read_text().splitlines()[1:]
    return [row.split("\t")[2] for row in rows if row]


def scores(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def test_it_predicts_as_the_run_did(
    whole: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever the folder is copied to; and a run that only scores it has the run's scores."""
    result = scores(whole)
    assert result["epochs"][-1]["dev"]["loss"] == pytest.approx(result["scores"]["dev"]["loss"], rel=1e-6)
    assert "peft" in result["versions"]
    download = Path(shutil.copytree(whole / "model", tmp_path / "download"))
    assert answers(download, place / "data", capsys) == answers(whole, place / "data", capsys) == of_run(whole)
    argv = ["--task", "mednli", "--model_name_or_path", str(download), "--data_dir", str(place / "data"),
            "--output_dir", str(tmp_path / "scored"), "--do_eval", "--do_predict",
            "--wandb_mode", "disabled"]  # fmt: skip
    assert run(argv)["scores"] == result["scores"]
    recorded = json.loads((tmp_path / "scored" / "fingerprint.json").read_text())["weights"]
    assert {ADAPTER_WEIGHTS, HEAD_WEIGHTS, ADAPTER_CONFIG} < recorded.keys()
    found, _ = preflight.look_for_missing(None, [settings.parse(argv)[0]])
    assert not found
    assert verify.verify([whole]).faults == []


def test_checkpoints_are_small(whole: Path, place: Path, tmp_path: Path) -> None:
    run([word for word in line(place, tmp_path / "run") if word not in FLAGS[:4]])
    small, large = (
        max(path.stat().st_size for path in folder.glob("checkpoints/*/engine.safetensors"))
        for folder in (whole, tmp_path / "run")
    )
    trained = sum(
        tensor.numel()
        for name in (ADAPTER_WEIGHTS, HEAD_WEIGHTS)
        for tensor in load_file(whole / "model" / name).values()
    )
    assert 12 * trained < small < 12 * trained + 20_000 < large / 2  # weights and two moments; names are the rest


def test_killed_and_resumed_it_is_the_same(whole: Path, place: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    stopped(tmp_path / "run")
    run(line(place, tmp_path / "run"))
    assert "Resumed after 1 epochs" in (tmp_path / "run" / "train.log").read_text() and len(losses(whole)) == 6
    assert content(tmp_path / "run") == content(whole)


def test_the_best_epoch_is_kept(place: Path, tmp_path: Path) -> None:
    result = run(line(place, tmp_path / "run", "--select", "best_dev", "--learning_rate", "1e-6"))
    assert result["best_epoch"] == 1
    assert result["scores"]["dev"]["loss"] == pytest.approx(result["epochs"][0]["dev"]["loss"], rel=1e-6)
    [best] = (tmp_path / "run" / "checkpoints").glob("best-*")
    assert all(".lora_" in name or name.startswith("classifier.") for name in load_file(best))


@pytest.mark.parametrize(("task", "encoder"), [("mednli", "model"), ("bc5cdr_disease", "model"), ("mednli", "llama")])
def test_merged(task: str, encoder: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """model/ is that of any run, by the standard class, and answers as the adapters do."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    found = {}
    for name, more in (("adapters", ()), ("merged", ("--merge_lora",))):
        found[name] = run(line(place, tmp_path / name, *more, task=task, encoder=encoder))["scores"]["test"]["loss"]
    assert found["merged"] == pytest.approx(found["adapters"], rel=1e-5)
    assert of_run(tmp_path / "merged") == of_run(tmp_path / "adapters")
    model = tmp_path / "merged" / "model"
    assert not (model / ADAPTER_CONFIG).exists()
    auto = AutoModelForTokenClassification if task == "bc5cdr_disease" else AutoModelForSequenceClassification
    if encoder == "model":  # transformers' head on a Llama has no bias
        _, report = auto.from_pretrained(model, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
    assert "merged into the weights" in (model / "README.md").read_text()
    if task == "mednli":
        assert answers(model, place / "data", capsys) == of_run(tmp_path / "adapters")
    log = (tmp_path / "merged" / "train.log").read_text()
    assert log.count("lora    LoRA of rank 4") == 1


def test_reports_keep_it_apart(whole: Path, place: Path, tmp_path: Path) -> None:
    """Runs of one model and task with and without adapters are never one row."""
    shutil.copytree(whole, tmp_path / "one")
    run([word for word in line(place, tmp_path / "two") if word not in FLAGS[:4]])
    runs = collect.find([tmp_path])
    assert len({run.row for run in runs}) == 2
    assert sorted("lora_rank=4" in label for label in leaderboard.row_labels(runs).values()) == [False, True]
    with_adapters = next(run for run in runs if run.settings.get("lora_rank"))
    assert "--lora_rank 4 --lora_dropout 0.2" in collect.command(with_adapters)


def test_bad_input(
    whole: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = line(place, tmp_path / "run", "--lora_targets", "querry")
    error, _ = refused(train.main, capsys, *names)
    assert "--lora_targets querry: no layer of" in error and "its linear layers are dense, key, query, value" in error
    error, _ = refused(train.main, capsys, *line(place, tmp_path / "run2", "--do_predict"))
    assert "--lora_rank: nothing is trained here" in error
    onward = line(place, tmp_path / "run3")
    onward[onward.index("--model_name_or_path") + 1] = str(whole)
    error, _ = refused(train.main, capsys, *onward)
    assert "is an adapter" in error and "--merge_lora" in error
    other = ("--lora_rank", "5")
    assert_user_error(lambda: run([*line(place, whole), *other]), "holds another run", "lora_rank is 4, yours 5")
    monkeypatch.setitem(sys.modules, "peft", None)
    error, _ = refused(train.main, capsys, *line(place, tmp_path / "run4"))
    assert "--lora_rank needs the library peft" in error and "pip install 'blue-harness[lora]'" in error
    assert not (tmp_path / "run4").exists()
    found, _ = preflight.look_for_missing(None, [settings.parse(line(place, tmp_path / "run5"))[0]])
    assert [one.text for one in found if "--lora_rank needs the library peft" in one.text and not one.what]
    error, _ = refused(predict.main, capsys, whole, "--input", place / "data" / "test.tsv")
    assert f"{whole}/model: holds adapters, which needs the library peft" in error


def test_of_an_encoder_of_the_hub(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its commit, wherever its main branch has gone since."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cache = tmp_path / "cache" / "models--some-lab--some-encoder"
    for commit, source in (("a" * 40, place / "model"), ("b" * 40, tiny_encoder(tmp_path / "other", "roberta"))):
        shutil.copytree(source, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    words = [*line(place, tmp_path / "run"), "--cache_dir", str(cache.parent)]
    words[words.index("--model_name_or_path") + 1] = "some-lab/some-encoder"
    run(words)
    values = json.loads((tmp_path / "run" / "model" / ADAPTER_CONFIG).read_text())
    assert (values["base_model_name_or_path"], values["revision"]) == ("some-lab/some-encoder", "a" * 40)
    (cache / "refs" / "main").write_text("b" * 40)
    argv = [str(tmp_path / "run"), "--input", str(place / "data" / "test.tsv"), "--cache_dir", str(cache.parent)]
    assert predict.main(argv) == 0
    found = [json.loads(row)["label"] for row in capsys.readouterr().out.splitlines() if row.startswith("{")]
    assert found == of_run(tmp_path / "run")
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "base_model: some-lab/some-encoder" in card and 'from_pretrained("some-lab/some-encoder")' in card
    error, _ = refused(predict.main, capsys, *argv[:3])
    assert "base_model_name_or_path some-lab/some-encoder" in error and "is not in the cache" in error


def test_a_recipe_with_adapters_leaves_scoring_alone(whole: Path) -> None:
    argv = ["--task", "mednli", "--model_name_or_path", str(whole), "--recipe", "lora-decoder"]
    assert settings.parse(argv)[0].lora_rank is not None
    config, _ = settings.parse([*argv, "--do_predict"])
    assert (config.trained, config.lora_rank, config.lora_dropout) == (False, None, 0.0)


def partitioned(folder: Path) -> str:
    """fp16_zero3 that takes even the smallest weight away between passes."""
    values = json.loads((CONFIGS / "fp16_zero3.json").read_text())
    values["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (folder / "partitioned.json").write_text(json.dumps(values))
    return str(folder / "partitioned.json")


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_every_ds_config_trains_and_resumes(world: int, place: Path, tmp_path: Path) -> None:
    """To the bit on the same ranks; on the other number of ranks it goes on."""
    kinds = {**{name: (name,) for name in NAMES}, "partitioned": (partitioned(tmp_path),)}
    kinds |= {f"dora-{name}": (kinds[name][0], "--lora_dora") for name in ("fp32", "fp16_zero2", "partitioned")}
    kinds["merged"] = (kinds["partitioned"][0], "--merge_lora")
    kinds |= {f"again-{name}": (kinds[name][0], "--gradient_checkpointing") for name in ("fp32", "partitioned")}

    def lines(top: Path) -> list[list[str]]:
        more = ("--precision", "auto", "--global_batch_size", "4", "--per_gpu_train_batch_size", "4")
        return [line(place, top / name, *more, "--ds_config", *flags) for name, flags in kinds.items()]

    first = run_on_ranks(world, lines(tmp_path / "whole"), tmp_path / "answers")
    assert not [found for found in first if isinstance(found, str)]
    for name in kinds:
        exact = losses(tmp_path / "whole" / ("dora-fp32" if name.startswith("dora") else "fp32"))
        assert len(exact) == 12 and max(exact) - min(exact) > 0.1
        assert losses(tmp_path / "whole" / name) == pytest.approx(exact, abs=4e-2), name
    for ranks in (world, 3 - world):
        again = tmp_path / f"again{ranks}"
        shutil.copytree(tmp_path / "whole", again)
        for folder in again.iterdir():
            stopped(folder)
        found = run_on_ranks(ranks, lines(again), tmp_path / f"answers{ranks}")
        assert not [one for one in found if isinstance(one, str)]
        for name in kinds:
            if ranks == world:
                assert content(again / name) == content(tmp_path / "whole" / name), name
            else:  # other dropout masks
                before = losses(tmp_path / "whole" / name)
                assert losses(again / name)[:6] == before[:6] and len(losses(again / name)) == len(before)

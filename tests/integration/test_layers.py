"""Learning rates by layer, frozen and re-initialised layers and other schedules, from command line to model/."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import tiny_encoder, tiny_masked_lm
from running import arguments, cut, refused, run, run_on_ranks
from safetensors.torch import load_file, save_file
from test_adapters import answers, content, losses, of_run, partitioned, stopped

from launch import train
from launch.jobs import preflight, tuning
from launch.reporting import verify
from launch.run import settings
from tasks import published
from tasks.published import Recipe, Setting

FLAGS = ("--num_train_epochs", "2", "--save_steps", "2", "--keep_checkpoints", "99", "--logging_steps", "1")
SCHEDULE = ("--lr_scheduler", "cosine", "--warmup_ratio", "0.3", "--adam_beta1", "0.8", "--adam_beta2", "0.95")
KNOBS = {
    "schedule": SCHEDULE,
    "constant": ("--lr_scheduler", "constant", "--warmup_steps", "2"),
    "rates": ("--layerwise_lr_decay", "0.7", "--weight_decay", "0.1"),
    "embeddings": ("--freeze_layers", "0"),
    "lowest": ("--freeze_layers", "1"),
    "probing": ("--freeze_layers", "encoder", "--learning_rate", "1e-2"),
    "anew": ("--reinit_top_layers", "1"),
}
ALL = (*SCHEDULE, "--layerwise_lr_decay", "0.7", "--freeze_layers", "1", "--reinit_top_layers", "1")
FROZEN = {"embeddings": ("embeddings.",), "probing": ("bert.",)}  # others with --freeze_layers: the lowest layer too


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with dropout, `model`, and data of 21 rows: not a multiple of anything."""
    folder = tmp_path_factory.mktemp("layers")
    tiny_encoder(folder / "model", dropout=0.1)
    cut("mednli", folder / "data", 21)
    return folder


def line(place: Path, output: Path, *more: str) -> list[str]:
    return arguments("mednli", place / "model", output, "--data_dir", str(place / "data"), *FLAGS, *more)


def check_frozen(place: Path, folder: Path, name: str) -> None:
    """model/ is whole, with the encoder's bits where nothing was trained; checkpoints hold the rest alone."""
    parts = FROZEN.get(name, ("embeddings.", "layer.0."))
    before, after = load_file(place / "model" / "model.safetensors"), load_file(folder / "model" / "model.safetensors")
    assert {key.removeprefix("bert.") for key in after} == {*before, "classifier.weight", "classifier.bias"}
    frozen = {key for key in after if any(part in key for part in parts)}
    assert len(frozen) > 4
    assert not [key for key in frozen if not torch.equal(after[key], before[key.removeprefix("bert.")])]
    assert [
        key for key in after if key not in frozen and not torch.equal(after[key], before.get(key[5:], after[key] + 1))
    ]
    saved = [key for path in folder.glob("checkpoints/step-*/engine*.safetensors") for key in load_file(path)]
    assert saved and not {key.partition("encoder.")[2] for key in saved} & {key.removeprefix("bert.") for key in frozen}


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_killed_and_resumed_it_is_the_same(world: int, place: Path, tmp_path: Path) -> None:
    """To the bit, with every setting, and all of them at every ZeRO stage; frozen weights are the checkpoint's."""
    kinds = {name: ("fp32", *more) for name, more in KNOBS.items()}
    stages = {"fp16_zero0": "", "bf16_zero1": "", "fp16_zero2": "", "partitioned": partitioned(tmp_path)}
    kinds |= {f"all-{name}": (path or name, *ALL) for name, path in stages.items()}
    kinds["all-fp32"] = ("fp32", *ALL)
    kinds["probing-3"] = (stages["partitioned"], "--freeze_layers", "encoder", "--select", "best_dev")

    def lines(top: Path) -> list[list[str]]:
        more = ("--precision", "auto", "--global_batch_size", "4", "--per_gpu_train_batch_size", "2")
        return [line(place, top / name, *more, "--ds_config", *flags) for name, flags in kinds.items()]

    found = run_on_ranks(world, lines(tmp_path / "whole"), tmp_path / "answers")
    assert not [one for one in found if isinstance(one, str | Exception)], found
    for name in kinds:
        folder = tmp_path / "whole" / name
        assert len(losses(folder)) == 12
        if name.startswith("all"):
            assert losses(folder) == pytest.approx(losses(tmp_path / "whole" / "all-fp32"), abs=4e-2), name
        if "--freeze_layers" in kinds[name]:
            check_frozen(place, folder, name.removesuffix("-3"))
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    for folder in (tmp_path / "again").iterdir():
        stopped(folder)
    found = run_on_ranks(world, lines(tmp_path / "again"), tmp_path / "answers2")
    assert not [one for one in found if isinstance(one, str | Exception)], found
    for name in kinds:
        assert content(tmp_path / "again" / name) == content(tmp_path / "whole" / name), name


@pytest.fixture(scope="module")
def probing(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("probing") / "run"
    run(line(place, folder, "--freeze_layers", "encoder", "--lr_scheduler", "cosine"))
    return folder


def test_linear_probing_from_training_to_predictions(
    probing: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_frozen(place, probing, "probing")
    result = json.loads((probing / "result.json").read_text())
    assert result["epochs"][-1]["dev"]["loss"] == pytest.approx(result["scores"]["dev"]["loss"], rel=1e-6)
    assert answers(probing, place / "data", capsys) == of_run(probing)
    card = (probing / "model" / "README.md").read_text()
    assert "the whole encoder frozen" in card and "cosine decay" in card
    assert "frozen  the encoder: 0 of its" in (probing / "train.log").read_text()
    assert verify.verify([probing]).faults == []


def test_with_a_pretrained_head(place: Path, tmp_path: Path) -> None:
    lm = tiny_masked_lm(tmp_path / "lm")
    words = line(place, tmp_path / "run", "--head", "pretrained", "--freeze_layers", "encoder", "--max_steps", "2")
    words[words.index("--model_name_or_path") + 1] = str(lm)
    result = run(words)
    before, after = load_file(lm / "model.safetensors"), load_file(tmp_path / "run" / "model" / "model.safetensors")
    same = {name for name in after if torch.equal(after[name], before.get(name, after[name] + 1))}
    assert same == {name for name in after if name.startswith("model.")}
    assert result["epochs"][-1]["dev"]["loss"] == pytest.approx(result["scores"]["dev"]["loss"], rel=1e-6)


def test_a_changed_encoder_is_refused(
    probing: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights are in no checkpoint."""
    shutil.copytree(place, tmp_path / "place")
    shutil.copytree(probing, tmp_path / "run")
    stopped(tmp_path / "run")
    path = tmp_path / "place" / "model" / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    words = line(tmp_path / "place", tmp_path / "run", "--freeze_layers", "encoder", "--lr_scheduler", "cosine")
    error, _ = refused(train.main, capsys, *words)
    assert "holds another run" in error and "with another model.safetensors" in error


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--freeze_layers", "30"), "--freeze_layers 30: {model} has 2 layers; ask for at most 2"),
        (("--reinit_top_layers", "3"), "--reinit_top_layers 3: {model} has 2 layers; ask for at most 2"),
        (("--freeze_layers", "some"), "--freeze_layers some: must be a number of layers, 0 for the embeddings alone"),
        (("--layerwise_lr_decay", "1.5"), "--layerwise_lr_decay 1.5: must be"),
        (("--adam_beta2", "1"), "--adam_beta2 1: must be"),
        (("--lr_scheduler", "cosin"), "did you mean cosine?"),
        (("--warmup_ratio", "0.1", "--warmup_steps", "3"), "--warmup_ratio 0.1 and --warmup_steps 3"),
    ],
)
def test_bad_input(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    """One line before anything is read or loaded; the corrected command takes the folder over."""
    error, printed = refused(train.main, capsys, *line(place, tmp_path / "run", *flags))
    assert said.format(model=place / "model") in error
    assert not [row for row in printed if "tokenising" in row or "loading model" in row]
    assert not list(tmp_path.glob("run/*/*")) and not (tmp_path / "run" / "metrics.jsonl").exists()
    if flags[1] == "30":
        assert run(line(place, tmp_path / "run", flags[0], "2", "--max_steps", "1"))["scores"]


def test_submit_says_it_before_anything_is_queued(place: Path, tmp_path: Path) -> None:
    configs = [settings.parse(line(place, tmp_path / n, "--freeze_layers", n))[0] for n in ("1", "30")]
    found, _ = preflight.look_for_missing(None, configs)
    assert [one.text for one in found if "--freeze_layers 30:" in one.text and "has 2 layers" in one.text]
    assert not preflight.look_for_missing(None, configs[:1])[0]


def test_recipes_and_searches_may_name_them(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flags win; a warm-up that is given takes the place of a recipe's in the other unit."""
    flags: dict[str, Any] = {
        "warmup_ratio": 0.1,
        "layerwise_lr_decay": 0.8,
        "lr_scheduler": "cosine",
        "adam_beta2": 0.98,
    }
    recipe = Recipe("new", True, {"mednli": Setting(1e-4, 2, flags={"freeze_layers": "1"})}, flags=flags)
    monkeypatch.setitem(published.RECIPES, "new", recipe)
    argv = ["--task", "mednli", "--model_name_or_path", str(place / "model"), "--recipe", "new"]
    config, _ = settings.parse(argv)
    assert {name: getattr(config, name) for name in flags} == flags and config.freeze_layers == "1"
    config, _ = settings.parse([*argv, "--warmup_steps", "7", "--freeze_layers", "0"])
    assert (config.warmup_steps, config.warmup_ratio, config.freeze_layers) == (7, 0, "0")
    own = '[recipe]\nwarmup_steps = 3\nfreeze_layers = 2\nlr_scheduler = "constant"\nlayerwise_lr_decay = 0.9\n'
    text = 'name = "own"\nfamily = "multiclass"\nlabels = ["a", "b"]\nmetric = "accuracy"\n'
    columns = "[columns]\nsentence = 1\nlabel = 2\n"
    (tmp_path / "own.toml").write_text(text + columns + own)
    argv = ["--task_file", str(tmp_path / "own.toml"), "--data_dir", str(tmp_path), *argv[2:]]
    config, _ = settings.parse(argv)
    assert (config.warmup_steps, config.warmup_ratio, config.lr_scheduler) == (3, 0, "constant")
    assert (config.freeze_layers, config.layerwise_lr_decay, config.adam_beta2) == ("2", 0.9, 0.98)
    (tmp_path / "own.toml").write_text(text + columns + own.replace('"constant"', '"cosin"'))
    error, _ = refused(train.main, capsys, *argv)
    assert f"{tmp_path}/own.toml: key recipe.lr_scheduler cosin: must be one of" in error
    assert tuning.Tune(layerwise_lr_decay=[0.8, 0.9], freeze_layers=[0, "encoder"]).lists  # type: ignore[call-arg]

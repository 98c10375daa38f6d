"""--select best_dev: the weights that are reported are those of the epoch that is said, whatever life wrote others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import tiny_encoder
from running import arguments, assert_user_error, cut, run, run_on_ranks
from safetensors.torch import load_file

from harness import checkpoint
from harness.checkpoint import TrainState
from harness.ds.engine import Engine

MORE = (
    "--select", "best_dev", "--num_train_epochs", "3", "--per_gpu_train_batch_size", "4", "--learning_rate", "1e-6",
    "--save_minutes", "1000", "--save_steps", "8", "--seed", "7", "--global_batch_size", "4",
)  # fmt: skip
STEPS = 6  # an epoch


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """An encoder with dropout, which other ranks draw otherwise, and flags.

    At this learning rate no dev answer changes: the first epoch is the best of equals, and weights differ by epoch.
    """
    place = tmp_path_factory.mktemp("best")
    return tiny_encoder(place / "model", dropout=0.4), [*MORE, "--data_dir", str(cut("mednli", place / "data", 24))]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(case: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Result and folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return run(arguments("mednli", case[0], folder, *case[1])), folder


@pytest.fixture
def killed(case: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Command line of a run that was killed in its third epoch, after a second one that it found the best.

    Its newest checkpoint is of the second epoch's second step.
    """
    line = arguments("mednli", case[0], tmp_path / "run", *case[1])
    micro_step, steps = Engine.micro_step, iter(range(1, 1_000_000))

    def kill(self: Engine, *batch: Any) -> Any:
        if next(steps) == 2 * STEPS + 3:
            raise SystemExit(137)
        return micro_step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "micro_step", kill)
        patch.setattr(TrainState, "best_epoch", lambda self: len(self.history) or None)
        with pytest.raises(SystemExit):
            run(line)
    saved = [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")]
    assert saved == ["step-0001-000002"]
    return line


def test_case(whole: tuple[dict[str, Any], Path]) -> None:
    result, folder = whole
    assert result["best_epoch"] == 1 and result["steps"] == 3 * STEPS
    assert len({entry["dev"]["loss"] for entry in result["epochs"]}) == 3
    assert result["scores"]["dev"]["loss"] == pytest.approx(result["epochs"][0]["dev"]["loss"], rel=1e-6)
    assert len(list((folder / "checkpoints").glob("best-*"))) == 1


def test_of_a_dead_life_are_not_reported(killed: list[str], whole: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    seen = run(killed)
    assert (seen["scores"], seen["epochs"]) == (whole[0]["scores"], whole[0]["epochs"])
    assert equal(weights(tmp_path / "run"), weights(whole[1]))


def test_of_a_dead_life_are_not_reported_on_two_ranks(
    killed: list[str], whole: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """Other dropout: the second epoch is another one than in the life before."""
    [seen] = run_on_ranks(2, [killed], tmp_path / "answers")
    assert not isinstance(seen, str), seen
    assert seen["best_epoch"] == 1 and seen["epochs"][0] == whole[0]["epochs"][0]
    assert seen["epochs"][1] != whole[0]["epochs"][1]
    assert equal(weights(tmp_path / "run"), weights(whole[1]))


def test_are_written_again_from_the_last_checkpoint(
    whole: tuple[dict[str, Any], Path], case: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """A kill after the training, while `model/` is written or scored."""
    folder = tmp_path / "run"
    shutil.copytree(whole[1], folder)
    shutil.rmtree(folder / "model")
    (folder / "result.json").unlink()
    run(arguments("mednli", case[0], folder, *case[1]))
    assert equal(weights(folder), weights(whole[1]))


def test_that_are_damaged_cost_the_checkpoints_that_name_them(
    killed: list[str], whole: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """Here the only one: the run begins anew, and ends as if nothing had happened."""
    [best] = [path for path in (tmp_path / "run" / "checkpoints").glob("best-*") if named(path)]
    content = best.read_bytes()
    best.write_bytes(content[:-64] + bytes(64))
    seen = run(killed)
    assert (seen["scores"], seen["epochs"]) == (whole[0]["scores"], whole[0]["epochs"])
    log = (tmp_path / "run" / "train.log").read_text()
    assert f"is damaged ({best.name} changed after it was written) and is skipped" in log
    assert equal(weights(tmp_path / "run"), weights(whole[1]))


def named(best: Path) -> bool:
    """Whether the checkpoint beside it names these weights."""
    state = json.loads((best.parent / "step-0001-000002" / "state.json").read_text())["state"]
    return checkpoint.best_file(best.parent, state["best"]) == best


def test_of_an_older_version_are_bound_to_nothing(killed: list[str], tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoints" / "step-0001-000002" / "state.json"
    content = json.loads(path.read_text())
    del content["sha256"], content["digest"], content["state"]["best"]
    path.write_text(json.dumps(content))
    assert_user_error(lambda: run(killed), "checkpoints", "an older version", "another --output_dir")

"""Checkpoints: complete or invisible, restored to the last random number."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import assert_user_error

from harness import checkpoint, distributed, run_folder
from harness.checkpoint import TrainState
from harness.distributed import World
from harness.tensor_file import Stream


class Tensor:
    """The least that can be saved: one tensor."""

    def __init__(self, value: float = 0.0, model: str = "a model") -> None:
        self.value = torch.tensor([value])
        self.model = model

    def signature(self) -> str:
        return self.model

    def save(self, folder: Path) -> None:
        (folder / "engine").mkdir()
        torch.save(self.value, folder / "engine" / "tensor.pt")

    def load(self, folder: Path) -> None:
        self.value = torch.load(folder / "engine" / "tensor.pt", weights_only=True)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    before, joined = dict(os.environ), torch.distributed.is_initialized()
    yield distributed.init(no_cuda=True)
    if not joined:  # a group of other tests in this process stays: DeepSpeed keeps handles on it
        distributed.close()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def root(world: World, tmp_path: Path) -> Path:
    """Three checkpoints, whose tensors say which; the newest holds 3."""
    root = tmp_path / "checkpoints"
    for value, (epoch, step) in enumerate([(0, 20), (1, 0), (1, 9)], start=1):
        checkpoint.save(root, Tensor(value), TrainState(epoch, step), world, keep=9)
    return root


def restored(root: Path, world: World) -> float:
    """The value that another process would go on with."""
    checkpoint._digests.clear()
    engine = Tensor()
    checkpoint.restore(root, engine, world)
    return engine.value.item()


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


class TestRoundTrip:
    def test_without_a_checkpoint_the_state_is_fresh(self, world: World, tmp_path: Path) -> None:
        assert checkpoint.restore(tmp_path / "none", Tensor(), world) == TrainState()

    def test_without_a_checkpoint_the_engine_is_left_alone(self, world: World, tmp_path: Path) -> None:
        assert restored(tmp_path / "none", world) == 0

    def test_newest_is_taken(self, root: Path, world: World) -> None:
        assert restored(root, world) == 3

    def test_state_comes_back_whole(self, world: World, tmp_path: Path) -> None:
        history = [{"epoch": 1, "step": 3, "dev": {"score": 0.5, "metric": "F1"}}]
        state = TrainState(1, 2, [0.25, 0.1 + 0.2], 1, 4, history, 1.5, 2.5)
        checkpoint.save(tmp_path, Tensor(), state, world, keep=1)
        assert checkpoint.restore(tmp_path, Tensor(), world) == state

    @pytest.mark.parametrize(
        "draw",
        [
            pytest.param(lambda: torch.rand(3).tolist(), id="torch"),
            pytest.param(lambda: torch.randn(3).tolist(), id="torch normal"),
            pytest.param(lambda: np.random.rand(3).tolist(), id="numpy"),
            pytest.param(lambda: np.random.standard_normal(), id="numpy normal"),  # keeps every second draw
            pytest.param(lambda: random.random(), id="python"),
            pytest.param(lambda: random.gauss(), id="python normal"),  # so does this
        ],
    )
    def test_random_numbers_go_on(self, draw: Callable[[], object], world: World, tmp_path: Path) -> None:
        draw()
        checkpoint.save(tmp_path, Tensor(), TrainState(1), world, keep=1)
        expected = [draw(), draw()]
        checkpoint.restore(tmp_path, Tensor(), world)
        assert [draw(), draw()] == expected

    def test_saving_draws_no_random_number(self, world: World, tmp_path: Path) -> None:
        before = torch.get_rng_state()
        checkpoint.save(tmp_path, Tensor(), TrainState(1), world, keep=1)
        assert torch.equal(torch.get_rng_state(), before)

    def test_same_step_again_leaves_the_whole_one_alone(self, root: Path, world: World) -> None:
        """Replacing it would leave a moment without a checkpoint, and a kill then would lose the only one."""
        before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
        checkpoint.save(root, Tensor(4), TrainState(1, 9), world, keep=9)
        assert restored(root, world) == 3
        assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before

    def test_same_step_again_replaces_a_torn_one(self, root: Path, world: World) -> None:
        (root / "step-0001-000009" / "engine" / "tensor.pt").unlink()
        checkpoint.save(root, Tensor(4), TrainState(1, 9), world, keep=9)
        assert restored(root, world) == 4

    def test_fewer_ranks_go_on(self, root: Path, world: World) -> None:
        engine = Tensor()
        assert checkpoint.restore(root, engine, replace(world, size=2)).step_in_epoch == 9
        assert engine.value.item() == 3

    def test_a_rank_more_draws_numbers_of_its_own(self, root: Path) -> None:
        drawn = []
        for rank in (0, 1, 2):
            torch.manual_seed(rank)
            drawn.append(torch.rand(1).item())  # when training began
            checkpoint.restore_random_numbers(root / "step-0001-000009", rank, 33)
            drawn.append(torch.rand(1).item())
        assert len(set(drawn)) == 6

    def test_newest_state_needs_no_model(self, root: Path, tmp_path: Path) -> None:
        state = checkpoint.newest_state(root)
        assert state is not None and (state.epoch, state.step_in_epoch) == (1, 9)
        assert checkpoint.newest_state(tmp_path / "none") is None


class TestAnotherModel:
    def test_is_skipped_with_a_warning(self, root: Path, world: World, caplog: pytest.LogCaptureFixture) -> None:
        checkpoint.save(root, Tensor(4, "another model"), TrainState(2), world, keep=9)
        assert restored(root, world) == 3
        assert [r.levelname for r in caplog.records if "step-0002-000000 is of another model" in r.message] == [
            "WARNING"
        ]

    def test_neither_counts_nor_is_removed(self, root: Path, world: World) -> None:
        checkpoint.save(root, Tensor(4, "another model"), TrainState(0, 1), world, keep=1)
        assert len(names(root)) == 4
        checkpoint.save(root, Tensor(5), TrainState(1, 20), world, keep=1)
        assert names(root) == ["step-0000-000001", "step-0001-000020"]

    def test_is_replaced_at_the_same_place(self, root: Path, world: World) -> None:
        checkpoint.save(root, Tensor(4, "another model"), TrainState(1, 9), world, keep=9)
        engine = Tensor(0, "another model")
        checkpoint.restore(root, engine, world)
        assert engine.value.item() == 4


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def say(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "state.json").write_text(text)  # type: ignore[return-value]


class TestTorn:
    @pytest.mark.parametrize(
        "tear",
        [
            pytest.param(lambda folder: cut(folder / "engine" / "tensor.pt"), id="truncated"),
            pytest.param(lambda folder: cut(folder / "rng-0.pt"), id="truncated rng"),
            pytest.param(lambda folder: (folder / "engine" / "tensor.pt").unlink(), id="missing"),
            pytest.param(lambda folder: (folder / "state.json").unlink(), id="no state"),
            pytest.param(lambda folder: cut(folder / "state.json"), id="truncated state"),
            *(pytest.param(say(text), id=f"state {text!r}") for text in ("", "{}", "[]", "null", '{"files": []}')),
            pytest.param(lambda folder: (folder / "state.json").write_bytes(b"\xff"), id="state not UTF-8"),
        ],
    )
    def test_is_skipped_with_a_warning(
        self, tear: Callable[[Path], object], root: Path, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        tear(root / "step-0001-000009")
        assert restored(root, world) == 2
        assert [record.levelname for record in caplog.records if "step-0001-000009" in record.message] == ["WARNING"]

    def test_where_all_are_torn_the_state_is_fresh(self, root: Path, world: World) -> None:
        for folder in root.iterdir():
            cut(folder / "rng-0.pt")
        assert checkpoint.restore(root, Tensor(), world) == TrainState()

    def test_save_that_was_killed_is_invisible(
        self, root: Path, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Killed(Tensor):
            def save(self, folder: Path) -> None:
                super().save(folder)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(root, Killed(4), TrainState(2), world, keep=1)
        assert (restored(root, world), caplog.records) == (3, [])

    def test_what_a_killed_save_left_is_cleared_by_the_next(self, root: Path, world: World) -> None:
        (root / ".step-0002-000000.partial" / "engine").mkdir(parents=True)
        checkpoint.save(root, Tensor(4), TrainState(2), world, keep=1)
        assert names(root) == ["step-0002-000000"]

    def test_state_says_every_file_with_its_size(self, root: Path) -> None:
        folder = root / "step-0001-000009"
        files = json.loads((folder / "state.json").read_text())["files"]
        sizes = {name: (folder / name).stat().st_size for name in ("engine/tensor.pt", "rng-0.pt")}
        assert files == sizes


def zeros(path: Path, begin: int = 0, end: int | None = None) -> None:
    """As a disk does it: of the same size."""
    content = path.read_bytes()
    begin, end = begin % len(content), len(content) if end is None else end
    assert any(content[begin:end])
    path.write_bytes(content[:begin] + bytes(end - begin) + content[end:])


def replace_text(folder: Path, old: str, new: str) -> None:
    path = folder / "state.json"
    text = path.read_text()
    assert old in text and len(old) == len(new)
    path.write_text(text.replace(old, new))


def one_byte(path: Path, begin: int) -> None:
    """The first one from there on that is not zero: the states of random generators differ from time to time."""
    content = path.read_bytes()
    at = next(place for place in range(begin, len(content)) if content[place])
    zeros(path, at, at + 1)


DAMAGES = [
    pytest.param(lambda folder: zeros(folder / "engine" / "tensor.pt", -64), id="zeros at the end"),
    pytest.param(lambda folder: zeros(folder / "engine" / "tensor.pt", 0, 8), id="zeroed header"),
    pytest.param(lambda folder: zeros(folder / "engine" / "tensor.pt"), id="zeros"),
    pytest.param(lambda folder: one_byte(folder / "rng-0.pt", 900), id="one byte of rng"),
    pytest.param(lambda folder: zeros(folder / "state.json"), id="zeroed state"),
    pytest.param(lambda folder: replace_text(folder, '"step_in_epoch": 9', '"step_in_epoch": 8'), id="another place"),
    pytest.param(lambda folder: replace_text(folder, '"epoch"', '"epocH"'), id="a name in the state"),
    pytest.param(lambda folder: replace_text(folder, '"digest"', '"digesT"'), id="name of the digest"),
    pytest.param(lambda folder: replace_text(folder, '"sha256": {', '"sha257": {'), id="name of the digests"),
]


class TestDamageOfEqualSize:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_is_skipped_with_a_warning(
        self, damage: Callable[[Path], object], root: Path, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        damage(root / "step-0001-000009")
        assert restored(root, world) == 2
        assert [record.levelname for record in caplog.records if "step-0001-000009" in record.message] == ["WARNING"]
        state = checkpoint.newest_state(root)
        assert state is not None and (state.epoch, state.step_in_epoch) == (1, 0)

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_neither_counts_nor_pushes_out_a_whole_one(
        self, damage: Callable[[Path], object], root: Path, world: World
    ) -> None:
        damage(root / "step-0001-000009")
        checkpoint._digests.clear()
        checkpoint.save(root, Tensor(4), TrainState(1, 4), world, keep=1)
        assert names(root) == ["step-0001-000004"]

    def test_warning_says_which_file(self, root: Path, world: World, caplog: pytest.LogCaptureFixture) -> None:
        zeros(root / "step-0001-000009" / "engine" / "tensor.pt", 0, 8)
        restored(root, world)
        assert "is damaged (tensor.pt changed after it was written) and is skipped" in caplog.text

    def test_same_step_again_replaces_it(self, root: Path, world: World) -> None:
        one_byte(root / "step-0001-000009" / "rng-0.pt", 900)
        checkpoint._digests.clear()
        checkpoint.save(root, Tensor(4), TrainState(1, 9), world, keep=9)
        assert restored(root, world) == 4

    def test_older_versions_wrote_no_digests(self, root: Path, world: World) -> None:
        path = root / "step-0001-000009" / "state.json"
        content = json.loads(path.read_text())
        del content["sha256"], content["digest"], content["state"]["best"]
        path.write_text(json.dumps(content))
        assert restored(root, world) == 3

    def test_a_file_is_read_once(self, root: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """They are gigabytes, and several parts of a run ask for the newest checkpoint."""
        checkpoint._digests.clear()
        read: list[Path] = []
        sha256 = checkpoint.sha256
        monkeypatch.setattr(checkpoint, "sha256", lambda path: read.append(path) or sha256(path))
        checkpoint.newest_state(root)
        checkpoint.newest(root, "a model")
        assert sorted(path.name for path in read) == ["rng-0.pt", "tensor.pt"]
        checkpoint.save(root, Tensor(4), TrainState(2), world, keep=1)
        assert len(read) == len(set(read)) == 8  # of the new one before it got its name, and of those to be pruned


class TestOrder:
    @pytest.mark.parametrize(
        ("older", "newer"),
        [
            ((9_999, 0), (10_000, 0)),
            ((9_999, 5), (10_000, 3)),
            ((0, 999_999), (0, 1_000_000)),
            ((99_999, 1), (100_000, 0)),
        ],
    )
    def test_is_by_number(self, older: tuple[int, int], newer: tuple[int, int], world: World, tmp_path: Path) -> None:
        checkpoint.save(tmp_path, Tensor(1), TrainState(*older), world, keep=1)
        checkpoint.save(tmp_path, Tensor(2), TrainState(*newer), world, keep=1)
        assert names(tmp_path) == ["step-{:04d}-{:06d}".format(*newer)]
        checkpoint.save(tmp_path, Tensor(1), TrainState(*older), world, keep=2)
        assert restored(tmp_path, world) == 2
        state = checkpoint.newest_state(tmp_path)
        assert state is not None and (state.epoch, state.step_in_epoch) == newer
        assert [path.name for path in run_folder.newest_first(tmp_path)] == [
            "step-{:04d}-{:06d}".format(*place) for place in (newer, older)
        ]

    def test_what_has_another_name_is_not_ours(self, root: Path, world: World) -> None:
        (root / "step-by-step").mkdir()
        checkpoint.save(root, Tensor(4), TrainState(2), world, keep=1)
        assert names(root) == ["step-0002-000000", "step-by-step"]
        assert restored(root, world) == 4


class TestBestWeights:
    """Beside the checkpoints, bound to them by digest."""

    @pytest.fixture
    def best(self, root: Path, world: World) -> dict[str, Any]:
        """Of epoch 2, named by the newest checkpoint."""
        best = checkpoint.save_best(root, Stream.of({"w": torch.tensor([5.0])}), 2)
        checkpoint.save(root, Tensor(4), TrainState(2, best=best), world, keep=2)
        return best

    def test_come_back(self, best: dict[str, Any], root: Path, world: World) -> None:
        state = checkpoint.restore(root, Tensor(), world)
        assert state.best == best and best["epoch"] == 2
        assert checkpoint.load_best(root, best)["w"].item() == 5

    def test_of_a_later_life_leave_those_of_a_checkpoint_alone(self, best: dict[str, Any], root: Path) -> None:
        for value in (6.0, 7.0):
            later = checkpoint.save_best(root, Stream.of({"w": torch.tensor([value])}), 2)
        assert checkpoint.load_best(root, best)["w"].item() == 5
        assert checkpoint.load_best(root, later)["w"].item() == 7
        assert len(list(root.glob("best-*"))) == 2  # no more than that on the disk

    def test_go_with_the_last_checkpoint_that_names_them(self, best: dict[str, Any], root: Path, world: World) -> None:
        later = checkpoint.save_best(root, Stream.of({"w": torch.tensor([6.0])}), 3)
        checkpoint.save(root, Tensor(5), TrainState(3, best=later), world, keep=1)
        assert list(root.glob("best-*")) == [checkpoint.best_file(root, later)]

    @pytest.mark.parametrize("damage", [lambda path: zeros(path, -4), cut, Path.unlink], ids=["changed", "cut", "gone"])
    def test_a_checkpoint_without_them_is_passed_over(
        self,
        damage: Callable[[Path], object],
        best: dict[str, Any],
        root: Path,
        world: World,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        path = checkpoint.best_file(root, best)
        damage(path)
        assert restored(root, world) == 3
        assert "step-0002-000000" in caplog.text
        assert_user_error(lambda: checkpoint.load_best(root, best), str(path), "start the same command again")

    def test_what_a_kill_left_is_cleared(self, root: Path, world: World) -> None:
        (root / ".step-best.partial").mkdir()
        (root / ".step-best.partial" / "weights").write_bytes(b"half")
        best = checkpoint.save_best(root, Stream.of({"w": torch.tensor([5.0])}), 1)
        assert not (root / ".step-best.partial").exists() and checkpoint.load_best(root, best)["w"].item() == 5


class TestPrune:
    @pytest.mark.parametrize(
        ("keep", "kept"),
        [
            (0, []),
            (1, ["step-0001-000009"]),
            (2, ["step-0001-000000", "step-0001-000009"]),
            (9, ["step-0000-000020", "step-0001-000000", "step-0001-000009"]),
        ],
    )
    def test_newest_are_kept(self, keep: int, kept: list[str], root: Path) -> None:
        checkpoint.prune(root, keep, "a model")
        assert names(root) == kept

    def test_a_torn_one_does_not_push_out_a_whole_one(self, root: Path, world: World) -> None:
        cut(root / "step-0001-000009" / "rng-0.pt")
        checkpoint.save(root, Tensor(4), TrainState(1, 4), world, keep=1)
        assert names(root) == ["step-0001-000004"]

    def test_saving_prunes(self, root: Path, world: World) -> None:
        checkpoint.save(root, Tensor(4), TrainState(2), world, keep=2)
        assert names(root) == ["step-0001-000009", "step-0002-000000"]


class TestBestEpoch:
    @pytest.mark.parametrize(
        ("scores", "best"),
        [([], None), ([None, None], None), ([0.1, 0.3, 0.2], 2), ([0.3, 0.1, 0.3], 1), ([None, 0.1], 2), ([-0.5], 1)],
    )
    def test_best_epoch(self, scores: list[float | None], best: int | None) -> None:
        history = [
            {"epoch": epoch} | ({} if score is None else {"dev": {"score": score}})
            for epoch, score in enumerate(scores, start=1)
        ]
        assert TrainState(history=history).best_epoch() == best

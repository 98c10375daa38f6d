"""What the disk, or wandb, does to a run: it ends in one clear line or goes on, and nothing that was saved is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from encoders import tiny_encoder
from running import arguments, fingerprint

from harness.ds.engine import Engine
from launch import train

ROOT = os.geteuid() == 0
LATER = 13  # an optimizer step between the second save and the third


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"), dropout=0.1)


def command(model: Path, output: Path, *more: str) -> list[str]:
    """Two epochs of 20 steps, saved at every fifth."""
    return arguments("biosses", model, output, "--num_train_epochs", "2", "--save_steps", "5", "--logging_steps", "1",
                     "--keep_checkpoints", "2", *more)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happened to."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train.main(command(model, output)) == 0
    return output


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Something that happens to the machine before an optimizer step of the next run."""

    def plan(step: int, event: Callable[[], object]) -> None:
        original, steps = Engine.micro_step, iter(range(1, 1_000_000))

        def micro_step(self: Engine, *batch: Any) -> Any:
            if next(steps) == step:
                event()
            return original(self, *batch)

        monkeypatch.setattr(Engine, "micro_step", micro_step)

    return plan


@pytest.fixture
def lock() -> Iterator[Callable[..., None]]:
    """Makes files and folders unwritable: root obeys the immutable flag alone, everyone else the mode."""
    locked: list[Path] = []

    def make(*paths: Path) -> None:
        for path in paths:
            if ROOT:
                if subprocess.run(["chattr", "+i", str(path)], check=False, capture_output=True).returncode:
                    pytest.skip("this file system has no immutable flag")
            else:
                path.chmod(0o500 if path.is_dir() else 0o400)
            locked.append(path)

    def undo() -> None:
        while locked:
            path = locked.pop()
            subprocess.run(["chattr", "-i", str(path)], check=True) if ROOT else path.chmod(0o700)

    make.undo = undo  # type: ignore[attr-defined]
    yield make
    undo()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system whose size is set with `resize`."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a file system here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def resize(place: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on stderr."""
    lines = [line for line in capsys.readouterr().err.splitlines() if "Writing model shards" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def saved(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def ends_as_if_nothing_had_happened(line: list[str], output: Path, undisturbed: Path) -> None:
    assert train.main(line) == 0
    assert fingerprint(output) == fingerprint(undisturbed)


def test_disk_full_while_saving(
    model: Path, undisturbed: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Room for one checkpoint and a half."""
    size = sum(path.stat().st_size for path in (undisturbed / "checkpoints" / "step-0002-000000").rglob("*"))
    resize(small_disk, size * 3 // 2 + 50_000)
    output = small_disk / "run"
    assert train.main(command(model, output)) == 1
    error = one_error(capsys)
    assert f"error: {small_disk}" in error and "--keep_checkpoints" in error
    assert "step-0000-000005" in saved(output)
    resize(small_disk, 64 << 20)
    assert train.main(command(model, output)) == 0
    assert "Resumed after 0 epochs and 5 steps" in capsys.readouterr().out
    ends_as_if_nothing_had_happened(command(model, output), output, undisturbed)


@pytest.mark.slow
def test_disk_still_full_at_the_next_start(model: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = small_disk / "run"
    resize(small_disk, 300_000)
    assert train.main(command(model, output)) == 1
    assert one_error(capsys).startswith(f"error: {small_disk}")
    for claim in output.glob(".first-failure-*"):  # else the next start has the space of what it removes
        claim.unlink()
    for left in (output / "checkpoints").glob(".step-*.partial"):
        shutil.rmtree(left)
    with open(small_disk / "filler", "wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(4096))
    assert train.main(command(model, output)) == 2
    assert "No space left on device" in one_error(capsys)


def test_folder_that_becomes_read_only(
    model: Path, undisturbed: Path, tmp_path: Path, at_step: Any, lock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    at_step(LATER, lambda: lock(output / "checkpoints", output))
    assert train.main(command(model, output)) == 1
    error = one_error(capsys)
    assert f"{output}/checkpoints" in error and "make it writable again" in error
    lock.undo()
    assert saved(output) == ["step-0000-000005", "step-0000-000010"]
    ends_as_if_nothing_had_happened(command(model, output), output, undisturbed)


def test_folder_that_is_read_only_at_the_start(
    model: Path, undisturbed: Path, tmp_path: Path, lock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    lock(output)
    assert train.main(command(model, output)) == 2
    assert f"--output_dir {output}: cannot be written" in one_error(capsys)
    lock.undo()
    ends_as_if_nothing_had_happened(command(model, output), output, undisturbed)


def test_figures_that_cannot_be_written(
    model: Path, undisturbed: Path, tmp_path: Path, at_step: Any, lock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reports are made from them: the run stops as it does for a checkpoint."""
    output = tmp_path / "run"
    at_step(LATER, lambda: lock(output / "metrics.jsonl"))
    assert train.main(command(model, output)) == 1
    assert f"error: {output}/metrics.jsonl: cannot be written" in one_error(capsys)
    lock.undo()
    ends_as_if_nothing_had_happened(command(model, output), output, undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="only root has a way to close a file that is open")
def test_log_that_cannot_be_written(
    model: Path, undisturbed: Path, tmp_path: Path, at_step: Any, lock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is made from it: the run goes on, with one warning."""
    output = tmp_path / "run"
    at_step(LATER, lambda: lock(output / "train.log"))
    assert train.main(command(model, output)) == 0
    captured = capsys.readouterr()
    assert captured.out.count(f"WARNING: {output}/train.log: cannot be written") == 1
    assert "Logging error" not in captured.err
    assert fingerprint(output) == fingerprint(undisturbed)


@pytest.mark.parametrize("logging_steps", ["1", "0"])
def test_folder_that_is_taken_away(
    logging_steps: str, model: Path, tmp_path: Path, at_step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not made anew, as a folder that is no run's; put back, the run goes on."""
    output, away = tmp_path / "run", tmp_path / "away"
    at_step(LATER, lambda: output.rename(away))
    line = command(model, output)
    line[line.index("--logging_steps") + 1] = logging_steps
    assert train.main(line) == 1
    error = one_error(capsys)
    assert f"error: {output}" in error and "was taken away" in error
    assert not output.exists()
    away.rename(output)
    assert train.main(line) == 0
    assert "Resumed after 0 epochs and 10 steps" in capsys.readouterr().out


def test_encoder_in_the_output_folder(
    model: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder of no run, or of a run with another encoder: nothing in it is touched."""
    for output in (tmp_path / "no-run", Path(shutil.copytree(undisturbed, tmp_path / "run"))):
        encoder = Path(shutil.copytree(model, output / "model", dirs_exist_ok=True))
        (encoder / "notes.txt").write_text("mine")
        before = fingerprint(output)
        assert train.main(command(encoder, output, "--overwrite_output_dir")) == 2
        assert one_error(capsys).startswith(
            f"error: --model_name_or_path {encoder}: lies in the run's own --output_dir"
        )
        assert {name: digest for name, digest in fingerprint(output).items() if name != ".lock"} == {
            name: digest for name, digest in before.items() if name != ".lock"
        }


def test_a_run_is_replaced_by_another_and_strangers_files_stay(
    model: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    theirs = [
        output / name for name in ("notes.txt", "wandb/notes.txt", "predictions/notes.txt", "checkpoints/notes.txt")
    ]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (output / "model" / "added_tokens.json").write_text("{}")
    other = command(model, output, "--seed", "99", "--max_steps", "1", "--overwrite_output_dir")
    assert train.main(other) == 2
    assert "model/added_tokens.json in it is not of the run there" in one_error(capsys)
    assert (output / "result.json").read_bytes() == (undisturbed / "result.json").read_bytes()
    (output / "model" / "added_tokens.json").unlink()
    assert train.main(other) == 0
    assert [path.read_text() for path in theirs] == ["mine"] * 4
    assert saved(output) == ["notes.txt", "step-0001-000000"]


@pytest.mark.slow
def test_folder_that_is_removed(
    model: Path, undisturbed: Path, tmp_path: Path, at_step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    at_step(LATER, lambda: shutil.rmtree(output))
    assert train.main(command(model, output)) == 1
    assert "was taken away" in one_error(capsys)
    assert not output.exists()
    ends_as_if_nothing_had_happened(command(model, output), output, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_newest_checkpoint_that_is_damaged(
    damage: str, model: Path, undisturbed: Path, tmp_path: Path, at_step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    output, away = tmp_path / "run", tmp_path / "away"
    at_step(LATER, lambda: output.rename(away))
    assert train.main(command(model, output)) == 1
    away.rename(output)
    newest = output / "checkpoints" / "step-0000-000010"
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.unlink() if damage == "missing" else os.truncate(largest, largest.stat().st_size // 2)
    assert train.main(command(model, output)) == 0
    said = capsys.readouterr().out
    assert f"WARNING: {newest} is not complete and is skipped" in said
    assert "Resumed after 0 epochs and 5 steps" in said
    assert fingerprint(output) == fingerprint(undisturbed)


@pytest.mark.slow
def test_wandb_that_cannot_be_reached(
    model: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One warning; the figures are kept for `wandb sync`."""
    for name, value in {
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_INIT_TIMEOUT": "5",
    }.items():
        monkeypatch.setenv(name, value)
    output = tmp_path / "run"
    line = command(model, output)
    line[line.index("--wandb_mode") + 1] = "online"
    assert train.main(line) == 0
    said = capsys.readouterr().out
    assert said.count("WARNING: wandb") == 1 and "wandb is offline for this run" in said
    assert "wandb sync" in said.splitlines()[-1]
    left = {name: digest for name, digest in fingerprint(output).items() if not name.startswith("wandb")}
    assert left == fingerprint(undisturbed)

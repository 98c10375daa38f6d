"""What a run says of memory: before it starts, in its log, and where there is not enough."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from running import arguments, assert_user_error, free_port, run, start_processes

import tasks
from harness import memory
from harness.ds.engine import Engine
from harness.errors import TrainingFailed
from harness.memory import Room


def log(folder: Path) -> list[str]:
    """What a run's log says of memory."""
    text = (folder / "train.log").read_text(encoding="utf-8")
    return [line.partition("memory  ")[2] for line in text.splitlines() if "memory  " in line]


def with_room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(memory, "room", lambda _: Room(free, free, True))


def test_a_run_that_fits_says_in_one_line_how_much_it_needs(tiny_bert: Path, tmp_path: Path) -> None:
    run(arguments("mednli", tiny_bert, tmp_path / "run", "--max_steps", "1"))
    (line,) = log(tmp_path / "run")
    assert re.fullmatch(r"about \d+ MiB a device of [\d.]+ GiB", line)


def test_a_run_that_may_not_fit_is_told_what_would_and_goes_on(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room(monkeypatch, 3 * 2**20)
    batch = ("--per_gpu_train_batch_size", "32", "--gradient_accumulation_steps", "1")
    result = run(arguments("mednli", tiny_bert, tmp_path / "run", "--max_steps", "1", *batch))
    _, warning = log(tmp_path / "run")
    found = re.search(
        r"--per_gpu_train_batch_size (\d+) --gradient_accumulation_steps (\d+) needs about \d+ MiB", warning
    )
    assert found and int(found[1]) * int(found[2]) == 32 == result["examples_per_step"]


def test_a_model_larger_than_all_memory_is_refused_before_it_is_loaded(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room(monkeypatch, 200_000)
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_bert.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with (folder / "model.safetensors").open("r+b") as file:  # its weights could not be loaded
        file.seek(-64, 2)
        file.write(b"\xff" * 64)
    parts = (f"--model_name_or_path {folder}", "gradients and optimizer state are", "larger than the memory")
    assert_user_error(lambda: run(arguments("mednli", folder, tmp_path / "run")), *parts)


def test_out_of_memory_in_training_says_what_would_need_less(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Engine, "micro_step", fail)
    batch = ("--per_gpu_train_batch_size", "16", "--gradient_accumulation_steps", "1")
    with pytest.raises(TrainingFailed, match="out of memory at step 0") as caught:
        run(arguments("mednli", tiny_bert, tmp_path / "run", *batch))
    found = re.search(r"--per_gpu_train_batch_size (\d+) --gradient_accumulation_steps (\d+) needs", str(caught.value))
    assert found and int(found[1]) * int(found[2]) == 16 and "\n" not in str(caught.value)


def _ask(rank: int, port: int, folder: Path) -> None:
    """What one of two ranks is told to be free, where the second's job may have 64 MiB."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), SLURM_MEM_PER_NODE="64" if rank else "0")
    from harness import distributed
    from harness.config import BatchPlan, RunConfig
    from harness.ds import config as ds_config

    world = distributed.init(no_cuda=True)
    given = RunConfig(task="mednli", model_name_or_path="x")
    fit = memory.fit(given, ds_config.read("fp32"), BatchPlan(8, 2, 1, 16), world, tasks.get("mednli"), 32)
    (folder / str(rank)).write_text(str(fit.room.device), encoding="utf-8")


def test_ranks_go_by_the_one_with_least(tmp_path: Path) -> None:
    start_processes(_ask, (free_port(), tmp_path), 2)
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == [str(32 * 2**20)] * 2

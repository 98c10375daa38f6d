"""The session fixture `ten_runs`: a finished run of a tiny encoder on a few rows of each task.

A test file asks for it with `pytest_plugins = ("finished_runs",)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from running import arguments, cut, run

import tasks


@dataclass(frozen=True)
class Finished:
    folder: Path
    data: Path


@pytest.fixture(scope="session")
def ten_runs(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    """Run folder and data folder by task; the data is given, so that nothing is SAMPLE DATA."""
    root = tmp_path_factory.mktemp("ten")
    found = {}
    for task in tasks.BLUE:
        data = cut(task, root / "data" / task, 40)
        folder = root / "runs" / task / "tiny-bert" / "seed-12"
        more = ("--data_dir", str(data), "--max_steps", "4", "--logging_steps", "2", "--per_gpu_train_batch_size", "16")
        run(arguments(task, tiny_bert, folder, *more))
        found[task] = Finished(folder, data)
    return found

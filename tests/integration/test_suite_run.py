"""The wandb run that sums a suite up, read back from an offline one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
import wandb_offline
from made_up_runs import made_up

from harness.config import RunConfig
from launch.reporting import suite_run

FLAGS = ("--wandb_group", "mine", "--wandb_mode", "offline", "--wandb_project", "p")


@pytest.fixture(autouse=True)
def own_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()
    yield
    wandb.teardown()


def runs(root: Path, seeds: int, **more: object) -> list[RunConfig]:
    folders = [
        made_up(root / task / f"seed-{seed}", task, seed=seed, score=score, flags=FLAGS, **more)  # type: ignore[arg-type]
        for task, score in (("mednli", 0.75), ("hoc", 0.5))
        for seed in range(seeds)
    ]
    return [RunConfig.from_dict(json.loads((folder / "config.json").read_text())) for folder in folders]


def test_a_repeat_goes_on_with_the_same_run(tmp_path: Path) -> None:
    assert "wandb sync" in (suite_run.save(runs(tmp_path, 1), tmp_path) or "")
    suite_run.save(runs(tmp_path, 2), tmp_path)
    assert len(wandb_offline.logs(tmp_path)) == 2
    assert len({log.stem for log in wandb_offline.logs(tmp_path)}) == 1
    [*_, run] = [record["run"] for record in wandb_offline.records(tmp_path) if record["type"] == "run"]
    assert (run["run_group"], run["display_name"], run["job_type"], run["project"]) == ("mine", "mine", "summary", "p")
    assert run["run_id"] == (tmp_path / "wandb_id").read_text().strip()
    assert "no total without MedSTS" in run["notes"]
    config = wandb_offline.header(tmp_path)["config"]
    assert (config["tasks"], config["seeds"], config["runs"]) == (["hoc", "mednli"], [0, 1], 4)
    summary = wandb_offline.summary(tmp_path)
    assert (summary["encoder-a/mednli"], summary["encoder-a/hoc"]) == (0.75, 0.5)
    tables = [json.loads(path.read_text()) for path in sorted((tmp_path / "wandb").rglob("files/**/*.table.json"))]
    cells = [dict(zip(table["columns"], row, strict=True)) for table in tables for row in table["data"]]
    assert sorted((cell["seeds"], cell["MedNLI"], cell["Total"]) for cell in cells) == [
        (1, "75.0 t", "lacks 8"),
        (2, "75.0 (0.0) t", "lacks 8"),
    ]
    assert not (tmp_path / "metrics.jsonl").exists()  # the folder above the runs is none itself


def test_sample_data_gets_no_leaderboard(tmp_path: Path) -> None:
    assert suite_run.save(runs(tmp_path, 1, data_dir=None), tmp_path) is None
    assert not (tmp_path / "wandb").exists()

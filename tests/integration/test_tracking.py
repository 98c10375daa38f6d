"""Real offline wandb runs, written and read back; the JSONL file; what happens when wandb fails."""

from __future__ import annotations

import json
import math
import os
import pwd
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
import wandb_offline

from harness import tracking
from harness.errors import UserError
from harness.task import Confusion, Report, Scatter
from harness.tracking import Tracker

IDENTITY = tracking.TrackerIdentity("blue-test", group="mednli/tiny", name="seed-1", tags=("SAMPLE DATA",), notes="n")
FAKE_KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No key, no settings of the person who runs the tests; a wandb process that has seen this environment only."""
    home = tmp_path_factory.mktemp("home")
    wandb.teardown()  # first: else the address of an earlier test's process, $WANDB_SERVICE, would come back afterwards
    for name in [name for name in os.environ if name.startswith(("WANDB", "XDG_", "NETRC"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield home
    wandb.teardown()


def build(folder: Path, mode: str | None = "offline", resumed_step: int = 0) -> Tracker:
    config = {"task": "mednli", "learning_rate": 5e-5, "data": "SAMPLE DATA"}
    return tracking.build(folder, is_main=True, mode=mode, config=config, identity=IDENTITY, resumed_step=resumed_step)


def test_the_configuration_names_no_home(own_home: Path, tmp_path: Path) -> None:
    """Nor does it by the name in the user database, or behind links; other paths stay."""
    (tmp_path / "link").symlink_to(own_home)
    entry = pwd.getpwuid(os.getuid()).pw_dir
    config = {
        "output_dir": f"{own_home}/runs/a",
        "data_dir": str(own_home),
        "task_file": f"{entry}/task.toml" if len(entry) > 1 else None,
        "own_task": {"files": [f"{own_home}/x", (f"file://{own_home}/y", 3)]},
        "notes": f"from {own_home}/a:{own_home}/b, not {own_home}2/c or /mnt{own_home}/d",
        "model": "/scratch/models/bert",
    }
    tracking.build(tmp_path / "run", is_main=True, mode="offline", config=config, identity=IDENTITY).close("finished")
    kept = wandb_offline.header(tmp_path / "run")["config"]
    assert (kept["output_dir"], kept["data_dir"], kept["model"]) == ("~/runs/a", "~", config["model"])
    assert kept["task_file"] in (None, "~/task.toml") and kept["own_task"] == {"files": ["~/x", ["file://~/y", 3]]}
    assert kept["notes"] == f"from ~/a:~/b, not {own_home}2/c or /mnt{own_home}/d"


def train(tracker: Tracker, scores: dict[int, float], steps_per_epoch: int = 2) -> None:
    for epoch, score in scores.items():
        for step in range((epoch - 1) * steps_per_epoch + 1, epoch * steps_per_epoch + 1):
            tracker.log_step(step, {"train/loss": 1 / step, "train/lr": 5e-5})
        values = {"train/epoch_loss": 1 / epoch, "dev/score": score, "dev/loss": 1 - score}
        tracker.log_epoch(epoch, epoch * steps_per_epoch, values)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def report(chart: Confusion | Scatter | None) -> Report:
    return Report(score=0.5, metric="accuracy", values={}, per_class={}, chart=chart)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Our own log lines; wandb's go to its debug.log."""
    ours = [record for record in caplog.records if record.name.startswith("harness")]
    return [f"{record.levelname} {record.getMessage()}" for record in ours]


def core_processes() -> list[int]:
    """wandb's own processes under this one."""
    children = [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
    return [pid for pid in children if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_offline_run_holds_every_epoch_and_the_best(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = build(tmp_path)
    train(tracker, {1: 0.3, 2: 0.9, 3: 0.5})
    tracker.chart("test", report(Confusion(("yes", "no"), ("yes", "no"), ((3, 1), (0, 4)))))
    tracker.summary({"test/score": 0.77})
    last_line = tracker.close("finished")

    rows = wandb_offline.history(tmp_path)
    assert [(row["epoch"], row["dev/score"]) for row in rows if "dev/score" in row] == [(1, 0.3), (2, 0.9), (3, 0.5)]
    assert [row["global_step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    summary = wandb_offline.summary(tmp_path)
    assert summary["dev/score"] == {"max": 0.9}
    assert summary["dev/loss"] == {"min": pytest.approx(0.1)}
    assert summary["test/score"] == 0.77
    metrics = [record["metric"] for record in wandb_offline.records(tmp_path) if record["type"] == "metric"]
    axes = {metric.get("name") or metric["glob_name"]: metric.get("step_metric") for metric in metrics}
    assert (axes["train/*"], axes["train/epoch_loss"], axes["dev/*"]) == ("global_step", "epoch", "epoch")

    header = wandb_offline.header(tmp_path)
    assert header["run_id"] == (tmp_path / "wandb_id").read_text().strip()
    assert (header["project"], header["tags"], header["exit_code"]) == ("blue-test", ["SAMPLE DATA"], 0)
    assert header["config"]["learning_rate"] == 5e-5
    [log] = wandb_offline.logs(tmp_path)
    assert last_line == f"wandb sync {log.parent}"
    assert capfd.readouterr() == ("", "")  # wandb itself says nothing
    for name in ("wandb_id", "metrics.jsonl"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


def test_resumed_run_keeps_id_and_best(tmp_path: Path) -> None:
    folder = tmp_path / "run with space"
    folder.mkdir()
    first = build(folder)
    train(first, {1: 0.9, 2: 0.4})
    first.close("stopped")
    identity = (folder / "wandb_id").read_text()
    second = build(folder, resumed_step=2)
    train(second, {2: 0.4, 3: 0.5})
    last_line = second.close("finished")

    assert (folder / "wandb_id").read_text() == identity
    assert len(wandb_offline.logs(folder)) == 2
    assert {log.stem for log in wandb_offline.logs(folder)} == {f"run-{identity.strip()}"}
    assert wandb_offline.summary(folder)["dev/score"] == {"max": 0.9}
    assert wandb_offline.summary(folder)["dev/loss"] == {"min": pytest.approx(0.1)}
    assert any(record["type"] == "preempting" for record in wandb_offline.records(folder))
    assert last_line is not None
    program, verb, pattern = shlex.split(last_line)
    assert (program, verb) == ("wandb", "sync")
    assert sorted(Path("/").glob(pattern[1:])) == [log.parent for log in wandb_offline.logs(folder)]
    assert [line["epoch"] for line in lines(folder) if line["kind"] == "epoch"] == [1, 2, 3]


def test_what_is_synced_needs_no_command(tmp_path: Path) -> None:
    tracker = build(tmp_path)
    [log] = wandb_offline.logs(tmp_path)
    log.with_suffix(".wandb.synced").touch()
    assert tracker.close("failed") is None
    assert wandb_offline.header(tmp_path)["exit_code"] == 1


def test_charts_hold_labels_and_numbers_and_stay_in_the_folder(tmp_path: Path, own_home: Path) -> None:
    tracker = build(tmp_path)
    tracker.chart("dev", report(Scatter((1.0, 2.0), (1.5, 2.5))))
    tracker.chart("dev", report(Confusion(("a", "b"), ("TP", "FP"), ((1, 2), (3, 4)))))
    tracker.chart("dev", report(Confusion(("a", "b"), ("a", "b"), ((5, 6), (7, 8)))))
    tracker.chart("dev", report(None))
    tracker.close("finished")
    tables = [json.loads(path.read_text()) for path in sorted((tmp_path / "wandb").rglob("files/**/*.table.json"))]
    found = {tuple(table["columns"]): table["data"] for table in tables}
    assert found[("gold", "predicted")] == [[1.0, 1.5], [2.0, 2.5]]
    assert found[("label", "TP", "FP")] == [["a", 1, 2], ["b", 3, 4]]
    cells = [["a", "a", 5], ["a", "b", 6], ["b", "a", 7], ["b", "b", 8]]
    assert found[("Actual", "Predicted", "nPredictions")] == cells
    names = {"dev/counts", "dev/confusion_table", "dev/gold_predicted_table"}
    assert names <= wandb_offline.summary(tmp_path).keys()
    assert not [path for path in own_home.rglob("*") if path.is_file() and "logs" not in path.parts]
    assert "WANDB_DATA_DIR" not in os.environ


def test_scan_finds_what_it_looks_for(tmp_path: Path) -> None:
    tracker = build(tmp_path)
    tracker.summary({"note": "the pati\u00ebnt has fever"})
    tracker.close("finished")
    assert wandb_offline.scan(tmp_path, ["pati\u00ebnt has", "SAMPLE DATA"])
    assert wandb_offline.scan(tmp_path, ["no such sentence"]) == []


def test_other_ranks_leave_no_trace(tmp_path: Path) -> None:
    tracker = tracking.build(tmp_path, is_main=False, mode="offline", config={}, identity=IDENTITY)
    train(tracker, {1: 0.5})
    tracker.chart("dev", report(None))
    tracker.summary({"a": 1})
    assert tracker.close("finished") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "variable", "value"),
    [
        ("disabled", "WANDB_MODE", "online"),
        ("disabled", "WANDB_MODE", "disabled"),
        (None, "WANDB_MODE", "disabled"),
        (None, "WANDB_DISABLED", "true"),
    ],
)
def test_disabled_leaves_the_jsonl_alone(
    tmp_path: Path, mode: str | None, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    tracker = build(tmp_path, mode=mode)
    numpy_values: dict[str, Any] = {"train/lr": np.float32(0.5), "count": np.int64(4)}
    tracker.log_step(1, {"train/loss": math.nan, "n": 3, **numpy_values})
    tracker.log_epoch(1.0, 1, {"dev/score": math.inf})
    assert tracker.close("finished") is None
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    step, epoch = lines(tmp_path)
    assert step.keys() == {"kind", "step", "epoch", "time", "values"}
    assert (step["kind"], step["step"], step["epoch"]) == ("step", 1, None)
    assert step["values"] == {"train/loss": None, "train/lr": 0.5, "n": 3, "count": 4}
    assert (epoch["kind"], epoch["epoch"], epoch["values"]) == ("epoch", 1.0, {"dev/score": None})


def test_a_replayed_part_shows_once(tmp_path: Path) -> None:
    train(build(tmp_path, mode="disabled"), {1: 0.1, 2: 0.2, 3: 0.3})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')  # killed here
    tracker = build(tmp_path, mode="disabled", resumed_step=4)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 2, 3, 4, 4]
    tracker.log_epoch(2, 4, {"dev/score": 0.25})  # was logged, but not yet in a checkpoint
    assert [line["values"]["dev/score"] for line in lines(tmp_path) if line["kind"] == "epoch"] == [0.1, 0.25]
    assert (tmp_path / "metrics.jsonl").stat().st_mode & 0o077 == 0
    build(tmp_path, mode="disabled")
    assert lines(tmp_path) == []


def test_unknown_mode_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(UserError, match=r"'onlin'.*online, offline, disabled"):
        tracking.build(tmp_path, is_main=False, mode=None, config={}, identity=IDENTITY)


@pytest.mark.parametrize("variables", [{"WANDB_MODE": "dryrun"}, {"WANDB_DISABLED": "true"}])
def test_mode_that_is_given_wins_over_the_variables(
    tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**variables, "WANDB_PROJECT": "other", "WANDB_NAME": "other"}.items():
        monkeypatch.setenv(name, value)
    assert "offline-run-" in (build(tmp_path, mode="offline").close("finished") or "")
    header = wandb_offline.header(tmp_path)
    assert header["project"] == IDENTITY.project


def test_no_key_means_offline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "offline-run-" in (build(tmp_path, mode=None).close("finished") or "")
    assert said(caplog) == []
    build(tmp_path, mode="online").close("finished")
    [line] = said(caplog)
    assert line.startswith("WARNING") and "wandb login" in line


@pytest.mark.parametrize("key", [FAKE_KEY, "too short"])
def test_online_that_fails_is_offline(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    started = time.monotonic()
    tracker = build(tmp_path, mode=None)  # a key is there: online is tried
    train(tracker, {1: 0.6})
    last_line = tracker.close("finished")
    assert time.monotonic() - started < 20
    assert "wandb sync" in (last_line or "") and "offline-run-" in (last_line or "")
    assert wandb_offline.summary(tmp_path)["dev/score"] == {"max": 0.6}
    [line] = said(caplog)
    assert line.startswith("WARNING wandb is offline for this run: ") and "\n" not in line
    assert list((tmp_path / "wandb").glob("run-*")) == []
    assert wandb_offline.scan(tmp_path, [key]) == []


def test_training_outlives_wandb(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = build(tmp_path)
    tracker.log_step(1, {"train/loss": 1.0})
    [process] = core_processes()
    os.kill(process, signal.SIGKILL)
    time.sleep(0.5)
    train(tracker, {1: 0.5, 2: 0.6})
    assert "wandb sync" in (tracker.close("finished") or "")
    [line] = said(caplog)
    assert line.startswith("WARNING wandb failed, going on with metrics.jsonl only: ")
    assert [line["values"]["dev/score"] for line in lines(tmp_path) if line["kind"] == "epoch"] == [0.5, 0.6]
    again = build(tmp_path, resumed_step=4)  # the same process can go on
    train(again, {3: 0.7})
    again.close("finished")
    assert wandb_offline.history(tmp_path)[-1]["dev/score"] == 0.7
    assert capfd.readouterr() == ("", "")


def test_rows_that_a_killed_process_had_not_written_are_logged_again(tmp_path: Path) -> None:
    """All of them after SIGKILL, and none after a proper close."""
    tracker = build(tmp_path)
    train(tracker, {1: 0.3})
    tracker.close("stopped")
    tracker = build(tmp_path, resumed_step=2)
    tracker.log_epoch(2, 4, {"dev/score": 0.4, "dev/loss": 0.6})
    for pid in core_processes():
        os.kill(pid, signal.SIGKILL)
    tracker.close("failed")
    tracker = build(tmp_path, resumed_step=4)
    tracker.log_epoch(3, 6, {"dev/score": 0.5, "dev/loss": 0.5})
    tracker.close("finished")
    epochs = [(row["epoch"], row["dev/score"]) for row in wandb_offline.history(tmp_path) if "dev/score" in row]
    assert epochs.count((1, 0.3)) == epochs.count((3, 0.5)) == 1
    assert set(epochs) == {(1, 0.3), (2, 0.4), (3, 0.5)}

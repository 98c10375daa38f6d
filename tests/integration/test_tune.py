"""`submit.py --tune` from end to end: trials on train and dev, then the runs with what was chosen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from encoders import tiny_encoder
from running import SMALL, arguments, clean_environment, cut, fingerprint

import tasks
from harness.config import RunConfig
from harness.errors import TrainingFailed, is_final
from harness.files import write
from harness.run_folder import RunFolder
from launch import report, submit, train
from launch.run import settings

pytestmark = pytest.mark.slow

SPACE = """
tasks = ["biosses"]
[tune]
sampler = "random"
trials = 6
learning_rate = [1e-3, 3e-3, 1e-4, 1e30]
num_train_epochs = [1, 2]
"""
# In each process of the command: ends it where a test file is opened before anything is chosen.
WATCH = """
import os, sys
from pathlib import Path
def watch(event, args):
    if event == "open" and str(args[0]).endswith("test.tsv") and "/data/" in str(args[0]):
        if '"kind": "chosen"' not in Path(os.environ["RECORD"]).read_text():
            os.write(2, b"test.tsv was opened")
            os._exit(99)
        Path(os.environ["OPENED"]).touch()
sys.addaudithook(watch)
"""
ON_CPU = ("--cluster", "local", "--gpus_per_node", "0")


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line, but for --output_dir and where."""
    place = tmp_path_factory.mktemp("tune")
    cut("biosses", place / "data" / "biosses", 40)
    model = tiny_encoder(place / "tiny", dropout=0.1)
    (place / "suite.toml").write_text(f'models = ["{model}"]\n{SPACE}')
    small = [word for word in SMALL if word not in ("--learning_rate", "1e-3")]
    return ["--suite", str(place / "suite.toml"), "--tune", "--data_dir", str(place / "data" / "biosses"), *small]


@pytest.fixture(scope="module")
def whole(line: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a search that nothing disturbed, and that was watched; one of its rates diverges."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "sitecustomize.py").write_text(WATCH)
    env = {"RECORD": str(folder / "out/biosses/tiny/tune/search.json"), "OPENED": str(folder / "opened")}
    words = [*line, "--output_dir", str(folder / "out"), *ON_CPU]
    done = subprocess.run([sys.executable, submit.__file__, *words], text=True, capture_output=True, timeout=500,
                          env={**clean_environment(), **env, "PYTHONPATH": str(folder)})  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (folder / "opened").exists()  # by the run with what was chosen: the watch sees what it should
    assert "chosen for biosses, tiny" in done.stdout and "say little" in done.stdout
    return folder / "out" / "biosses" / "tiny"


def test_trials_score_dev_alone_and_the_best_settings_are_trained(whole: Path) -> None:
    trials = [json.loads(path.read_text()) for path in whole.glob("tune/*/seed-1000/result.json")]
    chosen = json.loads((whole / "tune/search.json").read_text())["chosen"]
    diverged = [one for one in chosen["tried"] if one["values"]["learning_rate"] == 1e30]
    assert diverged and all(one["dev"] == [] for one in diverged)  # left out of the choice
    assert len(trials) == 6 - len(diverged) and all(set(trial["scores"]) == {"dev"} for trial in trials)
    assert all(not trial["dev_was_trained_on"] for trial in trials)
    assert not [path for name in ("model", "checkpoints") for trial in trials
                for path in whole.glob(f"tune/*{trial['search']['values']['learning_rate']:g},*/*/{name}")]  # fmt: skip
    best = max(trials, key=lambda trial: float(trial["scores"]["dev"]["score"]))
    result = json.loads((whole / "seed-12/result.json").read_text())
    config = json.loads((whole / "seed-12/config.json").read_text())
    assert result["search"] == chosen and chosen["trials"] == 6
    assert chosen["dev"] == pytest.approx(best["scores"]["dev"]["score"], abs=1e-12)
    assert {name: config[name] for name in chosen["values"]} == best["search"]["values"]
    assert set(result["scores"]) == {"dev", "test"} and (whole / "seed-12/model").is_dir()
    log = (whole / "seed-12/train.log").read_text()
    assert "the best of 6 by dev, trained on train alone: 40 examples" in log and "say little" in log
    for trial in whole.glob("tune/*/seed-1000/fingerprint.json"):
        assert set(json.loads(trial.read_text())["data"]) == {"train", "dev"}


def test_killed_in_between_the_same_command_ends_with_the_same_runs(
    line: list[str], whole: Path, tmp_path: Path
) -> None:
    words = [*line, "--output_dir", str(tmp_path / "out"), *ON_CPU]
    command = [sys.executable, submit.__file__, *words]

    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen(command, env=clean_environment(), text=True, start_new_session=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    first = begin()
    until = time.monotonic() + 200
    while len(list(tmp_path.glob("out/biosses/tiny/tune/*/seed-1000/result.json"))) < 2:
        assert time.monotonic() < until and first.poll() is None, first.communicate()[0]
        time.sleep(0.05)
    for path in tmp_path.glob("out/biosses/tiny/tune/*/seed-1000/attempt.json"):
        attempt = json.loads(path.read_text())
        if attempt["state"] == "running":
            os.kill(attempt["process"], signal.SIGKILL)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    said, _ = (again := begin()).communicate(timeout=400)
    assert again.returncode == 0, said
    mine = tmp_path / "out/biosses/tiny"
    kept = [json.loads((place / "tune/search.json").read_text()) for place in (whole, mine)]
    for record in kept:
        assert record["chosen"].pop("device_hours") > 0
    assert kept[0] == kept[1] and len(kept[0]["asked"]) == 6
    ours = ("result.json", "predictions/test.tsv", "predictions/dev.tsv", "model/model.safetensors")
    one, other = (fingerprint(place / "seed-12") for place in (whole, mine))
    assert {name: one[name] for name in ours} == {name: other[name] for name in ours}


def test_with_pruning_a_trial_below_the_median_ends_early(line: list[str], tmp_path: Path) -> None:
    search = tmp_path / "tune"
    for number, scores in enumerate(([0.2, 0.9], [0.4, 0.8], [0.999, 0.999])):
        place = RunFolder(search / f"learning_rate={number}" / "seed-1000")
        rows = [{"kind": "epoch", "step": epoch, "epoch": epoch, "time": 0.0, "values": {"dev/score": score}}
                for epoch, score in enumerate(scores, start=1)]  # fmt: skip
        write(place.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        write(place.result, "{}")
    data, model = (Path(line[1]).parent / name for name in ("data/biosses", "tiny"))

    def trial(rate: str, **about: object) -> RunConfig:
        flags = ("--data_dir", str(data), "--learning_rate", rate, "--num_train_epochs", "3", "--do_train", "--do_eval")
        config, _ = settings.parse(arguments("biosses", model, search / f"rate={rate}" / "seed-1000", *flags))
        return replace(config, search={"kind": "trial", "values": {}, **about})

    with pytest.raises(TrainingFailed, match=r"pruned after epoch \d: dev .* below the median") as caught:
        train.run(trial("1e-9", pruning=True))  # learns nothing
    assert is_final(caught.value)  # hence not tried again
    assert train.run(trial("2e-9"))["epochs"][-1]["epoch"] == 3


def test_the_ten_samples_are_tuned_and_what_is_reported_says_sample_data(line: list[str], tmp_path: Path) -> None:
    """With the embedded encoder by hand: README, section Many runs."""
    suite = Path(line[1]).read_text().splitlines()[0] + '\ntasks = "blue"\nseeds = 2\n[tune]\n'
    (tmp_path / "ten.toml").write_text(suite + "learning_rate = [1e-3, 1e-4]\nnum_train_epochs = 1\n")
    small = ["--max_seq_length", "32", "--per_gpu_train_batch_size", "64", "--wandb_mode", "disabled"]
    words = ["--suite", str(tmp_path / "ten.toml"), "--tune", "--output_dir", str(tmp_path / "out"), *small, *ON_CPU]
    done = subprocess.run([sys.executable, submit.__file__, *words], env=clean_environment(), text=True,
                          capture_output=True, timeout=500)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(list(tmp_path.glob("out/*/tiny/seed-1[23]/result.json"))) == 20
    assert report.main([str(tmp_path / "out"), "--out", str(tmp_path / "report")]) == 0
    overview = (tmp_path / "report/overview.md").read_text()
    assert "SAMPLE DATA" in overview and all(tasks.get(task).title in overview for task in tasks.BLUE)

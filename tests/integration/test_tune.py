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

from harness.config import RunConfig
from harness.errors import TrainingFailed, is_final
from harness.files import write
from harness.run_folder import RunFolder
from launch import submit, train
from launch.run import settings

pytestmark = pytest.mark.slow

SPACE = """
tasks = ["biosses"]
seeds = 2
[tune]
sampler = "random"
trials = 6
learning_rate = [1e-3, 3e-3, 5e-4, 1e-4]
num_train_epochs = [1, 2]
"""
# Ends the process where a test file is opened before anything is chosen.
WATCHED = """
import os, sys
from pathlib import Path
def watch(event, args):
    if event == "open" and str(args[0]).endswith("test.tsv") and "/data/" in str(args[0]):
        if '"kind": "chosen"' not in Path(os.environ["RECORD"]).read_text():
            os.write(2, b"test.tsv was opened")
            os._exit(99)
        Path(os.environ["OPENED"]).touch()
sys.addaudithook(watch)
from launch import submit
sys.exit(submit.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line, but for --output_dir and --cluster."""
    place = tmp_path_factory.mktemp("tune")
    cut("biosses", place / "data" / "biosses", 40)
    model = tiny_encoder(place / "tiny", dropout=0.1)
    (place / "suite.toml").write_text(f'models = ["{model}"]\n{SPACE}')
    small = [word for word in SMALL if word not in ("--learning_rate", "1e-3")]
    return ["--suite", str(place / "suite.toml"), "--tune", "--data_dir", str(place / "data" / "biosses"), *small]


@pytest.fixture(scope="module")
def whole(line: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a search that nothing disturbed, and that was watched."""
    folder = tmp_path_factory.mktemp("whole")
    env = {"RECORD": str(folder / "out/biosses/tiny/tune/search.json"), "OPENED": str(folder / "opened")}
    words = [*line, "--output_dir", str(folder / "out"), "--cluster", "debug", "--gpus_per_node", "0"]
    done = subprocess.run([sys.executable, "-c", WATCHED, *words], env={**clean_environment(), **env}, text=True,
                          capture_output=True, timeout=500)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (folder / "opened").exists()  # by the runs with what was chosen: the watch sees what it should
    assert "chosen for biosses, tiny" in done.stdout and "say little" in done.stdout
    return folder / "out" / "biosses" / "tiny"


def test_trials_score_dev_alone_and_the_best_settings_are_trained(whole: Path) -> None:
    trials = [json.loads(path.read_text()) for path in whole.glob("tune/*/seed-1000/result.json")]
    assert len(trials) == 6 and all(set(trial["scores"]) == {"dev"} for trial in trials)
    assert all(not trial["dev_was_trained_on"] for trial in trials)
    assert not list(whole.glob("tune/*/*/model")) and not list(whole.glob("tune/*/*/checkpoints"))
    best = max(trials, key=lambda trial: float(trial["scores"]["dev"]["score"]))
    for seed in (12, 13):
        result = json.loads((whole / f"seed-{seed}/result.json").read_text())
        config = json.loads((whole / f"seed-{seed}/config.json").read_text())
        assert result["search"]["kind"] == "chosen" and result["search"]["trials"] == 6
        assert result["search"]["dev"] == best["scores"]["dev"]["score"]
        assert {name: config[name] for name in result["search"]["values"]} == best["search"]["values"]
        assert set(result["scores"]) == {"dev", "test"} and (whole / f"seed-{seed}/model").is_dir()
        log = (whole / f"seed-{seed}/train.log").read_text()
        assert "the best of 6 by dev, trained on train alone: 40 examples" in log and "say little" in log
        for trial in whole.glob("tune/*/seed-1000/fingerprint.json"):
            assert set(json.loads(trial.read_text())["data"]) == {"train", "dev"}


def test_killed_in_between_the_same_command_ends_with_the_same_runs(
    line: list[str], whole: Path, tmp_path: Path
) -> None:
    words = [*line, "--output_dir", str(tmp_path / "out"), "--cluster", "local", "--gpus_per_node", "0"]
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
    for seed in (12, 13):
        one, other = (fingerprint(place / f"seed-{seed}") for place in (whole, mine))
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


def test_a_trial_that_diverges_is_left_out_of_the_choice(line: list[str], tmp_path: Path) -> None:
    words = [*line, "--output_dir", str(tmp_path / "out"), "--cluster", "local", "--gpus_per_node", "0"]
    text = Path(line[1]).read_text()
    text = text[: text.index("[tune]")].replace("seeds = 2", "seeds = 1")
    (tmp_path / "own.toml").write_text(text + "[tune]\nlearning_rate = [1e-3, 1e30]\nnum_train_epochs = 1\n")
    words[1] = str(tmp_path / "own.toml")
    done = subprocess.run([sys.executable, submit.__file__, *words], env=clean_environment(), text=True,
                          capture_output=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out/biosses/tiny/seed-12/result.json").read_text())
    assert result["search"]["values"]["learning_rate"] == 1e-3
    assert [len(one["dev"]) for one in result["search"]["tried"]] == [1, 0]

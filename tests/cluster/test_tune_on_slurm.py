"""`submit.py --tune` on a real SLURM: an array of trials, and a job that sends what comes after it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from encoders import tiny_encoder
from running import SMALL, cut

from launch import submit

if TYPE_CHECKING:
    from slurm_fixture import Slurm

pytest_plugins = ("slurm_fixture",)
pytestmark = pytest.mark.slurm


def test_the_runs_with_the_chosen_settings_are_sent_when_the_trials_have_ended(slurm: Slurm, tmp_path: Path) -> None:
    cut("biosses", tmp_path / "data", 40)
    model = tiny_encoder(tmp_path / "tiny", dropout=0.1)
    (tmp_path / "suite.toml").write_text(
        f'tasks = ["biosses"]\nmodels = ["{model}"]\nseeds = 2\n[tune]\nlearning_rate = [1e-3, 1e-4]\n'
        "num_train_epochs = 1\n"
    )
    (tmp_path / "cluster.toml").write_text(
        'partition = "debug"\ncpus_per_task = 1\ntime = 30\nenvironment = ["SLURM_CONF", "OMP_NUM_THREADS=1"]\n'
    )
    small = [word for word in SMALL if word not in ("--learning_rate", "1e-3")]
    words = ["--suite", str(tmp_path / "suite.toml"), "--tune", "--data_dir", str(tmp_path / "data"), *small]
    words += ["--output_dir", str(tmp_path / "out"), "--cluster", "slurm", "--gpus_per_node", "0"]
    words += ["--profile", str(tmp_path / "cluster.toml")]
    said = slurm.run(sys.executable, submit.__file__, *words, timeout=300)
    trials, later = re.findall(r"\bjob\s+(\d+)", said)
    assert f"next    job {later} waits" in said
    again = slurm.run(sys.executable, submit.__file__, *words, timeout=300)
    assert later in again and again.count("skipped: ") <= 2  # nothing is sent twice, and the job that waits is enough
    slurm.wait_for_end(trials)
    slurm.wait_for_end(later)
    log = (tmp_path / f"out/biosses/tiny/tune/submitit/{later}_0_log.out").read_text()
    sent = re.search(r"\bjob\s+(\d+) \(2 runs\)", log)
    assert sent and "chosen for biosses, tiny" in log, log
    slurm.wait_for_end(sent[1])
    for seed in (12, 13):
        result = json.loads((tmp_path / f"out/biosses/tiny/seed-{seed}/result.json").read_text())
        assert result["search"]["kind"] == "chosen" and result["search"]["trials"] == 2
    assert "2 of 2 runs finished before" in slurm.run(sys.executable, submit.__file__, *words, timeout=300)

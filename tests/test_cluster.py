"""What a profile makes of the batch script, against recorded text."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness import UserError
from launch import submit
from launch.cluster import Profile


def script(tmp_path: Path, capsys: pytest.CaptureFixture[str], profile: str, *words: str) -> str:
    """The batch script; what differs from machine to machine is named instead."""
    (tmp_path / "cluster.toml").write_text(profile)
    line = ["--task", "mednli", "--model_name_or_path", "m", "--output_dir", str(tmp_path / "run")]
    assert submit.main([*line, "--profile", str(tmp_path / "cluster.toml"), "--print", *words]) == 0
    text = capsys.readouterr().out
    code = next(row.removeprefix("cd ") for row in text.splitlines() if row.startswith("cd "))
    places = ((sys.executable, "PYTHON"), (code, "CODE"), (str(tmp_path / "run"), "RUN"), (str(Path.cwd()), "HERE"))
    for value, name in places:
        text = text.replace(value, name)
    return text


def command(text: str) -> str:
    return next(row for row in text.splitlines() if row.startswith("srun "))


RECORDED = """#!/bin/bash

# Parameters
#SBATCH --export=HOME,PATH,USER,LANG,WANDB_API_KEY
#SBATCH --gpus-per-node=2
#SBATCH --job-name=mednli-m-12
#SBATCH --mem-per-gpu=32GB
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --open-mode=append
#SBATCH --output=RUN/submitit/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=240
#SBATCH --wckey=submitit

# setup
export HF_HOME='/a b'
module load cuda
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
export BLUE_WORK_DIR="$PWD"
export PYTHONPATH=CODE"${PYTHONPATH:+:$PYTHONPATH}"
export BLUE_ATTEMPTS=RUN/submitit/$SLURM_JOB_ID.attempts
cd CODE

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output RUN/submitit/%j_%t_log.out --kill-on-bad-exit=1 --open-mode=append --export=ALL \
--container-image=nvcr.io#nvidia/pytorch:26.09-py3 --container-mounts=/scratch:/scratch,/a:/b,RUN:RUN,HERE:HERE \
--container-workdir=CODE python -u -m submitit.core._submit RUN/submitit


# teardown
status=$?
if [ -e RUN/submitit/"$SLURM_JOB_ID".requeue ]; then
  rm RUN/submitit/"$SLURM_JOB_ID".requeue && scontrol requeue "$SLURM_JOB_ID"
elif [ "$status" -ne 0 ]; then
  PYTHON -m launch.crash "$status"
fi
exit "$status"
"""


def test_whole_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = """
    mem_per_gpu_gb = 32
    setup = ["module load cuda"]
    environment = ["WANDB_API_KEY", "HF_HOME=/a b"]
    container = "nvcr.io#nvidia/pytorch:26.09-py3"
    container_mounts = ["/scratch", "/a:/b"]
    """
    text = script(tmp_path, capsys, profile, "--gpus_per_node", "2")
    recorded = [row for row in RECORDED.splitlines() if not row.startswith("srun")]
    assert [row for row in text.splitlines() if not row.startswith("srun")] == recorded
    words = command(text).replace("'", "")
    assert words == command(RECORDED)


def test_apptainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(tmp_path, capsys, 'container = "/images/blue.sif"\ncontainer_runtime = "apptainer"\n')
    assert (
        " apptainer exec --nv --bind RUN:RUN --bind HERE:HERE --pwd CODE /images/blue.sif python -u -m submit" in text
    )
    assert "--container" not in text


def test_an_array_has_the_containers_python_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = 'container = "image"\ncontainer_python = "/opt/python"\narray_parallelism = 3\n'
    text = script(tmp_path, capsys, profile, "--seeds", "5")
    assert "#SBATCH --array=0-4%3\n" in text and " /opt/python -u -m submitit" in command(text)


def test_shares_of_a_gpu_and_of_a_cpu_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = "cpus_per_gpu = 8\nmem_per_gpu_gb = 10\n[additional_parameters]\ngpus-per-task = 1\n"
    text = script(tmp_path, capsys, profile, "--gpus_per_node", "4")
    for option in ("cpus-per-gpu=8", "mem-per-gpu=10GB", "gpus-per-task=1", "gpus-per-node=4"):
        assert f"#SBATCH --{option}\n" in text
    text = script(tmp_path, capsys, profile.split("[")[0], "--gpus_per_node", "0", "--tasks_per_node", "3")
    assert "#SBATCH --cpus-per-task=8\n" in text and "#SBATCH --mem=30GB\n" in text and "gpu" not in text
    assert "--cpus-per-task=8" in command(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cpus_per_gpu = 1\ncpus_per_task = 1", "cpus_per_task, cpus_per_gpu: give one of the two"),
        ("mem_gb = 1\nmem_per_gpu_gb = 1", "mem_gb, mem_per_gpu_gb: give one of the two"),
        ('container_runtime = "docker"', "container_runtime = 'docker': must be one of pyxis, apptainer"),
        ('environment = "HOME"', "environment = 'HOME': must be a list of text"),
        ("container_mounts = [1]", "container_mounts = [1]: must be a list of text"),
        ("array_parallelism = 0", "array_parallelism = 0: must be a whole number above 0"),
    ],
)
def test_faults(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(UserError) as error:
        Profile.read(tmp_path / "p.toml")
    assert said in str(error.value)

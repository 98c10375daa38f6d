"""What a profile makes of the batch script, against recorded text."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from running import assert_user_error, refused

from harness.errors import UserError
from launch import submit
from launch.jobs.resources import Profile, Request


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
if [ -e RUN/submitit/"$SLURM_JOB_ID".requeue ]; then rm RUN/submitit/"$SLURM_JOB_ID".requeue; status=75; fi
PYTHON -m launch.jobs.requeue "$status"
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


INJECTED = "gpu\\n#SBATCH --uid=0"  # as TOML writes a line break


@pytest.mark.parametrize(
    "line",
    [
        *(f'{name} = "{INJECTED}"' for name in ("partition", "account", "qos", "constraint", "container")),
        'container_python = "python\\r"',
        f'container_mounts = ["/a", "{INJECTED}"]',
        f'environment = ["{INJECTED}"]',
        'environment = ["A=\\u001b[2J"]',
        f'[additional_parameters]\ncomment = "{INJECTED}"',
        f'[additional_parameters]\n"{INJECTED}" = "x"',
        'partition = "gpu\\u0000"',
        'partition = "gpu\\u0085"',
        'setup = ["module load \\u001b"]',
    ],
)
def test_no_value_of_a_profile_breaks_a_line(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cluster.toml").write_text(line)
    words = ["--task", "mednli", "--model_name_or_path", "m", "--output_dir", str(tmp_path / "run"), "--print"]
    err, out = refused(submit.main, capsys, *words, "--profile", tmp_path / "cluster.toml")
    name = line.split("\n")[0].split(" = ")[0].strip("[]")
    assert err.startswith(f"error: --profile {tmp_path}/cluster.toml: {name}") and "control character" in err
    assert err.rstrip("\n").isprintable() and out == []


def test_shell_lines_may_have_several_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(tmp_path, capsys, 'setup = ["""\nif true; then\n\texport A=1\nfi"""]\n')
    assert "\nif true; then\n\texport A=1\nfi\n" in text


@pytest.mark.parametrize("words", [("--output_dir", "runs/a\n#SBATCH --uid=0"), ("--model_name_or_path", "/a/b\tc"),
                                   ("--wandb_group", "a\x1bb", "--seeds", "2")])  # fmt: skip
@pytest.mark.parametrize("printing", [True, False])
def test_no_path_or_name_breaks_a_line(
    words: tuple[str, ...], printing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\ntouch sent\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(
        "launch.jobs.preflight.look_for_missing", lambda where, configs: ([], [])
    )  # there is no such model
    line = ["--task", "mednli", "--model_name_or_path", "m", "--output_dir", "runs/a", "--cluster", "slurm", *words]
    err, out = refused(submit.main, capsys, *line, *(["--print"] if printing else []))
    assert "control character" in err and err.rstrip("\n").isprintable() and out == []
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_a_request_of_a_run_folder_breaks_no_line() -> None:
    """`requeue` reads it from submission.json, which no flag has checked."""
    for values in ({"nodes": "2\n#"}, {"profile": {"qos": "a\nb"}}, {"profile": {"additional_parameters": {"a\n": 1}}}):
        assert_user_error(
            lambda values=values: Request.from_dict({"cluster": "slurm", **values}, "request."), "request."
        )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cpus_per_gpu = 1\ncpus_per_task = 1", "cpus_per_gpu = 1: cpus_per_task is there too; give one of the two"),
        ("mem_gb = 1\nmem_per_gpu_gb = 1", "mem_per_gpu_gb = 1: mem_gb is there too; give one of the two"),
        ('container_runtime = "docker"', "container_runtime = 'docker': must be 'pyxis' or 'apptainer'"),
        ('environment = "HOME"', "environment = 'HOME': must be a list"),
        ("container_mounts = [1]", "container_mounts[0] = 1: must be text in quotes"),
        ("array_parallelism = 0", "array_parallelism = 0: must be at least 1"),
    ],
)
def test_faults(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(UserError) as error:
        Profile.read(tmp_path / "p.toml")
    assert said in str(error.value)

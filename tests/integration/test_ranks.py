"""The same run on several processes: every task and every ds_config, and scores that do not depend on ranks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from encoders import tiny_encoder
from running import arguments, clean_environment, cut, free_port, run, run_on_ranks

import tasks

CONFIGS = (
    *("fp32", "bf16_autocast", "bf16_zero1", "bf16_zero2", "bf16_zero3", "bf16_zero3_offload"),
    *("fp16_zero0", "fp16_zero1", "fp16_zero2", "fp16_zero3"),
)
ROOT = Path(__file__).resolve().parents[2]


FOUR = ("medsts", "bc5cdr_disease", "mednli", "hoc")  # one of each family
BOTH_HEADS = ("bc5cdr_disease", "hoc")  # an output for each word, and one for each example


def matrix(names: Sequence[str], model: Path, output: Path) -> list[list[str]]:
    """Every ds_config for a task of each kind of head; one for the others, which differ in data and metric."""
    lines = []
    for task in names:
        data = cut(task, output / "data" / task, 21)  # not a multiple of anything: the last batches are uneven
        more = ("--precision", "auto", "--data_dir", str(data), "--max_steps", "2")
        configs = CONFIGS if task in BOTH_HEADS else ("fp16_zero1",)
        lines += [arguments(task, model, output / f"{task}-{name}", "--ds_config", name, *more) for name in configs]
    return lines


@pytest.mark.slow
@pytest.mark.parametrize(("world", "names"), [(1, FOUR), (2, tasks.BLUE)], ids=["one rank", "two ranks"])
def test_every_task_and_every_ds_config(world: int, names: Sequence[str], tiny_bert: Path, tmp_path: Path) -> None:
    """Where a rank is alone test_train.py has the ten tasks."""
    lines = matrix(names, tiny_bert, tmp_path)
    results = run_on_ranks(world, lines, tmp_path / "answers")
    failed = {f"{line[1]} {line[line.index('--ds_config') + 1]}": result
              for line, result in zip(lines, results, strict=True) if isinstance(result, str)}  # fmt: skip
    assert not failed, failed
    assert all(result["world_size"] == world and set(result["scores"]) == {"dev", "test"} for result in results)
    for task in names:  # two steps from the same weights: precision moves the loss a little, nothing else does
        losses = [result["scores"]["test"]["loss"] for result in results if result["task"] == task]
        assert max(losses) - min(losses) < 0.05 * max(losses)


@pytest.mark.slow
def test_the_same_weights_score_the_same_on_1_2_and_3_ranks(tiny_bert: Path, tmp_path: Path) -> None:
    for name in FOUR:
        run(arguments(name, tiny_bert, tmp_path / "1" / name, "--max_steps", "3"))
        for world in ("2", "3"):
            shutil.copytree(tmp_path / "1" / name, tmp_path / world / name)
        for world in ("1", "2", "3"):
            (tmp_path / world / name / "result.json").unlink()
    found = {}
    for world in (1, 2, 3):
        more = ("--max_steps", "3", "--do_eval", "--do_predict")
        lines = [arguments(name, tiny_bert, tmp_path / str(world) / name, *more) for name in FOUR]
        found[world] = [result["scores"] for result in run_on_ranks(world, lines, tmp_path / f"answers{world}")]
    assert found[1] == found[2] == found[3]


@pytest.mark.slow
def test_a_global_batch_is_the_same_optimisation_on_1_and_2_ranks(tiny_bert: Path, tmp_path: Path) -> None:
    """Tagging too, where ranks have different numbers of labelled words."""
    lines = {
        world: [
            arguments(task, tiny_bert, tmp_path / str(world) / task, "--global_batch_size", "24", "--max_steps", "12")
            for task in ("bc5cdr_disease", "mednli", "hoc")
        ]
        for world in (1, 2)
    }
    one, two = (run_on_ranks(world, lines[world], tmp_path / f"answers{world}") for world in (1, 2))
    for alone, shared in zip(one, two, strict=True):
        assert alone["examples_per_step"] == shared["examples_per_step"] == 24
        assert shared["epochs"][0]["train_loss"] == pytest.approx(alone["epochs"][0]["train_loss"], rel=1e-5)
        assert shared["scores"]["test"]["loss"] == pytest.approx(alone["scores"]["test"]["loss"], rel=1e-4)


BIN = Path(sys.executable).parent
LAUNCHERS = {  # torchrun: test_two_nodes.py
    "deepspeed": [str(BIN / "deepspeed")],
    "deepspeed two ranks": [str(BIN / "deepspeed"), "--num_gpus", "2", "--master_port", "PORT"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_starts_a_run(launcher: str, tiny_bert: Path, tmp_path: Path) -> None:
    # The launcher hands GPUs out to its ranks even where CUDA_VISIBLE_DEVICES is empty.
    line = arguments("mednli", tiny_bert, tmp_path / "run", "--max_steps", "2", "--no_cuda")
    launched = [str(free_port()) if word == "PORT" else word for word in LAUNCHERS[launcher]]
    done = subprocess.run([*launched, str(ROOT / "launch" / "train.py"), *line], env=clean_environment(),
                          capture_output=True, text=True, timeout=300, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = (tmp_path / "run" / "result.json").read_text()
    assert f'"world_size": {2 if "two" in launcher else 1}' in result


@pytest.mark.slow
def test_the_deepspeed_launcher_on_a_cpu_is_no_sign_of_a_gpu(tmp_path: Path) -> None:
    """It sets CUDA_VISIBLE_DEVICES there, too."""
    (tmp_path / "rank.py").write_text(
        "import os, pathlib, harness.device\n"
        "print([os.environ['CUDA_VISIBLE_DEVICES'], harness.device.gpu_sign(os.environ, pathlib.Path('nowhere'))])\n"
    )
    environment = {**clean_environment(), "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    environment.pop("SLURM_JOB_GPUS", None)
    command = [*LAUNCHERS["deepspeed"], "--num_gpus", "1", str(tmp_path / "rank.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert "['0', '']" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_an_encoder_that_cannot_be_packed_under_zero3_on_2_ranks(tmp_path: Path) -> None:
    """Ranks must not make unequal numbers of passes."""
    more = ("--max_steps", "4", "--ds_config", "fp16_zero3", "--precision", "auto", "--per_gpu_train_batch_size", "5")
    line = arguments("hoc", tiny_encoder(tmp_path / "deberta", "deberta-v2"), tmp_path / "run", *more)
    (result,) = run_on_ranks(2, [line], tmp_path)
    assert isinstance(result, dict), result


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_split_of_one_row(world: int, tiny_bert: Path, tmp_path: Path) -> None:
    """Fewer examples than ranks: the rank without one takes part with weight 0."""
    names = ("biosses", "clefe", "mednli", "hoc")
    lines = [
        arguments(name, tiny_bert, tmp_path / "run" / name, "--data_dir", str(cut(name, tmp_path / name, 1)))
        for name in names
    ]
    more = ("--num_train_epochs", "2", "--ds_config", "fp16_zero3", "--precision", "auto")
    for name, result in zip(names, run_on_ranks(world, [[*line, *more] for line in lines], tmp_path), strict=True):
        assert isinstance(result, dict), (name, result)
        assert len(result["epochs"]) == 2
        assert result["scores"]["test"]["examples"] == 1

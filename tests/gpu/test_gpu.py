"""On a GPU, in programs started as users start them: the tests' own process sees none (tests/conftest.py)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from running import arguments, clean_environment, free_port

from harness.device import gpu_sign
from harness.ds.config import CONFIGS

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TRAIN = str(ROOT / "launch" / "train.py")
LAUNCHERS = {
    "python": [sys.executable],
    "deepspeed": [str(BIN / "deepspeed"), "--num_gpus", "1", "--master_port", "PORT"],
    "torchrun": [str(BIN / "torchrun"), "--nproc_per_node", "1", "--master_port", "PORT"],
}


def environment(**more: str) -> dict[str, str]:
    """That of whoever runs the tests."""
    hidden = ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR", "GPUS_OF_TESTS", "OMP_NUM_THREADS")
    given = {name: value for name, value in clean_environment().items() if name not in hidden}
    if os.environ["GPUS_OF_TESTS"] != "all":
        given["CUDA_VISIBLE_DEVICES"] = os.environ["GPUS_OF_TESTS"]
    return {**given, "PATH": f"{BIN}:{os.environ['PATH']}", **more}


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(
        not gpu_sign(environment()) and (not shutil.which("nvidia-smi") or os.environ["GPUS_OF_TESTS"] == ""),
        reason="no GPU",
    ),
]


def trained(folder: Path, command: Sequence[str], device: str = "cuda", **more: str) -> dict[str, object]:
    """result.json of a run that the command leaves in the folder, on that device."""
    done = subprocess.run(
        [str(free_port()) if word == "PORT" else word for word in command],
        env=environment(**more), cwd=folder.parent, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"on 1 {device}\n" in (folder / "train.log").read_text()
    result: dict[str, object] = json.loads((folder / "result.json").read_text())
    return result


def flags(model: Path, folder: Path, *more: str) -> list[str]:
    return arguments("mednli", model, folder, "--precision", "auto", "--max_steps", "20", *more)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.json")))
def test_each_ds_config(name: str, tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = trained(folder, [sys.executable, TRAIN, *flags(tiny_bert, folder, "--ds_config", name)])
    assert result["precision"] == name.split("_")[0] and result["steps"] == 20


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_each_launcher_and_fp16_is_the_default(launcher: str, tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert trained(folder, [*LAUNCHERS[launcher], TRAIN, *flags(tiny_bert, folder)])["precision"] == "fp16"


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_no_cuda_stays_on_the_cpu(launcher: str, tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained(folder, [*LAUNCHERS[launcher], TRAIN, *flags(tiny_bert, folder, "--no_cuda")], "cpu")


@pytest.mark.parametrize("launcher", ["python", "torchrun"])  # the deepspeed launcher writes over an empty one
def test_an_empty_variable_asks_for_the_cpu(launcher: str, tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained(folder, [*LAUNCHERS[launcher], TRAIN, *flags(tiny_bert, folder)], "cpu", CUDA_VISIBLE_DEVICES="")


@pytest.mark.parametrize("program", ["train", "submit"])
def test_the_name_of_a_gpu_in_the_place_of_its_number(program: str, tiny_bert: Path, tmp_path: Path) -> None:
    """GPU-<uuid>, or MIG-<uuid> where the card is cut into slices."""
    code = "import torch; print(torch.cuda.get_device_properties(0).uuid)"
    asked = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    names = re.findall(r"UUID: (\S+)\)", listed)
    name = next((name for name in names if name.endswith(asked.stdout.strip())), names[-1])
    folder, script = tmp_path / "run", str(ROOT / "launch" / f"{program}.py")
    more = ["--cluster", "local"] if program == "submit" else []
    trained(folder, [sys.executable, script, *flags(tiny_bert, folder), *more], CUDA_VISIBLE_DEVICES=name)


def test_predictions(tiny_bert: Path, tmp_path: Path) -> None:
    folder, script = tmp_path / "run", str(ROOT / "launch" / "predict.py")
    trained(folder, [sys.executable, TRAIN, *flags(tiny_bert, folder)])
    pair = "the patient has fever\tno fever\n"
    answers = [
        subprocess.run([sys.executable, script, str(folder), "--input", "-", "--precision", "fp32", *more],
                       env=environment(), input=pair, capture_output=True, text=True, check=True).stdout
        for more in ([], ["--no_cuda"])
    ]  # fmt: skip
    on_gpu, on_cpu = (json.loads(answer) for answer in answers)
    assert on_gpu["label"] == on_cpu["label"]

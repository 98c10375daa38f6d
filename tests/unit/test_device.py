"""Which device a process gets, and how PyTorch and DeepSpeed are set up for it; a GPU is simulated."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from running import arguments, assert_user_error, clean_environment, refused

from harness import device
from harness.config import BatchPlan, RunConfig
from harness.ds import config as ds_config
from launch import predict, score, train
from launch.run.setup import other_batch, tf32_note

ROOT = Path(__file__).parents[2]
HOPPER = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "compute_120"]  # as a wheel for CUDA 12.8 lists them
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No sign of a GPU before; what `set_up` changes is as it was afterwards."""
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "CROSS_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setattr(device, "_may_open", lambda path: False)  # of the machine that runs the tests
    cudnn, precision, tf32 = (
        torch.backends.cuda.cudnn_sdp_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
    )
    yield
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = tf32


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two H100; the numbers that were made the current device."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: HOPPER)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


class TestSetUp:
    def test_each_rank_has_its_gpu(self, gpus: list[int]) -> None:
        assert device.set_up(local_rank=1) == torch.device("cuda", 1)
        assert gpus == [1] and os.environ["DS_ACCELERATOR"] == "cuda"

    def test_no_cuda_is_for_deepspeed_too(self, gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DS_ACCELERATOR", "cuda")
        assert device.set_up(no_cuda=True) == CPU
        assert gpus == [] and os.environ["DS_ACCELERATOR"] == "cpu"

    @pytest.mark.parametrize("name", ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-8932f937-d72c-4106-c12f"])
    def test_names_in_the_place_of_numbers(self, name: str, gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", name)
        assert device.set_up() == CUDA

    @pytest.mark.usefixtures("gpus")
    def test_cudnn_has_no_part_in_attention(self) -> None:
        torch.backends.cuda.enable_cudnn_sdp(True)
        device.set_up()
        assert device.attention_backends() == ["flash", "mem_efficient", "math"]

    @pytest.mark.usefixtures("gpus")
    def test_tf32_only_where_it_is_asked_for(self) -> None:
        for asked in (True, False):
            device.set_up(tf32=asked)
            allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
            assert allowed == (asked, asked)

    @pytest.mark.parametrize(
        ("capability", "archs", "fits"),
        [
            ((9, 0), HOPPER, True),
            ((8, 9), HOPPER, True),  # machine code of an older card of the same generation
            ((12, 1), HOPPER, True),  # PTX
            ((7, 0), HOPPER, False),  # V100
            ((10, 3), HOPPER[:4], False),
            ((9, 4), ["gfx942"], True),  # AMD
            ((9, 0), [], True),
        ],
    )
    def test_an_architecture_that_the_wheel_lacks(
        self,
        capability: tuple[int, int],
        archs: list[str],
        fits: bool,
        gpus: list[int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: archs)
        if fits:
            assert device.set_up() == CUDA
        else:
            own = f"GPU 0 (NVIDIA H100, sm_{capability[0]}{capability[1]})"
            assert_user_error(device.set_up, own, "has code for sm_75,", "docs/gpu.md", "--no_cuda")


class TestSign:
    @pytest.mark.parametrize(
        ("environment", "sign"),
        [
            ({}, ""),
            ({"CUDA_VISIBLE_DEVICES": "0,1"}, "CUDA_VISIBLE_DEVICES=0,1"),
            ({"CUDA_VISIBLE_DEVICES": "MIG-1"}, "CUDA_VISIBLE_DEVICES=MIG-1"),
            ({"SLURM_JOB_GPUS": "3"}, "SLURM_JOB_GPUS=3"),
            ({"SLURM_JOB_GPUS": ""}, ""),
            ({"CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_GPUS": "3"}, ""),
            ({"CUDA_VISIBLE_DEVICES": "-1", "SLURM_JOB_GPUS": "3"}, ""),
            ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ""),
            ({"CUDA_VISIBLE_DEVICES": "0,1", "CROSS_SIZE": "1"}, ""),
            ({"CUDA_VISIBLE_DEVICES": "0,1", "CROSS_SIZE": "1", "SLURM_JOB_GPUS": "3"}, "SLURM_JOB_GPUS=3"),
        ],
    )
    def test_of_the_environment(self, environment: dict[str, str], sign: str) -> None:
        assert device.gpu_sign(environment) == sign

    def test_of_the_machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("nvidiactl", "nvidia-uvm", "nvidia1", "nvidia0"):
            (tmp_path / name).touch()
        assert device.gpu_sign({}, tmp_path) == ""  # another job's
        monkeypatch.undo()
        assert device.gpu_sign({}, tmp_path) == f"{tmp_path}/nvidia0"
        assert device.gpu_sign({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == ""


class TestAGpuThatPyTorchDoesNotSee:
    """Not by `gpus`: the tests' own process sees none."""

    @pytest.fixture(autouse=True)
    def sign(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SLURM_JOB_GPUS", "0,1")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def test_a_wheel_without_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "cuda", None)
        built = f"PyTorch {torch.__version__} is built for the CPU alone: install a wheel with CUDA (docs/gpu.md)"
        assert_user_error(device.set_up, "SLURM_JOB_GPUS=0,1: there is a GPU, but ", built, "--no_cuda")

    def test_a_driver_that_is_too_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def init() -> None:
            raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update it.")

        monkeypatch.setattr(torch.version, "cuda", "12.8")
        monkeypatch.setattr(torch.cuda, "init", init)
        reason = "(The NVIDIA driver on your system is too old (found version 11040))"
        assert_user_error(device.set_up, "for CUDA 12.8 cannot use it", reason, "update the driver", "--no_cuda")

    def test_a_run_ends_in_one_line(
        self, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And scores nothing on the CPU; predict.py answers nothing, while score.py needs no device."""
        monkeypatch.setattr(torch.version, "cuda", None)
        error, _ = refused(train.main, capsys, *arguments("mednli", tiny_bert, tmp_path / "run"))
        assert "SLURM_JOB_GPUS=0,1: there is a GPU" in error and not (tmp_path / "run").exists()
        error, _ = refused(predict.main, capsys, tmp_path / "run", "--input", "/dev/null")
        assert "SLURM_JOB_GPUS=0,1: there is a GPU" in error
        predictions = tmp_path / "predictions.tsv"
        predictions.write_text("index\tgold\tprediction\n0\tneutral\tneutral\n")
        assert score.main(["--task", "mednli", "--predictions", str(predictions)]) == 0

    @pytest.mark.parametrize("how", ["no_cuda", "variable"])
    def test_who_asks_for_the_cpu_gets_it(self, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if how == "variable":
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert device.set_up(no_cuda=how == "no_cuda") == CPU


def test_bf16_is_not_emulated(gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4 would, slower than fp32."""
    from deepspeed.accelerator import cpu_accelerator, get_accelerator, set_accelerator

    own = get_accelerator()
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    try:
        assert ds_config.supported_precisions(CUDA) == {"fp16": True, "bf16": False, "fp32": True}
        assert get_accelerator().device_name() == "cuda"
        ds_config.supported_precisions(CPU)
        assert isinstance(get_accelerator(), cpu_accelerator.CPU_Accelerator)
    finally:
        set_accelerator(own)  # fixtures of other tests have put something into it


class TestLog:
    @pytest.mark.parametrize(
        ("asked", "precision", "place", "said"),
        [
            (True, "fp32", CUDA, "tf32    on; "),
            (False, "fp32", CUDA, "tf32    off: --tf32 is faster; "),
            (True, "fp16", CUDA, "--tf32 changes nothing: this run is in fp16 on cuda"),
            (True, "fp32", CPU, "--tf32 changes nothing: this run is in fp32 on cpu"),
            (False, "fp16", CUDA, ""),
            (False, "fp32", CPU, ""),
        ],
    )
    def test_tf32(
        self, asked: bool, precision: str, place: torch.device, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: True)
        found = tf32_note(asked, precision, place)
        assert found.startswith(said) and bool(found) == bool(said)

    def test_the_batch_of_the_recipe_that_was_asked_for(self) -> None:
        config = RunConfig(task="mednli", recipe="lora-decoder", per_gpu_train_batch_size=8)
        assert "has 8 examples a step, this run 32" in other_batch(config, BatchPlan(8, 4, 1, 32))

    @pytest.mark.parametrize(
        ("settings", "total", "warns"),
        [
            ({}, 128, True),
            ({}, 32, False),  # one device, or a resumed run that keeps its batch
            ({"global_batch_size": 128}, 128, False),
            ({"per_gpu_train_batch_size": 8}, 32, False),
            ({"per_gpu_train_batch_size": 8}, 64, False),  # the user's own
            ({"per_gpu_train_batch_size": 16, "gradient_accumulation_steps": 2}, 128, True),
            ({"own_task": {"name": "mine"}}, 128, False),
        ],
    )
    def test_the_batch_of_a_published_recipe(self, settings: dict[str, object], total: int, warns: bool) -> None:
        config = RunConfig(**{"task": "mednli", "recipe": "biobert-v1.1", **settings})
        said = other_batch(config, BatchPlan(32, 4, 1, total))
        assert ("has 32 examples a step, this run 128 (--global_batch_size 32)" in said) == bool(said) == warns


@pytest.mark.slow
def test_a_run_with_no_cuda_where_there_is_a_gpu(tiny_bert: Path, tmp_path: Path) -> None:
    """From the command line to the result; and DeepSpeed, which would look for GPUs by itself, is on the CPU too."""
    code = """
import sys
import torch
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
from launch import train
status = train.main(sys.argv[1:])
from deepspeed.accelerator import get_accelerator
print(get_accelerator().device_name(), status)
"""
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    for name in ("DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES"):
        environment.pop(name, None)
    line = arguments("mednli", tiny_bert, tmp_path / "run", "--max_steps", "2", "--no_cuda")
    done = subprocess.run(
        [sys.executable, "-c", code, *line], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.splitlines()[-1] == "cpu 0", done.stdout + done.stderr

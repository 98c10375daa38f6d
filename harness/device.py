"""The one place that decides between GPU and CPU, and that sets PyTorch and DeepSpeed up for the device."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from harness.errors import UserError, first_line

NONE_VISIBLE = ("", "-1", "NoDevFiles")  # of CUDA_VISIBLE_DEVICES; the last one is SLURM's


def set_up(no_cuda: bool = False, tf32: bool = False, local_rank: int = 0) -> torch.device:
    """The device of this process, made the current one; DeepSpeed, where it is imported later, takes the same.

    Raises UserError where this rank has no GPU of its own, or one that PyTorch cannot use.
    """
    cuda = available(no_cuda)
    os.environ["DS_ACCELERATOR"] = "cuda" if cuda else "cpu"  # else deepspeed looks for GPUs itself, --no_cuda or not
    if not cuda:
        return torch.device("cpu")
    number = device_number(local_rank, torch.cuda.device_count(), os.environ)
    if number is None:
        raise UserError(
            f"--num_gpus: rank {local_rank} of this machine needs GPU number {local_rank}, but this machine shows "
            f"{torch.cuda.device_count()}; ask for fewer, or check CUDA_VISIBLE_DEVICES"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own words about an architecture, ten lines of them
        torch.cuda.set_device(number)
        _check_architecture(number)
    # cuDNN's attention has given NaN gradients under a mask (pytorch#196678), and plans anew for each shape.
    torch.backends.cuda.enable_cudnn_sdp(False)
    assert attention_backends() == ["flash", "mem_efficient", "math"], attention_backends()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")  # TF32 or float32
    torch.backends.cudnn.allow_tf32 = tf32  # convolutions
    return torch.device("cuda", number)


def available(no_cuda: bool = False) -> bool:
    """Whether this process computes on a GPU. Raises UserError where there is one that PyTorch cannot use."""
    if no_cuda:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a driver that is too old: the error below says it
        if torch.cuda.is_available():
            return True
    if sign := gpu_sign(os.environ):
        raise UserError(f"{sign}: there is a GPU, but {_why_unusable()}; or stay on the CPU with --no_cuda")
    return False


def gpu_sign(environment: Mapping[str, str], devices: Path = Path("/dev")) -> str:
    """What says that this process has a GPU; "" where nothing does, or CUDA_VISIBLE_DEVICES asks for the CPU."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        if named.split(",")[0].strip() in NONE_VISIBLE:
            return ""
        if "CROSS_SIZE" not in environment:  # the deepspeed launcher sets it for the ranks on a CPU, too
            return f"CUDA_VISIBLE_DEVICES={named}"
    if environment.get("SLURM_JOB_GPUS"):
        return f"SLURM_JOB_GPUS={environment['SLURM_JOB_GPUS']}"
    return next((str(path) for path in sorted(devices.glob("nvidia[0-9]*")) if _may_open(path)), "")


def _may_open(path: Path) -> bool:
    """False for another job's GPU, which SLURM's cgroup denies whatever the file's mode is."""
    try:
        os.close(os.open(path, os.O_RDONLY))
    except PermissionError:
        return False
    except OSError:  # no driver behind it
        pass
    return True


def _why_unusable() -> str:
    """Why PyTorch sees no GPU, and what to do."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"PyTorch {torch.__version__} is built for the CPU alone: install a wheel with CUDA (docs/gpu.md)"
    reason = "no reason given"
    try:
        torch.cuda.init()
    except Exception as error:
        reason = first_line(error).partition(". ")[0]
    return (
        f"PyTorch {torch.__version__} for CUDA {torch.version.cuda} cannot use it ({reason}): check "
        "CUDA_VISIBLE_DEVICES, update the driver, or install a wheel for an older CUDA (docs/gpu.md)"
    )


def _check_architecture(number: int) -> None:
    """Raises UserError where the wheel has no code for the GPU: the first kernel would fail."""
    major, minor = torch.cuda.get_device_capability(number)
    own = 10 * major + minor
    built = re.findall(r"(sm|compute)_(\d+)", " ".join(torch.cuda.get_arch_list()))
    # sm: machine code, for cards of the same generation that are not older; compute: PTX, for all that are not older.
    if built and not any(int(arch) <= own and (kind == "compute" or int(arch) // 10 == major) for kind, arch in built):
        known = ", ".join(f"{kind}_{arch}" for kind, arch in built)
        raise UserError(
            f"GPU {number} ({torch.cuda.get_device_name(number)}, sm_{own}): PyTorch {torch.__version__} has code for "
            f"{known} alone; install a wheel that has it (docs/gpu.md), or stay on the CPU with --no_cuda"
        )


def device_number(local_rank: int, visible: int, environment: Mapping[str, str]) -> int | None:
    """Which of the `visible` GPUs a rank has; None where there is none for it.

    Under `--gpus-per-task=1` SLURM shows each rank its own GPU alone, as number 0. One GPU on a node that has no more
    for the job looks the same, but is one GPU for all its ranks.
    """
    if local_rank < visible:
        return local_rank
    bound = "SLURM_STEP_ID" in environment and environment.get("CUDA_VISIBLE_DEVICES", "") != ""
    return 0 if visible == 1 and bound and environment.get("SLURM_GPUS_ON_NODE") != "1" else None


def attention_backends() -> list[str]:
    """What scaled_dot_product_attention may choose from on a GPU."""
    cuda = torch.backends.cuda
    enabled = {
        "flash": cuda.flash_sdp_enabled(),
        "mem_efficient": cuda.mem_efficient_sdp_enabled(),
        "cudnn": cuda.cudnn_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }
    return [name for name, is_enabled in enabled.items() if is_enabled]

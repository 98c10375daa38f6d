"""The DeepSpeed JSON of a run: found, checked, and its "auto" numbers filled in from the run's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import BatchPlan, RunConfig, nearest
from harness.errors import UserError
from harness.files import read_settings

if TYPE_CHECKING:  # slow to import, and a command that looks at the JSON alone needs neither
    import torch

    from harness.distributed import World

CONFIGS = Path(__file__).resolve().parent.parent.parent / "ds_configs"
NO_CLIPPING = 1e30  # at 0 DeepSpeed would not compute the gradient's norm either
# DeepSpeed logs nothing of its own; its throughput timer would wait for the device twice in each pass.
QUIET = {
    "steps_per_print": 10**9,
    "wall_clock_breakdown": False,
    "timers": {"throughput": {"enabled": False}},
}
# What may be "auto" in a JSON: filled in from the run's settings.
FILLED = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size", "gradient_clipping")
SECTIONS = ("fp16", "bf16", "torch_autocast", "zero_optimization")


@dataclass(frozen=True)
class DeepSpeedConfig:
    """A DeepSpeed JSON as it is written, "auto" included."""

    name: str  # in ds_configs/, or a path
    settings: Mapping[str, Any]

    @property
    def precision(self) -> str:
        """fp16, bf16 or fp32."""
        if self.settings.get("fp16", {}).get("enabled"):
            return "fp16"
        return "bf16" if self.settings.get("bf16", {}).get("enabled") or self.autocast else "fp32"

    @property
    def autocast(self) -> bool:
        """Whether weights stay in float32 and matrix products alone are cast to bf16 (torch.autocast)."""
        return bool(self.settings.get("torch_autocast", {}).get("enabled"))

    @property
    def stage(self) -> int:
        """ZeRO's stage."""
        stage: int = self.settings.get("zero_optimization", {}).get("stage", 0)
        return stage

    def fill(self, config: RunConfig, plan: BatchPlan) -> dict[str, Any]:
        """The settings with every "auto" filled; a number that contradicts the run's is a UserError."""
        ours = {
            "train_micro_batch_size_per_gpu": plan.micro,
            "gradient_accumulation_steps": plan.accumulation,
            "train_batch_size": plan.micro * plan.world * plan.accumulation,
            "gradient_clipping": config.max_grad_norm or NO_CLIPPING,
        }
        for key, value in ours.items():
            given = self.settings.get(key, "auto")
            if given not in ("auto", value):
                raise UserError(
                    f'--ds_config {self.name}: {key} is {given}, the run\'s flags say {value}; write "auto" there'
                )
        filled = {key: value for key, value in self.settings.items() if key not in ours}
        return {**QUIET, **filled, **ours}


def default(precision: str, device: str) -> str:
    """The name in ds_configs/ that costs least for encoders of BERT's size: stage 0, on several GPUs as well
    (docs/ds_configs.md). On a CPU (`device` "cpu") casting single layers costs less than keeping two sets of weights
    and gradients (benchmarks/notes.md)."""
    if precision == "bf16":
        return "bf16_autocast" if device == "cpu" else "bf16_zero1"
    return {"fp16": "fp16_zero0", "fp32": "fp32"}[precision]


def read(name: str) -> DeepSpeedConfig:
    """That of a name in ds_configs/ or of a path. Raises UserError."""
    path = Path(name)
    if path.suffix != ".json":
        path = CONFIGS / f"{name}.json"
        known = sorted(p.stem for p in CONFIGS.glob("*.json"))
        if not path.is_file():
            raise UserError(
                f"--ds_config {name}: not in ds_configs/{nearest(name, known)}; "
                f"there are {', '.join(known)}, or name a .json file"
            )
    settings = read_settings(path, "--ds_config", "see ds_configs/ for examples")
    owned = [key for key in ("optimizer", "scheduler") if key in settings]
    if owned:
        raise UserError(
            f"--ds_config {name}: remove {' and '.join(owned)}; learning rate, decay and steps come from the flags"
        )
    for section in SECTIONS:
        if not isinstance(settings.get(section, {}), dict):
            raise UserError(f"--ds_config {name}: {section} is {settings[section]!r}; it must be an object of settings")
    if auto := [path for path in _autos(settings) if path not in FILLED]:
        raise UserError(f'--ds_config {name}: {auto[0]} cannot be "auto"; only {", ".join(FILLED)} can')
    found = DeepSpeedConfig(name, settings)
    if found.stage not in (0, 1, 2, 3):
        raise UserError(f"--ds_config {name}: zero_optimization.stage must be 0, 1, 2 or 3")
    if found.autocast and settings["torch_autocast"].get("dtype") != "bfloat16":
        raise UserError(f'--ds_config {name}: torch_autocast has no dtype "bfloat16"; for fp16 take fp16_zero0')
    return found


def _autos(settings: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Places of what is left to be filled in, as `zero_optimization.reduce_bucket_size`."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _autos(value, f"{above}{key}.")
        elif value == "auto":
            yield f"{above}{key}"


def resolve(config: RunConfig, world: World) -> DeepSpeedConfig:
    """That of --ds_config, or the default for --precision.

    Raises UserError for an unknown name, a file that is no JSON, settings that belong to flags, or a precision that
    the device does not have or that contradicts --precision.
    """
    precision = config.precision
    name = config.ds_config or default(choose_precision(precision, world.device), world.device.type)
    found = read(name)
    if precision not in ("auto", found.precision):
        raise UserError(f"--ds_config {name} is {found.precision}, --precision says {precision}: give one of the two")
    choose_precision(found.precision, world.device)
    return found


def supported_precisions(device: torch.device) -> dict[str, bool]:
    """Which precisions this device can train in."""
    import torch

    accelerator = _accelerator(device.type)
    if device.type == "cuda":  # a V100 or T4 emulates bf16, slower than fp32
        return {"fp16": True, "bf16": torch.cuda.is_bf16_supported(including_emulation=False), "fp32": True}
    return {"fp16": accelerator.is_fp16_supported(), "bf16": accelerator.is_bf16_supported(), "fp32": True}


def _accelerator(device: str) -> Any:
    """DeepSpeed's accelerator of the device (cuda | cpu), made the current one: another run of this process, or
    DeepSpeed by itself, may have chosen another."""
    os.environ["DS_ACCELERATOR"] = device  # read when deepspeed is imported
    from deepspeed.accelerator import get_accelerator, set_accelerator

    if get_accelerator().device_name() != device:
        from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
        from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator

        set_accelerator(CUDA_Accelerator() if device == "cuda" else CPU_Accelerator())
    return get_accelerator()


def choose_precision(asked: str, device: torch.device) -> str:
    """auto: fp16 on CUDA, bf16 where the CPU has instructions for it, else fp32. Raises UserError if it cannot be."""
    import torch

    able = supported_precisions(device)
    if asked == "auto":
        if device.type == "cuda":
            return "fp16"
        # Other CPUs emulate bf16, slower than fp32.
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if able["bf16"] and fast else "fp32"
    if not able[asked]:
        can = ", ".join(name for name, yes in able.items() if yes)
        raise UserError(f"--precision {asked}: this {device.type} cannot compute in it; it can in {can}")
    return asked

"""The full float32 weights and Adam moments behind a DeepSpeed engine, parameter by parameter, at any ZeRO stage.

DeepSpeed keeps them in the parameters themselves or in lists next to fp16 parameters, in flat buffers shared out over
the ranks (ZeRO 1 and 2), or partitioned parameter by parameter (ZeRO 3). What is read in one way can be written in any
other and on any number of ranks, to the bit: so a checkpoint need not know either.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from harness.distributed import World
from harness.ds.fp16 import is_fp16_without_zero
from harness.tensor_file import TensorFile

TENSORS = "engine.safetensors"  # where a single rank writes; of several engine-<rank>.safetensors
MOMENTS = ("exp_avg", "exp_avg_sq")  # as torch.optim.AdamW names them


class OptimizerState:
    """Without ZeRO: Adam steps the parameters themselves, or in fp16 a list of float32 weights next to them.

    DeepSpeed's safe_get_* do not know that list and answer None.
    """

    def __init__(self, inner: Any) -> None:
        """`inner` is DeepSpeed's engine."""
        self.optimizer = inner.optimizer  # torch's own, or what DeepSpeed puts around it
        self.adam = getattr(self.optimizer, "optimizer", self.optimizer)
        self.fp32: dict[torch.Tensor, torch.Tensor] = {}  # by the fp16 parameter, which is hashed by what it is
        if is_fp16_without_zero(inner):
            for fp16, fp32 in zip(self.optimizer.fp16_groups, self.optimizer.fp32_groups, strict=True):
                self.fp32.update(zip(fp16, fp32, strict=True))

    def stepped(self) -> list[torch.Tensor]:
        """The tensors that Adam steps."""
        return [parameter for group in self.adam.param_groups for parameter in group["params"]]

    def steps(self) -> int:
        """Adam's own count of steps: 0 as long as there are no moments."""
        return max((int(self.adam.state.get(tensor, {}).get("step", 0)) for tensor in self.stepped()), default=0)

    def read(self, parameter: torch.Tensor, moment: str | None = None) -> torch.Tensor:
        """The whole of a parameter's float32 weight, or of a moment. Collective."""
        weight = self.fp32.get(parameter, parameter)
        value: torch.Tensor = weight if moment is None else self.adam.state[weight][moment]
        return value

    def extent(self, parameter: torch.Tensor) -> tuple[int, int]:
        """[begin, end) of what this rank has of the flattened parameter, and writes to a checkpoint."""
        return 0, parameter.numel()

    def read_part(self, parameter: torch.Tensor, moment: str | None = None) -> torch.Tensor:
        """This rank's part of a float32 weight or of a moment, of any shape; on its own device, not a copy."""
        return self.read(parameter, moment)

    def write_part(self, parameter: torch.Tensor, value: torch.Tensor, moment: str | None = None) -> None:
        """The reverse of `read_part`, from a flat tensor; moments after `allocate` alone."""
        self.read_part(parameter, moment).data.view(-1).copy_(value)

    def allocate(self, steps: int) -> None:
        """Moments of zero, as after `steps` steps; Adam makes them in its first step only."""
        for tensor in self.stepped():
            # A fused Adam keeps its count on the parameter's device.
            count = torch.tensor(float(steps), dtype=torch.float32, device=tensor.device)
            self.adam.state[tensor] = {"step": count, **{name: torch.zeros_like(tensor) for name in MOMENTS}}

    def update_parameters(self) -> None:
        """Copy the float32 weights into the parameters that the model computes with. Collective; ends a series of
        writes."""
        for fp16, fp32 in self.fp32.items():
            fp16.data.copy_(fp32.data)


class ZeroState(OptimizerState):
    """ZeRO 1 and 2, and bf16 without ZeRO: a flat buffer a group, of which each rank has a part."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        if self.steps():
            self.link()

    def link(self) -> None:
        """Show each parameter its part of the moments. DeepSpeed does so after the first group's step, too early."""
        self.optimizer._hp_optimizer_states_linked = False
        self.optimizer._lazy_init_hp_params_optimizer_state()

    def read(self, parameter: torch.Tensor, moment: str | None = None) -> torch.Tensor:
        from deepspeed import utils

        weight, of_adam = utils.safe_get_full_fp32_param, utils.safe_get_full_optimizer_state
        value: torch.Tensor = weight(parameter) if moment is None else of_adam(parameter, moment)
        return value

    def extent(self, parameter: Any) -> tuple[int, int]:
        if parameter._hp_mapping is None:
            return 0, 0
        place = parameter._hp_mapping.lp_fragment_address
        return place.start, place.start + place.numel

    def read_part(self, parameter: Any, moment: str | None = None) -> torch.Tensor:
        part: torch.Tensor = parameter._hp_mapping.get_hp_fragment(moment)
        return part

    def allocate(self, steps: int) -> None:
        super().allocate(steps)
        self.link()

    def update_parameters(self) -> None:
        self.optimizer.update_lp_params()


class Zero3State(ZeroState):
    """ZeRO 3: each parameter partitioned over the ranks, the last part filled up with zeros."""

    def stepped(self) -> list[torch.Tensor]:
        tensors: list[torch.Tensor] = self.optimizer.fp32_partitioned_groups_flat
        return tensors

    def link(self) -> None:
        """Nothing to do: moments are found by the parameter's place in its group."""

    def extent(self, parameter: Any) -> tuple[int, int]:
        size = parameter.ds_tensor.ds_numel
        begin = min(size * torch.distributed.get_rank(), parameter.ds_numel)
        return begin, min(begin + size, parameter.ds_numel)

    def read_part(self, parameter: Any, moment: str | None = None) -> torch.Tensor:
        from deepspeed import utils

        weight, of_adam = utils.safe_get_local_fp32_param, utils.safe_get_local_optimizer_state
        part: torch.Tensor = weight(parameter) if moment is None else of_adam(parameter, moment)
        begin, end = self.extent(parameter)
        return part[: end - begin]

    def write_part(self, parameter: Any, value: torch.Tensor, moment: str | None = None) -> None:
        from deepspeed import utils

        part = torch.zeros(parameter.ds_tensor.ds_numel, dtype=value.dtype)
        part[: value.numel()] = value
        if moment is None:
            utils.safe_set_local_fp32_param(parameter, part)
        else:
            utils.safe_set_local_optimizer_state(parameter, part, moment)

    def update_parameters(self) -> None:
        zero = self.optimizer
        zero.checkpoint_event_prologue()
        for fp16, fp32, parts in zip(
            zero.fp16_partitioned_groups_flat, self.stepped(), zero.fp16_partitioned_groups, strict=True
        ):
            fp16.data.copy_(fp32.data)
            for part, value in zip(parts, zero.unflatten(fp16, parts), strict=True):
                part.data = value.data
        zero.checkpoint_event_epilogue()  # small parameters are kept whole on every rank


class Saved:
    """Float32 weights and moments in the files of a checkpoint; any range of them is read without the rest."""

    def __init__(self, folder: Path) -> None:
        """Finds out what lies where; raises SafetensorError or OSError where a file cannot be read."""
        from safetensors import safe_open

        self.pieces: dict[str, list[tuple[int, Any]]] = {}  # (where it begins in the flattened tensor, its file)
        for path in sorted(folder.glob("engine*.safetensors")):
            file: Any = safe_open(path, framework="pt")
            begins = json.loads((file.metadata() or {}).get("begins", "{}"))  # one file of a single rank has none
            for key in file.keys():  # noqa: SIM118
                self.pieces.setdefault(key, []).append((begins.get(key, 0), file))

    def read(self, key: str, begin: int, end: int) -> torch.Tensor:
        """[begin, end) of a flattened tensor: mapped from a file, or a copy where it lies in several."""
        parts = []
        for start, file in sorted(self.pieces[key], key=lambda piece: piece[0]):
            piece = file.get_tensor(key).view(-1)
            part = piece[max(begin - start, 0) : max(end - start, 0)]
            if part.numel():
                parts.append(part)
        found = parts[0] if len(parts) == 1 else torch.cat([torch.empty(0), *parts])
        assert found.numel() == end - begin, f"{key}: {found.numel()} of {end - begin} values are in the checkpoint"
        return found


def save(inner: Any, folder: Path, world: World) -> int:
    """Write this rank's parts of `master.<name>`, `exp_avg.<name>`, `exp_avg_sq.<name>`; returns Adam's steps.

    Parameters that are not trained are left out. Where every rank has all (stage 0) rank 0 writes. One tensor at a time
    is held beside the engine's own.
    """
    state = of(inner)
    steps = state.steps()
    shared = isinstance(state, ZeroState) and world.size > 1
    if not shared and not world.is_main:
        return steps
    shapes, begins, sources = {}, {}, {}
    for name, parameter, moment in _entries(inner, steps):
        begin, end = state.extent(parameter)
        if end > begin:
            shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
            key = f"{moment or 'master'}.{name}"
            begins[key], sources[key] = begin, (parameter, moment)
            shapes[key] = (end - begin,) if shared else shape
    path = folder / (f"engine-{world.rank}.safetensors" if shared else TENSORS)
    with TensorFile(path, shapes, {"begins": json.dumps(begins)} if shared else None) as file:
        for key, source in sources.items():
            file.write(key, state.read_part(*source))
    return steps


def load(inner: Any, folder: Path, steps: int) -> None:
    """The reverse of `save`, at any stage and on any number of ranks; each reads its own part. Collective."""
    state, saved = of(inner), Saved(folder)
    if steps:
        state.allocate(steps)
    for name, parameter, moment in _entries(inner, steps):
        begin, end = state.extent(parameter)
        if end > begin:
            state.write_part(parameter, saved.read(f"{moment or 'master'}.{name}", begin, end), moment)
    state.update_parameters()


def _entries(inner: Any, steps: int) -> list[tuple[str, Any, str | None]]:
    """(name, parameter, moment or None for the weight) of all that is saved; moments exist from Adam's first step."""
    trained = [(name, parameter) for name, parameter in inner.module.named_parameters() if parameter.requires_grad]
    return [(*each, moment) for each in trained for moment in (None, *(MOMENTS if steps else ()))]


def of(inner: Any) -> OptimizerState:
    """How this engine keeps them."""
    from deepspeed.runtime.base_optimizer import ZeROOptimizer
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

    if isinstance(inner.optimizer, DeepSpeedZeroOptimizer_Stage3):
        return Zero3State(inner)
    if isinstance(inner.optimizer, ZeROOptimizer):  # BF16_Optimizer is one, too
        return ZeroState(inner)
    return OptimizerState(inner)

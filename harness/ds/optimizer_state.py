"""The full float32 weights and Adam moments behind a DeepSpeed engine, parameter by parameter, at any ZeRO stage.

DeepSpeed keeps them in the parameters themselves or in lists next to fp16 parameters, in flat buffers shared out over
the ranks (ZeRO 1 and 2), or partitioned parameter by parameter (ZeRO 3). What is read in one way can be written in any
other and on any number of ranks, to the bit: so a checkpoint need not know either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from harness.ds.fp16 import is_fp16_without_zero

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

    def write(self, parameter: torch.Tensor, value: torch.Tensor, moment: str | None = None) -> None:
        """The reverse of `read`; moments after `allocate` alone."""
        self.read(parameter, moment).data.copy_(value)

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

    def write(self, parameter: torch.Tensor, value: torch.Tensor, moment: str | None = None) -> None:
        from deepspeed import utils

        if moment is None:
            utils.safe_set_full_fp32_param(parameter, value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, moment)

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

    def write(self, parameter: Any, value: torch.Tensor, moment: str | None = None) -> None:
        from deepspeed import utils

        # Not by safe_set_full_*: it cuts the last rank's part out of the value, which ends before the filling does.
        size = parameter.ds_tensor.numel()
        whole = torch.zeros(size * torch.distributed.get_world_size(), dtype=value.dtype)
        whole[: value.numel()] = value.flatten()
        part = whole.narrow(0, size * torch.distributed.get_rank(), size)
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


def read_all(inner: Any, keep: bool) -> tuple[int, dict[str, torch.Tensor]]:
    """(Adam's steps, tensors on the CPU by `master.<name>`, `exp_avg.<name>`, `exp_avg_sq.<name>`). Collective.

    Ranks that do not `keep` get no tensors. Parameters that are not trained are left out. What is whole on the CPU is
    the engine's own and not a copy: to be written before the next step.
    """
    state = of(inner)
    steps = state.steps()
    tensors = {}
    for name, parameter, moment in _entries(inner, steps):
        value = state.read(parameter, moment)
        if keep:
            tensors[f"{moment or 'master'}.{name}"] = on_cpu(value)
    return steps, tensors


def write_all(inner: Any, steps: int, tensor: Callable[[str], torch.Tensor]) -> None:
    """The reverse of `read_all`, on any number of ranks; `tensor` gives one by its name. Collective."""
    state = of(inner)
    if steps:
        state.allocate(steps)
    for name, parameter, moment in _entries(inner, steps):
        state.write(parameter, tensor(f"{moment or 'master'}.{name}"), moment)
    state.update_parameters()


def _entries(inner: Any, steps: int) -> list[tuple[str, Any, str | None]]:
    """(name, parameter, moment or None for the weight) of all that is saved; moments exist from Adam's first step."""
    trained = [(name, parameter) for name, parameter in inner.module.named_parameters() if parameter.requires_grad]
    return [(*each, moment) for each in trained for moment in (None, *(MOMENTS if steps else ()))]


def on_cpu(value: torch.Tensor) -> torch.Tensor:
    """On the CPU in a storage of its own, as safetensors writes no views of shared ones; the same tensor if it is."""
    value = value.detach().cpu().contiguous()
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()


def of(inner: Any) -> OptimizerState:
    """How this engine keeps them."""
    from deepspeed.runtime.base_optimizer import ZeROOptimizer
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

    if isinstance(inner.optimizer, DeepSpeedZeroOptimizer_Stage3):
        return Zero3State(inner)
    if isinstance(inner.optimizer, ZeROOptimizer):  # BF16_Optimizer is one, too
        return ZeroState(inner)
    return OptimizerState(inner)

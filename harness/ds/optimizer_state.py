"""The full float32 weights and Adam moments behind a DeepSpeed engine, parameter by parameter, at any ZeRO stage.

DeepSpeed keeps them in four ways, each a class here: in the parameters themselves, in lists beside half-precision ones,
in flat buffers shared out over the ranks (ZeRO 1 and 2), or cut up parameter by parameter (ZeRO 3). What is read in one
way can be written in any other and on any number of ranks, to the bit: so a checkpoint need not know either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

MOMENTS = ("exp_avg", "exp_avg_sq")  # as torch.optim.AdamW names them


class Masters:
    """In float32 without ZeRO: a parameter is its own master."""

    def __init__(self, inner: Any) -> None:
        """`inner` is DeepSpeed's engine."""
        self.optimizer = inner.optimizer  # torch's own, or what DeepSpeed puts around it
        self.adam = getattr(self.optimizer, "optimizer", self.optimizer)

    def steps(self) -> int:
        """Adam's own count of steps: 0 as long as there are no moments."""
        return max((int(self.adam.state.get(owner, {}).get("step", 0)) for owner in self._owners()), default=0)

    def read(self, parameter: torch.Tensor, moment: str | None = None) -> torch.Tensor:
        """The whole of a parameter's master, or of a moment. Collective."""
        master = self._master(parameter)
        value: torch.Tensor = master if moment is None else self.adam.state[master][moment]
        return value

    def write(self, parameter: torch.Tensor, value: torch.Tensor, moment: str | None = None) -> None:
        """The reverse of `read`; moments after `allocate` alone."""
        self.read(parameter, moment).data.copy_(value)

    def allocate(self, steps: int) -> None:
        """Moments of zero, as after `steps` steps; Adam makes them in its first step only."""
        for owner in self._owners():
            # A fused Adam keeps its count beside the parameter.
            count = torch.tensor(float(steps), dtype=torch.float32, device=owner.device)
            self.adam.state[owner] = {"step": count, **{name: torch.zeros_like(owner) for name in MOMENTS}}

    def refresh(self) -> None:
        """Copy the masters into the weights that the model computes with. Collective; ends a series of writes."""

    def _owners(self) -> list[torch.Tensor]:
        """The tensors that Adam steps."""
        return [parameter for group in self.adam.param_groups for parameter in group["params"]]

    def _master(self, parameter: torch.Tensor) -> torch.Tensor:
        return parameter


class Beside(Masters):
    """In fp16 without ZeRO: lists of masters beside lists of weights, out of reach of DeepSpeed's own getters."""

    def _pairs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        groups = zip(self.optimizer.fp16_groups, self.optimizer.fp32_groups, strict=True)
        return [pair for halves, fulls in groups for pair in zip(halves, fulls, strict=True)]

    def _master(self, parameter: torch.Tensor) -> torch.Tensor:
        return next(full for half, full in self._pairs() if half is parameter)

    def refresh(self) -> None:
        for half, full in self._pairs():
            half.data.copy_(full.data)


class Flat(Masters):
    """ZeRO 1 and 2, and bf16 without ZeRO: a flat buffer a group, of which each rank has a part."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        if self.steps():
            self._link()

    def _link(self) -> None:
        """Show each parameter its part of the moments. DeepSpeed does so after the first group's step, too early."""
        self.optimizer._hp_optimizer_states_linked = False
        self.optimizer._lazy_init_hp_params_optimizer_state()

    def read(self, parameter: Any, moment: str | None = None) -> torch.Tensor:
        value: torch.Tensor = parameter.get_full_hp_param(moment)
        return value

    def write(self, parameter: Any, value: torch.Tensor, moment: str | None = None) -> None:
        parameter.set_full_hp_param(value, moment)

    def allocate(self, steps: int) -> None:
        super().allocate(steps)
        self._link()

    def refresh(self) -> None:
        self.optimizer.update_lp_params()


class Partitioned(Masters):
    """ZeRO 3: each parameter cut up over the ranks, the last part filled up."""

    def _owners(self) -> list[torch.Tensor]:
        owners: list[torch.Tensor] = self.optimizer.fp32_partitioned_groups_flat
        return owners

    def read(self, parameter: torch.Tensor, moment: str | None = None) -> torch.Tensor:
        value: torch.Tensor = self.optimizer.get_full_hp_param(parameter, moment)
        return value

    def write(self, parameter: Any, value: torch.Tensor, moment: str | None = None) -> None:
        part = parameter.ds_tensor.numel()
        whole = torch.zeros(part * torch.distributed.get_world_size(), dtype=value.dtype)
        whole[: value.numel()] = value.flatten()
        self.optimizer.set_local_hp_param(whole.narrow(0, part * torch.distributed.get_rank(), part), parameter, moment)

    def refresh(self) -> None:
        zero = self.optimizer
        zero.checkpoint_event_prologue()
        for halves, full, parts in zip(
            zero.fp16_partitioned_groups_flat, self._owners(), zero.fp16_partitioned_groups, strict=True
        ):
            halves.data.copy_(full.data)
            for part, value in zip(parts, zero.unflatten(halves, parts), strict=True):
                part.data = value.data
        zero.checkpoint_event_epilogue()  # small parameters are kept whole on every rank


def read_all(inner: Any, keep: bool) -> tuple[int, dict[str, torch.Tensor]]:
    """(Adam's steps, tensors on the CPU by `master.<name>`, `exp_avg.<name>`, `exp_avg_sq.<name>`). Collective.

    Ranks that do not `keep` get no tensors. Parameters that are not trained are left out. What is whole on the CPU is
    the engine's own and not a copy: to be written before the next step.
    """
    masters = of(inner)
    steps = masters.steps()
    tensors = {}
    for name, parameter in trained(inner):
        for moment in (None, *(MOMENTS if steps else ())):
            value = masters.read(parameter, moment)
            if keep:
                tensors[f"{moment or 'master'}.{name}"] = alone(value)
    return steps, tensors


def alone(value: torch.Tensor) -> torch.Tensor:
    """On the CPU in a storage of its own, as safetensors writes no views of shared ones; the same tensor if it is."""
    value = value.detach().cpu().contiguous()
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()


def write_all(inner: Any, steps: int, tensor: Callable[[str], torch.Tensor]) -> None:
    """The reverse of `read_all`, on any number of ranks; `tensor` gives one by its name. Collective."""
    masters = of(inner)
    if steps:
        masters.allocate(steps)
    for name, parameter in trained(inner):
        for moment in (None, *(MOMENTS if steps else ())):
            masters.write(parameter, tensor(f"{moment or 'master'}.{name}"), moment)
    masters.refresh()


def trained(inner: Any) -> list[tuple[str, Any]]:
    """Names and parameters that have masters."""
    return [(name, p) for name, p in inner.module.named_parameters() if p.requires_grad]


def shapes(inner: Any) -> dict[str, list[int]]:
    """Of all parameters, whole: what two engines must have in common to take each other's weights."""
    return {name: list(getattr(p, "ds_shape", p.shape)) for name, p in inner.module.named_parameters()}


def of(inner: Any) -> Masters:
    """How this engine keeps them."""
    parameter = next(inner.module.parameters())
    if hasattr(parameter, "ds_id"):
        return Partitioned(inner)
    if hasattr(parameter, "_hp_mapping"):
        return Flat(inner)
    return Beside(inner) if hasattr(inner.optimizer, "fp32_groups") else Masters(inner)

"""Fixes for what DeepSpeed 0.19.8 does wrongly, or at needless cost for small models (benchmarks/notes.md).

Small models are bound by the number of operations that the host starts, not by arithmetic: a pass over 200 weights one
at a time costs as much as the model's backward pass, and every number that the host reads makes it wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from harness import private_names
from harness.distributed import World


def apply(inner: Any, world: World) -> None:
    """Fix DeepSpeed's engine in place, by ZeRO stage and precision. Raises UserError where a name is gone."""
    from deepspeed.runtime.base_optimizer import ZeROOptimizer
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    private_names.check_engine(inner)
    optimizer = inner.optimizer
    if is_fp16_without_zero(inner):
        # DeepSpeed allocates the moments by a step on zero gradients, which Adam's bias correction then counts as the
        # first: the run's own first step would be too small.
        optimizer.optimizer.state.clear()
        _replace(optimizer, "step", _fp16_step(optimizer))
    elif isinstance(optimizer, DeepSpeedZeroOptimizer):  # stages 1 and 2
        # A gradient that overflowed shows in their norm, which is computed and looked at next. Not by the setting
        # check_grad_overflow, on which bf16's second look depends too.
        _replace(optimizer, "check_overflow", lambda **_: None)
        _replace(optimizer, "get_grad_norm_direct", _norm_over_ranks(optimizer))

    parameters = [parameter for parameter in inner.module.parameters() if parameter.requires_grad]

    def clip() -> None:  # in float32 DeepSpeed clips and forgets the norm
        for parameter in parameters:
            if parameter.grad is None:  # as DeepSpeed's reduction has it: else Adam would have no moments to save
                parameter.grad = torch.zeros_like(parameter)
        inner._global_grad_norm = torch.nn.utils.clip_grad_norm_(parameters, inner.gradient_clipping())

    _replace(inner, "clip_fp32_gradients", clip)
    if world.size == 1 and not isinstance(optimizer, ZeROOptimizer):
        # There is nothing to reduce; it would still copy all gradients twice, a sixth of a step of BERT-base on a CPU.
        # Not under ZeRO, which takes the gradients in the same call, and BF16_Optimizer counts as ZeRO.
        _replace(inner, "enable_backward_allreduce", False)


def _replace(owner: Any, name: str, value: Any) -> None:
    """Set an attribute that is there. Raises UserError where it is not: under a name that nobody reads a fix would
    change nothing, and gradients would be wrong without an error."""
    if not hasattr(owner, name):
        raise private_names.missing(f"deepspeed's {type(owner).__name__}.{name}")
    setattr(owner, name, value)


def is_fp16_without_zero(inner: Any) -> bool:
    """Whether fp16 parameters and their float32 weights lie in two lists of tensors: fp16 at stage 0."""
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    return isinstance(inner.optimizer, FP16_UnfusedOptimizer)


def _fp16_step(optimizer: Any) -> Callable[[], bool]:
    """The step of fp16 at stage 0 in a few operations over all parameters, where DeepSpeed has 20 for each of them.

    It also waits for the device once, to read the gradients' norm, and not once for each parameter; and gradients are
    divided by the loss scale that they were multiplied by, where DeepSpeed first raises the scale when it is time to.
    """
    fp16 = [parameter for group in optimizer.fp16_groups for parameter in group]
    fp32 = [weight for group in optimizer.fp32_groups for weight in group]

    def step() -> bool:
        """Clip, update the float32 weights, copy them to fp16; True where gradients overflowed and nothing was done."""
        scale = float(optimizer.loss_scale)
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in fp16]
        norm = float(_norm(gradients)) / scale
        if not math.isfinite(norm):
            return bool(optimizer._skip_invalid_grad_norm())
        optimizer.overflow, optimizer._global_grad_norm = False, norm
        for weight in fp32:
            weight.grad = torch.empty_like(weight)
        unscaled = [weight.grad for weight in fp32]
        torch._foreach_copy_(unscaled, gradients)
        clip = (norm + 1e-6) / optimizer.clip_grad if optimizer.clip_grad else 1.0
        torch._foreach_mul_(unscaled, 1 / (scale * max(1.0, clip)))
        optimizer.optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(fp16, fp32)
        for weight in fp32:  # four bytes a parameter that nothing needs until the next step
            weight.grad = None
        optimizer._update_scale(False)
        return False

    return step


def _norm_over_ranks(optimizer: Any) -> Callable[..., torch.Tensor]:
    """The gradient norm of ZeRO 1 and 2 over all gradients at once, where DeepSpeed takes each by itself."""

    def norm(gradients: Sequence[torch.Tensor], parameters: Sequence[Any], norm_type: float = 2) -> torch.Tensor:
        """L2 norm over the ranks' parts; -1 where it is not finite, which is how ZeRO notices an overflow."""
        own = [gradient for gradient in gradients if not getattr(gradient, "_zero_padding", False)][: len(parameters)]
        square = _norm(own).square() if own else torch.zeros((), device=optimizer.device)
        dist.all_reduce(square, group=optimizer.dp_process_group)
        total = square.sqrt()
        return torch.where(total.isfinite(), total, -1.0)

    return norm


def _norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    """L2 norm over all of them, in float32."""
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors, 2, dtype=torch.float32)))
    return norm

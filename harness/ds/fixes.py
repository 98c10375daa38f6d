"""What DeepSpeed 0.19.8 does wrongly or at needless cost for small models, mended on its engine (benchmarks/notes.md).

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


def mend(inner: Any, world: World) -> None:
    """Mend DeepSpeed's engine in place, by ZeRO stage and precision. Raises UserError where it is not as we know it."""
    private_names.check_engine(inner)
    optimizer = inner.optimizer
    if keeps_halves_apart(inner):
        # It allocates the moments by a step on zero gradients, which Adam's bias correction then counts as the first.
        optimizer.optimizer.state.clear()
        optimizer.step = _half_step(optimizer)
    elif type(optimizer).__name__ == "DeepSpeedZeroOptimizer":  # stages 1 and 2
        # A gradient that overflowed shows in their norm, which is computed and looked at next. Not by the setting
        # check_grad_overflow, on which bf16's second look depends too.
        optimizer.check_overflow = lambda **_: None
        optimizer.get_grad_norm_direct = _norm_over_ranks(optimizer)

    weights = [parameter for parameter in inner.module.parameters() if parameter.requires_grad]

    def clip() -> None:  # in float32 it clips and forgets the norm
        inner._global_grad_norm = torch.nn.utils.clip_grad_norm_(weights, inner.gradient_clipping())

    inner.clip_fp32_gradients = clip
    if world.size == 1 and not hasattr(optimizer, "get_grads_for_reduction"):
        # There is nothing to reduce; it would still copy all gradients twice, a sixth of a step of BERT-base on a CPU.
        inner.buffered_allreduce_fallback = _filler(weights)


def keeps_halves_apart(inner: Any) -> bool:
    """Whether this is fp16 at stage 0: weights in fp16 and float32 masters, in a list each."""
    return type(inner.optimizer).__name__ == "FP16_UnfusedOptimizer"


def _filler(parameters: Sequence[torch.nn.Parameter]) -> Callable[..., None]:
    """What is left of the reduction of gradients: weights without one get one of zeros, as from several ranks."""

    def fill(**_: Any) -> None:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    return fill


def _half_step(optimizer: Any) -> Callable[[], bool]:
    """The step of fp16 at stage 0 in a few operations over all weights, where DeepSpeed has 20 for each of them.

    It also waits for the device once, to read the gradients' norm, and not once for each weight; and gradients are
    divided by the loss scale that they were multiplied by, where DeepSpeed first raises the scale when it is time to.
    """
    halves = [half for group in optimizer.fp16_groups for half in group]
    masters = [master for group in optimizer.fp32_groups for master in group]

    def step() -> bool:
        """Clip, update the masters, copy them to the weights; True where gradients overflowed and nothing was done."""
        scale = float(optimizer.loss_scale)
        gradients = [torch.zeros_like(half) if half.grad is None else half.grad for half in halves]
        norm = float(_norm(gradients)) / scale
        if not math.isfinite(norm):
            return bool(optimizer._skip_invalid_grad_norm())
        optimizer.overflow, optimizer._global_grad_norm = False, norm
        for master in masters:
            master.grad = torch.empty_like(master)
        full = [master.grad for master in masters]
        torch._foreach_copy_(full, gradients)
        clip = (norm + 1e-6) / optimizer.clip_grad if optimizer.clip_grad else 1.0
        torch._foreach_mul_(full, 1 / (scale * max(1.0, clip)))
        optimizer.optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(halves, masters)
        for master in masters:
            master.grad = None
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

"""Fixes for what DeepSpeed 0.19.8 does wrongly, or at needless cost for small models (benchmarks/notes.md).

Small models are bound by the number of operations that the host starts, not by arithmetic: a pass over 200 weights one
at a time costs as much as the model's backward pass, and every number that the host reads makes it wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from harness import private_names
from harness.distributed import World
from harness.ds.fp16 import Fp16Step, is_fp16_without_zero


def apply(inner: Any, world: World) -> Fp16Step | None:
    """Fix DeepSpeed's engine in place, by ZeRO stage and precision; returns the step of fp16 at stage 0.

    Raises UserError where a name is gone.
    """
    from deepspeed.runtime.base_optimizer import ZeROOptimizer
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    private_names.check_engine(inner)
    optimizer, fp16_step = inner.optimizer, None
    if is_fp16_without_zero(inner):
        # DeepSpeed allocates the moments by a step on zero gradients, which Adam's bias correction then counts as the
        # first: the run's own first step would be too small.
        optimizer.optimizer.state.clear()
        fp16_step = Fp16Step(inner, world)
        _replace(optimizer, "step", fp16_step)
    elif isinstance(optimizer, DeepSpeedZeroOptimizer):  # stages 1 and 2
        # A gradient that overflowed shows in their norm, which is computed and looked at next. Not by the setting
        # check_grad_overflow, on which bf16's second look depends too.
        _replace(optimizer, "check_overflow", lambda **_: None)
        _replace(optimizer, "get_grad_norm_direct", _norm_over_ranks(optimizer))
        if not optimizer.overlap_comm:
            _replace(optimizer, "allreduce_and_copy", _allreduce_and_copy(optimizer, optimizer.allreduce_and_copy))

    parameters = [parameter for parameter in inner.module.parameters() if parameter.requires_grad]

    def clip() -> None:  # in float32 DeepSpeed clips and forgets the norm
        for parameter in parameters:
            if parameter.grad is None:  # as DeepSpeed's reduction has it: else Adam would have no moments to save
                parameter.grad = torch.zeros_like(parameter)
        inner._global_grad_norm = torch.nn.utils.clip_grad_norm_(parameters, inner.gradient_clipping())

    _replace(inner, "clip_fp32_gradients", clip)
    if fp16_step is not None or (world.size == 1 and not isinstance(optimizer, ZeROOptimizer)):
        # There is nothing to reduce, or `fp16_step` does it; DeepSpeed would still copy all gradients twice, a sixth of
        # a step of BERT-base on a CPU. Not under ZeRO, which takes the gradients in the same call, and BF16_Optimizer
        # counts as ZeRO.
        _replace(inner, "enable_backward_allreduce", False)
    return fp16_step


def _replace(owner: Any, name: str, value: Any) -> None:
    """Set an attribute that is there. Raises UserError where it is not: under a name that nobody reads a fix would
    change nothing, and gradients would be wrong without an error."""
    if not hasattr(owner, name):
        raise private_names.missing(f"deepspeed's {type(owner).__name__}.{name}")
    setattr(owner, name, value)


def _norm_over_ranks(optimizer: Any) -> Callable[..., torch.Tensor]:
    """The gradient norm of ZeRO 1 and 2 over all gradients at once, where DeepSpeed takes each by itself."""

    def norm(gradients: Sequence[torch.Tensor], parameters: Sequence[Any], norm_type: float = 2) -> torch.Tensor:
        """L2 norm over the ranks' parts; -1 where it is not finite, which is how ZeRO notices an overflow."""
        own = [gradient for gradient in gradients if not getattr(gradient, "_zero_padding", False)][: len(parameters)]
        square = _norm(own).square() if own else torch.zeros((), device=optimizer.device)
        dist.all_reduce(square, group=optimizer.dp_process_group)
        return square.sqrt().nan_to_num_(nan=-1.0, posinf=-1.0)

    return norm


def _allreduce_and_copy(optimizer: Any, theirs: Callable[..., None]) -> Callable[..., None]:
    """The mean over ranks of a bucket of ZeRO 1 and 2, copied back at once, where DeepSpeed copies one gradient after
    another."""

    def reduce(bucket: Sequence[torch.Tensor], dtype: torch.dtype, output_bucket: Any = None, **more: Any) -> None:
        if more.get("rank") is not None or any(each is not None for each in output_bucket or ()):
            theirs(bucket, dtype, output_bucket=output_bucket, **more)
            return
        reduced = optimizer.allreduce_bucket(bucket, dtype, **more)
        torch._foreach_copy_(list(bucket), list(optimizer.unflatten(reduced, bucket)))

    return reduce


def _norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    """L2 norm over all of them, in float32."""
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors, 2, dtype=torch.float32)))
    return norm

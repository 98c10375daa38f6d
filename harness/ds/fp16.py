"""fp16 at stage 0: an optimizer step of few operations that never waits for the device.

Whether gradients overflowed is known to the device alone when the step is started: Adam leaves the weights as they are
where they did (`found_inf`), and the host counts the step as applied until it has read the norm, which it does between
the next forward and backward pass: the device has that forward pass to do meanwhile.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist

from harness.distributed import World

# What changes of the loss scaler in training. Without the counters a resumed run would raise its scale at another step.
LOSS_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
MOST_IN_FLOAT32 = 1e38


def is_fp16_without_zero(inner: Any) -> bool:
    """Whether fp16 parameters and their float32 weights lie in two lists of tensors: fp16 at stage 0."""
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    return isinstance(inner.optimizer, FP16_UnfusedOptimizer)


def set_schedule(inner: Any, steps: int) -> None:
    """Put the learning rate where it is after `steps` steps of the schedule."""
    schedule = inner.lr_scheduler
    schedule.last_epoch = steps
    for group, peak, share in zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = peak * share(steps)


class Fp16Step:
    """Replaces `step` of DeepSpeed's optimizer, which has 20 operations for each parameter and waits for each.

    Gradients are divided by the loss scale that they were multiplied by, where DeepSpeed first raises the scale when it
    is time to. Clipping and scale are one factor, which Adam divides by.
    """

    def __init__(self, inner: Any, world: World) -> None:
        """`inner` is DeepSpeed's engine, which is to leave the mean over ranks to this step."""
        self.inner, self.optimizer, self.world = inner, inner.optimizer, world
        self.fp16 = [parameter for group in self.optimizer.fp16_groups for parameter in group]
        self.fp32 = [weight for group in self.optimizer.fp32_groups for weight in group]
        # One buffer for the life of the run: an allocation for each of 199 weights costs the host as much as the step.
        self.flat = torch.zeros(sum(weight.numel() for weight in self.fp32), device=self.fp32[0].device)
        parts = self.flat.split([weight.numel() for weight in self.fp32])
        self.gradients = [part.view_as(weight) for part, weight in zip(parts, self.fp32, strict=True)]
        self.taken = False  # whether this step's gradients are there
        # Of the last step, while the host does not know its outcome: the norm on its way to the CPU, and whether it is
        # there.
        self._norm: torch.Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        self._scaler: dict[str, Any] = {}  # before that step

    def clear_gradients(self) -> None:
        """The parameters' own: to those that are there a backward pass adds its own, one by one."""
        for parameter in self.fp16:
            parameter.grad = None

    def take_gradients(self) -> None:
        """Copy the parameters' gradients into the float32 ones."""
        missing = [g for g, parameter in zip(self.gradients, self.fp16, strict=True) if parameter.grad is None]
        if missing:
            torch._foreach_zero_(missing)
        pairs = [(g, p.grad) for g, p in zip(self.gradients, self.fp16, strict=True) if p.grad is not None]
        torch._foreach_copy_([own for own, _ in pairs], [given for _, given in pairs])

    def __call__(self) -> bool:
        """Clip, update the float32 weights, copy them to fp16, all on the device; False: counted as applied so far."""
        self.settle()
        optimizer, scaler, adam = self.optimizer, self.optimizer.loss_scale_config, self.optimizer.optimizer
        scale, clip = float(optimizer.loss_scale), float(optimizer.clip_grad) or math.inf
        if not self.taken:
            self.take_gradients()
        self.taken = False
        if self.world.size > 1:  # in fp16, as DeepSpeed does, for half the traffic; divided first, or sums overflow
            mean = torch.empty_like(self.flat, dtype=torch.float16)
            dist.all_reduce(torch.div(self.flat, self.world.size, out=mean))
            self.flat.copy_(mean)
        norm = torch.linalg.vector_norm(self.flat)
        adam.found_inf = (norm - norm).nan_to_num_(nan=1.0)  # 1 where the norm is inf or NaN, else 0
        if clip * scale > MOST_IN_FLOAT32:  # no clipping
            adam.grad_scale = torch.full_like(norm, scale)
        else:  # scale * max(1, (norm / scale + 1e-6) / clip), in two operations: rsub(x, y, alpha) is y - alpha * x
            larger = norm.clamp(min=(clip - 1e-6) * scale)
            adam.grad_scale = torch.rsub(larger, 1e-6 * scale / clip, alpha=-1 / clip)
        for weight, gradient in zip(self.fp32, self.gradients, strict=True):
            weight.grad = gradient
        adam.step()
        with torch.no_grad():
            torch._foreach_copy_(self.fp16, self.fp32)
        for weight in self.fp32:  # whoever saves or reads the weights shall find no gradients
            weight.grad = None
        self._scaler = {name: getattr(scaler, name) for name in LOSS_SCALER if hasattr(scaler, name)}
        self._norm = torch.empty((), pin_memory=True) if norm.is_cuda else torch.empty(())
        self._norm.copy_(norm, non_blocking=True)
        if norm.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()
        optimizer.overflow, optimizer._global_grad_norm = False, norm / scale
        optimizer._update_scale(False)
        return False

    def settle(self) -> bool:
        """Whether the last step was applied; what was counted is put right where it was not."""
        if self._norm is None:
            return not self.optimizer.overflow
        if self._copied is not None:
            self._copied.synchronize()
        norm, self._norm, self._copied = self._norm.item(), None, None
        if math.isfinite(norm):
            return True
        inner, optimizer = self.inner, self.optimizer
        for name, value in self._scaler.items():
            setattr(optimizer.loss_scale_config, name, value)
        optimizer._skip_invalid_grad_norm()
        inner._global_grad_norm = optimizer._global_grad_norm
        inner.skipped_steps += 1
        set_schedule(inner, int(inner.lr_scheduler.last_epoch) - 1)
        return False

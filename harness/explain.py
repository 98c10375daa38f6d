"""Training that cannot go on, in words that its user can act on: one explanation of each kind, with what to try."""

from __future__ import annotations

import math

import torch

from harness.config import RunConfig
from harness.distributed import World, agree

SCALE_AT_MINIMUM = "loss scale already at minimum"  # in the bare Exception that DeepSpeed raises


class TrainingFailed(Exception):
    """Training cannot go on; the message says at which step, why, and what to try. Checkpoints are kept.

    `deterministic`: the same command would fail in the same way, so that nobody needs to try it again.
    """

    def __init__(self, message: str, *, deterministic: bool = False) -> None:
        super().__init__(message)
        self.deterministic = deterministic


def explain(error: BaseException, step: int, lr: float, config: RunConfig) -> TrainingFailed | None:
    """The one explanation of a failure that users meet, or None where it is not one of those."""
    text = str(error)
    at = f"step {step}, learning rate {lr:.2e}"
    if SCALE_AT_MINIMUM in text:
        return TrainingFailed(
            f"fp16 loss scale at its minimum at {at}: gradients overflow at every scale. Try --precision bf16, a lower "
            "--learning_rate or --warmup_steps; the last good checkpoint is kept",
            deterministic=True,
        )
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return TrainingFailed(
            f"out of memory at {at} with --per_gpu_train_batch_size {config.per_gpu_train_batch_size}: halve it and "
            "double --gradient_accumulation_steps (the same optimisation), or take --ds_config fp16_zero2_offload; "
            "the last good checkpoint is kept",
            deterministic=True,
        )
    return None


def check_loss(loss: float, step: int, lr: float, world: World) -> None:
    """Raises TrainingFailed on all ranks where the loss of any is NaN or infinite."""
    if agree(not math.isfinite(loss), world.device):
        raise TrainingFailed(
            f"the loss is not a number at step {step}, learning rate {lr:.2e}: training has diverged. Try a lower "
            "--learning_rate, --warmup_steps, or --precision fp32; the last good checkpoint is kept",
            deterministic=True,
        )

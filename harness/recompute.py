"""Gradient checkpointing: a layer's activations are computed again in the backward pass instead of being kept.

What stays from the forward pass is each layer's input. Losses and gradients keep every bit: the second pass draws the
same dropout masks, and has the same autocast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from harness.errors import UserError


def layers(encoder: nn.Module) -> list[nn.Module]:
    """Members of the encoder's outermost module lists: in ALBERT, lists hold lists."""
    lists = {name: module for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [m for name, m in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    return [layer for module in outer for layer in module]


def recompute_layers(encoder: Any) -> None:
    """Have each layer of the encoder compute its activations twice. Raises UserError where it has no layers."""
    found = layers(encoder)
    if not found:
        raise UserError(
            f"--gradient_checkpointing: a {encoder.config.model_type} has no list of layers to compute again; leave it "
            "out, or lower --per_gpu_train_batch_size and raise --gradient_accumulation_steps"
        )
    for layer in found:
        # In the place of the class's own, inside all hooks; transformers' switch would also mark its inputs.
        layer.forward = _twice(layer, layer.forward)


def _twice(layer: nn.Module, once: Any) -> Any:
    def forward(*given: Any, **named: Any) -> Any:
        if layer.training and torch.is_grad_enabled():
            return checkpoint(once, *given, use_reentrant=False, **named)
        return once(*given, **named)

    return forward

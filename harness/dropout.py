"""Dropout whose masks cost little to draw on a CPU, where torch's take a sixth of a training step."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

LEVELS = 2**16  # an element is dropped where 16 random bits, as a number, are below a threshold


def drop(tensor: torch.Tensor, probability: float) -> torch.Tensor:
    """`functional.dropout` in training; on a CPU with the probability rounded to a multiple of 1/65536.

    Four elements share a draw of 64 bits from torch's default generator, so that a resumed run draws the same masks.
    """
    dropped = round(probability * LEVELS)
    if tensor.device.type != "cpu" or dropped in (0, LEVELS):
        return functional.dropout(tensor, probability)
    draws = torch.empty(-(-tensor.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: tensor.numel()].view(tensor.shape)
    return tensor * (bits >= dropped - LEVELS // 2).to(tensor.dtype).mul_(LEVELS / (LEVELS - dropped))


class Dropout(nn.Dropout):
    """nn.Dropout with `drop`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As nn.Dropout's."""
        return drop(input, self.p) if self.training else input


def exchange(model: nn.Module) -> None:
    """Put `Dropout` in the place of every nn.Dropout of the model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))

"""The optimizer of the original, written out in plain PyTorch."""

from __future__ import annotations

import math
from typing import Any

import torch

BETA1, BETA2 = 0.9, 0.999


class OriginalAdamW(torch.optim.Optimizer):
    """As transformers 2.5.1 had it: epsilon before the bias correction, weight decay after the update."""

    def __init__(self, groups: Any, lr: float, eps: float, betas: tuple[float, float] = (BETA1, BETA2)) -> None:
        super().__init__(groups, {"lr": lr, "eps": eps, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for weight in (one for one in group["params"] if one.grad is not None):
                state = self.state[weight]
                if not state:
                    state.update(steps=0, mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
                state["steps"] += 1
                state["mean"] = beta1 * state["mean"] + (1 - beta1) * weight.grad
                state["square"] = beta2 * state["square"] + (1 - beta2) * weight.grad**2
                rate = group["lr"] * math.sqrt(1 - beta2 ** state["steps"]) / (1 - beta1 ** state["steps"])
                weight -= rate * state["mean"] / (state["square"].sqrt() + group["eps"])
                weight -= group["lr"] * group["weight_decay"] * weight

"""The encoder's layers through torch.compile (--compile): fewer and larger kernels, for a slower start."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import nn

from harness.config import RunConfig
from harness.ds.config import DeepSpeedConfig
from harness.model import EncoderWithHead
from harness.model_folder import first_line
from harness.standard_head import StandardHead

logger = logging.getLogger(__name__)


def compile_layers(
    network: EncoderWithHead | StandardHead, config: RunConfig, deepspeed: DeepSpeedConfig, device: torch.device
) -> None:
    """With --compile: compile the encoder's layers, or say why they are not.

    Layers share their code and so one compilation for each shape; sizes stay variables in it, and packed rows keep few
    of them. Rounding differs from that of layers as they are.
    """
    if not config.compile:
        return
    reason = "ZeRO-3 takes a layer's weights away between passes" if deepspeed.stage == 3 else _refusal(device)
    if reason:
        logger.warning("--compile: layers run as they are (%s).", reason)
        return
    network.layout = replace(network.layout, few_shapes=True)
    for layer in layers(network.encoder):
        layer.compile(dynamic=True)


def layers(encoder: nn.Module) -> list[nn.Module]:
    """Members of the encoder's outermost module lists: in ALBERT, lists hold lists."""
    lists = {name: module for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [m for name, m in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    return [layer for module in outer for layer in module]


def _refusal(device: torch.device) -> str:
    """Why PyTorch cannot compile for this device, or nothing: found by trying, since it needs a compiler or Triton."""
    try:
        torch.compile(lambda tensor: (tensor + 1).relu())(torch.ones(8, device=device))
    except Exception as error:  # of many kinds, by device and version
        return first_line(error)
    return ""

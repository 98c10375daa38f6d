"""ZeRO-3 of a model whose weights are still in their files: each rank reads what it keeps, and nothing else.

DeepSpeed's own way (`deepspeed.zero.Init`) has each rank hold a whole tensor, and rank 0's is sent to all. Here one
buffer as large as the largest tensor serves all of them, and the rank's own part of it is filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from harness.distributed import World, gather
from harness.encoder import not_finite
from harness.model import EncoderWithHead


def share_out(network: EncoderWithHead, settings: Mapping[str, Any], dtype: torch.dtype, world: World) -> None:
    """Partition a model with `source` set, as `deepspeed.initialize` with these settings would do. Collective.

    `dtype`: what the engine computes in. Raises UserError where a weight is NaN or infinite.
    """
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from deepspeed.runtime.zero.partition_parameters import Init

    assert network.source is not None
    backend = get_accelerator().communication_backend_name()
    deepspeed.comm.init_distributed(dist_backend=backend, dist_init_required=False)
    init = Init(config_dict_or_path=dict(settings), dtype=dtype)
    if init.mem_efficient_linear:
        init._enable_mem_efficient_linear()
    alone = init.zero_param_process_group is None  # else (hpZ) a rank keeps parts of other nodes too
    wrong: dict[str, int] = {}
    # One for all: memory that is taken and given back for each would lie in pieces between the parts that stay.
    largest = max(parameter.numel() for parameter in network.parameters())
    buffer = torch.empty(largest, dtype=dtype, device=init.local_device)
    parameters: Any = network.named_parameters()  # with methods of DeepSpeed's after the conversion
    for name, parameter in parameters:
        whole, size = parameter.data, -(-parameter.numel() // world.size)
        begin, end = (size * world.rank, size * (world.rank + 1)) if alone else (0, whole.numel())
        init._convert_to_deepspeed_param(parameter)
        parameter.data = buffer[: whole.numel()].view(whole.shape)
        own = whole.reshape(-1)[begin:end]
        parameter.data.view(-1)[begin:end].copy_(own)
        # Of the two alone: of all values `isfinite` would make copies.
        if own.numel() and not all(bool(extreme.isfinite()) for extreme in own.aminmax()):
            wrong[name] = int((~own.isfinite()).sum())
        parameter.partition()
    for module in network.modules():
        _move_buffers(module, init.local_device)
    source, network.source = network.source, None
    found = gather(wrong)
    for name in network.state_dict() if any(found) else ():
        if count := sum(each.get(name, 0) for each in found):
            raise not_finite(source, name.removeprefix("encoder."), count)


def _move_buffers(module: nn.Module, device: torch.device) -> None:
    """DeepSpeed does not where it finds parameters partitioned."""
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, buffer.to(device))

"""Logits of a model that is only asked, in the arithmetic of training: whole on each rank, or shared out by ZeRO-3."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from harness import private_names
from harness.config import BatchPlan, RunConfig
from harness.distributed import World
from harness.ds import partition
from harness.ds.config import DeepSpeedConfig
from harness.ds.engine import DTYPES, compile_layers, reset_process, spare_compilers
from harness.model import EncoderWithHead, StandardHead, exact_tables
from harness.packing import fit_to_device
from harness.task import Batch


@contextlib.contextmanager
def forward_as_trained(
    network: EncoderWithHead | StandardHead, config: RunConfig, ds: DeepSpeedConfig, plan: BatchPlan, world: World
) -> Iterator[Callable[[Batch], torch.Tensor]]:
    """Logits of a batch: the same, to the bit, as those of an engine with these weights.

    A model whose weights are still in their files (`source`) is shared out: to enter, to leave and each call are
    collective then.
    """
    dtype = torch.float32 if ds.autocast else DTYPES[ds.precision]
    if isinstance(network, EncoderWithHead) and network.source is not None:
        with _shared_out(network, config, ds, plan, world) as forward:
            yield forward
        return
    fit_to_device(network, world.device, whole_weights=ds.stage < 3 and not config.compile)
    with exact_tables(network):
        network = network.to(world.device, dtype)
    compile_layers(network, config, ds, world.device)

    def whole(batch: Batch) -> torch.Tensor:
        with torch.autocast(world.device.type, torch.bfloat16, enabled=ds.autocast):
            logits: torch.Tensor = network(network.ready(batch, world.device).to(world.device))
        return logits

    yield whole


@contextlib.contextmanager
def _shared_out(
    network: EncoderWithHead, config: RunConfig, ds: DeepSpeedConfig, plan: BatchPlan, world: World
) -> Iterator[Callable[[Batch], torch.Tensor]]:
    import deepspeed

    spare_compilers(world)
    private_names.check()
    if world.size > 1:
        network.layout = network.layout.in_one_pass()
    fit_to_device(network, world.device, whole_weights=False)
    filled, linear = ds.fill(config, plan), torch.nn.functional.linear
    try:
        partition.share_out(network, filled, torch.float32 if ds.autocast else DTYPES[ds.precision], world)
        # Without an optimizer stage 3 only gathers weights and lets them go.
        inner, *_ = deepspeed.initialize(model=network, config=filled, dist_init_required=False)
        inner.eval()

        def forward(batch: Batch) -> torch.Tensor:
            logits: torch.Tensor = inner(network.ready(batch, world.device).to(world.device))
            return logits

        yield forward
        inner.destroy()
    finally:
        reset_process(linear)

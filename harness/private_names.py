"""What we use of DeepSpeed, transformers and torch beside their public interfaces, and the versions it was tried with.

A private name may go, or mean something else, in any version. One that goes is not always an error where it is used:
a function that is put in the place of another under a name that nobody calls changes nothing, and gradients are wrong
without an error message. So all names are looked up before training; those that harness/ds/fixes.py replaces, there.
"""

from __future__ import annotations

import importlib
import logging
import operator
import re
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from harness.errors import UserError

TRIED = {"torch": "2.13", "deepspeed": "0.19.8", "transformers": "5.23"}  # with all that comes behind a further dot

# Module, or class in a module that is imported in any run -> its names. Left out is what makes a start faster alone:
# deepspeed.ops.__compatible_ops__ (_spare_compilers in harness/ds/engine.py) is computed when it is read.
NAMES: dict[str, Sequence[str]] = {
    "torch": ("_foreach_copy_", "_foreach_norm", "_foreach_zero_"),
    "torch._C": ("_cuda_endAllocateToPool",),
    "torch.cpu": ("_is_avx512_bf16_supported", "_is_amx_tile_supported"),
    "torch._C._distributed_c10d": ("HashStore", "PrefixStore", "Store", "TCPStore"),
    "torch.distributed:ProcessGroup": ("_get_sequence_number_for_group",),
    "torch.distributed.distributed_c10d": ("_world",),
    "transformers:PreTrainedModel": ("_can_set_attn_implementation", "_init_weights"),
    "transformers:PreTrainedConfig": ("_attn_implementation",),
    "transformers.masking_utils": ("sdpa_mask",),
    "transformers.integrations.sdpa_attention": ("sdpa_attention_forward",),
    "transformers.initialization": ("no_init_weights",),
    "transformers.dynamic_module_utils": ("custom_object_save",),
    "transformers.utils.hub": ("cached_file",),
    "transformers.conversion_mapping": ("get_model_conversion_mapping",),
    "transformers.core_model_loading": ("WeightConverter",),
    "deepspeed.runtime.compiler": ("compile",),
    "deepspeed.runtime.torch_autocast": ("TORCH_AUTOCAST_INITIALIZED",),
    "deepspeed.runtime.zero.partition_parameters:Init": (
        *("_convert_to_deepspeed_param", "_enable_mem_efficient_linear"),
    ),
    "deepspeed.utils.groups": ("_ZERO_PARAM_INTRA_PARALLEL_GROUP",),
    "deepspeed.runtime.engine:DeepSpeedEngine": (
        *("gradient_clipping", "get_global_grad_norm"),
        *("is_gradient_accumulation_boundary", "gradient_accumulation_steps", "was_step_applied", "destroy"),
    ),
}
# Of an engine, which has them once it is built.
ENGINE = ("module", "optimizer", "lr_scheduler", "global_steps", "skipped_steps", "micro_steps", "_global_grad_norm")
LINKED = ("_hp_optimizer_states_linked", "_lazy_init_hp_params_optimizer_state", "update_lp_params", "optimizer")
# The class of its optimizer -> names of that; there are no other classes that we know how to read.
OPTIMIZERS: dict[str, Sequence[str]] = {
    "AdamW": (),
    "FP16_UnfusedOptimizer": (
        *("fp16_groups", "fp32_groups", "loss_scale", "loss_scale_config.cur_scale", "clip_grad", "overflow"),
        *("_skip_invalid_grad_norm", "_update_scale", "_global_grad_norm"),
        "optimizer._step_supports_amp_scaling",  # that Adam reads `grad_scale` and `found_inf`
    ),
    "BF16_Optimizer": LINKED,
    "DeepSpeedZeroOptimizer": (
        *(*LINKED, "dp_process_group", "device", "loss_scaler.cur_scale"),
        *("allreduce_bucket", "unflatten", "overlap_comm"),
    ),
    "DeepSpeedZeroOptimizer_Stage3": (
        *("fp16_partitioned_groups", "fp16_partitioned_groups_flat", "fp32_partitioned_groups_flat", "unflatten"),
        *("checkpoint_event_prologue", "checkpoint_event_epilogue"),
        *("loss_scaler.cur_scale", "optimizer"),
    ),
}
# And names of its parameters.
PARAMETERS: dict[str, Sequence[str]] = {
    "BF16_Optimizer": ("_hp_mapping",),
    "DeepSpeedZeroOptimizer": ("_hp_mapping",),
    "DeepSpeedZeroOptimizer_Stage3": ("ds_tensor", "ds_shape"),
}

logger = logging.getLogger("harness.engine")


def check() -> None:
    """One warning for versions that were not tried. Raises UserError where one of NAMES is missing."""
    others = [
        f"{name} {metadata.version(name)} (tried: {tried})"
        for name, tried in TRIED.items()
        if not re.match(rf"{re.escape(tried)}(?![\d])", metadata.version(name))
    ]
    if others:
        logger.warning("This program was not tried with %s.", ", ".join(others))
    for path, names in NAMES.items():
        title, (module, _, inner) = path.replace(":", "."), path.partition(":")
        try:
            owner = importlib.import_module(module)
        except ImportError as error:
            raise missing(title) from error
        _check_names(owner, [f"{inner}.{name}".strip(".") for name in names], module)


def check_engine(inner: Any) -> None:
    """The same of DeepSpeed's engine, its optimizer and its parameters."""
    _check_names(inner, ENGINE, "deepspeed's engine")
    kinds = [kind.__name__ for kind in type(inner.optimizer).__mro__]
    kind = next((name for name in kinds if name in OPTIMIZERS), None)
    if kind is None:
        raise UserError(
            f"--ds_config: deepspeed {metadata.version('deepspeed')} keeps weights in {kinds[0]} for these settings, "
            f"which cannot be read; take a JSON of ds_configs/, or install deepspeed {TRIED['deepspeed']}"
        )
    _check_names(inner.optimizer, OPTIMIZERS[kind], f"deepspeed's {kind}")
    trained = next(parameter for parameter in inner.module.parameters() if parameter.requires_grad)
    _check_names(trained, PARAMETERS.get(kind, ()), f"parameters under deepspeed's {kind}")


def _check_names(owner: Any, names: Sequence[str], title: str) -> None:
    for name in names:
        try:
            operator.attrgetter(name)(owner)
        except AttributeError as error:
            raise missing(f"{title}.{name}") from error


def missing(what: str) -> UserError:
    """The error for a name that is gone: `what` begins with the library's name."""
    library = re.split(r"[.':\s]", what.removeprefix("parameters under "))[0]
    return UserError(
        f"{library} {metadata.version(library)}: {what} is missing, which training relies on; "
        f"install a version that was tried ({library} {TRIED[library]})"
    )

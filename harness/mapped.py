"""Weights that stay in their files until a process takes its part of them: for ZeRO-3.

A parameter's values are then a mapping of the file into memory, in the file's own precision, and no page of it is read
before somebody asks for it. harness/ds/partition.py copies what a rank keeps.
"""

from __future__ import annotations

import zipfile
from typing import Any

import torch

from harness import pretrained
from harness.pretrained import Source

READABLE = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class WholeOnly(Exception):
    """Weights that every process has to load whole; the message says why."""


def load(source: Source, skeleton: Any, before: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """As `from_pretrained` with `output_loading_info`, but with weights mapped: (the model, what was missing).

    `skeleton` is the model without weights, `before` what stands before its names in the file. What the file lacks is
    drawn in float32, as `from_pretrained` draws it. Raises WholeOnly.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    if not type(skeleton).__module__.startswith("transformers."):
        raise WholeOnly("it comes with code of its own")
    if any(isinstance(step, WeightConverter) for step in get_model_conversion_mapping(skeleton)):
        raise WholeOnly("they are put together anew while they are loaded")
    # transformers names, renames and draws: it is given tensors of the right shape that hold a single number each, and
    # where one of them comes to lie says which tensor of the file belongs there.
    tensors, state, places = _tensors(source), {}, {}
    known = before in ("", f"{skeleton.base_model_prefix}.")  # transformers takes these off itself
    for name, tensor in tensors.items():
        stand_in = torch.zeros(()).expand(tensor.shape) if tensor.is_floating_point() else tensor
        places[stand_in.untyped_storage().data_ptr()] = tensor
        state[name if known else name.removeprefix(before)] = stand_in
    model, info = type(skeleton).from_pretrained(None, state_dict=state, **options)
    model.config.name_or_path = model.name_or_path = source.name
    if info["mismatched_keys"]:
        return model, info  # to be refused
    for name, parameter in model.named_parameters():
        found = places.get(parameter.untyped_storage().data_ptr())
        if found is not None and found.shape == parameter.shape and found.dtype in READABLE:
            parameter.data = found
        elif found is not None or name not in info["missing_keys"]:
            raise WholeOnly(f"{name} is not in the file as it is in the model")
    for buffer in model.buffers():
        if (found := places.get(buffer.untyped_storage().data_ptr())) is not None:
            buffer.data = found.to(buffer.dtype, copy=True)
    return model, info


def _tensors(source: Source) -> dict[str, torch.Tensor]:
    """All tensors of the model's files by name, mapped. Raises WholeOnly."""
    from safetensors import safe_open

    first, *parts = pretrained.weight_files(source)
    found: dict[str, torch.Tensor] = {}
    for name in parts or [first]:
        path = source.path(name)
        assert path is not None
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        elif zipfile.is_zipfile(path):
            found |= pretrained.innermost(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        else:
            raise WholeOnly(f"{name} is of an old format")
    return found

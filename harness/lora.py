"""Low-rank adapters (LoRA, DoRA) in the linear layers of an encoder, made by peft: the one file that imports it.

Adapters and head are trained; the encoder, its embeddings and its pooler stay as they were pre-trained. What the
checkpoint has no weights for is trained and kept with the head, since no one could load it again.

`model/` then holds no encoder: ADAPTER_CONFIG and ADAPTER_WEIGHTS, as peft reads and writes them, and HEAD_WEIGHTS.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import logging
import math
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import pretrained
from harness.config import RunConfig, nearest
from harness.errors import UserError, library_errors
from harness.files import read_json, sha256
from harness.model_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from harness.pretrained import Source

if TYPE_CHECKING:  # slow to import, and `check_installed` is asked before anything is loaded
    import torch

logger = logging.getLogger(__name__)

OLDEST = (0, 17)
ADAPTER = "default"  # what peft calls the only adapter of a layer
PREFIX = "base_model.model."  # before each name in ADAPTER_WEIGHTS
ALL = ("all-linear",)  # as peft spells it
MOST_SHOWN = 12


def check_installed(asked: str) -> None:
    """Raises UserError where peft is missing or too old; `asked` says what needs it. Imports nothing."""
    remedy = "pip install 'blue-harness[lora]'"
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"{asked} needs the library peft, which is not installed; {remedy}")
    version = metadata.version("peft")
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
        raise UserError(f"{asked} needs peft {'.'.join(map(str, OLDEST))} or newer, here is {version}; {remedy}")


def add(encoder: Any, config: RunConfig, missing: Collection[str]) -> None:
    """Put adapters into the encoder in place; nothing else in it is trained, but for what has no weights.

    `missing`: names of the encoder's parameters that had none. Leaves torch's random state as it was. Raises UserError
    for targets that are no linear layers.
    """
    check_installed("--lora_rank")
    from peft import LoraConfig

    rank = config.lora_rank
    assert rank is not None
    # The encoder of an encoder-decoder is called `encoder` in the whole.
    new = {name for name, _ in encoder.named_parameters() if name in missing or f"encoder.{name}" in missing}
    names = _targets(encoder, config.lora_targets, new, config.model_name_or_path)
    narrow = [name for name in names if min(encoder.get_submodule(name).weight.shape) < rank]
    if narrow:
        logger.warning(
            "--lora_rank %d: larger than %d of %d layers are wide (%s): their adapters are larger than they are.",
            *(rank, len(narrow), len(names), narrow[0]),
        )
    _inject(
        encoder,
        LoraConfig(
            r=rank,
            lora_alpha=2 * rank if config.lora_alpha is None else config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=names,
            use_dora=config.lora_dora,
            task_type="FEATURE_EXTRACTION",
        ),
    )
    total = trained = 0
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or name.replace(".base_layer.", ".") in new)
        if ".lora_A." in name or ".lora_B." in name:
            # In float32, whatever the precision of weights that are still in their file.
            parameter.data = initial_weight(name, parameter.shape, config.seed)
        total += parameter.numel()
        trained += parameter.numel() * parameter.requires_grad
    if new:
        logger.warning("%d tensors have no weights to adapt (%s): trained as a whole", len(new), min(new))
    kind = "DoRA" if config.lora_dora else "LoRA"
    logger.info(
        "lora    %s of rank %d in %d linear layers: %s of the encoder's %s weights are trained",
        *(kind, rank, len(names), f"{trained:,}", f"{total:,}"),
    )


def initial_weight(name: str, shape: Sequence[int], seed: int) -> torch.Tensor:
    """The first value of an adapter's A or B: float32 on the CPU, by its name in the encoder and the seed alone.

    So that it is the same wherever and in whatever order adapters are made.
    """
    import torch

    value = torch.zeros(*shape)  # of B: an encoder with fresh adapters answers as without
    if ".lora_A." in name:
        digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        torch.nn.init.kaiming_uniform_(value, a=math.sqrt(5), generator=generator)  # as peft draws it
    return value


def _targets(encoder: Any, asked: Sequence[str] | None, new: Collection[str], model: str) -> list[str]:
    """Names of the layers that get adapters, in order. Raises UserError."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

    modules = dict(encoder.named_modules())
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear | Conv1D)]
    ends = sorted({name.rpartition(".")[2] for name in linear})
    shown = ", ".join(ends[:MOST_SHOWN]) + (", ..." if len(ends) > MOST_SHOWN else "")
    found: set[str] = set()
    for target in asked or ALL:
        if target in ALL:
            found |= {name for name in linear if f"{name}.weight" not in new}
            continue
        named = [name for name in modules if name == target or name.endswith(f".{target}")]
        others = sorted({type(modules[name]).__name__ for name in named if name not in linear})
        if others:
            what = f"{named[0]} is no linear layer ({', '.join(others)}), and only those can have adapters"
        elif not named:
            what = f"no layer of {model} is called so{nearest(target, ends)}"
        else:
            found.update(named)
            continue
        raise UserError(f"--lora_targets {target}: {what}; its linear layers are {shown or 'none'}")
    if not found:
        raise UserError(f"--lora_rank: {model} has no linear layer that adapters could be put into; leave it out")
    return [name for name in linear if name in found]


def _inject(encoder: Any, settings: Any) -> None:
    import torch
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # what peft draws is replaced
        warnings.filterwarnings("ignore", "fan_in_fan_out")  # of GPT-2's layers, which peft finds out by itself
        inject_adapter_in_model(settings, encoder, ADAPTER)


def _layers(encoder: Any) -> Iterator[tuple[str, Any]]:
    """(name, module) of each layer that has an adapter."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(encoder.named_modules()):
        if isinstance(module, LoraLayer):
            yield name, module


def merge(encoder: Any) -> None:
    """Add the adapters to the weights, in place and in the weights' precision; layers are called as before `add`."""
    for name, layer in _layers(encoder):
        layer.merge()
        parent, _, last = name.rpartition(".")
        setattr(encoder.get_submodule(parent), last, layer.get_base_layer())


# ---- in a model folder
def save(folder: Path, encoder: Any, weights: Mapping[str, torch.Tensor], base: str, revision: str | None) -> None:
    """Write ADAPTER_CONFIG and ADAPTER_WEIGHTS. `weights`: those of the encoder that were trained, by its names.

    `base`, `revision`: what the encoder was loaded from, as a user of peft will load it.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    inside = _inside(encoder)
    settings = copy.copy(encoder.peft_config[ADAPTER])
    settings.base_model_name_or_path, settings.revision, settings.inference_mode = base, revision, True
    # peft shortens the names where it can, to what may fit layers of the whole model that the encoder here lacks.
    settings.target_modules = sorted(f"{inside}{name}" for name, _ in _layers(encoder))
    settings.save_pretrained(folder)
    state = get_peft_model_state_dict(encoder, dict(weights), ADAPTER, save_embedding_layers=False)
    named = {f"{PREFIX}{inside}{name}": tensor.contiguous() for name, tensor in state.items()}
    save_file(named, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def _inside(encoder: Any) -> str:
    """What stands before the encoder's names in those of the whole model that AutoModel loads."""
    from harness.encoder import config_of

    return "encoder." if config_of(encoder).is_encoder_decoder else ""


def is_adapters(name: str) -> bool:
    """Whether a parameter of this name is an adapter's."""
    return ".lora_" in name


def base_of(folder: Path, kept: Mapping[str, str], options: Mapping[str, Any]) -> Source:
    """Where the encoder lies that the adapters in a model folder are for. Raises UserError where it is not that one.

    `kept`: digests of its files, or its commit, from when they were trained; `options` as of a Source.
    """
    from torch import distributed as dist

    from harness import distributed

    path = folder / ADAPTER_CONFIG
    check_installed(f"{folder}: holds adapters, which")
    try:
        values = read_json(path)
        name, revision = str(values["base_model_name_or_path"]), values.get("revision")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {error}); get the file again") from error
    found = pretrained.find(name)
    given = {key: value for key, value in options.items() if value is not None}
    if revision and not Path(found).exists():
        given["revision"] = str(revision)
    where = "or write where it lies now as base_model_name_or_path into that file"
    if Path(found).is_absolute() and not Path(found).is_dir():
        raise UserError(f"{path}: the encoder that the adapters are for is not there ({name}); put it back, {where}")
    source = Source(f"{path}: base_model_name_or_path", found, given)
    pretrained.check_reachable(source)
    if "revision" in given and kept.get("commit") == revision:
        return source  # the hub's commit is the content

    def changed() -> str | None:
        files = {file: source.path(file) for file in pretrained.weight_files(source)}
        return next((str(at or file) for file, at in files.items() if at is None or kept.get(file) != sha256(at)), None)

    another = distributed.on_main(changed) if dist.is_initialized() else changed()
    if another is not None:
        raise UserError(
            f"{path}: its adapters are of another base: {another} is not what they were trained on; put that back, "
            f"{where}"
        )
    return source


def load(encoder: Any, folder: Path) -> None:
    """Put the adapters of a model folder into the encoder that they are for. Raises UserError."""
    from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    path, again, inside = folder / ADAPTER_WEIGHTS, "get the folder again", _inside(encoder)
    with library_errors(f"{folder / ADAPTER_CONFIG}", "no adapters can be made of it for this encoder", again):
        values = read_json(folder / ADAPTER_CONFIG)
        # Not all that peft reads there: some of its settings name modules to be imported.
        given = {name: values[name] for name in ("r", "lora_alpha", "lora_dropout", "use_dora")}
        names = [name.removeprefix(inside) for name in values["target_modules"]]
        _inject(encoder, LoraConfig(target_modules=names, **given))
    with library_errors(str(path), pretrained.damage(path) or "cannot be read", again):
        state = {name.removeprefix(f"{PREFIX}{inside}"): tensor for name, tensor in load_file(path).items()}
    expected = get_peft_model_state_dict(encoder, adapter_name=ADAPTER, save_embedding_layers=False)
    shapes, found = ({name: list(t.shape) for name, t in each.items()} for each in (expected, state))
    for name in sorted(shapes.keys() | found.keys()):
        if shapes.get(name) != found.get(name):
            what = f"{found.get(name, 'missing')}, {ADAPTER_CONFIG} and the encoder say {shapes.get(name, 'nothing')}"
            raise UserError(f"{path}: {name} is {what}; get the folder again, its files do not belong together")
    set_peft_model_state_dict(encoder, state, ADAPTER)

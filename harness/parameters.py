"""Which layer of the encoder a parameter belongs to, and what follows from it: learning rates, freezing, a new start.

Depths count from the input: 0 are the embeddings and whatever else is computed before the first layer or read by all,
1 to L the layers, L + 1 what comes behind them: a final norm, the pooler and the head. Which is which is asked of the
encoder itself, by a forward pass.

Sources: layer-wise learning rates, Howard & Ruder 2018 (ULMFiT, section 3.2) and Clark et al. 2020 (ELECTRA, appendix
B); new top layers, Zhang et al. 2021 (Revisiting few-sample BERT fine-tuning, section 5), who draw the pooler anew too.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from harness import pretrained
from harness.config import BY_LAYER, ENCODER, RunConfig
from harness.encoder import class_for, encoder_of
from harness.errors import UserError
from harness.recompute import layers
from harness.twin import twin

logger = logging.getLogger(__name__)


def asked(config: RunConfig) -> list[str]:
    """`--flag value` of the settings that are about layers."""
    given = {name: getattr(config, name) for name in BY_LAYER}
    return [f"--{name} {value}" for name, value in given.items() if value not in (None, 0)]


def check(config: RunConfig) -> None:
    """Before weights are loaded. Raises UserError where the encoder lacks the layers that the settings name.

    What cannot be seen of a config alone is left to `prepare`.
    """
    if not asked(config):
        return
    settings = pretrained.settings(config)
    try:
        auto, own = class_for(settings)
        with torch.device("meta"):
            encoder = encoder_of(auto.from_config(own, trust_remote_code=config.trust_remote_code), settings)
        tried = twin(encoder, settings)
    except Exception as error:  # of many kinds, by architecture: whoever loads it says why
        logger.debug("no encoder without weights: %s", error)
        return
    _depths(encoder, tried, config)


def prepare(network: Any, tried: Any, config: RunConfig, missing: Collection[str] = ()) -> None:
    """Write `depths` of the network (an EncoderWithHead), and freeze what --freeze_layers names. Raises UserError.

    `tried`: the encoder, or its twin where it has no values; `missing`: names of its weights that the checkpoint has
    not, or not all of. Leaves random states as they were.
    """
    if not asked(config):
        return
    encoder: Any = network.encoder
    inside, top = _depths(encoder, tried, config)
    network.depths = {name: inside.get(name.removeprefix("encoder."), top) for name, _ in network.named_parameters()}
    if config.freeze_layers is None:
        return
    frozen = top if config.freeze_layers == ENCODER else int(config.freeze_layers)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(inside[name] > frozen)
    # The encoder of an encoder-decoder is called `encoder` in the whole.
    drawn = [
        name
        for name, p in encoder.named_parameters()
        if not p.requires_grad and {name, f"encoder.{name}"} & set(missing)
    ]
    if drawn:
        logger.warning(
            "--freeze_layers %s: %d tensors that the checkpoint lacks, or a part of, stay as they are drawn (%s)",
            *(config.freeze_layers, len(drawn), drawn[0]),
        )
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in encoder.parameters()]
    trained = sum(size for size, needs in sizes if needs)
    lowest = f" and the lowest {frozen} layers" if frozen else ""
    what = "the encoder" if config.freeze_layers == ENCODER else f"embeddings{lowest}"
    logger.info("frozen  %s: %s of its %s weights are trained", what, f"{trained:,}", f"{sum(s for s, _ in sizes):,}")


def _depths(encoder: Any, tried: Any, config: RunConfig) -> tuple[dict[str, int], int]:
    """(depths of the encoder's parameters by name, that of the head). Raises UserError."""
    if asked(config) == [f"--freeze_layers {ENCODER}"]:  # of any architecture
        return dict.fromkeys((name for name, _ in encoder.named_parameters()), 1), 1
    kind, model, flag = encoder.config.model_type, config.model_name_or_path, asked(config)[-1]
    behind = _behind(tried)
    names = _names(encoder, layers(encoder))
    if behind is None:
        raise UserError(
            f"{flag}: {model} ({kind}) does not go through its layers one after another, each with weights of its own, "
            f"so that they cannot be counted; leave it out{', or --freeze_layers encoder' if 'freeze' in flag else ''}"
        )
    count = len(names)
    lowest = 0 if config.freeze_layers in (None, ENCODER) else int(config.freeze_layers or 0)
    for name, number in (("freeze_layers", lowest), ("reinit_top_layers", config.reinit_top_layers)):
        if number > count:
            raise UserError(f"--{name} {number}: {model} has {count} layers; ask for at most {count}")
    if lowest + config.reinit_top_layers > count:
        raise UserError(
            f"--freeze_layers {lowest} --reinit_top_layers {config.reinit_top_layers}: {model} has {count} layers, and "
            "some would be drawn anew and never trained; lower one of the two"
        )
    numbers = {name: number for number, name in enumerate(names, 1)} | dict.fromkeys(behind, count + 1)

    def depth(name: str) -> int:
        while name:
            if name in numbers:
                return numbers[name]
            name = name.rpartition(".")[0]
        return 0

    return {name: depth(name) for name, _ in encoder.named_parameters()}, count + 1


def _names(encoder: nn.Module, modules: Sequence[nn.Module]) -> list[str]:
    named = {id(module): name for name, module in encoder.named_modules()}
    return [named[id(module)] for module in modules]


def _behind(encoder: Any) -> set[str] | None:
    """Names of the modules that are called behind the last layer alone; None where layers are not called one after
    another, each once: ALBERT's share weights, those of XLM are spread over several lists."""
    names, calls = _names(encoder, layers(encoder)), list[str]()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        for name, module in encoder.named_modules()
    ]
    ids, training = torch.arange(5, 13).repeat(2, 1), encoder.training
    encoder.eval()
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        encoder.train(training)
        for hook in hooks:
            hook.remove()
    if not names or [name for name in calls if name in names] != names:
        return None
    last = calls.index(names[-1])
    return {name for name in set(calls[last:]) - set(calls[:last]) if not f"{name}.".startswith(f"{names[-1]}.")}


def reinitialise(network: Any, config: RunConfig) -> None:
    """Draw the highest layers, and what comes behind them in the encoder, as the architecture's class draws weights.

    In float32 and from the seed alone, whatever the checkpoint's precision and wherever its weights are. After
    `prepare`. Raises UserError where the class leaves a weight as it is.
    """
    if not config.reinit_top_layers:
        return
    encoder: Any = network.encoder
    top = max(network.depths.values())
    names = [name for name, _ in encoder.named_parameters()]
    anew = {name for name in names if network.depths[f"encoder.{name}"] >= top - config.reinit_top_layers}
    digest = hashlib.sha256(f"{config.seed} reinit_top_layers".encode()).digest()  # not the numbers of the head
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        for name in sorted(anew):
            owner, _, last = name.rpartition(".")
            module = encoder.get_submodule(owner)
            shape = getattr(module, last).shape
            # Another parameter: transformers marks those that it has loaded, and leaves them as they are.
            setattr(module, last, nn.Parameter(torch.full(shape, torch.nan)))
        for name, module in reversed(list(encoder.named_modules())):  # those inside a module before it
            own = [f"{name}.{inner}".lstrip(".") for inner, _ in module.named_parameters()]
            if own and anew.issuperset(own):
                encoder._init_weights(module)
    for name in sorted(anew):
        if bool(encoder.get_parameter(name).isnan().any()):
            raise UserError(
                f"--reinit_top_layers {config.reinit_top_layers}: {config.model_name_or_path} "
                f"({encoder.config.model_type}) does not say how {name} is drawn; leave it out"
            )
    logger.info(
        "layers  the highest %d and what is behind them are drawn anew: %s weights",
        *(config.reinit_top_layers, f"{sum(encoder.get_parameter(name).numel() for name in anew):,}"),
    )


def groups(network: nn.Module, config: RunConfig) -> list[dict[str, Any]]:
    """Optimizer groups: no decay on biases and normalisation weights, as the original; the head's are first.

    With --layerwise_lr_decay d a parameter of depth k of L layers has the learning rate lr * d ** (L + 1 - k). Without
    any decay all are one group: each costs a step its own operations.
    """
    found: dict[tuple[int, bool], list[nn.Parameter]] = {}
    rate, depths = config.layerwise_lr_decay, getattr(network, "depths", {})
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            # Normalisations have many names (LayerNorm, norm, ln), and weights that are vectors in all of them.
            shape = getattr(parameter, "ds_shape", parameter.shape)  # whole, also under ZeRO-3
            is_exempt = len(shape) < 2 or name.endswith("bias") or not config.weight_decay
            below = 0 if rate is None else max(depths.values()) - depths[name]
            found.setdefault((below, is_exempt), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if is_exempt else config.weight_decay,
            **({} if rate is None else {"lr": config.learning_rate * rate**below}),
        }
        for (below, is_exempt), parameters in sorted(found.items(), key=lambda item: item[0])
    ]

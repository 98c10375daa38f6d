"""A tiny encoder of the same architecture as a large one, to find out by trying what holds for both."""

from __future__ import annotations

import copy
from typing import Any

import torch

from harness import direction
from harness.encoder import class_for, encoder_of
from harness.errors import first_line
from harness.mapped import WholeOnly

LARGEST = 64_000_000  # parameters


def twin(encoder: Any, settings: Any) -> Any:
    """A tiny encoder of the same architecture with random weights; `settings`: the checkpoint's config.

    Widths of heads, kinds of layers, windows and positions are the encoder's. Raises WholeOnly where none can be made.
    """
    kind = encoder.config.model_type
    try:
        auto, own = class_for(small_settings(settings))
        with torch.device("meta"):
            size = sum(p.numel() for p in auto.from_config(copy.deepcopy(own), trust_remote_code=False).parameters())
        if size > LARGEST:
            raise ValueError(f"{size} parameters")
        with torch.random.fork_rng(devices=[]):
            made = encoder_of(auto.from_config(own, trust_remote_code=False).float(), settings)
    except Exception as error:  # whatever an architecture says to sizes that it does not expect
        raise WholeOnly(f"no small {kind} can be built: {first_line(error)}") from error
    if type(made) is not type(encoder):
        raise WholeOnly(f"a small {kind} is another class")
    return made.train(encoder.training)


def adopt(encoder: Any, tried: Any) -> None:
    """Change the encoder as its twin was changed by what was tried on it."""
    before, now = encoder.config, tried.config
    if getattr(before, "is_causal", None) != getattr(now, "is_causal", None):
        direction.turn(encoder, now.is_causal)
    if getattr(before, "use_cache", None) != getattr(now, "use_cache", None):
        before.use_cache = now.use_cache
    if before._attn_implementation != now._attn_implementation:
        encoder.set_attn_implementation(now._attn_implementation)


def small_settings(settings: Any) -> Any:
    """A copy of an encoder's config with two heads, few layers of each kind and a small vocabulary."""
    small = copy.deepcopy(settings)
    heads, width = settings.num_attention_heads, settings.hidden_size
    groups = getattr(settings, "num_key_value_heads", None)
    kinds = getattr(settings, "layer_types", None)
    layers = min(settings.num_hidden_layers, max(2, *(kinds.index(kind) + 1 for kind in set(kinds))) if kinds else 2)
    if kinds:
        small.layer_types = list(kinds[:layers])
    tokens = [getattr(settings, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "cls", "sep")]
    largest = max((token for token in tokens if isinstance(token, int)), default=0)
    sizes = {
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": None if groups is None else 2 if groups == heads else 1,
        "hidden_size": 2 * (getattr(settings, "head_dim", None) or width // heads),
        "intermediate_size": 64,
        "vocab_size": min(settings.vocab_size, largest + 64),
    }
    for name, size in sizes.items():
        if size is not None and getattr(settings, name, None) is not None:
            setattr(small, name, size)
    return small

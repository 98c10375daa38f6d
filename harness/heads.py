"""The layers that transformers' own classes have between the encoder and their last layer.

Of most architectures they start at random. ModernBERT's are those that were pre-trained under the masked language
model's last layer: its checkpoints hold them, and `--head pretrained` begins with them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from harness import pretrained
from harness.errors import UserError, first_line
from harness.pretrained import Source
from harness.twin import small_settings

HEADS = ("classifier", "score")  # what the last layer is called: here, and in transformers' classes of decoders
LAYERS = "head"  # what the layers before it are called here, as in ModernBERT's classes


def standard(settings: Any, per_word: bool) -> Any:
    """A model of transformers' class for rows of words, or of sequences. Raises ValueError where it has none."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    auto: Any = AutoModelForTokenClassification if per_word else AutoModelForSequenceClassification
    # Of a copy: T5's class for words marks what it is given as no encoder-decoder.
    return auto.from_config(copy.deepcopy(settings), trust_remote_code=False).float().eval()


def between(whole: Any) -> dict[str, nn.Module]:
    """The layers with weights, by name, that are neither the encoder nor the last one of a model of such a class."""
    others = (whole.base_model_prefix, *HEADS)
    parts = {name: child for name, child in whole.named_children() if name not in others}
    return {name: child for name, child in parts.items() if any(True for _ in child.parameters())}


def fresh(settings: Any, per_word: bool) -> tuple[str, nn.Module]:
    """(their name in transformers' class, the layers without values). Raises ValueError where that has none."""
    with torch.device("meta"):
        found = between(whole := standard(settings, per_word))
    if len(found) != 1:
        number = "several parts" if found else "no layers of its own"
        raise ValueError(f"{type(whole).__name__} has {number} between encoder and last layer")
    ((name, layers),) = found.items()
    return name, layers.to_empty(device="cpu")


def load(source: Source, settings: Any, per_word: bool) -> nn.Module:
    """The pre-trained layers of a checkpoint, in float32. Raises UserError where it has none that can be used."""
    kind = settings.model_type

    def fault(why: str) -> UserError:
        return UserError(
            f"--head pretrained: {source.name} ({kind}) has no pre-trained prediction head ({why}); leave --head out, "
            "or name a checkpoint with one, such as ModernBERT's masked language model"
        )

    try:
        name, layers = fresh(settings, per_word)
    except Exception as error:  # whatever an architecture says
        raise fault(first_line(error)) from error
    expected = layers.state_dict()
    found = pretrained.tensors(source, {f"{name}.{key}" for key in expected})
    for key, tensor in expected.items():
        own = found.get(f"{name}.{key}")
        if own is None or own.shape != tensor.shape:
            what = "no weights" if own is None else f"{list(own.shape)} in place of {list(tensor.shape)}"
            raise fault(f"{what} for {name}.{key}")
        if not bool(own.isfinite().all()):
            raise fault(f"{name}.{key} holds values that are NaN or infinite")
    if not _is_all(settings, per_word, name):
        raise fault(f"its class computes more there than {name}")
    layers.load_state_dict({key: found[f"{name}.{key}"].float() for key in expected})
    return layers


def _is_all(settings: Any, per_word: bool, name: str) -> bool:
    """Whether the class does nothing else between a pooled row and its last layer, tried on a small one of its kind."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        try:
            whole = standard(small_settings(settings), per_word)
            ids = torch.arange(5, 13).repeat(2, 1)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            hidden, logits = whole.base_model(**inputs).last_hidden_state, whole(**inputs).logits
            last = next(getattr(whole, last) for last in HEADS if hasattr(whole, last))
            rows = (hidden,) if per_word else (hidden[:, 0], hidden.mean(1), hidden[:, -1])
            found = [last(getattr(whole, name)(row)) for row in rows]
        except Exception:  # layers that want something else than rows, an architecture that has no small one
            return False
    return any(one.shape == logits.shape and torch.allclose(one, logits, atol=1e-6) for one in found)

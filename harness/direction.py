"""Which tokens a token sees: all others (bidirectional attention), or none behind it (causal, as decoders have it).

What an architecture does is found by trying; how it is changed is a matter of names that transformers gives it.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from harness.encoder import config_of
from harness.pretrained import Source

logger = logging.getLogger(__name__)

SAME = 1e-5  # part of an output's size by which rounding may change it, where a batch's tokens meet others (experts)


def fit(source: Source, encoder: Any, asked: str | None) -> str | None:
    """Give the encoder the attention that is asked for; returns what EncoderWithHead and a model's folder record.

    That is None where nothing is asked and a token sees all others. Raises UserError where it cannot be changed.
    """
    causal = is_causal(encoder)
    if asked is None:
        if causal:
            kind = encoder.config.model_type
            line = "attention causal, as %s (%s) is: a token sees none behind it; --attention bidirectional: all others"
            logger.info(line, source.name, kind)
        return "causal" if causal else None
    if causal != (asked == "causal"):
        turn(encoder, asked == "causal")
        if is_causal(encoder) != (asked == "causal"):
            kind, own = encoder.config.model_type, "causal" if causal else "bidirectional"
            raise source.fault(f"--attention {asked}: that of a {kind} stays {own} in transformers; leave it out")
        logger.info("attention %s, as asked for: that of %s is another", asked, source.name)
    return asked


@torch.inference_mode()
def is_causal(encoder: Any) -> bool | None:
    """Whether no token's output depends on those behind it; None where that differs with padding and without.

    Leaves modes and torch's random state as they were.
    """
    training, found, rows = encoder.training, set(), encoder.get_input_embeddings().num_embeddings
    encoder.eval()
    with torch.random.fork_rng(devices=[]):
        for padding in (0, 8):  # without, masks are often left out, and a switch of the attention itself decides
            place = torch.arange(8 + padding, device=encoder.device).repeat(2, 1)
            ids = (
                (place + 1) * max(1, rows // 20) % rows
            )  # from all over the vocabulary: many have unused tokens in a row
            ids[1, 7] = rows - max(1, rows // 10)
            mask = (place < 8).long()
            # Of all tokens before: the first one of a trained decoder hardly changes, whatever it sees.
            one, other = encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, :7].float()
            found.add(bool(((one - other).abs().amax(-1) <= SAME * one.abs().amax(-1)).all()))
    encoder.train(training)
    return found.pop() if len(found) == 1 else None


def turn(encoder: Any, causal: bool) -> None:
    """Say in the config and the modules of an encoder which way it sees; whether it obeys, `is_causal` tells."""
    settings = encoder.config
    settings.is_causal = causal  # transformers' masks follow it, and calls of attention that have no mask
    if hasattr(settings, "is_decoder") and not config_of(encoder).is_encoder_decoder:
        settings.is_decoder = causal  # BERT and its relatives
    if getattr(settings, "use_bidirectional_attention", None) and causal:
        settings.use_bidirectional_attention = False  # Gemma; that way round `is_causal` does it
    for module in encoder.modules():
        if isinstance(getattr(module, "is_causal", None), bool):
            module.is_causal = causal

"""Texts to token ids, for every family that reads whole sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.task import Encoded, Example, Prediction

__all__ = ["encode", "identity"]


def encode(examples: Sequence[Example], tokenizer: Any, max_seq_length: int, labels: list[Any]) -> Encoded:
    """One sentence or a pair of sentences an example, cut to max_seq_length word pieces as BERT did.

    A pair is shortened at the end of whichever sentence is longer at the moment. `labels` holds what the loss wants,
    one entry an example.
    """
    if not examples:
        return Encoded(input_ids=[], token_type_ids=None, labels=[])
    first = [example.texts[0] for example in examples]
    second = [example.texts[1] for example in examples] if len(examples[0].texts) == 2 else None
    tokens = tokenizer(
        first, second, truncation="longest_first", max_length=max_seq_length, padding=False, return_attention_mask=False
    )
    return Encoded(input_ids=tokens["input_ids"], token_type_ids=tokens.get("token_type_ids"), labels=labels)


def identity(example: Example, prediction: Prediction, words: Sequence[int]) -> Prediction:
    """Task.align of a family that predicts for the whole text: the prediction as it is."""
    return prediction

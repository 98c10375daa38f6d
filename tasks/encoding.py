"""Texts to token ids, for every family that reads whole sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

from harness.task import Encoded, Example


def encode(examples: Sequence[Example], tokenizer: Any, max_seq_length: int, labels: list[Any]) -> Encoded:
    """One sentence or a pair of sentences an example, cut to max_seq_length subword tokens as BERT did.

    `labels` holds what the loss wants, one entry an example.
    """
    if not examples:
        return Encoded(input_ids=[], token_type_ids=None, labels=[])
    first = [example.texts[0] for example in examples]
    plain = {"padding": False, "return_attention_mask": False}
    if len(examples[0].texts) == 1:
        tokens = tokenizer(first, truncation=True, max_length=max_seq_length, **plain)
        return Encoded(input_ids=tokens["input_ids"], token_type_ids=tokens.get("token_type_ids"), labels=labels)
    second = [example.texts[1] for example in examples]
    # Not by truncation="longest_first": of two long sentences that leaves one token too many to the second.
    tokens = tokenizer(first, second, truncation=False, verbose=False, **plain)
    ids, segments = tokens["input_ids"], tokens.get("token_type_ids")
    for index in (index for index, row in enumerate(ids) if len(row) > max_seq_length):
        kept = _kept(tokens.sequence_ids(index), max_seq_length, tokenizer.truncation_side == "left")
        ids[index] = list(compress(ids[index], kept))
        if segments is not None:
            segments[index] = list(compress(segments[index], kept))
    return Encoded(input_ids=ids, token_type_ids=segments, labels=labels)


def pair_lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two sentences are kept where there is room for so many: BERT's rule.

    Token by token the longer sentence loses its last one, on a tie the second: two long ones become equally long, or
    the first keeps one more.
    """
    first = min(first, max(room - second, room - room // 2))
    return first, min(second, room - first)


def _kept(sentences: Sequence[int | None], longest: int, from_the_left: bool) -> list[bool]:
    """Which tokens of a pair are kept; `sentences` says which sentence each is of, None of special ones."""
    kept = [sentence is None for sentence in sentences]
    places = [[place for place, sentence in enumerate(sentences) if sentence == number] for number in (0, 1)]
    lengths = pair_lengths(len(places[0]), len(places[1]), max(0, longest - sum(kept)))
    for own, length in zip(places, lengths, strict=True):
        for place in own[len(own) - length :] if from_the_left else own[:length]:
            kept[place] = True
    return kept

"""Pairs of sentences are cut as BERT did, whatever special tokens the tokenizer puts around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from encoders import KINDS, tokenizer_for

from harness.task import Example
from tasks.encoding import encode, pair_lengths

LONGEST = 16


def token_by_token(first: int, second: int, room: int) -> tuple[int, int]:
    while first + second > room:
        if first > second:
            first -= 1
        else:
            second -= 1
    return first, second


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ((100, 100), (63, 62)),  # 125 is what [CLS], [SEP] and [SEP] leave of 128
        ((63, 63), (63, 62)),
        ((64, 200), (63, 62)),
        ((200, 64), (63, 62)),
        ((63, 200), (63, 62)),
        ((62, 200), (62, 63)),
        ((200, 62), (63, 62)),
        ((10, 200), (10, 115)),
        ((200, 10), (115, 10)),
        ((200, 0), (125, 0)),
        ((60, 65), (60, 65)),
    ],
)
def test_by_hand(lengths: tuple[int, int], kept: tuple[int, int]) -> None:
    assert pair_lengths(*lengths, 125) == kept


def test_every_pair_of_lengths() -> None:
    for room in range(25):
        for first in range(30):
            for second in range(30):
                assert pair_lengths(first, second, room) == token_by_token(first, second, room)


def template(single: str, pair: str) -> Any:
    """A BERT tokenizer with other special tokens around its sentences."""
    from tokenizers import processors

    tokenizer = tokenizer_for("bert")
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    return tokenizer


def left_side() -> Any:
    tokenizer = tokenizer_for("bert")
    tokenizer.truncation_side = "left"
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Any]] = {
    **{kind: partial(tokenizer_for, kind) for kind in KINDS},
    "no special token": lambda: template("$A", "$A $B:1"),
    "ends alone, as T5": lambda: template("$A [SEP]", "$A [SEP] $B:1 [SEP]:1"),
    "five, at the end, as XLNet": lambda: template("$A [SEP]", "$A [SEP] [SEP] $B:1 [SEP]:1 [SEP]:1 [CLS]:1"),
    "from the left": left_side,
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_tokenizer(name: str) -> None:
    """A pair that was cut is what the tokenizer makes of two sentences that were cut before."""
    tokenizer: Any = TOKENIZERS[name]()
    backend, side = tokenizer.backend_tokenizer, tokenizer.truncation_side
    room = LONGEST - tokenizer.num_special_tokens_to_add(pair=True)
    texts = [("." * first, "," * second) for first in range(1, 20) for second in range(1, 20)]
    encoded = encode([Example("1", pair, 0) for pair in texts], tokenizer, LONGEST, [0] * len(texts))
    shapes = set()
    for number, pair in enumerate(texts):
        cut = [backend.encode(text, add_special_tokens=False) for text in pair]
        lengths = token_by_token(*map(len, cut), room)
        for sentence, length in zip(cut, lengths, strict=True):
            sentence.truncate(length, direction=side)
        whole = backend.post_process(*cut)
        assert encoded.input_ids[number] == whole.ids
        if encoded.token_type_ids is not None:
            assert encoded.token_type_ids[number] == whole.type_ids
        shapes.add(lengths)
    assert (-(-room // 2), room // 2) in shapes and (room // 2 - 1, -(-room // 2) + 1) in shapes


def test_from_the_left_keeps_the_ends() -> None:
    tokenizer = left_side()
    (ids,) = encode([Example("1", ("a b c d e f g h i", "1 2 3 4 5 6 7 8 9"), 0)], tokenizer, 8, [0]).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "g", "h", "i", "[SEP]", "8", "9", "[SEP]"]

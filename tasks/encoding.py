"""Texts to token ids, for every family: what is too long loses its end, or becomes windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.task import Encoded, Example, UserError


@dataclass(frozen=True)
class Rows:
    """The input of each example of a split: a row, or one for each of its windows."""

    tokens: Any  # what the tokenizer gave for the whole texts, of each example
    kept: list[list[Sequence[int]]]  # of each window of each example the places of its tokens in these
    # Of each window [begin, end) of the places that it has of the text that was cut.
    spans: list[list[tuple[int, int]]]

    def encoded(self, labels: Sequence[Any], cut: Sequence[int], **more: Any) -> Encoded:
        """Token ids with these fields."""

        def rows(values: Any) -> list[Any]:
            whole = zip(values, self.kept, strict=True)
            return [
                values if len(kept) == len(values) else [values[place] for place in kept]
                for values, windows in whole
                for kept in windows
            ]

        segments, counts = self.tokens.get("token_type_ids"), [len(windows) for windows in self.kept]
        return Encoded(
            rows(self.tokens["input_ids"]),
            None if segments is None else rows(segments),
            labels,
            windows=counts if max(counts) > 1 else None,
            cut=cut if any(cut) else None,
            **more,
        )


def tokenise(
    examples: Sequence[Example], tokenizer: Any, max_seq_length: int, stride: int | None, by_word: bool = False
) -> Rows:
    """The texts of at least one example, one or two each (`by_word`: the words of one), in rows of at most
    max_seq_length subword tokens. Raises UserError where the stride leaves a window nothing new."""
    texts = [[list(example.texts) for example in examples]]
    if not by_word:
        texts = [list(column) for column in zip(*(example.texts for example in examples), strict=True)]
    if stride is not None:
        check_stride(tokenizer, max_seq_length, stride, len(texts) == 2)
    # Not by the tokenizer's own truncation: of two long texts that leaves one token too many to the second, and of
    # windows it does not tell which of them a token is best seen in.
    plain = {"padding": False, "return_attention_mask": False, "is_split_into_words": by_word}
    tokens = tokenizer(*texts, truncation=False, verbose=False, **plain)
    if stride is None and len(texts) == 1:  # not used here: what model/tokenizer.json says to whoever loads it alone
        tokenizer.backend_tokenizer.enable_truncation(max_seq_length, direction=tokenizer.truncation_side)
    kept: list[list[Sequence[int]]] = []
    spans = []
    for index, ids in enumerate(tokens["input_ids"]):
        if len(ids) <= max_seq_length:
            kept.append([range(len(ids))])
            spans.append([(0, len(ids))])
            continue
        found = _windows(tokens.sequence_ids(index), max_seq_length, stride, tokenizer.truncation_side == "left")
        kept.append([places for places, _ in found])
        spans.append([span for _, span in found])
    return Rows(tokens, kept, spans)


def encode(
    examples: Sequence[Example], tokenizer: Any, max_seq_length: int, labels: list[Any], stride: int | None = None
) -> Encoded:
    """One sentence or a pair of sentences an example, cut to max_seq_length subword tokens as BERT did, or in windows.

    `labels` holds what the loss wants, one entry an example.
    """
    if not examples:
        return Encoded(input_ids=[], token_type_ids=None, labels=[])
    rows = tokenise(examples, tokenizer, max_seq_length, stride)
    whole = zip(rows.tokens["input_ids"], rows.kept, strict=True)
    return rows.encoded(labels, [int(len(set().union(*windows)) < len(ids)) for ids, windows in whole])


def check_stride(tokenizer: Any, max_seq_length: int, stride: int, pair: bool) -> None:
    """Raises UserError where windows that overlap by so many tokens would hold nothing new."""
    special = int(tokenizer.num_special_tokens_to_add(pair))
    room = max_seq_length - special
    most = room - room // 2 if pair else room  # a window's of the longer text at least, see `_windows`
    if stride >= most:
        share = f", half of which may be the shorter text's: less than {most}" if pair else ""
        raise UserError(
            f"--stride {stride}: must be less than the {room} tokens of text that --max_seq_length {max_seq_length} "
            f"leaves beside {special} special ones{share}; {max(1, room // 4)} would do"
        )


def pair_lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two sentences are kept where there is room for so many: BERT's rule.

    Token by token the longer sentence loses its last one, on a tie the second: two long ones become equally long, or
    the first keeps one more.
    """
    first = min(first, max(room - second, room - room // 2))
    return first, min(second, room - first)


def _windows(
    sentences: Sequence[int | None], longest: int, stride: int | None, from_the_left: bool
) -> list[tuple[list[int], tuple[int, int]]]:
    """(places, span) as in Rows of the windows of an input that is too long; without a stride of the one that is left.

    `sentences` says which text each token is of, None of special ones, which all windows have. Of a pair the longer
    text is cut into windows, on a tie the second; the other one stands beside each, whole or half a row of it. Windows
    begin where transformers' do (`stride` there is the overlap, too).
    """
    texts = [[place for place, sentence in enumerate(sentences) if sentence == number] for number in (0, 1)]
    special = [place for place, sentence in enumerate(sentences) if sentence is None]
    room = max(0, longest - len(special))

    def shortened(places: list[int], length: int) -> list[int]:
        return places[len(places) - length :] if from_the_left else places[:length]

    if stride is None:
        lengths = pair_lengths(len(texts[0]), len(texts[1]), room)
        other, long = (shortened(own, length) for own, length in zip(texts[::-1], lengths[::-1], strict=True))
        size = step = max(1, len(long))
    else:
        other, long = sorted(texts, key=len)
        other = shortened(other, room // 2)
        size = room - len(other)
        step = size - stride
    found = []
    for start in range(0, max(1, len(long) - size + step), step):
        window = long[start : start + size]
        found.append((sorted([*special, *other, *window]), (window[0], window[-1] + 1) if window else (0, 0)))
    return found


def scored_words(
    places: Mapping[int, int], kept: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]]
) -> list[dict[int, int]]:
    """Of each window the words that it scores: number of the word -> position of its first token in the window.

    `places`: of each word's first token in the whole text; `kept`, `spans`: as in Rows. Of the windows that hold it the
    one scores a word in which that token is farthest from an edge, on a tie the first; the text's ends are no edges.
    """
    last = len(spans) - 1

    def distance(number: int, place: int) -> float:
        begin, end = spans[number]
        before, behind = place - begin if number else math.inf, end - 1 - place if number < last else math.inf
        return min(before, behind) if begin <= place < end else -1

    words: list[dict[int, int]] = [{} for _ in spans]
    for word, place in places.items():
        owner = max(range(len(spans)), key=lambda number: distance(number, place))
        begin, end = spans[owner]
        if begin <= place < end:
            words[owner][word] = kept[owner].index(begin) + place - begin
    return words

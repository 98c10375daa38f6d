"""Parts of a data set: for k-fold cross-validation, and a share to train on; what belongs together stays together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.task import Example

SEED = 0  # which examples are in which part never changes


def split(
    examples: Sequence[Example], number: int, count: int, per_word: bool = False
) -> tuple[list[Example], list[Example]]:
    """(all other parts, part `number` of `count`), each in the order of `examples`.

    Examples of one document, or with a sentence in common, are in one part: what is scored was then never seen in
    training. `per_word`: texts are the words of a sentence (tagging). Raises ValueError where fewer than `count` such
    groups are there, or where the examples do not say what they belong to.
    """
    if per_word or any(len(example.texts) == 1 and not example.group for example in examples):
        # A relation's sentence comes again with other entities masked, and sentences of one document are alike.
        raise ValueError("it is not known which of these examples are of one document")
    groups = _groups(examples)
    if len(groups) < count:
        raise ValueError(f"{len(groups)} documents or pairs without a sentence in common, fewer than {count} parts")
    order = np.random.default_rng(SEED).permutation(len(groups))
    parts: list[list[int]] = [[] for _ in range(count)]
    for place in sorted(order, key=lambda place: -len(groups[place])):  # stable: equal ones stay in random order
        min(parts, key=len).extend(groups[place])
    held_out = set(parts[number - 1])
    rest = [example for at, example in enumerate(examples) if at not in held_out]
    return rest, [example for at, example in enumerate(examples) if at in held_out]


def share(examples: Sequence[Example], fraction: float, seed: int) -> list[int]:
    """Numbers of at least `fraction` of the examples, in order; documents, as far as they are known, and cut sentences
    whole.

    They are the first of one random order of the groups, so that a seed's smaller shares lie within its larger ones.
    """
    groups: dict[object, list[int]] = {}
    for number, example in enumerate(examples):
        groups.setdefault(example.document or example.group or number, []).append(number)
    members, chosen = list(groups.values()), list[int]()
    for place in np.random.default_rng(seed).permutation(len(members)):
        if len(chosen) >= fraction * len(examples) - 1e-9:
            break
        chosen += members[place]
    return sorted(chosen)


def _groups(examples: Sequence[Example]) -> list[list[int]]:
    """Connected components: numbers of examples that share a document or a text, by the first of each."""
    parent = list(range(len(examples)))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    first: dict[object, int] = {}
    for at, example in enumerate(examples):
        for key in (*example.texts, *([("document", example.group)] if example.group else [])):
            one, other = sorted((root(at), root(first.setdefault(key, at))))
            parent[other] = one
    found: dict[int, list[int]] = {}
    for at in range(len(examples)):
        found.setdefault(root(at), []).append(at)
    return list(found.values())

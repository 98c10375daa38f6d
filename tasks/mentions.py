"""What counts as a mention in a list of tags B, I and O: the published rule, and the strict one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["TAGS", "mentions", "shown_mentions", "strict_mentions"]

TAGS = ("B", "I", "O")


def mentions(tags: Iterable[str]) -> set[tuple[int, ...]]:
    """The mentions of a whole split, each as the numbers of its words; `tags` are all its tags in order.

    B opens a mention and every later I joins the newest one, even across O and sentence ends, so that a disjoint
    mention (left/B atrium/I is/O dilated/I) counts whole. An I before any B counts for nothing.
    """
    found: list[list[int]] = []
    for index, tag in enumerate(tags):
        if tag == "B":
            found.append([index])
        elif tag == "I" and found:
            found[-1].append(index)
    return {tuple(mention) for mention in found}


def shown_mentions(tags: Sequence[str], disjoint: bool) -> list[list[tuple[int, int]]]:
    """The mentions of one sentence as its annotators mean them, for people; the metric has its own rule.

    A mention is its parts, each as (first word, word after the last). An I behind an O begins a mention of its own;
    only where the task's annotators mark disjoint mentions so, and a B stands before it, is it one more part of that.
    """
    found: list[list[tuple[int, int]]] = []
    opened = False  # by a B of this sentence
    for index, tag in enumerate(tags):
        if tag == "I" and index and tags[index - 1] != "O":
            first, _ = found[-1].pop()
            found[-1].append((first, index + 1))
        elif tag == "I" and disjoint and opened:
            found[-1].append((index, index + 1))
        elif tag != "O":
            found.append([(index, index + 1)])
            opened = opened or tag == "B"
    return found


def strict_mentions(sentences: Iterable[Sequence[str]]) -> set[tuple[int, int, int]]:
    """The mentions as seqeval's strict IOB2 counts them, as (sentence, first word, word after the last).

    B opens a mention, the I's that follow it without a gap belong to it, any other I counts for nothing.
    """
    found = set()
    for number, tags in enumerate(sentences):
        for start in (index for index, tag in enumerate(tags) if tag == "B"):
            end = start + 1
            while end < len(tags) and tags[end] == "I":
                end += 1
            found.add((number, start, end))
    return found

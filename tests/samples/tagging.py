"""Made-up tagged text: BC5CDR abstracts (diseases or chemicals marked) and CLEF-eHealth notes (disorders marked)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from vocabulary import pieces

TIGHT_BEFORE = set(".,;:)-")  # no blank before such a token in the text that offsets count in
TIGHT_AFTER = set("(-")

TITLES = (
    "{chemical} - induced {disease} in {animals} .",
    "{disease} after {number} {period} of {chemical} .",
    "Effect of {chemical} on {disease} : a study of {group} .",
    "{chemical} and {chemical} in the treatment of {disease} .",
)
ABSTRACT = (
    "We describe {number} {group} who developed {disease} while taking {chemical} .",
    "{disease} was noted {number} {period} after {chemical} had been started .",
    "{chemical} ( {dose} ) was given to {animals} for {number} {period} .",
    "Neither {disease} nor {disease} occurred with {chemical} .",
    "{chemical} lowered the rate of {disease} when compared with {chemical} .",
    "One of the {group} had a history of {disease} and {disease} .",
    "The {tissue} of treated {animals} showed signs of {disease} .",
    "{chemical} - related {disease} resolved within {number} {period} .",
    "Levels of {chemical} in the {tissue} peaked after {number} {period} .",
    "A total of {number} {group} were followed for {number} {period} .",  # no mention
    "The {visitor} of one of the {group} was asked every {weekday} about {process} .",  # no mention
    "The {tissue} was weighed on {weekday} and {gene} was measured in {number} {animals} .",  # no mention
)
LONG_ABSTRACT = (
    "A woman who had taken {chemical} ( {dose} ) for {disease} together with {chemical} for {disease} came to us with "
    "{disease} , {disease} and {disease} , all of which resolved within {number} {period} after {chemical} was stopped "
    "and {chemical} was given instead .",
    "In {number} {group} and {number} {group} , of whom {number} had {disease} at the start , we compared {chemical} , "
    "{chemical} and {chemical} over {number} {period} and counted every new case of {disease} or {disease} .",
)
NOTE = (
    "{who} was admitted with {disorder} and {disorder} .",
    "{who} denies {disorder} or {disorder} .",
    "History of {disorder} , treated with {drug} {dose} {often} .",
    "No evidence of {disorder} on {test} .",
    "{test} showed {disorder} .",
    "The {organ} is {degree} {change} .",
    "The {organ} appears {change} on {test} .",
    "On {weekday} the {organ} was found to be {degree} {change} , and {disorder} was noted .",
    "{drug} {dose} was given {often} .",  # no mention
    "The {visitor} will call the clinic on {weekday} .",  # no mention
    "{who} lives with a {visitor} and walks every {weekday} .",  # no mention
    "{test} was repeated after {number} {period} .",  # no mention
)
LONG_NOTE = (
    "{who} has a history of {disorder} , {disorder} , {disorder} and {disorder} , was seen on {weekday} after {number} "
    "{period} of {disorder} , and on {test} the {organ} was {degree} {change} while the rest was normal .",
    "{test} on {weekday} was ordered by the clinic because the {visitor} had reported {disorder} , {disorder} and "
    "{disorder} for {number} {period} ; the {organ} was read as {degree} {change} , with no sign of {disorder} .",
)
Token = tuple[str, int, str]  # word, offset, tag
LONG_SHARE = 0.1


@dataclass(frozen=True)
class Corpus:
    """What differs between the tagging tasks."""

    starts: frozenset[str]  # slots whose first word is tagged B and the others I
    goes_on: frozenset[str] = frozenset()  # slots that go on with an earlier mention: all I
    notes: bool = False  # `### <note id>` lines, notes in place of abstracts


BC5CDR_DISEASE = Corpus(frozenset({"disease"}))
BC5CDR_CHEM = Corpus(frozenset({"chemical"}))
CLEFE = Corpus(frozenset({"disorder", "organ"}), frozenset({"change"}), notes=True)


def _tagged(rng: Random, template: str, corpus: Corpus) -> list[tuple[str, str]]:
    """One sentence as (word, tag) pairs. An organ found changed is one mention in two parts: B I O O I."""
    found: list[tuple[str, str]] = []
    for text, slot in pieces(rng, template):
        for number, word in enumerate(text.split()):
            tag = "O"
            if slot in corpus.goes_on or (slot in corpus.starts and number > 0):
                tag = "I"
            elif slot in corpus.starts:
                tag = "B"
            found.append((word, tag))
    first, tag = found[0]
    return [(first[0].upper() + first[1:], tag), *found[1:]]


def _placed(words: list[tuple[str, str]], offset: int) -> tuple[list[Token], int]:
    """The words with their character offsets, and the offset at which the next sentence starts."""
    tokens: list[Token] = []
    end, tight = offset, True
    for word, tag in words:
        start = end if tight or word in TIGHT_BEFORE else end + 1
        tokens.append((word, start, tag))
        end, tight = start + len(word), word in TIGHT_AFTER
    return tokens, end + 1


def _template(rng: Random, corpus: Corpus, first: bool) -> str:
    if first and not corpus.notes:
        return rng.choice(TITLES)
    short, long = (NOTE, LONG_NOTE) if corpus.notes else (ABSTRACT, LONG_ABSTRACT)
    return rng.choice(long if rng.random() < LONG_SHARE else short)


def document(rng: Random, name: str, corpus: Corpus, length: int, fresh: Callable[[tuple[str, ...]], bool]) -> str:
    """The lines of one abstract or note of `length` sentences, none of them seen before (`fresh`)."""
    lines = [f"### {name}"] if corpus.notes else []
    offset = 0
    for number in range(length):
        words = _tagged(rng, _template(rng, corpus, number == 0), corpus)
        while not fresh((" ".join(word for word, _ in words),)):
            words = _tagged(rng, _template(rng, corpus, number == 0), corpus)
        tokens, offset = _placed(words, offset)
        lines += [
            f"{word}\t{'-' if index else name}\t{start}\t{tag}" for index, (word, start, tag) in enumerate(tokens)
        ]
        lines.append("")
    return "".join(line + "\n" for line in lines)

"""Made-up sets of BLURB's tasks where BLUE has none of that kind: types of mention, GAD, whole abstracts, questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from random import Random

import documents
import relations
import tagging
from pairs import Row
from vocabulary import expand, fill, pieces, sentence

Fresh = Callable[[tuple[str, ...]], bool]

ABSTRACT = tagging.ABSTRACT + tagging.LONG_ABSTRACT
GENES = tuple(f"{text} ." for text in chain(*documents.HALLMARKS, documents.PLAIN))
MOLECULES = (
    "{gene} binds the {dna} in {cell_type} .",
    "Expression of {rna} rose in {cell_line} but not in {cell_type} .",
    "{cell_line} were transfected with the {dna} and stained for {gene} .",
    "In {cell_type} , {gene} and {gene} lowered the level of {rna} .",
    "The {dna} was not active in {cell_line} or {cell_line} .",
    "{number} samples of the {tissue} were looked at on {weekday} .",  # no mention
)
TRIALS = (
    "{number} {group} were given {chemical} for {number} {period} .",
    "{group} with {disease} took {drug} or {chemical} {often} .",
    "The outcome was {complaint} after {number} {period} .",
    "{drug} lowered {complaint} in {group} .",
    "{complaint} and {disease} were less frequent with {drug} .",
    "The {visitor} of each was asked on {weekday} .",  # no mention
)
# Task -> (templates, slot -> type of mention, whether tags are I alone).
TAGGED: Mapping[str, tuple[tuple[str, ...], Mapping[str, str], bool]] = {
    "blurb_bc5_chem": (ABSTRACT, {"chemical": "Chemical"}, False),
    "blurb_bc5_disease": (ABSTRACT, {"disease": "Disease"}, False),
    "ncbi_disease": (ABSTRACT, {"disease": "Disease"}, False),
    "bc2gm": ((*MOLECULES[:3], *GENES), {"gene": "GENE", "dna": "GENE"}, False),
    "jnlpba": (
        MOLECULES,
        {"gene": "protein", "dna": "DNA", "rna": "RNA", "cell_line": "cell_line", "cell_type": "cell_type"},
        False,
    ),
    "ebm_pico": (
        TRIALS,
        {"group": "PAR", "drug": "INT", "chemical": "INT", "complaint": "OUT", "disease": "OUT"},
        True,
    ),
}

GAD: Mapping[str, tuple[str, ...]] = {
    "1": (
        "{a} polymorphisms were associated with {b} in {group}.",
        "carriers of a {a} variant had a higher risk of {b} than other {group}.",
        "our findings link {a} to {b}, first seen in {animals}.",
    ),
    "0": (
        "no association between {a} and {b} was found in {group}.",
        "variants of {a} did not differ between {group} with and without {b}.",
        "{a} was sequenced in {group}, and {b} was an exclusion criterion.",
    ),
}
QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "yes": ("{drug} lowered the rate of {disease} in {number} {group}.", "{disease} was clearly rarer with {drug}."),
    "no": ("{drug} did not change the rate of {disease}.", "{disease} was as frequent with {drug} as without it."),
    "maybe": (
        "{drug} lowered the rate of {disease} in some {group} alone.",
        "{disease} tended to be rarer with {drug}, with wide intervals.",
    ),
}
ASKED = ("Does {drug} prevent {disease}?", "Is {disease} rarer with {drug}?", "Can {drug} be used against {disease}?")
BEFORE = ("{number} {group} were followed for {number} {period}.", "{animals} were given {dose} {often}.")


def tagged(rng: Random, task: str, sentences: int, fresh: Fresh) -> str:
    """That many sentences, a word and its tag a line."""
    templates, kinds, is_io = TAGGED[task]
    lines: list[str] = []
    for number in range(sentences):
        words: list[tuple[str, str]] = []
        while not words or not fresh((" ".join(word for word, _ in words),)):
            words = []
            for text, slot in pieces(rng, templates[number % len(templates)]):
                for place, word in enumerate(text.split()):
                    letter = "B" if place == 0 and not is_io else "I"
                    words.append((word, f"{letter}-{kinds[slot]}" if slot in kinds else "O"))
        lines += [f"{word}\t{tag}\n" for word, tag in words] + ["\n"]
    return "".join(lines)


def ddi(rng: Random, label: str) -> Row:
    """As BLUE's, both mentions as @DRUG$."""
    (text,), _ = relations.ddi2013(rng, label)
    for mention in relations.DDI_MENTIONS:
        text = text.replace(mention, "@DRUG$")
    return (text,), label


def gad(rng: Random, label: str) -> Row:
    """A gene and a disease in one sentence."""
    lead = rng.choice(("", "in this study, ", "over {number} {period}, ", "after {process} was ruled out, "))
    return (sentence(rng, lead + rng.choice(GAD[label]), {"a": "@GENE$", "b": "@DISEASE$"}),), label


def question(rng: Random, label: str) -> Row:
    """A question, and sentences that answer it."""
    given = {slot: expand(rng, slot) for slot in ("drug", "disease")}
    answer = sentence(rng, rng.choice(QUESTIONS[label]), given)
    return (fill(rng, rng.choice(ASKED), given), f"{sentence(rng, rng.choice(BEFORE))} {answer}"), label


def abstract(rng: Random, name: str, main: int, fresh: Fresh) -> str:
    """The row of one whole abstract with the labels of all its sentences; each sixth speaks of no hallmark."""
    rows = [row.split("\t") for row in documents.document(rng, name, main, rng.randint(5, 8), fresh).splitlines()]
    if rng.random() < 1 / 6:
        rows = [row for row in rows if "_1" not in row[0]] or rows
    flags = zip(*(row[0].split(",") for row in rows), strict=True)
    return f"{','.join(map(max, flags))}\t{' '.join(row[1] for row in rows)}\t{name}_s0\n"

"""Made-up sentence pairs: `medsts` (0-5) and `biosses` (0-4) by similarity, `mednli` by inference."""

from __future__ import annotations

from random import Random

from vocabulary import expand, sentence

Row = tuple[tuple[str, ...], str]  # (texts, label)

NLI_LABELS = ("contradiction", "entailment", "neutral")

# A frame: slots that may differ between the two sentences, and wordings that all say the same with them.
Frame = tuple[tuple[str, ...], tuple[str, ...]]

MEDSTS: tuple[Frame, ...] = (
    (
        ("drug", "dose", "often", "complaint"),
        (
            "{drug} {dose} by mouth {often} for {complaint} .",
            "Take {dose} of {drug} {often} to relieve {complaint} .",
            "For {complaint} we prescribed {drug} , {dose} {often} .",
        ),
    ),
    (
        ("complaint", "when", "visitor", "drug"),
        (
            "{who} developed {complaint} {when} ; the {visitor} gave {drug} .",
            "{complaint} started {when} and {drug} was given by the {visitor} .",
            "The {visitor} offered {drug} after {complaint} began {when} .",
        ),
    ),
    (
        ("test", "disease", "weekday", "visitor"),
        (
            "We ordered {test} for {weekday} to rule out {disease} and told the {visitor} .",
            "{test} is planned on {weekday} because of possible {disease} ; the {visitor} was informed .",
            "The {visitor} knows that {test} on {weekday} will look for {disease} .",
        ),
    ),
    (
        ("disease", "number", "tissue", "drug"),
        (
            "After {number} visits the {tissue} clinic treated {disease} with {drug} .",
            "{disease} was managed with {drug} by the {tissue} clinic over {number} visits .",
            "The {tissue} clinic used {drug} against {disease} and saw the patient {number} times .",
        ),
    ),
)

BIOSSES: tuple[Frame, ...] = (
    (
        ("gene", "process", "tissue"),
        (
            "Loss of {gene} impairs {process} in {tissue} cells.",
            "In {tissue} cells, {process} is reduced when {gene} is missing.",
            "It was shown that {tissue} cells without {gene} have defective {process}.",
        ),
    ),
    (
        ("drug", "gene", "tumour"),
        (
            "{drug} blocks {gene} and slows the growth of {tumour}.",
            "Growth of {tumour} is delayed by {drug}, which inhibits {gene}.",
            "By inhibiting {gene}, {drug} delays {tumour} growth.",
        ),
    ),
    (
        ("disease", "gene", "animals"),
        (
            "{animals} lacking {gene} are protected from {disease}.",
            "Deletion of {gene} prevents {disease} in {animals}.",
            "When {gene} was deleted, {animals} no longer developed {disease}.",
        ),
    ),
    (
        ("gene", "tissue", "disease"),
        (
            "Expression of {gene} rises in the {tissue} during {disease}.",
            "During {disease}, higher {gene} levels are seen in the {tissue}.",
            "The {tissue} produces more {gene} in the course of {disease}.",
        ),
    ),
)

PRESENT = (
    "{who} has reported {fact} for {number} {period} .",
    "{who} came to the clinic with {fact} that began {when} .",
    "According to the {visitor} , there was {fact} {when} .",
    "{who} complained of {fact} {when} and took {drug} {dose} .",
    "On arrival {when} we found {fact} and ordered {test} .",
)
ABSENT = (
    "{who} has denied {fact} for {number} {period} .",
    "{who} came to the clinic without {fact} {when} .",
    "According to the {visitor} , there was no {fact} {when} .",
    "{who} had no {fact} {when} and took {drug} {dose} .",
    "On arrival {when} we found no {fact} but ordered {test} .",
)
SAYS = ("The patient has {fact} .", "There is {fact} .", "{who} suffers from {fact} .", "We noted {fact} .")
SAYS_NOT = (
    "The patient has no {fact} .",
    "There is no {fact} .",
    "{who} does not suffer from {fact} .",
    "We noted no {fact} .",
)


def _similar(rng: Random, frames: tuple[Frame, ...], level: int, top: int) -> tuple[str, str]:
    """Two sentences of one frame that differ in `top - level` of its slots; of two frames at level 0."""
    (slots, wordings), (other_slots, other_wordings) = rng.sample(frames, 2)
    first, second = rng.sample(wordings, 2)
    given = {slot: expand(rng, slot) for slot in slots}
    if level == 0:
        other = {slot: expand(rng, slot) for slot in other_slots}
        return sentence(rng, first, given), sentence(rng, rng.choice(other_wordings), other)
    changed = set(rng.sample(slots, top - level))
    other = {slot: expand(rng, slot, {text}) if slot in changed else text for slot, text in given.items()}
    return sentence(rng, first, given), sentence(rng, second, other)


def medsts(rng: Random, label: str) -> Row:
    """A clinical pair whose score is the level `label`, half a point off at times."""
    texts = _similar(rng, MEDSTS, int(label), 5)
    score = int(label) + rng.choice((-0.5, 0, 0, 0.5))
    return texts, str(float(min(max(score, 0), 5)))


def biosses(rng: Random, label: str) -> Row:
    """A laboratory pair whose score is near the level `label`, in steps of 0.2 like a mean over five people."""
    texts = _similar(rng, BIOSSES, int(label), 4)
    score = int(label) + rng.choice((-0.4, -0.2, 0, 0, 0.2, 0.4))
    return texts, f"{min(max(score, 0.0), 4.0):.1f}"


def mednli(rng: Random, label: str) -> Row:
    """A statement about one complaint, and one about the same (or for "neutral" another), said to be there or not.

    Neither sentence gives the label away: each is as often affirmed as denied in every class.
    """
    present = rng.random() < 0.5
    fact = expand(rng, "complaint")
    claimed = present == (label == "entailment")
    asked = fact
    if label == "neutral":
        claimed = rng.random() < 0.5
        while set(asked.split()) & set(fact.split()):
            asked = expand(rng, "complaint")
    premise = sentence(rng, rng.choice(PRESENT if present else ABSENT), {"fact": fact})
    return (premise, sentence(rng, rng.choice(SAYS if claimed else SAYS_NOT), {"fact": asked})), label

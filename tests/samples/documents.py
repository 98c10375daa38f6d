"""Made-up abstracts with the hallmarks of cancer that each sentence speaks of: `hoc`."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from vocabulary import sentence

HALLMARKS: tuple[tuple[str, ...], ...] = (
    (  # 0 activating invasion and metastasis
        "{gene} promoted invasion and metastasis of {tumour} cells",
        "metastasis to the {tissue} and invasion were more frequent with {gene}",
        "{drug} reduced metastasis and invasion of {tumour} cells",
    ),
    (  # 1 avoiding immune destruction
        "{gene} helped {tumour} cells to escape the immune system",
        "immune evasion of {tumour} depended on {gene}",
        "{drug} made {tumour} cells visible to the immune system again",
    ),
    (  # 2 cellular energetics
        "{tumour} cells with {gene} relied on glycolysis and produced lactate",
        "glycolysis in {tumour} was raised by {gene}",
        "{drug} shifted the energy metabolism of {tumour} cells away from glycolysis",
    ),
    (  # 3 enabling replicative immortality
        "telomerase was active in {tumour} cells with {gene}",
        "telomerase was switched on by {gene} in {tumour}",
        "{tumour} cells became immortal through telomerase and {gene}",
    ),
    (  # 4 evading growth suppressors
        "loss of the tumour suppressor {gene} freed {tumour} cells from cell cycle arrest",
        "{gene} let {tumour} cells pass the cell cycle checkpoint",
        "{drug} restored the growth suppressor {gene} and arrested the cell cycle in {tumour}",
    ),
    (  # 5 genomic instability and mutation
        "DNA damage and mutations accumulated in {tumour} without {gene}",
        "DNA damage was common in {tumour} cells lacking {gene}",
        "{gene} repairs DNA damage and prevents mutations in {tissue} cells",
    ),
    (  # 6 inducing angiogenesis
        "{gene} stimulated angiogenesis in {tumour}",
        "angiogenesis brought new vessels into the {tumour} with {gene}",
        "{drug} reduced angiogenesis in {tumour}",
    ),
    (  # 7 resisting cell death
        "{tumour} cells with {gene} resisted apoptosis",
        "{drug} triggered apoptosis and caspase cleavage in {tumour} cells",
        "apoptosis of {tumour} cells was blocked by {gene}",
    ),
    (  # 8 sustaining proliferative signaling
        "{gene} drove the proliferation of {tumour} cells through growth factor signaling",
        "the receptor {gene} stayed active and sustained the proliferation of {tumour} cells",
        "{drug} cut off mitogenic signaling and slowed the proliferation of {tumour} cells",
    ),
    (  # 9 tumor promoting inflammation
        "chronic inflammation with {gene} favoured the onset of {tumour}",
        "inflammation and cytokines surrounded the {tumour} in the presence of {gene}",
        "{drug} lowered inflammation around the {tumour}",
    ),
)
PLAIN = (
    "{number} patients with {tumour} were enrolled over {number} {period}",
    "{gene} was measured in {number} samples of {tumour}",
    "the role of {gene} in {tumour} is not well known",
    "{animals} received {drug} at {dose} for {number} {period}",
    "{drug} has been approved for {tumour} and is given {often}",
    "further work on {gene} and {drug} is under way",
    "the median age of the {group} with {tumour} was {number} years above that of the others",
)
LEADS = ("", "", "in this study , ", "in {animals} , ", "after {number} {period} , ", "moreover , ", "as expected , ")


def _labelled(rng: Random, labels: set[int]) -> str:
    said = [rng.choice(HALLMARKS[label]) for label in sorted(labels)] or [rng.choice(PLAIN)]
    return sentence(rng, rng.choice(LEADS) + " , and ".join(said) + " .")


def document(rng: Random, name: str, main: int, length: int, fresh: Callable[[tuple[str, ...]], bool]) -> str:
    """The rows of one abstract of `length` sentences about `main` and a second hallmark, some of them about none."""
    topics = [main, rng.randrange(len(HALLMARKS))]
    plan: list[set[int]] = [{main}]
    for _ in range(length - 1):
        drawn = rng.random()
        plan.append(set() if drawn < 0.25 else set(topics) if drawn > 0.93 else {rng.choice(topics)})
    rng.shuffle(plan)
    lines = []
    for number, labels in enumerate(plan):
        text = _labelled(rng, labels)
        while not fresh((text,)):
            text = _labelled(rng, labels)
        code = ",".join(f"{label}_{int(label in labels)}" for label in range(len(HALLMARKS)))
        lines.append(f"{code}\t{text}\t{name}_s{number}\n")
    return "".join(lines)

"""Made-up sentences with two marked mentions and the relation between them: `ddi2013`, `chemprot`, `i2b2_2010`."""

from __future__ import annotations

from random import Random

from vocabulary import fill, sentence

Row = tuple[tuple[str, ...], str]  # (texts, label)

DDI_LEADS = (
    "",
    "In {group}, ",
    "According to the sponsor, ",
    "After {number} {period}, ",
    "In a study of {group}, ",
    "On day {number}, ",
)
DDI: dict[str, tuple[str, ...]] = {
    "DDI-advise": (
        "{a} should not be taken together with {b}{end}",
        "caution is advised when {a} is added to {b}{end}",
        "patients on {a} must avoid {b} or {drug}{end}",
        "the dose of {a} should be halved before {b} is started{end}",
        "do not start {a} until {b} has been stopped for {number} {period}{end}",
    ),
    "DDI-effect": (
        "{a} made the drowsiness caused by {b} worse{end}",
        "{disease} was seen more often when {a} was given with {b}{end}",
        "{a} strengthened the blood pressure lowering effect of {b}{end}",
        "the sedative effect of {b} was weakened by {a} but not by {drug}{end}",
        "{a} and {b} together led to {disease}{end}",
    ),
    "DDI-int": (
        "{a} interacts with {b}{end}",
        "an interaction between {a} and {b} has been reported{end}",
        "{a} may interact with {drug} and {b}{end}",
        "interactions of {a} with {b} are known{end}",
    ),
    "DDI-mechanism": (
        "{a} raised the plasma level of {b} by {number} percent{end}",
        "the clearance of {b} was lowered by {a}{end}",
        "{a} delays the absorption of {b}{end}",
        "the half-life of {a} doubled with {b} but not with {drug}{end}",
        "{a} induces the enzyme that breaks down {b} and so lowers its exposure{end}",
    ),
    "DDI-false": (
        "both {a} and {b} are sold as tablets of {dose}{end}",
        "{a} and {b} were compared as treatments of {disease}{end}",
        "the trial enrolled users of {a}, {b} or {drug}{end}",
        "{disease} had been treated with {a} first and, {number} {period} later, {b}{end}",
        "the plasma level of {a} was measured at noon and that of {b} in the evening{end}",
        "{a} did not change the level of {b}{end}",
        "{drug} should be avoided, whereas {a} and {b} are allowed{end}",
        "{a}, like {b}, is cleared by the kidney{end}",
    ),
}
DDI_ENDS = (
    ".",
    " in {group}.",
    " for {number} {period}.",
    ", as noted by the {visitor} of one subject.",
    " during treatment of {disease}.",
)
DDI_MENTIONS = ("@DRUG$", "@DRUG$", "@DRUG$", "@BRAND$", "@GROUP$", "@DRUG_N$")

CHEMPROT_LEADS = (
    "",
    "In {tissue} cells, ",
    "We report that ",
    "In {animals}, ",
    "At {number} nanomolar, ",
    "During {process}, ",
    "Our data suggest that ",
)
CHEMPROT: dict[str, tuple[str, ...]] = {
    "CPR:3": (
        "{a} increased the expression of {b}{end}",
        "{a} activates {b} more than {gene}{end}",
        "{b} was induced by {a}{end}",
        "levels of {b} rose after {a} was added{end}",
    ),
    "CPR:4": (
        "{a} inhibited {b}{end}",
        "{b} activity was suppressed by {a}{end}",
        "{a} is a potent inhibitor of {b}{end}",
        "{a} decreased the expression of {b} and {gene}{end}",
    ),
    "CPR:5": (
        "{a} acts as an agonist at {b}{end}",
        "the {b} agonist {a} was used{end}",
        "{a} is a full agonist of {b} but not of {gene}{end}",
    ),
    "CPR:6": (
        "{a} acts as an antagonist at {b}{end}",
        "the {b} antagonist {a} was used{end}",
        "{a} is a competitive antagonist of {b} rather than of {gene}{end}",
    ),
    "CPR:9": (
        "{a} is a substrate of {b}{end}",
        "{b} converts {a} into {chemical}{end}",
        "{b} transports {a} across the membrane{end}",
        "{a} is produced by {b} from {chemical}{end}",
    ),
    "false": (
        "{a} was stored at room temperature and {b} was sequenced{end}",
        "we measured {a} and {b} on {weekday}{end}",
        "{chemical} inhibited {b}, and {a} served as solvent{end}",
        "samples were stained for {b} and washed with {a}{end}",
        "{a} did not bind {b}{end}",
        "no effect of {a} on {b} was found{end}",
        "{a} lowered body weight regardless of {b} genotype{end}",
        "a method to detect @CHEM-GENE$ is described{end}",
    ),
}
CHEMPROT_ENDS = (
    ".",
    " in the {tissue}.",
    " within {number} {period}.",
    " in {animals} with {disease}.",
    " and thereby affected {process}.",
)

I2B2_LEADS = ("", "on {weekday} , ", "per the {visitor} , ", "in the clinic , ", "after {number} {period} , ")
I2B2: dict[str, tuple[str, ...]] = {
    "PIP": (
        "{problem} was due to {problem}{end}",
        "{problem} , probably caused by {problem}{end}",
        "{problem} led to {problem}{end}",
    ),
    "TeCP": (
        "{test} was ordered to look for {problem}{end}",
        "we will obtain {test} to evaluate {problem}{end}",
        "{test} is planned because of {problem}{end}",
    ),
    "TeRP": (
        "{test} showed {problem}{end}",
        "{problem} was seen on {test}{end}",
        "{test} was remarkable for {problem}{end}",
    ),
    "TrAP": (
        "{treatment} was given for {problem}{end}",
        "{problem} is managed with {treatment}{end}",
        "started on {treatment} to treat {problem}{end}",
    ),
    "TrCP": (
        "{problem} developed as a side effect of {treatment}{end}",
        "{treatment} caused {problem}{end}",
        "{problem} appeared as a reaction to {treatment}{end}",
    ),
    "TrIP": (
        "{problem} improved with {treatment}{end}",
        "{treatment} relieved {problem}{end}",
        "{problem} resolved after {treatment}{end}",
    ),
    "TrNAP": (
        "{treatment} was withheld because of {problem}{end}",
        "{treatment} was not given in view of {problem}{end}",
        "we stopped {treatment} out of concern about {problem}{end}",
    ),
    "TrWP": (
        "{problem} worsened despite {treatment}{end}",
        "{problem} progressed in spite of {treatment}{end}",
        "{treatment} failed and {problem} got worse{end}",
    ),
    "false": (
        "{problem} last year ; {treatment} at home{end}",
        "{test} is pending , and there is {problem} in the family{end}",
        "the list mentions {problem} as well as {problem}{end}",
        "{treatment} continues , {problem} is a separate matter{end}",
        "{test} was normal ; separately , {problem} was discussed{end}",
        "the {visitor} asked about {treatment} and about {problem}{end}",
    ),
}
I2B2_ENDS = (
    " .",
    " on {weekday} .",
    " as told by the {visitor} .",
    " , {number} {period} after the visit .",
    " ; {drug} unchanged .",
)
I2B2_MENTIONS = {"problem": "@PROBLEM$", "treatment": "@TREATMENT$", "test": "@TEST$"}


def ddi2013(rng: Random, label: str) -> Row:
    """Two drugs, drug groups or brands in one sentence."""
    given = {"a": rng.choice(DDI_MENTIONS), "b": rng.choice(DDI_MENTIONS), "end": fill(rng, rng.choice(DDI_ENDS))}
    return (sentence(rng, rng.choice(DDI_LEADS) + rng.choice(DDI[label]), given),), label


def chemprot(rng: Random, label: str) -> Row:
    """A chemical and a gene in one sentence."""
    given = {"a": "@CHEMICAL$", "b": "@GENE$", "end": fill(rng, rng.choice(CHEMPROT_ENDS))}
    return (sentence(rng, rng.choice(CHEMPROT_LEADS) + rng.choice(CHEMPROT[label]), given),), label


def i2b2_2010(rng: Random, label: str) -> Row:
    """Two of problem, test and treatment in one sentence of a note."""
    given = {**I2B2_MENTIONS, "end": fill(rng, rng.choice(I2B2_ENDS))}
    return (sentence(rng, rng.choice(I2B2_LEADS) + rng.choice(I2B2[label]), given),), label

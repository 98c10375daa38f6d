"""Word lists of the made-up sample data, and `pieces`/`fill`, which put their words into a template.

A slot such as `{drug}` stands for one entry of `WORDS["drug"]`; an entry may hold slots itself.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from random import Random

SLOT = re.compile(r"(\{[a-z_]+\})")

WORDS: dict[str, tuple[str, ...]] = {
    # names that do not exist
    "drug": ("{drug_head}{drug_link}{drug_tail}",),
    "drug_head": (
        "bel",
        "cor",
        "dax",
        "fen",
        "gal",
        "hib",
        "jor",
        "lum",
        "mex",
        "nar",
        "pol",
        "quin",
        "sot",
        "tev",
        "vor",
        "zan",
    ),
    "drug_link": ("a", "o", "ami", "eri", "ixo", "ulo", "obi", "ate"),
    "drug_tail": ("zovane", "mitrel", "duvane", "limox", "radolin", "septrin", "tizine", "plomide", "nastol"),
    "chemical": ("{drug}", "{drug}", "{drug}", "{drug} {salt}"),
    "salt": ("sodium", "acetate", "chloride", "citrate", "phosphate"),
    "gene": ("{gene_head}{gene_tail}",),
    "gene_head": ("KZT", "VRQ", "PLW", "DQX", "MBJ", "TRZ", "GUX", "HWK", "SYV", "NQF", "ZBR", "WEJ"),
    "gene_tail": ("1", "2", "3", "4", "5", "7", "9", "A", "B", "12"),
    "dna": ("{gene} promoter", "{gene} enhancer", "{gene} gene"),
    "rna": ("{gene} mRNA", "{gene} transcripts"),
    "cell_line": ("{gene_head}-{gene_tail} cells", "{gene_head} line"),
    "cell_type": ("{tissue} macrophages", "{tissue} fibroblasts", "resting T cells", "mature B cells"),
    # disorders
    "disease": (
        "{quality} {organ_of} {trouble}",
        "{organ_of} {trouble}",
        "{organ_of} {trouble}",
        "{organ_stem}{organ_end}",
        "{quality} {organ_stem}{organ_end}",
    ),
    "quality": ("acute", "chronic", "severe", "recurrent", "transient", "mild", "sudden", "persistent"),
    "organ_of": (
        "hepatic",
        "renal",
        "cardiac",
        "gastric",
        "pulmonary",
        "spinal",
        "ocular",
        "dermal",
        "muscular",
        "thyroid",
        "bladder",
        "nasal",
    ),
    "trouble": (
        "fibrosis",
        "swelling",
        "ulceration",
        "spasm",
        "atrophy",
        "bleeding",
        "necrosis",
        "weakness",
        "inflammation",
        "stenosis",
        "degeneration",
    ),
    "organ_stem": ("nephr", "gastr", "cardi", "hepat", "derm", "neur", "arthr", "cyst", "laryng", "splen"),
    "organ_end": ("opathy", "itis", "algia", "osclerosis", "omalacia", "orrhagia"),
    "complaint": ("{quality} {place} {sensation}",),
    "place": (
        "knee",
        "shoulder",
        "chest",
        "abdominal",
        "back",
        "ankle",
        "wrist",
        "jaw",
        "hip",
        "neck",
        "calf",
        "flank",
        "elbow",
        "foot",
    ),
    "sensation": (
        "pain",
        "swelling",
        "stiffness",
        "numbness",
        "cramping",
        "itching",
        "bruising",
        "tingling",
        "redness",
        "burning",
    ),
    "disorder": ("{disease}", "{complaint}"),
    # an organ found changed
    "organ": ("left {body}", "right {body}", "upper {body}", "lower {body}"),
    "body": ("kidney", "lung", "eyelid", "ankle", "jaw", "lobe", "bowel", "arm"),
    "degree": ("slightly", "moderately", "markedly", "somewhat"),
    "change": ("enlarged", "swollen", "thickened", "narrowed", "inflamed", "displaced"),
    # people, numbers and circumstances
    "who": ("The patient", "She", "He", "This patient"),
    "animals": ("rats", "mice", "rabbits", "hamsters", "dogs", "guinea pigs"),
    "group": (
        "adult volunteers",
        "older women",
        "young men",
        "outpatients",
        "retired workers",
        "transplant recipients",
        "school children",
    ),
    "number": ("two", "three", "four", "six", "eight", "ten", "twelve", "fifteen", "twenty", "thirty"),
    "period": ("days", "weeks", "months", "hours"),
    "when": ("{number} {period} ago", "last {weekday}", "early on {weekday}", "on {weekday} night"),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "dose": ("5 mg", "10 mg", "15 mg", "25 mg", "40 mg", "60 mg", "75 mg", "120 mg", "200 mg", "450 mg"),
    "often": (
        "once a day",
        "twice a day",
        "every morning",
        "at bedtime",
        "every six hours",
        "with each meal",
        "on alternate days",
    ),
    "visitor": ("daughter", "son", "neighbour", "brother", "home nurse", "wife", "landlord", "cousin"),
    "test": (
        "a chest film",
        "a urine culture",
        "a blood count",
        "an abdominal ultrasound",
        "a stress test",
        "a head scan",
        "a liver panel",
        "a bone scan",
        "a sputum smear",
    ),
    "tissue": ("liver", "kidney", "lung", "skin", "colon", "bone marrow", "breast", "brain", "prostate", "stomach"),
    "tumour": ("{tissue} tumour", "{tissue} cancer", "{tissue} carcinoma"),
    "process": (
        "wound closure",
        "lipid storage",
        "cell adhesion",
        "bone growth",
        "nerve repair",
        "iron uptake",
        "vessel sprouting",
        "glucose transport",
        "protein folding",
        "cell migration",
    ),
}


def expand(rng: Random, slot: str, unlike: Container[str] = ()) -> str:
    """One entry of `WORDS[slot]` with its own slots filled, none of the texts in `unlike`."""
    text = fill(rng, rng.choice(WORDS[slot]))
    while text in unlike:
        text = fill(rng, rng.choice(WORDS[slot]))
    return text


def pieces(rng: Random, template: str, given: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """The template as (text, slot) pairs, slot "" for its own words; `given` fixes slots, and no other text repeats."""
    given = given or {}
    found: list[tuple[str, str]] = []
    for part in SLOT.split(template):
        slot = part[1:-1] if SLOT.fullmatch(part) else ""
        if slot in given:
            part = given[slot]
        elif slot:
            part = expand(rng, slot, {text for text, _ in found})
        if part:
            found.append((part, slot))
    return found


def fill(rng: Random, template: str, given: Mapping[str, str] | None = None) -> str:
    """The template with every slot filled."""
    return "".join(text for text, _ in pieces(rng, template, given))


def sentence(rng: Random, template: str, given: Mapping[str, str] | None = None) -> str:
    """As `fill`, with a capital letter at the start."""
    text = fill(rng, template, given)
    return text[0].upper() + text[1:]

"""Where each corpus is published, under which terms, and where to apply for the ones that are not open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.task import UserError
from harness.validation import unknown

__all__ = ["APPLY", "OFFERS", "Offer", "offer"]


@dataclass(frozen=True)
class Offer:
    """One file that anyone may download."""

    url: str
    file: str  # its name here
    licence: str  # terms in words, and where they stand
    sha256: str | None = None  # None: nobody publishes one, so that the first download sets it


OFFERS: Mapping[str, Offer] = {
    "bc5cdr": Offer(
        "https://biocreative.bioinformatics.udel.edu/media/store/files/2016/CDR_Data.zip",
        "CDR_Data.zip",
        "Public domain (United States Government work); cite Wei et al. 2015 and Li et al. 2016. "
        "https://biocreative.bioinformatics.udel.edu/tasks/biocreative-v/track-3-cdr/",
    ),
    "ddi2013": Offer(
        "https://github.com/isegura/DDICorpus/raw/master/DDICorpus-2013.zip",
        "DDICorpus-2013.zip",
        "CC BY-NC 4.0: not for commercial purposes; cite Herrero-Zazo et al. 2013. "
        "https://github.com/isegura/DDICorpus",
        sha256="87fc63e32ebce20d9841c372e0c594ec72d60882ab5621550ca73c3eaf80ab60",
    ),
    "chemprot": Offer(
        "https://biocreative.bioinformatics.udel.edu/media/store/files/2017/ChemProt_Corpus.zip",
        "ChemProt_Corpus.zip",
        "Data of BioCreative VI, for research; cite Krallinger et al. 2017. "
        "https://biocreative.bioinformatics.udel.edu/news/corpora/chemprot-corpus-biocreative-vi/",
    ),
    "hoc": Offer(
        "https://github.com/sb895/Hallmarks-of-Cancer/archive/refs/heads/master.zip",
        "Hallmarks-of-Cancer-master.zip",
        "GNU General Public License 3; cite Baker et al. 2016. https://github.com/sb895/Hallmarks-of-Cancer",
    ),
    "biosses": Offer(
        "https://huggingface.co/datasets/bigscience-biomedical/biosses/raw/main/annotation_pairs_scores.tsv",
        "annotation_pairs_scores.tsv",
        "GNU General Public License 3; cite Sogancioglu et al. 2017. "
        "https://tabilab.cmpe.boun.edu.tr/BIOSSES/DataSet.html",
    ),
    "blue": Offer(
        "https://github.com/ncbi-nlp/BLUE_Benchmark/releases/download/0.1/bert_data.zip",
        "bert_data.zip",
        "The ready-made folders of the open tasks, each under the terms of its corpus; cite Peng et al. 2019. "
        "https://github.com/ncbi-nlp/BLUE_Benchmark",
    ),
}

APPLY: Mapping[str, str] = {
    "mednli": "https://physionet.org/content/mednli/ (a PhysioNet account with training, and its data use agreement)",
    "i2b2_2010": "https://portal.dbmi.hms.harvard.edu/projects/n2c2-nlp/ (a data use agreement with DBMI, Harvard)",
    "clefe": "https://physionet.org/content/shareclefehealth2013/ (a PhysioNet account with training, and its data use "
    "agreement)",
    "medsts": "https://portal.dbmi.hms.harvard.edu/projects/n2c2-nlp/ (n2c2 2019, track 1; a data use agreement)",
}


def offer(name: str) -> Offer:
    """What can be downloaded under that name. Raises UserError that says where to apply for what cannot."""
    plain = name.strip().lower().replace("-", "_")
    if plain in APPLY:
        raise UserError(f"{plain} is not open to everyone; apply at {APPLY[plain]}, download it there, and prepare it")
    if plain not in OFFERS:
        raise unknown("corpus", name, [*OFFERS, *APPLY])
    return OFFERS[plain]

"""Published corpora to the folders that training reads."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.corpora import bc5cdr, biosses, chemprot, clefe, ddi2013, hoc, i2b2_2010, mednli, medsts
from tasks.corpora.records import Corpus
from tasks.names import unknown

__all__ = ["CORPORA", "get"]

CORPORA: Mapping[str, Corpus] = {
    "bc5cdr": bc5cdr.CORPUS,
    "ddi2013": ddi2013.CORPUS,
    "chemprot": chemprot.CORPUS,
    "hoc": hoc.CORPUS,
    "biosses": biosses.CORPUS,
    "mednli": mednli.CORPUS,
    "i2b2_2010": i2b2_2010.CORPUS,
    "clefe": clefe.CORPUS,
    "medsts": medsts.CORPUS,
}


def get(name: str) -> Corpus:
    """The corpus of that name. Raises UserError that names the nearest one."""
    plain = name.strip().lower().replace("-", "_")
    if plain not in CORPORA:
        raise unknown("corpus", name, CORPORA)
    return CORPORA[plain]

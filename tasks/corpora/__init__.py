"""Published corpora to the folders that tasks read, for launch/prepare.py; training imports nothing of it.

To add a corpus: its task first (docs/custom_tasks.md), then a table in tasks/corpora.toml, a file here that reads its
documents, its name below, and a small source in tests/corpora_sources.py. mednli.py is the shortest example;
ddi2013.py reads XML and has its dev split drawn, clefe.py makes tagged words of mentions. Whatever a converter refuses
it raises as `line.error(...)`, `file.error(...)` or `source.error(...)`.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.corpora import (
    bc5cdr,
    bioasq,
    biosses,
    chemprot,
    clefe,
    ddi2013,
    ebm_nlp,
    gad,
    hoc,
    i2b2_2010,
    mednli,
    medsts,
    mtl_ner,
    pubmedqa,
)
from tasks.corpora.corpus import Corpus

__all__ = ["CORPORA"]

MODULES = (
    bc5cdr, ddi2013, chemprot, hoc, biosses, mednli, i2b2_2010, clefe, medsts,
    mtl_ner, ebm_nlp, gad, pubmedqa, bioasq,
)  # fmt: skip
OF_BLURB = (chemprot.BLURB, ddi2013.BLURB, biosses.BLURB, hoc.BLURB)  # as BLURB has what BLUE has too
CORPORA: Mapping[str, Corpus] = {corpus.name: corpus for corpus in (*(module.CORPUS for module in MODULES), *OF_BLURB)}

"""Published corpora to the folders that tasks read, for launch/prepare.py; training imports nothing of it.

To add a corpus: its task first (docs/custom_tasks.md), then a table in tasks/corpora.toml, a file here that reads its
documents, its name below, and a small source in tests/corpora_sources.py. mednli.py is the shortest example;
ddi2013.py reads XML and has its dev split drawn, clefe.py makes tagged words of mentions. Whatever a converter refuses
it raises as `line.error(...)`, `file.error(...)` or `source.error(...)`.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.corpora import bc5cdr, biosses, chemprot, clefe, ddi2013, hoc, i2b2_2010, mednli, medsts
from tasks.corpora.corpus import Corpus

__all__ = ["CORPORA"]

MODULES = (bc5cdr, ddi2013, chemprot, hoc, biosses, mednli, i2b2_2010, clefe, medsts)
CORPORA: Mapping[str, Corpus] = {module.CORPUS.name: module.CORPUS for module in MODULES}

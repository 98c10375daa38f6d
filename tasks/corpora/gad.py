"""GAD (Bravo et al. 2015) in the ten folds of BioBERT: a sentence with a gene and a disease, related or not."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.corpora.corpus import Corpus, Document, Options, clean
from tasks.corpora.sources import Line, Source, SourceFile

TASK = "gad"
FOLD = "1"  # BLURB's
DEV = 535 / 4796  # of its training rows, the last ones


def documents(source: Source, options: Options) -> Iterator[Document]:
    """A row for each sentence. BLURB's dev set are the last 535 rows of the fold's train.tsv; dev.tsv is empty."""
    train = list(_file(source, "train").lines())
    dev = max(1, round(DEV * len(train)))
    options.rules["train"] = f"the first {len(train) - dev} rows of train.tsv of fold {FOLD}"
    options.rules["dev"] = f"the last {dev} rows of train.tsv of fold {FOLD}"
    options.rules["test"] = f"test.tsv of fold {FOLD}"
    for number, line in enumerate(train):
        split = "train" if number < len(train) - dev else "dev"
        yield Document(f"train-{number}", split, {TASK: [_row(line, str(number), *line.cells(2))]})
    for number, line in enumerate(_file(source, "test").lines()):
        index, sentence, label = line.cells(3)
        if number:
            yield Document(f"test-{index}", "test", {TASK: [_row(line, index, sentence, label)]})
        elif (index, sentence, label) != ("index", "sentence", "label"):
            raise line.error("not the header index, sentence, label")


def _row(line: Line, index: str, sentence: str, label: str) -> dict[str, str]:
    if label not in ("0", "1"):
        raise line.error("the label is neither 0 nor 1")
    return {"index": index, "sentence": clean(sentence), "label": label}


def _file(source: Source, split: str) -> SourceFile:
    """Of GAD: the archive has other corpora in the same form."""
    places = {file: file.folders.split("/") for file in source.files if file.path.name == f"{split}.tsv"}
    files = [file for file, (*above, last) in places.items() if last == FOLD and "gad" in (above or ["gad"])[-1]]
    if len(files) != 1:
        raise source.error(f"{len(files) or 'no'} files GAD/{FOLD}/{split}.tsv")
    return files[0]


CORPUS = Corpus("gad", documents)

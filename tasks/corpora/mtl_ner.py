"""Five corpora of mentions as tagged words, in the folders of the collection of Crichton et al. 2017, as in BLURB."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from tasks.corpora.corpus import Corpus, Document, Options, Row, clean
from tasks.corpora.sources import Source, SourceFile

FOLDERS = {  # task -> its folder and the types of its mentions
    "blurb_bc5_chem": ("BC5CDR-chem-IOB", ("Chemical",)),
    "blurb_bc5_disease": ("BC5CDR-disease-IOB", ("Disease",)),
    "ncbi_disease": ("NCBI-disease-IOB", ("Disease",)),
    "bc2gm": ("BC2GM-IOB", ("GENE",)),
    "jnlpba": ("JNLPBA", ("protein", "DNA", "RNA", "cell_line", "cell_type")),
}
FILES = {"train": "train.tsv", "dev": "devel.tsv", "test": "test.tsv"}
NAMES = "|".join(folder for folder, _ in FOLDERS.values())
DOCUMENT = "-DOCSTART-"


def documents(source: Source, options: Options) -> Iterator[Document]:
    """A document a file: the collection's own splits."""
    for task, (folder, kinds) in FOLDERS.items():
        known = {"O", *(f"{tag}-{kind}" for tag in "BI" for kind in kinds)}
        for split, name in FILES.items():
            files = [file for file in source.files if (file.path.parent.name, file.path.name) == (folder, name)]
            if len(files) != 1:
                raise source.error(f"{len(files) or 'no'} files {folder}/{name}")
            yield Document(f"{folder}/{name}", split, {task: _sentences(files[0], known)})


def _sentences(file: SourceFile, known: set[str]) -> Iterator[Row]:
    """`<word> TAB <tag>` a line, an empty line after each sentence; marks of where documents begin are left out."""
    for is_blank, block in groupby(file.lines(empty=True), key=lambda line: not line.text.strip()):
        sentence = []
        for line in () if is_blank else block:
            word, tag = line.cells(2)
            if tag not in known:
                remedy = f"known: {', '.join(sorted(known))}; give the folder of that name, not one of another scheme"
                raise line.error("a tag that this corpus does not have", remedy)
            if word != DOCUMENT:
                sentence.append((clean(word), tag))
        if sentence:
            yield sentence


CORPUS = Corpus("mtl_ner", documents, skips=rf"(?!(.*/)?({NAMES})/[^/]+\.tsv$)")

"""EBM-NLP 2.00 (Nye et al. 2018): abstracts of trials as words, and which of them are about participants, interventions
and outcomes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from tasks.corpora.corpus import Corpus, Document, Options, Row, clean
from tasks.corpora.sources import Source, SourceFile

TASK = "ebm_pico"
# A word of several elements, three in a hundred, counts for the last of them, as in BLURB.
ELEMENTS = {"participants": "I-PAR", "interventions": "I-INT", "outcomes": "I-OUT"}
ANNOTATION = re.compile(
    rf"(?:.*/)?annotations/aggregated/starting_spans/({'|'.join(ELEMENTS)})/(train|test/gold)/([^/.]+)[^/]*\.ann"
)
VERSION = "give ebm_nlp_2_00.tar.gz, version 2.00 of the corpus"


def documents(source: Source, options: Options) -> Iterator[Document]:
    """The abstracts. Those that experts annotated are test, also where the crowd did so too."""
    words = {file.stem: file for file in source.files if file.path.suffix == ".tokens"}
    labels: dict[str, dict[str, dict[str, SourceFile]]] = {"train": defaultdict(dict), "test": defaultdict(dict)}
    for file in source.files:
        if (match := ANNOTATION.fullmatch(file.name)) is not None:
            element, folder, name = match.groups()
            labels[folder.split("/")[0]][name][element] = file
    for split, named in labels.items():
        found = {element for files in named.values() for element in files}
        if lacking := [element for element in ELEMENTS if element not in found]:
            folder = f"annotations/aggregated/starting_spans/{lacking[0]}/{'test/gold' if split == 'test' else split}"
            raise source.error(f"no {folder}/*.ann", VERSION)
    for split, named in labels.items():
        for name, files in sorted(named.items()):
            if split == "train" and name in labels["test"]:
                continue
            if name not in words:
                raise next(iter(files.values())).error("no .tokens file of this document", remedy=VERSION)
            for element in ELEMENTS.keys() - files.keys():
                options.left_out[TASK, f"{split}: documents without an annotation of {element}, which is none"] += 1
            yield Document(name, split, {TASK: _sentences(words[name], files)})


def _sentences(file: SourceFile, annotations: Mapping[str, SourceFile]) -> Iterator[Row]:
    """A sentence ends after a full stop, as in the models of the corpus' authors."""
    words = [line.text for line in file.lines(empty=True)]
    tags = ["O"] * len(words)
    for element, tag in ELEMENTS.items():
        lines = list(annotations[element].lines(empty=True)) if element in annotations else []
        if lines and len(lines) != len(words):
            raise annotations[element].error(f"{len(lines)} labels for the {len(words)} words", remedy=VERSION)
        for number, line in enumerate(lines):
            if not (line.text.isascii() and line.text.strip().isdigit()):
                raise line.error("no label: a whole number a line expected", VERSION)
            if int(line.text):
                tags[number] = tag
    sentence = []
    for word, tag in zip(map(clean, words), tags, strict=True):
        if word:
            sentence.append((word, tag))
        if word == "." and sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence


CORPUS = Corpus(
    "ebm_nlp",
    documents,
    drawn={"dev": 0.2},  # the share of the authors' own dev set, whose documents are listed nowhere
    unit="abstracts",
    skips=r".*(/individual/|/hierarchical_labels/|\.pos$|\.text$)",
)

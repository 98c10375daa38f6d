"""MedSTS (Wang et al. 2018) and its successors of the n2c2 and OHNLP challenges: pairs of sentences and a score."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.corpora.corpus import Corpus, Document, Options, clean
from tasks.corpora.sources import Source
from tasks.readers import is_number

TASK = "medsts"
LOWEST, HIGHEST = 0, 5
REMEDY = "put the published file there, unchanged; its columns are sentence1, sentence2, score, with tabs between them"
SCORE_NAMES = ("gs", "gold", "score", "sim")  # what the file of test scores is called, if there is one


def documents(source: Source, options: Options) -> Iterator[Document]:
    """A row for each pair; a pair's name is its number in the file, counted from 0."""
    for split in ("train", "test"):
        for number, (one, other, score) in enumerate(_pairs(source, split)):
            row = {"index": str(number), "sentence1": one, "sentence2": other, "score": score}
            yield Document(str(number), split, {TASK: [row]})


def _pairs(source: Source, split: str) -> Iterator[tuple[str, str, str]]:
    """Both sentences and the score, which may lie in a file of its own, line by line."""
    files = [file for file in source.files if split in file.path.name.lower() and file.path.suffix in (".txt", ".tsv")]
    scores = [file for file in files if any(word in file.path.name.lower() for word in SCORE_NAMES)]
    pairs = [file for file in files if file not in scores]
    if len(files) == 1:
        pairs, scores = files, []
    if len(pairs) != 1 or len(scores) > 1:
        raise source.error(f"{len(pairs)} files of {split} pairs, {len(scores)} of scores")
    lines = list(pairs[0].lines())
    values = list(scores[0].lines()) if scores else lines
    if not lines:
        raise pairs[0].error("no pairs in it", 1, REMEDY)
    width, why = (2, f", since the scores lie in {scores[0].path.name}") if scores else (3, "")
    for number, (line, value) in enumerate(zip(lines, values, strict=False)):
        cells = line.text.split("\t")
        if number == 0 and not scores and len(cells) == 3 and cells[2].strip().lower() in ("score", "similarity"):
            continue
        if len(cells) != width:
            raise line.error(f"{len(cells)} columns, {width} expected{why}", REMEDY)
        score = (value.text if scores else cells[2]).strip()
        if not is_number(score) or not LOWEST <= float(score) <= HIGHEST:
            raise value.error(f"the score is no number from {LOWEST} to {HIGHEST}", REMEDY)
        yield clean(cells[0]), clean(cells[1]), score
    if len(lines) != len(values):
        raise scores[0].error("not as many scores as there are pairs", remedy="give the scores of this file of pairs")


CORPUS = Corpus("medsts", documents, drawn={"dev": 75 / 750}, unit="pairs")  # as many as the published dev split has

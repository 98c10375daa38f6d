"""MedSTS (Wang et al. 2018) and its successors of the n2c2 and OHNLP challenges: pairs of sentences and a score."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from tasks.corpora.records import Corpus, Options, Record, clean
from tasks.corpora.sources import Line, Source, SourceFile, filled
from tasks.corpora.splits import PUBLISHED, assign
from tasks.readers import is_number

__all__ = ["CORPUS"]

TASK = "medsts"
DEV_SHARE = 75 / 750  # as many pairs as the published dev split has
LOWEST, HIGHEST = 0, 5
SCORE_NAMES = ("gs", "gold", "score", "sim")  # what the file of test scores is called, if there is one
REMEDY = "put the published file there, unchanged; its columns are sentence1, sentence2, score, with tabs between them"
Pair = tuple[str, str, str]


def convert(source: Source, options: Options) -> Iterator[Record]:
    """Dev is taken out of train by the pair's number in its file, counted from 0."""
    train, test = (list(_pairs(source, split)) for split in ("train", "test"))
    split_of = assign([str(number) for number in range(len(train))], {"dev": DEV_SHARE}, options)
    options.rules.update({"train": "the published training pairs without dev", "test": PUBLISHED})
    for number, pair in enumerate(train):
        yield _record(split_of[str(number)], number, pair)
    for number, pair in enumerate(test):
        yield _record("test", number, pair)


def _record(split: str, number: int, pair: Pair) -> Record:
    return Record(TASK, split, ((str(number), *pair),), (str(int(float(pair[2]))),), f"{split}-{number}")


def _pairs(source: Source, split: str) -> Iterator[Pair]:
    files = [file for file in source.files if split in file.path.name.lower() and file.path.suffix in (".txt", ".tsv")]
    scores = [file for file in files if any(word in file.path.name.lower() for word in SCORE_NAMES)]
    pairs = [file for file in files if file not in scores]
    if len(files) == 1:
        pairs, scores = files, []
    if len(pairs) != 1 or len(scores) > 1:
        raise source.error(f"{len(pairs)} files of {split} pairs, {len(scores)} of scores", f"give {CORPUS.expects}")
    return _with_scores(pairs[0], scores[0]) if scores else _scored(pairs[0])


def _scored(file: SourceFile) -> Iterator[Pair]:
    is_first = True
    for line in filled(file.lines()):
        cells = line.text.split("\t")
        is_header = is_first and len(cells) == 3 and cells[2].strip().lower() in ("score", "similarity")
        is_first = False
        if is_header:
            continue
        if len(cells) != 3:
            raise line.error(f"{len(cells)} columns, 3 expected", REMEDY)
        yield clean(cells[0]), clean(cells[1]), _score(line, cells[2])
    if is_first:
        raise file.error("no pairs in it", REMEDY, 1)


def _with_scores(pairs: SourceFile, scores: SourceFile) -> Iterator[Pair]:
    """Two files, line by line."""
    for line, value in zip_longest(filled(pairs.lines()), filled(scores.lines())):
        if line is None or value is None:
            raise scores.error("not as many scores as there are pairs", "give the scores of this file of pairs")
        cells = line.text.split("\t")
        if len(cells) != 2:
            raise line.error(f"{len(cells)} columns, 2 expected, since the scores lie in {scores.path.name}", REMEDY)
        yield clean(cells[0]), clean(cells[1]), _score(value, value.text)


def _score(line: Line, value: str) -> str:
    value = value.strip()
    if not is_number(value) or not LOWEST <= float(value) <= HIGHEST:
        raise line.error(f"the score is no number from {LOWEST} to {HIGHEST}", REMEDY)
    return value


CORPUS = Corpus(
    convert=convert,
    headers={TASK: ("index", "sentence1", "sentence2", "score")},
    expects="the folder with one file of training and one of test pairs (names with train, test; .txt or .tsv)",
    drawn=("dev",),
)

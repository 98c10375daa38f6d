"""PubMedQA (Jin et al. 2019): 1000 questions about an abstract with their answers, yes, no or maybe."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.corpora.corpus import Corpus, Document, Options, clean
from tasks.corpora.sources import Source

TASK = "pubmedqa"
LABELS = ("yes", "no", "maybe")  # in the order in which the authors draw
FOLDS = 10  # of what is not test; dev is the first, as in BLURB
KEYS = ("QUESTION", "CONTEXTS", "final_decision")


def documents(source: Source, options: Options) -> Iterator[Document]:
    """A row for each question. The split is the one that the authors' own program draws of ori_pqal.json."""
    file = source.only(r"ori_pqal\.json", "ori_pqal.json")
    questions = file.json()
    for name, one in questions.items():
        if not isinstance(one, dict) or not set(KEYS) <= one.keys() or one["final_decision"] not in LABELS:
            raise file.error(f"question {name[:20]!a} lacks {', '.join(KEYS)}, or its answer is none of {LABELS}")
        texts = one["CONTEXTS"]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in [one["QUESTION"], *texts]):
            raise file.error(f"question {name[:20]!a}: QUESTION and CONTEXTS are no texts")
    answers, rng = {name: one["final_decision"] for name, one in questions.items()}, random.Random(0)
    try:
        others, test = _parts(answers, 2, rng)
        dev = set(_parts({name: answers[name] for name in others}, FOLDS, rng)[0])
    except IndexError:  # a part is empty
        raise file.error(f"{len(questions)} questions, too few for {FOLDS} folds", 1, "give the whole file") from None
    truth = [file for file in source.files if file.path.name == "test_ground_truth.json"]
    if truth and truth[0].json() != {name: answers[name] for name in test}:
        wrong = "its questions or answers are not those of the test set that ori_pqal.json gives"
        raise truth[0].error(wrong, remedy="give both files of one version")
    options.rules.update(train="folds 1 to 9 of the authors' split", dev="fold 0 of it", test="its test set")
    test_names = set(test)
    for name, one in questions.items():
        split = "test" if name in test_names else "dev" if name in dev else "train"
        row = {"index": name, "sentence1": clean(one["QUESTION"]), "sentence2": clean(" ".join(one["CONTEXTS"]))}
        yield Document(name, split, {TASK: [{**row, "label": one["final_decision"]}]})


def _parts(answers: Mapping[str, Any], count: int, rng: random.Random) -> list[list[str]]:
    """Names in parts of nearly one size in which each answer has its share.

    Drawn in the very order of the authors' split_dataset.py (seed 0), which is part of the published split: the answers
    one after the other, each shuffled and cut; then the last part is filled up by one question of each other part.
    """
    parts: list[list[str]] = [[] for _ in range(count)]
    for label in LABELS:
        names = [name for name, answer in answers.items() if answer == label]
        rng.shuffle(names)
        size = math.ceil(len(names) / count)
        for number, part in enumerate(parts):
            part += names[number * size : (number + 1) * size]
    if len(parts[-1]) != len(parts[0]):
        for part in parts[:-1]:
            parts[-1].append(part.pop(part.index(rng.choice(part))))
    return parts


CORPUS = Corpus(TASK, documents)

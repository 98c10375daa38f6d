"""predictions/<split>.tsv read back: what every family's `rows` writes, whoever wrote it, and what adds to its score.

The gold column may be absent. Each row is then read with its prediction in that column's place, until `check` puts the
gold standard there. In tagging the column of tokens may be absent, so that predictions can be passed on without the
text of the corpus (`without_tokens`): the header is then `gold prediction`, and tokens are read as empty.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from harness.task import Confusion, Example, Prediction, Task, UserError
from tasks.conll import OUTSIDE, Evidence, Tag, plain_tags, recognise
from tasks.metrics import mentions, strict_mentions, typed_words
from tasks.readers import LONGEST_HEADER_CELL, Row, TableTask, read_table, shown
from tasks.tagging import TaggingTask, whole_sentences

logger = logging.getLogger("harness.tasks")

HEADER = ("index", "gold", "prediction")
WORD_HEADER = ("token", "gold", "prediction")
BARE_HEADER = ("gold", "prediction")
NOT_FINITE = ("nan", "inf", "-inf")  # as repr() spells what a diverged model predicts


@dataclass(frozen=True)
class Answers:
    """A system's answers to one split, in file order. Examples hold ids and gold; texts in tagging alone."""

    path: Path
    examples: list[Example]
    predictions: list[Prediction]
    lines: list[int]  # where in the file each example begins, counted from 1
    has_gold: bool = True  # else the examples' labels are not to be used
    has_words: bool = True  # else the texts of tagging are as many empty words


def without_tokens(content: bytes) -> bytes:
    """A tagging file, as `rows` writes it, without its first column; any other file as it is."""
    header, *lines = content.split(b"\n")
    if header != "\t".join(WORD_HEADER).encode():
        return content
    return b"\n".join(["\t".join(BARE_HEADER).encode(), *(line.partition(b"\t")[2] for line in lines)])


def read_probabilities(task: Task, path: Path, answers: Answers) -> Answers:
    """The answers with the probabilities of <split>_probabilities.tsv, a column a label. Raises UserError."""
    header, *rows = read_table(path)
    if header.cells != ("index", *task.labels):
        raise header.error("not the header of probabilities", f"it is index {' '.join(task.labels)} (tab separated)")
    predictions = []
    for row, example, prediction in zip_longest(rows, answers.examples, answers.predictions):
        cells = () if row is None else row.cells
        if example is None or cells[:1] != (example.id,) or len(cells) != len(header.cells):
            raise (row or header).error("not a row for each prediction", f"the rows of {answers.path.name} are meant")
        try:
            predictions.append(replace(prediction, scores=tuple(map(float, cells[1:]))))
        except ValueError:
            raise row.error("a probability that is no number", "write it like 0.5") from None
    return replace(answers, predictions=predictions)


def read(task: Task, path: Path) -> Answers:
    """Raises UserError naming file, line, value and remedy."""
    if not isinstance(task, TableTask):
        return _read_tags(task, path)
    rows, has_gold, _ = _table(path, HEADER, lambda row: task.is_label(row.cells[-1]))
    examples, predictions = [], []
    for row in rows:
        diverged = task.family == "similarity" and row.cells[2] in NOT_FINITE
        value = float(row.cells[2]) if diverged else task.label_of(row, 2)
        gold = task.label_of(row, 1) if has_gold else value
        examples.append(Example(row.text(0, "index"), (), gold, task.group_of(row)))
        predictions.append(Prediction(value))
    return Answers(path, examples, predictions, [row.number for row in rows], has_gold)


def _table(path: Path, names: tuple[str, ...], is_data: Callable[[Row], bool]) -> tuple[list[Row], bool, bool]:
    """(rows of index or token, gold, prediction without the header; whether the file has a gold column; a first one).

    In tagging, where blank lines separate sentences, such a row has one empty cell.
    """
    first, *rest = read_table(path)
    width, short, is_tagging = len(first.cells), (names[0], names[2]), names == WORD_HEADER
    is_bare = is_tagging and first.cells == BARE_HEADER
    forms = f"'{' '.join(names)}' or, scored with --data_dir, '{' '.join(short)}' (tab separated)"
    if width not in (2, 3):
        raise first.error(f"{width} column(s) in the header", f"write {forms}")
    if is_data(first) or max(map(len, first.cells)) > LONGEST_HEADER_CELL:
        raise first.error("the header is missing, this line is data", f"put a first line {forms}")
    if all(row.is_blank for row in rest):
        raise first.error("no examples after the header", "write a row for each example")
    if is_bare:
        rest = [row if row.is_blank else replace(row, cells=("", *row.cells)) for row in rest]
        first, width = replace(first, cells=WORD_HEADER), len(WORD_HEADER)
    given, wanted = [cell.strip().lower() for cell in first.cells], names if width == 3 else short
    places = [given.index(name) for name in wanted] if sorted(given) == sorted(wanted) else list(range(width))
    chosen = []
    for row in rest:
        if is_tagging and row.is_blank:
            chosen.append(replace(row, cells=("",)))
            continue
        if len(row.cells) != width:
            found = "empty line" if row.cells == ("",) else f"{len(row.cells)} column(s)"
            if is_tagging:
                remedy = "separate columns by one tab and sentences by an empty line"
                raise row.error(f"{found}, {width} expected ({', '.join(first.cells)})", remedy)
            raise row.error(f"{found}, the header has {width}", "use one tab between columns, one line a row")
        name, *others = (row.cells[place] for place in places)
        chosen.append(replace(row, cells=(name, others[0], others[-1])))
    return chosen, width == 3, not is_bare


def _read_tags(task: Task, path: Path) -> Answers:
    """Both columns are of one scheme, the gold column's: a model's I after O is no sign of another one."""
    its = task.layout("test")
    # Plain as our own files are where types are not told apart; other people's have the data's tags.
    form = replace(its, plain=not its.typed, scheme="auto" if its.is_custom else its.scheme)
    form = replace(form, columns=WORD_HEADER) if its.typed else form  # no task file is to blame for a tag here
    headers = (WORD_HEADER, (WORD_HEADER[0], WORD_HEADER[2]), BARE_HEADER)
    rows, has_gold, has_words = _table(path, WORD_HEADER, lambda row: row.cells not in headers)
    sentences = [list(block) for blank, block in groupby(rows, lambda row: row.is_blank) if not blank]
    words = [tuple(row.text(0, "token") if has_words else "" for row in sentence) for sentence in sentences]
    gold = [[form.tag_of(row, 1) for row in sentence] for sentence in sentences]
    predicted = [[form.tag_of(row, 2) for row in sentence] for sentence in sentences]
    evidence, theirs = Evidence(), Evidence()
    for sentence, tags, others in zip(sentences, gold, predicted, strict=True):
        lines = [row.number for row in sentence]
        evidence.add(tags, lines)
        theirs.add(others, lines)
    i_begins = recognise(path, its, evidence)
    repaired = [
        its.repairs and not i_begins and sum(map(Tag.is_headless, tags, (OUTSIDE, *tags))) for tags in predicted
    ]
    if sum(repaired):
        said = "tags    %s: %d predicted tags I after O or another type; each was read as B, as conlleval does"
        logger.warning(said, path.name, sum(repaired))
    if theirs.is_iob1 and evidence.b_starts and not its.repairs:
        said = "mentions begin with I in the predictions, with B in gold; an I before any B counts for nothing"
        logger.warning("%s: %s: write both columns in one scheme", path, said)
    examples = [
        Example(f"sentence-{number}", texts, tuple(plain_tags(tags, i_begins or its.repairs, its.typed)))
        for number, (texts, tags) in enumerate(zip(words, gold, strict=True))
    ]
    predictions = [
        Prediction(tuple(plain_tags(tags, i_begins or its.repairs, its.typed)), repaired=int(count))
        for tags, count in zip(predicted, repaired, strict=True)
    ]
    starts = [sentence[0].number for sentence in sentences]
    return Answers(path, examples, predictions, starts, has_gold, has_words)


def check(task: Task, answers: Answers, gold: Sequence[Example], source: Path) -> Answers:
    """The answers with the gold standard's examples, in its order.

    Raises UserError at the first row that is not the gold standard's by id, words or label. `source` is the file that
    `gold` was read from, named in the message.
    """

    def mismatch(line: int, what: str) -> UserError:
        return UserError(f"{answers.path}:{line}: {what}; give one row for each example of {source}")

    is_tagging = task.family == "tagging"
    wanted = whole_sentences(gold) if is_tagging else list(gold)
    if not is_tagging and len({example.id for example in wanted}) == len(wanted):
        answers = _in_order(answers, wanted, source, mismatch)
    for line, ours, theirs in zip(answers.lines, answers.examples, wanted, strict=False):
        if is_tagging:
            _check_words(line, ours, theirs, answers, mismatch)
        elif ours.id != theirs.id:
            raise mismatch(line, f"index {shown(ours.id)} where gold has {shown(theirs.id)}")
        elif answers.has_gold and ours.label != theirs.label:
            raise mismatch(line, f"gold label of {shown(ours.id)} differs from the gold file's")
    if len(answers.examples) != len(wanted):
        ends = f"the file ends after {len(answers.examples)} {'sentences' if is_tagging else 'rows'}"
        raise mismatch(answers.lines[-1], f"{ends}, gold has {len(wanted)}")
    return replace(answers, examples=wanted, has_gold=True, has_words=True)


Mismatch = Callable[[int, str], UserError]  # (line, what is wrong) -> the error to raise


def _in_order(answers: Answers, wanted: Sequence[Example], source: Path, mismatch: Mismatch) -> Answers:
    """The answers in the gold standard's order, by their indices. Raises UserError where they are not the same."""
    known = {example.id for example in wanted}
    row_of: dict[str, int] = {}
    for number, (line, example) in enumerate(zip(answers.lines, answers.examples, strict=True)):
        if example.id not in known:
            first = f"(there it is {shown(wanted[0].id)} in the first row)"
            raise mismatch(line, f"index {shown(example.id)} is none of gold's {first}")
        if example.id in row_of:
            raise mismatch(line, f"index {shown(example.id)} is already in line {answers.lines[row_of[example.id]]}")
        row_of[example.id] = number
    if missing := [example.id for example in wanted if example.id not in row_of]:
        more = f" and for {len(missing) - 1} more" if len(missing) > 1 else ""
        remedy = f"give one row for each example of {source}"
        raise UserError(f"{answers.path}: no row for index {shown(missing[0])}{more}; {remedy}")
    order = [row_of[example.id] for example in wanted]
    examples, predictions = [answers.examples[row] for row in order], [answers.predictions[row] for row in order]
    return replace(answers, examples=examples, predictions=predictions, lines=[answers.lines[row] for row in order])


def _check_words(line: int, ours: Example, theirs: Example, answers: Answers, mismatch: Mismatch) -> None:
    """Words are compared as `rows` writes them, with _ for white space."""
    pairs = zip(ours.texts, theirs.texts, ours.label, theirs.label, strict=False)
    for at, (word, gold_word, tag, gold_tag) in enumerate(pairs, start=line):
        if answers.has_words and "_".join(gold_word.split()) != word:
            raise mismatch(at, f"token {shown(word)} where gold has {shown(gold_word)}")
        if answers.has_gold and tag != gold_tag:
            raise mismatch(at, f"gold tag {tag} where the gold file has {gold_tag}")
    lengths = len(ours.texts), len(theirs.texts)
    if lengths[0] != lengths[1]:
        raise mismatch(line + min(lengths), f"a sentence of {lengths[0]} words, gold has {lengths[1]}")


Score = Callable[[np.ndarray], np.ndarray]
"""Sums over units [..., k] -> scores [...]."""


@dataclass(frozen=True)
class Units:
    """`score(values.sum(0))` is the task's primary metric."""

    name: str  # what a unit is: example | document | sentence
    gold: str  # digest of the ids and labels of all units: equal where two systems answered the same questions
    values: np.ndarray  # [units, k] float64
    score: Score


def units(task: Task, answers: Answers) -> Units:
    """The units of one system's answers."""
    return FAMILIES[task.family](task, answers)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(above, below, out=np.zeros_like(below), where=below > 0))


def _f1(sums: np.ndarray) -> np.ndarray:
    """From sums of true positives, false positives and false negatives."""
    hits, wrong, missed = np.moveaxis(sums, -1, 0)
    return _ratio(2 * hits, 2 * hits + wrong + missed)


def _macro(sums: np.ndarray) -> np.ndarray:
    """Mean F1 of the classes that occur, from the counts of `_f1` of each class side by side."""
    by_class = sums.reshape(*sums.shape[:-1], -1, 3)
    return _ratio(_f1(by_class).sum(-1), (by_class.sum(-1) > 0).sum(-1).astype(np.float64))


def _weighted(sums: np.ndarray) -> np.ndarray:
    """Mean F1 of the classes weighted by how often gold has them, from such counts."""
    by_class = sums.reshape(*sums.shape[:-1], -1, 3)
    support = by_class[..., 0] + by_class[..., 2]
    return _ratio((_f1(by_class) * support).sum(-1), support.sum(-1))


def _matthews(sums: np.ndarray) -> np.ndarray:
    """From sums of such counts; see `metrics.matthews`."""
    hits, wrong, missed = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
    gold, predicted, right = hits + missed, hits + wrong, hits.sum(-1)
    count = gold.sum(-1)
    spread = (count**2 - (gold**2).sum(-1)) * (count**2 - (predicted**2).sum(-1))
    return _ratio(right * count - (gold * predicted).sum(-1), np.sqrt(np.clip(spread, 0, None)))


def _digest(gold: Sequence[object]) -> str:
    return hashlib.sha256(repr(gold).encode(errors="surrogatepass")).hexdigest()


def _labelled(answers: Answers) -> str:
    return _digest([(example.id, example.label) for example in answers.examples])


def _classes(task: Task, answers: Answers) -> Units:
    """Counts without the negative class. Where no class is negative, their F1 is the accuracy.

    Where each class has a score of its own, those of each class apart.
    """
    of_classes = {"macro_f1": _macro, "weighted_f1": _weighted, "mcc": _matthews}.get(task.score_key)
    place = {label: number for number, label in enumerate(task.labels)}
    counts = np.zeros((len(answers.examples), len(task.labels), 3))
    for row, example, prediction in zip(counts, answers.examples, answers.predictions, strict=True):
        if example.label == prediction.value:
            row[place[example.label], 0] = 1
        else:
            row[place[prediction.value], 1] = row[place[example.label], 2] = 1
    counts = counts[:, [number for label, number in place.items() if label != task.negative]]
    if of_classes is None:
        return Units("example", _labelled(answers), counts.sum(1), _f1)
    return Units("example", _labelled(answers), counts.reshape(len(counts), -1), of_classes)


def _documents(task: Task, answers: Answers) -> Units:
    """Precision and recall of each document, or its counts for micro F1, of each label apart for macro F1.

    The rows of a document lie together in the file, or are brought together here.
    """
    names = ("TP", "FP", "FN") if task.score_key == "micro_f1" else ("precision", "recall")
    together: dict[str, list[int]] = {}
    for number, example in enumerate(answers.examples):
        together.setdefault(example.group, []).append(number)
    rows: list[tuple[float, ...]] = []
    gold = []
    for document, numbers in together.items():
        examples = [answers.examples[number] for number in numbers]
        report = task.metric(examples, [answers.predictions[number] for number in numbers])
        if task.score_key == "macro_f1":
            assert isinstance(report.chart, Confusion)  # tp, fp, fn, tn of each label
            rows.append(tuple(count for counts in report.chart.counts for count in counts[:3]))
        else:
            rows.append(tuple(report.values[name] for name in names))
        gold.append((document, tuple(example.label for example in examples)))

    def score(sums: np.ndarray) -> np.ndarray:
        precision, recall = np.moveaxis(sums, -1, 0) / len(together)
        return _ratio(2 * precision * recall, precision + recall)

    of_sums = {"micro_f1": _f1, "macro_f1": _macro}.get(task.score_key, score)
    return Units("document", _digest(gold), np.array(rows, dtype=np.float64), of_sums)


def _sentences(task: Task, answers: Answers) -> Units:
    """Counts of mentions, each counted in the sentence where it begins, or of words; of each type apart for a macro F1.

    Accuracy is the F1 of all words' tags.
    """
    assert isinstance(task, TaggingTask)
    gold_tags = [example.label for example in answers.examples]
    tags = [prediction.value for prediction in answers.predictions]
    if task.score_key == "f1" and not task.types:
        return _disjoint(answers)
    of_tags: Callable[[Sequence[Any]], set[Any]] = strict_mentions
    if task.score_key in ("word_macro_f1", "token_accuracy"):
        of_tags = typed_words if task.score_key == "word_macro_f1" else _places
    gold, predicted = of_tags(gold_tags), of_tags(tags)
    is_macro = task.score_key in ("macro_mention_f1", "word_macro_f1")
    place = {kind: number for number, kind in enumerate(task.types or ("",))} if is_macro else {}
    values = np.zeros((len(answers.examples), max(1, len(place)), 3))
    for column, group in enumerate((gold & predicted, predicted - gold, gold - predicted)):
        for one in group:
            values[one[0], place.get(one[-1], 0), column] += 1
    return Units("sentence", _labelled(answers), values.reshape(len(values), -1), _macro if is_macro else _f1)


def _places(sentences: Sequence[Sequence[str]]) -> set[tuple[int, int, str]]:
    """(sentence, word, tag) of all words."""
    return {(number, word, tag) for number, tags in enumerate(sentences) for word, tag in enumerate(tags)}


def _disjoint(answers: Answers) -> Units:
    """Counts of mentions that may have gaps."""
    ends = np.cumsum([len(example.label) for example in answers.examples])
    gold = mentions(chain.from_iterable(example.label for example in answers.examples))
    predicted = mentions(chain.from_iterable(prediction.value for prediction in answers.predictions))
    values = np.zeros((len(answers.examples), 3))
    for column, group in enumerate((gold & predicted, predicted - gold, gold - predicted)):
        starts = [mention[0] for mention in group]
        np.add.at(values[:, column], np.searchsorted(ends, starts, side="right"), 1)
    return Units("sentence", _labelled(answers), values, _f1)  # also of files that are passed on without the words


def _pairs(task: Task, answers: Answers) -> Units:
    """Gold, prediction, their squares and their product.

    For Spearman those of the ranks in the whole set: a resample keeps them, so that what it says of the score is an
    approximation.
    """
    gold = np.array([example.label for example in answers.examples], dtype=np.float64)
    predicted = np.array([prediction.value for prediction in answers.predictions], dtype=np.float64)
    if task.score_key == "spearman":
        from scipy.stats import rankdata  # slow to import

        gold, predicted = rankdata(gold), rankdata(predicted)
    count, middle = len(gold), gold.mean()
    x, y = gold - middle, predicted - middle  # a correlation does not change, and less is lost to rounding

    def score(sums: np.ndarray) -> np.ndarray:
        sx, sy, sxx, syy, sxy = np.moveaxis(sums, -1, 0)
        spread = np.clip(count * sxx - sx**2, 0, None) * np.clip(count * syy - sy**2, 0, None)
        return _ratio(count * sxy - sx * sy, np.sqrt(spread))

    return Units("example", _labelled(answers), np.stack([x, y, x * x, y * y, x * y], axis=1), score)


FAMILIES: dict[str, Callable[[Task, Answers], Units]] = {
    "similarity": _pairs,
    "tagging": _sentences,
    "multilabel": _documents,
    "multiclass": _classes,
}

"""Family: where are the mentions? A tag B, I or O for each word; scored by whole mentions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.task import Encoded, Example, Prediction, Report, Task, UserError
from tasks.conll import LONGEST_SENTENCE, Evidence, cut, plain_tags, recognise, tagged_sentences
from tasks.metrics import (
    TAGS,
    Counts,
    accuracy,
    check_lengths,
    confusion,
    macro_f1,
    mentions,
    results_file,
    strict_mentions,
)
from tasks.readers import locate


@dataclass(frozen=True)
class TaggingTask(Task):
    """The label of an example is a tag for each word; labels of the task are the tags."""

    family = "tagging"
    metric_version = 1
    per_word = True
    metrics: ClassVar = {"mention F1": "f1"}
    texts = (("word",),)
    target = "tag"
    formats: ClassVar = {"blue-words": ("word",)}
    keys = ("labels", "ignored", "collapse_types", "scheme", "separator", "comment", "longest_sentence", "disjoint")
    defaults: ClassVar = {"labels": [], "ignored": [], "separator": "tab", "longest_sentence": LONGEST_SENTENCE}
    least_labels = 0

    def read(self, data_dir: Path, split: str) -> list[Example]:
        """Sentences of words and tags B, I and O, whatever the file's scheme.

        A sentence that is too long becomes several examples of one group, see `cut`. Raises UserError, also where the
        files of the task's splits contradict each other.
        """
        path, form, evidence = locate(data_dir, split, self.filenames), self.layout(split), Evidence()
        sentences = tagged_sentences(path, form, evidence)
        others = {data_dir / name: self.layout(other) for other, name in self.filenames.items() if other != split}
        i_begins = recognise(path, form, evidence, others)
        examples: list[Example] = []
        for number, (words, marked) in enumerate(sentences):
            group, tags = f"{split}-{number}", plain_tags(marked, i_begins)
            pieces = cut(tags, form.longest)
            for count, (start, end) in enumerate(pieces):
                name = group if len(pieces) == 1 else f"{group}.{count}"
                examples.append(Example(name, tuple(words[start:end]), tuple(tags[start:end]), group))
        return examples

    def features(self, examples: Sequence[Example], tokenizer: Any, max_seq_length: int) -> Encoded:
        """Token ids of the words, and where the first subword token of each word is.

        Words past max_seq_length and words without any token (control characters) are not scored: they are in neither
        `positions`, `words` nor `labels`.
        """
        if not examples:
            return Encoded(input_ids=[], token_type_ids=None, labels=[], positions=[], words=[])
        for example in examples:
            if len(example.label) != len(example.texts):
                found = f"{len(example.label)} labels for {len(example.texts)} words"
                raise UserError(f"example {example.id}: {found}; give one label a word")
        number = {tag: index for index, tag in enumerate(TAGS)}
        tokens = tokenizer(
            [list(example.texts) for example in examples],
            is_split_into_words=True,
            truncation=True,
            max_length=max_seq_length,
            padding=False,
            return_attention_mask=False,
        )
        labels, positions, words = [], [], []
        for index, example in enumerate(examples):
            first_token: dict[int, int] = {}
            for position, word in enumerate(tokens.word_ids(index)):
                if word is not None:
                    first_token.setdefault(word, position)
            words.append(list(first_token))
            positions.append(list(first_token.values()))
            labels.append([number[example.label[word]] for word in first_token])
        return Encoded(tokens["input_ids"], tokens.get("token_type_ids"), labels, positions, words)

    def decode(self, logits: np.ndarray) -> Prediction:
        """The most probable tag of each scored word; logits [scored words, tags]."""
        return Prediction(tuple(TAGS[index] for index in np.argmax(logits, axis=-1)))

    def align(self, example: Example, prediction: Prediction, words: Sequence[int]) -> Prediction:
        """Tags for all words of the example: O for those that the model did not see, so that gold is never cut."""
        tags = ["O"] * len(example.texts)
        for word, tag in zip(words, prediction.value, strict=True):
            tags[word] = tag
        return replace(prediction, value=tuple(tags))

    def metric(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Report:
        """Mention F1 (see `mentions`), and beside it strict IOB2 mentions and metrics over single tags."""
        check_lengths(examples, predictions)
        for example, prediction in zip(examples, predictions, strict=True):
            lengths = len(example.texts), len(example.label), len(prediction.value)
            if len(set(lengths)) > 1:
                wrong = f"{lengths[0]} words, {lengths[1]} labels, {lengths[2]} predictions"
                raise UserError(f"example {example.id}: {wrong}; give one of each a word")
        gold, predicted = ([one.label for one in part] for part in _sentences(examples, predictions))
        gold_tags, predicted_tags = list(chain.from_iterable(gold)), list(chain.from_iterable(predicted))
        found = _compare(mentions(gold_tags), mentions(predicted_tags))
        strict = _compare(strict_mentions(gold), strict_mentions(predicted))
        chart, counts = confusion(gold_tags, predicted_tags, TAGS)
        values = {
            "precision": found.precision,
            "recall": found.recall,
            "f1": found.f1,
            "TP": found.tp,
            "FP": found.fp,
            "FN": found.fn,
            "strict_precision": strict.precision,
            "strict_recall": strict.recall,
            "strict_f1": strict.f1,
            "token_accuracy": accuracy(counts),
            "macro_f1": macro_f1(counts.values()),
            "tokens": len(gold_tags),
            "sentences": len(gold),
        }
        return Report(found.f1, "mention F1", values, {tag: entry.metrics() for tag, entry in counts.items()}, chart)

    def rows(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[str]:
        """`token gold prediction`, an empty line between sentences."""
        return ["token\tgold\tprediction", *_word_lines(examples, predictions, "\t")[:-1]]

    def files(
        self, split: str, examples: Sequence[Example], predictions: Sequence[Prediction], report: Report
    ) -> dict[str, str]:
        """eval_results.txt or test_results.txt; for the test set also test_predictions.txt (`token gold prediction`,
        with blanks) and test_results_count.txt."""
        values = report.values
        results = {"FB1": values["f1"], **{key: values[key] for key in ("FN", "FP", "TP", "precision", "recall")}}
        written = results_file(split, results)
        if split == "test":
            lines, hits = _word_lines(examples, predictions, " "), values["TP"]
            written["test_predictions.txt"] = "".join(line + "\n" for line in lines)
            written["test_results_count.txt"] = (
                f"processed {values['tokens']} tokens with {hits + values['FN']} phrases; "
                f"found: {hits + values['FP']} phrases; correct: {hits}.\n"
                f"TP: {hits}, FP: {values['FP']}, FN: {values['FN']}\n"
                f"Precision: {values['precision']:.2%}, Recall: {values['recall']:.2%}, FB1: {values['f1']:.2%}"
            )
        return written

    def dev_row(self, report: Report) -> dict[str, float | int]:
        """The columns of dev_results.txt."""
        names = {"TP": "TP", "FP": "FP", "FN": "FN", "Prec": "precision", "Rec": "recall", "FB1": "f1"}
        return {column: report.values[name] for column, name in names.items()}


def _compare(gold: set[Any], predicted: set[Any]) -> Counts:
    hits = len(gold & predicted)
    return Counts(hits, len(predicted) - hits, len(gold) - hits)


def whole_sentences(examples: Sequence[Example]) -> list[Example]:
    """The pieces of a cut sentence joined again."""
    whole = []
    for name, pieces in groupby(examples, key=lambda example: example.group or example.id):
        parts = list(pieces)
        words = tuple(word for part in parts for word in part.texts)
        whole.append(Example(name, words, tuple(tag for part in parts for tag in part.label)))
    return whole


def _sentences(examples: Sequence[Example], predictions: Sequence[Prediction]) -> tuple[list[Example], list[Example]]:
    """Whole sentences with their gold tags, and with those predicted."""
    predicted = [replace(one, label=other.value) for one, other in zip(examples, predictions, strict=True)]
    return whole_sentences(examples), whole_sentences(predicted)


def _word_lines(examples: Sequence[Example], predictions: Sequence[Prediction], separator: str) -> list[str]:
    """A line a word, an empty line after each sentence; white space inside a word (in no published file) becomes _."""
    lines: list[str] = []
    for gold, predicted in zip(*_sentences(examples, predictions), strict=True):
        words = ("_".join(word.split()) for word in gold.texts)
        lines += [separator.join(cells) for cells in zip(words, gold.label, predicted.label, strict=True)] + [""]
    return lines

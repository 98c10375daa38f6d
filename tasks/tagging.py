"""Family: where are the mentions? A tag B, I or O for each word; scored by whole mentions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.task import Encoded, Example, Prediction, Report, Task, UserError
from tasks.conll import BLUE, Form
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

if TYPE_CHECKING:
    import torch  # slow to import: flags are checked before


@dataclass(frozen=True)
class TaggingHead:
    """One output a tag for each scored word, softmax over the tags."""

    num_outputs: int = len(TAGS)
    per_word: bool = True

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of cross entropies over scored words; logits [words, tags], labels [words] of tag numbers."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits.float(), labels.long(), reduction="sum")

    def decode(self, logits: np.ndarray) -> Prediction:
        """The most probable tag of each scored word; logits [scored words, tags]."""
        return Prediction(tuple(TAGS[index] for index in np.argmax(logits, axis=-1)))


@dataclass(frozen=True)
class TaggingTask(Task):
    """The label of an example is a tag for each word; labels of the task are the tags."""

    family = "tagging"

    form: Form = BLUE  # how its files, and other people's predictions, spell tags

    @property
    def head(self) -> TaggingHead:
        return TaggingHead()

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

    def align(self, example: Example, prediction: Prediction, words: Sequence[int]) -> Prediction:
        """Tags for all words of the example: O for those that the model did not see, so that gold is never cut."""
        tags = ["O"] * len(example.texts)
        for word, tag in zip(words, prediction.value, strict=True):
            tags[word] = tag
        return replace(prediction, value=tuple(tags))

    def metric(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Report:
        """Mention F1 (see `mentions`), and beside it strict IOB2 mentions and metrics over single tags."""
        check_lengths(examples, predictions)
        gold: list[list[str]] = []  # of each sentence, the pieces of a cut one joined again
        predicted: list[list[str]] = []
        for sentence in _sentences(examples, predictions):
            gold.append([])
            predicted.append([])
            for example, prediction in sentence:
                lengths = len(example.texts), len(example.label), len(prediction.value)
                if len(set(lengths)) > 1:
                    wrong = f"{lengths[0]} words, {lengths[1]} labels, {lengths[2]} predictions"
                    raise UserError(f"example {example.id}: {wrong}; give one of each a word")
                gold[-1].extend(example.label)
                predicted[-1].extend(prediction.value)
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
        values = report.values
        counts = {key: values[key] for key in ("TP", "FP", "FN")}
        return counts | {"Prec": values["precision"], "Rec": values["recall"], "FB1": values["f1"]}


def _compare(gold: set[Any], predicted: set[Any]) -> Counts:
    hits = len(gold & predicted)
    return Counts(hits, len(predicted) - hits, len(gold) - hits)


def _sentences(
    examples: Sequence[Example], predictions: Sequence[Prediction]
) -> Iterator[Iterator[tuple[Example, Prediction]]]:
    """The pieces of each sentence, with their predictions."""
    pairs = zip(examples, predictions, strict=True)
    for _, sentence in groupby(pairs, key=lambda pair: pair[0].group or pair[0].id):
        yield sentence


def _word_lines(examples: Sequence[Example], predictions: Sequence[Prediction], separator: str) -> list[str]:
    """A line a word, an empty line after each sentence; white space inside a word (in no published file) becomes _."""
    lines: list[str] = []
    for sentence in _sentences(examples, predictions):
        for example, prediction in sentence:
            words = ["_".join(word.split()) for word in example.texts]
            cells = zip(words, example.label, prediction.value, strict=True)
            lines.extend(separator.join(line) for line in cells)
        lines.append("")
    return lines

"""Family: where are the mentions, and of which type? A tag for each word; scored by whole mentions.

Of one type, or of several that count as one, tags are B, I and O, and by mention F1 a mention may be disjoint, as BLUE
counts them. Of several types they are B-<type>, I-<type> and O. Those, and one type by any other score, are scored as
seqeval's strict IOB2, and what is read or predicted is repaired first as conlleval reads it: an I without a mention of
its type to go on with begins one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.task import Encoded, Example, Prediction, Report, Task, UserError
from tasks.conll import LONGEST_SENTENCE, Evidence, cut, plain_tags, recognise, tagged_sentences
from tasks.encoding import scored_words, tokenise
from tasks.metrics import (
    TAGS,
    Counts,
    check_lengths,
    compare,
    confusion,
    counts_by_type,
    macro_f1,
    mentions,
    ratio,
    repaired,
    results_file,
    strict_mentions,
    type_of,
    typed_words,
)
from tasks.readers import locate


@dataclass(frozen=True)
class TaggingTask(Task):
    """The label of an example is a tag for each word; labels of the task are the tags."""

    family = "tagging"
    metric_version = 1
    per_word = True
    metrics: ClassVar = {
        "mention F1": "f1",
        "strict mention F1": "strict_f1",
        "macro mention F1": "macro_mention_f1",
        "word macro F1": "word_macro_f1",
        "token accuracy": "token_accuracy",
    }
    texts = (("word",),)
    target = "tag"
    formats: ClassVar = {"blue-words": ("word",)}
    keys = ("labels", "ignored", "collapse_types", "scheme", "separator", "comment", "longest_sentence", "disjoint")
    defaults: ClassVar = {"labels": [], "ignored": [], "separator": "tab", "longest_sentence": LONGEST_SENTENCE}
    least_labels = 0

    @property
    def types(self) -> tuple[str, ...]:
        """The types of mention that are told apart; () where there is one, or several count as one."""
        return () if self.labels == TAGS else tuple(map(type_of, self.labels[:-1:2]))

    @property
    def repairs(self) -> bool:
        """Whether it is scored as seqeval does, and an I without a mention to go on with begins one."""
        return bool(self.layout("test").repairs)

    def read(self, data_dir: Path, split: str) -> list[Example]:
        """Sentences of words and tags as in `labels`, whatever the file's scheme.

        A sentence that is too long becomes several examples of one group, see `cut`. Raises UserError, also where the
        files of the task's splits contradict each other.
        """
        path, form, evidence = locate(data_dir, split, self.filenames), self.layout(split), Evidence()
        sentences = tagged_sentences(path, form, evidence)
        others = {data_dir / name: self.layout(other) for other, name in self.filenames.items() if other != split}
        i_begins = recognise(path, form, evidence, others)
        examples: list[Example] = []
        for number, (words, marked, document) in enumerate(sentences):
            group, tags = f"{split}-{number}", plain_tags(marked, i_begins or form.repairs, form.typed)
            pieces = cut(tags, form.longest)
            for count, (start, end) in enumerate(pieces):
                name = group if len(pieces) == 1 else f"{group}.{count}"
                own = tuple(words[start:end]), tuple(tags[start:end])
                examples.append(Example(name, *own, group, document))
        return examples

    def whole(self) -> TaggingTask:
        return replace(self, layout=lambda split: replace(self.layout(split), longest=sys.maxsize))

    def features(
        self, examples: Sequence[Example], tokenizer: Any, max_seq_length: int, stride: int | None = None
    ) -> Encoded:
        """Token ids of the words, and where the first subword token of each word is.

        Words that max_seq_length cuts off and words without any token (control characters) are not scored: they are in
        neither `positions`, `words` nor `labels`. Of several windows with a word one alone scores it, see
        `scored_words`.
        """
        if not examples:
            return Encoded(input_ids=[], token_type_ids=None, labels=[], positions=[], words=[])
        for example in examples:
            if len(example.label) != len(example.texts):
                found = f"{len(example.label)} labels for {len(example.texts)} words"
                raise UserError(f"example {example.id}: {found}; give one label a word")
        number = {tag: index for index, tag in enumerate(self.labels)}
        rows = tokenise(examples, tokenizer, max_seq_length, stride, by_word=True)
        labels, positions, words, cut = [], [], [], []
        for index, example in enumerate(examples):
            first_token: dict[int, int] = {}
            for place, word in enumerate(rows.tokens.word_ids(index)):
                if word is not None:
                    first_token.setdefault(word, place)
            windows = scored_words(first_token, rows.kept[index], rows.spans[index])
            words += [list(own) for own in windows]
            positions += [list(own.values()) for own in windows]
            labels += [[number[example.label[word]] for word in own] for own in windows]
            cut.append(len(first_token) - sum(map(len, windows)))
        return rows.encoded(labels, cut, positions=positions, words=words)

    def decode(self, logits: np.ndarray) -> Prediction:
        """The most probable tag of each scored word; logits [scored words, tags]."""
        return Prediction(tuple(self.labels[index] for index in np.argmax(logits, axis=-1)))

    def align(self, example: Example, prediction: Prediction, words: Sequence[int]) -> Prediction:
        """Tags for all words of the example: O for those that the model did not see, so that gold is never cut."""
        tags = ["O"] * len(example.texts)
        for word, tag in zip(words, prediction.value, strict=True):
            tags[word] = tag
        return replace(prediction, value=tuple(tags))

    def repaired(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[Prediction]:
        """Tags as conlleval reads them (see `metrics.repaired`), but for BLUE's mention F1; by whole sentences."""
        if not self.repairs:
            return list(predictions)
        found: list[Prediction] = []
        pairs = zip(examples, predictions, strict=True)
        for _, pieces in groupby(pairs, key=lambda pair: pair[0].group or id(pair[0])):
            own = [prediction for _, prediction in pieces]
            tags, count = repaired(tuple(chain.from_iterable(one.value for one in own)))
            rest = iter(tags)
            whole = [replace(one, value=tuple(islice(rest, len(one.value)))) for one in own]
            found += [replace(whole[0], repaired=count), *whole[1:]]
        return found

    def metric(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Report:
        """Mention F1, and beside it strict IOB2 mentions and metrics over words; `score_key` is the one that counts.

        BLUE's mention F1 is by `mentions`, every other one strict, micro-averaged over types.
        Macro averages are over the types that occur in gold or predictions: of mentions, as seqeval's, and of words by
        type, B and I not told apart (EBM-PICO in BLURB, Gu et al. 2021).
        """
        check_lengths(examples, predictions)
        for example, prediction in zip(examples, predictions, strict=True):
            lengths = len(example.texts), len(example.label), len(prediction.value)
            if len(set(lengths)) > 1:
                wrong = f"{lengths[0]} words, {lengths[1]} labels, {lengths[2]} predictions"
                raise UserError(f"example {example.id}: {wrong}; give one of each a word")
        gold, predicted = ([one.label for one in part] for part in _sentences(examples, predictions))
        gold_tags, predicted_tags = list(chain.from_iterable(gold)), list(chain.from_iterable(predicted))
        whole = strict_mentions(gold), strict_mentions(predicted)
        strict, by_type = compare(*whole), counts_by_type(*whole)
        found = strict if self.repairs else compare(mentions(gold_tags), mentions(predicted_tags))
        chart, counts = confusion(gold_tags, predicted_tags, self.labels)
        words = counts_by_type(typed_words(gold), typed_words(predicted))
        if self.types:
            kinds = [[type_of(tag) or "O" for tag in tags] for tags in (gold_tags, predicted_tags)]
            chart = confusion(kinds[0], kinds[1], (*self.types, "O"))[0]
            counts = {kind: by_type.get(kind, Counts(0, 0, 0)) for kind in self.types}
        asked = {"macro_mention_f1": macro_f1(by_type.values()), "word_macro_f1": macro_f1(words.values())}
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
            "token_accuracy": ratio(sum(map(str.__eq__, gold_tags, predicted_tags)), len(gold_tags)),
            "macro_f1": macro_f1(counts.values()),
            "tokens": len(gold_tags),
            "sentences": len(gold),
            **{key: value for key, value in asked.items() if self.types or key == self.score_key},
            **({"repaired_tags": sum(one.repaired for one in predictions)} if self.repairs else {}),
        }
        (name,) = (name for name, key in self.metrics.items() if key == self.score_key)
        per_class = {label: entry.metrics() for label, entry in counts.items()}
        return Report(values[self.score_key], name, values, per_class, chart)

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
        results |= {} if self.score_key == "f1" else {self.score_key: report.score}
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
        names |= {} if self.score_key == "f1" else {report.metric: self.score_key}
        return {column: report.values[name] for column, name in names.items()}


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

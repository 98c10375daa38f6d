"""Answers of a fine-tuned model for new text: lines of a file or a pipe to examples, and their predictions to JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from typing import Any

import torch

import tasks
from harness import evaluate
from harness.data import evaluation_batches
from harness.errors import UserError
from harness.files import LFS_POINTER
from harness.model import Loaded
from harness.model_folder import About
from harness.task import Encoded, Example, Prediction, Task
from tasks.metrics import shown_mentions, strict_mentions
from tasks.readers import FORMATS, TableTask
from tasks.tagging import TaggingTask

MARKER = re.compile(r"@[^\s@$]+\$|\[S[12]\]")  # a mention of a relation: `@DRUG$ and @DRUG$`, `[S1] aspirin [E1] ...`
WORD = re.compile(r"[^\W_]+|\S")  # as the corpora cut words: runs of letters and digits, every other sign by itself
READ_AT_ONCE = 1 << 16  # bytes; from a pipe: what has arrived
ANSWERS = {  # what a line of output holds beside its index, by family
    "similarity": "score",
    "multiclass": "label, probabilities",
    "multilabel": "labels (and their names, where they are numbers), probabilities",
    "tagging": "mentions: start, end and spans in characters, and the type where there are several",
}
DOCUMENT = '{"index": "...", "sentences": ["...", "..."]}'


@dataclass(frozen=True)
class Item:
    """One line of input: an example, a document of several, or a sentence cut into words."""

    index: Any
    examples: list[Example]
    is_document: bool = False
    spans: tuple[tuple[int, int], ...] = ()  # tagging: start and end of each word, in characters of `text`
    text: str = ""


def line_blocks(source: int) -> Iterator[list[bytes]]:
    """Whole lines from a file descriptor, as many together as there are to be had without waiting."""
    rest = b""
    while chunk := os.read(source, READ_AT_ONCE):
        *whole, rest = (rest + chunk).split(b"\n")
        if whole:
            yield whole
    if rest:
        yield [rest]


class Reader:
    """Lines to items, in the form that a task was trained on.

    Line 1 decides: JSON or tab separated, and then with a header or without one.
    """

    def __init__(self, task: Task, name: str = "") -> None:
        """`name`: of the file, for messages."""
        self.task, self.name, self.number = task, name, 0
        self.is_json, self.header = False, list[str]()
        self.columns: tuple[str, ...] = ("sentence",)
        self.is_marked = False  # each sentence marks its mentions as MARKER
        if isinstance(task, TableTask):
            layout = task.layout("test")
            names = FORMATS[layout.format].header.split() if layout.format else layout.columns
            self.columns = tuple(name for name in names if name.startswith("sentence"))  # or sentence1 and sentence2
            self.is_marked = tasks.marks_mentions(task)
        self.as_json = json.dumps(dict.fromkeys(("index", *self.columns), "..."))
        self.wanted = f"{' '.join(self.columns)}, or index {' '.join(self.columns)}"
        self.wanted += ", or JSON with `sentences`" if task.family == "multilabel" else ""

    def items(self, lines: Sequence[bytes]) -> Iterator[Item]:
        """Empty lines are skipped. Raises UserError naming file and line."""
        for line in lines:
            self.number += 1
            if self.number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
                if line.startswith(LFS_POINTER):
                    raise self._error("a Git LFS pointer, not the file", "run `git lfs pull` in its folder")
            try:
                text = line.removesuffix(b"\r").decode("utf-8")
            except UnicodeDecodeError as error:
                raise self._error(f"not UTF-8 (byte {error.start + 1})", "save it as UTF-8 text") from None
            if not text.strip():
                continue
            if self.number == 1:
                self.is_json = text.lstrip().startswith("{")
                if not self.is_json and set(self.columns) <= set(text.lower().split("\t")):
                    self.header = text.lower().split("\t")
                    continue
            yield self._item(self._object(text) if self.is_json else self._columns(text.split("\t")))

    def _error(self, wrong: str, remedy: str) -> UserError:
        return UserError(f"{self.name}:{self.number}: {wrong}; {remedy}")

    def _object(self, text: str) -> dict[str, Any]:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._error(f"not JSON ({error})", "one object a line, as line 1 began") from None
        if not isinstance(values, dict):
            raise self._error("no JSON object", f"write {self.as_json}")
        return values

    def _columns(self, cells: list[str]) -> dict[str, Any]:
        names = self.header or ["index", *self.columns][-len(cells) :]
        if self.header and len(cells) != len(names):
            raise self._error(f"{len(cells)} column(s), the header has {len(names)}", "use one tab a column")
        if len(cells) != len(names) or len(cells) < len(self.columns):
            remedy = f"give {self.wanted} (tab separated), or a header with these names in line 1"
            raise self._error(f"{len(cells)} column(s)", remedy)
        return dict(zip(names, cells, strict=True))

    def _item(self, values: Mapping[str, Any]) -> Item:
        index, family = values.get("index", self.number), self.task.family
        if family == "multilabel" and self.is_json and "sentences" in values:
            sentences = values["sentences"]
            if not isinstance(sentences, list) or not sentences:
                raise self._error("`sentences` is no list of texts", f"write {DOCUMENT}")
            return Item(index, [self._example(f"{index}_s{n}", [text]) for n, text in enumerate(sentences)], True)
        if missing := [name for name in self.columns if name not in values]:
            raise self._error(
                f"no {missing[0]} among {', '.join(map(str, values)) or 'nothing'}", f"give {self.wanted}"
            )
        example = self._example(str(index), [values[name] for name in self.columns])
        if family != "tagging":
            return Item(index, [example])
        text = example.texts[0]
        words = list(WORD.finditer(text))
        example = replace(example, texts=tuple(word.group() for word in words), label=("O",) * len(words))
        return Item(index, [example], spans=tuple(word.span() for word in words), text=text)

    def _example(self, name: str, texts: list[Any]) -> Example:
        for column, text in zip(self.columns, texts, strict=True):
            if not isinstance(text, str) or not text.strip():
                raise self._error(f"{column} is empty or no text", "give the text or remove the line")
            if self.is_marked and not MARKER.search(text):
                remedy = "mark the two as the training data does, like @DRUG$"
                raise self._error("no marked mention in the sentence", remedy)
        # Features want any label of the right form; predictions do not depend on it.
        labels = self.task.labels
        label: Any = (0,) * len(labels) if self.task.family == "multilabel" else labels[0] if labels else 0.0
        return Example(name, tuple(texts), label)


def forms() -> str:
    """For --help: what a line of input and of output holds, task by task."""
    alike: dict[str, list[str]] = {}
    for name, task in tasks.TASKS.items():
        reader = Reader(task)
        text = f"      in:  [index <tab>] {' <tab> '.join(reader.columns)}, or {reader.as_json}"
        text += "; the two mentions are marked as in the training data, like @DRUG$" if reader.is_marked else ""
        text += f"\n           or a document: {DOCUMENT}" if task.family == "multilabel" else ""
        alike.setdefault(f"{text}\n      out: {ANSWERS[task.family]}", []).append(name)
    lines = ["A line of the input, by the model's task; a header may name the columns in another order:"]
    lines += [f"  {', '.join(names)}\n{text}" for text, names in alike.items()]
    lines += ["  a custom task", "      in:  sentence, or sentence1 and sentence2, as its file has columns"]
    return "\n".join(lines)


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned model, ready to answer."""

    task: Task
    loaded: Loaded
    device: torch.device
    about: About
    batch_size: int
    with_text: bool

    def answers(self, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
        """One for each item, in order."""
        examples = [example for item in items for example in item.examples]
        is_tagging = self.task.family == "tagging"
        predictions, encoded = (self._tags(examples), None) if is_tagging else self._predict(examples)
        found = zip(predictions, (encoded and encoded.cut) or repeat(0), strict=False)  # repeat has no end
        for item in items:
            own = list(islice(found, len(item.examples)))
            answer = self._mentions(item, own[0][0].value) if is_tagging else self._labels(item, own)
            yield {"index": item.index, **answer, **({"note": "SAMPLE DATA"} if self.about.data == "sample" else {})}

    def _predict(self, examples: Sequence[Example]) -> tuple[list[Prediction], Encoded]:
        """Predictions of what the model saw of each example, and what that was."""
        task, tokenizer, numbers = self.task, self.loaded.tokenizer, range(len(examples))
        encoded = task.features(examples, tokenizer, self.about.max_seq_length, self.about.stride)
        batches = [tuple(numbers[start : start + self.batch_size]) for start in numbers[:: self.batch_size]]
        if encoded.windows is not None:
            batches = evaluation_batches(encoded, self.batch_size, 0, 1)
        logits = evaluate.logits(
            lambda batch: self.loaded.model(self.loaded.model.ready(batch, self.device).to(self.device)),
            encoded,
            batches,
            int(tokenizer.pad_token_id or 0),
        )
        return evaluate.decode(task, examples, encoded, [logits[number] for number in numbers]), encoded

    def _tags(self, examples: Sequence[Example]) -> list[Prediction]:
        """Tags of all words. What is too long for the model goes on behind the last O that it predicted."""
        tags: list[list[str]] = [[] for _ in examples]
        left = list(enumerate(examples))
        while left:
            predictions, encoded = self._predict([example for _, example in left])
            assert encoded.words is not None
            rest = []
            for place, ((number, example), prediction) in enumerate(zip(left, predictions, strict=True)):
                end = len(example.texts)  # of the words whose tags are settled
                if encoded.cut is not None and encoded.cut[place]:
                    end = max(encoded.words[place], default=0) + 1
                if end < len(example.texts):
                    outside = [word for word in range(end) if prediction.value[word] == "O"]
                    end = outside[-1] + 1 if outside else end
                    rest.append((number, replace(example, texts=example.texts[end:], label=example.label[end:])))
                tags[number] += prediction.value[:end]
            left = rest
        return self.task.repaired(examples, [Prediction(tuple(row)) for row in tags])

    def _mentions(self, item: Item, tags: Sequence[str]) -> dict[str, Any]:
        """Start and end in characters; a mention of several parts names each of them too, one of several types its
        type."""
        found = []
        shown = [(parts, "") for parts in shown_mentions(tags, self.task.disjoint)]
        if isinstance(self.task, TaggingTask) and self.task.types:
            shown = [([(first, after)], kind) for _, first, after, kind in sorted(strict_mentions([tags]))]
        for parts, kind in shown:
            spans = [[item.spans[first][0], item.spans[after - 1][1]] for first, after in parts]
            mention: dict[str, Any] = {"start": spans[0][0], "end": spans[-1][1], "spans": spans}
            mention |= {"type": kind} if kind else {}
            if self.with_text:
                mention["text"] = " ... ".join(item.text[start:end] for start, end in spans)
            found.append(mention)
        return {"mentions": found}

    def _labels(self, item: Item, own: Sequence[tuple[Prediction, int]]) -> dict[str, Any]:
        sentences = [self._one(one, bool(is_cut)) for one, is_cut in own]
        if not item.is_document:
            return sentences[0]
        union = [max(values) for values in zip(*(one.value for one, _ in own), strict=True)]
        return {**self._several(union), "sentences": sentences}

    def _one(self, prediction: Prediction, is_cut: bool) -> dict[str, Any]:
        task = self.task
        answer: dict[str, Any] = {"score": prediction.value}
        if task.family != "similarity":
            answer = self._several(prediction.value) if task.family == "multilabel" else {"label": prediction.value}
            scores = [round(score, 6) for score in prediction.scores or ()]
            answer["probabilities"] = dict(zip(task.labels, scores, strict=True))
        return answer | ({"cut": True} if is_cut else {})

    def _several(self, values: Sequence[int]) -> dict[str, Any]:
        """The labels, and what they stand for where they do not say it themselves."""
        task = self.task
        known = {"labels": task.labels, **({"names": task.label_titles} if task.label_titles else {})}
        return {name: [one for one, value in zip(texts, values, strict=True) if value] for name, texts in known.items()}

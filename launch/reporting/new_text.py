"""New text for launch/predict.py: lines of a file or a pipe to examples, in the form that the task was trained on."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tasks
from harness.errors import UserError
from harness.files import LFS_POINTER
from harness.task import Example, Task
from tasks import definition

MARKER = re.compile(r"@[^\s@$]+\$")  # a mention of a relation, as in `@DRUG$ interacts with @DRUG$`
WORD = re.compile(r"[^\W_]+|\S")  # as the corpora cut words: runs of letters and digits, every other sign by itself
READ_AT_ONCE = 1 << 16  # bytes; from a pipe: what has arrived


@dataclass(frozen=True)
class Form:
    """What a task reads."""

    task: Task
    columns: tuple[str, ...]  # of its texts: sentence, or sentence1 and sentence2
    label: Any  # any label of the right form: features want one, predictions do not depend on it
    is_marked: bool  # its sentences mark mentions as MARKER

    @classmethod
    def of(cls, task: Task, own_task: Mapping[str, Any] | None = None) -> Form:
        """From the task's sample data, or from the definition of a custom task."""
        if own_task is not None:
            several = {"similarity": 0.0, "multilabel": (0,) * len(task.labels)}
            label = task.labels[0] if task.family == "multiclass" else several.get(task.family)
            return cls(task, definition.text_columns(own_task), label, False)
        examples = task.read(tasks.sample_dir(task.name), "test")
        if task.family == "tagging":
            return cls(task, ("sentence",), None, False)
        first = examples[0]
        columns = ("sentence",) if len(first.texts) == 1 else ("sentence1", "sentence2")
        return cls(task, columns, first.label, all(MARKER.search(example.texts[0]) for example in examples))

    def lines(self) -> tuple[str, str]:
        """(tab separated, JSON) as its texts are written, for people."""
        keys = ", ".join(f'"{column}": "..."' for column in ("index", *self.columns))
        return f"[index <tab>] {' <tab> '.join(self.columns)}", f"{{{keys}}}"


ANSWERS = {  # what a line of output holds beside its index, by family
    "similarity": "score",
    "multiclass": "label, probabilities",
    "multilabel": "labels (and their names, where they are numbers), probabilities",
    "tagging": "mentions: start, end and spans in characters",
}
DOCUMENT = '{"index": "...", "sentences": ["...", "..."]}'


def forms() -> str:
    """For --help: what a line of input and of output holds, task by task."""
    kinds: dict[tuple[str, tuple[str, str], bool], list[str]] = {}
    for name, task in tasks.TASKS.items():
        form = Form.of(task)
        kinds.setdefault((task.family, form.lines(), form.is_marked), []).append(name)
    lines = ["A line of the input, by the model's task; a header may name the columns in another order:"]
    for (family, (cells, keys), is_marked), names in kinds.items():
        marked = "; the two mentions are marked as in the training data, like @DRUG$" if is_marked else ""
        lines += [f"  {', '.join(names)}", f"      in:  {cells}, or {keys}{marked}"]
        lines += [f"           or a document: {DOCUMENT}"] if family == "multilabel" else []
        lines += [f"      out: {ANSWERS[family]}"]
    lines += ["  a custom task", "      in:  sentence, or sentence1 and sentence2, as its file has columns"]
    return "\n".join(lines)


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
    """Lines to items. Line 1 decides: JSON or tab separated, and then with a header or without one."""

    def __init__(self, form: Form, name: str) -> None:
        self.form, self.name = form, name
        self.number = 0
        self.is_json = False
        self.header: list[str] | None = None
        self.wanted = f"{' '.join(form.columns)}, or index {' '.join(form.columns)}"
        self.wanted += ", or JSON with `sentences`" if form.task.family == "multilabel" else ""

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
                if not self.is_json and set(self.form.columns) <= set(text.lower().split("\t")):
                    self.header = text.lower().split("\t")
                    continue
            yield self._from_json(text) if self.is_json else self._from_cells(text.split("\t"))

    def _error(self, wrong: str, remedy: str) -> UserError:
        return UserError(f"{self.name}:{self.number}: {wrong}; {remedy}")

    def _from_json(self, text: str) -> Item:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._error(f"not JSON ({error})", "one object a line, as line 1 began") from None
        if not isinstance(values, dict):
            raise self._error("no JSON object", f"write {self.form.lines()[1]}")
        index = values.get("index", self.number)
        if self.form.task.family == "multilabel" and "sentences" in values:
            sentences = values["sentences"]
            if not isinstance(sentences, list) or not sentences:
                raise self._error("`sentences` is no list of texts", f"write {DOCUMENT}")
            examples = [self._example(f"{index}_s{n}", [text]) for n, text in enumerate(sentences)]
            return Item(index, examples, is_document=True)
        for name in self.form.columns:
            if name not in values:
                found = ", ".join(map(str, values)) or "nothing"
                raise self._error(f"no {name} among {found}", f"give {self.wanted}")
        return self._item(index, [values[name] for name in self.form.columns])

    def _from_cells(self, cells: list[str]) -> Item:
        columns = self.form.columns
        if self.header is not None:
            if len(cells) != len(self.header):
                raise self._error(f"{len(cells)} column(s), the header has {len(self.header)}", "use one tab a column")
            named = dict(zip(self.header, cells, strict=True))
            return self._item(named.get("index", self.number), [named[name] for name in columns])
        if len(cells) not in (len(columns), len(columns) + 1):
            remedy = f"give {self.wanted} (tab separated), or a header with these names in line 1"
            raise self._error(f"{len(cells)} column(s)", remedy)
        return self._item(cells[0] if len(cells) > len(columns) else self.number, cells[-len(columns) :])

    def _item(self, index: Any, texts: list[Any]) -> Item:
        example = self._example(str(index), texts)
        if self.form.task.family != "tagging":
            return Item(index, [example])
        found = list(WORD.finditer(example.texts[0]))
        words = Example(example.id, tuple(match.group() for match in found), ("O",) * len(found))
        return Item(index, [words], spans=tuple(match.span() for match in found), text=example.texts[0])

    def _example(self, name: str, texts: list[Any]) -> Example:
        for column, text in zip(self.form.columns, texts, strict=True):
            if not isinstance(text, str) or not text.strip():
                raise self._error(f"{column} is empty or no text", "give the text or remove the line")
            if self.form.is_marked and not MARKER.search(text):
                remedy = "mark the two as the training data does, like @DRUG$"
                raise self._error("no marked mention in the sentence", remedy)
        return Example(name, tuple(texts), self.form.label, name.rpartition("_s")[0] or name)

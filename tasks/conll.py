"""Files of words and tags: one word a line, an empty line after each sentence, no header (the form of CoNLL 2003)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.task import Example
from tasks.mentions import TAGS
from tasks.tables import Row, iterate_rows, shown

__all__ = ["BLUE", "LONGEST_SENTENCE", "Form", "cut", "read_sentences"]

LONGEST_SENTENCE = 30  # words; the published scores are of sentences cut to this


@dataclass(frozen=True)
class Form:
    """How such a file is written. Columns are counted from 0."""

    word: int
    tag: int
    columns: tuple[str, ...] = ()  # all columns; (): as many as the first line has
    blanks: bool = False  # columns are separated by white space; else by tabs
    comment: str | None = None  # lines that start so are skipped
    tags: Mapping[str, str] = field(default_factory=lambda: {tag: tag for tag in TAGS})  # in the file -> B, I or O
    longest: int = LONGEST_SENTENCE  # words; longer sentences are cut


BLUE = Form(0, 3, ("token", "document", "offset", "tag"))


def read_sentences(path: Path, split: str, form: Form = BLUE) -> list[Example]:
    """Sentences of words and tags.

    A sentence of more than `form.longest` words becomes several examples of one group, see `cut`. Raises UserError
    for a header, a missing column, an empty word and an unknown tag.
    """
    examples: list[Example] = []
    for number, sentence in enumerate(_sentences(path, form)):
        group = f"{split}-{number}"
        words, tags = [row.cells[form.word] for row in sentence], [form.tags[row.cells[form.tag]] for row in sentence]
        pieces = cut(tags, form.longest)
        for count, (start, end) in enumerate(pieces):
            name = group if len(pieces) == 1 else f"{group}.{count}"
            examples.append(Example(name, tuple(words[start:end]), tuple(tags[start:end]), group))
    if not examples:
        raise Row(path, 1, ()).error("no examples, only empty lines and comments", "get the file again")
    return examples


def _sentences(path: Path, form: Form) -> Iterator[list[Row]]:
    sentence: list[Row] = []
    width = len(form.columns)
    is_first = True
    for row in iterate_rows(path):
        if form.comment is not None and row.cells[0].startswith(form.comment):
            continue
        if len(row.cells) == 1 and not row.cells[0].strip():
            if sentence:
                yield sentence
            sentence = []
            continue
        if form.blanks:
            row = replace(row, cells=tuple(" ".join(row.cells).split()))
        width = width or len(row.cells)
        _check(row, form, width, is_first)
        is_first = False
        sentence.append(row)
    if sentence:  # the file may end without an empty line
        yield sentence


def _check(row: Row, form: Form, width: int, is_first: bool) -> None:
    remedy = f"separate columns by {'blanks' if form.blanks else 'one tab'} and sentences by an empty line"
    if width <= max(form.word, form.tag):
        wanted = f"the word in column {form.word + 1}, its tag in column {form.tag + 1}"
        raise row.error(f"{len(row.cells)} column(s), {wanted} expected", f"{remedy}; see [columns] of the task file")
    tag = row.cells[min(form.tag, len(row.cells) - 1)]
    if is_first and len(row.cells) > 1 and tag not in form.tags and not tag.startswith(("B-", "I-")):
        wrong = f"a header where none belongs (its tag {shown(tag)})"
        raise row.error(wrong, f"remove the line; the file starts with the first word, tags are {', '.join(form.tags)}")
    if len(row.cells) != width:
        named = f"{width} expected ({', '.join(form.columns)})" if form.columns else f"{width} expected (as above)"
        raise row.error(f"{len(row.cells)} column(s), {named}", remedy)
    if not row.cells[form.word].strip():
        raise row.error("empty word", "give the word or remove the line")
    row.label(form.tag, tuple(form.tags))


def cut(tags: Sequence[str], longest: int = LONGEST_SENTENCE) -> list[tuple[int, int]]:
    """Where to cut a sentence: (start, end) of its pieces, at most `longest` words each.

    As long as more words than that are left, the next piece ends with the last O among the first `longest` words;
    without any O there, it is one word. So a mention longer than 30 words comes out as single words, as in the
    original, whose published scores rest on it.
    """
    pieces = []
    start = 0
    while len(tags) - start > longest:
        outside = [index for index in range(start, start + longest) if tags[index] == "O"]
        end = outside[-1] + 1 if outside else start + 1
        pieces.append((start, end))
        start = end
    return [*pieces, (start, len(tags))]

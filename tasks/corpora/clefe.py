"""ShARe/CLEF eHealth 2013, task 1 (Suominen et al. 2013): clinical notes with disorders, some of them disjoint."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.corpora.documents import Document, Mention, fitting
from tasks.corpora.records import Corpus, Options, Record
from tasks.corpora.safe_xml import elements, whole_number
from tasks.corpora.sources import Source, SourceFile, filled
from tasks.corpora.splits import PUBLISHED, assign
from tasks.corpora.tags import tagged

__all__ = ["CORPUS", "read_knowtator", "read_pipes"]

TASK, KIND = "clefe", "Disease_Disorder"
DEV_SHARE = 37 / 199  # so that dev has the published share of the mentions
HIDDEN = re.compile(r"\[\*\*.*?\*\*\]")  # a name or a date that was taken out of the note
RULED = re.compile(r"\|{4}|___|~~")
REMEDY = "put the published file there, unchanged"


def convert(source: Source, options: Options) -> Iterator[Record]:
    """Sentences of the notes, as BLUE prepared them: what was hidden in a note is one word PATTERN, rules are blank."""
    texts, gold = _files(source)
    train = sorted(name for name, (_, split) in texts.items() if split == "train")
    split_of = assign(train, {"dev": DEV_SHARE}, options)
    options.rules.update({"train": "the published training notes without dev", "test": PUBLISHED})
    for name, (file, kind) in sorted(texts.items()):
        if name not in gold:
            raise file.error("no annotation file of this note", f"give {CORPUS.expects}")
        text = file.text()
        mentions = tuple(_mentions(gold[name], len(text)))
        split = split_of[name] if kind == "train" else "test"
        yield from tagged(Document(name, readable(text), mentions), [(TASK, KIND)], split, options)


def readable(text: str) -> str:
    """The note with every character at its place, but PATTERN for what was hidden, and blanks for ruled lines."""

    def hidden(match: re.Match[str]) -> str:
        return "PATTERN".rjust(len(match[0])) if len(match[0]) > 6 else match[0]

    return RULED.sub(lambda match: " " * len(match[0]), HIDDEN.sub(hidden, text))


def _files(source: Source) -> tuple[dict[str, tuple[SourceFile, str]], dict[str, SourceFile]]:
    """(name -> (note, train or test), name -> annotation). Folders tell them apart: *Corpus* and *Gold*."""
    texts: dict[str, tuple[SourceFile, str]] = {}
    gold: dict[str, SourceFile] = {}
    for file in source.files:
        is_gold = "gold" in file.folders
        if is_gold and file.path.suffix in (".txt", ".xml"):
            if file.stem in gold and gold[file.stem].path.suffix == file.path.suffix:
                raise file.error("a second annotation of this note", "leave one of them there")
            if file.path.suffix == ".txt" or file.stem not in gold:  # of both formats, the lines
                gold[file.stem] = file
        elif not is_gold and file.path.suffix == ".txt" and "corpus" in file.folders:
            # Some copies hold a note twice, in ALLREPORTS and in a folder of its split.
            texts.setdefault(file.stem, (file, file.split or "train"))
    counts = [sum(split == wanted for _, split in texts.values()) for wanted in ("train", "test")]
    if 0 in counts:
        raise source.error(f"{counts[0]} training and {counts[1]} test notes found", f"give {CORPUS.expects}")
    return texts, gold


def _mentions(file: SourceFile, length: int) -> Iterator[Mention]:
    return read_knowtator(file, length) if file.path.suffix == ".xml" else read_pipes(file, length)


def read_pipes(file: SourceFile, length: int) -> Iterator[Mention]:
    """`<note>||Disease_Disorder||<concept>||<start>||<end>[||<start>||<end>...]`; offsets count the note's characters.

    Raises UserError for offsets outside a note of `length` characters.
    """
    for line in filled(file.lines()):
        cells = line.text.strip().split("||")
        if len(cells) < 5 or len(cells) % 2 == 0:
            raise line.error("no annotation: <note>||<kind>||<concept>||<start>||<end>... expected", REMEDY)
        numbers = [whole_number(file, cell, "an offset", line.number) for cell in cells[3:]]
        spans = fitting(list(zip(numbers[::2], numbers[1::2], strict=True)), length)
        if spans is None:
            raise line.error("offsets that are not inside the note", REMEDY)
        yield Mention(str(line.number), cells[1], spans)


def read_knowtator(file: SourceFile, length: int) -> Iterator[Mention]:
    """<annotation> with <span>s and a <mention>, whose <classMention> names the kind."""
    kinds = {one.get("id"): kind for one in elements(file, "classMention") if (kind := _kind(one)) is not None}
    yield from _annotations(file, kinds, length)


def _kind(element: Any) -> str | None:
    found = element.find("mentionClass")
    return None if found is None else found.get("id")


def _annotations(file: SourceFile, kinds: Mapping[str, str], length: int) -> Iterator[Mention]:
    for element in elements(file, "annotation"):
        mention = element.find("mention")
        name = "" if mention is None else mention.get("id", "")
        places = [
            tuple(whole_number(file, span.get(edge), edge, element.sourceline) for edge in ("start", "end"))
            for span in element.iterfind("span")
        ]
        spans = fitting([(start, end) for start, end in places], length)
        if spans is None or name not in kinds:
            wrong = "an <annotation> without a kind, or with offsets that are not inside the note"
            raise file.error(wrong, REMEDY, element.sourceline)
        yield Mention(name, kinds[name], spans)


CORPUS = Corpus(
    convert=convert,
    headers={TASK: ()},
    expects="the folder with Task1TrainSetCorpus199, Task1TestSetCorpus100 and the folders of their gold annotations",
    drawn=("dev",),
    splits_sentences=True,
)

"""ShARe/CLEF eHealth 2013, task 1 (Suominen et al. 2013): clinical notes with disorders, some of them disjoint."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.corpora.corpus import Corpus, Document, Options, Row
from tasks.corpora.sources import Source, SourceFile
from tasks.corpora.text import AnnotatedText, Mention, fitting, tagged

TASK, KIND = "clefe", "Disease_Disorder"
HIDDEN = re.compile(r"\[\*\*.*?\*\*\]")  # a name or a date that was taken out of the note
RULED = re.compile(r"\|{4}|___|~~")


def documents(source: Source, options: Options) -> Iterator[Document]:
    """The notes. Folders tell what a file is: *Corpus* and *Gold*."""
    notes: dict[str, SourceFile] = {}
    gold: dict[str, SourceFile] = {}
    for file in source.files:
        if "gold" in file.folders and file.path.suffix in (".txt", ".xml"):
            if file.stem in gold and gold[file.stem].path.suffix == file.path.suffix:
                raise file.error("a second annotation of this note", remedy="leave one of them there")
            if file.path.suffix == ".txt" or file.stem not in gold:  # of both formats, the lines
                gold[file.stem] = file
        elif file.path.suffix == ".txt" and "corpus" in file.folders:
            # Some copies hold a note twice, in ALLREPORTS and in a folder of its split.
            notes.setdefault(file.stem, file)
    for name, file in sorted(notes.items()):
        if name not in gold:
            raise file.error("no annotation file of this note", remedy=f"give {source.expects}")
        yield Document(name, file.split or "train", {TASK: _sentences(name, file, gold[name], options)})


def _sentences(name: str, note: SourceFile, gold: SourceFile, options: Options) -> Iterator[Row]:
    """Sentences as BLUE prepared them: what was hidden in a note is one word PATTERN, rules are blank."""
    text = note.text()
    mentions = (_xml_mentions if gold.path.suffix == ".xml" else _line_mentions)(gold, len(text))
    # Every character keeps its place.
    text = HIDDEN.sub(lambda match: "PATTERN".rjust(len(match[0])) if len(match[0]) > 6 else match[0], text)
    text = RULED.sub(lambda match: " " * len(match[0]), text)
    document = AnnotatedText(name, text, tuple(mentions))
    yield from tagged(document, document.sentences(options.splitter), TASK, KIND, options)


def _line_mentions(file: SourceFile, length: int) -> Iterator[Mention]:
    """`<note>||Disease_Disorder||<concept>||<start>||<end>[||<start>||<end>...]`; offsets count the note's characters.

    Raises UserError for offsets outside a note of `length` characters.
    """
    for line in file.lines():
        cells = line.text.strip().split("||")
        if len(cells) < 5 or len(cells) % 2 == 0:
            raise line.error("no annotation: <note>||<kind>||<concept>||<start>||<end>... expected")
        numbers = [line.offset(cell) for cell in cells[3:]]
        spans = fitting(list(zip(numbers[::2], numbers[1::2], strict=True)), length)
        if spans is None:
            raise line.error("offsets that are not inside the note")
        yield Mention(str(line.number), cells[1], spans)


def _xml_mentions(file: SourceFile, length: int) -> Iterator[Mention]:
    """The same as Knowtator's XML: <annotation> with <span>s and a <mention>, whose <classMention> names the kind."""
    kinds: dict[str, str] = {}
    for element in file.elements("classMention"):
        kind = element.find("mentionClass")
        if kind is not None:
            kinds[element.get("id")] = kind.get("id")
    for element in file.elements("annotation"):
        mention = element.find("mention")
        name = "" if mention is None else mention.get("id", "")
        starts, ends = (
            [file.whole_number(span.get(edge), edge, element.sourceline) for span in element.iterfind("span")]
            for edge in ("start", "end")
        )
        spans = fitting(list(zip(starts, ends, strict=True)), length)
        if spans is None or kinds.get(name) is None:
            wrong = "an <annotation> without a kind, or with offsets that are not inside the note"
            raise file.error(wrong, element.sourceline)
        yield Mention(name, kinds[name], spans)


CORPUS = Corpus(
    "clefe",
    documents,
    drawn={"dev": 37 / 199},  # so that dev has the published share of the mentions
    unit="notes",
    splits_sentences=True,
)

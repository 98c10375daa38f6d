"""BC5CDR (Li et al. 2016): abstracts with chemicals and diseases, as PubTator text or BioC XML.

bioc reads both, but its PubTator reader strips lines, which moves offsets, and prints lines that it does not know,
which may be text; its XML reader resolves entities. So the two formats are read here, with file and line in errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from tasks.corpora.documents import Document, Mention, fitting
from tasks.corpora.records import Corpus, Options, Record, clean
from tasks.corpora.safe_xml import elements, unexpected, whole_number
from tasks.corpora.sources import Line, Source, SourceFile
from tasks.corpora.splits import PUBLISHED
from tasks.corpora.tags import tagged

__all__ = ["CORPUS", "read_bioc", "read_pubtator"]

KINDS = (("bc5cdr_disease", "Disease"), ("bc5cdr_chem", "Chemical"))
SPLITS = ("train", "dev", "test")  # the files' names go on so after CDR_
PASSAGE = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)
REMEDY = "put the published file there, unchanged"


def convert(source: Source, options: Options) -> Iterator[Record]:
    """Two tasks with the same sentences."""
    for split in SPLITS:
        file, read = _file(source, split)
        options.rules[split] = PUBLISHED
        seen: set[str] = set()
        for document in read(file):
            if document.id in seen:
                raise file.error(f"document {document.id[:40]!a} is there twice", REMEDY)
            seen.add(document.id)
            yield from tagged(document, KINDS, split, options)
        if not seen:
            raise file.error("no documents in it", REMEDY, 1)


def _file(source: Source, split: str) -> tuple[SourceFile, Callable[[SourceFile], Iterator[Document]]]:
    """The split's file, the PubTator text where both formats lie there, and its reader."""
    for suffix, read in ((".txt", read_pubtator), (".xml", read_bioc)):
        found = [file for file in source.files if _is_of(file, split) and file.path.name.lower().endswith(suffix)]
        if len(found) > 1:
            raise source.error(f"two files of the {split} split ({found[0].name}, {found[1].name})", "leave one there")
        if found:
            return found[0], read
    raise source.error(f"no CDR_{split.capitalize()}*.PubTator.txt or .BioC.xml", f"give {CORPUS.expects}")


def _is_of(file: SourceFile, split: str) -> bool:
    return file.path.name.lower().startswith(f"cdr_{split}")


def read_pubtator(file: SourceFile) -> Iterator[Document]:
    """Documents of `<id>|t|<title>`, `<id>|a|<abstract>` and tab separated mentions, an empty line after each."""
    block: list[Line] = []
    for line in file.lines():
        if line.text.strip():
            block.append(line)
        elif block:
            yield _pubtator_document(block)
            block = []
    if block:
        yield _pubtator_document(block)


def _pubtator_document(block: list[Line]) -> Document:
    passages = [PASSAGE.fullmatch(line.text) for line in block[:2]]
    if len(block) < 2 or passages[0] is None or passages[1] is None:
        raise block[0].error("no document starts here: <id>|t|<title> and <id>|a|<abstract> expected", REMEDY)
    (name, first, title), (again, second, abstract) = passages[0].groups(), passages[1].groups()
    if (first, second) != ("t", "a") or name != again:
        raise block[1].error("title and abstract of one document expected, in this order", REMEDY)
    text = f"{title} {abstract}"
    mentions = [mention for line in block[2:] if (mention := _pubtator_mention(line, name, text)) is not None]
    return Document(clean(name), text, tuple(mentions), title_end=len(title))


def _pubtator_mention(line: Line, document: str, text: str) -> Mention | None:
    cells = line.text.split("\t")
    if cells[0] != document:
        raise line.error("a line of another document", "put an empty line between documents")
    if len(cells) == 4:  # a relation: id, CID, chemical, disease
        return None
    if len(cells) not in (6, 7):  # the seventh lists the parts of a composite mention, which stays one mention
        raise line.error(f"{len(cells)} columns, 6 or 7 (a mention) or 4 (a relation) expected", REMEDY)
    start, end = (whole_number(line.file, cell, "an offset", line.number) for cell in cells[1:3])
    spans = fitting([(start, end)], len(text))
    if spans is None or text[start:end] != cells[3]:
        raise line.error("the offsets do not lead to the mention's text", f"{REMEDY}; offsets count characters")
    return Mention(str(line.number), cells[4], spans)


def read_bioc(file: SourceFile) -> Iterator[Document]:
    """Documents of a BioC collection. Offsets of passages and mentions count characters of the whole document."""
    count = 0
    for element in elements(file, "document"):
        count += 1
        yield _bioc_document(file, element)
    if not count:
        raise unexpected(file, "document")


def _bioc_document(file: SourceFile, element: Any) -> Document:
    name = clean(element.findtext("id") or "")
    passages = element.findall("passage")
    if not name or not passages:
        raise file.error("a <document> without <id> or <passage>", REMEDY, element.sourceline)
    text = ""
    for passage in passages:
        offset = whole_number(file, passage.findtext("offset"), "<offset>", passage.sourceline)
        if not len(text) <= offset <= len(text) + 1000:
            raise file.error("the <offset> of the passage does not follow the one before", REMEDY, passage.sourceline)
        text += " " * (offset - len(text)) + (passage.findtext("text") or "")
    found = [_bioc_mention(file, annotation, text) for annotation in element.iterfind(".//annotation")]
    title = passages[0].findtext("text") or ""
    return Document(name, text, tuple(one for one in found if one is not None), len(title) if len(passages) > 1 else 0)


def _bioc_mention(file: SourceFile, element: Any, text: str) -> Mention | None:
    infons = {infon.get("key"): infon.text or "" for infon in element.iterfind("infon")}
    if infons.get("CompositeRole") == "IndividualMention":  # a part of a composite mention, which is there as well
        return None
    places = [
        (whole_number(file, place.get("offset"), "offset", place.sourceline), place.get("length"))
        for place in element.iterfind("location")
    ]
    spans = [(at, at + whole_number(file, length, "length", element.sourceline)) for at, length in places]
    ordered = fitting(spans, len(text))
    covered = None if ordered is None else " ".join(text[start:end] for start, end in ordered)
    if ordered is None or (len(ordered) == 1 and covered != (element.findtext("text") or "")):
        raise file.error("an <annotation> whose location does not lead to its text", REMEDY, element.sourceline)
    return Mention(element.get("id") or "", infons.get("type", ""), ordered)


CORPUS = Corpus(
    convert=convert,
    headers={task: () for task, _ in KINDS},
    expects="CDR_Data.zip or the folder with CDR_{Training,Development,Test}Set.PubTator.txt (or .BioC.xml)",
    splits_sentences=True,
)

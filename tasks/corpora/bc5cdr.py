"""BC5CDR (Li et al. 2016): abstracts with chemicals and diseases, as PubTator text or BioC XML.

bioc reads both, but its PubTator reader strips lines, which moves offsets, and prints lines that it does not know,
which may be text; its XML reader resolves entities. So the two formats are read here, with file and line in errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from harness.task import SPLITS
from tasks.corpora.corpus import Corpus, Document, Options, clean
from tasks.corpora.sources import Line, Source, SourceFile
from tasks.corpora.text import AnnotatedText, Mention, fitting, tagged

KINDS = {"bc5cdr_disease": "Disease", "bc5cdr_chem": "Chemical"}
PASSAGE = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)
MOST_BLANKS = 1000  # between two passages of BioC


def documents(source: Source, options: Options) -> Iterator[Document]:
    """The abstracts, in the published splits; both tasks have the same sentences."""
    for split in SPLITS:
        file, read = _file(source, split)
        seen: set[str] = set()
        for document in read(file):
            if document.id in seen:
                raise file.error(f"document {document.id[:40]!a} is there twice")
            seen.add(document.id)
            parts = document.sentences(options.splitter)
            yield Document(
                document.id, split, {task: tagged(document, parts, task, KINDS[task], options) for task in KINDS}
            )
        if not seen:
            raise file.error("no documents in it", 1)


def _file(source: Source, split: str) -> tuple[SourceFile, Callable[[SourceFile], Iterator[AnnotatedText]]]:
    """The split's file, the PubTator text where both formats lie there, and its reader."""
    for suffix, read in ((".txt", _pubtator), (".xml", _bioc)):
        names = [(file.path.name.lower(), file) for file in source.files]
        found = [file for name, file in names if name.startswith(f"cdr_{split}") and name.endswith(suffix)]
        if len(found) > 1:
            raise source.error(f"two files of the {split} split ({found[0].name}, {found[1].name})", "leave one there")
        if found:
            return found[0], read
    raise source.error(f"no CDR_{split.capitalize()}*.PubTator.txt or .BioC.xml")


def _pubtator(file: SourceFile) -> Iterator[AnnotatedText]:
    """Documents of `<id>|t|<title>`, `<id>|a|<abstract>` and tab separated mentions, an empty line after each."""
    for is_empty, lines in groupby(file.lines(empty=True), key=lambda line: not line.text.strip()):
        if not is_empty:
            yield _pubtator_document(list(lines))


def _pubtator_document(block: list[Line]) -> AnnotatedText:
    passages = [PASSAGE.fullmatch(line.text) for line in block[:2]]
    if len(block) < 2 or passages[0] is None or passages[1] is None:
        raise block[0].error("no document starts here: <id>|t|<title> and <id>|a|<abstract> expected")
    (name, first, title), (again, second, abstract) = passages[0].groups(), passages[1].groups()
    if (first, second) != ("t", "a") or name != again:
        raise block[1].error("title and abstract of one document expected, in this order")
    text = f"{title} {abstract}"
    mentions = []
    for line in block[2:]:
        cells = line.text.split("\t")
        if cells[0] != name:
            raise line.error("a line of another document", "put an empty line between documents")
        if len(cells) == 4:  # a relation: id, CID, chemical, disease
            continue
        if len(cells) not in (6, 7):  # the seventh lists the parts of a composite mention, which stays one mention
            raise line.error(f"{len(cells)} columns, 6 or 7 (a mention) or 4 (a relation) expected")
        start, end = line.offset(cells[1]), line.offset(cells[2])
        spans = fitting([(start, end)], len(text))
        if spans is None or text[start:end] != cells[3]:
            remedy = "put the published file there, unchanged; offsets count characters"
            raise line.error("the offsets do not lead to the mention's text", remedy)
        mentions.append(Mention(str(line.number), cells[4], spans))
    return AnnotatedText(clean(name), text, tuple(mentions), title_end=len(title))


def _bioc(file: SourceFile) -> Iterator[AnnotatedText]:
    """Documents of a BioC collection. Offsets of passages and mentions count characters of the whole document."""
    for element in file.elements("document"):
        name = clean(element.findtext("id") or "")
        passages = element.findall("passage")
        if not name or not passages:
            raise file.error("a <document> without <id> or <passage>", element.sourceline)
        text = ""
        for passage in passages:
            offset = file.whole_number(passage.findtext("offset"), "<offset>", passage.sourceline)
            if not len(text) <= offset <= len(text) + MOST_BLANKS:
                raise file.error("the <offset> of the passage does not follow the one before", passage.sourceline)
            text += " " * (offset - len(text)) + (passage.findtext("text") or "")
        mentions = [_bioc_mention(file, annotation, text) for annotation in element.iterfind(".//annotation")]
        title_end = len(passages[0].findtext("text") or "") if len(passages) > 1 else 0
        yield AnnotatedText(name, text, tuple(one for one in mentions if one is not None), title_end)


def _bioc_mention(file: SourceFile, element: Any, text: str) -> Mention | None:
    infons = {infon.get("key"): infon.text or "" for infon in element.iterfind("infon")}
    if infons.get("CompositeRole") == "IndividualMention":  # a part of a composite mention, which is there as well
        return None
    places = []
    for place in element.iterfind("location"):
        start, length = (file.whole_number(place.get(name), name, place.sourceline) for name in ("offset", "length"))
        places.append((start, start + length))
    spans = fitting(places, len(text))
    covered = None if spans is None else " ".join(text[start:end] for start, end in spans)
    if spans is None or (len(spans) == 1 and covered != (element.findtext("text") or "")):
        raise file.error("an <annotation> whose location does not lead to its text", element.sourceline)
    return Mention(element.get("id") or "", infons.get("type", ""), spans)


CORPUS = Corpus("bc5cdr", documents, splits_sentences=True)

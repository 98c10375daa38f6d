"""ChemProt (Krallinger et al. 2017): abstracts, their chemicals and proteins, and relations, in tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import tasks
from tasks.corpora.documents import Mention, fitting
from tasks.corpora.records import Corpus, Options, Record, clean
from tasks.corpora.relations import marked
from tasks.corpora.safe_xml import whole_number
from tasks.corpora.sentences import Span, sentences
from tasks.corpora.sources import Line, Source, SourceFile, filled
from tasks.corpora.splits import PUBLISHED

__all__ = ["CORPUS"]

LABELS = tasks.get("chemprot").labels

TASK = "chemprot"
NAMES = {"train": "training", "dev": "development", "test": "test"}
CHEMICAL, PROTEIN = "CHEMICAL", "GENE"
REMEDY = "put the published file there, unchanged"


def convert(source: Source, options: Options) -> Iterator[Record]:
    """A row for each chemical and protein in a sentence, one more for each further label that they have."""
    for split in NAMES:
        options.rules[split] = PUBLISHED
        abstracts, entities, gold = (_file(source, split, kind) for kind in ("abstracts", "entities", "gold_standard"))
        mentions = _entities(entities)
        relations = _relations(gold)
        seen: set[str] = set()
        for line in filled(abstracts.lines()):
            document, title, abstract = _cells(line, 3)
            if document in seen:
                raise line.error("a document that was there before", REMEDY)
            seen.add(document)
            found = mentions.get(document, {})
            text = f"{title} {abstract}"
            if any(mention.end > len(text) for mention in found.values()):
                raise line.error("an entity whose offsets leave the text", REMEDY)
            parts = _sentences(text, len(title), [one.spans[0] for one in found.values()], options.splitter)
            yield from _rows(document, text, parts, found, relations, split)
        unknown = mentions.keys() - seen
        if unknown:
            wrong = f"{len(unknown)} documents that {abstracts.path.name} does not have"
            raise entities.error(wrong, "put both published files there")
        lost = sum(len(labels) for labels in relations.values())
        if lost:
            options.left_out[TASK, f"{split}: relations of mentions in different sentences"] += lost


def _file(source: Source, split: str, kind: str) -> SourceFile:
    pattern = re.compile(rf"chemprot_{NAMES[split]}(_gs)?_{kind}(_gs)?\.tsv")
    found = [file for file in source.files if pattern.fullmatch(file.path.name.lower())]
    if len(found) != 1:
        what = f"{len(found) or 'no'} files chemprot_{NAMES[split]}*_{kind}.tsv"
        raise source.error(what, f"give {CORPUS.expects}")
    return found[0]


def _cells(line: Line, count: int) -> list[str]:
    cells = line.text.split("\t")
    if len(cells) != count or not cells[0].strip():
        raise line.error(f"{len(cells)} columns, {count} expected", REMEDY)
    return cells


def _entities(file: SourceFile) -> dict[str, dict[str, Mention]]:
    """Document -> id -> mention; both kinds of proteins (with and without a database entry) are one."""
    found: dict[str, dict[str, Mention]] = {}
    for line in filled(file.lines()):
        document, name, kind, first, last, _ = _cells(line, 6)
        if kind not in (CHEMICAL, "GENE-Y", "GENE-N", PROTEIN):
            raise line.error("unknown kind of entity", "known: CHEMICAL, GENE-Y, GENE-N")
        start, end = (whole_number(file, cell, "an offset", line.number) for cell in (first, last))
        spans = fitting([(start, end)], end)
        if spans is None or name in found.setdefault(document, {}):
            raise line.error("an empty entity, or one whose id the document has already", REMEDY)
        found[document][name] = Mention(name, CHEMICAL if kind == CHEMICAL else PROTEIN, spans)
    return found


def _relations(file: SourceFile) -> dict[tuple[str, str, str], list[str]]:
    """(document, chemical, protein) -> labels."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for line in filled(file.lines()):
        document, label, first, second = _cells(line, 4)
        if label not in LABELS or not first.startswith("Arg1:") or not second.startswith("Arg2:"):
            raise line.error("no relation: <id>, CPR:3|4|5|6|9, Arg1:<id>, Arg2:<id> expected", REMEDY)
        found.setdefault((document, first[5:], second[5:]), []).append(label)
    return found


def _rows(
    document: str,
    text: str,
    parts: Sequence[Span],
    mentions: Mapping[str, Mention],
    relations: dict[tuple[str, str, str], list[str]],
    split: str,
) -> Iterator[Record]:
    """The rows of a document's sentences; the relations that they show are taken out of `relations`."""
    for start, end in parts:
        inside = [one for one in mentions.values() if start <= one.start and one.end <= end]
        for chemical in (one for one in inside if one.kind == CHEMICAL):
            for protein in (one for one in inside if one.kind == PROTEIN):
                index = f"{document}.{chemical.id}.{protein.id}"
                sentence = clean(marked(text, start, end, chemical, protein))
                for label in relations.pop((document, chemical.id, protein.id), ["false"]):
                    yield _row(index, sentence, label, split, document)


def _row(index: str, sentence: str, label: str, split: str, document: str) -> Record:
    # One tag for the two of an overlapping pair, in BLUE's spelling.
    sentence = sentence.replace(f"@{CHEMICAL}-{PROTEIN}$", "@CHEM-GENE$")
    return Record(TASK, split, ((index, sentence, label),), (label,), document)


def _sentences(text: str, title_end: int, whole: list[Span], splitter: str) -> list[Span]:
    body = [(start - title_end, end - title_end) for start, end in whole]
    found = sentences(text[title_end:], body, splitter)
    return [(0, title_end), *((start + title_end, end + title_end) for start, end in found)]


CORPUS = Corpus(
    convert=convert,
    headers={TASK: ("index", "sentence", "label")},
    expects="ChemProt_Corpus.zip or the folder with chemprot_training, chemprot_development and chemprot_test_gs",
    splits_sentences=True,
)

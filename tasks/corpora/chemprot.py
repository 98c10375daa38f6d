"""ChemProt (Krallinger et al. 2017): abstracts, their chemicals and proteins, and relations, in tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial

import tasks
from tasks.corpora.corpus import Corpus, Document, Options, Row, clean
from tasks.corpora.sources import Source, SourceFile
from tasks.corpora.text import AnnotatedText, Mention, fitting, marked

TASK, BLURB_TASK = "chemprot", "blurb_chemprot"
LABELS = tasks.get(TASK).labels
NAMES = {"train": "training", "dev": "development", "test": "test"}
# Y, N: proteins with and without an entry in a database.
KINDS = {"CHEMICAL": "CHEMICAL", **dict.fromkeys(("GENE", "GENE-Y", "GENE-N"), "GENE")}
Relations = dict[tuple[str, str, str], list[str]]  # (document, chemical, protein) -> labels


def documents(task: str, source: Source, options: Options) -> Iterator[Document]:
    """The abstracts, in the published splits. BLUE takes the relations that were evaluated, BLURB all of them."""
    of_relations = "gold_standard" if task == TASK else "relations"
    for split, name in NAMES.items():
        abstracts, entities, gold = (
            source.only(rf"chemprot_{name}(_gs)?_{kind}(_gs)?\.tsv", f"chemprot_{name}*_{kind}.tsv")
            for kind in ("abstracts", "entities", of_relations)
        )
        mentions = _entities(entities)
        relations = _evaluated(gold) if task == TASK else _annotated(gold)
        seen: set[str] = set()
        for line in abstracts.lines():
            document, title, abstract = line.cells(3)
            if not document.strip() or document in seen:
                raise line.error("a document without a name, or one that was there before")
            seen.add(document)
            text = AnnotatedText(document, f"{title} {abstract}", tuple(mentions[document].values()), len(title))
            if any(mention.end > len(text.text) for mention in text.mentions):
                raise line.error("an entity whose offsets leave the text")
            yield Document(document, split, {task: _rows(text, relations, options)})
        if unknown := mentions.keys() - seen:
            wrong = f"{len(unknown)} documents that {abstracts.path.name} does not have"
            raise entities.error(wrong, remedy="put both published files there")
        if lost := sum(map(len, relations.values())):
            options.left_out[task, f"{split}: relations of mentions in different sentences"] += lost


def _entities(file: SourceFile) -> Mapping[str, dict[str, Mention]]:
    """Document -> id -> mention."""
    found: dict[str, dict[str, Mention]] = defaultdict(dict)
    for line in file.lines():
        document, name, kind, first, last, _ = line.cells(6)
        if kind not in KINDS:
            raise line.error("unknown kind of entity", "known: CHEMICAL, GENE-Y, GENE-N")
        end = line.offset(last)
        spans = fitting([(line.offset(first), end)], end)
        if spans is None or name in found[document]:
            raise line.error("an empty entity, or one whose id the document has already")
        found[document][name] = Mention(name, KINDS[kind], spans)
    return found


def _annotated(file: SourceFile) -> Relations:
    """The last relation of a pair, as in BLURB; one that was not evaluated is false."""
    found: Relations = {}
    for line in file.lines():
        document, label, _, _, first, second = line.cells(6)
        if not label.startswith("CPR:") or not first.startswith("Arg1:") or not second.startswith("Arg2:"):
            raise line.error("no relation: <id>, CPR:<n>, Y or N, <kind>, Arg1:<id>, Arg2:<id> expected")
        found[document, first[5:], second[5:]] = [label if label in LABELS else "false"]
    return found


def _evaluated(file: SourceFile) -> Relations:
    found: Relations = {}
    for line in file.lines():
        document, label, first, second = line.cells(4)
        if label not in LABELS or not first.startswith("Arg1:") or not second.startswith("Arg2:"):
            raise line.error("no relation: <id>, CPR:3|4|5|6|9, Arg1:<id>, Arg2:<id> expected")
        found.setdefault((document, first[5:], second[5:]), []).append(label)
    return found


def _rows(text: AnnotatedText, relations: Relations, options: Options) -> Iterator[Row]:
    """A row for each chemical and protein in a sentence, one more for each further label that they have.

    The relations that they show are taken out of `relations`.
    """
    for start, end in text.sentences(options.splitter):
        inside = [one for one in text.mentions if start <= one.start and one.end <= end]
        for chemical in (one for one in inside if one.kind == "CHEMICAL"):
            for protein in (one for one in inside if one.kind == "GENE"):
                sentence = clean(marked(text.text, start, end, chemical, protein, options.mentions))
                # One tag for the two of an overlapping pair, in BLUE's spelling.
                sentence = sentence.replace("@CHEMICAL-GENE$", "@CHEM-GENE$")
                for label in relations.pop((text.id, chemical.id, protein.id), ["false"]):
                    index = f"{text.id}.{chemical.id}.{protein.id}"
                    yield {"index": index, "sentence": sentence, "label": label}


CORPUS = Corpus(TASK, partial(documents, TASK), splits_sentences=True)
BLURB = Corpus(BLURB_TASK, partial(documents, BLURB_TASK), splits_sentences=True, marks_mentions=True)

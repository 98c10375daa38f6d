"""Small made-up corpora with the member names and formats of the sources of BLURB; every sentence is invented."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import corpora_sources as blue

from tasks.published import CORPORA

SPLITS = ("train", "devel", "test")
NER = {
    "BC5CDR-chem-IOB": "Aspirin\tB-Chemical\nhelps\tO\n.\tO\n\nNo\tO\n22\tB-Chemical\n-\tI-Chemical\nx\tI-Chemical\n\n",
    "BC5CDR-disease-IOB": "Dry\tB-Disease\ncough\tI-Disease\n.\tO\n\n",
    "NCBI-disease-IOB": "A\tO\nrare\tO\nataxia\tB-Disease\n.\tO\n\n",
    "BC2GM-IOB": "KinB\tB-GENE\nbinds\tO\nKinC\tB-GENE\n\n",
    "JNLPBA": "-DOCSTART-\tO\n\nT\tB-cell_type\ncells\tI-cell_type\nmake\tO\nIL-2\tB-protein\n.\tO\n\n"
    "-DOCSTART-\tO\n\nIts\tO\npromoter\tB-DNA\n\n",
}


def mtl_ner(folder: Path) -> Path:
    """With folders of other schemes beside those that are wanted, as in the collection."""
    for name, text in NER.items():
        for split in SPLITS:
            blue.write(folder / "data" / name / f"{split}.tsv", text)
            blue.write(folder / "data" / f"{name.removesuffix('-IOB')}-IOBES" / f"{split}.tsv", "A\tS-GENE\n\n")
    blue.write(folder / "data" / "JNLPBA" / "original-data" / "test" / "test.tsv", "A\tO\n\n")
    return folder


TOKENS = ["Ten", "adults", "with", "asthma", "took", "drugA", ".", "Their", "FEV1", "rose", "."]
LABELS = {
    "participants": "1 1 1 1 0 0 0 0 0 0 0",
    "interventions": "0 0 0 0 0 1 0 0 0 0 0",
    "outcomes": "0 0 0 1 0 0 0 0 1 1 0",  # overlaps the participants in one word
}


def ebm_nlp(folder: Path) -> Path:
    spans = folder / "annotations" / "aggregated" / "starting_spans"
    names = [("train", f"{100 + n}") for n in range(5)] + [("test/gold", "200")]
    for place, name in names:
        blue.write(folder / "documents" / f"{name}.tokens", "\n".join(TOKENS))
        blue.write(folder / "documents" / f"{name}.text", " ".join(TOKENS))
        for element, labels in LABELS.items():
            blue.write(spans / element / place / f"{name}.AGGREGATED.ann", labels.replace(" ", "\n"))
            other = folder / "annotations" / "individual" / "starting_spans" / element / place
            blue.write(other / f"{name}.w1.ann", "2,2")
    for element in LABELS:  # the crowd's view of a test document does not count
        blue.write(spans / element / "train" / "200.AGGREGATED.ann", "\n".join("1" * len(TOKENS)))
        blue.write(spans / element / "test" / "crowd" / "200.AGGREGATED.ann", "\n".join("1" * len(TOKENS)))
    return folder


def gad(folder: Path) -> Path:
    for fold in (1, 10):
        place = folder / "GAD" / str(fold)
        rows = [f"The @GENE$ of @DISEASE$ , fold {fold} study {n} .\t{n % 2}\n" for n in range(20)]
        blue.write(place / "train.tsv", "".join(rows))
        blue.write(place / "dev.tsv", "")
        blue.write(place / "test.tsv", "index\tsentence\tlabel\n0\tNo @GENE$ in @DISEASE$ .\t0\n1\tA @GENE$ .\t1\n")
    blue.write(folder / "euadr" / "1" / "train.tsv", "Other @GENE$ .\t1\n")  # another corpus of the archive
    return folder


def pubmedqa(folder: Path) -> Path:
    questions = {
        str(1000 + n): {
            "QUESTION": f"Is drug {n} safe?",
            "CONTEXTS": [f"We gave\t{n} pills.", "They were\nwell."],
            "LABELS": ["METHODS", "RESULTS"],
            "MESHES": [],
            "YEAR": None,
            "reasoning_required_pred": "yes",
            "reasoning_free_pred": "yes",
            "final_decision": ("yes", "no", "yes", "maybe", "no", "yes")[n % 6],
            "LONG_ANSWER": "It is.",
        }
        for n in range(50)
    }
    blue.write(folder / "ori_pqal.json", json.dumps(questions, indent=4))
    return folder


def bioasq(folder: Path) -> Path:
    def question(name: str, answer: object, kind: str = "yesno") -> dict[str, object]:
        snippets = [
            {"text": "One  snippet.", "document": "http://x"},
            {"text": "Another\none.", "document": "http://y"},
        ]
        return {"id": name, "type": kind, "body": f"Is {name} so?", "exact_answer": answer, "snippets": snippets}

    names = [*sorted(CORPORA["bioasq"].dev_ids), *(f"5a{n:022}" for n in range(6))]
    training = [question(name, ("yes", ["no"])[n % 2]) for n, name in enumerate(names)]
    training.append(question("x1", [["KinB"]], "factoid"))
    blue.write(folder / "BioASQ-training7b" / "trainining7b.json", json.dumps({"questions": training}))
    for batch in range(1, 6):
        golden = [question(f"5c{batch:022}", ("Yes", "no")[batch % 2]), question(f"y{batch}", "A text.", "summary")]
        blue.write(folder / "Task7BGoldenEnriched" / f"7B{batch}_golden.json", json.dumps({"questions": golden}))
    return folder


def chemprot(folder: Path) -> Path:
    """BLUE's, and all relations of it, of which the last one of a pair counts."""
    for path in blue.chemprot(folder).rglob("*relations.tsv"):
        blue.write(
            path,
            "7\tCPR:4\tY \tINHIBITOR\tArg1:T1\tArg2:T2\n7\tCPR:3\tY \tACTIVATOR\tArg1:T1\tArg2:T2\n"
            "7\tCPR:1\tN \tPART-OF\tArg1:T5\tArg2:T6\n7\tCPR:9\tY \tSUBSTRATE\tArg1:T3\tArg2:T4\n",
        )
    return folder


def biosses(folder: Path) -> Path:
    rows = [f"{n}\tOne {n} .\tTwo {n} .\t4\t3\t3\t4\t{n % 5}\n" for n in range(1, 101)]
    blue.write(folder / "annotation_pairs_scores.tsv", "id\tsentence 1\tsentence 2\ta\tb\tc\td\te\n" + "".join(rows))
    return folder


SOURCES: Mapping[str, tuple[str, Callable[[Path], Path]]] = {
    **blue.SOURCES,
    "mtl_ner": ("mtl_ner", mtl_ner),
    "ebm_nlp": ("ebm_nlp", ebm_nlp),
    "gad": ("gad", gad),
    "pubmedqa": ("pubmedqa", pubmedqa),
    "bioasq": ("bioasq", bioasq),
    "blurb_chemprot": ("blurb_chemprot", chemprot),
    "blurb_ddi": ("blurb_ddi", blue.ddi2013),
    "blurb_hoc": ("blurb_hoc", blue.hoc),
    "blurb_biosses": ("blurb_biosses", biosses),
}

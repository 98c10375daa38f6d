"""Small made-up corpora in the formats of the published ones; every sentence is invented."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

PUBTATOR = {
    "Training": (
        "101|t|Aspirin and gastric bleeding.\n"
        "101|a|A 50-year old took aspirin (acetylsalicylic acid). He had visual and auditory hallucinations. "
        "No β-blocker was given.\n"
        "101\t0\t7\tAspirin\tChemical\tD001241\n"
        "101\t12\t28\tgastric bleeding\tDisease\tD006471\n"
        "101\t49\t56\taspirin\tChemical\tD001241\n"
        "101\t58\t78\tacetylsalicylic acid\tChemical\tD001241\n"
        "101\t88\t122\tvisual and auditory hallucinations\tDisease\tD006212\t"
        "visual hallucinations|auditory hallucinations\n"
        "101\tCID\tD001241\tD006471\n"
    ),
    "Development": "202|t|Lithium.\n202|a|It may cause tremor.\n202\t0\t7\tLithium\tChemical\t-1\n"
    "202\t22\t28\ttremor\tDisease\tD014202\n",
    "Test": "303|t|Pain.\n303|a|Ibuprofen (5-HT6) helps.\n303\t0\t4\tPain\tDisease\tD010146\n"
    "303\t6\t15\tIbuprofen\tChemical\tD007052\n303\t17\t21\t5-HT\tChemical\tD012701\n",
}


def bc5cdr(folder: Path) -> Path:
    for name, text in PUBTATOR.items():
        write(folder / f"CDR_{name}Set.PubTator.txt", text + "\n")
    return folder


def ddi_document(name: str, sentences: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<document id="{name}">\n{sentences}\n</document>\n'


DDI_SENTENCE = (
    '<sentence id="{0}.s0" text="Give Tylenol, alpha- or beta-blockers&#xd;&#xa; with oxo-drug.">'
    '<entity id="{0}.s0.e0" charOffset="5-11" type="brand" text="Tylenol"/>'
    '<entity id="{0}.s0.e1" charOffset="14-19;29-36" type="group" text="alpha- blockers"/>'
    '<entity id="{0}.s0.e2" charOffset="45-52" type="drug_n" text="oxo-drug"/>'
    '<entity id="{0}.s0.e3" charOffset="49-52" type="drug" text="drug"/>'
    '<pair id="{0}.s0.p0" e1="{0}.s0.e0" e2="{0}.s0.e1" ddi="true" type="{1}"/>'
    '<pair id="{0}.s0.p1" e1="{0}.s0.e2" e2="{0}.s0.e0" ddi="false"/>'
    '<pair id="{0}.s0.p2" e1="{0}.s0.e2" e2="{0}.s0.e3" ddi="false"/>'
    '<pair id="{0}.s0.p3" e1="{0}.s0.e1" e2="{0}.s0.e3" ddi="true"/></sentence>'
)


def ddi2013(folder: Path) -> Path:
    for number, label in enumerate(("effect", "int", "advise", "mechanism")):
        name = f"D{number}"
        write(folder / "Train" / "DrugBank" / f"{name}.xml", ddi_document(name, DDI_SENTENCE.format(name, label)))
    test = folder / "Test"
    task = test / "Test for DDI Extraction task" / "MedLine"
    write(task / "T1.xml", ddi_document("T1", DDI_SENTENCE.format("T1", "effect")))
    other = test / "Test for DrugNER task" / "MedLine"
    write(other / "N1.xml", ddi_document("N1", DDI_SENTENCE.format("N1", "effect")))
    return folder


def chemprot(folder: Path) -> Path:
    for name in ("training", "development", "test_gs"):
        place = folder / f"chemprot_{name}" / f"chemprot_{name}_"
        write(
            Path(f"{place}abstracts.tsv"),
            "7\tDrugA blocks KinB.\tWe gave DrugA\u2009today. KinB fell; DrugC-KinB did not.\n"
            "8\tNothing.\tNo entity.\n",
        )
        rows = [
            ("T1", "CHEMICAL", 0, 5, "DrugA"), ("T2", "GENE-Y", 13, 17, "KinB"), ("T3", "CHEMICAL", 27, 32, "DrugA"),
            ("T4", "GENE-N", 40, 44, "KinB"), ("T5", "CHEMICAL", 51, 61, "DrugC-KinB"),
            ("T6", "GENE-N", 57, 61, "KinB"),
        ]  # fmt: skip
        write(Path(f"{place}entities.tsv"), "".join("7\t" + "\t".join(map(str, row)) + "\n" for row in rows))
        write(
            Path(f"{place}gold_standard.tsv"),
            "7\tCPR:4\tArg1:T1\tArg2:T2\n7\tCPR:3\tArg1:T1\tArg2:T2\n7\tCPR:9\tArg1:T3\tArg2:T4\n",
        )
        write(Path(f"{place}relations.tsv"), "7\tCPR:4\tY \tINHIBITOR\tArg1:T1\tArg2:T2\n")
    return folder


def hoc(folder: Path) -> Path:
    for number in range(10):
        write(folder / "text" / f"{number}.txt", "Cells grow .\nThey \xa0spread .\nResults .\n")
        labels = "< <Resisting cell death--Apoptosis AND Cellular energetics-- ANDCellular energetics< NULL"
        write(folder / "labels" / f"{number}.txt", labels)
    write(folder / "text" / "99.txt", "Nothing here .\n")
    write(folder / "labels" / "99.txt", "< ")
    return folder


def biosses(folder: Path) -> Path:
    rows = [f"{n}\tOne {n} .\tTwo {n} .\t4\t3\t3\t4\t{n % 5}\n" for n in range(1, 11)]
    write(folder / "pairs.tsv", "id\tsentence 1\tsentence 2\ta\tb\tc\td\te\n" + "".join(rows))
    return folder


def biosses_docx(folder: Path) -> Path:
    import docx

    folder.mkdir(parents=True, exist_ok=True)
    for name, header, cells in (
        ("Annotation-Pairs", ("", "Sentence 1", "Sentence 2"), lambda n: (f"{n} ", f"One {n} .", f"Two\t{n} .")),
        ("Annotator-Scores", ("No", "A", "B"), lambda n: (str(n), "4", str(n % 4))),
    ):
        document = docx.Document()
        table = document.add_table(rows=0, cols=3)
        for row in (header, *(cells(n) for n in range(1, 11))):
            for cell, text in zip(table.add_row().cells, row, strict=True):
                cell.text = text
        document.save(str(folder / f"{name}.docx"))
    return folder


def mednli(folder: Path) -> Path:
    for split in ("train", "dev", "test"):
        pairs = [
            {"pairID": f"{split}-{n}", "sentence1": f"He\thas {n} .", "sentence2": "He is well .", "gold_label": label,
             "sentence1_parse": "(ROOT)"}
            for n, label in enumerate(("entailment", "contradiction", "neutral"))
        ]  # fmt: skip
        write(folder / f"mli_{split}_v1.jsonl", "".join(json.dumps(pair) + "\n" for pair in pairs))
    return folder


NOTE = 'Mr. X came in .\n He received aspirin 81  mg for severe chest pain .\nCT showed "free air" .\n'
CONCEPTS = (
    'c="aspirin 81 mg" 2:3 2:5||t="treatment"\n'
    'c="severe chest pain" 2:7 2:9||t="problem"\n'
    'c="ct" 3:0 3:0||t="test"\n'
    'c=""free air"" 3:2 3:3||t="problem"\n'
)
RELATIONS = (
    'c="aspirin 81 mg" 2:3 2:5||r="TrAP"||c="severe chest pain" 2:7 2:9\n'
    'c="ct" 3:0 3:0||r="TeRP"||c=""free air"" 3:2 3:3\n'
)


def i2b2_2010(folder: Path) -> Path:
    train = folder / "concept_assertion_relation_training_data"
    places = [(train / site, f"{site}-{n}") for site in ("beth", "partners") for n in range(3)]
    for place, name in [*places, (folder / "reference_standard_for_test_data", "0099")]:
        write(place / "txt" / f"{name}.txt", NOTE)
        write(place / "concept" / f"{name}.con", CONCEPTS)
        write(place / "rel" / f"{name}.rel", RELATIONS)
    return folder


CLINICAL = (
    "Admission Date:  [**2100-1-2**]\n\nThe left atrium is moderately dilated. No ___ pain.\n"
    "Abdomen soft, non-tender / distended.\nHe has chest pain and shortness\nof breath.\n"
)


def at(text: str, part: str) -> tuple[int, int]:
    return text.index(part), text.index(part) + len(part)


DISORDERS = (
    (at(CLINICAL, "left atrium"), at(CLINICAL, "dilated")),
    (at(CLINICAL, "chest pain"),),
    (at(CLINICAL, "shortness\nof breath"),),
)


def pipes(name: str) -> str:
    lines = [
        f"{name}.txt||Disease_Disorder||C00{n}||" + "||".join(f"{start}||{end}" for start, end in spans)
        for n, spans in enumerate(DISORDERS)
    ]
    return "\n".join(lines) + "\n"


def knowtator(name: str) -> str:
    parts = []
    for n, spans in enumerate(DISORDERS):
        places = "".join(f'<span start="{start}" end="{end}"/>' for start, end in reversed(spans))
        parts.append(f'<annotation><mention id="m{n}"/><annotator id="a">A</annotator>{places}</annotation>')
        parts.append(
            f'<classMention id="m{n}"><hasSlotMention id="s{n}"/><mentionClass id="Disease_Disorder">x</mentionClass>'
            f'</classMention><stringSlotMention id="s{n}"><stringSlotMentionValue value="C00{n}"/></stringSlotMention>'
        )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<annotations textSource="{name}.txt">'
        + "\n".join(parts)
        + ("</annotations>\n")
    )


def clefe(folder: Path, as_xml: bool = False) -> Path:
    for n in range(5):
        name = f"0{n}-DISCHARGE_SUMMARY"
        write(folder / "Task1TrainSetCorpus199" / "ALLREPORTS" / f"{name}.txt", CLINICAL)
        gold = folder / "Task1TrainSetGOLD199knowtatorehost" / "Task1Gold"
        if as_xml:
            write(gold / f"{name}.txt.knowtator.xml", knowtator(name))
        else:
            write(gold / f"{name}.txt", pipes(name))
    write(folder / "Task1TestSetCorpus100" / "ALLREPORTS" / "90-ECHO.txt", CLINICAL)
    write(folder / "Task1Gold_SN2012" / "Gold_SN2012" / "90-ECHO.txt", pipes("90-ECHO"))
    return folder


def clefe_xml(folder: Path) -> Path:
    return clefe(folder, as_xml=True)


def medsts(folder: Path) -> Path:
    rows = [f"he takes {n} pills\tshe takes {n} pills\t{n / 2}\n" for n in range(10)]
    write(folder / "clinicalSTS2019.train.txt", "".join(rows))
    write(folder / "clinicalSTS2019.test.txt", "".join(row.rsplit("\t", 1)[0] + "\n" for row in rows))
    write(folder / "clinicalSTS2019.test.gs.sim.txt", "".join(row.rsplit("\t", 1)[1] for row in rows))
    return folder


SOURCES: Mapping[str, tuple[str, Callable[[Path], Path]]] = {  # name of the source -> (corpus, what writes it)
    "bc5cdr": ("bc5cdr", bc5cdr),
    "ddi2013": ("ddi2013", ddi2013),
    "chemprot": ("chemprot", chemprot),
    "hoc": ("hoc", hoc),
    "biosses": ("biosses", biosses),
    "biosses_docx": ("biosses", biosses_docx),
    "mednli": ("mednli", mednli),
    "i2b2_2010": ("i2b2_2010", i2b2_2010),
    "clefe": ("clefe", clefe),
    "clefe_xml": ("clefe", clefe_xml),
    "medsts": ("medsts", medsts),
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())

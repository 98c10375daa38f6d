"""BLURB's data sets, from made-up sources with the published names and formats: every file to the byte, and what other
versions of a source are refused with."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from blurb_sources import NER, SOURCES
from corpora_sources import write

import tasks
from harness.task import SPLITS, UserError
from launch import prepare
from launch.reporting.new_text import Reader
from tasks import checks
from tasks.published import CORPORA

HEADER = "index\tsentence\tlabel\n"
PAIRS = "index\tsentence1\tsentence2\tlabel\n"


def convert(source: str, folder: Path, *more: str) -> Path:
    """The folder with the task folders."""
    corpus, make = SOURCES[source]
    raw = make(folder / "raw")
    assert prepare.main([corpus, "--source", str(raw), "--out", str(folder / "out"), *more]) == 0
    return folder / "out"


def text(folder: Path, split: str = "test") -> str:
    return (folder / tasks.get(folder.name).filenames[split]).read_text(encoding="utf-8")


def chosen(folder: Path) -> dict[str, str]:
    splits = json.loads((folder / "manifest.json").read_text())["splits"]
    return {split: entry["chosen"] for split, entry in splits.items()}


def test_folders_of_tagged_words(tmp_path: Path) -> None:
    out = convert("mtl_ner", tmp_path)
    expected = dict(zip(CORPORA["mtl_ner"].tasks, NER.values(), strict=True))
    for task, content in expected.items():
        assert all(text(out / task, split) == content.replace("-DOCSTART-\tO\n\n", "") for split in SPLITS)
        assert tasks.get(task).read(out / task, "test")
    labels = json.loads((out / "jnlpba" / "manifest.json").read_text())["splits"]["test"]["labels"]
    assert labels == {"B-DNA": 1, "B-cell_type": 1, "B-protein": 1, "I-cell_type": 1}


def test_only_what_is_needed_of_an_archive_is_unpacked(tmp_path: Path) -> None:
    """A collection of hundreds of megabytes; the other schemes' folders would be unpacked in vain."""
    from tasks.corpora import CORPORA as CONVERTERS
    from tasks.corpora.sources import Source

    for source, count in (("mtl_ner", 15), ("ebm_nlp", 6 + 3 * (5 + 1 + 1 + 1))):
        with tarfile.open(tmp_path / f"{source}.tar.gz", "w:gz") as file:
            file.add(SOURCES[source][1](tmp_path / source), source)
        with Source(tmp_path / f"{source}.tar.gz", skips=CONVERTERS[source].skips) as found:
            assert len(found.files) == count
        command = [source, "--source", str(tmp_path / f"{source}.tar.gz"), "--out", str(tmp_path / "packed")]
        assert prepare.main(command) == 0


def test_pico(tmp_path: Path) -> None:
    """Outcomes win where they overlap; a document of the experts' is test alone; a fifth of the others is dev."""
    out = convert("ebm_nlp", tmp_path) / "ebm_pico"
    assert text(out) == (
        "Ten\tI-PAR\nadults\tI-PAR\nwith\tI-PAR\nasthma\tI-OUT\ntook\tO\ndrugA\tI-INT\n.\tO\n\n"
        "Their\tO\nFEV1\tI-OUT\nrose\tI-OUT\n.\tO\n\n"
    )
    assert [text(out, split).count("Ten\t") for split in SPLITS] == [4, 1, 1]
    assert tasks.get("ebm_pico").read(out, "test")


def test_gad(tmp_path: Path) -> None:
    out = convert("gad", tmp_path) / "gad"
    assert text(out) == HEADER + "0\tNo @GENE$ in @DISEASE$ .\t0\n1\tA @GENE$ .\t1\n"
    assert text(out, "dev") == HEADER + "".join(
        f"{n}\tThe @GENE$ of @DISEASE$ , fold 1 study {n} .\t{n % 2}\n" for n in (18, 19)
    )
    assert text(out, "train").count("\n") == 1 + 18
    assert chosen(out)["dev"] == "the last 2 rows of train.tsv of fold 1"


def test_pubmedqa_is_split_as_by_its_authors(tmp_path: Path) -> None:
    """The numbers are what the authors' split_dataset.py makes of these questions."""
    out = convert("pubmedqa", tmp_path) / "pubmedqa"
    found = {split: [line.split("\t")[0] for line in text(out, split).splitlines()[1:]] for split in SPLITS}
    assert found["dev"] == ["1015", "1042", "1046"]
    test = "02 03 04 06 07 09 16 17 18 19 21 22 23 24 25 26 27 30 31 32 33 34 35 38 48"
    assert found["test"] == [f"10{number}" for number in test.split()]
    assert len(found["train"]) == 22
    assert text(out, "dev").splitlines()[1] == "1015\tIs drug 15 safe?\tWe gave 15 pills. They were well.\tmaybe"


def test_bioasq(tmp_path: Path) -> None:
    out = convert("bioasq", tmp_path) / "bioasq"
    assert text(out) == PAIRS + "".join(
        f"5c{n:022}\tIs 5c{n:022} so?\tOne snippet. Another one.\t{('yes', 'no')[n % 2]}\n" for n in range(1, 6)
    )
    assert {line.split("\t")[0] for line in text(out, "dev").splitlines()[1:]} == CORPORA["bioasq"].dev_ids
    assert text(out, "train").count("\n") == 1 + 6
    assert chosen(out)["dev"] == "the 75 ids that BLURB publishes"


def test_chemprot_has_one_relation_a_pair(tmp_path: Path) -> None:
    out = convert("blurb_chemprot", tmp_path) / "blurb_chemprot"
    assert text(out) == HEADER + (
        "7.T1.T2\t@CHEMICAL$ blocks @GENE$.\tCPR:3\n"
        "7.T5.T4\t@GENE$ fell; @CHEMICAL$ did not.\tfalse\n"
        "7.T5.T6\tKinB fell; @CHEM-GENE$ did not.\tfalse\n"
    )


def test_ddi_has_drugs_of_one_kind(tmp_path: Path) -> None:
    out = convert("blurb_ddi", tmp_path) / "blurb_ddi"
    assert text(out) == HEADER + (
        "T1.s0.p0\tGive @DRUG$, @DRUG$ with oxo-drug.\tDDI-effect\n"
        "T1.s0.p1\tGive @DRUG$, alpha- or beta-blockers with @DRUG$.\tDDI-false\n"
        "T1.s0.p2\tGive Tylenol, alpha- or beta-blockers with @DRUG-DRUG$.\tDDI-false\n"
    )


def test_entity_markers(tmp_path: Path) -> None:
    out = convert("blurb_ddi", tmp_path, "--mentions", "markers") / "blurb_ddi"
    assert [line.split("\t")[1] for line in text(out).splitlines()[1:]] == [
        "Give [S1] Tylenol [E1], [S2] alpha- or beta-blockers [E2] with oxo-drug.",
        "Give [S1] Tylenol [E1], alpha- or beta-blockers with [S2] oxo-drug [E2].",
        "Give Tylenol, alpha- or beta-blockers with [S1] oxo-[S2] drug [E2] [E1].",
    ]
    assert json.loads((out / "manifest.json").read_text())["options"]["mentions"] == "markers"
    survey = checks.Survey(tasks.get("blurb_ddi"))
    survey.add("test", tasks.get("blurb_ddi").read(out, "test"))
    assert survey.is_marked and survey.splits["test"].unmarked == []
    reader = Reader(tasks.get("blurb_ddi"))
    assert len([*reader.items([b"Give [S1] Tylenol [E1] with [S2] oxo-drug [E2] ."])]) == 1
    with pytest.raises(UserError, match="no marked mention"):
        [*reader.items([b"Give Tylenol with oxo-drug ."])]


def test_hoc_has_whole_abstracts_by_the_lists_of_blurb(tmp_path: Path) -> None:
    """Also those without a hallmark. Without BLURB's lists as many as in its dev and test sets are drawn."""
    out = convert("blurb_hoc", tmp_path) / "blurb_hoc"
    assert "1 of 11 documents drawn" in chosen(out)["dev"] and "2 of 11" in chosen(out)["test"]
    for split, names in (("train", "0,1"), ("dev", "3"), ("test", "4,99")):
        content = ",".join(f"{name}.txt" for name in names.split(",")) + "\n"
        write(tmp_path / "raw" / "data_generation" / "indexing" / "HoC" / f"{split}_pmid.tsv", content)
    again = tmp_path / "again"
    assert prepare.main(["blurb_hoc", "--source", str(tmp_path / "raw"), "--out", str(again)]) == 0
    none = "0_0,1_0,2_0,3_0,4_0,5_0,6_0,7_0,8_0,9_0"
    assert text(again / "blurb_hoc") == "labels\tsentence\tindex\n" + (
        f"{none.replace('2_0', '2_1').replace('7_0', '7_1')}\tCells grow . They spread . Results .\t4_s0\n"
        f"{none}\tNothing here .\t99_s0\n"
    )
    assert chosen(again / "blurb_hoc")["dev"] == "the 1 ids that BLURB publishes"


def test_ddi_by_the_lists_of_blurb(tmp_path: Path) -> None:
    raw = SOURCES["blurb_ddi"][1](tmp_path / "raw")
    write(
        raw / "data_generation" / "indexing" / "ddi" / "dev_files.tsv", "Train/DrugBank/D2.xml\nTrain/DrugBank/D0.xml\n"
    )
    assert prepare.main(["blurb_ddi", "--source", str(raw), "--out", str(tmp_path / "out")]) == 0
    dev = text(tmp_path / "out" / "blurb_ddi", "dev")
    assert "D2.s0.p0" in dev and "D0.s0.p0" in dev and "D1." not in dev


def test_biosses_is_split_by_number(tmp_path: Path) -> None:
    out = convert("blurb_biosses", tmp_path) / "blurb_biosses"
    assert [text(out, split).count("\n") - 1 for split in SPLITS] == [64, 16, 20]
    assert text(out).splitlines()[1] == "7\tOne 7 .\tTwo 7 .\t3.2"


def gone(path: Path) -> None:
    path.unlink()


def replaced(pattern: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = re.sub(pattern, new, path.read_text(), count=1)
        assert content != path.read_text()
        path.write_text(content)

    return change


SPANS = "annotations/aggregated/starting_spans"
CROWD, EXPERTS = (f"{SPANS}/outcomes/{name}.AGGREGATED.ann" for name in ("train/102", "test/gold/200"))


def first_of(path: Path, count: int) -> dict[str, object]:
    """The first items of an object in a file."""
    return dict(islice(json.loads(path.read_text()).items(), count))


FAULTS: list[tuple[str, str, Callable[[Path], None], str]] = [
    ("mtl_ner", "data/BC2GM-IOB/devel.tsv", gone, "no files BC2GM-IOB/devel.tsv; give MTL-"),
    ("mtl_ner", "data/BC2GM-IOB/test.tsv", replaced("B-GENE", "S-GENE"), "test.tsv:1: a tag that this corpus does not"),
    ("mtl_ner", "data/JNLPBA/test.tsv", replaced("T\t", "T\tNN\t"), "test.tsv:3: 3 columns, 2 expected"),
    ("ebm_nlp", "documents/101.tokens", gone, "101.AGGREGATED.ann: no .tokens file of this document; give ebm"),
    ("ebm_nlp", "documents/101.tokens", replaced("Ten\n", ""), "101.AGGREGATED.ann: 11 labels for the 10 words"),
    ("ebm_nlp", CROWD, lambda path: path.write_text("0,1"), ".ann: 1 labels for"),
    ("ebm_nlp", CROWD, replaced("1", "yes"), ".ann:4: no label"),
    ("ebm_nlp", EXPERTS, gone, f"no {SPANS}/outcomes/test/gold/*.ann; give"),
    ("gad", "GAD/1/train.tsv", replaced("The", "0\tThe"), "1/train.tsv:1: 3 columns, 2 expected"),
    ("gad", "GAD/1/test.tsv", replaced("index.*\n", ""), "1/test.tsv:1: not the header index, sentence, label"),
    ("gad", "GAD/1/test.tsv", replaced("0\n", "false\n"), "1/test.tsv:2: the label is neither 0 nor 1"),
    ("gad", "GAD/1/train.tsv", gone, "no files GAD/1/train.tsv; give BioBERT's"),
    ("pubmedqa", "ori_pqal.json", replaced("final_decision", "decision"), "question '1000' lacks QUESTION, CONTEXTS"),
    ("pubmedqa", "ori_pqal.json", replaced(r'"CONTEXTS": \[[^]]*\]', '"CONTEXTS": null'), "are no texts"),
    ("pubmedqa", "ori_pqal.json", replaced(r'"CONTEXTS": \[[^]]*\]', '"CONTEXTS": "all"'), "are no texts"),
    ("pubmedqa", "ori_pqal.json", replaced(r'(?s)(\A.*?"1003": ).*', r'\1'), "not a JSON object"),
    ("pubmedqa", "ori_pqal.json", lambda path: path.write_text(json.dumps(first_of(path, 5))), "5 questions, too few"),
    ("pubmedqa", "ori_pqal.json", replaced('"yes"\n?', "yes"), "ori_pqal.json:1: not a JSON object"),
    ("pubmedqa", "ori_pqal.json", lambda path: path.rename(path.with_name("ori_pqaa.json")), "no files ori_pqal.json"),
    ("bioasq", "Task7BGoldenEnriched/7B3_golden.json", gone, "4 of 5 test files of BioASQ 7b; give the folder with"),
    ("bioasq", "BioASQ-training7b/trainining7b.json", lambda path: path.rename(path.with_name("training8b.json")),
     "0 of 1 train files of BioASQ 7b (8b found: another year)"),
    ("bioasq", "BioASQ-training7b/trainining7b.json", replaced("5158a5b8d24251bc05000097", "5b"),
     "1 of 75 ids of BLURB's dev split are no questions here; give the version"),
    ("bioasq", "Task7BGoldenEnriched/7B2_golden.json", replaced('"Yes"', '"maybe"'), "is neither yes nor no"),
    ("bioasq", "Task7BGoldenEnriched/7B2_golden.json", replaced('"snippets"', '"other"'), "lacks id, body or snippets"),
    ("bioasq", "Task7BGoldenEnriched/7B2_golden.json", replaced('"questions"', '"items"'), 'no list of "questions"'),
    ("blurb_chemprot", "chemprot_test_gs/chemprot_test_gs_relations.tsv", replaced("\tY ", ""), ":1: 5 columns, 6 exp"),
    ("blurb_biosses", "annotation_pairs_scores.tsv", replaced("100\t.*\n", ""), "1 of 16 ids of BLURB's"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_another_version_is_one_line_and_leaves_nothing(
    tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, name, spoil, part = FAULTS[number]
    raw = SOURCES[corpus][1](tmp_path / "raw")
    spoil(raw / name)
    assert prepare.main([corpus, "--source", str(raw), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert part in message and message.startswith("error: ") and message.count("\n") == 1
    assert not list((tmp_path / "out").glob("*"))


def test_the_answers_of_another_test_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = SOURCES["pubmedqa"][1](tmp_path / "raw")
    write(raw / "test_ground_truth.json", '{"1002": "yes"}')
    assert prepare.main(["pubmedqa", "--source", str(raw), "--out", str(tmp_path / "out")]) == 2
    assert "test_ground_truth.json: its questions or answers are not those" in capsys.readouterr().err


def test_markers_belong_to_blurb_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = SOURCES["chemprot"][1](tmp_path / "raw")
    command = ["chemprot", "--source", str(raw), "--out", str(tmp_path / "out"), "--mentions", "markers"]
    assert prepare.main(command) == 2 and "no such flag" in capsys.readouterr().err

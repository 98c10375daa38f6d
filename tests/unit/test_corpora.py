"""Every published format, on small made-up sources: what becomes of text, offsets, mentions and labels."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import pytest
from blurb_sources import SOURCES
from corpora_sources import CLINICAL, DISORDERS, PUBTATOR, clefe, clefe_xml

import tasks
from harness.task import SPLITS, Example, UserError
from tasks import corpora, published
from tasks.corpora.corpus import Options, assign
from tasks.corpora.preparing import prepare
from tasks.corpora.text import Mention, marked, sentences, tags, words


def convert(source: str, folder: Path, **options: object) -> dict[str, Path]:
    """Task -> its folder."""
    corpus, write = SOURCES[source]
    path = write(folder / "raw")
    done = prepare(corpora.CORPORA[corpus], path, folder / "out", Options(**options))  # type: ignore[arg-type]
    return {one.task: one.folder for one in done}


def rows(folder: Path, split: str = "test") -> list[list[str]]:
    name = tasks.get(folder.name).filenames[split]
    return [line.split("\t") for line in (folder / name).read_text(encoding="utf-8").split("\n")[:-1]]


def examples(folders: dict[str, Path], split: str) -> dict[str, list[Example]]:
    return {task: tasks.get(task).read(folder, split) for task, folder in folders.items()}


@pytest.mark.parametrize("source", SOURCES)
def test_every_reader_takes_what_is_written(tmp_path: Path, source: str) -> None:
    folders = convert(source, tmp_path)
    assert list(folders) == list(corpora.CORPORA[SOURCES[source][0]].published.tasks)
    for task, folder in folders.items():
        for split in SPLITS:
            assert tasks.get(task).read(folder, split), (task, split)


def test_every_task_is_made_of_one_corpus_and_every_corpus_says_where_to_get_it() -> None:
    made = [task for corpus in published.CORPORA.values() for task in corpus.tasks]
    assert sorted(made) == sorted({*tasks.BLUE, *tasks.SUITES["blurb"]})
    assert published.CORPORA.keys() - {"blue", "blurb"} == corpora.CORPORA.keys()
    assert all((corpus.download is None) == bool(corpus.apply) for corpus in published.CORPORA.values())


class TestBc5cdr:
    def test_mentions_are_words_with_exact_offsets(self, tmp_path: Path) -> None:
        folders = convert("bc5cdr", tmp_path)
        text = " ".join(line.split("|", 2)[2] for line in PUBTATOR["Training"].split("\n")[:2])
        for task, kind in (("bc5cdr_chem", "Chemical"), ("bc5cdr_disease", "Disease")):
            lines = [cells for cells in rows(folders[task], "train") if cells != [""]]
            assert all(text[int(offset) :].startswith(word) for word, _, offset, _ in lines)
            assert "".join(text.split()) == "".join(cells[0] for cells in lines)
            found = {(int(start), word) for word, _, start, tag in lines if tag == "B"}
            cells = [line.split("\t") for line in PUBTATOR["Training"].split("\n")[2:-1]]
            wanted = {(int(cell[1]), cell[3].split()[0]) for cell in cells if cell[4:5] == [kind]}
            assert found == wanted

    def test_a_composite_mention_is_one(self, tmp_path: Path) -> None:
        lines = rows(convert("bc5cdr", tmp_path)["bc5cdr_disease"], "train")
        tagged = [cells[0] for cells in lines if cells[-1] in ("B", "I")]
        assert tagged == ["gastric", "bleeding", "visual", "and", "auditory", "hallucinations"]

    def test_a_word_wider_than_its_mention(self, tmp_path: Path) -> None:
        lines = rows(convert("bc5cdr", tmp_path)["bc5cdr_chem"])
        assert [(cells[0], cells[3]) for cells in lines if len(cells) > 1][4:7] == [
            ("5", "B"),
            ("-", "I"),
            ("HT6", "I"),
        ]

    def test_the_document_is_named_once_a_sentence(self, tmp_path: Path) -> None:
        lines = rows(convert("bc5cdr", tmp_path)["bc5cdr_chem"])
        starts = [cells for before, cells in zip([[""], *lines], lines, strict=False) if before == [""]]
        assert len(starts) == 2 and {cells[1] for cells in starts} == {"303"}
        assert lines[-1] == [""]

    def test_bioc_gives_the_same(self, tmp_path: Path) -> None:
        """Written by the bioc library from what it reads out of the PubTator text."""
        import bioc
        from bioc import pubtator

        folders = convert("bc5cdr", tmp_path)
        place = tmp_path / "xml"
        place.mkdir()
        for name, text in PUBTATOR.items():
            collection = bioc.BioCCollection()
            for document in pubtator.load(io.StringIO(text)):
                collection.add_document(bioc_document(document))
            with open(place / f"CDR_{name}Set.BioC.xml", "w", encoding="utf-8") as file:
                bioc.biocxml.dump(collection, file)
        prepare(corpora.CORPORA["bc5cdr"], place, tmp_path / "again", Options())
        for task, folder in folders.items():
            for name in tasks.get(task).filenames.values():
                assert (tmp_path / "again" / task / name).read_text() == (folder / name).read_text()


def bioc_document(document: object) -> object:
    import bioc

    found = bioc.BioCDocument()
    found.id = document.pmid  # type: ignore[attr-defined]
    title, abstract = document.title, document.abstract  # type: ignore[attr-defined]
    for offset, text in ((0, title), (len(title) + 1, abstract)):
        passage = bioc.BioCPassage()
        passage.offset, passage.text = offset, text
        for number, mention in enumerate(document.annotations):  # type: ignore[attr-defined]
            if not offset <= mention.start < offset + len(text):
                continue
            for role in ("CompositeMention", "IndividualMention") if "and" in mention.text else ("",):
                one = bioc.BioCAnnotation()
                one.id, one.text = f"{number}{role}", mention.text
                one.infons = {"type": mention.type} | ({"CompositeRole": role} if role else {})
                one.add_location(bioc.BioCLocation(mention.start, mention.end - mention.start))
                passage.add_annotation(one)
        found.add_passage(passage)
    return found


def test_ddi(tmp_path: Path) -> None:
    folders = convert("ddi2013", tmp_path)
    assert rows(folders["ddi2013"])[1:] == [
        ["T1.s0.p0", "Give @BRAND$, @GROUP$ or beta-blockers with oxo-drug.", "DDI-effect"],
        ["T1.s0.p1", "Give @BRAND$, alpha- or beta-blockers with @DRUG_N$.", "DDI-false"],
        ["T1.s0.p2", "Give Tylenol, alpha- or beta-blockers with @DRUG_N-DRUG$.", "DDI-false"],
    ]
    content = json.loads((folders["ddi2013"] / "manifest.json").read_text())
    assert content["left_out"] == {"pairs that interact, but do not say how": 5}
    assert content["splits"]["dev"]["documents"] == 1 and content["splits"]["train"]["documents"] == 3


@pytest.mark.parametrize(
    ("offsets", "left_out", "corrected"),
    [("6-12", 0, 1), ("4-10", 0, 1), ("3-9", 0, 1), ("9-15", 2, 0), ("14-20", 2, 0), ("5-12", 2, 0)],
)
def test_offsets_of_ddi_lead_to_the_text(tmp_path: Path, offsets: str, left_out: int, corrected: int) -> None:
    """A drug that is off by a few characters is found; pairs of one that is elsewhere are left out, and counted."""
    _, write = SOURCES["ddi2013"]
    path = next(write(tmp_path / "raw").rglob("T1.xml"))
    path.write_text(path.read_text().replace('charOffset="5-11"', f'charOffset="{offsets}"'))
    (done,) = prepare(corpora.CORPORA["ddi2013"], tmp_path / "raw", tmp_path / "out", Options())
    sentences_found = [cells[1] for cells in rows(done.folder)[1:]]
    assert len(sentences_found) == 3 - left_out
    assert all(text.startswith("Give @BRAND$, ") for text in sentences_found[:2] if not left_out)
    counted = done.manifest["left_out"].get("pairs of a drug whose charOffset does not lead to its text", 0)
    assert counted == left_out
    assert done.manifest.get("corrected", {}) == (
        {"drugs whose charOffset is off by a few characters": 1} if corrected else {}
    )


def test_chemprot(tmp_path: Path) -> None:
    folders = convert("chemprot", tmp_path)
    assert rows(folders["chemprot"])[1:] == [
        ["7.T1.T2", "@CHEMICAL$ blocks @GENE$.", "CPR:4"],
        ["7.T1.T2", "@CHEMICAL$ blocks @GENE$.", "CPR:3"],
        ["7.T5.T4", "@GENE$ fell; @CHEMICAL$ did not.", "false"],
        ["7.T5.T6", "KinB fell; @CHEM-GENE$ did not.", "false"],
    ]
    content = json.loads((folders["chemprot"] / "manifest.json").read_text())
    assert content["left_out"]["test: relations of mentions in different sentences"] == 1


def test_hoc(tmp_path: Path) -> None:
    folders = convert("hoc", tmp_path, dev_ids=frozenset({"3"}), test_ids=frozenset({"4"}))
    none = "0_0,1_0,2_0,3_0,4_0,5_0,6_0,7_0,8_0,9_0"
    assert rows(folders["hoc"])[1:] == [
        [none, "Cells grow .", "4_s0"],
        [none.replace("2_0", "2_1").replace("7_0", "7_1"), "They spread .", "4_s1"],
        [none, "Results .", "4_s2"],
    ]
    content = json.loads((folders["hoc"] / "manifest.json").read_text())
    assert content["left_out"] == {"documents without a hallmark": 1}
    assert content["splits"]["dev"]["chosen"] == "the 1 ids of --dev_ids"
    assert content["splits"]["test"]["labels"] == {"2": 1, "7": 1, "none": 2}


@pytest.mark.parametrize(
    ("source", "second", "score"), [("biosses", "Two 7 .", "3.2"), ("biosses_docx", "Two 7 .", "3.5")]
)
def test_biosses(tmp_path: Path, source: str, second: str, score: str) -> None:
    folders = convert(source, tmp_path, test_ids=frozenset({"7"}))
    assert rows(folders["biosses"]) == [
        ["index", "sentence1", "sentence2", "score"],
        ["7", "One 7 .", "Two 7 .", score],
    ]


def test_mednli(tmp_path: Path) -> None:
    folders = convert("mednli", tmp_path)
    assert rows(folders["mednli"], "dev")[1] == ["dev-0", "He has 0 .", "He is well .", "entailment"]


def test_medsts(tmp_path: Path) -> None:
    folders = convert("medsts", tmp_path)
    assert rows(folders["medsts"])[4] == ["3", "he takes 3 pills", "she takes 3 pills", "1.5"]
    assert [len(rows(folders["medsts"], split)) for split in SPLITS] == [10, 2, 11]


class TestI2b2:
    def test_rows(self, tmp_path: Path) -> None:
        folders = convert("i2b2_2010", tmp_path)
        assert rows(folders["i2b2_2010"])[1:] == [
            ["0099.0099.con.l0.0099.con.l1", "He received @TREATMENT$ for @PROBLEM$ .", "TrAP"],
            ["0099.0099.con.l2.0099.con.l3", "@TEST$ showed @PROBLEM$ .", "TeRP"],
        ]
        content = json.loads((folders["i2b2_2010"] / "manifest.json").read_text())
        assert content["splits"]["dev"]["documents"] == 1 and content["splits"]["train"]["documents"] == 5

    @pytest.mark.parametrize(
        ("file", "old", "new", "part"),
        [
            ("concept/0099.con", "2:3 2:5", "2:1 2:3", "0099.con:1: the words at that place are not those in quotes"),
            ("concept/0099.con", "2:3 2:5", "9:3 9:5", "0099.con:1: a concept over several lines, or in a line"),
            ("concept/0099.con", '||t="problem"', "||t=problem", "0099.con:2: no concept"),
            ("rel/0099.rel", "TrAP", "TrXX", "0099.rel:1: unknown relation"),
            ("rel/0099.rel", "2:7 2:9", "2:8 2:9", "0099.rel:1: the words at that place"),
            ("rel/0099.rel", 'c="ct" 3:0 3:0||r', 'c="showed" 3:1 3:1||r', "0099.rel:2: a relation of something that"),
        ],
    )
    def test_faults(self, tmp_path: Path, file: str, old: str, new: str, part: str) -> None:
        corpus, write = SOURCES["i2b2_2010"]
        path = write(tmp_path / "raw") / "reference_standard_for_test_data" / file
        path.write_text(path.read_text().replace(old, new, 1))
        with pytest.raises(UserError, match=part):
            prepare(corpora.CORPORA[corpus], tmp_path / "raw", tmp_path / "out", Options())
        assert not list((tmp_path / "out").iterdir())


class TestClefe:
    def test_disjoint_mentions(self, tmp_path: Path) -> None:
        lines = [cells for cells in rows(convert("clefe", tmp_path)["clefe"]) if cells != [""]]
        found = [(cells[0], cells[3]) for cells in lines if cells[3] != "O"]
        assert found == [
            ("left", "B"), ("atrium", "I"), ("dilated", "I"), ("chest", "B"), ("pain", "I"),
            ("shortness", "B"), ("of", "I"), ("breath", "I"),
        ]  # fmt: skip
        between = [cells[3] for cells in lines if cells[0] in ("is", "moderately")]
        assert between == ["O", "O"]

    def test_offsets_are_those_of_the_note(self, tmp_path: Path) -> None:
        lines = [cells for cells in rows(convert("clefe", tmp_path)["clefe"]) if cells != [""]]
        for word, _, offset, _ in lines:
            assert CLINICAL[int(offset) :].startswith(word) or word == "PATTERN"
        starts = {int(cells[2]) for cells in lines if cells[3] == "B"}
        assert starts == {spans[0][0] for spans in DISORDERS}

    def test_what_was_hidden_is_one_word_and_rules_are_none(self, tmp_path: Path) -> None:
        found = [cells[0] for cells in rows(convert("clefe", tmp_path)["clefe"]) if cells != [""]]
        assert found[:5] == ["Admission", "Date", ":", "PATTERN", "The"]
        assert "___" not in found and "[" not in found

    def test_both_formats_give_the_same(self, tmp_path: Path) -> None:
        for name, write in (("lines", clefe), ("xml", clefe_xml)):
            prepare(corpora.CORPORA["clefe"], write(tmp_path / name), tmp_path / "out" / name, Options())
        for name in tasks.get("clefe").filenames.values():
            lines, xml = ((tmp_path / "out" / kind / "clefe" / name).read_text() for kind in ("lines", "xml"))
            assert lines == xml

    def test_a_byte_order_mark_within_a_note_is_no_word(self, tmp_path: Path) -> None:
        """As the first word of the file it would be taken for the file's own, and the word would be empty."""
        raw = clefe(tmp_path / "raw")
        (raw / "Task1TestSetCorpus100" / "ALLREPORTS" / "90-ECHO.txt").write_text("\ufeff\ufeff" + CLINICAL[:-9])
        (raw / "Task1Gold_SN2012" / "Gold_SN2012" / "90-ECHO.txt").write_text("")
        (done,) = prepare(corpora.CORPORA["clefe"], raw, tmp_path / "out", Options())
        assert tasks.get("clefe").read(done.folder, "test")[0].texts[0] == "Admission"

    def test_offsets_outside_the_note(self, tmp_path: Path) -> None:
        path = clefe(tmp_path / "raw") / "Task1Gold_SN2012" / "Gold_SN2012" / "90-ECHO.txt"
        path.write_text(path.read_text() + "90-ECHO.txt||Disease_Disorder||C1||5||999\n")
        with pytest.raises(UserError, match=r"90-ECHO\.txt:4: offsets that are not inside the note"):
            prepare(corpora.CORPORA["clefe"], tmp_path / "raw", tmp_path / "out", Options())


class TestParts:
    def test_a_later_mention_takes_a_word(self) -> None:
        spans = words("left atrial enlargement", 0, 23)
        one, other = Mention("1", "", ((0, 23),)), Mention("2", "", ((5, 23),))
        assert tags(spans, [one, other]) == ["B", "B", "I"]
        assert tags(spans, [other, one]) == ["B", "I", "I"]

    @pytest.mark.parametrize("swapped", [False, True])
    def test_marks(self, swapped: bool) -> None:
        text = "give aspirin with ibuprofen now"
        one, other = Mention("1", "DRUG", ((5, 12),)), Mention("2", "BRAND", ((18, 27),))
        assert marked(text, 0, 31, *((other, one) if swapped else (one, other))) == "give @DRUG$ with @BRAND$ now"

    def test_adjacent_mentions_do_not_overlap(self) -> None:
        one, other = Mention("1", "A", ((0, 2),)), Mention("2", "B", ((2, 4),))
        assert marked("abcd", 0, 4, one, other) == "@A$@B$"

    def test_sentences(self) -> None:
        text = 'Dr. Smith gave 5.5 mg. He slept (e.g. at night). "Why?" he asked.\n\nplan: rest'
        assert [text[start:end] for start, end in sentences(text)] == [
            "Dr. Smith gave 5.5 mg.", "He slept (e.g. at night).", '"Why?" he asked.', "plan: rest",
        ]  # fmt: skip

    def test_no_sentence_ends_in_a_mention(self) -> None:
        text = "He took St. John. He slept."
        assert len(sentences(text)) == 2
        assert len(sentences(text, [(12, 20)])) == 1
        assert len(sentences(text, [(12, 17), (0, 3), (18, 20)])) == 2

    def test_drawn_splits(self) -> None:
        names = [str(number) for number in range(100)]
        counts = Counter(assign(names, {"dev": 0.16, "test": 0.2}, Options()).values())
        assert counts == {"train": 64, "dev": 16, "test": 20}
        first, again, other = (assign(names, {"dev": 0.1}, Options(seed=seed)) for seed in (1, 1, 2))
        assert first == again != other
        assert assign(names[::-1], {"dev": 0.1}, Options(seed=1)) == first  # whatever the order of the files

    def test_listed_ids(self) -> None:
        options = Options(dev_ids=frozenset({"2", "5"}))
        found = assign([str(number) for number in range(10)], {"dev": 0.5}, options)
        assert {name for name, split in found.items() if split == "dev"} == {"2", "5"}
        with pytest.raises(UserError, match=r"--dev_ids: 1 of 2 ids are no documents .*\('77'\)"):
            assign(["2"], {"dev": 0.5}, Options(dev_ids=frozenset({"2", "77"})))

"""Reading data files: what is accepted, and that every fault ends in one line with file, line and remedy."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tasks
from harness.task import Example, UserError
from tasks.conll import cut

SECRET = "Mrs Smith was admitted with chest pain"  # stands for clinical text: must not reach a message

PAIR_HEADER = "index\tsentence1\tsentence2\tlabel\n"
RELATION_HEADER = "index\tsentence\tlabel\n"
HOC_HEADER = "labels\tsentence\tindex\n"
NO_LABEL = "0_0,1_0,2_0,3_0,4_0,5_0,6_0,7_0,8_0,9_0"
LABEL_2 = "0_0,1_0,2_1,3_0,4_0,5_0,6_0,7_0,8_0,9_0"


def read(task: str, folder: Path, content: str | bytes, split: str = "test") -> list[Example]:
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / tasks.get(task).filenames[split]).write_bytes(raw)
    return tasks.get(task).read(folder, split)


def complaint(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert "Smith" not in message
    return message


class TestAccepted:
    def test_pairs(self, tmp_path: Path) -> None:
        examples = read("mednli", tmp_path, PAIR_HEADER + 'a1\tHe "sleeps .\tHe is awake .\tcontradiction\n')
        assert examples == [Example("a1", ('He "sleeps .', "He is awake ."), "contradiction")]

    def test_pairs_with_leading_columns_and_without_index(self, tmp_path: Path) -> None:
        many = "index\tgenre\tfilename\tyear\tsentence1\tsentence2\tscore\n7\tn\tf\t2018\tone\ttwo\t4.25\n"
        assert read("medsts", tmp_path, many) == [Example("7", ("one", "two"), 4.25)]
        three = "sentence1\tsentence2\tscore\none\ttwo\t-1e-1\nthree\tfour\t.5"
        assert [(one.id, one.label) for one in read("medsts", tmp_path, three)] == [("test-0", -0.1), ("test-1", 0.5)]

    def test_relations_may_repeat_an_index(self, tmp_path: Path) -> None:
        text = RELATION_HEADER + "1.T1.T2\tx\tCPR:3\n1.T1.T2\tx\tCPR:4\n"
        assert [example.label for example in read("chemprot", tmp_path, text)] == ["CPR:3", "CPR:4"]

    def test_hoc(self, tmp_path: Path) -> None:
        (example,) = read("hoc", tmp_path, HOC_HEADER + LABEL_2 + "\tCells grow .\t12_s3\n")
        assert example == Example("12_s3", ("Cells grow .",), (0, 0, 1, 0, 0, 0, 0, 0, 0, 0), "12")

    def test_sentences_of_words(self, tmp_path: Path) -> None:
        text = "No\t1\t0\tO\n\n\nlung\t-\t3\tB\ncancer\t-\t8\tI\n   \nend\t-\t9\tO"  # no line end, no empty line
        examples = read("bc5cdr_disease", tmp_path, text)
        assert examples == [
            Example("test-0", ("No",), ("O",), "test-0"),
            Example("test-1", ("lung", "cancer"), ("B", "I"), "test-1"),
            Example("test-2", ("end",), ("O",), "test-2"),
        ]
        assert [example.document for example in examples] == ["1", "1", "1"]

    def test_hash_lines_are_comments_in_clefe_only(self, tmp_path: Path) -> None:
        text = "### note-1\nHe\tn\t0\tO\n###\tn\t3\tO\nfell\tn\t4\tB\n\n"
        assert [example.texts for example in read("clefe", tmp_path, text)] == [("He", "fell")]
        words = read("bc5cdr_chem", tmp_path, text.removeprefix("### note-1\n"))
        assert [example.texts for example in words] == [("He", "###", "fell")]

    @pytest.mark.parametrize("task", ["mednli", "bc5cdr_disease"])
    def test_byte_order_mark_crlf_and_missing_last_line_end(self, tmp_path: Path, task: str) -> None:
        text = PAIR_HEADER + "1\ta\tb\tneutral\n" if task == "mednli" else "Pain\t1\t0\tB\n\nNo\t1\t5\tO\n\n"
        plain = read(task, tmp_path, text)
        assert read(task, tmp_path, b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()) == plain
        assert read(task, tmp_path, text.rstrip("\n")) == plain
        assert read(task, tmp_path, text + "\n\n") == plain

    def test_only_line_ends_end_a_line(self, tmp_path: Path) -> None:
        odd = "a\u2028b\x0cc\x85d \u00a0e"
        (example,) = read("mednli", tmp_path, PAIR_HEADER + f"1\t{odd}\tx\tneutral\n")
        assert example.texts[0] == odd

    def test_file_names(self) -> None:
        published = {"train": "train.tsv", "dev": "devel.tsv", "test": "test.tsv"}
        assert tasks.get("bc5cdr_chem").filenames == tasks.get("bc5cdr_disease").filenames == published
        assert list(tasks.get("clefe").filenames.values()) == ["Training.tsv", "Development.tsv", "Test.tsv"]


BAD_ROWS = [
    # task, content, line, part of the message
    ("mednli", PAIR_HEADER + f"1\t{SECRET}\tb\n", 2, "3 column(s), 4 columns expected"),
    ("mednli", PAIR_HEADER + f"1\ta\t{SECRET}\tb\tneutral\n", 2, "5 column(s)"),
    ("mednli", "label\n", 1, "1 column(s), 3 or more columns expected"),
    ("mednli", PAIR_HEADER + "1\ta\tb\tneutral\n\n2\ta\tb\tneutral\n", 3, "empty line"),
    ("mednli", PAIR_HEADER + "1\ta\tb\tmaybe\n", 2, "unknown label 'maybe'; use one of contradiction, entailment"),
    ("mednli", PAIR_HEADER + "1\ta\tb\tNeutral\n", 2, "unknown label 'Neutral'"),
    ("mednli", PAIR_HEADER + f"1\ta\tb\t{SECRET}\n", 2, "unknown label (a text of 38 characters)"),
    ("mednli", PAIR_HEADER + f"1\t{SECRET}\t \tneutral\n", 2, "empty sentence"),
    ("mednli", PAIR_HEADER + f"1\t\t{SECRET}\tneutral\n", 2, "empty sentence"),
    ("mednli", PAIR_HEADER + "\ta\tb\tneutral\n", 2, "empty index"),
    ("mednli", PAIR_HEADER, 1, "no examples after the header"),
    ("mednli", f"1\t{SECRET}\tb\tNEUTRAL \n2\ta\tb\tneutral\n", 1, "unknown label 'NEUTRAL '"),
    ("mednli", f"1\t{SECRET} and more than that\tb\tx\n2\ta\tb\tneutral\n", 1, "unknown label 'x'"),
    ("mednli", "1\ta\tb\tmaybe\n2\ta\tb\tneutral\n", 1, "neither a header with names that are known nor a row"),
    ("medsts", "1\ta\tb\t3,5\n2\ta\tb\t1\n", 1, "score '3,5' is no finite number"),
    ("medsts", "1\ta\tb\tnan\n2\ta\tb\t1\n", 1, "score 'nan' is no finite number"),
    *[
        ("biosses", PAIR_HEADER + f"1\t{SECRET}\tb\t1\n2\t{SECRET}\tb\t{score}\n", 3, f"score {score!r} is no finite")
        for score in ("nan", "inf", "-inf", "1e999", "high", "", "3,5", "1_0", "0x1", "٣", " 1")
    ],
    ("biosses", PAIR_HEADER + f"1\t3.5\tb\t{SECRET}\n", 2, "score (a text of 38 characters) is no finite number"),
    ("ddi2013", RELATION_HEADER + f"1\t{SECRET}\tfalse\n", 2, "unknown label 'false'; use one of DDI-advise"),
    ("chemprot", RELATION_HEADER + f"1\t{SECRET}\tCPR:1\n", 2, "unknown label 'CPR:1'"),
    ("chemprot", RELATION_HEADER + f"1\t{SECRET}\tx\tfalse\n", 2, "4 column(s), 3 columns expected"),
    ("i2b2_2010", RELATION_HEADER + "1\t\tfalse\n", 2, "empty sentence"),
    ("i2b2_2010", "label\n", 1, "1 column(s), 2 to 3 columns expected (index sentence label)"),
    ("hoc", HOC_HEADER + f"{NO_LABEL}\t{SECRET}\t1_s0\n{LABEL_2}\tx\t1_s0\n", 3, "'1_s0' is already in line 2"),
    ("hoc", HOC_HEADER + f"0_0,1_1\t{SECRET}\t1_s0\n", 2, "labels '0_0,1_1' not of the form 0_0,1_0"),
    ("hoc", HOC_HEADER + f"{NO_LABEL.replace('3_0', '3_2')}\t{SECRET}\t1_s0\n", 2, "characters) not of the form"),
    ("hoc", HOC_HEADER + f"{NO_LABEL},10_0\t{SECRET}\t1_s0\n", 2, "characters) not of the form"),
    ("hoc", HOC_HEADER + f"{NO_LABEL}\t{SECRET}\t1-0\n", 2, "index '1-0' not of the form"),
    ("hoc", HOC_HEADER + f"{NO_LABEL}\t\t1_s0\n", 2, "empty sentence"),
    ("hoc", HOC_HEADER + f"{NO_LABEL}\t{SECRET}\n", 2, "2 column(s)"),
    ("hoc", f"0_0,1_1\t{SECRET}\t1_s0\n", 1, "labels '0_0,1_1' not of the form"),
    (
        "bc5cdr_chem",
        "token\tpmid\toffset\tlabel\nNo\t1\t0\tO\n",
        1,
        "a header where none belongs (its tag 'label')",
    ),
    ("bc5cdr_chem", "token\tlabel\nNo\t1\t0\tO\n", 1, "a header where none belongs"),
    ("bc5cdr_chem", "No\t1\t0\tB-Disease\n", 1, "unknown label 'B-Disease'; use one of B, I, O"),
    ("bc5cdr_chem", "No\t1\t0\tO\npain\t1\t3\tb\n", 2, "unknown label 'b'"),
    ("bc5cdr_chem", "No\t1\t0\tO\npain\t1\t3\n", 2, "3 column(s), 4 expected"),
    ("bc5cdr_chem", "No\t1\t0\tO\npain\t1\t3\tO\tB\n", 2, "5 column(s)"),
    ("bc5cdr_chem", "No 1 0 O\n", 1, "1 column(s), 4 expected"),
    ("bc5cdr_chem", "No\t1\t0\tO\n\t1\t3\tB\n", 2, "empty word"),
    ("bc5cdr_chem", "No\t1\t0\tO\n\t\t\tO\n", 2, "empty word"),
    ("clefe", "### a\ntoken\tnote\toffset\ttag\n", 2, "a header where none belongs"),
    ("clefe", "### a\n\n### b\n", 1, "no examples"),
]


class TestHeaders:
    """A header is known by its names, in each file for itself: no row is lost, no header is counted."""

    @pytest.mark.parametrize(
        ("task", "header", "row"),
        [
            ("mednli", "pairID\tsentence1\tsentence2\tgold_label", "1\ta\tb\tneutral"),
            ("mednli", "premise\thypothesis\tlabel", "a\tb\tneutral"),
            ("medsts", "Index\tSentence 1\tSentence 2\tScore", "1\ta\tb\t2.5"),
            ("chemprot", "index\tsentence\tlabel", "1.T1.T2\ta\tCPR:3"),
            ("ddi2013", "sentence\tlabel", "a\tDDI-int"),
            ("hoc", "labels\tsentence\tindex", f"{NO_LABEL}\ta\t1_s0"),
        ],
    )
    def test_with_and_without(self, tmp_path: Path, task: str, header: str, row: str) -> None:
        plain = read(task, tmp_path, f"{row}\n{row.replace('1_s0', '1_s1')}\n")
        assert len(plain) == 2
        assert read(task, tmp_path, f"{header}\n{row}\n{row.replace('1_s0', '1_s1')}\n") == plain

    def test_two_columns_are_a_sentence_and_its_label(self, tmp_path: Path) -> None:
        assert read("chemprot", tmp_path, "a\tfalse\n") == [Example("test-0", ("a",), "false")]


PANDAS = [  # rows as they are meant, some of which must be quoted
    ("1", 'He said "no" .', "He slept .", "neutral"),
    ("2", '"', "a\tb", "neutral"),
    ("3", "two\nlines", 'ends with "', "entailment"),
]


def table(rows: list[tuple[str, ...]], quoting: int = csv.QUOTE_MINIMAL, end: str = "\n") -> str:
    stream = io.StringIO()
    header = ("index", "sentence1", "sentence2", "label")
    csv.writer(stream, delimiter="\t", quoting=quoting, lineterminator=end).writerows([header, *rows])  # type: ignore[arg-type]
    return stream.getvalue()


class TestQuotes:
    @pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_a_table_as_pandas_writes_it(self, tmp_path: Path, quoting: int, end: str) -> None:
        found = read("mednli", tmp_path, table(PANDAS, quoting, end).encode())
        assert [one.texts for one in found] == [
            ('He said "no" .', "He slept ."), ('"', "a b"), ("two lines", 'ends with "'),
        ]  # fmt: skip
        assert [(one.id, one.label) for one in found] == [("1", "neutral"), ("2", "neutral"), ("3", "entailment")]

    def test_the_line_of_a_fault_counts_lines_of_the_file(self, tmp_path: Path) -> None:
        text = table([*PANDAS, ("4", "a", "b", "maybe")])
        assert "test.tsv:6: unknown label 'maybe'" in complaint(lambda: read("mednli", tmp_path, text))

    @pytest.mark.parametrize(
        "rows",
        [
            ['1\t"Why ?" he said .\tb\tneutral'],
            ['1\t"a\tb\tneutral', '2\tc\td"\tneutral'],  # a quoted field from one row to the next
            ['1\t"a"\tb\tneutral', "2\tc\td\tneutral"],  # nothing in it that asks for quotes
            ['1\t"a ""b"""\t"c\tneutral'],
            ['1\ta""b\t"\tneutral'],
        ],
    )
    def test_a_quote_is_an_ordinary_character(self, tmp_path: Path, rows: list[str]) -> None:
        found = read("mednli", tmp_path, PAIR_HEADER + "\n".join(rows) + "\n")
        assert [(one.id, *one.texts, one.label) for one in found] == [tuple(row.split("\t")) for row in rows]


FOREIGN = [  # content, part of the message
    (b"PK\x03\x04rest", "a zip archive or an Excel workbook; unpack the archive, or save it as UTF-8 text"),
    (b"\x1f\x8b\x08rest", "compressed by gzip; unpack it"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer, not the file; fetch"),
    (b"<!DOCTYPE html>\n<html>", "a web page, not the data"),
    (b'{"gold_label": "neutral"}\n{"gold_label": "neutral"}\n', "JSON, not a table; write its fields"),
    (b'[\n{"a": 1}\n]\n', "JSON, not a table"),
    (b"index,sentence1,sentence2,label\n1,a,b,neutral\n", "columns are separated by commas here"),
    (b"index;sentence1;sentence2;label\n1;a;b;neutral\n", "columns are separated by semicolons here"),
    (b"index\tsentence1\tsentence2\tlabel\n0\t1\ta\tb\tneutral\n", ":2: 5 column(s), 4 columns expected (as in line 1);"
     " give the first column a name in line 1, or remove it from the rows"),
]  # fmt: skip


class TestRefused:
    @pytest.mark.parametrize(("content", "part"), FOREIGN, ids=range(len(FOREIGN)))
    def test_other_kinds_of_file_are_named(self, tmp_path: Path, content: bytes, part: str) -> None:
        assert part in complaint(lambda: read("mednli", tmp_path, content))

    def test_the_row_numbers_of_pandas(self, tmp_path: Path) -> None:
        message = complaint(lambda: read("chemprot", tmp_path, "\tindex\tsentence\tlabel\n0\t1\ta\tfalse\n"))
        assert "4 column(s), 2 to 3 columns expected" in message and "index=False" in message

    @pytest.mark.parametrize(("task", "content", "line", "part"), BAD_ROWS, ids=range(len(BAD_ROWS)))
    def test_bad_line(self, tmp_path: Path, task: str, content: str, line: int, part: str) -> None:
        message = complaint(lambda: read(task, tmp_path, content))
        path = tmp_path / tasks.get(task).filenames["test"]
        assert message.startswith(f"{path}:{line}: ")
        assert part in message
        assert "; " in message.removeprefix(f"{path}")  # a remedy follows

    @pytest.mark.parametrize("task", list(tasks.TASKS))
    @pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"  \r\n"])
    def test_empty_file(self, tmp_path: Path, task: str, content: bytes) -> None:
        message = complaint(lambda: read(task, tmp_path, content))
        assert message.startswith(f"{tmp_path / tasks.get(task).filenames['test']}:1: the file is empty")

    @pytest.mark.parametrize("task", list(tasks.TASKS))
    @pytest.mark.parametrize(
        ("line", "part"),
        [
            (SECRET.encode() + b" caf\xe9", "not UTF-8 (byte 0xe9 at position 43)"),
            (SECRET.encode() + b"\0", "NUL byte"),
            (SECRET.encode() + b"\rx", "carriage return inside the line"),
        ],
        ids=["latin-1", "nul", "cr"],
    )
    def test_not_text(self, tmp_path: Path, task: str, line: bytes, part: str) -> None:
        message = complaint(lambda: read(task, tmp_path, b"index\n\n" + line + b"\n"))
        assert message.startswith(f"{tmp_path / tasks.get(task).filenames['test']}:3: {part}")

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
    def test_other_encodings(self, tmp_path: Path, encoding: str) -> None:
        content = (PAIR_HEADER + f"1\t{SECRET}\tb\tneutral\n").encode(encoding)
        message = complaint(lambda: read("mednli", tmp_path, content))
        assert "test.tsv:1: " in message
        assert "save the file as UTF-8" in message

    @pytest.mark.parametrize("task", list(tasks.TASKS))
    def test_missing_file(self, tmp_path: Path, task: str) -> None:
        names = tasks.get(task).filenames
        (tmp_path / names["train"]).write_text("x")
        message = complaint(lambda: tasks.get(task).read(tmp_path, "dev"))
        assert message.startswith(f"{tmp_path / names['dev']}: no such file")
        assert all(name in message for name in names.values())
        assert message.endswith(f"missing: {names['dev']}, {names['test']}")

    def test_missing_folder(self, tmp_path: Path) -> None:
        message = complaint(lambda: tasks.get("hoc").read(tmp_path / "nowhere", "dev"))
        assert message == f"{tmp_path / 'nowhere'}: no such folder; looked for a folder that holds " + (
            "train.tsv, dev.tsv, test.tsv"
        )
        (tmp_path / "file").write_text("x")
        assert "is a file, not a folder" in complaint(lambda: tasks.get("hoc").read(tmp_path / "file", "dev"))

    def test_line_end_in_a_folder_name(self, tmp_path: Path) -> None:
        message = complaint(lambda: tasks.get("hoc").read(tmp_path / "no\nwhere", "dev"))
        assert "no where" in message or "no\\nwhere" in message
        folder = tmp_path / "two\nlines"
        folder.mkdir()
        assert "lines/test.tsv:1" in complaint(lambda: read("hoc", folder, "x"))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_no_permission(self, tmp_path: Path) -> None:
        read("mednli", tmp_path, PAIR_HEADER + "1\ta\tb\tneutral\n")
        (tmp_path / "test.tsv").chmod(0)
        assert "cannot be read" in complaint(lambda: tasks.get("mednli").read(tmp_path, "test"))


class TestCut:
    def test_short_sentences_stay_whole(self) -> None:
        assert cut(["B"] * 30) == [(0, 30)]
        assert cut(["O"] * 30) == [(0, 30)]
        assert cut(["O"]) == [(0, 1)]

    def test_cut_after_the_last_o_of_the_first_30(self) -> None:
        assert cut(["O"] * 31) == [(0, 30), (30, 31)]
        assert cut(["O"] * 20 + ["B"] + ["I"] * 14) == [(0, 20), (20, 35)]
        assert cut(["O"] + ["B"] * 30) == [(0, 1), (1, 31)]

    def test_no_o_at_all_gives_single_words(self) -> None:
        assert cut(["B"] + ["I"] * 31) == [(0, 1), (1, 2), (2, 32)]

    def test_pieces_carry_their_sentence(self, tmp_path: Path) -> None:
        long = "".join(f"w{number}\t-\t0\tO\n" for number in range(65))
        examples = read("bc5cdr_chem", tmp_path, "a\t-\t0\tB\n\n" + long)
        assert [(one.id, one.group, len(one.texts)) for one in examples] == [
            ("test-0", "test-0", 1),
            ("test-1.0", "test-1", 30),
            ("test-1.1", "test-1", 30),
            ("test-1.2", "test-1", 5),
        ]

    @given(st.lists(st.sampled_from("BIO"), min_size=1, max_size=120))
    def test_pieces_make_up_the_sentence(self, tags: list[str]) -> None:
        pieces = cut(tags)
        assert [index for start, end in pieces for index in range(start, end)] == list(range(len(tags)))
        assert all(1 <= end - start <= 30 for start, end in pieces)
        for start, end in pieces[:-1]:
            assert tags[end - 1] == "O" or end - start == 1


FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\0\ufeff"), min_size=1).filter(
    str.strip
)
SCRAPS = [b"\t", b"\n", b"\r\n", b"\r", b" ", b"a", b"B", b"O", b"I\n", b"neutral\n", b"false", b"3.5\n", b"1_s0\n"]
SCRAPS += [b"\xff", b"\0", b"\xef\xbb\xbf", b"\xc2\xa0", b"###", b"index\tsentence\tlabel\n", NO_LABEL.encode() + b"\t"]
ONCE_MORE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)


class TestRoundTrip:
    @ONCE_MORE
    @given(st.lists(st.tuples(FIELD, FIELD, FIELD, st.floats(allow_nan=False, allow_infinity=False)), min_size=1))
    def test_pairs(self, tmp_path: Path, rows: list[tuple[str, str, str, float]]) -> None:
        text = PAIR_HEADER + "".join(f"{index}\t{one}\t{two}\t{score!r}\n" for index, one, two, score in rows)
        examples = read("biosses", tmp_path, text)
        assert [(one.id, *one.texts, one.label) for one in examples] == rows

    @ONCE_MORE
    @given(st.lists(st.tuples(FIELD, FIELD, st.sampled_from(tasks.get("i2b2_2010").labels)), min_size=1))
    def test_relations(self, tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
        text = RELATION_HEADER + "".join("\t".join(row) + "\n" for row in rows)
        assert [(one.id, one.texts[0], one.label) for one in read("i2b2_2010", tmp_path, text)] == rows

    @ONCE_MORE
    @given(
        st.lists(st.lists(st.tuples(FIELD, st.sampled_from("BIO")), min_size=1, max_size=70), min_size=1, max_size=5)
    )
    def test_tags(self, tmp_path: Path, sentences: list[list[tuple[str, str]]]) -> None:
        text = "\n".join("".join(f"{word}\t-\t0\t{tag}\n" for word, tag in sentence) for sentence in sentences)
        back: dict[str, list[tuple[str, str]]] = {}
        for example in read("bc5cdr_disease", tmp_path, text):
            back.setdefault(example.group, []).extend(zip(example.texts, example.label, strict=True))
        assert list(back.values()) == sentences


class TestAnything:
    @ONCE_MORE
    @given(st.sampled_from(list(tasks.TASKS)), st.lists(st.sampled_from(SCRAPS), max_size=30).map(b"".join))
    def test_a_file_is_read_or_refused_in_one_line(self, tmp_path: Path, task: str, content: bytes) -> None:
        message = str(tmp_path)
        try:
            assert read(task, tmp_path, content)
        except UserError as error:
            message = str(error)
        assert "\n" not in message
        assert str(tmp_path) in message


# From the README of the data: rows or examples after cutting, then mentions or rows per class.
COUNTS = {
    ("bc5cdr_disease", "train"): (6021, 4560, 118170, {"B": 4182, "I": 2918}),
    ("bc5cdr_disease", "dev"): (6037, 4581, 117453, {"B": 4246, "I": 2723}),
    ("bc5cdr_disease", "test"): (6321, 4797, 124750, {"B": 4424, "I": 2737}),
    ("bc5cdr_chem", "train"): (6037, 4560, 118170, {"B": 5203, "I": 1900}),
    ("bc5cdr_chem", "dev"): (6089, 4581, 117453, {"B": 5347, "I": 1748}),
    ("bc5cdr_chem", "test"): (6377, 4797, 124750, {"B": 5385, "I": 1628}),
    ("clefe", "train"): (629, 600, 6009, {"B": 959}),
    ("clefe", "dev"): (134, 120, 1441, {"B": 252}),
    ("clefe", "test"): (207, 200, 1905, {"B": 306}),
}
CLASSES = {
    ("ddi2013", "train"): {
        "DDI-advise": 719,
        "DDI-effect": 1464,
        "DDI-int": 176,
        "DDI-mechanism": 1144,
        "DDI-false": 20769,
    },
    ("ddi2013", "dev"): {"DDI-advise": 107, "DDI-effect": 223, "DDI-int": 12, "DDI-mechanism": 175, "DDI-false": 3002},
    ("ddi2013", "test"): {"DDI-advise": 221, "DDI-effect": 360, "DDI-int": 96, "DDI-mechanism": 302, "DDI-false": 4737},
    ("chemprot", "train"): {"CPR:3": 768, "CPR:4": 2251, "CPR:5": 173, "CPR:6": 235, "CPR:9": 727, "false": 14860},
    ("chemprot", "dev"): {"CPR:3": 550, "CPR:4": 1094, "CPR:5": 116, "CPR:6": 199, "CPR:9": 457, "false": 9395},
    ("chemprot", "test"): {"CPR:3": 665, "CPR:4": 1661, "CPR:5": 195, "CPR:6": 293, "CPR:9": 644, "false": 13122},
    ("i2b2_2010", "dev"): {
        "PIP": 10,
        "TeCP": 5,
        "TeRP": 14,
        "TrAP": 10,
        "TrCP": 6,
        "TrIP": 6,
        "TrNAP": 8,
        "TrWP": 9,
        "false": 52,
    },
    ("i2b2_2010", "test"): {
        "PIP": 21,
        "TeCP": 7,
        "TeRP": 23,
        "TrAP": 13,
        "TrCP": 13,
        "TrIP": 10,
        "TrNAP": 17,
        "TrWP": 8,
        "false": 88,
    },
}
HOC = {
    "train": (1108, 10397, 7328, [472, 168, 146, 196, 257, 546, 209, 595, 691, 330]),
    "dev": (157, 1522, 1063, [60, 19, 21, 29, 39, 61, 49, 61, 113, 70]),
    "test": (315, 3000, 2085, [135, 39, 46, 70, 70, 161, 100, 176, 189, 118]),
}
PAIRS = {"biosses": (64, 16, 20), "medsts": (600, 120, 200), "mednli": (600, 120, 200), "i2b2_2010": (600, 120, 200)}


@pytest.mark.realdata
class TestRealData:
    @pytest.fixture
    def folder(self) -> Callable[[str], Path]:
        root = os.environ.get("BLUE_DATA_DIR")
        if not root:
            pytest.skip("BLUE_DATA_DIR is not set")

        def find(task: str) -> Path:
            real = Path(root) / "blue" / task
            return real if real.is_dir() else Path(root) / "blue_synthetic" / task

        return find

    @pytest.mark.parametrize(("task", "split"), COUNTS)
    def test_tags(self, folder: Callable[[str], Path], task: str, split: str) -> None:
        count, sentences, words, wanted = COUNTS[task, split]
        examples = tasks.get(task).read(folder(task), split)
        tags = Counter(tag for example in examples for tag in example.label)
        assert len(examples) == count
        assert len({example.group for example in examples}) == sentences
        assert tags.total() == words
        assert {tag: tags[tag] for tag in wanted} == wanted
        assert max(len(example.texts) for example in examples) <= 30

    @pytest.mark.parametrize(("task", "split"), CLASSES)
    def test_classes(self, folder: Callable[[str], Path], task: str, split: str) -> None:
        examples = tasks.get(task).read(folder(task), split)
        assert Counter(example.label for example in examples) == CLASSES[task, split]

    @pytest.mark.parametrize("split", HOC)
    def test_hoc(self, folder: Callable[[str], Path], split: str) -> None:
        documents, sentences, without, labels = HOC[split]
        examples = tasks.get("hoc").read(folder("hoc"), split)
        assert len({example.group for example in examples}) == documents
        assert len(examples) == sentences
        assert sum(1 for example in examples if not any(example.label)) == without
        assert [sum(column) for column in zip(*(example.label for example in examples), strict=True)] == labels

    @pytest.mark.parametrize("task", PAIRS)
    def test_sizes(self, folder: Callable[[str], Path], task: str) -> None:
        assert (
            tuple(len(tasks.get(task).read(folder(task), split)) for split in ("train", "dev", "test")) == PAIRS[task]
        )

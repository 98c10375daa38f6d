"""Tag schemes and types of mention: what is recognised, what is read, and remedies that are right when followed."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from running import refused

import tasks
from harness.task import Example, UserError
from launch import score
from launch.run import settings
from tasks import definition as definitions
from tasks.conll import Evidence, Tag, plain_tags, vocabulary
from tasks.metrics import mentions

Mention = tuple[int, int, str]  # first word, word after the last, type
DEFINITION = (
    'name = "signs"\nfamily = "tagging"\nmetric = "mention F1"\nlabels = ["Sign"]\nseparator = "blanks"\n'
    'data_dir = "."\n[columns]\nword = 1\ntag = 2\n'
)
SPLITS = ("train", "dev", "test")
# A sentence: words, and where its mentions are. The second has two that touch.
SENTENCES: Sequence[tuple[str, list[Mention]]] = [
    ("Fever and a very sore throat .", [(0, 1, "Sign"), (4, 6, "Sign")]),
    ("No dry cough headache today .", [(1, 3, "Sign"), (3, 4, "Sign")]),
    ("Nothing was found .", []),
]


def spelled(length: int, found: Sequence[Mention], scheme: str) -> list[str]:
    """Tags of a sentence, written as the scheme's own definition says."""
    tags = ["O"] * length
    ends: dict[int, str] = {}
    letters = {"BILOU": "BILU", "BMEWO": "BMEW"}.get(scheme, "BIES")
    for start, end, kind in found:
        for word in range(start, end):
            letter = letters[0] if word == start else letters[1]
            if scheme in ("BIOES", "BILOU", "BMEWO"):
                letter = letters[3] if end == start + 1 else letters[2] if word == end - 1 else letter
            elif scheme == "IO" or (scheme == "IOB1" and ends.get(start) != kind):
                letter = "I"
            tags[word] = f"{letter}-{kind}"
        ends[end] = kind
    return tags


def written(folder: Path, scheme: str, sentences: Sequence[tuple[str, list[Mention]]] = SENTENCES) -> str:
    blocks = []
    for text, found in sentences:
        words = text.split()
        tags = spelled(len(words), found, scheme)
        blocks.append("".join(f"{word} {tag}\n" for word, tag in zip(words, tags, strict=True)))
    content = "\n".join(blocks)
    for split in SPLITS:
        (folder / f"{split}.tsv").write_text(content)
    return content


def read(folder: Path, definition: str = DEFINITION, split: str = "train") -> list[Example]:
    (folder / "task.toml").write_text(definition)
    return settings.named_task(None, str(folder / "task.toml")).read(folder, split)


def labels(examples: Sequence[Example]) -> list[str]:
    return ["".join(example.label) for example in examples]


def complaint(folder: Path, definition: str = DEFINITION, split: str = "train") -> str:
    with pytest.raises(UserError) as raised:
        read(folder, definition, split)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="harness.tasks")
    return caplog


class TestRecognised:
    @pytest.mark.parametrize(
        ("scheme", "name"), [("IOB1", "IOB1"), ("BIOES", "BIOES"), ("BILOU", "BILOU"), ("BMEWO", "BMES")]
    )
    @pytest.mark.parametrize("typed", [True, False])
    def test_scheme(self, scheme: str, name: str, typed: bool, tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
        content = written(tmp_path, scheme)
        definition = DEFINITION
        if not typed:
            (tmp_path / "train.tsv").write_text(content.replace("-Sign", ""))
            definition = DEFINITION.replace('labels = ["Sign"]\n', "")
        assert labels(read(tmp_path, definition)) == ["BOOOBIO", "OBIBOO", "OOOO"]
        (line,) = said.messages
        assert line.startswith(f"tags    {name} in train.tsv: read as IOB2")

    def test_iob2_needs_no_word(self, tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
        written(tmp_path, "IOB2")
        assert labels(read(tmp_path)) == ["BOOOBIO", "OBIBOO", "OOOO"] and not said.messages

    @pytest.mark.parametrize("prefix", ["I-", ""])
    def test_io(self, prefix: str, tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
        content = written(tmp_path, "IO")
        (tmp_path / "train.tsv").write_text(content.replace("I-", prefix))
        assert labels(read(tmp_path)) == ["BOOOBIO", "OBIIOO", "OOOO"]
        assert said.messages[0].startswith("tags    IO in train.tsv")

    def test_types_that_touch(self, tmp_path: Path) -> None:
        """IOB1 has no B where the mention before is of another type, ignored or not."""
        written(tmp_path, "IOB1", [("Dry cough headache today", [(0, 2, "Sign"), (2, 3, "Pain")])])
        ignoring = DEFINITION.replace('["Sign"]', '["Pain"]\nignored = ["Sign"]')
        assert labels(read(tmp_path, ignoring)) == ["OOBO"]
        both = DEFINITION.replace('["Sign"]', '["Sign", "Pain"]\ncollapse_types = true')
        assert labels(read(tmp_path, both)) == ["BIBO"]

    def test_files_of_different_schemes(self, tmp_path: Path) -> None:
        contents = [written(tmp_path, scheme) for scheme in ("IOB1", "BIOES", "IOB2")]
        for split, content in zip(SPLITS, contents, strict=True):
            (tmp_path / f"{split}.tsv").write_text(content)
        for split in SPLITS:
            assert labels(read(tmp_path, split=split)) == ["BOOOBIO", "OBIBOO", "OOOO"]


class TestDisjoint:
    """An I after O where mentions begin with B: a disjoint mention, as CLEFE has them."""

    DISJOINT = "left B-Sign\natrium I-Sign\nis O\ndilated I-Sign\n\nNo O\nfever B-Sign\n"

    def test_stays_and_is_said(self, tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
        written(tmp_path, "IOB2")
        (tmp_path / "train.tsv").write_text(self.DISJOINT)
        assert labels(read(tmp_path)) == ["BIOI", "OB"]
        (line,) = said.messages
        assert f"1 tags I after O or another type, where mentions begin with B; the first in {tmp_path}" in line
        assert "train.tsv:4" in line and "dilated" not in line
        assert labels(read(tmp_path, 'scheme = "IOB1"\n' + DEFINITION)) == ["BIOB", "OB"]  # as the line says

    def test_files_that_contradict_each_other(self, tmp_path: Path) -> None:
        written(tmp_path, "IOB1")
        (tmp_path / "dev.tsv").write_text(self.DISJOINT)
        for split in ("train", "dev"):
            message = complaint(tmp_path, split=split)
            assert message.startswith(f"{tmp_path / 'dev.tsv'}:4: I after O in a file where mentions begin with B")
        ways = re.findall(r'scheme = "\w+"', message)
        train = [labels(read(tmp_path, f"{way}\n{DEFINITION}"))[0] for way in ways]
        dev = [labels(read(tmp_path, f"{way}\n{DEFINITION}", "dev"))[0] for way in ways]
        assert (train, dev) == (["BOOOBIO", "IOOOIIO"], ["BIOB", "BIOI"])

    def test_the_ten_tasks_are_as_they_were(self, tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
        """BC5CDR has sentences that start with I; nothing is recognised there, whatever a file looks like."""
        rows = "atrium\t1\t0\tI\nis\t-\t7\tO\ndilated\t-\t10\tI\n"
        for name in ("bc5cdr_chem", "bc5cdr_disease", "clefe"):
            task = tasks.get(name)
            (tmp_path / task.filenames["test"]).write_text(rows)
            assert labels(task.read(tmp_path, "test")) == ["IOI"]
        assert not said.messages


def mentions_of_a_sentence() -> st.SearchStrategy[tuple[int, list[Mention]]]:
    """(words, mentions): parts of a sentence that are mentions of a type, or O; those of one kind may touch."""
    parts = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["", "A", "C"])), min_size=1, max_size=8)

    def laid(chosen: list[tuple[int, str]]) -> tuple[int, list[Mention]]:
        found, start = [], 0
        for length, kind in chosen:
            if kind:
                found.append((start, start + length, kind))
            start += length
        return start, found

    return parts.map(laid)


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES", "BILOU", "BMEWO"])
@given(sentences=st.lists(mentions_of_a_sentence(), min_size=1, max_size=6))
def test_the_same_mentions_come_back(scheme: str, sentences: list[tuple[int, list[Mention]]]) -> None:
    known = vocabulary("auto", ["A", "C"], [], plain=False)
    tagged = [[known[tag] for tag in spelled(length, found, scheme)] for length, found in sentences]
    evidence = Evidence()
    for tags in tagged:
        evidence.add(tags, range(len(tags)))
    for (_, found), tags in zip(sentences, tagged, strict=True):
        plain = plain_tags(tags, evidence.is_iob1)
        assert mentions(plain) == {tuple(range(start, end)) for start, end, _ in found}


@given(st.lists(st.lists(st.sampled_from("BIO"), min_size=1, max_size=8), min_size=1, max_size=6))
def test_what_begins_with_b_stays_as_it_is(sentences: list[list[str]]) -> None:
    """Any file of B, I and O where a mention begins with B after O, or that has no I without one."""
    evidence = Evidence()
    for tags in sentences:
        evidence.add([Tag(tag) for tag in tags], range(len(tags)))
    if evidence.b_starts or not evidence.headless:
        assert [plain_tags([Tag(tag) for tag in tags], evidence.is_iob1) for tags in sentences] == sentences


class TestTypes:
    BOTH = "Aspirin B-Drug\nlowered O\nthe O\nfever B-Sign\n. O\n"

    def refused(self, folder: Path, definition: str) -> str:
        for split in SPLITS:
            (folder / f"{split}.tsv").write_text(self.BOTH)
        return complaint(folder, definition)

    def test_two_listed(self, tmp_path: Path) -> None:
        two = DEFINITION.replace('["Sign"]', '["Sign", "Drug"]')
        for split in SPLITS:
            (tmp_path / f"{split}.tsv").write_text(self.BOTH)
        assert read(tmp_path, two)[0].label == ("B-Drug", "O", "O", "B-Sign", "O")
        assert labels(read(tmp_path, f"collapse_types = true\n{two}")) == ["BOOBO"]
        assert labels(read(tmp_path, DEFINITION.replace('["Sign"]', '["Sign"]\nignored = ["Drug"]'))) == ["OOOBO"]

    def test_one_that_is_not_listed(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path, DEFINITION)
        assert message.startswith(f"{tmp_path / 'train.tsv'}:1: unknown label 'B-Drug'; use one of O, B-Sign, I-Sign")
        assert "list the type under `ignored` of the task file, where it counts as O, or under `labels`" in message

    def test_none_listed(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path, DEFINITION.replace('labels = ["Sign"]\n', ""))
        (found,) = re.findall(r"labels = \['\w+'\]", message)
        assert found == "labels = ['Drug']"
        assert "'B-Sign'" in complaint(tmp_path, DEFINITION.replace('labels = ["Sign"]', found))  # one after another

    def test_plain_tags_where_a_type_is_listed(self, tmp_path: Path) -> None:
        (tmp_path / "train.tsv").write_text(self.BOTH.replace("-Sign", "").replace("-Drug", ""))
        assert "leave `labels` and `ignored` out of the task file" in complaint(tmp_path)
        assert labels(read(tmp_path, DEFINITION.replace('labels = ["Sign"]\n', ""))) == ["BOOBO"]

    def test_the_default_said_is_the_same_definition(self, tmp_path: Path) -> None:
        plain, longer = tmp_path / "a.toml", tmp_path / "b.toml"
        plain.write_text(DEFINITION)
        longer.write_text(f'collapse_types = false\nscheme = "auto"\n{DEFINITION}')
        assert definitions.read(plain) == definitions.read(longer)
        before = {**definitions.read(plain)[0], "labels": ["Sign", "Drug"]}  # as a run of before the key recorded it
        assert definitions.build(before).labels == ("B", "I", "O")  # they counted as one


class TestPredictions:
    """Files of other people for launch/score.py: both columns in the scheme of the gold one."""

    def scored(
        self, folder: Path, rows: Sequence[str], capsys: pytest.CaptureFixture[str], *more: str, task: str = DEFINITION
    ) -> float:
        (folder / "task.toml").write_text(task)
        (folder / "pred.tsv").write_text("token\tgold\tprediction\n" + "\n".join(rows) + "\n")
        capsys.readouterr()
        argv = ["--task_file", str(folder / "task.toml"), "--predictions", str(folder / "pred.tsv"), *more]
        assert score.main(argv) == 0
        found: float = json.loads(capsys.readouterr().out)["score"]
        return found

    def rows(self, folder: Path, scheme: str) -> list[str]:
        lines = [line.split() for line in written(folder, scheme).splitlines()]
        return ["\t".join((*cells, cells[1])) if cells else "" for cells in lines]

    @pytest.mark.parametrize("scheme", ["IOB1", "IO", "IOB2", "BIOES", "BILOU", "BMEWO"])
    def test_a_perfect_system(self, scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows = self.rows(tmp_path, scheme)
        assert self.scored(tmp_path, rows, capsys) == 1.0
        assert self.scored(tmp_path, rows, capsys, "--data_dir", str(tmp_path)) == 1.0
        named = {"BMEWO": "BIOES"}.get(scheme, scheme)
        assert self.scored(tmp_path, rows, capsys, task=f'scheme = "{named}"\n{DEFINITION}') == 1.0

    def test_our_own_file_of_a_bad_model(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """It began no mention: I after O in its column is no sign of a scheme."""
        written(tmp_path, "IOB1")
        rows = ["Fever\tB\tI", "and\tO\tO", "cough\tB\tI"]
        for scheme in ("", 'scheme = "IOB1"\n', 'scheme = "IO"\n', 'scheme = "BILOU"\n'):
            assert self.scored(tmp_path, rows, capsys, task=scheme + DEFINITION) == 0.0

    def test_another_scheme_than_gold_is_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], said: pytest.LogCaptureFixture
    ) -> None:
        assert self.scored(tmp_path, ["Fever\tB-Sign\tI-Sign", "and\tO\tO"], capsys) == 0.0
        assert "mentions begin with I in the predictions, with B in gold" in said.messages[-1]

    def test_another_type_than_gold(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows = ["Aspirin\tB-Sign\tB-Drug", "helped\tO\tO"]
        ignoring = DEFINITION.replace('["Sign"]', '["Sign"]\nignored = ["Drug"]')
        assert self.scored(tmp_path, rows, capsys, task=ignoring) == 0.0
        (tmp_path / "task.toml").write_text(DEFINITION)
        argv = ("--task_file", str(tmp_path / "task.toml"), "--predictions", str(tmp_path / "pred.tsv"))
        error, _ = refused(score.main, capsys, *argv)
        assert "pred.tsv:2: unknown label 'B-Drug'; use one of B, I, O, B-Sign, I-Sign" in error


class TestPublished:
    """Files of the ten tasks as other repositories have them."""

    def read(self, folder: Path, content: str, task: str = "bc5cdr_disease") -> list[Example]:
        (folder / tasks.get(task).filenames["test"]).write_bytes(content.encode())
        return tasks.get(task).read(folder, "test")

    def refused(self, folder: Path, content: str, task: str = "bc5cdr_disease") -> str:
        with pytest.raises(UserError) as raised:
            self.read(folder, content, task)
        return str(raised.value)

    @pytest.mark.parametrize("separator", ["\t", " "])
    @pytest.mark.parametrize("kind", ["", "-Disease"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_word_and_tag(self, separator: str, kind: str, end: str, tmp_path: Path) -> None:
        lines = ["-DOCSTART- O", "", "No O", f"lung B{kind}", f"cancer I{kind}", "  ", "", f"Pain B{kind}", ". O"]
        content = end.join(line if line.isspace() else line.replace(" ", separator) for line in lines)
        found = self.read(tmp_path, "\ufeff" + content)
        assert [(one.texts, "".join(one.label)) for one in found] == [
            (("No", "lung", "cancer"), "OBI"),
            (("Pain", "."), "BO"),
        ]
        assert [one.document for one in found] == ["1", "1"]

    def test_four_columns_hold(self, tmp_path: Path) -> None:
        """What is wrong in one line of them is told of that line."""
        rows = "No\t1\t0\tO\npain\tO\n.\t1\t8\tO\n"
        assert self.refused(tmp_path, rows).startswith(f"{tmp_path / 'test.tsv'}:2: 2 column(s), 4 expected")

    def test_tags_of_another_task(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path, "Aspirin\tB-Chemical\n")
        assert "unknown label 'B-Chemical'" in message and "take this task's files" in message

    def test_bioes_is_named(self, tmp_path: Path) -> None:
        rows = "Pain\tS-Disease\nlung\tB-Disease\ncancer\tE-Disease\n"
        assert "write S, U and W as B; E, L and M as I" in self.refused(tmp_path, rows)
        (one,) = self.read(tmp_path, rows.replace("S-", "B-").replace("E-", "I-"))
        assert "".join(one.label) == "BBI"

    def test_a_header_is_named_and_a_word_is_none(self, tmp_path: Path) -> None:
        rows = "token\tlabel\nNo\tO\npain\tB\n"
        assert "a header where none belongs (its tag 'label'); remove the line" in self.refused(tmp_path, rows)
        assert len(self.read(tmp_path, rows.split("\n", 1)[1])) == 1
        message = self.refused(tmp_path, "No\tDT\npain\tNN\n")
        assert "unknown label 'DT'" in message and "remove" not in message

    def test_names_of_files(self, tmp_path: Path) -> None:
        self.read(tmp_path, "No O\n")
        (tmp_path / "train.tsv").write_text("No O\n")
        (tmp_path / "dev.txt").write_text("No O\n")
        (tmp_path / "train_dev.tsv").write_text("No O\n")
        with pytest.raises(UserError, match=r"missing: devel\.tsv; rename dev\.txt to devel\.tsv$"):
            tasks.get("bc5cdr_disease").read(tmp_path, "dev")
        (tmp_path / "dev.txt").rename(tmp_path / "devel.tsv")
        assert len(tasks.get("bc5cdr_disease").read(tmp_path, "dev")) == 1
        (tmp_path / "devel.tsv").rename(tmp_path / "devel.csv")
        with pytest.raises(UserError, match=r"missing: devel\.tsv; found devel\.csv, train_dev\.tsv$"):
            tasks.get("bc5cdr_disease").read(tmp_path, "dev")


class TestRemedies:
    """Custom tasks: what a message says to write into the task file, written into it."""

    def test_separator(self, tmp_path: Path) -> None:
        written(tmp_path, "IOB2")
        tabs = DEFINITION.replace('separator = "blanks"\n', "")
        message = complaint(tmp_path, tabs)
        assert message.startswith(f"{tmp_path / 'train.tsv'}:1: 1 column(s), the word in column 1, its tag in column 2")
        (line,) = re.findall(r'separator = "\w+"', message)
        assert len(read(tmp_path, f"{line}\n{tabs}")) == 3

    @pytest.mark.parametrize("comment", ["###MEDLINE:95369245", "# sent_id = 1", "### note-1", "#begin document"])
    @pytest.mark.parametrize("first", [True, False])
    def test_comments(self, comment: str, first: bool, tmp_path: Path) -> None:
        content = written(tmp_path, "IOB2")
        (tmp_path / "train.tsv").write_text(f"{comment}\n{content}" if first else f"{content}\n{comment}\n# O\n")
        message = complaint(tmp_path)
        (line,) = re.findall(r"comment = '[^']+'", message)
        assert len(read(tmp_path, f"{line}\n{DEFINITION}")) == (3 if first else 4)

    def test_tags_in_another_column(self, tmp_path: Path) -> None:
        (tmp_path / "train.tsv").write_text("No DT O\nfever NN B-Sign\n. . O\n")
        message = complaint(tmp_path)
        assert "remove" not in message and "set right under [columns] of the task file" in message
        assert labels(read(tmp_path, DEFINITION.replace("tag = 2", "tag = 3"))) == ["OBO"]

    @pytest.mark.parametrize("scheme", ["IOB2", "BILOU", "IO"])
    def test_scheme_that_is_another(self, scheme: str, tmp_path: Path) -> None:
        written(tmp_path, "BIOES")
        message = complaint(tmp_path, f'scheme = "{scheme}"\n{DEFINITION}')
        assert f"not of scheme {scheme}; leave `scheme` out of the task file" in message
        assert len(read(tmp_path)) == 3


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(
        st.sampled_from(["a O", "b B-Sign", "c I-Sign", "d S-Sign", "e Sign", "", "# x", "f B-X", "g"]), max_size=9
    )
)
def test_any_lines(tmp_path: Path, lines: list[str]) -> None:
    """Read, or refused in one line."""
    for split in SPLITS:
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines))
    (tmp_path / "task.toml").write_text(DEFINITION)
    task = settings.named_task(None, str(tmp_path / "task.toml"))
    try:
        assert all(set(one.label) <= set("BIO") for one in task.read(tmp_path, "train"))
    except UserError as error:
        assert "\n" not in str(error)

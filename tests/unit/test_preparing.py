"""What comes out of `launch/prepare.py CORPUS`: whole folders or none; and what it refuses to open."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from blurb_sources import SOURCES
from corpora_sources import DDI_SENTENCE, ddi_document

from harness.task import UserError
from launch import prepare
from tasks.corpora import CORPORA, archives
from tasks.corpora.sources import Source


def run(corpus: str, source: Path, out: Path, *more: str) -> int:
    return prepare.main([corpus, "--source", str(source), "--out", str(out), *more])


def complaint(capsys: pytest.CaptureFixture[str], corpus: str, source: Path, out: Path, *more: str) -> str:
    """What stderr says: one line, exit status 2, and nothing under a task's name."""
    before = sorted(out.rglob("*")) if out.exists() else []
    capsys.readouterr()
    assert run(corpus, source, out, *more) == 2
    assert (sorted(out.rglob("*")) if out.exists() else []) == before
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


class TestOutput:
    def test_for_the_owner_alone_and_nothing_else_is_left(self, tmp_path: Path) -> None:
        source = SOURCES["bc5cdr"][1](tmp_path / "raw")
        assert run("bc5cdr", source, tmp_path / "out") == 0
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"bc5cdr_disease", "bc5cdr_chem"}
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*") if path.is_file()}
        assert modes == {0o600}
        folders = [tmp_path / "out", *(path for path in (tmp_path / "out").iterdir())]
        assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}

    def test_manifest(self, tmp_path: Path) -> None:
        import hashlib

        source = SOURCES["chemprot"][1](tmp_path / "raw")
        assert run("chemprot", source, tmp_path / "out") == 0
        content = json.loads((tmp_path / "out" / "chemprot" / "manifest.json").read_text())
        files = {entry["file"]: entry["sha256"] for entry in content["sources"]}
        assert len(files) == 9 and not any("relations" in name for name in files)  # only what was opened
        for name, digest in files.items():
            assert hashlib.sha256((source / name).read_bytes()).hexdigest() == digest
        assert content["versions"]["splitter"].startswith("syntok ") and content["options"]["seed"] == 12
        train = content["splits"]["train"]
        assert train["rows"] == 4 and train["documents"] == 1
        assert train["labels"] == {"CPR:3": 1, "CPR:4": 1, "false": 2} and train["chosen"] == "as published"

    def test_many_files_are_one_entry(self, tmp_path: Path) -> None:
        source = SOURCES["hoc"][1](tmp_path / "raw")
        for number in range(100, 220):
            (source / "text" / f"{number}.txt").write_text("A cell .\n")
            (source / "labels" / f"{number}.txt").write_text("< Cellular energetics--")
        assert run("hoc", source, tmp_path / "out") == 0
        entries = json.loads((tmp_path / "out" / "hoc" / "manifest.json").read_text())["sources"]
        assert [(entry["folder"], entry["files"]) for entry in entries] == [("labels", 131), ("text", 130)]

    def test_the_same_again_is_fine_and_anything_else_is_not(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source, out = SOURCES["hoc"][1](tmp_path / "raw"), tmp_path / "out"
        assert run("hoc", source, out) == run("hoc", source, out) == 0
        assert "was there already" in capsys.readouterr().out
        assert "exists and holds other data" in complaint(capsys, "hoc", source, out, "--seed", "13")
        test = out / "hoc" / "test.tsv"
        test.write_text(test.read_text() + "mine\n")
        assert "exists and holds other data" in complaint(capsys, "hoc", source, out)
        assert test.read_text().endswith("mine\n")

    @pytest.mark.parametrize("content", [None, "", "{}", "[]", "{", '{"splits": 1}'])
    def test_a_folder_of_the_users(
        self, tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "out" / "hoc").mkdir(parents=True)
        file = tmp_path / "out" / "hoc" / ("notes.txt" if content is None else "manifest.json")
        file.write_text(content or "")
        message = complaint(capsys, "hoc", SOURCES["hoc"][1](tmp_path / "raw"), tmp_path / "out")
        assert "exists and holds other data" in message
        assert file.read_text() == (content or "")

    def test_archives_and_folders_give_the_same(self, tmp_path: Path) -> None:
        source = SOURCES["ddi2013"][1](tmp_path / "raw")
        for suffix, write in ((".zip", zip_of), (".tar.gz", tar_of)):
            packed = write(tmp_path / f"DDICorpus{suffix}", source)
            assert run("ddi2013", packed, tmp_path / suffix) == 0
            assert run("ddi2013", source, tmp_path / "plain") == 0
            for name in ("train.tsv", "dev.tsv", "test.tsv"):
                ours, theirs = ((tmp_path / place / "ddi2013" / name).read_text() for place in (suffix, "plain"))
                assert ours == theirs

    def test_archives_in_an_archive(self, tmp_path: Path) -> None:
        source = SOURCES["chemprot"][1](tmp_path / "raw")
        inner = tmp_path / "ChemProt_Corpus"
        inner.mkdir()
        for folder in source.iterdir():
            zip_of(inner / f"{folder.name}.zip", folder)
        assert run("chemprot", zip_of(tmp_path / "ChemProt_Corpus.zip", inner), tmp_path / "out") == 0

    @pytest.mark.parametrize("name", SOURCES)
    def test_archives_in_a_folder_as_they_were_downloaded(self, tmp_path: Path, name: str) -> None:
        """One archive each of the folders and files that lie there, and then beside what was unpacked of them."""
        corpus, write = SOURCES[name]
        source = write(tmp_path / "raw")
        assert run(corpus, source, tmp_path / "plain") == 0
        downloads = tmp_path / "downloads"
        downloads.mkdir()
        for number, one in enumerate(sorted(source.iterdir())):
            pack = (zip_of, tar_of)[number % 2]
            suffix = (".zip", ".tar.gz")[number % 2]
            if one.is_dir():
                pack(downloads / f"{one.name}{suffix}", one)
            else:
                (tmp_path / f"part{number}").mkdir()
                shutil.copy(one, tmp_path / f"part{number}")
                pack(downloads / f"part{number}{suffix}", tmp_path / f"part{number}")
        assert run(corpus, downloads, tmp_path / "packed") == 0
        shutil.copytree(source, downloads / "unpacked")
        assert run(corpus, downloads, tmp_path / "both") == 0
        written = [path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*.tsv")]
        assert written
        for path in written:
            contents = {(tmp_path / out / path).read_bytes() for out in ("plain", "packed", "both")}
            assert len(contents) == 1

    def test_the_three_archives_of_the_portal(self, tmp_path: Path) -> None:
        """i2b2 2010: the notes of the test set lie in an archive of their own, one of them without a folder in it."""
        source, downloads = SOURCES["i2b2_2010"][1](tmp_path / "raw"), tmp_path / "downloads"
        assert run("i2b2_2010", source, tmp_path / "plain") == 0
        downloads.mkdir()
        reference = source / "reference_standard_for_test_data"
        with tarfile.open(downloads / "test_data.tar.gz", "w:gz") as file:
            file.add(reference / "txt" / "0099.txt", "0099.txt")
        shutil.rmtree(reference / "txt")
        for folder in source.iterdir():
            tar_of(downloads / f"{folder.name}.tar.gz", folder)
        assert run("i2b2_2010", downloads, tmp_path / "out") == 0
        for name in ("train.tsv", "dev.tsv", "test.tsv"):
            assert (tmp_path / "out/i2b2_2010" / name).read_text() == (tmp_path / "plain/i2b2_2010" / name).read_text()
        names = [
            entry["file"] for entry in json.loads((tmp_path / "out/i2b2_2010/manifest.json").read_text())["sources"]
        ]
        assert "test_data.tar.gz/0099.txt" in names

    def test_an_archive_in_a_folder_that_cannot_be_unpacked(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = SOURCES["hoc"][1](tmp_path / "raw")
        (source / "climbs.zip").write_bytes(HOSTILE["climbs.zip"][0])
        message = complaint(capsys, "hoc", source, tmp_path / "out")
        assert f"{source}/climbs.zip: member" in message and "move it out of the folder" in message
        assert not list(tmp_path.rglob("evil*"))

    def test_what_only_other_programs_unpack_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "raw").mkdir()
        (tmp_path / "raw" / "BIOSSES-Dataset.rar").write_bytes(b"Rar!")
        for source in (tmp_path / "raw", tmp_path / "raw" / "BIOSSES-Dataset.rar"):
            assert "unpack BIOSSES-Dataset.rar first" in complaint(capsys, "biosses", source, tmp_path / "out")

    @pytest.mark.parametrize("corpus", ["bc5cdr", "chemprot", "hoc", "biosses", "mednli", "i2b2_2010", "medsts"])
    def test_byte_order_marks_and_crlf_change_nothing(self, tmp_path: Path, corpus: str) -> None:
        source = SOURCES[corpus][1](tmp_path / "raw")
        assert run(corpus, source, tmp_path / "out") == 0
        for path in (path for path in source.rglob("*") if path.is_file()):
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        assert run(corpus, source, tmp_path / "again") == 0
        for path in (tmp_path / "out").rglob("*.tsv"):
            assert (tmp_path / "again" / path.relative_to(tmp_path / "out")).read_bytes() == path.read_bytes()

    def test_listed_dev_ids(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = SOURCES["ddi2013"][1](tmp_path / "raw")
        ids = tmp_path / "ids.txt"
        ids.write_text("\ufeffD2\r\nD3\n\n")
        assert run("ddi2013", source, tmp_path / "out", "--dev_ids", str(ids)) == 0
        dev = (tmp_path / "out" / "ddi2013" / "dev.tsv").read_text()
        assert "D2.s0" in dev and "D3.s0" in dev and "D1.s0" not in dev
        ids.write_text("D2\nD9\n")
        assert "'D9'" in complaint(capsys, "ddi2013", source, tmp_path / "b", "--dev_ids", str(ids))

    @pytest.mark.parametrize("flag", ["--dev_ids", "--seed"])
    def test_flags_that_would_do_nothing(self, tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
        source = SOURCES["chemprot"][1](tmp_path / "raw")
        assert "no such flag" in complaint(capsys, "chemprot", source, tmp_path / "out", flag, "1")

    @pytest.mark.parametrize("command", [[], *([name] for name in CORPORA), ["check"], ["fetch"]])
    def test_help(self, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            prepare.main([*command, "--help"])
        assert stop.value.code == 0 and "usage:" in capsys.readouterr().out

    @pytest.mark.parametrize("corpus", SOURCES)
    def test_an_empty_folder_says_what_is_expected(
        self, tmp_path: Path, corpus: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "raw").mkdir()
        message = complaint(capsys, SOURCES[corpus][0], tmp_path / "raw", tmp_path / "out")
        assert "; give " in message

    def test_no_such_source(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no such file or folder" in complaint(capsys, "hoc", tmp_path / "nothing", tmp_path / "out")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_place_that_cannot_be_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "out").mkdir(mode=0o500)
        source = SOURCES["hoc"][1](tmp_path / "raw")
        assert "cannot be written" in complaint(capsys, "hoc", source, tmp_path / "out")


def zip_of(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for one in sorted(folder.rglob("*")):
            if one.is_file():
                file.write(one, f"{folder.name}/{one.relative_to(folder)}")
        file.writestr("__MACOSX/._junk.xml", "junk")
    return path


def tar_of(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, folder.name)
    return path


def zip_with(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def tar_with(info: tarfile.TarInfo, content: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    info.size = len(content)
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def lying_zip() -> bytes:
    """A member that claims to have 10 bytes and unpacks to a megabyte."""
    content = bytearray(zip_with(("a.txt", b"x" * 2**20)))
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = content.index(magic)
        struct.pack_into("<L", content, start + offset, 10)
    return bytes(content)


def nested_zip(depth: int) -> bytes:
    content = zip_with(("a.txt", b"text"))
    for _ in range(depth):
        content = zip_with(("inner.zip", content))
    return content


HOSTILE = {
    "climbs.zip": (zip_with(("../../evil.txt", b"x")), "leads out of the folder"),
    "absolute.zip": (zip_with(("/tmp/evil.txt", b"x")), "leads out of the folder"),
    "backslash.zip": (zip_with(("..\\evil.txt", b"x")), "leads out of the folder"),
    "drive.zip": (zip_with(("C:/evil.txt", b"x")), "leads out of the folder"),
    "long.zip": (zip_with(("a" * 300 + ".txt", b"x")), "no file name"),
    "bomb.zip": (zip_with(("a.txt", b"\0" * 2**24)), "over 200 times its size"),
    "link.zip": (zip_with((link("a.txt"), b"/etc/passwd")), "is a link"),
    "liar.zip": (lying_zip(), "broken (BadZipFile)"),
    "cut.zip": (zip_with(("a.txt", b"text" * 1000))[:-30], "not a zip archive"),
    "text.zip": (b"not an archive at all", "not a zip archive"),
    "empty.zip": (b"", "not a zip archive"),
    "climbs.tar": (tar_with(tar_member("../evil.txt"), b"x"), "leads out of the folder"),
    "link.tar": (tar_with(tar_member("a.txt", tarfile.SYMTYPE, "/etc/passwd")), "is a link or a device"),
    "hard.tar": (tar_with(tar_member("a.txt", tarfile.LNKTYPE, "/etc/passwd")), "is a link or a device"),
    "device.tar": (tar_with(tar_member("a.txt", tarfile.CHRTYPE)), "is a link or a device"),
    "text.tar": (b"not an archive at all" * 100, "broken (ReadError)"),
    "text.tar.gz": (b"not an archive at all", "broken (ReadError)"),
}


class TestArchives:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_refused(self, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        content, part = HOSTILE[name]
        (tmp_path / name).write_bytes(content)
        assert part in complaint(capsys, "hoc", tmp_path / name, tmp_path / "out")
        assert not list(tmp_path.rglob("evil*")) and not (tmp_path.parent / "evil.txt").exists()

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_two_members_of_a_name(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "twice.zip").write_bytes(zip_with(("a.txt", b"1"), ("a.txt", b"2")))
        assert "two members are named 'a.txt'" in complaint(capsys, "hoc", tmp_path / "twice.zip", tmp_path / "out")

    def test_encrypted(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        content = bytearray(zip_with(("a.txt", b"text")))
        for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            content[content.index(magic) + offset] |= 1
        (tmp_path / "locked.zip").write_bytes(content)
        assert "is encrypted" in complaint(capsys, "hoc", tmp_path / "locked.zip", tmp_path / "out")

    @pytest.mark.parametrize(
        ("limit", "part"), [("MOST_MEMBERS", "more than 3 members"), ("MOST_BYTES", "unpacks to more")]
    )
    def test_too_much(
        self, tmp_path: Path, limit: str, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(archives, limit, 3)
        monkeypatch.setattr(archives.Budget.__init__, "__defaults__", (archives.MOST_BYTES, archives.MOST_MEMBERS))
        (tmp_path / "much.zip").write_bytes(zip_with(*((f"{n}.txt", b"x") for n in range(4))))
        assert part in complaint(capsys, "hoc", tmp_path / "much.zip", tmp_path / "out")

    def test_archives_are_unpacked_twice_deep_at_most(self, tmp_path: Path) -> None:
        (tmp_path / "deep.zip").write_bytes(nested_zip(4))
        with Source(tmp_path / "deep.zip") as source:
            assert [file.name for file in source.files] == ["inner.zip/inner.zip/inner.zip"]

    def test_what_was_unpacked_is_gone_afterwards(self, tmp_path: Path) -> None:
        with Source(zip_of(tmp_path / "a.zip", SOURCES["hoc"][1](tmp_path / "raw"))) as source:
            place = source.files[0].path
            assert stat.S_IMODE(place.stat().st_mode) == 0o600
        assert not place.exists()


BOMB = (
    '<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi", strict=True))
    + "]>"
)
HOSTILE_XML = {
    "bomb": (BOMB + '<document><sentence id="1" text="&i;"/></document>', "declares entities|not well-formed"),
    "file": ('<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]><document>&a;</document>', "declares entities"),
    "parameter": ('<!DOCTYPE d [<!ENTITY % a SYSTEM "http://127.0.0.1:9/x"> %a;]><document/>', "entities|not well-f"),
    "deep": ("<document>" + "<a>" * 5000, "not well-formed"),
    "cut": (ddi_document("x", DDI_SENTENCE.format("x", "int"))[:-40], "not well-formed"),
    "none": ("", "is empty"),
    "other": ("<html><body>Sorry</body></html>", "a web page, not the data"),
    "encoding": ('<?xml version="1.0" encoding="nonsense"?><document/>', "not well-formed"),
}


class TestXml:
    @pytest.mark.parametrize("name", HOSTILE_XML)
    def test_refused(self, tmp_path: Path, name: str) -> None:
        content, part = HOSTILE_XML[name]
        source = SOURCES["ddi2013"][1](tmp_path / "raw")
        (source / "Train" / "DrugBank" / "D1.xml").write_text(content)
        with pytest.raises(UserError, match=rf"D1\.xml:\d+: .*({part})"):
            prepare_quietly(source, tmp_path / "out")

    def test_a_document_type_alone_is_fine(self, tmp_path: Path) -> None:
        """BioC files name theirs."""
        source = SOURCES["ddi2013"][1](tmp_path / "raw")
        path = source / "Train" / "DrugBank" / "D1.xml"
        path.write_text(path.read_text().replace("?>", '?>\n<!DOCTYPE document SYSTEM "nowhere.dtd">'))
        prepare_quietly(source, tmp_path / "out")
        assert len((tmp_path / "out" / "ddi2013" / "train.tsv").read_text().splitlines()) > 1

    @pytest.mark.parametrize(
        ("old", "new", "part"),
        [
            ('charOffset="5-11"', 'charOffset="5-999"', "charOffset is not inside"),
            ('charOffset="5-11"', 'charOffset="11-5"', "charOffset is not inside"),
            ('charOffset="5-11"', 'charOffset="x"', "charOffset is not inside"),
            (' charOffset="5-11"', "", "without the attribute charOffset"),
            ('e1="D1.s0.e0"', 'e1="D1.s0.e9"', "entities that the sentence does not have"),
            ('ddi="false"', 'ddi="no"', "neither true nor false"),
            ('type="int"', 'type="none"', "unknown type"),
        ],
    )
    def test_faults(self, tmp_path: Path, old: str, new: str, part: str) -> None:
        source = SOURCES["ddi2013"][1](tmp_path / "raw")
        path = source / "Train" / "DrugBank" / "D1.xml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        with pytest.raises(UserError, match=rf"D1\.xml:3: .*{part}"):
            prepare_quietly(source, tmp_path / "out")


def prepare_quietly(source: Path, out: Path) -> None:
    from tasks import corpora
    from tasks.corpora.corpus import Options
    from tasks.corpora.preparing import prepare as convert

    convert(corpora.CORPORA["ddi2013"], source, out, Options())


FAULTS: list[tuple[str, str, Callable[[str], str], str]] = [
    # corpus, file, what is done to it, part of the message
    ("bc5cdr", "CDR_TestSet.PubTator.txt", lambda text: text.replace("|a|", "|b|"), ":1: no document starts here"),
    ("bc5cdr", "CDR_TestSet.PubTator.txt", lambda text: text.replace("\t0\t4", "\t1\t4"), ":3: the offsets do not"),
    ("bc5cdr", "CDR_TestSet.PubTator.txt", lambda text: text.replace("303\t0", "304\t0"), ":3: a line of another"),
    ("bc5cdr", "CDR_TestSet.PubTator.txt", lambda text: text.replace("\tDisease", ""), ":3: 5 columns"),
    ("bc5cdr", "CDR_TestSet.PubTator.txt", lambda text: "\n", ":1: no documents"),
    ("bc5cdr", "CDR_TestSet.PubTator.txt", lambda text: text + text, "document '303' is there twice"),
    ("chemprot", "chemprot_test_gs/chemprot_test_gs_abstracts.tsv", lambda text: text + text, ":3: a document"),
    ("chemprot", "chemprot_test_gs/chemprot_test_gs_entities.tsv", lambda text: text + "9\tT1\tCHEMICAL\t0\t1\tx\n",
     "1 documents that chemprot_test_gs_abstracts.tsv does not have"),
    ("chemprot", "chemprot_test_gs/chemprot_test_gs_entities.tsv", lambda text: text.replace("\t61\t", "\t999\t"),
     "leave the text"),
    ("chemprot", "chemprot_test_gs/chemprot_test_gs_gold_standard.tsv", lambda text: text.replace("CPR:9", "CPR:1"),
     ":3: no relation"),
    ("hoc", "labels/3.txt", lambda text: text + "< ", "3 sentences and 4 labels"),
    ("hoc", "labels/3.txt", lambda text: text.replace("Cellular", "Cellar"), "unknown hallmark in the labels of"),
    ("biosses", "pairs.tsv", lambda text: text.replace("\t3\t", "\t9\t", 1), ":2: a score that is no number from 0"),
    ("biosses", "pairs.tsv", lambda text: text + "3\ta\tb\t1\n", ":12: the first column is no number, or one that"),
    ("mednli", "mli_dev_v1.jsonl", lambda text: text.replace("He is", "He\0is", 2), ":1: NUL byte"),
    ("mednli", "mli_dev_v1.jsonl", lambda text: text.replace("He is", "\ud800"), ":1: not UTF-8 (byte 0xed)"),
    ("mednli", "mli_dev_v1.jsonl", lambda text: text.replace(", ", ",\r", 1), ":1: carriage return inside the line"),
    ("mednli", "mli_dev_v1.jsonl", lambda text: text.replace("neutral", "maybe"), ":3: unknown gold_label"),
    ("mednli", "mli_dev_v1.jsonl", lambda text: "[" * 100_000 + text, ":1: not a JSON object"),
    ("mednli", "mli_dev_v1.jsonl", lambda text: text.replace("He is", "\\ud800"), "half of a surrogate pair"),
    ("mednli", "mli_dev_v1.jsonl", lambda text: text.replace("He is well .", " "), "an empty text"),
    ("mednli", "mli_dev_v1.jsonl", lambda text: text.replace("He is", "\\u0000"), "a NUL character"),
    ("medsts", "clinicalSTS2019.test.gs.sim.txt", lambda text: text + "3\n", "not as many scores"),
    ("medsts", "clinicalSTS2019.train.txt", lambda text: text.replace("\t3.0", "\tnan"), ":7: the score is no number"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_faults(tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, name, spoil, part = FAULTS[number]
    source = SOURCES[corpus][1](tmp_path / "raw")
    before = (source / name).read_text()
    content = spoil(before).encode("utf-8", "surrogatepass")
    assert content != before.encode()
    (source / name).write_bytes(content)
    message = complaint(capsys, corpus, source, tmp_path / "out")
    assert part in message
    if "put " in message:  # the published file
        (source / name).write_text(before)
        assert run(corpus, source, tmp_path / "out") == 0

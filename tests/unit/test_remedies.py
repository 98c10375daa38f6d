"""What a message about data tells to do is right: it is done here, word by word, and then the file is read."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import tasks
from harness.task import Example, UserError
from launch.run import inputs, settings

PAIR = "index\tsentence1\tsentence2\tlabel\n"
ROWS = 'a1\tHe "sleeps" .\tHe is awake .\tneutral\na2\tNo fever , no pain .\tHe is well .\tentailment\n'
RELATION = "index\tsentence\tlabel\n"
NO_LABEL = ",".join(f"{number}_0" for number in range(10))


def written(text: str, sep: str = ",", quoting: int = csv.QUOTE_MINIMAL) -> bytes:
    """A tab separated table in another form."""
    stream = io.StringIO()
    rows = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    csv.writer(stream, delimiter=sep, quoting=quoting, lineterminator="\n").writerows(rows)  # type: ignore[arg-type]
    return stream.getvalue().encode()


def with_tabs(content: bytes, said: str) -> bytes:
    """pandas.read_csv(file, sep).to_csv(other, sep='\\t', index=False), in the words of the csv module."""
    found = re.search(r"pandas\.read_csv\(file(?:, sep='(.)')?\)\.to_csv\(other, sep='\\t', index=False\)", said)
    assert found is not None
    stream = io.StringIO()
    rows = csv.reader(io.StringIO(content.decode()), delimiter=found[1] or ",")
    csv.writer(stream, delimiter="\t", lineterminator="\n").writerows(rows)
    return stream.getvalue().encode()


COMMANDS: dict[str, Callable[[bytes], bytes]] = {  # what these commands do as filters, also where they are missing
    "gunzip": gzip.decompress,
    "bunzip2": bz2.decompress,
    "unxz": lzma.decompress,
    "iconv -f WINDOWS-1252 -t UTF-8": lambda content: content.decode("windows-1252").encode(),
}


def by_command(content: bytes, said: str) -> bytes:
    """The command after the colon."""
    (command,) = (name for name in COMMANDS if f": {name}" in said)
    return COMMANDS[command](content)


def replaced(old: str, new: str) -> Callable[[bytes, str], bytes]:
    def repair(content: bytes, said: str) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return repair


Repair = Callable[[bytes, str], bytes]
BROKEN: dict[str, tuple[str, bytes, str, Repair]] = {  # task, file, what is told to do, doing it
    "empty": ("mednli", b"", "put the split's examples there", lambda content, said: (PAIR + ROWS).encode()),
    "header only": ("mednli", PAIR.encode(), "put the split's examples there", lambda c, said: c + ROWS.encode()),
    "commas": ("mednli", written(PAIR + ROWS), "write it with tabs", with_tabs),
    "semicolons": ("mednli", written(PAIR + ROWS, ";"), "write it with tabs", with_tabs),
    "utf-16": (
        "mednli",
        (PAIR + ROWS).encode("utf-16"),
        "save the file as UTF-8",
        lambda c, said: c.decode("utf-16").encode(),
    ),
    "latin-1": ("mednli", (PAIR + ROWS.replace("awake", "\xe9veill\xe9")).encode("latin-1"), "iconv", by_command),
    "gzip": ("mednli", gzip.compress((PAIR + ROWS).encode()), "unpack it: gunzip", by_command),
    "bzip2": ("mednli", bz2.compress((PAIR + ROWS).encode()), "unpack it: bunzip2", by_command),
    "xz": ("mednli", lzma.compress((PAIR + ROWS).encode()), "unpack it: unxz", by_command),
    "nul": ("mednli", (PAIR + ROWS.replace("fever", "fever\0")).encode(), "save the file as UTF-8", replaced("\0", "")),
    "old line ends": (
        "mednli",
        (PAIR + ROWS).replace("\n", "\r").encode(),
        r"end lines with \\n",
        lambda c, said: c.replace(b"\r", b"\n"),
    ),
    "no name of row numbers": (
        "chemprot",
        b"\tindex\tsentence\tlabel\n0\t1\ta\tfalse\n",
        "remove it",
        lambda c, said: b"".join(line.split(b"\t", 1)[1] for line in c.splitlines(keepends=True)),
    ),
    "row numbers": (
        "mednli",
        PAIR.encode() + b"0\ta1\ta\tb\tneutral\n",
        "give the first column a name in line 1",
        lambda c, said: b"row\t" + c,
    ),
    "broken in two": (
        "mednli",
        PAIR.encode() + b"a1\ta\n\nb\tc\tneutral\n",
        "separate columns by one tab|join it to the line above",
        replaced("\n\nb", " b"),
    ),
    "a tab in a text": (
        "mednli",
        PAIR.encode() + b"a1\ta\tx\tb\tneutral\n" + ROWS.encode(),
        "keep tabs and line ends out",
        replaced("a\tx", "a x"),
    ),
    "no names": (
        "mednli",
        b"nr\teins\tzwei\tart\n" + ROWS.encode(),
        "if it is a header, write 'index sentence1 sentence2 label'",
        replaced("nr\teins\tzwei\tart\n", PAIR),
    ),
    "a label of line 1": (
        "chemprot",
        b"1\ta\tCPR:1\n2\tb\tfalse\n",
        "else set its last column right",
        replaced("CPR:1", "CPR:3"),
    ),
    "a label": (
        "mednli",
        (PAIR + ROWS.replace("neutral", "Neutral")).encode(),
        "use one of contradiction, entailment, neutral",
        replaced("Neutral", "neutral"),
    ),
    "a score": ("medsts", b"a\tb\t3,25\n", "write it like 3.25", replaced("3,25", "3.25")),
    "no text": (
        "ddi2013",
        (RELATION + "1\t\tDDI-int\n2\ta\tDDI-int\n").encode(),
        "leave the row out",
        replaced("1\t\tDDI-int\n", ""),
    ),
    "hallmarks": (
        "hoc",
        b"0_1,2_1\ta\t1_s0\n",
        "list all labels in this order, each with _0 or _1",
        replaced("0_1,2_1", NO_LABEL),
    ),
    "an index": ("hoc", f"{NO_LABEL}\ta\t1\n".encode(), "write it like 10027919_s0", replaced("\t1\n", "\t1_s0\n")),
    "an index twice": (
        "hoc",
        f"{NO_LABEL}\ta\t1_s0\n{NO_LABEL}\tb\t1_s0\n".encode(),
        "give each sentence its own index",
        replaced("b\t1_s0", "b\t1_s1"),
    ),
    "quotes of R": (
        "mednli",
        rb'"index"	"sentence1"	"sentence2"	"label"' + b"\n" + rb'"1"	"a \"b\""	"c"	"neutral"',
        "without quotes",
        lambda c, said: c.replace(b'\\"', b"'").replace(b'"', b"").replace(b"'", b'"'),
    ),
}


def read(task: str, folder: Path, content: bytes) -> list[Example]:
    (folder / tasks.get(task).filenames["train"]).write_bytes(content)
    return tasks.get(task).read(folder, "train")


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_of_the_ten_tasks(name: str, tmp_path: Path) -> None:
    task, content, told, repair = BROKEN[name]
    with pytest.raises(UserError) as raised:
        read(task, tmp_path, content)
    said = str(raised.value)
    assert re.search(told, said) and "\n" not in said and f"{tmp_path}/" in said
    assert read(task, tmp_path, repair(content, said))


CUSTOM = 'name = "genes"\nfamily = "{family}"\nmetric = "{metric}"\n{labels}[columns]\n{columns}'
TABLES = {
    "a sentence": (
        "multiclass",
        "accuracy",
        'labels = ["0", "1"]\n',
        "sentence = {0}\nlabel = {1}\n",
        ("a b\t0\n", "c\t1\n"),
    ),
    "a score": (
        "similarity",
        "Pearson",
        "",
        "sentence1 = {0}\nsentence2 = {1}\nscore = {2}\n",
        ("a\tb\t1.5\n", "c\td\t0\n"),
    ),
    "labels": (
        "multilabel",
        "micro F1",
        'labels = ["x", "y"]\n',
        "sentence = {0}\nlabels = {1}\n",
        ("a b\tx,y\n", "c\ty\n"),
    ),
}


@pytest.mark.parametrize("is_right", [True, False], ids=["said to have one", "said to have none"])
@pytest.mark.parametrize("kind", TABLES)
def test_the_header_of_a_custom_task(kind: str, is_right: bool, tmp_path: Path) -> None:
    """Train has none and test has one, and one more column: what is said about each is written into the task file."""
    family, metric, labels, columns, rows = TABLES[kind]
    names = re.findall(r"(\w+) =", columns)
    numbers = columns.format(*range(1, 1 + len(names)))
    path = tmp_path / "task.toml"
    text = CUSTOM.format(family=family, metric=metric, labels=labels, columns=numbers)
    path.write_text(text.replace("[columns]", f"header = {str(is_right).lower()}\n[columns]"))
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text("".join(rows))
    test = "\t".join(["index", *names]) + "\n" + "".join(f"t{n}\t{row}" for n, row in enumerate(rows))
    (tmp_path / "test.tsv").write_text(test)
    for _ in range(8):
        try:
            task = settings.named_task(None, str(path))
            for split in ("train", "dev", "test"):
                found = task.read(tmp_path, split)
                assert len(found) == 2 and found[0].texts[0] == rows[0].split("\t")[0]
            return
        except UserError as error:
            said = str(error)
        if header := re.search(r"write `(header = \{.*?\})`", said):
            path.write_text(re.sub(r"header = .*", header[1], path.read_text()))
            continue
        told = re.search(r"\[columns\.test\]", said)
        assert told is not None, said
        path.write_text(path.read_text() + "[columns.test]\n" + columns.format(*(f'"{name}"' for name in names)))
    pytest.fail(said)


def test_a_dev_set_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("a\t0\n")
    (tmp_path / "test.tsv").write_text("a\t0\n")
    path = tmp_path / "task.toml"
    family, metric, labels, columns, _ = TABLES["a sentence"]
    text = CUSTOM.format(family=family, metric=metric, labels=labels, columns=columns.format(1, 2))
    path.write_text(text.replace("[columns]", 'data_dir = "."\nheader = false\n[columns]'))
    line = ["--task_file", str(path), "--model_name_or_path", "m"]
    with pytest.raises(UserError, match=r"lacks dev\.tsv; .*\[files\] .*; leave dev out there if there is none"):
        inputs.find_data(settings.parse(line)[0])
    path.write_text(path.read_text() + '[files]\ntrain = "train.tsv"\ntest = "test.tsv"\n')
    assert inputs.find_data(settings.parse(line)[0]) == (tmp_path, "given")

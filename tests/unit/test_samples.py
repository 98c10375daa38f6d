"""The committed sample data: what the generator writes, complete in labels, without a sentence in two splits."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

import tasks
from tasks import checks

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "tasks" / "samples"
PLAIN = ("train.tsv", "dev.tsv", "test.tsv")
BC5CDR = ("train.tsv", "devel.tsv", "test.tsv")
CLEFE = ("Training.tsv", "Development.tsv", "Test.tsv")
TAGGING = {"bc5cdr_disease": BC5CDR, "bc5cdr_chem": BC5CDR, "clefe": CLEFE}
SCORES = {"medsts": 5.0, "biosses": 4.0}
CLASSES = {
    "ddi2013": {"DDI-advise", "DDI-effect", "DDI-int", "DDI-mechanism", "DDI-false"},
    "chemprot": {"CPR:3", "CPR:4", "CPR:5", "CPR:6", "CPR:9", "false"},
    "i2b2_2010": {"PIP", "TeCP", "TeRP", "TrAP", "TrCP", "TrIP", "TrNAP", "TrWP", "false"},
    "mednli": {"contradiction", "entailment", "neutral"},
}
TASKS = {name: tuple(task.filenames.values()) for name, task in tasks.TASKS.items()}
OLD = (*SCORES, *CLASSES, *TAGGING, "hoc")  # whose files tests here know line by line
HEADERS = {
    **dict.fromkeys(("ddi2013", "chemprot", "i2b2_2010"), "index\tsentence\tlabel"),
    **dict.fromkeys(SCORES, "index\tsentence1\tsentence2\tscore"),
    "mednli": "index\tsentence1\tsentence2\tlabel",
    "hoc": "labels\tsentence\tindex",
}
Token = list[str]


def lines(task: str, name: str) -> list[str]:
    text = (SAMPLES / task / name).read_text(encoding="utf-8")
    assert text.endswith("\n")
    return text.split("\n")[:-1]


def table(task: str, name: str) -> list[list[str]]:
    header, *rows = lines(task, name)
    assert header == HEADERS[task]
    cells = [row.split("\t") for row in rows]
    assert all(len(row) == len(header.split("\t")) and all(row) for row in cells)
    return cells


def tagged(task: str, name: str) -> list[list[Token]]:
    """Sentences of [word, document or "-", offset, tag]."""
    sentences: list[list[Token]] = [[]]
    for line in lines(task, name):
        if not line:
            sentences.append([])
        elif not line.startswith("###"):
            sentences[-1].append(line.split("\t"))
    assert sentences.pop() == []  # an empty line after the last sentence too
    assert all(len(token) == 4 for sentence in sentences for token in sentence)
    return sentences


def texts(task: str, name: str) -> set[str]:
    """Every single sentence of a file."""
    if task in TAGGING:
        return {" ".join(token[0] for token in sentence) for sentence in tagged(task, name)}
    return {text for row in table(task, name) for text in row[1:-1]}


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_generator_gives_committed_files(tmp_path: Path, hash_seed: str) -> None:
    command = [sys.executable, str(ROOT / "tests" / "samples" / "generate.py"), "--out", str(tmp_path)]
    subprocess.run(command, env={"PYTHONHASHSEED": hash_seed}, check=True)
    made = {file.relative_to(tmp_path).as_posix(): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    kept = {file.relative_to(SAMPLES).as_posix(): file.read_bytes() for file in SAMPLES.rglob("*.tsv")}
    assert made == {path: kept[path] for path in made}
    assert set(kept) == {f"{task}/{name}" for task, names in TASKS.items() for name in names}  # some are plain files
    assert sum(map(len, kept.values())) < 1_200_000


@pytest.mark.parametrize("task", [name for name in TASKS if name not in OLD])
def test_of_a_later_suite(task: str) -> None:
    """Read as any data: no text in two splits, each label in each split, and no serious finding but the size."""
    known, survey = tasks.get(task), checks.Survey(tasks.get(task))
    survey.sizes = ()
    for split in known.filenames:
        survey.add(split, known.read(tasks.sample_dir(task), split))
    assert set(survey.splits) == {"train", "dev", "test"}
    for split, found in survey.splits.items():
        assert not found.shared and not found.contradicted and not found.odd_rows, split
        assert set(survey.types or known.labels) <= set(found.labels), split
    assert [finding.text for finding in survey.findings() if finding.serious] == []


@pytest.mark.parametrize("task", OLD)
def test_no_sentence_in_two_splits(task: str) -> None:
    train, dev, test = (texts(task, name) for name in TASKS[task])
    assert train and dev and test
    assert not train & dev
    assert not train & test
    assert not dev & test


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("name", PLAIN)
def test_every_class_in_every_split(task: str, name: str) -> None:
    counts = Counter(row[-1] for row in table(task, name))
    assert set(counts) == CLASSES[task]
    if task != "mednli":
        assert "false" in counts.most_common(1)[0][0]


@pytest.mark.parametrize("task", SCORES)
@pytest.mark.parametrize("name", PLAIN)
def test_scores_span_the_scale(task: str, name: str) -> None:
    scores = [float(row[-1]) for row in table(task, name)]
    assert min(scores) == 0
    assert max(scores) == SCORES[task]
    assert {round(score) for score in scores} == set(range(int(SCORES[task]) + 1))


@pytest.mark.parametrize("name", PLAIN)
def test_hoc_documents(name: str) -> None:
    rows = table("hoc", name)
    labels: dict[str, set[int]] = {}
    for row in rows:
        codes = [code.split("_") for code in row[0].split(",")]
        assert [int(label) for label, _ in codes] == list(range(10))
        labels.setdefault(row[2].split("_s")[0], set()).update(int(label) for label, value in codes if value == "1")
    assert all(labels.values())  # no document without label
    assert set().union(*labels.values()) == set(range(10))
    assert any("_1" not in row[0] for row in rows)
    assert any(row[0].count("_1") > 1 for row in rows)


@pytest.mark.parametrize(("task", "name"), [(task, name) for task, names in TAGGING.items() for name in names])
def test_tagging(task: str, name: str) -> None:
    sentences = tagged(task, name)
    tags = [[token[3] for token in sentence] for sentence in sentences]
    assert {tag for sentence in tags for tag in sentence} == {"B", "I", "O"}
    assert any(len(sentence) > 30 for sentence in tags)
    assert any(set(sentence) == {"O"} for sentence in tags)
    assert all("I" not in sentence[:1] for sentence in tags)
    resumed = any(pair == ("O", "I") for sentence in tags for pair in pairwise(sentence))
    assert resumed == (task == "clefe")
    assert any(line.startswith("### ") for line in lines(task, name)) == (task == "clefe")
    for sentence in sentences:
        assert sentence[0][1] != "-"
        assert all(token[1] == "-" for token in sentence[1:])
    offsets: dict[str, int] = {}  # end of the last token of each document
    for sentence in sentences:
        document = sentence[0][1]
        for word, _, start, _ in sentence:
            assert int(start) >= offsets.get(document, 0)
            offsets[document] = int(start) + len(word)

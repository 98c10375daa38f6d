"""launch/predict.py: the run's own predictions again, raw sentences, streams, and errors that name the line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from running import clean_environment, refused
from safetensors.torch import load_file, save_file

import tasks
from launch import predict
from launch.reporting.inputs import WORD

if TYPE_CHECKING:
    from finished_runs import Finished

pytest_plugins = ("finished_runs",)
ROOT = Path(__file__).parents[1]
SENTENCES = [task for task, known in tasks.TASKS.items() if known.family != "tagging"]


def predicted(capsys: pytest.CaptureFixture[str], *argv: object) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert predict.main([str(word) for word in argv]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def complaint(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[str, list[dict[str, Any]]]:
    error, printed = refused(predict.main, capsys, *argv)
    return error, [json.loads(line) for line in printed]


def lines(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()[1:]]


@pytest.mark.parametrize("task", SENTENCES)
def test_it_answers_as_the_run_did(
    task: str, ten_runs: dict[str, Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    """From the data file itself, whose header names the columns."""
    run, known = ten_runs[task], tasks.get(task)
    answers = predicted(capsys, run.folder, "--input", run.data / known.filenames["test"])
    of_run = lines(run.folder / "predictions" / "test.tsv")
    assert [answer["index"] for answer in answers] == [row[0] for row in of_run]
    if known.family == "similarity":
        assert [a["score"] for a in answers] == pytest.approx([float(row[2]) for row in of_run], abs=1e-5)
        return
    names = {
        "multiclass": lambda answer: answer["label"],
        "multilabel": lambda a: ",".join(f"{name}_{int(name in a['labels'])}" for name in known.labels),
    }
    assert [names[known.family](answer) for answer in answers] == [row[2] for row in of_run]
    for answer, row in zip(answers, lines(run.folder / "predictions" / "test_probabilities.tsv"), strict=True):
        assert list(answer["probabilities"].values()) == pytest.approx([float(cell) for cell in row[1:]], abs=1e-5)


@pytest.fixture(scope="module")
def tagger(ten_runs: dict[str, Finished], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tagging run with a head that answers all three tags; four steps of training teach it only O."""
    folder = tmp_path_factory.mktemp("tagger") / "run"
    shutil.copytree(ten_runs["clefe"].folder, folder)
    weights = load_file(folder / "model" / "model.safetensors")
    weights["classifier.weight"] = torch.randn(3, 32, generator=torch.Generator().manual_seed(3))
    save_file(weights, folder / "model" / "model.safetensors", metadata={"format": "pt"})
    return folder


def direct(folder: Path, words: Sequence[str]) -> list[str]:
    """Tags by the standard class, for a sentence that fits."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model = AutoModelForTokenClassification.from_pretrained(folder / "model").eval()
    rows = AutoTokenizer.from_pretrained(folder / "model")(list(words), is_split_into_words=True, return_tensors="pt")
    with torch.inference_mode():
        best = model(**rows).logits[0].argmax(-1).tolist()
    first = {word: place for place, word in reversed(list(enumerate(rows.word_ids()))) if word is not None}
    return [model.config.id2label[best[first[word]]] for word in range(len(words))]


def spans(text: str, tags: Sequence[str]) -> list[list[list[int]]]:
    """Of a task with disjoint mentions: an I behind an O joins the newest B, where there is one."""
    found: list[list[list[int]]] = []
    before, opened = "O", False
    for match, tag in zip(WORD.finditer(text), tags, strict=True):
        if tag == "I" and before != "O":
            found[-1][-1][1] = match.end()
        elif tag == "I" and opened:
            found[-1].append([match.start(), match.end()])
        elif tag != "O":
            found.append([[match.start(), match.end()]])
            opened = opened or tag == "B"
        before = tag
    return found


class TestRawSentences:
    TEXT = "The patient has no fever; aspirin-induced (left) pain of 3.5 days, Überempfindlichkeit \U0001f600 gone."

    def test_offsets(self, tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "in.txt").write_text(f"{self.TEXT}\n\nfever\n")
        answers = predicted(capsys, tagger, "--input", tmp_path / "in.txt", "--with_text")
        assert [answer["index"] for answer in answers] == [1, 3]
        words = [match.group() for match in WORD.finditer(self.TEXT)]
        assert words[3:10] == ["no", "fever", ";", "aspirin", "-", "induced", "("]
        expected = spans(self.TEXT, direct(tagger, words))
        assert [mention["spans"] for mention in answers[0]["mentions"]] == expected and len(expected) > 2
        assert any(len(mention["spans"]) > 1 for mention in answers[0]["mentions"])
        for mention in answers[0]["mentions"]:
            assert mention["text"] == " ... ".join(self.TEXT[start:end] for start, end in mention["spans"])
            assert (mention["start"], mention["end"]) == (mention["spans"][0][0], mention["spans"][-1][1])

    def test_no_text_unless_asked(self, tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "in.jsonl").write_text(json.dumps({"index": "a", "sentence": self.TEXT}) + "\n")
        answers = predicted(capsys, tagger, "--input", tmp_path / "in.jsonl")
        assert answers[0]["index"] == "a" and set(answers[0]["mentions"][0]) == {"start", "end", "spans"}

    def test_a_sentence_longer_than_the_model(
        self, tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = " ".join(f"the patient {chr(97 + i % 26)} has aspirin and no fever" for i in range(40))  # 320 words
        (tmp_path / "in.txt").write_text(text + "\n")
        mentions = predicted(capsys, tagger, "--input", tmp_path / "in.txt")[0]["mentions"]
        assert mentions[-1]["end"] > len(text) - 60
        words = text.split()
        first = direct(tagger, words[:40])  # these fit, and what follows is read in pieces of their own
        assert spans(" ".join(words[:40]), first)[0] == mentions[0]["spans"]


def test_a_document_has_the_labels_of_its_sentences(
    ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ten_runs["hoc"].folder
    texts = [example.texts[0] for example in tasks.get("hoc").read(ten_runs["hoc"].data, "test")][:6]
    (tmp_path / "in.jsonl").write_text(
        json.dumps({"index": 7, "sentences": texts}) + "\n" + json.dumps({"sentence": texts[0]})
    )
    document, sentence = predicted(capsys, run, "--input", tmp_path / "in.jsonl")
    assert document["index"] == 7 and len(document["sentences"]) == 6 and sentence["index"] == 2
    assert set(document["labels"]) == {label for one in document["sentences"] for label in one["labels"]}
    assert document["sentences"][0]["probabilities"] == pytest.approx(sentence["probabilities"], abs=1e-5)


def test_a_text_that_is_cut_says_so(
    ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.tsv").write_text("a\tshort .\tshort .\nb\t" + "long " * 100 + "\tshort .\n")
    answers = predicted(capsys, ten_runs["mednli"].folder, "--input", tmp_path / "in.tsv", "--batch_size", "1")
    assert [answer.get("cut", False) for answer in answers] == [False, True]


def test_a_pipe_is_answered_line_by_line(ten_runs: dict[str, Finished]) -> None:
    command = [sys.executable, "launch/predict.py", str(ten_runs["mednli"].folder), "--input", "-", "--no_cuda"]
    env = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for number in range(1, 4):
            process.stdin.write(f"The patient has no fever .\tThe patient has pain {number} .\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["index"] == number  # before the next line is written
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_a_run_on_sample_data_says_so(
    ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(ten_runs["medsts"].folder, tmp_path / "run")
    for name in ("config.json", "result.json"):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(
            json.dumps(values | ({"data_dir": None} if name == "config.json" else {"data": "sample"}))
        )
    (tmp_path / "in.tsv").write_text("one .\tother .\n")
    assert predict.main([str(folder), "--input", str(tmp_path / "in.tsv")]) == 0
    out, err = capsys.readouterr()
    assert "SAMPLE DATA" in err and json.loads(out)["note"] == "SAMPLE DATA"


WRONG = {
    "one column of two": ("mednli", "a .\n", "in:1: 1 column(s); give sentence1 sentence2, or index"),
    "fewer than the header": ("mednli", "sentence1\tsentence2\na .\tb .\nc .\n", "in:3: 1 column(s), the header has 2"),
    "empty text": ("medsts", "a .\tb .\n \tb .\n", "in:2: sentence1 is empty"),
    "unmarked": ("ddi2013", "Aspirin and heparin .\n", "in:1: no marked mention"),
    "not UTF-8": ("hoc", b"a .\n\xff\n", "in:2: not UTF-8 (byte 1)"),
    "JSON without the text": ("hoc", '{"sentense": "a"}\n', "in:1: no sentence among sentense"),
    "JSON cut short": ("hoc", '{"sentence": "a ."}\n{"sentence":\n', "in:2: not JSON"),
    "JSON of another kind": ("hoc", '{"sentence": "a ."}\n[1]\n', "in:2: no JSON object"),
    "no sentences": ("hoc", '{"sentences": []}\n', "in:1: `sentences` is no list"),
    "a number for a text": ("hoc", '{"sentence": 3}\n', "in:1: sentence is empty or no text"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_input(
    kind: str, ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, text, expected = WRONG[kind]
    (tmp_path / "in").write_bytes(text if isinstance(text, bytes) else text.encode())
    error, answers = complaint(capsys, ten_runs[task].folder, "--input", tmp_path / "in")
    assert expected in error
    line = int(error.split("in:")[1].split(":")[0])
    assert len(answers) == line - 1 - text.startswith("sentence1" if isinstance(text, str) else b"?")  # all before it


def test_wrong_flags(ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ten_runs["hoc"].folder
    assert "--input" in complaint(capsys, run)[0]
    assert "cannot be read" in complaint(capsys, run, "--input", tmp_path / "none")[0]
    assert "is a folder" in complaint(capsys, run, "--input", tmp_path)[0]
    assert "harness_head.json is missing" in complaint(capsys, tmp_path, "--input", os.devnull)[0]
    bare = shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("model"))
    assert "it has no model/ yet" in complaint(capsys, bare, "--input", os.devnull)[0]
    assert "--batch_size 0" in complaint(capsys, run, "--input", os.devnull, "--batch_size", "0")[0]

"""launch/predict.py: the run's own predictions again, raw sentences, streams, and errors that name the line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from own_files import write
from running import arguments, clean_environment, refused, run
from safetensors.torch import load_file, save_file

import tasks
from harness.model_folder import About
from launch import predict
from launch.reporting.new_text import WORD
from tasks.metrics import shown_mentions

if TYPE_CHECKING:
    from finished_runs import Finished

pytest_plugins = ("finished_runs",)
ROOT = Path(__file__).parents[2]
SENTENCES = [task for task in tasks.BLUE if tasks.get(task).family != "tagging"]


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


@pytest.mark.parametrize(
    ("tags", "plain", "disjoint"),
    [
        ("BIOI", [[(0, 2)], [(3, 4)]], [[(0, 2), (3, 4)]]),
        ("OIIOI", [[(1, 3)], [(4, 5)]], [[(1, 3)], [(4, 5)]]),  # no B that they could belong to
        ("IBIOB", [[(0, 1)], [(1, 3)], [(4, 5)]], [[(0, 1)], [(1, 3)], [(4, 5)]]),
        ("BOOIIOB", [[(0, 1)], [(3, 5)], [(6, 7)]], [[(0, 1), (3, 5)], [(6, 7)]]),
        ("OO", [], []),
    ],
)
def test_spans_as_annotators_mean_them(tags: str, plain: object, disjoint: object) -> None:
    assert shown_mentions(tags, disjoint=False) == plain and shown_mentions(tags, disjoint=True) == disjoint


def test_only_the_notes_of_clefe_have_disjoint_mentions() -> None:
    assert [name for name, task in tasks.TASKS.items() if task.disjoint] == ["clefe"]


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
    assert document["names"] == [tasks.TASKS["hoc"].label_titles[int(label)] for label in document["labels"]]
    assert sentence["names"] == [tasks.TASKS["hoc"].label_titles[int(label)] for label in sentence["labels"]]
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


class TestModelFolder:
    """The files of model/ by themselves, as a hub hands them out."""

    TEXT = "a\tThe patient has no fever .\tThe patient has pain .\n"

    def answers(self, capsys: pytest.CaptureFixture[str], path: Path, tmp_path: Path) -> list[dict[str, Any]]:
        (tmp_path / "in.tsv").write_text(self.TEXT)
        return predicted(capsys, path, "--input", tmp_path / "in.tsv")

    def download(self, run: Path, folder: Path) -> Path:
        return Path(shutil.copytree(run / "model", folder))

    def test_it_needs_no_run(
        self, ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = ten_runs["mednli"].folder
        of_run = self.answers(capsys, run, tmp_path)
        assert self.answers(capsys, run / "model", tmp_path) == of_run
        assert self.answers(capsys, self.download(run, tmp_path / "x"), tmp_path) == of_run

    def test_a_custom_task_goes_with_it(self, tiny_bert: Path, tmp_path: Path) -> None:
        write("multiclass", tmp_path / "data")
        argv = arguments("", tiny_bert, tmp_path / "run", "--task_file", str(tmp_path / "data" / "task.toml"))
        run([*argv[2:], "--max_steps", "1"])
        folder = self.download(tmp_path / "run", tmp_path / "x")
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "in.txt").write_text("a sentence .\n")
        assert predict.main([str(folder), "--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out")]) == 0
        assert set(json.loads((tmp_path / "out").read_text())) == {"index", "label", "probabilities"}

    def test_one_of_an_older_version(
        self, ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = Path(shutil.copytree(ten_runs["mednli"].folder, tmp_path / "run"))
        expected = self.answers(capsys, run, tmp_path)
        head = json.loads((run / "model" / "harness_head.json").read_text())
        kept = {name: value for name, value in head.items() if name not in About.__dataclass_fields__}
        (run / "model" / "harness_head.json").write_text(json.dumps(kept))
        assert len(kept) == len(head) - 11
        assert self.answers(capsys, run, tmp_path) == self.answers(capsys, run / "model", tmp_path) == expected
        alone = self.download(run, tmp_path / "x")
        assert "does not say its task" in complaint(capsys, alone, "--input", os.devnull)[0]

    def spoil(self, folder: Path, name: str, **values: Any) -> None:
        before = json.loads((folder / name).read_text())
        kept = {key: value for key, value in (before | values).items() if value is not ...}
        (folder / name).write_text(json.dumps(kept))

    @pytest.mark.parametrize(
        ("name", "values", "expected"),
        [
            ("config.json", {"hidden_size": "x"}, "config.json: no encoder can be built from it"),
            ("config.json", {"hidden_size": -3}, "config.json: no encoder can be built from it"),
            ("config.json", {"num_attention_heads": 5}, "config.json: no encoder can be built from it"),
            ("config.json", {"model_type": "nope"}, "config.json: no encoder can be built from it"),
            ("config.json", {"id2label": "x"}, "config.json: no encoder can be built from it"),
            ("config.json", {"pad_token_id": 10**6}, "config.json: no encoder can be built from it"),
            ("config.json", {"num_hidden_layers": 1}, "has no place in the model"),
            ("config.json", {"num_hidden_layers": 3}, "model.safetensors: lacks"),
            ("config.json", {"vocab_size": 10}, "model.safetensors: encoder.embeddings.word_embeddings.weight is"),
            ("harness_head.json", {"pooling": "max"}, "pooling = 'max': must be 'pooler', 'cls', 'mean' or 'last'"),
            ("harness_head.json", {"num_outputs": "3"}, "num_outputs = '3': must be a whole number"),
            ("harness_head.json", {"dropout": ...}, "dropout is missing"),
            ("harness_head.json", {"max_seq_length": 10**9}, "max_seq_length = 1000000000: must be at most"),
            ("harness_head.json", {"labels": ["yes", "no"]}, "mednli with multiclass: yes, no; that task has"),
            ("harness_head.json", {"task": "mednly"}, "'mednly'"),
            ("harness_head.json", {"own_task": {"name": 3}}, "harness_head.json: "),
            ("harness_head.json", {"seed": None}, "seed = None: must be a whole number"),
        ],
    )
    def test_odd_values(
        self,
        name: str,
        values: dict[str, Any],
        expected: str,
        ten_runs: dict[str, Finished],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        folder = self.download(ten_runs["mednli"].folder, tmp_path / "x")
        self.spoil(folder, name, **values)
        error = complaint(capsys, folder, "--input", os.devnull)[0]
        assert expected in error and str(folder) in error

    def test_parts_that_are_missing(
        self, ten_runs: dict[str, Finished], tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for number, (spoil, expected) in enumerate(
            (
                (lambda folder: (folder / "harness_head.json").unlink(), "harness_head.json is missing"),
                (lambda folder: (folder / "harness_head.json").write_text("[]"), "harness_head.json must be a table"),
                (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: cannot be read"),
                (
                    lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/x"),
                    "is a Git LFS pointer, not the file; run `git lfs pull`",
                ),
                (lambda folder: (folder / "tokenizer.json").write_text("{}"), "its tokenizer cannot be loaded"),
            )
        ):
            folder = self.download(ten_runs["mednli"].folder, tmp_path / str(number))
            spoil(folder)
            assert expected in complaint(capsys, folder, "--input", os.devnull)[0]
        assert "harness_head.json is missing" in complaint(capsys, tiny_bert, "--input", os.devnull)[0]
        assert "hf download" in complaint(capsys, "someone/mednli", "--input", os.devnull)[0]


CODE = """
import pathlib
from transformers import BertConfig, BertModel

pathlib.Path({marker!r}).touch()


class OddConfig(BertConfig):
    model_type = "odd"


class OddModel(BertModel):
    config_class = OddConfig
"""


class TestCodeOfTheModel:
    @pytest.fixture
    def hostile(
        self, ten_runs: dict[str, Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[], Path]:
        """A run whose model brings Python code, which leaves a mark when it runs; stdin may not be asked."""

        def refuse(*_: object) -> str:
            raise AssertionError("stdin was asked")

        monkeypatch.setattr("builtins.input", refuse)
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
        monkeypatch.setattr(sys, "path", [*sys.path])
        run = Path(shutil.copytree(ten_runs["mednli"].folder, tmp_path / "hostile"))
        (run / "model" / "odd.py").write_text(CODE.format(marker=str(tmp_path / "marker")))

        def with_map(name: str = "config.json", **values: Any) -> Path:
            path = run / "model" / name
            auto_map = {"AutoConfig": "odd.OddConfig", "AutoModel": "odd.OddModel", "AutoTokenizer": ["odd.OddConfig"]}
            path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map} | values))
            return run

        return with_map

    @pytest.mark.parametrize(
        ("name", "values"),
        [("config.json", {"model_type": "odd"}), ("config.json", {}), ("tokenizer_config.json", {})],
    )
    def test_it_is_refused(
        self,
        name: str,
        values: dict[str, Any],
        hostile: Callable[..., Path],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        error = complaint(capsys, hostile(name, **values), "--input", os.devnull)[0]
        assert f"model/{name}: the model comes with code of its own" in error and "--trust_remote_code" in error
        assert not (tmp_path / "marker").exists()

    def test_it_runs_where_it_is_trusted(
        self, hostile: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = hostile(model_type="odd")
        (tmp_path / "in.tsv").write_text(TestModelFolder.TEXT)
        found = predicted(capsys, run, "--input", tmp_path / "in.tsv", "--trust_remote_code")
        assert (tmp_path / "marker").exists()
        config = run / "model" / "config.json"  # the same weights by the library's own class
        values = json.loads(config.read_text())
        del values["auto_map"]
        config.write_text(json.dumps(values | {"model_type": "bert"}))
        assert TestModelFolder().answers(capsys, run, tmp_path) == found

    def test_no_kernels_are_fetched(
        self, ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A name of the hub in place of an attention implementation is code from the hub."""
        folder = TestModelFolder().download(ten_runs["mednli"].folder, tmp_path / "x")
        expected = TestModelFolder().answers(capsys, folder, tmp_path)
        TestModelFolder().spoil(folder, "config.json", attn_implementation="someone/kernel")
        assert TestModelFolder().answers(capsys, folder, tmp_path) == expected


class TestOutput:
    def test_a_new_file_of_its_owner(
        self, ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run, out = ten_runs["hoc"].folder, tmp_path / "out.jsonl"
        (tmp_path / "in.txt").write_text("one .\ntwo .\n")
        printed = predicted(capsys, run, "--input", tmp_path / "in.txt")
        assert predicted(capsys, run, "--input", tmp_path / "in.txt", "--output", out) == []
        assert [json.loads(line) for line in out.read_text().splitlines()] == printed
        assert out.stat().st_mode & 0o777 == 0o600
        before = out.read_bytes()
        assert "is there already" in complaint(capsys, run, "--input", tmp_path / "in.txt", "--output", out)[0]
        assert out.read_bytes() == before
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "elsewhere")
        assert "is there already" in complaint(capsys, run, "--input", tmp_path / "in.txt", "--output", link)[0]
        assert "is a folder" in complaint(capsys, run, "--input", tmp_path / "in.txt", "--output", tmp_path)[0]
        nowhere = tmp_path / "no" / "out"
        assert "no such folder" in complaint(capsys, run, "--input", tmp_path / "in.txt", "--output", nowhere)[0]
        assert predicted(capsys, run, "--input", tmp_path / "in.txt", "--output", os.devnull) == []
        full = complaint(capsys, run, "--input", tmp_path / "in.txt", "--output", "/dev/full")[0]
        assert "--output /dev/full: cannot be written (No space left on device)" in full

    def test_up_to_a_faulty_line(
        self, ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What was answered stays; a file without an answer would only be in the way of the next try."""
        run, out = ten_runs["hoc"].folder, tmp_path / "out.jsonl"
        (tmp_path / "in.txt").write_bytes(b"\xff\n")
        assert "in.txt:1: not UTF-8" in complaint(capsys, run, "--input", tmp_path / "in.txt", "--output", out)[0]
        assert not out.exists()
        (tmp_path / "in.txt").write_bytes(b"one .\n\xff\n")
        assert "in.txt:2: not UTF-8" in complaint(capsys, run, "--input", tmp_path / "in.txt", "--output", out)[0]
        assert json.loads(out.read_text())["index"] == 1


def test_help_names_the_forms_of_all_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        predict.main(["--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in tasks.TASKS)
    for form in ("sentence1 <tab> sentence2", '"sentences": [', "@DRUG$", "--output", "index"):
        assert form in said


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

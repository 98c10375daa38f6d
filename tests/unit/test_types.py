"""Types of mention: scores as seqeval's, what is repaired and where, files and heads of other people."""

from __future__ import annotations

import json
import logging
import random
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from seqeval import metrics as seqeval
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score, matthews_corrcoef
from transformers import BertConfig

from harness.errors import UserError
from harness.model import standard_outputs
from harness.pretrained import Source
from harness.task import Confusion, Example, Prediction, Report, Task
from launch import score
from launch.reporting.ensembles import combined
from launch.reporting.new_text import Item, Predictor
from tasks import checks
from tasks import definition as definitions
from tasks.metrics import repaired, tags_of
from tasks.predictions import Answers, read

TYPES = ("Sign", "Drug", "Gene", "Dose")
BASE = {"name": "found", "family": "tagging", "metric": "mention F1", "columns": {"word": 1, "tag": 2}}
Sentences = Sequence[Sequence[str]]


def task_of(types: Sequence[str], metric: str = "mention F1", **more: object) -> Task:
    return definitions.checked({**BASE, "metric": metric, "labels": list(types), **more}, "my.toml").task()


def scored(task: Task, gold: Sentences, predicted: Sentences, repair: bool = False) -> Report:
    examples = [Example(str(n), ("w",) * len(tags), tuple(tags)) for n, tags in enumerate(gold)]
    predictions = [Prediction(tuple(tags)) for tags in predicted]
    return task.metric(examples, task.repaired(examples, predictions) if repair else predictions)


def sequences(number: int) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """(types, gold, predicted) at random, orphans among the tags; every second word is predicted as gold has it."""
    generator = random.Random(number)
    types = list(TYPES[: 1 + number % 4])
    tags = [f"{letter}-{kind}" for kind in types for letter in "BI"] + ["O"] * 2
    gold = [generator.choices(tags, k=generator.randint(1, 9)) for _ in range(4)]
    guess = [[tag if generator.random() < 0.5 else generator.choice(tags) for tag in row] for row in gold]
    return types, gold, guess


def by_seqeval(gold: Sentences, predicted: Sentences, **mode: object) -> dict[str, dict[str, float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ratios over nothing
        found: dict[str, dict[str, float]] = seqeval.classification_report(gold, predicted, output_dict=True, **mode)
    return found


class TestMetric:
    @pytest.mark.parametrize("part", range(10))
    def test_seqeval_strict_on_ten_thousand_sequences(self, part: int) -> None:
        """4 sentences a time, 1 to 4 types, orphans included; micro, macro and per type. Nothing is repaired."""
        for number in range(250 * part, 250 * (part + 1)):
            types, gold, predicted = sequences(number)
            theirs = by_seqeval(gold, predicted, mode="strict", scheme=IOB2)
            ours = scored(task_of([*types, "None"]), gold, predicted)  # "None": a type that never occurs
            for name in ("precision", "recall"):
                assert ours.values[name] == pytest.approx(theirs["micro avg"][name], abs=1e-12)
            assert ours.score == ours.values["f1"] == ours.values["strict_f1"]
            assert ours.score == pytest.approx(theirs["micro avg"]["f1-score"], abs=1e-12)
            assert ours.values["macro_f1"] == pytest.approx(theirs["macro avg"]["f1-score"], abs=1e-12)
            for kind in types:
                row = theirs.get(kind, {"precision": 0, "recall": 0, "f1-score": 0, "support": 0})
                expected = {"f1": row.pop("f1-score"), **row}
                assert ours.per_class[kind] == pytest.approx(expected, abs=1e-12), (gold, predicted)
            assert ours.values["token_accuracy"] == pytest.approx(seqeval.accuracy_score(gold, predicted))

    @pytest.mark.parametrize("part", range(4))
    def test_repaired_is_conlleval(self, part: int) -> None:
        """Strict after the repair is seqeval's default mode before it."""
        for number in range(250 * part, 250 * (part + 1)):
            types, gold, predicted = sequences(number)
            theirs = by_seqeval(gold, predicted)
            whole = [repaired(tags)[0] for tags in gold]
            ours = scored(task_of([*types, "None"]), whole, predicted, repair=True)
            assert ours.score == pytest.approx(theirs["micro avg"]["f1-score"], abs=1e-12)
            assert ours.values["macro_mention_f1"] == pytest.approx(theirs["macro avg"]["f1-score"], abs=1e-12)
            assert ours.values["repaired_tags"] == sum(repaired(tags)[1] for tags in predicted)

    def test_one_type_by_a_score_of_seqevals(self) -> None:
        """Its tags are plain, and repaired all the same: strict is again seqeval's default mode before it."""
        task = task_of(["Sign"], "strict mention F1")
        for number in range(0, 400, 4):
            _, gold, predicted = sequences(number)
            plain = ([[tag[0] for tag in row] for row in part] for part in (gold, predicted))
            whole, guess = next(plain), next(plain)
            found = scored(task, [repaired(tags)[0] for tags in whole], guess, repair=True)
            theirs = by_seqeval(gold, predicted)["micro avg"]["f1-score"]
            assert task.labels == ("B", "I", "O") and found.score == pytest.approx(theirs, abs=1e-12)

    @pytest.mark.parametrize("types", [("Sign",), TYPES[:2], TYPES])
    def test_words_by_type_are_scikit_learns(self, types: Sequence[str]) -> None:
        """B and I are not told apart, O is no class; one type is given by plain tags."""
        for number in range(len(types) - 1, 200, 4):
            _, gold, predicted = sequences(number)
            task = task_of(types, "word macro F1")
            if len(types) == 1:
                gold, predicted = ([[tag[0] for tag in row] for row in part] for part in (gold, predicted))
            words = [[tag[2:] or tag.replace("B", "I") for row in part for tag in row] for part in (gold, predicted)]
            occurring = sorted({*words[0], *words[1]} - {"O"})
            expected = f1_score(*words, labels=occurring, average="macro", zero_division=0) if occurring else 0
            found = scored(task, gold, predicted)
            assert found.metric == "word macro F1" and found.score == pytest.approx(expected, abs=1e-12)

    def test_rows_and_chart_by_type(self) -> None:
        """By hand: one Sign right, a Drug called Sign, a Sign of two words missed by one."""
        gold = [["B-Sign", "O", "B-Drug"], ["B-Sign", "I-Sign"]]
        found = scored(task_of(TYPES[:2]), gold, [["B-Sign", "O", "B-Sign"], ["B-Sign", "O"]])
        assert found.metric == "mention F1" and found.score == pytest.approx(1 / 3)
        assert found.per_class == {
            "Sign": {"precision": 1 / 3, "recall": 1 / 2, "f1": pytest.approx(0.4), "support": 2},
            "Drug": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
        }
        names = ("Sign", "Drug", "O")
        assert found.chart == Confusion(names, names, ((2, 0, 1), (1, 0, 0), (0, 0, 1)))
        assert found.values["token_accuracy"] == pytest.approx(3 / 5)

    @pytest.mark.parametrize("more", [{}, {"collapse_types": True}])
    def test_one_type_says_no_more_than_it_did(self, more: dict[str, object]) -> None:
        task = task_of(TYPES[: 1 + len(more)], **more)
        found = scored(task, [["B", "O", "I"]], [["B", "O", "I"]], repair=True)
        assert task.labels == ("B", "I", "O") and list(found.per_class) == ["B", "I", "O"] and found.score == 1.0
        assert not found.values.keys() & {"macro_mention_f1", "word_macro_f1", "repaired_tags"}

    def test_the_original_files_hold_what_was_asked_for(self) -> None:
        gold = [["B-Sign", "B-Drug", "O"]]
        for metric in ("mention F1", "word macro F1"):
            task, more = task_of(TYPES[:2], metric), {} if metric == "mention F1" else {metric: pytest.approx(1 / 3)}
            found = scored(task, gold, [["B-Sign", "B-Sign", "O"]])
            row = {"TP": 1, "FP": 1, "FN": 1, "Prec": 0.5, "Rec": 0.5, "FB1": 0.5}
            assert task.dev_row(found) == row | more
            written = task.files("dev", [], [], found)["eval_results.txt"]
            assert "FB1 = 0.5\n" in written and ("word_macro_f1 = 0.33" in written) == bool(more)

    def test_strict_and_macro_of_one_type(self) -> None:
        gold, predicted = [["B", "O", "I"], ["B"]], [["B", "O", "O"], ["B"]]
        assert scored(task_of(["Sign"]), gold, predicted).score == pytest.approx(1 / 2)  # the disjoint one is cut
        assert scored(task_of(["Sign"], "strict mention F1"), gold, predicted).score == 1.0
        assert scored(task_of([], "macro mention F1"), gold, predicted).score == 1.0
        assert scored(task_of([], "word macro F1"), gold, predicted).score == pytest.approx(0.8)


class TestRepair:
    @pytest.mark.parametrize(
        ("tags", "whole"),
        [
            ("I-a I-a O I-b", "B-a I-a O B-b"),
            ("B-a I-b I-b I-a", "B-a B-b I-b B-a"),
            ("O B-a I-a O", "O B-a I-a O"),
            ("B I O I", "B I O B"),
        ],
    )
    def test_tags(self, tags: str, whole: str) -> None:
        changed = sum(one != other for one, other in zip(tags.split(), whole.split(), strict=True))
        assert repaired(tags.split()) == (tuple(whole.split()), changed)

    def test_of_logits_by_whole_sentences(self) -> None:
        """A sentence cut into pieces is one: the I at the start of the second goes on with the mention of the first."""
        task = task_of(TYPES[:2])
        assert task.num_outputs == 5
        pieces = [Example(f"0.{n}", ("w", "w"), ("O", "O"), "0") for n in range(2)]
        alone = Example("1", ("w", "w", "w"), ("O", "O", "O"))
        number = {tag: place for place, tag in enumerate(task.labels)}
        rows = [["O", "I-Sign"], ["I-Sign", "I-Drug"], ["I-Drug", "I-Drug"]]
        decoded = [task.decode(np.eye(5)[[number[tag] for tag in row]]) for row in rows]
        aligned = [task.align(one, two, (0, 1)) for one, two in zip((*pieces, alone), decoded, strict=True)]
        found = task.repaired([*pieces, alone], aligned)
        assert [one.value for one in found] == [("O", "B-Sign"), ("I-Sign", "B-Drug"), ("B-Drug", "I-Drug", "O")]
        assert [one.repaired for one in found] == [2, 0, 1]

    def test_rows_of_the_same_index_are_two_sentences(self) -> None:
        task, twice = task_of(TYPES[:2]), [Example("7", ("w",), ("O",)) for _ in range(2)]
        found = task.repaired(twice, [Prediction(("B-Sign",)), Prediction(("I-Sign",))])
        assert [one.value for one in found] == [("B-Sign",), ("B-Sign",)]


def test_a_majority_of_seeds_is_repaired(tmp_path: Path) -> None:
    """Two of three say I-Sign, and where the mention begins each says something else: the first seed's O wins."""
    task, gold = task_of(TYPES[:2]), [Example("0", ("w", "w"), ("B-Sign", "I-Sign"))]
    said = [("O", "I-Sign"), ("B-Sign", "I-Sign"), ("B-Drug", "O")]
    members = [Answers(tmp_path, gold, [Prediction(tags)], [1]) for tags in said]
    assert [one.value for one in combined(task, members)] == [("O", "B-Sign")]


class TestFiles:
    BOTH = "Aspirin I-Drug\nhigh I-Sign\nfever I-Sign\n\nFever B-Sign\nno O\n"

    def folder(self, tmp_path: Path, text: str = BOTH) -> Path:
        for split in ("train", "dev", "test"):
            (tmp_path / f"{split}.tsv").write_text(text)
        return tmp_path

    @pytest.mark.parametrize(
        ("scheme", "text"),
        [
            ("IOB1", "a I-Sign\nb I-Sign\nc B-Sign\nd I-Drug\n"),
            ("IO", "a Sign\nb Sign\nc O\nd Drug\n"),
            ("BIOES", "a B-Sign\nb E-Sign\nc S-Sign\nd S-Drug\n"),
            ("BILOU", "a B-Sign\nb L-Sign\nc U-Sign\nd U-Drug\n"),
            ("IOB2", "a B-Sign\nb I-Sign\nc B-Sign\nd B-Drug\n"),
        ],
    )
    def test_every_scheme(self, scheme: str, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (example,) = task_of(TYPES[:2], separator="blanks").read(self.folder(tmp_path, text), "train")
        assert example.label == ("B-Sign", "I-Sign", "O" if scheme == "IO" else "B-Sign", "B-Drug")
        assert "as by conlleval" not in caplog.text
        said = task_of(TYPES[:2], separator="blanks", scheme=scheme)
        assert said.read(tmp_path, "train") == [example]

    @pytest.mark.parametrize("scheme", ["auto", "IOB2"])
    def test_an_orphan_of_gold_is_repaired_and_said(
        self, scheme: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="harness.tasks")
        task = task_of(TYPES[:2], separator="blanks", scheme=scheme)
        examples = task.read(self.folder(tmp_path), "test")
        assert [one.label for one in examples] == [("B-Drug", "B-Sign", "I-Sign"), ("B-Sign", "O")]
        (line,) = caplog.messages
        assert "test.tsv: 2 tags I after O or another type, the first in" in line and "test.tsv:1; each was" in line

    @pytest.mark.parametrize("labels", [["Sign"], ["Sign", "Dose"]])
    def test_a_type_that_only_test_has(self, labels: list[str], tmp_path: Path) -> None:
        self.folder(tmp_path, "a B-Sign\n")
        (tmp_path / "test.tsv").write_text("a B-Sign\nb B-Drug\n")
        with pytest.raises(UserError) as raised:
            task_of(labels, separator="blanks").read(tmp_path, "test")
        said = str(raised.value)
        assert said.startswith(f"{tmp_path / 'test.tsv'}:2: unknown label 'B-Drug'; use one of O, B-Sign, I-Sign")
        assert said.endswith("list the type under `ignored` of the task file, where it counts as O, or under `labels`")
        ignoring = task_of(labels, separator="blanks", ignored=["Drug"])
        assert ignoring.read(tmp_path, "test")[0].label == (("B-Sign", "O") if len(labels) == 2 else ("B", "O"))

    def test_a_type_that_train_lacks_is_told(self, tmp_path: Path) -> None:
        self.folder(tmp_path, "a B-Sign\nb O\n\nc B-Drug\n")
        (tmp_path / "train.tsv").write_text("a B-Sign\nb O\n")
        task = task_of(TYPES[:2], separator="blanks")
        examples = {split: task.read(tmp_path, split) for split in ("train", "test")}
        assert checks.quick(task, examples) == ["train: no example of Drug"]
        survey = checks.Survey(task)
        survey.add("test", examples["test"])
        assert survey.size("test", "mentions") == 2 and survey.size("test", "Drug") == 1

    def test_predictions_of_other_people(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Orphans are repaired in both columns, and counted in the predictions."""
        path, task = tmp_path / "p.tsv", task_of(TYPES[:2])
        rows = ["w\tB-Sign\tI-Sign", "w\tI-Sign\tI-Sign", "w\tO\tI-Drug", "", "w\tB-Drug\tI-Drug"]
        path.write_text("\n".join(["token\tgold\tprediction", *rows]) + "\n")
        answers = read(task, path)
        assert [one.value for one in answers.predictions] == [("B-Sign", "I-Sign", "B-Drug"), ("B-Drug",)]
        report = task.metric(answers.examples, answers.predictions)
        assert (report.values["TP"], report.values["FP"], report.values["repaired_tags"]) == (2, 1, 3)
        assert "p.tsv: 3 predicted tags I after O or another type" in caplog.text
        path.write_text("token\tgold\tprediction\nw\tB-Sign\tB\n")
        with pytest.raises(UserError, match=r"p.tsv:2: unknown label 'B'; use one of O, B-Sign, I-Sign, B-Drug"):
            read(task, path)

    @pytest.mark.parametrize("types", [TYPES[:1], TYPES[:2]])
    def test_nothing_to_repair(self, types: Sequence[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Mentions of one type may be disjoint; in IOB1 an I begins one by right."""
        tags = ("B-Sign", "O", "I-Sign") if len(types) == 1 else ("I-Sign", "O", "I-Drug")
        (tmp_path / "p.tsv").write_text("token\tgold\tprediction\n" + "".join(f"w\t{tag}\t{tag}\n" for tag in tags))
        (prediction,) = read(task_of(types), tmp_path / "p.tsv").predictions
        assert prediction.repaired == 0 and "conlleval" not in caplog.text
        assert prediction.value == (("B", "O", "I") if len(types) == 1 else ("B-Sign", "O", "B-Drug"))

    @pytest.mark.parametrize("metric", ["mention F1", "macro mention F1", "word macro F1"])
    def test_a_chemical_called_a_disease_scores_nothing(
        self, metric: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["Aspirin\tB-Chemical\tB-Disease", "lowered\tO\tO", "", "Warfarin\tB-Chemical\tB-Disease"]
        (tmp_path / "pred.tsv").write_text("\n".join(["token\tgold\tprediction", *words]) + "\n")
        (tmp_path / "task.toml").write_text(
            f'name = "two"\nfamily = "tagging"\nmetric = "{metric}"\nlabels = ["Chemical", "Disease"]\n'
            "[columns]\nword = 1\ntag = 2\n"
        )
        argv = ["--task_file", str(tmp_path / "task.toml"), "--predictions", str(tmp_path / "pred.tsv")]
        assert score.main(argv) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["score"] == 0.0 and found["metric"] == metric and found["per_class"]["Chemical"]["support"] == 2

    @hypothesis_settings(max_examples=50, deadline=None)
    @given(
        sentences=st.lists(
            st.lists(st.sampled_from(tags_of(TYPES[:2])), min_size=1, max_size=9), min_size=1, max_size=5
        )
    )
    def test_our_own_file_is_read_back(
        self, sentences: list[list[str]], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        task, folder = task_of(TYPES[:2]), tmp_path_factory.mktemp("own")
        gold = [repaired(tags)[0] for tags in sentences]
        examples = [Example(f"sentence-{n}", ("w",) * len(tags), tags) for n, tags in enumerate(gold)]
        given = task.repaired(examples, [Prediction(tuple(reversed(tags))) for tags in gold])
        (folder / "test.tsv").write_text("\n".join(task.rows(examples, given)) + "\n")
        answers = read(task, folder / "test.tsv")
        assert answers.examples == examples and [one.value for one in answers.predictions] == [
            one.value for one in given
        ]
        shutil.rmtree(folder)


class TestDefinition:
    def test_a_run_keeps_that_types_are_told_apart(self) -> None:
        """Runs of before there was `collapse_types` recorded several labels that counted as one."""
        values = definitions.checked({**BASE, "labels": ["a", "b"]}, "my.toml").values()
        assert values["collapse_types"] is False
        assert definitions.build(json.loads(json.dumps(values))).labels == ("B-a", "I-a", "B-b", "I-b", "O")
        older = {key: value for key, value in values.items() if key != "collapse_types"}
        assert definitions.build(older).labels == ("B", "I", "O")
        one = definitions.checked({**BASE, "labels": ["a"], "collapse_types": False}, "my.toml").values()
        assert "collapse_types" not in one


def test_a_head_of_other_people_names_the_types() -> None:
    task, source = task_of(TYPES[:2]), Source("--model_name_or_path", "theirs", {})
    names = ("O", "B-Drug", "I-Drug", "B-Sign", "I-Sign")
    known = BertConfig(id2label=dict(enumerate(names)), architectures=["BertForTokenClassification"])
    assert standard_outputs(source, known, task) == [3, 4, 1, 2, 0]
    known.id2label = dict(enumerate(("O", "B-Drug", "I-Drug", "B-Gene", "I-Gene")))
    with pytest.raises(UserError, match="its head answers O, B-Drug, I-Drug, B-Gene, I-Gene, found has B-Sign"):
        standard_outputs(source, known, task)
    one = BertConfig(id2label=dict(enumerate(("O", "B-Drug", "I-Drug"))), architectures=["BertForTokenClassification"])
    assert standard_outputs(source, one, task_of(["Drug"])) == [1, 2, 0]


def test_an_answer_names_the_type_of_each_mention() -> None:
    text = "high fever after aspirin"
    item = Item(1, [], spans=((0, 4), (5, 10), (11, 16), (17, 24)), text=text)
    asked = Predictor(task_of(TYPES[:2]), None, None, None, 8, True)  # type: ignore[arg-type]
    assert asked._mentions(item, ("B-Sign", "I-Sign", "O", "B-Drug"))["mentions"] == [
        {"start": 0, "end": 10, "spans": [[0, 10]], "type": "Sign", "text": "high fever"},
        {"start": 17, "end": 24, "spans": [[17, 24]], "type": "Drug", "text": "aspirin"},
    ]


class TestClasses:
    @pytest.mark.parametrize("negative", [None, "b"])
    def test_weighted_f1_and_mcc_are_scikit_learns(self, negative: str | None) -> None:
        labels = ["a", "b", "c", "d"]
        base = {"name": "kinds", "family": "multiclass", "labels": labels, "columns": {"sentence": "x", "label": "y"}}
        metrics = ("weighted F1", "MCC") if negative is None else ("weighted F1",)
        for metric in metrics:
            left_out = {} if negative is None else {"negative": negative}
            task = definitions.checked({**base, "metric": metric, **left_out}, "my.toml").task()
            for number in range(200):
                generator = random.Random(number)
                some = labels[: generator.randint(1, 4)]
                gold, predicted = (generator.choices(some, k=8) for _ in range(2))
                found = task.metric([Example(x, (), x) for x in gold], [Prediction(x) for x in predicted])
                counted = [label for label in labels if label != negative]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    expected = (
                        matthews_corrcoef(gold, predicted)
                        if metric == "MCC"
                        else f1_score(gold, predicted, labels=counted, average="weighted", zero_division=0)
                    )
                assert found.score == pytest.approx(expected, abs=1e-12)
                assert found.metric.startswith(metric) and "accuracy" in found.values

    def test_mcc_counts_every_class(self) -> None:
        values = {"name": "k", "family": "multiclass", "metric": "MCC", "labels": ["a", "b"], "negative": "a"}
        with pytest.raises(UserError, match="key negative: MCC counts every class; leave it out"):
            definitions.checked({**values, "columns": {"sentence": "x", "label": "y"}}, "my.toml")

    def test_the_ten_say_no_more_than_they_did(self) -> None:
        values = {"name": "k", "family": "multiclass", "metric": "accuracy", "labels": ["a", "b"]}
        task = definitions.checked({**values, "columns": {"sentence": "x", "label": "y"}}, "my.toml").task()
        assert not task.metric([Example("0", (), "a")], [Prediction("a")]).values.keys() & {"mcc", "weighted_f1"}

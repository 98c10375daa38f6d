"""Scores against hand-worked values, scikit-learn and seqeval."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tasks
from harness.task import Confusion, Example, Prediction, Report, Scatter, UserError
from tasks.metrics import mentions, strict_mentions

# The example of the disjoint mentions, with | between sentences.
DISJOINT_GOLD = "O O B I O | O B I O I O | B I I | I I O"
DISJOINT_PREDICTED = "O O B I O | O B I O O O | B I I | I O I"

QUICK = settings(max_examples=60, deadline=None)


def tagged(gold: str, predicted: str) -> Report:
    examples, predictions = [], []
    for number, (one, other) in enumerate(zip(gold.split("|"), predicted.split("|"), strict=True)):
        tags = tuple(one.split())
        examples.append(Example(str(number), ("w",) * len(tags), tags, f"s{number}"))
        predictions.append(Prediction(tuple(other.split())))
    return tasks.get("clefe").metric(examples, predictions)


def classified(task: str, gold: Sequence[str], predicted: Sequence[str]) -> Report:
    examples = [Example(str(number), ("x",), label) for number, label in enumerate(gold)]
    return tasks.get(task).metric(examples, [Prediction(label) for label in predicted])


def rated(gold: Sequence[float], predicted: Sequence[float]) -> Report:
    examples = [Example(str(number), ("x", "y"), score) for number, score in enumerate(gold)]
    return tasks.get("biosses").metric(examples, [Prediction(score) for score in predicted])


def labels_of(text: str) -> tuple[int, ...]:
    return tuple(int(str(number) in text) for number in range(10))


def marked(rows: Sequence[tuple[str, str, str]], scores: Sequence[Sequence[float]] | None = None) -> Report:
    """Rows are (document, gold labels, predicted labels), labels written as digits."""
    examples, predictions = [], []
    for number, (document, gold, predicted) in enumerate(rows):
        examples.append(Example(f"{document}_s{number}", ("x",), labels_of(gold), document))
        probabilities = None if scores is None else tuple(scores[number])
        predictions.append(Prediction(labels_of(predicted), probabilities))
    return tasks.get("hoc").metric(examples, predictions)


class TestMentions:
    def test_disjoint_example(self) -> None:
        report = tagged(DISJOINT_GOLD, DISJOINT_PREDICTED)
        assert report.metric == "mention F1"
        assert report.score == pytest.approx(1 / 3)
        assert (report.values["TP"], report.values["FP"], report.values["FN"]) == (1, 2, 2)
        assert report.values["precision"] == report.values["recall"] == pytest.approx(1 / 3)

    def test_i_joins_the_newest_b_across_o_and_sentences(self) -> None:
        assert mentions(["O", "B", "I", "O", "I", "B", "O", "I"]) == {(1, 2, 4), (5, 7)}
        assert mentions(["I", "I", "O"]) == set()
        assert mentions(["I", "B"]) == {(1,)}

    def test_strict_needs_neighbours(self) -> None:
        assert strict_mentions([["O", "B", "I", "O", "I", "B"], ["I", "B", "I"]]) == {
            (0, 1, 3, ""),
            (0, 5, 6, ""),
            (1, 1, 3, ""),
        }

    def test_nothing_predicted_nothing_there(self) -> None:
        assert tagged("O B I O", "O O O O").score == 0.0
        assert tagged("O O O O", "O B I O").score == 0.0
        assert tagged("O O", "O O").score == 0.0
        assert tagged("B I", "I I").score == 0.0
        assert tagged("I B", "I B").score == 1.0
        assert tasks.get("clefe").metric([], []).score == 0.0

    def test_pieces_of_a_cut_sentence_are_one_sentence(self) -> None:
        examples = [Example("0.0", ("a",), ("B",), "0"), Example("0.1", ("b",), ("I",), "0")]
        whole = tasks.get("clefe").metric(examples, [Prediction(("B",)), Prediction(("I",))])
        assert whole.values["strict_f1"] == 1.0
        assert whole.values["sentences"] == 1
        part = tasks.get("clefe").metric(examples, [Prediction(("B",)), Prediction(("O",))])
        assert (part.score, part.values["strict_f1"]) == (0.0, 0.0)

    def test_tags(self) -> None:
        report = tagged("B I O | O B", "B O O | O I")
        assert report.chart == Confusion(("B", "I", "O"), ("B", "I", "O"), ((1, 1, 0), (0, 0, 1), (0, 0, 2)))
        assert report.per_class["B"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
        assert report.per_class["O"]["precision"] == pytest.approx(2 / 3)
        assert report.values["token_accuracy"] == pytest.approx(3 / 5)
        assert report.values["macro_f1"] == pytest.approx((2 / 3 + 0 + 0.8) / 3)

    @pytest.mark.parametrize(("tags", "predicted"), [(("B",), ("B", "O")), (("B", "O"), ("B",))])
    def test_lengths_must_agree(self, tags: tuple[str, ...], predicted: tuple[str, ...]) -> None:
        with pytest.raises(UserError, match=r"example 7: 1 words, . labels, . predictions"):
            tasks.get("clefe").metric([Example("7", ("a",), tags)], [Prediction(predicted)])

    @QUICK
    @given(st.lists(st.lists(st.sampled_from("BIO"), min_size=1, max_size=8), min_size=1, max_size=6))
    def test_the_same_is_perfect(self, sentences: list[list[str]]) -> None:
        text = "|".join(" ".join(tags) for tags in sentences)
        assert tagged(text, text).score == float("B" in text)
        assert tagged(text, text).values["token_accuracy"] == 1.0

    @QUICK
    @given(st.lists(st.lists(st.tuples(*[st.sampled_from("BIO")] * 2), min_size=1, max_size=8), min_size=1, max_size=6))
    def test_against_seqeval_and_scikit_learn(self, sentences: list[list[tuple[str, str]]]) -> None:
        from seqeval.metrics.v1 import precision_recall_fscore_support as strict  # v1 is the strict mode
        from seqeval.scheme import IOB2
        from sklearn.metrics import precision_recall_fscore_support

        gold, predicted = ([[pair[side] for pair in sentence] for sentence in sentences] for side in (0, 1))
        report = tagged(*("|".join(" ".join(tags) for tags in side) for side in (gold, predicted)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # seqeval about undefined scores and odd tags
            wanted = strict(gold, predicted, scheme=IOB2, average="micro", zero_division=0)
        ours = [report.values[f"strict_{name}"] for name in ("precision", "recall", "f1")]
        assert ours == pytest.approx([float(value) for value in wanted[:3]])
        flat = [[tag for sentence in side for tag in sentence] for side in (gold, predicted)]
        theirs = precision_recall_fscore_support(*flat, labels=["B", "I", "O"], zero_division=0)
        for index, tag in enumerate("BIO"):
            assert list(report.per_class[tag].values()) == pytest.approx([float(column[index]) for column in theirs])

    @QUICK
    @given(st.lists(st.tuples(st.sampled_from("BO"), st.sampled_from("BO")), min_size=1, max_size=30))
    def test_without_i_both_kinds_of_mention_are_the_same(self, pairs: list[tuple[str, str]]) -> None:
        report = tagged(*(" ".join(pair[side] for pair in pairs) for side in (0, 1)))
        assert report.score == report.values["strict_f1"]


class TestRelations:
    def test_by_hand(self) -> None:
        gold = ["CPR:3", "CPR:3", "CPR:4", "false", "false", "false"]
        predicted = ["CPR:3", "CPR:4", "false", "CPR:4", "false", "false"]
        report = classified("chemprot", gold, predicted)
        assert report.metric == "micro F1 without false"
        assert [report.values[key] for key in ("TP", "FP", "FN")] == [1, 2, 2]
        assert report.score == report.values["micro_f1"] == pytest.approx(1 / 3)
        assert report.values["accuracy"] == pytest.approx(0.5)
        assert report.values["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)  # CPR:3 and CPR:4 occur
        assert report.per_class["CPR:3"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
        assert report.per_class["CPR:9"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
        assert isinstance(report.chart, Confusion)
        assert report.chart.counts[0] == (1, 1, 0, 0, 0, 0)
        assert report.chart.counts[-1] == (0, 1, 0, 0, 0, 2)

    @pytest.mark.parametrize(
        ("task", "negative"), [("ddi2013", "DDI-false"), ("chemprot", "false"), ("i2b2_2010", "false")]
    )
    def test_only_negatives(self, task: str, negative: str) -> None:
        positive = tasks.get(task).labels[0]
        assert classified(task, [negative] * 3, [negative] * 3).score == 0.0
        assert classified(task, [positive, negative], [negative] * 2).score == 0.0
        assert classified(task, [positive, negative], [positive, negative]).score == 1.0
        assert classified(task, [], []).score == 0.0

    def test_unknown_label(self) -> None:
        with pytest.raises(UserError, match=r"unknown label 'x'.*CPR:3"):
            classified("chemprot", ["false"], ["x"])

    def test_lengths_must_agree(self) -> None:
        with pytest.raises(ValueError, match="0 predictions for 1 examples"):
            classified("chemprot", ["false"], [])

    @QUICK
    @given(st.lists(st.tuples(*[st.sampled_from(tasks.get("ddi2013").labels)] * 2), min_size=1, max_size=40))
    def test_against_scikit_learn(self, pairs: list[tuple[str, str]]) -> None:
        from sklearn.metrics import accuracy_score, precision_recall_fscore_support

        gold, predicted = (list(side) for side in zip(*pairs, strict=True))
        report = classified("ddi2013", gold, predicted)
        labels = list(tasks.get("ddi2013").labels)
        micro = precision_recall_fscore_support(gold, predicted, labels=labels[:-1], average="micro", zero_division=0)
        ours = [report.values[key] for key in ("precision", "recall", "micro_f1")]
        assert ours == pytest.approx([float(value) for value in micro[:3]])
        assert report.values["accuracy"] == pytest.approx(accuracy_score(gold, predicted))
        each = precision_recall_fscore_support(gold, predicted, labels=labels, zero_division=0)
        for index, label in enumerate(labels):
            assert list(report.per_class[label].values()) == pytest.approx([float(column[index]) for column in each])
        present = [label for label in labels[:-1] if label in gold or label in predicted]
        if present:
            macro = precision_recall_fscore_support(gold, predicted, labels=present, average="macro", zero_division=0)
            assert report.values["macro_f1"] == pytest.approx(float(macro[2]))

    def test_inference(self) -> None:
        gold = ["neutral", "neutral", "entailment", "contradiction"]
        report = classified("mednli", gold, ["neutral", "entailment", "entailment", "neutral"])
        assert (report.metric, report.score) == ("accuracy", 0.5)
        assert report.values["micro_f1"] == report.values["accuracy"] == 0.5
        assert report.values["macro_f1"] == pytest.approx((0.5 + 2 / 3 + 0) / 3)
        assert [report.values[key] for key in ("TP", "FP", "FN")] == [2, 2, 2]


class TestSimilarity:
    def test_by_hand(self) -> None:
        report = rated([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0])
        assert report.metric == "Pearson"
        assert report.score == report.values["pearson"] == pytest.approx(0.8)
        assert report.values["spearman"] == pytest.approx(0.8)
        assert (report.values["mse"], report.values["mae"], report.values["num"]) == (0.5, 0.5, 4)
        assert report.chart == Scatter((1.0, 2.0, 3.0, 4.0), (1.0, 3.0, 2.0, 4.0))
        assert report.warnings == ()

    def test_perfect_and_reversed(self) -> None:
        assert rated([0, 1, 4], [0, 10, 40]).score == pytest.approx(1.0)
        assert rated([0, 1, 4], [0, -1, -4]).score == pytest.approx(-1.0)

    @pytest.mark.parametrize(
        ("gold", "predicted", "word"),
        [
            ([1, 2, 3], [2.5, 2.5, 2.5], "all predictions are the same"),
            ([1, 2, 3], [2.5, 2.5, 2.5 + 4e-16], "all predictions are the same"),
            ([1, 2, 3], [0.0, 0.0, 0.0], "all predictions are the same"),
            ([2, 2, 2], [1, 2, 3], "all gold scores are the same"),
            ([1], [1], "needs 2 examples, there are 1"),
            ([], [], "needs 2 examples, there are 0"),
            ([1, 2, 3], [1, float("nan"), 3], "1 predictions are not finite"),
            ([1, 2, 3], [1, float("inf"), 3], "1 predictions are not finite"),
        ],
    )
    def test_undefined_is_zero_with_a_warning(self, gold: list[float], predicted: list[float], word: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # ours, not scipy's
            report = rated(gold, predicted)
        assert (report.score, report.values["spearman"]) == (0.0, 0.0)
        assert len(report.warnings) == 1
        assert word in report.warnings[0]
        assert np.isfinite(list(report.values.values())).all()

    @QUICK
    @given(st.lists(st.tuples(*[st.floats(-100, 100, width=16)] * 2), min_size=2, max_size=40))
    def test_against_numpy(self, pairs: list[tuple[float, float]]) -> None:
        gold, predicted = (np.array(side) for side in zip(*pairs, strict=True))
        report = rated(gold.tolist(), predicted.tolist())
        assert -1.0 <= report.score <= 1.0
        if report.warnings:
            assert np.ptp(gold) == 0 or np.ptp(predicted) == 0
        else:
            assert report.score == pytest.approx(np.corrcoef(gold, predicted)[0, 1], abs=1e-6)
            assert report.values["mae"] == pytest.approx(np.abs(gold - predicted).mean())


class TestHallmarks:
    def test_by_hand(self) -> None:
        # a: gold 1, 2; predicted 1, 3, 4: precision 1/3, recall 1/2. b: gold 5; nothing predicted: 0 and 0.
        report = marked([("a", "1", "13"), ("a", "2", ""), ("a", "", "34"), ("b", "5", "")])
        assert report.metric == "example-based F1 on documents"
        assert report.values["precision"] == pytest.approx(1 / 6)
        assert report.values["recall"] == pytest.approx(1 / 4)
        assert report.score == report.values["f1"] == pytest.approx(0.2)  # not the mean of the documents' F1
        assert [report.values[key] for key in ("TP", "FP", "FN", "documents", "num")] == [1, 2, 2, 2, 4]
        assert report.values["micro_f1"] == pytest.approx(1 / 3)
        assert report.values["macro_f1"] == pytest.approx(1 / 5)  # of the labels 1 to 5
        assert report.values["sentence_micro_f1"] == pytest.approx(2 / 7)
        assert report.values["sentence_exact_match"] == 0.0
        assert isinstance(report.chart, Confusion)
        assert report.chart.columns == ("TP", "FP", "FN", "TN")
        assert report.chart.counts[:4] == ((0, 0, 0, 2), (1, 0, 0, 1), (0, 0, 1, 1), (0, 1, 0, 1))
        assert "micro_roc_auc" not in report.values
        assert report.warnings == ()

    def test_sentences_of_a_document_need_not_be_neighbours(self) -> None:
        rows = [("a", "1", "1"), ("b", "2", "2"), ("a", "3", "3")]
        assert marked(rows).values["documents"] == 2

    @pytest.mark.parametrize(("gold", "predicted", "score"), [("", "", 1.0), ("", "1", 0.0), ("1", "", 0.0)])
    def test_documents_without_labels(self, gold: str, predicted: str, score: float) -> None:
        assert marked([("a", gold, predicted)]).score == score

    def test_no_example(self) -> None:
        assert marked([]).score == 0.0

    def test_area_under_the_curve(self) -> None:
        # Label 0: positives .9 and .4, negatives .4 and .1: right 3 times, a tie once. Label 1: one value only.
        scores = [[first] + [0.0] * 9 for first in (0.9, 0.4, 0.4, 0.1)]
        report = marked([("a", "0", "0"), ("b", "0", ""), ("c", "", ""), ("d", "", "")], scores)
        assert report.per_class["0"]["roc_auc"] == pytest.approx(3.5 / 4)
        assert "roc_auc" not in report.per_class["1"]
        assert report.values["micro_roc_auc"] == pytest.approx((2 * 36 + 3.5) / (2 * 38))
        assert report.warnings == ("no ROC AUC where gold has one value only: 1, 2, 3, 4, 5, 6, 7, 8, 9",)
        assert tasks.get("hoc").dev_row(report)["Micro_ROC_AUC"] == report.values["micro_roc_auc"]

    def test_area_of_what_is_not_finite(self) -> None:
        report = marked([("a", "0", "0"), ("b", "", "")], [[float("nan")] * 10] * 2)
        assert report.warnings == ("some probabilities are not finite numbers: no ROC AUC",)
        assert tasks.get("hoc").dev_row(report)["Micro_ROC_AUC"] == 0.0

    @pytest.mark.slow
    @QUICK
    @given(st.data())
    def test_against_scikit_learn(self, data: st.DataObject) -> None:
        from sklearn.metrics import f1_score, precision_recall_fscore_support, roc_auc_score

        size = data.draw(st.integers(2, 12))
        generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        gold = generator.random((size, 10)) < 0.5
        scores = generator.integers(0, 5, (size, 10)) / 4  # with ties
        names = [[str(index) for index in np.flatnonzero(row)] for row in gold]
        predicted = scores > 0.5
        rows = [
            (str(number), "".join(names[number]), "".join(map(str, np.flatnonzero(predicted[number]))))
            for number in range(size)
        ]
        report = marked(rows, scores.tolist())  # each sentence a document: scikit-learn's "samples"
        each = precision_recall_fscore_support(gold, predicted, average=None, zero_division=0)
        for label in range(10):
            figures = report.per_class[str(label)]
            ours = [figures[key] for key in ("precision", "recall", "f1", "support")]
            assert ours == pytest.approx([float(column[label]) for column in each])
            if 0 < gold[:, label].sum() < size:
                assert figures["roc_auc"] == pytest.approx(roc_auc_score(gold[:, label], scores[:, label]))
        if 0 < gold.sum() < gold.size:
            assert report.values["micro_roc_auc"] == pytest.approx(roc_auc_score(gold.ravel(), scores.ravel()))
        assert report.values["micro_f1"] == pytest.approx(f1_score(gold, predicted, average="micro", zero_division=0))
        if gold.any(axis=1).all():
            means = precision_recall_fscore_support(gold, predicted, average="samples", zero_division=0)
            ours = [report.values[key] for key in ("precision", "recall")]
            assert ours == pytest.approx([float(value) for value in means[:2]])

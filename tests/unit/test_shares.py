"""--train_fraction: which examples are drawn; and the end of a run by --early_stopping_patience."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import assert_user_error

import tasks
from harness import data, folds
from harness.checkpoint import TrainState
from harness.config import RunConfig
from harness.task import Example
from launch.run import inputs, settings

fractions = st.floats(0.001, 1.0)


def made(groups: list[str]) -> list[Example]:
    return [Example(str(number), ("x",), "a", group) for number, group in enumerate(groups)]


@given(
    st.lists(st.sampled_from(["", "d1", "d2", "d3"]), min_size=1, max_size=40), fractions, fractions, st.integers(0, 9)
)
def test_a_share(groups: list[str], one: float, other: float, seed: int) -> None:
    examples = made(groups)
    small, large = (folds.share(examples, fraction, seed) for fraction in sorted((one, other)))
    assert set(small) <= set(large) and small == sorted(set(small))
    assert len(small) >= min(one, other) * len(examples) - 1e-9 and small
    for number, example in enumerate(examples):  # documents whole
        same = [at for at, another in enumerate(examples) if example.group and another.group == example.group]
        assert not same or (number in small) == all(at in small for at in same)
    largest = max([1, *(groups.count(group) for group in set(groups) if group)])
    assert len(small) < min(one, other) * len(examples) + largest
    assert folds.share(examples, 1.0, seed) == list(range(len(examples)))


def test_documents_of_words_stay_whole() -> None:
    """As BLUE's files name them, beside the sentences that were cut."""
    examples = [Example(f"{n}", ("x",), ("O",), f"s{n // 2}", f"d{n // 6}") for n in range(60)]
    chosen = folds.share(examples, 0.25, 3)
    assert len(chosen) == 18 and {examples[n].document for n in chosen} == {f"d{n // 6}" for n in chosen}
    assert [n for n in range(60) if examples[n].document in {examples[m].document for m in chosen}] == chosen


def test_seeds_draw_others() -> None:
    examples = made([""] * 200)
    assert folds.share(examples, 0.1, 1) != folds.share(examples, 0.1, 2)
    assert len(folds.share(examples, 0.1, 1)) == 20


def parsed(*words: str) -> RunConfig:
    return settings.parse(["--model_name_or_path", "tiny", *words])[0]


@pytest.mark.parametrize("name", ["mednli", "bc5cdr_disease", "hoc", "medsts"])
def test_of_a_tasks_own_splits(name: str) -> None:
    """Of what is trained on, dev too where that is."""
    config, task = parsed("--task", name, "--train_fraction", "0.5"), tasks.get(name)
    examples = {split: task.read(tasks.sample_dir(name), split) for split in ("train", "dev")}
    whole = [example for split in task.train_splits for example in examples[split]]
    chosen = inputs.training_share(config, task, examples)
    assert chosen is not None and 0.5 * len(whole) <= len(chosen) < 0.5 * len(whole) + 20
    assert (
        len({whole[at].group for at in chosen} & {whole[at].group for at in set(range(len(whole))) - {*chosen}} - {""})
        == 0
    )


def test_all_of_it_is_the_run_without_it() -> None:
    one, other = parsed("--task", "mednli"), parsed("--task", "mednli", "--train_fraction", "1")
    assert one == other and inputs.training_share(one, tasks.get("mednli"), {}) is None


@pytest.mark.parametrize("wrong", ["0", "-0.1", "1.01", "x"])
def test_no_share(wrong: str) -> None:
    assert_user_error(lambda: parsed("--task", "mednli", "--train_fraction", wrong), f"--train_fraction {wrong}")


LABELS = {
    "mednli": ("neutral", "entailment"),
    "bc5cdr_disease": (("O", "O"), ("O", "B")),
    "hoc": ((0,) * 10, (1, *(0,) * 9)),
}


@pytest.mark.parametrize(("name", "left_out"), [("mednli", "entailment"), ("bc5cdr_disease", "B"), ("hoc", None)])
def test_a_class_that_is_left_out_is_named(name: str, left_out: str | None) -> None:
    task, (common, rare) = tasks.get(name), LABELS[name]
    config = dataclasses.replace(parsed("--task", name, "--train_fraction", "0.1"), train_splits=("train",))
    rows = [Example(str(number), ("a", "b"), common) for number in range(100)]
    first = folds.share(rows, 0.1, config.seed)
    place = next(number for number in range(100) if number not in first)
    rows[place] = dataclasses.replace(rows[place], label=rare)
    named = left_out or task.labels[0]
    said = ("--train_fraction 0.1", f": {named} is", "a larger fraction or another seed")
    assert_user_error(lambda: inputs.training_share(config, task, {"train": rows}), *said)
    rows[place], rows[first[0]] = dataclasses.replace(rows[place], label=common), rows[place]
    assert (
        inputs.training_share(config, task, {"train": rows}) == first
    )  # there now: what is in no example is not missed


def test_the_examples_of_a_share(tiny_tokenizer: object) -> None:
    for name in ("mednli", "bc5cdr_disease"):
        task = tasks.get(name)
        rows = task.read(tasks.sample_dir(name), "train")[:9]
        chosen = [1, 4, 8]
        for length, stride in ((64, None), (24, 4)):  # whole, and in windows
            expected = task.features([rows[at] for at in chosen], tiny_tokenizer, length, stride)
            assert data.part(task.features(rows, tiny_tokenizer, length, stride), chosen) == expected
            assert stride is None or sum(expected.windows or ()) > len(chosen)


# ---- patience
@pytest.mark.parametrize(
    ("scores", "without"),
    [([], 0), ([0.5], 0), ([0.5, 0.5], 1), ([0.5, 0.6, 0.6, 0.4], 2), ([0.5, 0.4, 0.6], 0), ([-0.2, -0.3], 1)],
)
def test_epochs_without_gain(scores: list[float], without: int) -> None:
    history = [{"epoch": number, "dev": {"score": score}} for number, score in enumerate(scores, start=1)]
    assert TrainState(history=history).epochs_without_gain() == without
    assert TrainState(history=[{"epoch": 1}]).epochs_without_gain() == 0


def test_patience_reports_the_best_epoch() -> None:
    assert parsed("--task", "mednli", "--early_stopping_patience", "2").select == "best_dev"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--task", "bc5cdr_disease"), "dev is trained on, and cannot say when to stop; give --train_splits train"),
        (("--task", "mednli", "--train_splits", "train,dev"), "give --train_splits train"),
        (("--task", "mednli", "--select", "last"), "the best epoch's weights are reported"),
        (("--task", "mednli", "--early_stopping_patience", "0"), "--early_stopping_patience 0"),
    ],
)
def test_patience_that_cannot_be(words: tuple[str, ...], said: str) -> None:
    assert_user_error(lambda: parsed("--early_stopping_patience", "2", *words), "--early_stopping_patience", said)


def test_patience_without_dev_scores() -> None:
    words = ("--task", "mednli", "--early_stopping_patience", "2", "--no-eval_every_epoch", "--select", "best_dev")
    assert_user_error(lambda: parsed(*words), "--early_stopping_patience 2 needs the dev score of every epoch")
    assert parsed("--task", "bc5cdr_disease", "--early_stopping_patience", "2", "--train_splits", "train")

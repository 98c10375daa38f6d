"""What docs/old_command_lines.md says of old command lines, line by line."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import arguments, assert_user_error, cut, run

import tasks
from harness import data, distributed, evaluate, flags
from harness.config import BatchPlan, RunConfig
from harness.evaluate import Split
from harness.task import Encoded, Example, Prediction
from launch.run import settings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "old_command_lines.md").read_text(encoding="utf-8")
OLD = ["--task_name=mednli", "--data_dir=d", "--output_dir=o", "--model_type=bert"]


def words(counts: list[int]) -> Encoded:
    """A tagging split of examples with so many scored words."""
    rows = [list(range(count)) for count in counts]
    return Encoded([[0] * 9 for _ in counts], None, rows, rows, rows)


class TestPage:
    def test_every_flag_exists(self) -> None:
        named = set(re.findall(r"--(?:no-)?([a-z][a-z_0-9]+)", PAGE))
        assert named <= set(flags.known_names()) | set(flags.RETIRED)

    def test_every_file_exists(self) -> None:
        for name in re.findall(r"`((?:tests|launch)/[a-z_./]+)`", PAGE):
            assert (Path(__file__).resolve().parents[2] / name).is_file()


class TestDefaults:
    def test_the_recipe_stands_for_what_is_omitted(self) -> None:
        found, _ = settings.parse([*OLD, "--model_name_or_path=dmis-lab/biobert-base-cased-v1.1"])
        assert (found.learning_rate, found.num_train_epochs, found.seed) == (3e-5, 6, 12)
        assert (found.per_gpu_train_batch_size, found.per_gpu_eval_batch_size) == (32, 32)
        assert (found.logging_steps, found.save_steps, found.precision) == (10, 0, "auto")
        assert found.do_lower_case is None and found.eval_every_epoch
        assert found.do_train and found.do_eval and found.do_predict

    def test_flags_give_the_old_values(self) -> None:
        old = {"learning_rate": 5e-5, "num_train_epochs": 3.0, "per_gpu_train_batch_size": 8, "seed": 42}
        line = [f"--{name}={value}" for name, value in old.items()]
        found, _ = settings.parse([*OLD, "--model_name_or_path=m", *line, "--no-do_lower_case", "--precision=fp32"])
        assert {name: getattr(found, name) for name in old} == old
        assert (found.do_lower_case, found.precision) == (False, "fp32")

    @pytest.mark.parametrize(
        ("name", "value"),
        [("max_seq_length", 128), ("gradient_accumulation_steps", 1), ("weight_decay", 0.0), ("adam_epsilon", 1e-8),
         ("max_grad_norm", 1.0), ("warmup_steps", 0)],
    )  # fmt: skip
    def test_the_same_as_before(self, name: str, value: float) -> None:
        assert getattr(settings.parse([*OLD, "--model_name_or_path=m"])[0], name) == value


class TestSteps:
    def test_accumulation_in_tagging_means_over_all_words(self) -> None:
        """A pass of one word that costs 4 and one of three that cost nothing: 1, where the mean of means is 2."""
        encoded, costs = words([1, 3]), {1: 4.0, 3: 0.0}
        ((first, second),) = data.epoch_steps(encoded, BatchPlan(1, 1, 2, 2), 12, 0, rank=0)
        sums = [costs[sum(encoded.units(i) for i in micro.examples)] for micro in (first, second)]
        assert (first.scale * sums[0] + second.scale * sums[1]) / 2 == pytest.approx(1.0)

    def test_passes_left_over_are_a_step(self) -> None:
        """Ten examples, four a step: the third step has two, and the next epoch begins anew."""
        plan = BatchPlan(2, 1, 2, 4)
        for epoch in (0, 1):
            steps = list(data.epoch_steps(words([1] * 10), plan, 12, epoch, rank=0))
            seen = [[i for micro in passes if micro.scale for i in micro.examples] for passes in steps]
            assert list(map(len, seen)) == [4, 4, 2]
            assert sorted(chain.from_iterable(seen)) == list(range(10))
            assert all(sum(m.scale * len(m.examples) for m in passes if m.scale) / 2 == 1.0 for passes in steps)
        assert data.total_steps(10, plan, 2.0, -1) == 6

    def test_a_part_of_an_epoch(self) -> None:
        plan = BatchPlan(2, 1, 1, 2)
        assert [data.total_steps(8, plan, epochs, -1) for epochs in (2.0, 2.5, 0.5)] == [8, 10, 2]

    def test_max_steps_and_the_loss_in_files(self, tiny_bert: Path, tmp_path: Path) -> None:
        """N steps, not one more; and the mean over all examples, which the predictions give."""
        folder = cut("medsts", tmp_path / "data", 21)
        more = ("--data_dir", str(folder), "--max_steps", "5", "--logging_steps", "1")
        result = run(arguments("medsts", tiny_bert, tmp_path / "run", *more))
        assert result["steps"] == 5
        rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        assert sum('"train/lr"' in row for row in rows) == 5
        for split, name in (("dev", "eval_results.txt"), ("test", "test_results.txt")):
            table = np.array(
                [row.split("\t")[1:] for row in (tmp_path / "run" / "predictions" / f"{split}.tsv").open()][1:], float
            )
            loss = float(np.mean((table[:, 0] - table[:, 1]) ** 2))
            assert result["scores"][split]["loss"] == pytest.approx(loss, rel=1e-4)
            assert f"loss = {result['scores'][split]['loss']}\n" in (tmp_path / "run" / name).read_text()


def test_loss_does_not_depend_on_the_batch() -> None:
    """Three squared errors in batches of two: the mean of all, not the mean of the batches' means."""
    task = tasks.get("medsts")
    examples = [Example(str(n), ("a", "b"), label) for n, label in enumerate((0.0, 0.0, 3.0))]
    split = Split("dev", examples, Encoded([[1, 2]] * 3, None, [example.label for example in examples]))
    for size in (1, 2, 3):
        found = evaluate.evaluate(
            lambda batch: torch.zeros(len(batch.examples), 1), split, task,
            RunConfig(per_gpu_eval_batch_size=size), distributed.init(no_cuda=True), 0,
        )  # fmt: skip
        assert found.loss == pytest.approx(3.0)


def tagged(mentions: list[str], typed: str = "") -> str:
    """Sentences that hold the mentions, as BC5CDR has them."""
    lines = []
    for number, mention in enumerate(mentions):
        cells = [("The", "O"), ("drug", "O")]
        cells += [(word, f"{'I' if place else 'B'}{typed}") for place, word in enumerate(mention.split())]
        lines += [f"{word}\t{number}\t0\t{tag}" for word, tag in [*cells, (".", "O")]] + [""]
    return "\n".join(lines) + "\n"


DISEASES = ["postural hypotension", "Parkinson ' s disease", "seizures", "acute renal failure", "chest pain", "anemia"]
CHEMICALS = ["lidocaine", "valproic acid", "sodium chloride", "Cyclophosphamide", "morphine", "cisplatin"]
UNCLEAR = ["SRL", "HIT", "PD", "NMDA"]


class TestBc5cdr:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            (tagged(DISEASES), "bc5cdr_disease"),
            (tagged(CHEMICALS), "bc5cdr_chem"),
            (tagged(CHEMICALS[:3]), "bc5cdr_chem"),
            (tagged([*DISEASES, "ethanol"]), "bc5cdr_disease"),  # abuse of it, say
            (tagged(UNCLEAR, "-Disease"), "bc5cdr_disease"),
            (tagged(UNCLEAR, "-Chemical"), "bc5cdr_chem"),
        ],
        ids=["diseases", "chemicals", "three", "a chemical among diseases", "typed diseases", "typed chemicals"],
    )
    def test_by_the_mentions(self, tmp_path: Path, text: str, name: str) -> None:
        folder = tmp_path / "corpus"
        folder.mkdir()
        (folder / "train.tsv").write_text(text)
        found, notes = settings.parse(["--task_name=bc5cdr", f"--data_dir={folder}", "--model_name_or_path=m"])
        assert (found.task, notes) == (name, [f"--task bc5cdr: taken as {name}"])

    @pytest.mark.parametrize("name", ["bc5cdr_disease", "bc5cdr_chem"])
    @pytest.mark.parametrize("kept", ["train.tsv", "devel.tsv", "test.tsv"])
    def test_any_of_the_files_will_do(self, tmp_path: Path, name: str, kept: str) -> None:
        folder = tmp_path / "corpus"
        folder.mkdir()
        (folder / kept).write_bytes((tasks.sample_dir(name) / kept).read_bytes())
        assert tasks.resolve("bc5cdr", folder) == name

    @pytest.mark.parametrize(
        "text",
        [
            tagged(DISEASES + CHEMICALS),  # both
            tagged(DISEASES[:2]),  # too few to tell
            tagged(UNCLEAR),
            "word\nI\tx\t0\tI\n",
            "",
            None,
        ],
        ids=["both", "two", "abbreviations", "no mention", "empty file", "no file"],
    )
    def test_undecided(self, tmp_path: Path, text: str | None) -> None:
        folder = tmp_path / "corpus"
        folder.mkdir()
        if text is not None:
            (folder / "train.tsv").write_text(text)
        assert_user_error(
            lambda: tasks.resolve("bc5cdr", folder),
            "neither the name of the data folder, 'corpus', nor the mentions in its files say",
            "use bc5cdr_disease or bc5cdr_chem",
        )

    def test_the_name_of_the_folder_comes_first(self, tmp_path: Path) -> None:
        folder = tmp_path / "BC5CDR-chem"
        folder.mkdir()
        (folder / "train.tsv").write_text(tagged(DISEASES))
        assert tasks.resolve("bc5cdr", folder) == "bc5cdr_chem"


def test_hash_lines_of_clefe_take_no_prediction(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """With them and without the same examples, and in the old file of predictions each word has its own."""
    task = tasks.get("clefe")
    text = "### note-1\nHe\tn\t0\tO\nhas\t-\t3\tO\nfever\t-\t7\tB\n\n### note-1\nNo\tn\t14\tO\nnausea\t-\t17\tB\n\n"
    read = []
    for name, content in (("with", text), ("without", re.sub("### .*\n", "", text))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Test.tsv").write_text(content)
        read.append(task.read(tmp_path / name, "test"))
    assert read[0] == read[1]
    encoded = task.features(read[0], tiny_tokenizer, 32)
    assert encoded.words is not None
    predictions = [
        task.align(example, Prediction(example.label), seen)
        for example, seen in zip(read[0], encoded.words, strict=True)
    ]
    files = task.files("test", read[0], predictions, task.metric(read[0], predictions))
    assert files["test_predictions.txt"] == "He O O\nhas O O\nfever B B\n\nNo O O\nnausea B B\n\n"

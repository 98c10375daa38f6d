"""Each example is predicted once, in order, with the same scores at any batch size; the files that come of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tasks
from harness import distributed, evaluate, model
from harness.config import RunConfig
from harness.data import collate
from harness.distributed import World
from harness.errors import TrainingFailed
from harness.evaluate import Split
from harness.run_folder import RunFolder
from harness.task import Batch, Encoded, Task
from harness.tokenizer import load_tokenizer

FOUR = ("medsts", "bc5cdr_disease", "mednli", "hoc")  # one of each family


@pytest.fixture(scope="module")
def world() -> World:
    return distributed.init(no_cuda=True)


@pytest.fixture(scope="module")
def built(tiny_bert: Path) -> dict[str, tuple[Split, Task, model.EncoderWithHead, Any]]:
    """Of each family: the made-up dev split, and a tiny encoder with that task's head."""
    result = {}
    for name in FOUR:
        task = tasks.get(name)
        run = RunConfig(task=name, model_name_or_path=str(tiny_bert))
        tokenizer = load_tokenizer(run)
        examples = task.read(tasks.sample_dir(name), "dev")[:37]  # by 8 and 5 leaves a smaller batch
        split = Split("dev", examples, task.features(examples, tokenizer, 48))
        net = model.build(run, task.num_outputs, task.per_word).eval()
        result[name] = (split, task, net, tokenizer)
    return result


def plain(net: Any, encoded: Encoded, pad_id: int) -> list[np.ndarray]:
    """One example after another."""
    answers = []
    with torch.inference_mode():
        for i in range(len(encoded)):
            rows = net(collate(encoded, [i], pad_id)).numpy()
            answers.append(rows if encoded.positions is not None else rows[0])
    return answers


class Counted:
    """A forward pass that remembers which examples it saw."""

    def __init__(self, net: Any) -> None:
        self.net, self.seen, self.sizes = net, [], []  # type: ignore[var-annotated]

    def __call__(self, batch: Batch) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        self.seen += batch.examples
        self.sizes.append(batch.input_ids.numel())
        out: torch.Tensor = self.net(batch)
        return out


class TestPredict:
    @pytest.mark.parametrize("name", FOUR)
    @pytest.mark.parametrize("size", [1, 5, 64])
    def test_each_example_once_and_in_order(self, built: dict[str, Any], world: World, name: str, size: int) -> None:
        split, task, net, tokenizer = built[name]
        forward = Counted(net)
        logits = evaluate.predict(forward, split.encoded, size, world, tokenizer.pad_token_id)
        assert sorted(forward.seen) == list(range(37))
        longest = -(-max(map(len, split.encoded.input_ids)) // 8) * 8
        assert max(forward.sizes) <= size * longest  # no more memory than `size` of the longest take
        for found, alone in zip(logits, plain(net, split.encoded, tokenizer.pad_token_id), strict=True):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-5)
        outputs = task.num_outputs
        shapes = [
            (split.encoded.units(i), outputs) if split.encoded.positions is not None else (outputs,) for i in range(37)
        ]
        assert [row.shape for row in logits] == shapes

    @pytest.mark.parametrize("name", ["mednli", "bc5cdr_disease"])
    @pytest.mark.parametrize("ranks", [2, 3, 40])
    def test_ranks_together(
        self, built: dict[str, Any], monkeypatch: pytest.MonkeyPatch, world: World, name: str, ranks: int
    ) -> None:
        """To the last bit: every rank count cuts the same batches. More ranks than batches repeat one of them."""
        split, _, net, tokenizer = built[name]
        whole = evaluate.predict(net, split.encoded, 8, world, tokenizer.pad_token_id)
        parts: list[Any] = []
        calls = []
        for rank in range(ranks):
            forward = Counted(net)
            monkeypatch.setattr(evaluate, "gather", lambda mine: parts.append(mine) or [dict(enumerate(whole))])
            there = World(rank, ranks, rank, ranks, world.device)
            evaluate.predict(forward, split.encoded, 8, there, tokenizer.pad_token_id)
            calls.append(len(forward.sizes))
        assert len(set(calls)) == 1  # ZeRO-3 gathers weights in every pass: no rank may have one pass more
        monkeypatch.setattr(evaluate, "gather", lambda mine: parts)
        together = evaluate.predict(net, split.encoded, 8, world, tokenizer.pad_token_id)
        assert all(np.array_equal(one, other) for one, other in zip(together, whole, strict=True))

    def test_half_precision_logits(self, built: dict[str, Any], world: World) -> None:
        split, _, net, tokenizer = built["mednli"]
        logits = evaluate.predict(lambda b: net(b).bfloat16(), split.encoded, 8, world, tokenizer.pad_token_id)
        assert {row.dtype for row in logits} == {np.dtype(np.float32)}

    def test_an_example_that_no_rank_has(
        self, built: dict[str, Any], world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        split, _, net, tokenizer = built["mednli"]
        monkeypatch.setattr(evaluate, "gather", lambda mine: [{k: v for k, v in mine.items() if k}])
        with pytest.raises(AssertionError, match="every example"):
            evaluate.predict(net, split.encoded, 8, world, tokenizer.pad_token_id)


def evaluation(built: dict[str, Any], world: World, name: str, size: int = 32) -> evaluate.Evaluation:
    split, task, net, tokenizer = built[name]
    run = RunConfig(task=name, per_gpu_eval_batch_size=size)
    return evaluate.evaluate(net, split, task, run, world, tokenizer.pad_token_id)


class TestEvaluate:
    @pytest.mark.parametrize("name", FOUR)
    def test_batch_size_changes_nothing(self, built: dict[str, Any], world: World, name: str) -> None:
        one, other = (evaluation(built, world, name, size) for size in (1, 16))
        assert one.report.score == pytest.approx(other.report.score, abs=1e-6)
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert len(one.predictions) == 37
        if name != "medsts":
            assert [p.value for p in one.predictions] == [p.value for p in other.predictions]

    @pytest.mark.parametrize("name", FOUR)
    def test_metric_and_loss_of_the_whole_split(self, built: dict[str, Any], world: World, name: str) -> None:
        split, task, net, tokenizer = built[name]
        found = evaluation(built, world, name)
        alone = plain(net, split.encoded, tokenizer.pad_token_id)
        words = split.encoded.words or [()] * 37
        predictions = [
            task.align(example, task.decode(rows), numbers)
            for example, rows, numbers in zip(split.examples, alone, words, strict=True)
        ]
        expected = task.metric(split.examples, predictions)
        assert found.report.score == pytest.approx(expected.score, abs=1e-6)
        assert found.report.metric == expected.metric
        total, units = 0.0, 0
        for i, rows in enumerate(alone):
            labels = collate(split.encoded, [i], 0).labels
            total += float(task.loss(torch.from_numpy(np.atleast_2d(rows)), labels))
            units += split.encoded.units(i)
        assert found.loss == pytest.approx(total / units, rel=1e-5)

    def test_result(self, built: dict[str, Any], world: World) -> None:
        found = evaluation(built, world, "mednli")
        written = found.to_dict()
        assert written["score"] == found.report.score and written["examples"] == 37
        assert written["loss"] == found.loss and written["metric"] == found.report.metric
        assert set(found.report.values) <= set(written)
        assert set(written["per_class"]) == {"contradiction", "entailment", "neutral"}


class TestFiles:
    def folder(self, path: Path) -> RunFolder:
        (path / "predictions").mkdir()
        return RunFolder(path, "x_")

    def names(self, folder: RunFolder) -> set[str]:
        return {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}

    @pytest.mark.parametrize("name", FOUR)
    def test_names_and_text(self, built: dict[str, Any], world: World, tmp_path: Path, name: str) -> None:
        split, task, _, _ = built[name]
        split = replace(split, name="test")
        found = replace(evaluation(built, world, name), split="test")
        folder = self.folder(tmp_path)
        evaluate.write_files(found, split, task, folder, RunConfig(output_all_logits=True))
        files = task.files("test", split.examples, found.predictions, found.report)
        extra = {"predictions/test_probabilities.tsv"} if task.family in ("multiclass", "multilabel") else set()
        assert self.names(folder) == {"predictions/test.tsv", *extra, *(f"x_{file}" for file in files)}
        rows = (tmp_path / "predictions" / "test.tsv").read_text(encoding="utf-8")
        assert rows == "\n".join(task.rows(split.examples, found.predictions)) + "\n"
        assert rows.startswith("token\tgold" if task.family == "tagging" else "index\t")
        for file, text in files.items():
            written = (tmp_path / f"x_{file}").read_text(encoding="utf-8")
            if file.endswith("_results.txt"):
                assert written == text.rstrip("\n") + f"\nloss = {found.loss}\n"
            else:
                assert written == text

    def test_rows_are_the_examples(self, built: dict[str, Any], world: World, tmp_path: Path) -> None:
        split, task, _, _ = built["mednli"]
        found = evaluation(built, world, "mednli")
        folder = self.folder(tmp_path)
        evaluate.write_files(found, split, task, folder, RunConfig())
        lines = (tmp_path / "predictions" / "dev.tsv").read_text().splitlines()[1:]
        expected = [
            [example.id, example.label, prediction.value]
            for example, prediction in zip(split.examples, found.predictions, strict=True)
        ]
        assert [line.split("\t")[:3] for line in lines] == expected

    def test_probabilities_of_each_label(self, built: dict[str, Any], world: World, tmp_path: Path) -> None:
        split, task, _, _ = built["mednli"]
        found = evaluation(built, world, "mednli")
        evaluate.write_files(found, split, task, self.folder(tmp_path), RunConfig())
        header, *lines = (tmp_path / "predictions" / "dev_probabilities.tsv").read_text().splitlines()
        assert header.split("\t") == ["index", *task.labels] and len(lines) == len(split.examples)
        for line, example, prediction in zip(lines, split.examples, found.predictions, strict=True):
            name, *values = line.split("\t")
            scores = [float(value) for value in values]
            assert name == example.id and scores == pytest.approx(prediction.scores, abs=1e-6)
            assert task.labels[scores.index(max(scores))] == prediction.value

    def test_all_logits_only_where_asked(self, built: dict[str, Any], world: World, tmp_path: Path) -> None:
        split, task, _, _ = built["hoc"]
        found = evaluation(built, world, "hoc")
        written = {}
        for asked in (False, True):
            (tmp_path / str(asked)).mkdir()
            folder = self.folder(tmp_path / str(asked))
            evaluate.write_files(found, split, task, folder, RunConfig(output_all_logits=asked))
            written[asked] = self.names(folder)
        optional = {"x_dev_all_logits.txt", "x_dev_roc_auc_for_each_class.txt"}
        assert written[True] - written[False] == optional and written[False] < written[True]


def test_out_of_memory_names_the_batch_of_the_evaluation(
    built: dict[str, tuple[Split, Task, model.EncoderWithHead, Any]], world: World
) -> None:
    """Advice on the batch of training would not help."""
    split, task, _, _ = built["mednli"]

    def forward(batch: Batch) -> torch.Tensor:
        torch.empty(2**60)  # more than any machine has
        raise AssertionError

    run = RunConfig(task="mednli", model_name_or_path="x", per_gpu_eval_batch_size=8)
    with pytest.raises(TrainingFailed, match="dev was scored: lower --per_gpu_eval_batch_size"):
        evaluate.evaluate(forward, split, task, run, world, 0)

"""Windows: what they hold, which of them scores a word, and that they are one example to loss and score."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import KINDS, WORDS, tiny_encoder, tokenizer_for
from hypothesis import given, settings
from hypothesis import strategies as st

import tasks
from harness import config as run_config
from harness import data, distributed, evaluate, memory, model, token_cache
from harness.config import RunConfig
from harness.data import collate, evaluation_batches
from harness.errors import UserError
from harness.evaluate import Split
from harness.packing import PADDED
from harness.task import PAD_TO, Encoded, Example
from tasks.encoding import encode
from tasks.tagging import TaggingTask

BERT = tokenizer_for("bert")
LENGTH = 16


def words(count: int, start: int = 0) -> str:
    return " ".join(WORDS[(start + i) % len(WORDS)] for i in range(count))


def tagged(*sentences: str, tag: str = "O") -> list[Example]:
    return [Example(str(i), tuple(one.split()), (tag,) * len(one.split())) for i, one in enumerate(sentences)]


def content(ids: list[int]) -> list[int]:
    return [one for one in ids if one not in BERT.all_special_ids]


class TestWhatTheyHold:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(8, 24), st.data())
    def test_one_text_as_transformers(self, counts: list[int], length: int, draw: st.DataObject) -> None:
        stride = draw.draw(st.integers(0, length - 3))
        texts = [words(count, count) for count in counts]
        encoded = encode([Example("", (text,), 0) for text in texts], BERT, length, [0] * len(texts), stride)
        theirs = BERT(texts, truncation=True, max_length=length, stride=stride, return_overflowing_tokens=True)
        assert list(map(list, encoded.input_ids)) == theirs["input_ids"]
        assert list(map(list, encoded.token_type_ids or ())) == theirs["token_type_ids"]
        found = [row for i in range(len(encoded)) for row in [i] * len(encoded.rows(i))]
        assert found == theirs["overflow_to_sample_mapping"] and len(encoded) == len(texts) and encoded.cut is None

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 6))
    def test_a_pair_as_transformers_where_the_shorter_text_fits(self, first: int, second: int, stride: int) -> None:
        pair, room = (words(first), words(second, 3)), LENGTH - 3
        encoded = encode([Example("", pair, 0)], BERT, LENGTH, [0], stride)
        lengths = [len(BERT(text)["input_ids"]) - 2 for text in pair]
        longer = "only_first" if lengths[0] > lengths[1] else "only_second"
        if min(lengths) > room // 2 and sum(lengths) > room:  # then half a row of it
            assert encoded.cut == [1] and all(len(ids) == LENGTH for ids in encoded.input_ids[:-1])
            return
        more = {"max_length": LENGTH, "stride": stride, "return_overflowing_tokens": True}
        theirs = BERT([pair[0]], [pair[1]], truncation=longer, **more)
        assert list(map(list, encoded.input_ids)) == theirs["input_ids"] and encoded.cut is None
        assert list(map(list, encoded.token_type_ids or ())) == theirs["token_type_ids"]

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 80), st.integers(0, 13), st.sampled_from(KINDS))
    def test_every_token_is_in_a_window_and_they_overlap_by_the_stride(
        self, count: int, stride: int, kind: str
    ) -> None:
        tokenizer = tokenizer_for(kind)
        whole = tokenizer(words(count), add_special_tokens=False)["input_ids"]
        encoded = encode([Example("", (words(count),), 0)], tokenizer, LENGTH, [0], stride)
        special = tokenizer.num_special_tokens_to_add()
        rows = [list(row)[1 : len(row) - special + 1] for row in encoded.input_ids]
        assert rows[0] + [one for row in rows[1:] for one in row[stride:]] == whole
        assert all(row[-stride:] == after[:stride] for row, after in pairwise(rows) if stride)

    def test_nothing_is_new_where_all_fits(self) -> None:
        for name in ("medsts", "bc5cdr_disease", "mednli", "hoc"):
            task = tasks.get(name)
            examples = task.read(tasks.sample_dir(name), "dev")
            assert task.features(examples, BERT, 512, 32) == task.features(examples, BERT, 512)


class TestWhatIsCut:
    def test_examples(self) -> None:
        rows = [Example("", (words(n),), 0) for n in (3, LENGTH - 2, LENGTH - 1, 60)]
        assert encode(rows, BERT, LENGTH, [0] * 4).cut == [0, 0, 1, 1]
        split = Split("train", rows, encode(rows, BERT, LENGTH, [0] * 4))
        assert split.cut == 0.5 and Split("train", rows, encode(rows, BERT, LENGTH, [0] * 4, 3)).cut == 0

    def test_words(self) -> None:
        rows, task = tagged(words(4), words(LENGTH + 4)), tasks.get("bc5cdr_disease")
        split = Split("dev", rows, task.features(rows, BERT, LENGTH))
        assert split.encoded.cut == [0, 6] and split.cut == 6 / (LENGTH + 8)
        assert Split("dev", rows, task.features(rows, BERT, LENGTH, 5)).cut == 0


class TestWords:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(0, LENGTH - 3))
    def test_each_is_scored_once_where_it_is_farthest_from_an_edge(self, sizes: list[int], stride: int) -> None:
        """A word of `size` letters that no vocabulary has is as many tokens: some are wider than a window."""
        example = Example("1", tuple("x" * (2 * size) for size in sizes), ("O",) * len(sizes))
        encoded = tasks.get("bc5cdr_disease").features([example], BERT, LENGTH, stride)
        assert encoded.words is not None and encoded.positions is not None
        assert [word for row in encoded.words for word in row] == list(range(len(sizes)))
        whole = BERT([list(example.texts)], is_split_into_words=True)
        first = {word: whole.word_ids(0).index(word) - 1 for word in range(len(sizes))}
        room, total = LENGTH - 2, len(whole["input_ids"][0]) - 2
        starts = [start for start in range(0, total, room - stride) if start == 0 or start + stride < total]
        assert len(starts) == len(encoded.input_ids)
        for number, (start, row) in enumerate(zip(starts, encoded.words, strict=True)):
            for word, position in zip(row, encoded.positions[number], strict=True):
                assert encoded.input_ids[number][position] == whole["input_ids"][0][first[word] + 1]
                edges = {}
                for other, begin in enumerate(starts):
                    end = min(begin + room, total)
                    if begin <= first[word] < end:
                        before = first[word] - begin if other else total
                        edges[other] = min(before, end - 1 - first[word] if other < len(starts) - 1 else total)
                assert edges[number] == max(edges.values()) and number == max(edges, key=lambda one: edges[one])
                assert start <= first[word]

    def test_a_mention_across_an_edge_is_found_whole(self, tmp_path: Path) -> None:
        """By a model that knows an I by the word before alone: the first word of a window would be wrong."""
        task, sentence = tasks.get("bc5cdr_disease"), ["the"] * 60
        for start in range(3, 60, 6):
            sentence[start : start + 3] = ["fever"] * 3
        tags = ["O" if word == "the" else "I" if before == "fever" else "B"
                for before, word in zip(["the", *sentence], sentence, strict=False)]  # fmt: skip
        example, fever = Example("1", tuple(sentence), tuple(tags)), BERT.convert_tokens_to_ids("fever")
        encoded = task.features([example], BERT, LENGTH, 4)

        def forward(batch: Any) -> torch.Tensor:
            ids, before = batch.input_ids.flatten(), batch.input_ids.flatten().roll(1)
            tag = torch.where(ids != fever, 2, torch.where(before == fever, 1, 0))
            return torch.nn.functional.one_hot(tag, 3).float()[batch.scored]

        run = RunConfig(per_gpu_eval_batch_size=2)
        found = evaluate.evaluate(forward, Split("dev", [example], encoded), task, run, distributed.init(True), 0)
        assert task.labels == ("B", "I", "O") and found.report.score == 1 and found.predictions[0].value == tuple(tags)

    def test_sentences_are_read_whole(self, tmp_path: Path) -> None:
        task = tasks.get("bc5cdr_disease")
        for name in task.filenames.values():
            (tmp_path / name).write_text("\n".join(f"w{i}\td\t0\tO" for i in range(70)) + "\n\n")
        assert [len(one.texts) for one in task.read(tmp_path, "dev")] == [30, 30, 10]
        whole = task.whole()
        assert isinstance(whole, TaggingTask) and [len(one.texts) for one in whole.read(tmp_path, "dev")] == [70]
        assert tasks.get("hoc").whole() is tasks.get("hoc")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("windows") / "tiny")


class TestOneExample:
    """To batches, loss, prediction."""

    def network(self, encoder: Path, task: Any, pooling: str) -> Any:
        run = RunConfig(task=task.name, model_name_or_path=str(encoder), stride=4, window_pooling=pooling)
        return model.build(run, task.num_outputs, task.per_word).eval()

    @pytest.mark.parametrize("pooling", ["mean", "max"])
    @pytest.mark.parametrize("name", ["mednli", "hoc", "bc5cdr_disease", "medsts"])
    def test_packed_and_padded_are_the_windows_one_by_one(self, encoder: Path, name: str, pooling: str) -> None:
        task = tasks.get(name)
        examples = task.whole().read(tasks.sample_dir(name), "dev")[:9]
        encoded = task.features(examples, BERT, LENGTH, 4)
        net = self.network(encoder, task, pooling)
        assert net.layout.kind == "packed" and encoded.windows is not None and max(encoded.windows) > 2
        batch = collate(encoded, range(9), 0)
        plain = replace(
            encoded, windows=None, labels=[0] * sum(encoded.windows) if not task.per_word else encoded.labels
        )
        with torch.no_grad():
            packed = net(batch)
            net.layout = PADDED
            padded = net(batch)
            rows = [net(collate(plain, [row], 0)).numpy() for row in range(len(plain))]
        if not task.per_word:
            reduce = np.mean if pooling == "mean" else np.max
            rows = [reduce([rows[row] for row in encoded.rows(i)], axis=0) for i in range(9)]
        expected = torch.from_numpy(np.concatenate(rows))
        assert torch.allclose(packed, padded, atol=1e-5) and torch.allclose(padded, expected, atol=1e-5)
        losses = [float(task.loss(logits, batch.labels)) / sum(batch.units) for logits in (packed, padded, expected)]
        assert max(losses) - min(losses) < 1e-5
        assert len(batch.labels) == len(packed) == (sum(batch.units) if task.per_word else 9)
        # On a device: rows of few shapes, and everything in one buffer.
        net.layout = replace(net.layout, kind="packed", few_shapes=True)
        in_rows = net.ready(batch, torch.device("cpu"))
        with torch.no_grad():
            moved = net(in_rows.within(in_rows.flatten()))
        assert torch.allclose(moved, expected, atol=1e-5)

    def test_gradients_are_those_of_pooled_logits(self, encoder: Path) -> None:
        task = tasks.get("mednli")
        net, examples = self.network(encoder, task, "mean"), task.read(tasks.sample_dir("mednli"), "dev")[:4]
        batch = collate(task.features(examples, BERT, LENGTH, 2), range(4), 0)
        found = []
        for layout in (net.layout, PADDED):
            net.layout = layout
            net.zero_grad()
            task.loss(net(batch), batch.labels).backward()
            found.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
        assert found[0].abs().max() > 0 and torch.allclose(*found, atol=1e-5)

    @given(st.lists(st.integers(1, 200), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 3))
    @settings(max_examples=60, deadline=None)
    def test_evaluation_batches_hold_no_more_than_asked_for(self, counts: list[int], size: int, world: int) -> None:
        rows = [Example("", (words(count),), 0) for count in counts]
        encoded = encode(rows, BERT, 64, [0] * len(rows), 16)
        batches = [evaluation_batches(encoded, size, rank, world) for rank in range(world)]
        assert len({len(one) for one in batches}) == 1
        assert {i for one in batches for chosen in one for i in chosen} == set(range(len(rows)))
        room = size * -(-max(map(len, encoded.input_ids)) // PAD_TO) * PAD_TO
        for chosen in (chosen for one in batches for chosen in one):
            assert len(chosen) == 1 or collate(encoded, chosen, 0).input_ids.numel() <= room

    def test_splits_joined_are_one(self) -> None:
        few, long = (encode([Example("", (words(n),), 0)] * 2, BERT, LENGTH, [0, 1], 4) for n in (5, 40))
        assert few.windows is None and long.windows is not None
        joined = data.join([few, long, few])
        assert joined.windows == [1, 1, *long.windows, 1, 1] and len(joined) == 6
        assert [joined.input_ids[row] for row in joined.rows(3)] == [long.input_ids[row] for row in long.rows(1)]
        steps = list(data.epoch_steps(joined, run_config.BatchPlan(2, 1, 1, 2), 1, 0, 0))
        assert len(steps) == 3 and all(micro.scale == 0.5 for passes in steps for micro in passes)

    def test_memory_counts_the_windows_of_the_examples_with_most(self, encoder: Path) -> None:
        task, run = tasks.get("mednli"), RunConfig(task="mednli", model_name_or_path=str(encoder))
        network = memory.skeleton(run, task)
        from harness.ds import config as ds_config

        choice = memory.Choice(2, 1, 1, ds_config.read("fp32"), False, None)
        device = torch.device("cpu")
        sizes = [memory.estimate(network, choice, 64, device, {}, counts).activations for counts in ((), (9, 3, 1))]
        wanted = memory.estimate(network, replace(choice, micro=12), 64, device, {}).activations
        assert sizes[0] < sizes[1] == wanted


class TestBadInput:
    @pytest.mark.parametrize(("name", "most", "special"), [("hoc", 14, 2), ("bc5cdr_disease", 14, 2), ("mednli", 7, 3)])
    def test_a_stride_not_below_the_length(self, name: str, most: int, special: int) -> None:
        task = tasks.get(name)
        examples = task.read(tasks.sample_dir(name), "dev")[:3]
        task.features(examples, BERT, LENGTH, most - 1)
        with pytest.raises(
            UserError, match=f"--stride {most}: must be less than the {LENGTH - special} tokens of text .* would do"
        ):
            task.features(examples, BERT, LENGTH, most)

    @pytest.mark.parametrize(
        ("given_", "said"),
        [
            ({"stride": 128}, "--stride 128: must be below --max_seq_length 128"),
            ({"window_pooling": "max"}, "--window_pooling max needs --stride"),
        ],
    )
    def test_settings(self, given_: dict[str, Any], said: str) -> None:
        with pytest.raises(UserError, match=said):
            run_config.check(RunConfig(model_name_or_path="x", train_splits=("train",), **given_))

    def test_a_model_that_sees_nothing_behind_a_word(self, tmp_path: Path) -> None:
        task = tasks.get("bc5cdr_disease")
        run = RunConfig(task=task.name, model_name_or_path=str(tiny_encoder(tmp_path / "m", "qwen2")), stride=4)
        with pytest.raises(UserError, match=r"--stride 4: not for tagging .* --attention bidirectional"):
            model.build(run, task.num_outputs, task.per_word)


def test_an_encoded_split_without_windows_is_as_ever() -> None:
    plain = Encoded([[1, 2], [3]], None, [0, 1])
    assert [plain.rows(i) for i in range(2)] == [(0,), (1,)] and collate(plain, [0, 1], 0).windows is None


def test_token_ids_are_kept_with_their_windows(tmp_path: Path) -> None:
    """From one run to the next; another stride is another file."""
    for name in ("mednli", "bc5cdr_disease"):
        task = tasks.get(name)
        examples = task.whole().read(tasks.sample_dir(name), "train") * 2
        for stride in (None, 2, 5):
            make = partial(task.features, stride=stride)
            first, again = (token_cache.encode(make, examples, BERT, LENGTH, tmp_path) for _ in range(2))
            assert first is not again and len(again) == len(examples)
            chosen = range(0, len(examples), 97)
            ours, theirs = collate(first, chosen, 0), collate(again, chosen, 0)
            assert ours.input_ids.equal(theirs.input_ids) and ours.labels.equal(theirs.labels)
            assert ours.units == theirs.units and (ours.windows is None) == (task.per_word or stride is None)
            shares = [Split("train", examples, one).cut for one in (first, again)]
            assert shares[0] == shares[1] and (shares[0] > 0) == (stride is None or name == "mednli")
    assert len(list(tmp_path.iterdir())) == 6


def left() -> Any:
    tokenizer = tokenizer_for("bert")
    tokenizer.truncation_side = "left"
    return tokenizer


@pytest.mark.parametrize("tokenizer", [*map(tokenizer_for, KINDS), left()], ids=[*KINDS, "from the left"])
def test_without_a_stride_what_is_left_is_what_the_tokenizer_leaves(tokenizer: Any) -> None:
    texts = [words(count, count) for count in (1, 13, 14, 15, 16, 40)]
    encoded = encode([Example("", (text,), 0) for text in texts], tokenizer, LENGTH, [0] * 6)
    assert encoded.input_ids == tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]
    tags = tasks.get("bc5cdr_disease").features(tagged(*texts), tokenizer, LENGTH)
    split = [text.split() for text in texts]
    theirs = tokenizer(split, truncation=True, max_length=LENGTH, is_split_into_words=True)
    assert tags.input_ids == theirs["input_ids"] and tags.words is not None
    assert tags.words == [sorted({word for word in theirs.word_ids(i) if word is not None}) for i in range(6)]


def test_a_head_of_transformers_is_pooled_too(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    path, task = tiny_encoder(tmp_path / "m"), tasks.get("mednli")
    names = dict(enumerate(task.labels))
    whole = AutoModelForSequenceClassification.from_pretrained(path, id2label=names)
    whole.config.label2id = {name: number for number, name in names.items()}
    whole.save_pretrained(path)
    run = RunConfig(task="mednli", model_name_or_path=str(path))
    net = model.load_standard(run, task)
    encoded = task.features(task.read(tasks.sample_dir("mednli"), "dev")[:4], BERT, 40, 8)
    assert encoded.windows is not None
    plain = replace(encoded, windows=None, labels=[0] * sum(encoded.windows))
    with torch.no_grad():
        rows = [net(collate(plain, [row], 0))[0] for row in range(len(plain))]
        found = net(collate(encoded, range(4), 0))
    expected = [torch.stack([rows[row] for row in encoded.rows(i)]).mean(0) for i in range(4)]
    assert torch.allclose(found, torch.stack(expected), atol=1e-5)

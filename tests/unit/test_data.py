"""Which examples form a step, on which rank, and what they become as tensors."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import data
from harness.config import BatchPlan
from harness.data import MicroStep, collate, epoch_order, epoch_steps, evaluation_batches
from harness.task import Encoded

PAD = 9
unhurried = settings(deadline=None)  # the machine may be busy


def plain(lengths: list[int], labels: list[Any] | None = None, segments: bool = False) -> Encoded:
    """Sequences whose ids name the example: 100, 100 / 101, 101, 101 / ..."""
    ids = [[100 + i] * length for i, length in enumerate(lengths)]
    return Encoded(ids, [[1] * n for n in lengths] if segments else None, labels or [0] * len(lengths))


def tagged(units: list[int]) -> Encoded:
    """Tagging: example i has units[i] scored words, at every second place behind the first."""
    ids = [[1000 * i + place for place in range(2 * n + 1)] for i, n in enumerate(units)]
    positions = [[2 * word + 1 for word in range(n)] for n in units]
    return Encoded(ids, None, [[i] * n for i, n in enumerate(units)], positions, [list(range(n)) for n in units])


plans = st.builds(
    lambda micro, world, accumulation: BatchPlan(micro, world, accumulation, micro * world * accumulation),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
)
unit_counts = st.lists(st.integers(0, 5), min_size=1, max_size=40)


def all_ranks(encoded: Encoded, plan: BatchPlan, first: int = 0) -> list[list[MicroStep]]:
    """Every optimizer step as the passes of all ranks together."""
    ranks = [list(epoch_steps(encoded, plan, 5, 0, rank, first)) for rank in range(plan.world)]
    return [[micro for passes in step for micro in passes] for step in zip(*ranks, strict=True)]


class TestTraining:
    @unhurried
    @given(units=unit_counts, plan=plans)
    def test_epoch_holds_each_example_once(self, units: list[int], plan: BatchPlan) -> None:
        steps = all_ranks(plain([3] * len(units)), plan)
        seen = [i for step in steps for micro in step if micro.scale for i in micro.examples]
        assert sorted(seen) == list(range(len(units)))

    @unhurried
    @given(units=unit_counts, plan=plans)
    def test_step_holds_the_same_examples_as_on_one_device(self, units: list[int], plan: BatchPlan) -> None:
        encoded = tagged(units)
        alone = all_ranks(encoded, BatchPlan(plan.total, 1, 1, plan.total))
        many = [[i for micro in step if micro.scale for i in micro.examples] for step in all_ranks(encoded, plan)]
        assert [sorted(step) for step in many] == [sorted(step[0].examples) for step in alone]

    @unhurried
    @given(units=unit_counts, plan=plans)
    def test_every_rank_takes_part_in_every_pass(self, units: list[int], plan: BatchPlan) -> None:
        for rank in range(plan.world):
            for passes in epoch_steps(tagged(units), plan, 5, 0, rank):
                assert len(passes) == plan.accumulation
                assert all(1 <= len(micro.examples) <= plan.micro for micro in passes)

    @unhurried
    @given(units=unit_counts, plan=plans, tagging=st.booleans())
    def test_scaled_losses_give_the_plain_mean(self, units: list[int], plan: BatchPlan, tagging: bool) -> None:
        encoded = tagged(units) if tagging else plain([3] * len(units))
        draw = random.Random(0)
        losses = [[draw.random() for _ in range(encoded.units(i))] for i in range(len(encoded))]
        for step in all_ranks(encoded, plan):
            passes = plan.world * plan.accumulation
            got = sum(micro.scale * sum(sum(losses[i]) for i in micro.examples) for micro in step) / passes
            rows = [loss for micro in step if micro.scale for i in micro.examples for loss in losses[i]]
            assert got == pytest.approx(sum(rows) / len(rows) if rows else 0.0)

    @unhurried
    @given(units=unit_counts, plan=plans, first=st.integers(0, 10))
    def test_resumed_epoch_is_the_tail(self, units: list[int], plan: BatchPlan, first: int) -> None:
        encoded = tagged(units)
        assert all_ranks(encoded, plan, first) == all_ranks(encoded, plan)[first:]

    @unhurried
    @given(units=unit_counts, plan=plans)
    def test_steps_are_counted_as_they_come(self, units: list[int], plan: BatchPlan) -> None:
        steps = list(epoch_steps(tagged(units), plan, 5, 0, 0))
        assert len(steps) == data.steps_per_epoch(len(units), plan)

    def test_pass_without_an_example_has_weight_zero(self) -> None:
        plan = BatchPlan(1, 4, 1, 4)
        (step,) = all_ranks(plain([3] * 3), plan)
        assert [micro.scale for micro in step] == pytest.approx([4 / 3, 4 / 3, 4 / 3, 0])

    @pytest.mark.parametrize(
        ("examples", "epochs", "max_steps", "total"),
        [(9, 3.0, -1, 9), (8, 3.0, -1, 6), (9, 0.5, -1, 1), (9, 2.5, -1, 7), (9, 0.01, -1, 1), (9, 3.0, 4, 4)],
    )
    def test_total_steps(self, examples: int, epochs: float, max_steps: int, total: int) -> None:
        assert data.total_steps(examples, BatchPlan(2, 1, 2, 4), epochs, max_steps) == total


class TestOrder:
    @unhurried
    @given(examples=st.integers(1, 300), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 99))
    def test_is_a_permutation(self, examples: int, seed: int, epoch: int) -> None:
        assert sorted(epoch_order(examples, seed, epoch)) == list(range(examples))

    @pytest.mark.parametrize("other", [(12, 1), (13, 0)])
    def test_differs_between_epochs_and_seeds(self, other: tuple[int, int]) -> None:
        assert epoch_order(50, 12, 0) != epoch_order(50, *other)

    def test_does_not_depend_on_what_was_drawn_before(self) -> None:
        before = epoch_order(50, 12, 3)
        torch.rand(7)
        assert epoch_order(50, 12, 3) == before

    def test_leaves_the_random_state_alone(self) -> None:
        before = torch.get_rng_state()
        epoch_order(50, 12, 3)
        assert torch.equal(torch.get_rng_state(), before)


lengths = st.lists(st.integers(1, 12), min_size=0, max_size=40)


class TestEvaluation:
    @unhurried
    @given(lengths=lengths, size=st.integers(1, 7), world=st.integers(1, 4))
    def test_every_example_is_in_some_batch(self, lengths: list[int], size: int, world: int) -> None:
        encoded = plain(lengths)
        batches = [batch for rank in range(world) for batch in evaluation_batches(encoded, size, rank, world)]
        assert {i for batch in batches for i in batch} == set(range(len(lengths)))

    @unhurried
    @given(lengths=lengths, size=st.integers(1, 7), world=st.integers(1, 4))
    def test_ranks_have_equally_many_batches(self, lengths: list[int], size: int, world: int) -> None:
        encoded = plain(lengths)
        assert len({len(evaluation_batches(encoded, size, rank, world)) for rank in range(world)}) == 1

    @unhurried
    @given(lengths=lengths, size=st.integers(1, 7), world=st.integers(1, 4))
    def test_batches_do_not_depend_on_the_world(self, lengths: list[int], size: int, world: int) -> None:
        encoded = plain(lengths)
        batches = {batch for rank in range(world) for batch in evaluation_batches(encoded, size, rank, world)}
        assert batches == set(evaluation_batches(encoded, size, 0, 1))

    @unhurried
    @given(lengths=lengths, size=st.integers(1, 7))
    def test_one_device_sees_each_example_once(self, lengths: list[int], size: int) -> None:
        batches = evaluation_batches(plain(lengths), size, 0, 1)
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))

    @unhurried
    @given(lengths=lengths, size=st.integers(1, 7))
    def test_a_batch_is_no_larger_than_one_of_the_longest(self, lengths: list[int], size: int) -> None:
        encoded = plain(lengths)
        most = size * (-(-max(lengths, default=0) // 8) * 8)
        sizes = [collate(encoded, chosen, PAD).input_ids.numel() for chosen in evaluation_batches(encoded, size, 0, 1)]
        assert max(sizes, default=0) <= most

    def test_short_examples_fill_a_batch_in_greater_number(self) -> None:
        assert evaluation_batches(plain([16, 16, 16, 8, 8, 8, 8]), 2, 0, 1) == [(0, 1), (2, 3), (4, 5, 6)]

    def test_longest_come_first(self) -> None:
        assert evaluation_batches(plain([2, 5, 5, 9]), 2, 0, 1) == [(3, 1), (2, 0)]


class TestCollate:
    @pytest.mark.parametrize(("longest", "width"), [(1, 8), (8, 8), (9, 16)])
    def test_rows_are_a_multiple_of_eight_long(self, longest: int, width: int) -> None:
        assert collate(plain([longest, 1]), [0, 1], PAD).input_ids.shape == (2, width)

    def test_rows_are_padded_on_the_right(self) -> None:
        batch = collate(plain([2, 3]), [1, 0], PAD)
        assert batch.input_ids.tolist() == [[101] * 3 + [PAD] * 5, [100] * 2 + [PAD] * 6]

    def test_mask_marks_the_tokens(self) -> None:
        batch = collate(plain([2, 3]), [1, 0], PAD)
        assert batch.attention_mask.tolist() == [[1] * 3 + [0] * 5, [1] * 2 + [0] * 6]

    def test_tokens_leave_padding_out(self) -> None:
        assert collate(plain([2, 3, 7]), [0, 2], PAD).tokens == 9

    def test_segments_are_padded_with_zero(self) -> None:
        segments = collate(plain([2, 3], segments=True), [1, 0], PAD).token_type_ids
        assert segments is not None and segments.tolist() == [[1] * 3 + [0] * 5, [1] * 2 + [0] * 6]

    def test_no_segments_where_the_tokenizer_has_none(self) -> None:
        assert collate(plain([2]), [0], PAD).token_type_ids is None

    def test_examples_keep_their_order(self) -> None:
        assert collate(plain([2, 3, 4], labels=[7, 8, 9]), [2, 0], PAD).examples == (2, 0)

    def test_labels_follow_the_examples(self) -> None:
        assert collate(plain([2, 3, 4], labels=[7, 8, 9]), [2, 0], PAD).labels.tolist() == [9, 7]

    def test_scored_places_are_those_of_the_flattened_rows(self) -> None:
        batch = collate(tagged([2, 1, 3]), [2, 0], PAD)
        assert batch.scored is not None
        assert batch.input_ids.flatten()[batch.scored].tolist() == [2001, 2003, 2005, 1, 3]

    def test_labels_of_words_lie_one_after_another(self) -> None:
        assert collate(tagged([2, 1, 3]), [2, 0], PAD).labels.tolist() == [2, 2, 2, 0, 0]

    def test_units_count_the_scored_words(self) -> None:
        assert collate(tagged([2, 0, 3]), [2, 1, 0], PAD).units == (3, 0, 2)

    def test_units_are_one_an_example_elsewhere(self) -> None:
        assert collate(plain([2, 3]), [0, 1], PAD).units == (1, 1)

    @pytest.mark.parametrize(
        ("labels", "dtype", "shape"),
        [
            ([2.5, 0.0], torch.float32, (2,)),
            ([1.0, 2.0], torch.float32, (2,)),
            ([1, 0], torch.int64, (2,)),
            ([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]], torch.float32, (2, 3)),
            ([[0, 1], [1, 0]], torch.float32, (2, 2)),  # whole numbers, but each a target of its own
        ],
    )
    def test_type_and_shape_of_labels(self, labels: list[Any], dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        got = collate(plain([2, 2], labels=labels), [0, 1], PAD).labels
        assert (got.dtype, tuple(got.shape)) == (dtype, shape)

    def test_labels_of_a_batch_without_scored_words_are_class_numbers_too(self) -> None:
        assert collate(tagged([0, 0]), [0, 1], PAD).labels.dtype == torch.int64


class TestJoin:
    def test_splits_follow_each_other(self) -> None:
        joined = data.join([plain([2], labels=[1]), plain([3, 4], labels=[2, 3])])
        assert ([len(row) for row in joined.input_ids], joined.labels) == ([2, 3, 4], [1, 2, 3])

    def test_segments_come_along(self) -> None:
        joined = data.join([plain([2], segments=True), plain([3], segments=True)])
        assert joined.token_type_ids == [[1, 1], [1, 1, 1]]

    def test_positions_and_words_come_along(self) -> None:
        joined = data.join([tagged([2]), tagged([1])])
        assert (joined.positions, joined.words) == ([[1, 3], [1]], [[0, 1], [0]])

"""The same mathematics in every layout; examples that see only themselves; encoders that cannot be packed refused."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import KINDS, WITH_POOLER, tiny_encoder
from hypothesis import given, settings
from hypothesis import strategies as st

import tasks
from harness import attention, model, packing, projections
from harness import rows as packing_rows
from harness.config import RunConfig
from harness.data import collate
from harness.errors import UserError
from harness.packing import PADDED, Layout
from harness.task import Encoded, Task
from harness.tokenizer import load_tokenizer

FOUR = ("medsts", "bc5cdr_disease", "mednli", "hoc")  # one of each family
PACKABLE = tuple(kind for kind in KINDS if kind != "deberta-v2")
LAYOUTS = [(kind, how) for how in ("one row", "rows") for kind in PACKABLE] + [(kind, "bucketed") for kind in KINDS]
unhurried = settings(deadline=None)  # the machine may be busy
lengths_lists = st.lists(st.integers(1, 40), min_size=1, max_size=40)


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packable")
    return {kind: tiny_encoder(folder / f"tiny-{kind}", kind) for kind in KINDS}


@dataclass
class Case:
    task: Task
    encoded: Encoded
    net: model.EncoderWithHead
    pad_id: int

    def pass_(self, layout: Layout, examples: list[int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(mean loss, its gradients)."""
        self.net.layout = layout
        self.net.zero_grad(set_to_none=True)
        batch = collate(self.encoded, examples, self.pad_id)
        loss = self.task.loss(self.net(batch), batch.labels) / sum(batch.units)
        loss.backward()
        return loss.detach(), {name: p.grad for name, p in self.net.named_parameters() if p.grad is not None}


def case(folder: Path, name: str, pooling: str | None = None) -> Case:
    config = RunConfig(task=name, model_name_or_path=str(folder), pooling=pooling)
    task, tokenizer = tasks.get(name), load_tokenizer(config)
    examples = task.read(tasks.sample_dir(name), "train")[:11]
    encoded = task.features(examples, tokenizer, 96)
    net = model.build(config, task.num_outputs, task.per_word)
    return Case(task, encoded, net, int(tokenizer.pad_token_id))


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUR)
@pytest.mark.parametrize("kind", KINDS)
def test_other_devices_are_never_waited_for(encoders: dict[str, Path], kind: str, name: str) -> None:
    """Tensors on "meta" have no numbers: reading one, which on a GPU would wait for all before it, is an error."""
    parts = case(encoders[kind], name, "pooler" if kind in WITH_POOLER else "mean")
    net = parts.net.train().to("meta")
    batch = collate(parts.encoded, range(11), parts.pad_id).to(torch.device("meta"))
    (parts.task.loss(net(batch), batch.labels) / sum(batch.units)).backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in net.parameters())
    assert any(p.grad is not None for p in net.encoder.parameters())


def in_rows(layout: Layout) -> Layout:
    """Packed as on other devices, on the CPU."""
    return dataclasses.replace(layout, few_shapes=True)


class TestSameMathematics:
    @pytest.mark.parametrize("name", FOUR)
    @pytest.mark.parametrize(("kind", "how"), LAYOUTS)
    def test_loss_and_gradients(self, encoders: dict[str, Path], kind: str, how: str, name: str) -> None:
        parts = case(encoders[kind], name, "pooler" if kind in WITH_POOLER else "mean")
        layout = parts.net.layout
        if how == "bucketed":
            layout = Layout("bucketed")
        else:
            assert layout.kind == "packed"
        if how == "rows":
            layout = in_rows(layout)
        examples = [3, 0, 10, 7, 5, 1, 2, 9]
        expected, found = parts.pass_(PADDED, examples), parts.pass_(layout, examples)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("pooling", ["cls", "mean"])
    @pytest.mark.parametrize("how", ["packed", "bucketed"])
    def test_pooling(self, encoders: dict[str, Path], pooling: str, how: str) -> None:
        parts = case(encoders["bert"], "mednli", pooling)
        layout = parts.net.layout if how == "packed" else Layout("bucketed")
        torch.testing.assert_close(parts.pass_(layout, [4, 2, 6]), parts.pass_(PADDED, [4, 2, 6]), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("how", ["packed", "rows", "bucketed"])
    def test_one_example(self, encoders: dict[str, Path], how: str) -> None:
        parts = case(encoders["bert"], "mednli")
        layout = Layout("bucketed") if how == "bucketed" else parts.net.layout
        if how == "rows":
            layout = in_rows(layout)  # all rows but one are empty
        torch.testing.assert_close(parts.pass_(layout, [4]), parts.pass_(PADDED, [4]), rtol=1e-5, atol=1e-5)

    def test_local_attention(self, tmp_path: Path) -> None:
        """Examples longer than the window of ModernBERT's local layers."""
        folder = tiny_encoder(tmp_path / "tiny", "modernbert")
        parts = case(folder, "hoc")
        parts.net.encoder.config.sliding_window = 4
        for layer in parts.net.encoder.layers:
            if layer.attn.sliding_window is not None:
                layer.attn.sliding_window = 5
        packed = Layout("packed")
        assert packing.probe(parts.net.encoder) == packed
        expected = parts.pass_(PADDED, [0, 1, 2])
        torch.testing.assert_close(parts.pass_(packed, [0, 1, 2]), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(parts.pass_(in_rows(packed), [0, 1, 2]), expected, rtol=1e-5, atol=1e-5)


class TestNoLeak:
    @pytest.mark.parametrize("how", ["one row", "rows"])
    @pytest.mark.parametrize("kind", PACKABLE)
    def test_another_example_changes_nothing(self, encoders: dict[str, Path], kind: str, how: str) -> None:
        parts = case(encoders[kind], "mednli")
        if how == "rows":
            parts.net.layout = in_rows(parts.net.layout)
        parts.net.eval()
        batch = collate(parts.encoded, [0, 1, 2, 3, 4], parts.pad_id)
        with torch.inference_mode():
            before = parts.net(batch)
            batch.input_ids[2, : batch.lengths[2]] = batch.input_ids[0, 1]
            after = parts.net(batch)
        others = [0, 1, 3, 4]
        torch.testing.assert_close(after[others], before[others], rtol=0, atol=1e-6)
        assert (after[2] - before[2]).abs().max() > 1e-3


META = torch.device("meta")


class TestOtherDevices:
    @pytest.mark.parametrize(
        ("kind", "joined"), [("bert", 6), ("roberta", 6), ("distilbert", 6), ("electra", 6), ("modernbert", 0)]
    )
    def test_layers_of_one_input_are_one_product(self, encoders: dict[str, Path], kind: str, joined: int) -> None:
        parts = case(encoders[kind], "mednli", "mean")
        names = list(parts.net.state_dict())
        expected = parts.pass_(parts.net.layout, [3, 0, 7])
        encoder = parts.net.encoder
        run = functools.partial(PADDED.encode, encoder, packing._probe_batch(encoder.config))
        assert projections.join(encoder, run) == joined
        found = parts.pass_(parts.net.layout, [3, 0, 7])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert list(parts.net.state_dict()) == names

    def test_a_layer_that_is_called_on_its_own(self) -> None:
        parent = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "b": torch.nn.Linear(3, 4)})
        one, other = torch.randn(2, 3), torch.randn(2, 3)
        expected = [parent["a"](one), parent["b"](one), parent["b"](other)]
        assert projections.join(parent, lambda: (parent["a"](one), parent["b"](one))) == 2
        torch.testing.assert_close([parent["a"](one), parent["b"](one), parent["b"](other)], expected)

    def test_layers_that_are_also_called_apart_stay(self) -> None:
        """As DeBERTa's, which it applies to its distances as well."""
        parent = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "b": torch.nn.Linear(3, 4)})
        one, other = torch.randn(2, 3), torch.randn(2, 3)
        assert projections.join(parent, lambda: (parent["a"](one), parent["b"](one), parent["a"](other))) == 0

    @pytest.mark.parametrize("kind", ["bert", "modernbert", "deberta-v2"])
    def test_padded_batches_are_not_waited_for(self, encoders: dict[str, Path], kind: str) -> None:
        """On "meta" a number cannot be read: transformers would ask whether a mask hides anything."""
        parts = case(encoders[kind], "mednli", "mean")
        parts.net.encoder.set_attn_implementation("eager" if kind == "deberta-v2" else "sdpa")
        parts.net.layout = Layout("bucketed", reason="because")
        packing.fit_to_device(parts.net, META, whole_weights=False)
        assert parts.net.layout == Layout("padded", reason="because")
        batch = collate(parts.encoded, range(11), parts.pad_id).to(META)
        assert parts.net.to(META)(batch).shape == (11, 3)


class TestProbe:
    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_chosen(self, encoders: dict[str, Path], kind: str) -> None:
        layout = case(encoders[kind], "mednli", "mean").net.layout
        packable = kind in PACKABLE
        assert layout.kind == ("packed" if packable else "bucketed")
        assert str(layout).startswith("packed rows" if packable else "length-bucketed padding: its attention cannot")
        assert layout.in_one_pass().kind == ("packed" if packable else "padded")

    def test_random_state_is_left_alone(self, encoders: dict[str, Path]) -> None:
        encoder = case(encoders["bert"], "mednli").net.encoder.train()
        before = torch.get_rng_state()
        assert packing.choose(encoder, "auto").kind == "packed"
        assert torch.equal(torch.get_rng_state(), before)
        assert encoder.training

    def test_wide_windows_are_not_filled_for_nothing(self, encoders: dict[str, Path]) -> None:
        settings = case(encoders["modernbert"], "mednli", "mean").net.encoder.config
        settings.sliding_window = 40
        for longest, expected in ((None, 48), (41, 48), (40, 9)):
            assert max(packing._probe_batch(settings, longest).lengths) == expected

    def assert_refused(self, encoder: Any) -> None:
        encoder.set_attn_implementation("sdpa")
        layout = packing.choose(encoder, "auto")
        assert layout.kind == "bucketed" and layout.reason
        assert encoder.config._attn_implementation == "sdpa"
        with pytest.raises(UserError, match="--packing packed: this bert encoder cannot be packed"):
            packing.choose(encoder, "packed")

    def test_encoder_that_attends_across(self, encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = case(encoders["bert"], "mednli").net.encoder
        plain = attention.attend

        def across(*tensors: Any, groups: Any = None, **more: Any) -> Any:
            return plain(*tensors[:4], None, **more)

        monkeypatch.setattr(attention, "attend", across)
        self.assert_refused(encoder)

    def test_encoder_that_ignores_positions(self, encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = case(encoders["bert"], "mednli").net.encoder
        plain = encoder.embeddings.forward
        monkeypatch.setattr(encoder.embeddings, "forward", lambda **given: plain(**given | {"position_ids": None}))
        self.assert_refused(encoder)

    def test_encoder_that_takes_no_positions(self, encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = case(encoders["bert"], "mednli").net.encoder
        plain = encoder.forward
        monkeypatch.setattr(
            encoder, "forward", lambda input_ids, attention_mask, token_type_ids=None: plain(input_ids, attention_mask)
        )
        self.assert_refused(encoder)

    @pytest.mark.parametrize("asked", ["bucketed", "padded"])
    def test_what_was_asked_for(self, encoders: dict[str, Path], asked: str) -> None:
        run = RunConfig(task="mednli", model_name_or_path=str(encoders["bert"]), packing=asked)
        assert model.build(run, 3, per_word=False).layout == Layout(asked)


class TestRows:
    @unhurried
    @given(lengths=lengths_lists, more=st.integers(0, 9))
    def test_each_example_is_in_one_row_that_holds_it(self, lengths: list[int], more: int) -> None:
        row_length = max(lengths) + more
        rows = packing_rows.first_fit(lengths, row_length)
        assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
        assert all(0 < sum(lengths[i] for i in row) <= row_length for row in rows)
        assert packing_rows.first_fit(lengths, row_length) == rows

    @unhurried
    @given(lengths=lengths_lists)
    @pytest.mark.parametrize("how", ["one row", "rows"])
    def test_each_token_has_one_slot(self, how: str, lengths: list[int]) -> None:
        array = np.asarray(lengths)
        rows = packing.one_row(array)[0] if how == "one row" else packing_rows.equal_rows(array)
        owner, position = rows.owner.ravel(), rows.position.ravel()
        for example, length in enumerate(lengths):
            start = rows.starts[example]
            assert (owner[start : start + length] == example).all()
            assert position[start : start + length].tolist() == list(range(length))
            assert start // rows.owner.shape[1] == (start + length - 1) // rows.owner.shape[1]  # within one row
        assert (owner >= 0).sum() == sum(lengths)
        if how == "rows":
            assert rows.owner.shape[1] % packing_rows.ROW == 0

    @unhurried
    @given(lengths=lengths_lists)
    def test_groups_of_one_row_take_each_slot_once(self, lengths: list[int]) -> None:
        _, groups = packing.one_row(np.asarray(lengths))
        slots: list[int] = []
        for group in groups:
            assert group.places is not None
            slots += (group.places if group.kept is None else group.places[group.kept]).tolist()
        assert slots == list(range(sum(lengths)))  # the order in which answers are put together

    @unhurried
    @given(lengths=lengths_lists, price=st.integers(0, 300))
    def test_cuts_are_the_cheapest(self, lengths: list[int], price: int) -> None:
        lengths = sorted(lengths, reverse=True)[:9]

        def cost(count: int, longest: int) -> float:
            return price + count * longest

        groups = packing.partition(lengths, cost)
        assert [begin for begin, _ in groups] + [len(lengths)] == [0] + [end for _, end in groups]
        found = sum(cost(end - begin, lengths[begin]) for begin, end in groups)
        steps = [i for i in range(1, len(lengths)) if -(-lengths[i] // 8) != -(-lengths[i - 1] // 8)]
        for chosen in range(2 ** len(steps)):
            ends = [0, *(i for bit, i in enumerate(steps) if chosen >> bit & 1), len(lengths)]
            assert found <= sum(cost(e - b, lengths[b]) for b, e in itertools.pairwise(ends))

"""Cheap dropout is dropout: the share, the scale, fresh masks from torch's own generator, nothing in evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from encoders import tiny_encoder
from torch import nn

from harness import attention, model
from harness.config import RunConfig


class TestDrop:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("probability", [0.1, 0.5, 0.05])
    def test_share_and_scale(self, dtype: torch.dtype, probability: float) -> None:
        torch.manual_seed(1)
        found = attention.drop(torch.ones(1001, 501, dtype=dtype), probability)  # no multiple of 4
        assert (found == 0).double().mean().item() == pytest.approx(probability, abs=0.003)
        kept = torch.tensor(1 / (1 - probability)).to(dtype)
        torch.testing.assert_close(found[found != 0].unique(), kept[None], rtol=2e-3, atol=0)

    def test_elements_are_dropped_independently(self) -> None:
        torch.manual_seed(1)
        gone = (attention.drop(torch.ones(10**6), 0.3) == 0).double()
        for distance in (1, 2, 3, 4):  # four share a draw
            both = (gone[:-distance] * gone[distance:]).mean().item()
            assert both == pytest.approx(0.09, abs=0.002)

    def test_masks_follow_torchs_generator(self) -> None:
        torch.manual_seed(3)
        first, second = (attention.drop(torch.ones(100), 0.5) for _ in range(2))
        torch.manual_seed(3)
        again = attention.drop(torch.ones(100), 0.5)
        assert torch.equal(first, again) and not torch.equal(first, second)

    def test_gradient_has_the_mask_of_the_forward_pass(self) -> None:
        tensor = torch.ones(1000, requires_grad=True)
        found = attention.drop(tensor, 0.5)
        found.sum().backward()
        assert tensor.grad is not None and torch.equal(tensor.grad, found.detach())

    @pytest.mark.parametrize(("probability", "left"), [(0.0, 1.0), (1.0, 0.0)])
    def test_nothing_or_all(self, probability: float, left: float) -> None:
        assert (attention.drop(torch.ones(8), probability) == left).all()


class TestModel:
    def test_every_dropout_of_an_encoder_is_exchanged(self, tmp_path: Path) -> None:
        folder = tiny_encoder(tmp_path / "tiny", "bert", dropout=0.25)
        built = model.build(RunConfig(task="x", model_name_or_path=str(folder)), 3, per_word=False)
        found = [module for module in built.modules() if isinstance(module, nn.Dropout)]
        assert len(found) == 1 + 2 * 3 + 1  # embeddings; attention twice and output, a layer; head
        assert {(type(module), module.p) for module in found} == {(attention.Dropout, 0.25)}

    def test_nothing_is_dropped_in_evaluation(self) -> None:
        net = nn.Sequential(nn.Dropout(0.5))
        attention.replace_dropout(net)
        ones = torch.ones(100)
        assert torch.equal(net.eval()(ones), ones) and not torch.equal(net.train()(ones), ones)

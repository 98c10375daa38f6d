"""Files written tensor by tensor are those of safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness import watchdog
from harness.tensor_file import Stream, TensorFile, write


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_to_the_byte(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    names = ["encoder.layer.10.weight", "encoder.layer.2.weight", "b", 'Ω "quoted"', "scalar", "empty"]
    shapes = [(3, 5), (7,), (1, 2, 3), (2,), (), (0, 4)]
    tensors = {name: torch.randn(shape) for name, shape in zip(names, shapes, strict=True)}
    save_file(tensors, tmp_path / "theirs", metadata=metadata)
    with TensorFile(tmp_path / "ours", {name: tensor.shape for name, tensor in tensors.items()}, metadata) as file:
        for name in reversed(names):
            file.write(name, tensors[name])
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_other_precisions_and_views_become_float32(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    with TensorFile(tmp_path / "file", {"half": (6, 4), "view": (4, 2)}) as file:
        file.write("half", whole.half().T)
        file.write("view", whole[:, 1:3])
    found = load_file(tmp_path / "file")
    assert torch.equal(found["half"], whole.half().T.float()) and torch.equal(found["view"], whole[:, 1:3])


def test_each_tensor_tells_the_watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large model is written for longer than a rank may stand still."""
    beats: list[int] = []
    monkeypatch.setattr(watchdog, "beat", lambda: beats.append(1))
    write(tmp_path / "file", Stream.of({"a": torch.zeros(2), "b": torch.zeros(3)}))
    assert len(beats) == 2


def test_a_tensor_that_was_forgotten_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="1 tensors were not written"), TensorFile(tmp_path / "file", {"a": (2,)}):
        pass

"""Every ZeRO stage, offload, adapters, recomputed activations, one and two ranks, packed and padded: one training.

In float32, so that nothing but the order of sums may differ. What is compared is each cell with the cell of the same
trained weights at stage 0, on one rank, without any option.
"""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import tiny_encoder
from running import arguments, cut, fingerprint, run_on_ranks
from safetensors.torch import load_file

from harness.ds.config import CONFIGS
from launch import predict

KINDS = ("bert", "modernbert", "llama", "qwen3")
STAGES = {"0": "fp32", "1": "fp16_zero1", "2": "fp16_zero2", "3": "fp16_zero3", "3 offload": "fp16_zero3_offload"}
STEPS = 4
# Of a loss near 1: float32 has 7 digits, and Adam makes rounding errors of gradients near 0 as large as its steps.
LOSS, HEAD = 2e-5, 2e-4
LORAS = (False, True)
LORA = ("--lora_rank", "4", "--lora_dropout", "0.0")


@dataclass(frozen=True)
class Cell:
    """One combination."""

    stage: str
    lora: bool
    recomputed: bool
    packed: bool
    world: int

    def flags(self, folder: Path) -> list[str]:
        words = ["--ds_config", str(in_float32(STAGES[self.stage], folder)), "--precision", "auto"]
        words += [
            "--per_gpu_train_batch_size",
            str(8 // self.world),
            "--packing",
            "packed" if self.packed else "padded",
        ]
        words += ["--max_steps", str(STEPS), "--logging_steps", "1", "--save_steps", "2", "--keep_checkpoints", "2"]
        return words + list(LORA) * self.lora + ["--gradient_checkpointing"] * self.recomputed


def in_float32(name: str, folder: Path) -> Path:
    """A shipped JSON without its 16 bits."""
    values = json.loads((CONFIGS / f"{name}.json").read_text())
    path = folder / f"{name}.json"
    path.write_text(json.dumps({key: value for key, value in values.items() if key not in ("fp16", "bf16")}))
    return path


CELLS = [Cell(*values) for values in itertools.product(STAGES, LORAS, (False, True), (True, False), (1, 2))]


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["values"]["train/loss"] for row in rows if row["kind"] == "step"]


def head(folder: Path) -> torch.Tensor:
    """The trained head, which was drawn from the seed."""
    tensors: dict[str, torch.Tensor] = {}
    for file in (folder / "model").glob("*.safetensors"):
        tensors |= load_file(file)
    (weight,) = [tensor for name, tensor in tensors.items() if name.split(".")[-2:] == ["classifier", "weight"]]
    return weight


def rewind(folder: Path) -> None:
    """As if the run had been killed between its second step and the end."""
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "model")
    last = max((folder / "checkpoints").glob("step-*"))
    shutil.rmtree(last)
    assert any((folder / "checkpoints").glob("step-*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_training(kind: str, tmp_path: Path) -> None:
    encoder, data = tiny_encoder(tmp_path / kind, kind), cut("mednli", tmp_path / "data", 24)

    def lines(cells: list[Cell]) -> list[list[str]]:
        places = [tmp_path / str(CELLS.index(cell)) for cell in cells]
        more = [["--data_dir", str(data), *cell.flags(tmp_path)] for cell in cells]
        return [arguments("mednli", encoder, place, *flags) for place, flags in zip(places, more, strict=True)]

    results: dict[Cell, Any] = {}
    for world in (1, 2):
        cells = [cell for cell in CELLS if cell.world == world]
        results |= zip(cells, run_on_ranks(world, lines(cells), tmp_path / f"answers{world}"), strict=True)
    assert {cell: result for cell, result in results.items() if isinstance(result, str)} == {}

    for lora in LORAS:
        plain = Cell("0", lora, False, True, 1)
        place = tmp_path / str(CELLS.index(plain))
        assert len(losses(place)) == STEPS
        for cell in (cell for cell in CELLS if cell.lora == lora):
            folder = tmp_path / str(CELLS.index(cell))
            assert losses(folder) == pytest.approx(losses(place), abs=LOSS), cell
            assert torch.allclose(head(folder), head(place), rtol=0, atol=HEAD), cell
            test, expected = (results[each]["scores"]["test"]["loss"] for each in (cell, plain))
            assert test == pytest.approx(expected, abs=LOSS), cell
    first = [losses(tmp_path / str(CELLS.index(Cell("0", lora, False, True, 1))))[0] for lora in LORAS]
    assert first[0] == pytest.approx(first[-1], abs=LOSS)  # adapters begin as nothing, the head as the same

    resumed = [cell for cell in CELLS if cell.packed and cell.recomputed]
    before = {cell: fingerprint(tmp_path / str(CELLS.index(cell))) for cell in resumed}
    for cell in resumed:
        rewind(tmp_path / str(CELLS.index(cell)))
    for world in (1, 2):
        cells = [cell for cell in resumed if cell.world == world]
        answers = run_on_ranks(world, lines(cells), tmp_path / f"resumed{world}")
        assert [answer for answer in answers if isinstance(answer, str)] == []
    for cell in resumed:
        after = fingerprint(tmp_path / str(CELLS.index(cell)))
        different = {name for name in before[cell] | after if before[cell].get(name) != after.get(name)}
        assert {name for name in different if not name.startswith("checkpoints/step-0000-000002")} == set(), cell

    rows = (data / "test.tsv").read_text().splitlines()
    (tmp_path / "new.tsv").write_text("".join(f"{row}\n" for row in [rows[0], *rows[1:9]]))
    for cell in (cell for cell in resumed if cell.world == 1):
        folder = tmp_path / str(CELLS.index(cell))
        answers = folder / "answers.jsonl"
        assert predict.main([str(folder), "--input", str(tmp_path / "new.tsv"), "--output", str(answers)]) == 0
        predicted = [json.loads(line)["label"] for line in answers.read_text().splitlines()]
        scored = [row.split("\t")[-1] for row in (folder / "predictions" / "test.tsv").read_text().splitlines()[1:9]]
        assert predicted == scored, cell

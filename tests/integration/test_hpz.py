"""zero_hpz_partition_size (hpZ): each node keeps all weights of ZeRO-3, in parts. Four ranks, as two nodes of two."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import running
import torch
from encoders import tiny_encoder
from running import arguments, cut, run_on_ranks
from torch.utils._python_dispatch import TorchDispatchMode

from harness.ds import config as ds_config
from harness.ds import engine

BOTH = {
    "stage3_param_persistence_threshold": 100,
    "stage3_max_reuse_distance": 0,
}  # all is gathered again on the way back


class Gathers(TorchDispatchMode):
    """The numbers of ranks that weights were gathered from."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ranks: set[int] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation.namespace == "c10d" and operation._overloadpacket.__name__ == "_allgather_base_":
            group = [argument.name for argument in operation._schema.arguments].index("process_group")
            self.ranks.add(torch.distributed.ProcessGroup.unbox(args[group]).size())
        return operation(*args, **(kwargs or {}))


def rank(number: int, *given: Any) -> None:
    """As running's; rank 0 writes what its engines' steps gathered into the last of `given`, a folder."""
    seen: dict[engine.Engine, set[int]] = {}
    step = engine.Engine.micro_step

    def counted(self: engine.Engine, *batch: Any) -> torch.Tensor:
        with Gathers() as gathers:
            loss = step(self, *batch)
        seen.setdefault(self, set()).update(gathers.ranks)
        return loss

    engine.Engine.micro_step = counted  # type: ignore[method-assign] # of this process alone
    RANK(number, *given)
    if number == 0:
        Path(given[-1], "gathered.json").write_text(json.dumps([sorted(ranks) for ranks in seen.values()]))


RANK = running._rank


def losses(folder: Path) -> list[float]:
    rows = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["values"]["train/loss"] for row in rows if row["kind"] == "step"]


@pytest.mark.slow
def test_the_same_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, resumed too, also by a number of ranks that is no longer two nodes; the next run has none of it."""
    model = tiny_encoder(tmp_path / "model", "llama")
    cut("biosses", tmp_path / "data", 32)
    for name, more in {"plain": {}, "hpz": {"zero_hpz_partition_size": 2}}.items():
        settings = dict(ds_config.read("bf16_zero3").settings)
        settings["zero_optimization"] = settings["zero_optimization"] | BOTH | more
        (tmp_path / f"{name}.json").write_text(json.dumps({k: v for k, v in settings.items() if k != "bf16"}))

    def line(folder: Path, name: str, *more: str) -> list[str]:
        common = ("--data_dir", str(tmp_path / "data"), "--global_batch_size", "8", "--logging_steps", "1",
                  "--num_train_epochs", "1", "--save_steps", "1", "--keep_checkpoints", "9")  # fmt: skip
        return arguments("biosses", model, folder, *common, "--ds_config", str(tmp_path / f"{name}.json"), *more)

    def lines(place: Path) -> list[list[str]]:
        adapters = ("--lora_rank", "4", "--gradient_checkpointing")
        return [line(place / "0", "plain"), line(place / "1", "hpz"), line(place / "2", "plain", *adapters),
                line(place / "3", "hpz", *adapters)]  # fmt: skip

    monkeypatch.setattr(running, "_rank", rank)
    results = run_on_ranks(4, lines(tmp_path / "whole"), tmp_path / "answers")
    assert not [result for result in results if isinstance(result, str)], results
    assert json.loads((tmp_path / "answers" / "gathered.json").read_text()) == [[4], [2, 4], [4], [2, 4]]
    for plain in (0, 2):
        assert results[plain]["scores"] == results[plain + 1]["scores"]
        assert losses(tmp_path / "whole" / str(plain)) == losses(tmp_path / "whole" / str(plain + 1))
    for world in (4, 2):
        place = shutil.copytree(tmp_path / "whole", tmp_path / str(world))
        for folder in place.iterdir():
            shutil.rmtree(folder / "model")
            (folder / "result.json").unlink()
            for path in (folder / "checkpoints").iterdir():
                if path.name > "step-0000-000002":
                    shutil.rmtree(path)
        resumed = run_on_ranks(world, lines(place), tmp_path / f"answers{world}")
        for number, (before, after) in enumerate(zip(results, resumed, strict=True)):
            assert not isinstance(after, str), after
            assert "Resumed after 0 epochs and 2 steps" in (place / str(number) / "train.log").read_text()
            if world == 4:
                assert after["scores"] == before["scores"]
            assert losses(place / str(number)) == pytest.approx(losses(tmp_path / "whole" / str(number)), rel=1e-5)

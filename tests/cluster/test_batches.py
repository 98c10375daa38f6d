"""How many examples an optimizer step takes, wherever the ranks stand: per device x ranks x accumulation."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from running import arguments, cut, run

if TYPE_CHECKING:
    from slurm_fixture import Slurm

pytest_plugins = ("slurm_fixture",)

STEPS = 8
RANK = """
import json, os, sys
from harness import distributed
from harness.errors import UserError
from running import run

answers = []
for line in json.load(open(sys.argv[1])):
    try:
        answers.append(run(line))
    except UserError as error:
        answers.append(str(error))
if os.environ["RANK"] == "0":
    json.dump(answers, open(sys.argv[2], "w"))
distributed.leave(0)
"""


@dataclass(frozen=True)
class Bench:
    """The runs that each placement does, into folders of its own."""

    model: Path
    place: Path

    def counted(self, where: str) -> list[str]:
        """3 examples a device, accumulated twice."""
        more = ("--per_gpu_train_batch_size", "3", "--gradient_accumulation_steps", "2", "--max_steps", "2")
        return arguments("mednli", self.model, self.place / where / "counted", *more)

    def shared(self, where: str, task: str) -> list[str]:
        """24 examples a step, at most 8 of them on a device at a time: 3, 2 or 1 passes."""
        more = ("--global_batch_size", "24", "--max_steps", str(STEPS), "--logging_steps", "1")
        data = ("--data_dir", str(self.place / "data" / task))
        return arguments(task, self.model, self.place / where / task, *more, *data)

    def odd(self, where: str) -> list[str]:
        return arguments("mednli", self.model, self.place / where / "odd", "--global_batch_size", "9")

    def curve(self, where: str, task: str) -> dict[str, list[float]]:
        lines = [json.loads(line) for line in (self.place / where / task / "metrics.jsonl").read_text().splitlines()]
        steps = [line["values"] for line in lines if line["kind"] == "step"]
        return {name: [values[f"train/{name}"] for values in steps] for name in ("loss", "grad_norm", "lr")}


TASKS = ("mednli", "bc5cdr_disease")  # of the second, ranks have different numbers of labelled words


@pytest.fixture(scope="module")
def bench(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    place = tmp_path_factory.mktemp("batches")
    for task in TASKS:
        cut(task, place / "data" / task, 61)  # a last step of fewer examples
    bench = Bench(tiny_bert, place)
    for task in TASKS:
        run(bench.shared("1x1", task))
    yield bench


def check_counted(result: dict[str, Any], bench: Bench, where: str, ranks: int) -> None:
    assert (result["world_size"], result["examples_per_step"], result["steps"]) == (ranks, 3 * ranks * 2, 2)
    log = (bench.place / where / "counted" / "train.log").read_text()
    assert f"3 examples a device x {ranks} devices x 2 accumulated = {6 * ranks} a step" in log


def test_one_device(bench: Bench) -> None:
    check_counted(run(bench.counted("1x1")), bench, "1x1", 1)
    log = (bench.place / "1x1" / "mednli" / "train.log").read_text()
    assert "8 examples a device x 1 devices x 3 accumulated = 24 a step" in log
    assert len(bench.curve("1x1", "mednli")["loss"]) == STEPS


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "ranks"), [(2, 1), (2, 2)], ids=["2x1", "2x2"])
def test_nodes_and_ranks(slurm: Slurm, bench: Bench, nodes: int, ranks: int) -> None:
    where, world = f"{nodes}x{ranks}", nodes * ranks
    lines = [bench.counted(where), *(bench.shared(where, task) for task in TASKS), bench.odd(where)]
    script, asked, answered = (bench.place / f"{where}-{name}" for name in ("rank.py", "lines.json", "answers.json"))
    script.write_text(RANK)
    asked.write_text(json.dumps(lines))
    paths = f"{Path(__file__).parents[2]}:{Path(__file__).parents[1]}"
    step = ["srun", f"--nodes={nodes}", f"--ntasks-per-node={ranks}", f"--output={bench.place}/{where}-%t.log"]
    slurm.run(*step, sys.executable, str(script), str(asked), str(answered), PYTHONPATH=paths, timeout=400)
    counted, *shared, odd = json.loads(answered.read_text())

    check_counted(counted, bench, where, world)
    passes = {2: (6, 2), 4: (6, 1)}[world]
    for task, result in zip(TASKS, shared, strict=True):
        assert (result["world_size"], result["examples_per_step"], result["steps"]) == (world, 24, STEPS)
        log = (bench.place / where / task / "train.log").read_text()
        assert f"{passes[0]} examples a device x {world} devices x {passes[1]} accumulated = 24 a step" in log
        ours, alone = bench.curve(where, task), bench.curve("1x1", task)
        assert ours["lr"] == alone["lr"] and len(ours["loss"]) == STEPS
        for name in ("loss", "grad_norm"):
            assert ours[name] == pytest.approx(alone[name], rel=1e-3), (task, name)
    assert f"--global_batch_size 9 does not divide over {world} devices: use 1, 3, 9" in odd

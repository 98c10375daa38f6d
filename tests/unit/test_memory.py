"""What a device's memory is said to need: against live tensors, and that what is advised fits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import tiny_encoder
from memory_counts import CASES, SIZES, Classes
from running import clean_environment

from harness import activations, errors, memory, model
from harness.config import BatchPlan, RunConfig
from harness.distributed import World
from harness.ds import config as ds_config
from harness.errors import TrainingFailed, UserError
from harness.memory import Choice, Fit, Room

TESTS = Path(__file__).resolve().parents[1]
MIB = 2**20
ROOMS = [2**30, 14 * MIB, 8 * MIB, 6 * MIB, 3 * MIB, MIB // 8]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_estimates_are_within_a_tenth_of_the_bytes_of_live_tensors(ranks: int, tmp_path: Path) -> None:
    """In fact within a hundredth, but for what DeepSpeed aligns in the smallest encoder."""
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    command = [sys.executable, str(TESTS / "memory_counts.py"), str(tmp_path / "counts"), str(ranks)]
    subprocess.run(command, env=clean_environment() | {"PYTHONPATH": paths}, check=True, timeout=600)
    for rank in range(ranks):
        found = json.loads((tmp_path / f"counts.{rank}").read_text())
        assert found.keys() == {f"{size}, {case}" for size in SIZES for case in CASES[ranks]}
        for name, numbers in found.items():
            assert numbers.get("estimated") == pytest.approx(numbers.get("counted", 0), rel=0.1), (name, numbers)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 256, "vocab_size": 2000}
    return tiny_encoder(tmp_path_factory.mktemp("memory") / "bert", "bert", dropout=0.1, **sizes)


def fit_of(encoder: Path, free: int, ranks: int = 1, host: int = 2**40, cuda: bool = True, **given: Any) -> Fit:
    """As if on GPUs with so many bytes free: asking how much a GPU has needs one, counting does not."""
    values: dict[str, Any] = {"ds_config": "fp16_zero0", "per_gpu_train_batch_size": 16, "max_seq_length": 64}
    config = RunConfig(task="x", model_name_or_path=str(encoder), **(values | given))
    micro, accumulation = config.per_gpu_train_batch_size, config.gradient_accumulation_steps
    plan = BatchPlan(micro, ranks, accumulation, micro * ranks * accumulation)
    world = World(0, ranks, 0, ranks, torch.device("cuda", 0) if cuda else torch.device("cpu"))
    ds = ds_config.read(str(config.ds_config))
    return Fit(config, ds, plan, world, Classes(), 64, Room(free, host, not cuda))  # type: ignore[arg-type]


class Estimates:
    """Of each choice, by itself."""

    def __init__(self, fit: Fit) -> None:
        self.fit, self.passes = fit, dict[Any, Any]()
        self.networks = {
            rank: memory.skeleton(memory.replace_rank(fit.config, rank), fit.task) for rank in (None, memory.USUAL_RANK)
        }

    def of(self, choice: Choice) -> memory.Estimate:
        return memory.estimate(self.networks[choice.rank], choice, self.fit.longest, self.fit.world.device, self.passes)


def advised(fit: Fit) -> tuple[Choice | None, list[Choice]]:
    """(what the advice names, the cheaper options before it), told apart by their flags."""
    text, before = fit.advice(), []
    for choice in memory.options(fit.now):
        if text.startswith(f"{memory.flags(choice, fit.now, fit.config)} needs "):
            return choice, before
        before.append(choice)
    assert text.startswith("no other settings")
    return None, before


@pytest.mark.parametrize("name", ["fp16_zero0", "bf16_zero1", "bf16_autocast", "fp32"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_what_is_advised_fits_and_nothing_cheaper_does(encoder: Path, name: str, ranks: int) -> None:
    kinds, estimates = set(), Estimates(fit_of(encoder, 0, ranks, ds_config=name))
    for free in ROOMS:
        fit = fit_of(encoder, free, ranks, ds_config=name)
        choice, cheaper = advised(fit)
        assert not any(estimates.of(each).fits(fit.room) for each in cheaper)
        if choice is not None:
            kinds.add(re.sub(r" \S*\d\S*", "", memory.flags(choice, fit.now, fit.config)))
            assert estimates.of(choice).fits(fit.room)
            assert choice.micro * choice.accumulation * choice.world == fit.plan.total
    assert len(kinds) > 1, kinds  # else the amounts above tell nothing apart


def test_options_take_as_many_examples_a_step(encoder: Path) -> None:
    now = fit_of(encoder, 0, 2, gradient_accumulation_steps=3).now
    options = list(memory.options(now))
    assert {each.micro * each.accumulation * each.world for each in options} == {16 * 3 * 2}
    assert all(each not in [now, *options[:k]] for k, each in enumerate(options))
    assert replace(options[0], micro=16, accumulation=3) == now  # a smaller batch costs nothing but time


def test_weights_that_cannot_fit_are_refused_before_they_are_loaded(encoder: Path) -> None:
    fit = fit_of(encoder, 5 * MIB)
    with pytest.raises(UserError, match=r"larger than the memory: it has 5 MiB free: .*_offload needs") as caught:
        fit.check()
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="larger than the memory: all 2 devices together have 5 MiB free"):
        fit_of(encoder, int(2.5 * MIB), 2).check()
    with pytest.raises(UserError, match=r"a device, and there are 4 MiB free: .*--ds_config fp16_zero"):
        fit_of(encoder, 4 * MIB, 2).check()
    fit_of(encoder, 2**30).check()


def test_activations_alone_are_no_reason_to_refuse(encoder: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit = fit_of(encoder, 14 * MIB)
    network = memory.skeleton(fit.config, fit.task)
    assert network is not None
    with caplog.at_level("INFO", "harness.launch"):
        fit.check()
        fit.announce(network)
    first, second = caplog.messages
    assert first.startswith("memory  about ") and first.endswith(" of 14 MiB")
    assert "does not fit: --per_gpu_train_batch_size " in second


def test_out_of_memory_says_what_would_do(encoder: Path) -> None:
    fit = fit_of(encoder, 2**40)  # more than it has, as it turns out
    expected = pytest.raises(TrainingFailed, match=r"out of memory while .*: --per_gpu_train_batch_size 8 --grad")
    with expected as caught, fit.explained("while the optimizer's state was made"):
        raise UserError("x: cannot be loaded") from torch.OutOfMemoryError("CUDA out of memory")
    assert errors.is_final(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="another"), fit.explained("never"):
        raise UserError("another")


@pytest.mark.parametrize("kind", ["deberta-v2", "modernbert", "llama", "gemma2", "t5"])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_pass_without_memory_keeps_what_a_real_one_keeps(kind: str, autocast: bool, tmp_path: Path) -> None:
    layers = "num_layers" if kind == "t5" else "num_hidden_layers"
    more: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"] * 3} if kind == "gemma2" else {}
    tiny_encoder(tmp_path, kind, dropout=0.1, **{layers: 6}, **more)
    network = model.build(RunConfig(task="x", model_name_or_path=str(tmp_path), max_seq_length=64), 3, False).train()
    state = torch.get_rng_state()
    found = activations.measure(network, [64] * 4, torch.float32, autocast, torch.device("cpu"))
    assert torch.equal(state, torch.get_rng_state()) and network.training
    own = {each.untyped_storage().data_ptr() for each in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    batch = activations._batch([64] * 4, False, network.takes_segments)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        network(network.ready(batch, torch.device("cpu")))
    counted = sum(each.untyped_storage().nbytes() for each in kept.values())
    assert found.kept == pytest.approx(counted, rel=0.01)
    assert found.recomputed < found.kept / 2


def test_free_memory_of_the_host_is_what_its_groups_leave(tmp_path: Path) -> None:
    for name, content in {
        "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n",
        "proc/self/cgroup": "0::/job/step\n",
        "sys/fs/cgroup/job/memory.max": "6000000\n",
        "sys/fs/cgroup/job/memory.current": "2500000\n",
        "sys/fs/cgroup/job/memory.stat": "anon 7\nactive_file 200000\ninactive_file 300000\n",
        "sys/fs/cgroup/job/step/memory.max": "max\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert memory._host_memory({}, tmp_path) == 4_000_000
    assert memory._host_memory({"SLURM_MEM_PER_NODE": "3"}, tmp_path) == 3 * MIB
    assert memory._host_memory({"SLURM_MEM_PER_CPU": "1", "SLURM_CPUS_ON_NODE": "2"}, tmp_path) == 2 * MIB
    assert memory._host_memory({"SLURM_MEM_PER_NODE": "0"}, tmp_path) == 4_000_000
    for text in ("", "much", "-1"):
        assert memory._host_memory({"SLURM_MEM_PER_NODE": text}, tmp_path) == 4_000_000
    (tmp_path / "proc/self/cgroup").unlink()
    assert memory._host_memory({}, tmp_path) == 8000 * 1024


def test_files_of_inner_groups_give_way_in_version_1(tmp_path: Path) -> None:
    for name, content in {
        "proc/meminfo": "MemAvailable: 8000 kB\n",
        "proc/self/cgroup": "9:memory:/job\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "6000000\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "5000000\n",
        "sys/fs/cgroup/memory/job/memory.stat": "active_file 1\ninactive_file 2\ntotal_active_file 3000000\n"
        "total_inactive_file 1000000\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert memory._host_memory({}, tmp_path) == 5_000_000


def test_what_lies_on_a_disk_needs_no_memory(encoder: Path, tmp_path: Path) -> None:
    found = {}
    for place in ("cpu", "nvme"):
        values = json.loads((ds_config.CONFIGS / "bf16_zero3_offload.json").read_text())
        for part in ("offload_optimizer", "offload_param"):
            values["zero_optimization"][part] = {"device": place, "nvme_path": str(tmp_path)}
        path = tmp_path / f"{place}.json"
        path.write_text(json.dumps(values))
        fit = fit_of(encoder, 2**40, ds_config=str(path))
        network = memory.skeleton(fit.config, fit.task)
        found[place] = memory.static(network, fit.now)
    assert found["nvme"].host == 0 < found["cpu"].host
    assert found["nvme"].weights == found["nvme"].optimizer == 0


def test_a_run_with_a_checkpoint_is_told_first_how_it_goes_on(encoder: Path, tmp_path: Path) -> None:
    fresh = fit_of(encoder, 2**40)
    total = Estimates(fresh).of(fresh.now).total
    tight = replace(fresh, room=Room(int(0.95 * total), 2**40, False))
    assert "--per_gpu_train_batch_size" in tight.advice()
    (tmp_path / "step-0001-000000").mkdir()
    resumed = replace(tight, checkpoints=tmp_path).advice()
    assert resumed.startswith("--gradient_checkpointing needs") and "another --output_dir" not in resumed


def test_no_adapters_are_advised_beside_frozen_layers(encoder: Path) -> None:
    found = {}
    for given in ({}, {"freeze_layers": "0"}):
        advice = [fit_of(encoder, free, 2, ds_config="fp32", **given).advice() for free in ROOMS]
        found[len(given)] = sum("--lora_rank" in text for text in advice)
    assert found[0] > 0 == found[1]

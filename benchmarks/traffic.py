"""Bytes that each rank sends in an optimizer step, by ZeRO stage: from arithmetic, and as counted.

Convention: what a rank sends when a collective runs in a ring of N ranks, the tensor having S bytes as a whole:
(N - 1) / N * S for an all-gather, a reduce-scatter, a reduction to one rank or a broadcast, twice that for an
all-reduce. It receives as much.

    python -m benchmarks.traffic                                              # the tables of docs/scaling.md
    torchrun --standalone --nproc_per_node 4 -m benchmarks.traffic --count    # counted on gloo, beside the arithmetic
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tasks
from benchmarks.operations import made_up
from harness import distributed, logs, model
from harness.config import BatchPlan, RunConfig
from harness.ds import config as ds_config
from harness.ds import engine

LIVE = 500_000_000  # stage3_max_live_parameters of ds_configs/
MODELS = {"110M": 110e6, "1B": 1e9, "8B": 8e9}
RANKS, SPEEDS = (8, 64, 512), (25, 100, 400)  # GPUs; Gbit/s of the ring's slowest link
# Collectives of the process group: (times around the ring, where the whole tensor is among their arguments).
RING = {
    "allreduce_": (2, 0), "broadcast_": (1, 0), "reduce_": (1, 0), "_allgather_base_": (1, 0), "allgather_": (1, 0),
    "_reduce_scatter_base_": (1, 1), "reduce_scatter_": (1, 1), "alltoall_base_": (1, 1),
}  # fmt: skip


# ---- arithmetic
@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters."""

    trained: float
    frozen: float = 0  # under --lora_rank
    small: float = 0  # of both, those in tensors that ZeRO-3 keeps whole (stage3_param_persistence_threshold)
    passed: float = 0  # of the frozen ones the embeddings: no gradient goes through them


@dataclass(frozen=True)
class Step:
    """How a step is computed: `ranks` devices, numbers of `width` bytes, `passes` of accumulation."""

    ranks: int
    width: int = 2
    passes: int = 1
    checkpointing: bool = False
    live: float = LIVE


def sent(stage: int, sizes: Sizes, step: Step) -> dict[str, float]:
    """Bytes that a rank sends in an optimizer step: `gradients` that are reduced, `weights` that are gathered."""
    ring = (step.ranks - 1) / step.ranks * step.width
    if stage < 3:
        # DeepSpeed all-reduces a bucket that holds parts of several ranks, under ZeRO-2 too, and there in each pass.
        gradients = 2 * ring * sizes.trained * (step.passes if stage == 2 else 1)
        return {"gradients": gradients, "weights": ring * sizes.trained if stage else 0.0}
    large = sizes.trained + sizes.frozen - sizes.small
    # Forward and backward, but for what is still there from the one when the other begins; a layer that was computed
    # again stays for its backward pass only where it is trained.
    each = max(large, 2 * large - sizes.passed - min(large, step.live))
    if step.checkpointing and sizes.frozen:
        each += large - sizes.passed
    return {"gradients": ring * sizes.trained * step.passes, "weights": ring * (each * step.passes + sizes.small)}


# ---- counting
class Traffic(TorchDispatchMode):
    """Counts what this rank sends in collectives of its process groups, by collective, within it.

    Operations of the dispatcher: whatever called them, torch.distributed, DeepSpeed or autograd's hooks. On a GPU the
    backward pass runs in threads of its own, which this does not see.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation.namespace == "c10d" and (name := operation._overloadpacket.__name__) != "barrier":
            times, place = RING[name]
            group = [argument.name for argument in operation._schema.arguments].index("process_group")
            ranks = torch.distributed.ProcessGroup.unbox(args[group]).size()
            size = sum(tensor.nbytes for tensor in _tensors(args[place]))
            self.bytes[name] += round(times * size * (ranks - 1) / ranks)
            self.calls[name] += 1
        return operation(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return self.bytes.total()


def _tensors(given: Any) -> list[torch.Tensor]:
    return [given] if isinstance(given, torch.Tensor) else [tensor for each in given for tensor in _tensors(each)]


def encoder(folder: Path) -> str:
    """A small BERT in `folder`, without dropout."""
    from transformers import BertConfig, BertModel

    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512, "num_hidden_layers": 6}
    torch.manual_seed(0)
    BertModel(BertConfig(**sizes, **none, vocab_size=300, max_position_embeddings=128)).save_pretrained(folder)
    return str(folder)


# The sizes of ds_configs/ for its layers of 197,000: vectors stay whole, two layers may be there, half a one is
# gathered ahead.
NARROW = {
    "stage3_param_persistence_threshold": 2000, "stage3_max_live_parameters": 400_000,
    "stage3_max_reuse_distance": 400_000, "stage3_prefetch_bucket_size": 90_000, "reduce_bucket_size": 120_000,
}  # fmt: skip


def settings(stage: int, precision: str, folder: Path, **zero: Any) -> str:
    """The path of a JSON: that of ds_configs/ at this stage, in fp32 or bf16, with other values of `zero`."""
    name = {0: "fp32" if precision == "fp32" else "bf16_autocast"}.get(stage, f"bf16_zero{stage}")
    values = {
        key: value for key, value in ds_config.read(name).settings.items() if key != "bf16" or precision == "bf16"
    }
    values["zero_optimization"] = values["zero_optimization"] | zero
    path = folder / f"zero{stage}-{precision}-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(values))
    return str(path)


def measure(run: RunConfig, world: distributed.World, passes: int = 1) -> tuple[Traffic, Sizes, list[float]]:
    """(what a step sends, the model's sizes, losses of all passes made); `run` names the encoder and the JSON."""
    task = tasks.get(run.task)
    net = model.build(run, task.num_outputs, task.per_word).train()
    ds, batch = ds_config.resolve(run, world), made_up([8, 8])
    whole = ds.settings["zero_optimization"].get("stage3_param_persistence_threshold", 0)
    numbers = [(p.numel(), p.requires_grad, "embeddings" in name) for name, p in net.named_parameters()]
    sizes = Sizes(
        trained=sum(number for number, trained, _ in numbers if trained),
        frozen=sum(number for number, trained, _ in numbers if not trained),
        small=sum(number for number, *_ in numbers if number <= whole),
        passed=sum(number for number, trained, embeds in numbers if embeds and not trained and number > whole),
    )
    plan = BatchPlan(2, world.size, passes, 2 * passes * world.size)
    trained = engine.build(net, task, run, ds, plan, 100, world)
    losses, traffic = [], Traffic()
    for step in range(3):  # ZeRO-3 knows the order of layers after two passes
        with traffic if step == 2 else nullcontext():
            losses += [float(trained.micro_step(batch, 1 / 2 / passes)) for _ in range(passes)]
    trained.close()
    return traffic, sizes, losses


@dataclass(frozen=True)
class Case:
    """One that is counted: `lora` is the rank of the adapters or None."""

    stage: int
    precision: str = "bf16"
    passes: int = 1
    lora: int | None = None
    checkpointing: bool = False

    def run(self, encoder: str, folder: Path) -> RunConfig:
        zero = NARROW if self.stage == 3 else {}
        return RunConfig(
            task="mednli", model_name_or_path=encoder, pooling="mean", lora_rank=self.lora, learning_rate=1e-3,
            gradient_checkpointing=self.checkpointing, ds_config=settings(self.stage, self.precision, folder, **zero),
        )  # fmt: skip

    def step(self, ranks: int) -> Step:
        width = 2 if self.precision == "bf16" and self.stage else 4  # at stage 0 under autocast gradients are float32
        return Step(ranks, width, self.passes, self.checkpointing, NARROW["stage3_max_live_parameters"])


CASES = (
    *(Case(stage, "fp32") for stage in range(4)), *(Case(stage, passes=2) for stage in range(4)),
    *(Case(stage, lora=8) for stage in range(4)), *(Case(3, lora=rank, checkpointing=True) for rank in (None, 8)),
)  # fmt: skip


def count(world: distributed.World, folder: Path) -> list[tuple[Case, dict[str, float], Traffic, list[float]]]:
    """Of each case: arithmetic, what was counted, losses. The encoder is in `folder`. Collective."""
    rows, own = [], folder / f"rank-{world.rank}"
    own.mkdir()
    for case in CASES:
        traffic, sizes, losses = measure(case.run(str(folder / "encoder"), own), world, case.passes)
        rows.append((case, sent(case.stage, sizes, case.step(world.size)), traffic, losses))
    return rows


# ---- what it means
def seconds(stage: int, parameters: float, ranks: int, speed: float, step: Step | None = None) -> float:
    """Of sending in bf16, around a ring whose slowest link has `speed` Gbit/s."""
    return sum(sent(stage, Sizes(parameters), step or Step(ranks)).values()) * 8 / speed / 1e9


def tables(tokens: int, tflops: float) -> None:
    """Seconds of a step by model, stage, GPUs and network; and from how many tokens on computing takes longer."""
    speeds = " | ".join(f"{ranks} GPUs, {speed} Gbit/s" for ranks in RANKS for speed in SPEEDS)
    print(f"| parameters | stage | computing {tokens} tokens, s | {speeds} |\n{'|---' * (3 + 9)}|")
    for name, parameters in MODELS.items():
        computing = 6 * parameters * tokens / tflops / 1e12
        for stage in range(4):
            cells = [seconds(stage, parameters, ranks, speed) for ranks in RANKS for speed in SPEEDS]
            print(f"| {name} | {stage} | {computing:.2g} | {' | '.join(f'{cell:.2g}' for cell in cells)} |")
    print(f"\n| 8B, 64 GPUs | {' | '.join(f'{speed} Gbit/s' for speed in SPEEDS)} |\n{'|---' * 4}|")
    full, lora = Sizes(8e9), Sizes(20e6, 8e9)
    rows = {
        "stage 0": (0, full, False, 6), "stage 1, 2": (1, full, False, 6), "stage 3": (3, full, False, 6),
        "stage 3, checkpointing": (3, full, True, 8), "LoRA, stage 0": (0, lora, False, 4),
        "LoRA, stage 3": (3, lora, False, 4), "LoRA, stage 3, checkpointing": (3, lora, True, 6),
    }  # fmt: skip
    for name, (stage, sizes, checkpointing, flops) in rows.items():
        size = sum(sent(stage, sizes, Step(64, checkpointing=checkpointing)).values())
        needed = [size * 8 / speed / 1e9 * tflops * 1e12 / (flops * 8e9) for speed in SPEEDS]
        print(f"| {name} | {' | '.join(f'{number:,.0f}' for number in needed)} |")


def main() -> None:
    """Tables of the arithmetic, or a row a counted case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", action="store_true", help="under a launcher, on gloo")
    parser.add_argument("--tokens", type=int, default=4096, help="of a GPU in a step")
    parser.add_argument("--tflops", type=float, default=200, help="that a GPU reaches in training, 10**12 a second")
    args = parser.parse_args()
    if not args.count:
        tables(args.tokens, args.tflops)
        return
    logs.quiet_libraries()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        encoder(Path(folder) / "encoder")  # before ranks meet: then transformers would write on the first alone
        world = distributed.init(no_cuda=True)
        rows = count(world, Path(folder))
    if world.is_main:
        print(f"| stage | precision | passes | LoRA | checkpointing | arithmetic, MB | counted, MB |\n{'|---' * 7}|")
        for case, expected, traffic, _ in rows:
            cells = (case.stage, case.precision, case.passes, case.lora or "", "yes" if case.checkpointing else "")
            print(f"| {' | '.join(map(str, cells))} | {sum(expected.values()) / 1e6:.3f} | {traffic.total / 1e6:.3f} |")
    distributed.close()


if __name__ == "__main__":
    main()

"""Parts that find out whether training on this machine is right."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import bench, side_by_side
from benchmarks.gpu_check.material import Rows, Trained, encoder, settings, sizes, start, trained, wait
from benchmarks.gpu_check.part import Job
from benchmarks.peers import plain_loop
from harness import checkpoint, model, versions
from harness.checkpoint import TrainState
from harness.data import collate
from harness.ds.config import CONFIGS
from harness.ds.optimizer_state import TENSORS
from harness.errors import first_line
from harness.packing import PADDED
from harness.task import Batch, Encoded
from harness.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
SEEN = 6  # steps on a batch after which nothing is new: buffers are there, CUDA graphs captured
FORCED = {"efficient": SDPBackend.EFFICIENT_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
TRUSTED = ("as trained", "efficient")
ROUNDING = 3.0  # times as far from float32 as rounding takes it: packed gradients are wrong
LOSSES = {"fp16": 2e-2, "bf16": 5e-2, "fp32": 1e-3}  # largest relative distance to the CPU's in float32
RISKY_LAST = ("zero3", "offload")  # what hangs takes the rows behind it along
OVERFLOWS = 1e30  # a loss times this is finite in float32, and its fp16 gradients are not


def machine(job: Job) -> None:
    """Versions, card, driver, commit; how fast the card multiplies matrices as large as BERT-base's."""
    report = job.report
    installed = {**versions.installed(), "accelerate": metadata.version("accelerate"),
                 "cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}  # fmt: skip
    report.row("versions", ", ".join(f"{name} {version}" for name, version in installed.items()), **installed)
    report.row("commit", str(versions.commit()))
    report.row("processor", f"{len(os.sched_getaffinity(0))} cores", threads=torch.get_num_threads())
    if not job.on_gpu:
        for name in ("card", "driver, clock, power", "fp16 matrix rate"):
            report.measure(name, "")
        return
    card = torch.cuda.get_device_properties(0)
    built = torch.cuda.get_arch_list()
    about = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, compute capability {card.major}.{card.minor}"
    report.row("card", f"{about}; this torch is built for {' '.join(built)}")
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        said = subprocess.run(query, capture_output=True, text=True, check=False).stdout
        report.row("driver, clock, power", said.strip().split("\n")[0])
    rate = bench.matrix_rate(torch.float16)
    report.measure("fp16 matrix rate", f"{rate / 1e12:.0f} TFLOP/s", operations_per_second=rate)


def demo(job: Job) -> None:
    """The README's command, as a user types it."""
    launcher = shutil.which("deepspeed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH')}")
    assert launcher is not None, "there is no command `deepspeed` beside Python or on PATH"
    folder = job.scratch / "demo"
    command = [launcher, "-q", "launch/train.py", "--task", "mednli", "--output_dir", str(folder)]
    if job.small:
        command += ["--model_name_or_path", encoder(job, "base"), "--max_steps", "2"]
    done = subprocess.run([*command, "--wandb_mode", "offline"], cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, sep="\n", flush=True)
    if done.returncode:
        raise SystemExit(f"{done.stderr}\nexit status {done.returncode}")
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    seconds, precision = result["timing"]["total_seconds"], result["precision"]
    where = f"{result['steps']} steps in {precision}, {seconds:.1f} s, dev {100 * result['scores']['dev']['score']:.1f}"
    job.report.check("deepspeed -q launch/train.py --task mednli", precision == "fp16" or not job.on_gpu, where)
    shutil.rmtree(folder)


def attention(job: Job) -> None:
    """Which of PyTorch's attentions may run, and the gradients of packed rows under each, against padded float32."""
    report = job.report
    with trained(job, "base", 8) as one:  # whatever training switches on or off, it has now
        one.step(0)
    if job.on_gpu:
        on = torch.backends.cuda
        may = {"flash": on.flash_sdp_enabled(), "efficient": on.mem_efficient_sdp_enabled(),
               "math": on.math_sdp_enabled(), "cudnn": on.cudnn_sdp_enabled()}  # fmt: skip
        report.check("backends that may run", not may["cudnn"], ", ".join(name for name, yes in may.items() if yes))
    else:
        report.measure("backends that may run", "")
    torch.set_float32_matmul_precision("highest")
    for dtype in (torch.float16, torch.bfloat16) if job.on_gpu else (torch.float32,):
        for longest in sizes(job).lengths:
            network, batch = _packed_rows(job, longest)
            network.to(dtype).float()  # the same numbers in both precisions
            exact = _gradients(network, batch, torch.float32, "padded", SDPBackend.MATH)
            # What rounding alone does in this precision.
            usual = _distance(_gradients(network, batch, dtype, "padded", SDPBackend.MATH), exact)
            title = f"{str(dtype).removeprefix('torch.')}, rows of {-(-longest // 64) * 64}"
            for name, backend in {"as trained": None, **(FORCED if job.on_gpu else {})}.items():
                try:
                    apart = _distance(_gradients(network, batch, dtype, "packed", backend), exact)
                except RuntimeError as error:
                    report.row(f"{name}, {title}", f"cannot run: {first_line(error)}", "" if backend else "failed")
                    continue
                value = f"gradients {apart:.1e} from padded ones in float32, by rounding {usual:.1e}"
                outcome = "ok" if apart <= ROUNDING * max(usual, 1e-5) else "failed"
                # cuDNN is off because it gave NaN; whether it still does is for knowledge alone.
                report.row(f"{name}, {title}", value, outcome if name in TRUSTED else "", apart=apart, usual=usual)


def _packed_rows(job: Job, longest: int) -> tuple[model.EncoderWithHead, Batch]:
    """A float32 network without dropout, and a batch of which the longest example makes rows of that many tokens."""
    config = settings(job, "exact", 16, packing="packed", pooling="mean")
    network = model.build(config, 5, per_word=False).eval()
    draw = torch.Generator().manual_seed(longest)
    lengths = [longest - 3, *torch.randint(4, longest - 3, (15,), generator=draw).tolist()]
    ids = [torch.randint(1000, 20_000, (length,), generator=draw).tolist() for length in lengths]
    return network, collate(Encoded(ids, None, [0] * len(ids)), range(len(ids)), 0)


def _gradients(
    network: model.EncoderWithHead, batch: Batch, dtype: torch.dtype, layout: str, backend: SDPBackend | None = None
) -> torch.Tensor:
    """Of all weights, in one row of float32; weights, gradients and passes are in `dtype`."""
    device = start().device
    packed = network.layout
    network.layout = packed if layout == "packed" else PADDED
    network.to(device, dtype).zero_grad()
    try:
        with sdpa_kernel([backend]) if backend else torch.enable_grad():
            logits = network(batch.to(device)).float()
            draw = torch.Generator().manual_seed(1)
            (logits * torch.randn(logits.shape, generator=draw).to(device)).sum().backward()
        found = [p.grad.detach().float().flatten() for p in network.parameters() if p.grad is not None]
        return torch.cat(found).cpu()
    finally:
        network.layout = packed
        network.float()


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative, in L2 norm."""
    return float((one - other).norm() / other.norm())


def waits(job: Job) -> None:
    """How often a training step makes the host wait for the device; in fp16 at stage 0: never."""
    for name in ("fp16_zero0", "fp16_zero1", "fp16_zero2", "bf16_zero1", "fp32"):
        title = f"three steps of {name}"
        with job.report.attempt(title), trained(job, "base", 32, ds_config=name) as one:
            for _ in range(SEEN):
                one.applied(0)
            refused = name == "fp16_zero0"
            found = waits_in(lambda one=one: one.step(0), refused) if job.on_gpu else []  # type: ignore[misc]
            if not job.on_gpu:
                one.step(0)
                job.report.measure(title, "")
            elif refused:
                job.report.check(title, not found, found[0] if found else "no wait")
            else:
                job.report.row(title, f"{len(found)} waits" + f", first {found[0]}" * bool(found))


def waits_in(step: Callable[[], object], refused: bool) -> list[str]:
    """Where the host waited for the device in three steps; only the first place where waiting is `refused`."""
    wait()
    # What is asked for in so many words PyTorch does not report.
    with warnings.catch_warnings(record=True) as heard, mock.patch.object(torch.cuda, "synchronize") as asked:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("error" if refused else "warn")
        try:
            for _ in range(3):
                step()
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            traceback.print_exc()
            frames = traceback.extract_tb(error.__traceback__)
            return [" < ".join(f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in frames[:-5:-1])]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [f"{Path(w.filename).name}:{w.lineno}" for w in heard if "synchroniz" in str(w.message)]
    return found + ["torch.cuda.synchronize"] * asked.call_count


def ds_configs(job: Job) -> None:
    """Losses under each JSON of ds_configs/ against those in float32 on the CPU, the same rows, no dropout."""
    steps = sizes(job).compared
    expected = _cpu_losses(job, steps)
    names = sorted((path.stem for path in CONFIGS.glob("*.json")), key=lambda n: (sum(r in n for r in RISKY_LAST), n))
    for name in names:
        with job.report.attempt(name), trained(job, "exact", 8, ds_config=name, pooling="mean") as one:
            losses = [one.applied(number) for number in range(steps)]
            skipped = one.engine.metrics().skipped
            apart = max(abs(a / b - 1) if math.isfinite(a) else math.inf for a, b in zip(losses, expected, strict=True))
            value = f"{steps} steps, losses at most {apart:.1e} from fp32 on the CPU; {skipped} steps overflowed"
            job.report.check(name, apart < LOSSES[name.split("_")[0]], value, losses=losses, expected=expected)


def _cpu_losses(job: Job, steps: int) -> list[float]:
    """Of the plain loop, which shares nothing with ours, on the CPU."""
    start()
    config = settings(job, "exact", 8, pooling="mean")
    rows = Rows(job, config)
    network = plain_loop.Network(config.model_name_or_path, rows.task.num_outputs, rows.task.per_word, config.seed)
    side_by_side.undropped(network)
    step = side_by_side.plain_step(rows.task, network.train(), load_tokenizer(config), config)
    return [step([rows.examples[i] for i in rows.chosen(number)])[0] for number in range(steps)]


def overflow(job: Job) -> None:
    """A step whose fp16 gradients overflow is skipped, alone, at each ZeRO stage that fp16 has weights whole at."""
    for name in ("fp16_zero0", "fp16_zero1", "fp16_zero2"):
        with job.report.attempt(name), trained(job, "exact", 8, ds_config=name) as one:
            for _ in range(SEEN):
                one.applied(0)
            before, weights, steps = one.engine.metrics(), _copy(one), one.engine.applied_steps
            one.step(0, OVERFLOWS)
            after = one.engine.metrics()
            same = _equal(weights, one.engine.weights())
            loss = one.applied(0)
            moved = not _equal(weights, one.engine.weights())
            skipped = after.skipped - before.skipped
            passed = skipped == 1 and same and moved and math.isfinite(loss)
            passed = passed and one.engine.applied_steps == steps + 1
            kept = "as they were" if same else "changed"
            value = f"{skipped} skipped, weights {kept}, loss scale {before.loss_scale:g} -> {after.loss_scale:g}"
            job.report.check(name, passed, f"{value}; the next step {'moved them' if moved else 'moved nothing'}")


def resume(job: Job) -> None:
    """A checkpoint, loaded by another engine: the same state to the bit, the same steps after it, at other stages."""
    report, first, then = job.report, range(4), range(4, 8)
    root = job.scratch / "checkpoints"
    with trained(job, "base", 8, ds_config="fp16_zero0") as one:
        for number in first:
            one.applied(number)
        state = TrainState(step_in_epoch=len(first), applied_steps=one.engine.applied_steps)
        checkpoint.save(root, one.engine, state, one.world, 1)
        expected, saved = _course(one, then), load_file(next(root.glob("step-*")) / TENSORS)
    for name in ("fp16_zero0", "fp16_zero1", "fp16_zero2", "fp16_zero3"):
        with report.attempt(name), trained(job, "base", 8, ds_config=name, seed=2) as other:
            checkpoint.restore(root, other.engine, other.world)
            same = _equal(saved, _state(other, job.scratch / "again"))
            course = _course(other, then)
            value = f"weights and moments {'as saved, to the bit' if same else 'differ from those saved'}; "
            value += f"losses of {len(then)} steps {_apart(course, expected):.1e} apart"
            report.check(name, same and _apart(course, expected) < LOSSES["fp16"], value)
            if name == "fp16_zero0":
                # Some operations of a GPU add in any order: then two runs from here are not equal either.
                checkpoint.restore(root, other.engine, other.world)
                spread = _apart(_course(other, then), course)
                resumed = (
                    "to the bit" if course == expected else f"not to the bit; two runs from here {spread:.1e} apart"
                )
                report.check("the same steps", course == expected or spread > 0, resumed)
    shutil.rmtree(root)


def _state(one: Trained, folder: Path) -> dict[str, torch.Tensor]:
    """Weights and moments, as a checkpoint has them."""
    folder.mkdir()
    one.engine.save(folder)
    found = load_file(folder / TENSORS)
    shutil.rmtree(folder)
    return found


def _course(one: Trained, steps: range) -> tuple[list[float], str]:
    """(losses of steps, digest of the weights after them)."""
    losses = [one.applied(number) for number in steps]
    digest = hashlib.sha256()
    for weight in one.engine.weights().values():
        digest.update(weight.contiguous().numpy().tobytes())
    return losses, digest.hexdigest()


def _apart(one: tuple[list[float], str], other: tuple[list[float], str]) -> float:
    """The largest relative difference of two courses' losses; the smallest number where the weights alone differ."""
    found = max(abs(a / b - 1) for a, b in zip(one[0], other[0], strict=True))
    return found or (0.0 if one[1] == other[1] else sys.float_info.min)


def _copy(one: Trained) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in one.engine.weights().items()}


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())

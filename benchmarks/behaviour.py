"""This checkout against another, side by side on this machine: every file that their runs leave, to the byte.

    git worktree add ../before main
    python -m benchmarks.behaviour ../before               # --only 'hoc*' for some cases, --keep DIR for the folders

A change of layout or names must not change a loss, a prediction or a file. One task of each family is run with every
ds_config and the other tasks with the default, on one rank and on two: three steps with dropout, dev scored, a
checkpoint, both splits scored, everything written. In each checkout one process per rank does all runs, through
launch/train.py. What is different in equal runs is left out of the comparison (VOLATILE). Exit status 1 where anything
differs, or where no run ended well. Nothing is recorded: bits are compared within one machine and one thread alone.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import ds_configs
import tasks

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = ("medsts", "bc5cdr_disease", "mednli", "hoc")  # a task of each
FLAGS = (
    "--recipe", "biobert-v1.1", "--learning_rate", "1e-3", "--max_seq_length", "64", "--wandb_mode", "offline",
    "--per_gpu_train_batch_size", "8", "--per_gpu_eval_batch_size", "16", "--max_steps", "3", "--logging_steps", "1",
    "--output_all_logits", "--do_train", "--do_eval", "--do_predict",
)  # fmt: skip
# Times, speeds, process numbers, and what names the checkout itself or the day.
VOLATILE = re.compile(r"time|timing|started|.*_per_second|.*_seconds|commit|process|digest|digests|code|host|lease")
NOT_COMPARED = re.compile(r"train\.log|\.lock|\.first-failure-.*|wandb_id|wandb/.*|attempt\.json")
WORKER = """
import json, os, random, sys
import numpy
sys.path.insert(0, sys.argv[1])
from launch import train
from harness import distributed
from deepspeed.accelerator import get_accelerator
get_accelerator().is_fp16_supported = lambda: True  # the arithmetic is real, by PyTorch's slower path
statuses = {}
for name, line in json.load(open(sys.argv[2])).items():
    random.seed(0)  # runs do not use these two generators, and checkpoints hold their states
    numpy.random.seed(0)
    statuses[name] = train.main(line)
if os.environ.get("RANK", "0") == "0":
    json.dump(statuses, open(sys.argv[3], "w"))
distributed.leave(0)
"""


def cases(model: Path) -> dict[str, list[str]]:
    """Name -> command line without the output folder."""
    configs = sorted(path.stem for path in Path(ds_configs.__file__).parent.glob("*.json"))
    chosen = [(task, config) for task in FAMILIES for config in configs]
    chosen += [(task, "default") for task in tasks.BLUE]
    return {
        f"{task}-{config}": ["--task", task, "--model_name_or_path", str(model), *FLAGS]
        + ([] if config == "default" else ["--precision", "auto", "--ds_config", config])
        for task, config in chosen
    }


def start(checkout: Path, place: Path, lines: dict[str, list[str]], world: int) -> list[subprocess.Popen[bytes]]:
    """A process per rank. Runs lie at <place>/<case>, named by a relative path: equal in both checkouts."""
    place.mkdir(parents=True)
    named = {name: [*line, "--output_dir", name] for name, line in lines.items()}
    (place / "lines.json").write_text(json.dumps(named), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    env |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    if world > 1:
        env |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
        env |= {"MASTER_PORT": port}
    command = [sys.executable, "-c", WORKER, str(checkout), "lines.json", "statuses.json"]
    processes = []
    for rank in range(world):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}
        with (place / f"rank-{rank}.log").open("w", encoding="utf-8") as log:
            processes.append(
                subprocess.Popen(command, cwd=place, env=env | ranks, stdout=log, stderr=subprocess.STDOUT)
            )
    return processes


def statuses(place: Path, processes: list[subprocess.Popen[bytes]]) -> dict[str, int]:
    """The exit status of each case."""
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit(f"the runs in {place} ended early, see rank-0.log there (--keep)")
    found: dict[str, int] = json.loads((place / "statuses.json").read_text(encoding="utf-8"))
    return found


def differences(ours: Path, theirs: Path) -> list[str]:
    """Files of two run folders that are not the same, each with what differs first."""
    found = []
    names = {str(path.relative_to(folder)) for folder in (ours, theirs) for path in folder.rglob("*") if path.is_file()}
    for name in sorted(name for name in names if not NOT_COMPARED.fullmatch(name)):
        there = [(folder / name).is_file() for folder in (ours, theirs)]
        if not all(there):
            found.append(f"{name}: {'missing here' if there[1] else 'only here'}")
        elif name.endswith((".json", ".jsonl")):
            one, other = ([steady(json.loads(row)) for row in rows(folder / name)] for folder in (ours, theirs))
            if one != other:
                found.append(f"{name}: {first_difference(one, other)}")
        elif name.endswith(".pt"):  # a zip archive, which has times in it
            one, other = (torch.load(folder / name, weights_only=True) for folder in (ours, theirs))
            if not equal(one, other):
                found.append(name)
        elif content(ours / name) != content(theirs / name):
            found.append(name)
    return found


def content(path: Path) -> bytes:
    """A card without the line that names the commit."""
    found = path.read_bytes()
    return re.sub(rb"(?m)^\| code .*$", b"", found) if path.name == "README.md" else found


def rows(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def steady(value: Any) -> Any:
    """A JSON value without what is volatile in it."""
    if isinstance(value, dict):
        return {key: steady(inner) for key, inner in value.items() if not VOLATILE.fullmatch(key)}
    return [steady(inner) for inner in value] if isinstance(value, list) else value


def first_difference(one: Any, other: Any, place: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if one.get(key) != other.get(key):
                return first_difference(one.get(key), other.get(key), f"{place}.{key}".lstrip("."))
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (ours, theirs) in enumerate(zip(one, other, strict=True)):
            if ours != theirs:
                return first_difference(ours, theirs, f"{place}[{number}]")
    return f"{place or 'content'} is {str(one)[:60]!r} here and {str(other)[:60]!r} there"


def equal(one: Any, other: Any) -> bool:
    """As torch.load returns them: tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("other", type=Path, help="a checkout of the commit to compare with")
    parser.add_argument("--only", default="*", help="cases by name, as in 'hoc-*' or '*-default'")
    parser.add_argument("--keep", type=Path, help="leave the run folders there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = (args.keep or Path(temporary)).absolute()
        model = tiny_model(place / "model")
        chosen = {name: line for name, line in cases(model).items() if fnmatch.fnmatch(name, args.only)}
        different = well = 0
        for world in (1, 2):
            folders = {side: place / side / f"{world}" for side in ("ours", "theirs")}
            checkouts = {"ours": ROOT, "theirs": args.other.absolute()}
            started = {side: start(checkouts[side], folders[side], chosen, world) for side in folders}
            ours, theirs = (statuses(folders[side], started[side]) for side in folders)
            for name in chosen:
                found = differences(folders["ours"] / name, folders["theirs"] / name)
                if ours[name] != theirs[name]:
                    found.insert(0, f"exit status {ours[name]} here and {theirs[name]} there")
                well += ours[name] == 0
                different += bool(found)
                print(f"{name:34} ranks {world}  status {ours[name]}  {'; '.join(found) or 'same'}", flush=True)
        print(f"{different} of {2 * len(chosen)} runs differ; {well} ended well")
    return int(different > 0 or well == 0)


def tiny_model(folder: Path) -> Path:
    """Two layers of width 32 with dropout and random weights, and a vocabulary of letters."""
    from transformers import BertConfig, BertModel, BertTokenizer

    letters = [chr(number) for number in range(33, 127) if not chr(number).isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    torch.manual_seed(7)
    config = BertConfig(vocab_size=len(pieces), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=64, max_position_embeddings=160, initializer_range=0.1)  # fmt: skip
    BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())

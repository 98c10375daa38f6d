"""How end-to-end tests start runs: in this process, or on several gloo ranks."""

from __future__ import annotations

import hashlib
import json
import multiprocessing.forkserver
import os
import pickle
import re
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing

import tasks
from harness.errors import UserError

SMALL = (  # a run of a tiny encoder on sample data that takes a second or two
    "--recipe", "biobert-v1.1", "--learning_rate", "1e-3", "--max_seq_length", "64", "--wandb_mode", "disabled",
    "--per_gpu_train_batch_size", "8", "--per_gpu_eval_batch_size", "64", "--precision", "fp32",
)  # fmt: skip
NOT_COMPARED = ("train.log", ".lock", "config.json", "state.json")  # times, process numbers, the folder's own name
CHANGING = re.compile(r"time|.*_per_second|device_hours|itself")  # the last: a digest of a result with its times


def clean_environment() -> dict[str, str]:
    """This process's environment without the rank that runs in it have set, for programs that get one of their own."""
    ranks = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {**{name: value for name, value in os.environ.items() if name not in ranks}, "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def hear_interrupts() -> None:
    """For `preexec_fn`: tests that were started in the background would pass on that Ctrl-C is to be ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def arguments(task: str, model: Path, output: Path, *more: str) -> list[str]:
    """A command line; flags in `more` win over SMALL."""
    kept, words = [], list(SMALL)
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name not in more:
            kept += [name, value]
    return ["--task", task, "--model_name_or_path", str(model), "--output_dir", str(output), *kept, *more]


def cut(task: str, folder: Path, rows: int) -> Path:
    """The first rows (tagging: sentences) of a task's sample, as a data folder."""
    folder.mkdir(parents=True)
    for name in tasks.get(task).filenames.values():
        text = (tasks.sample_dir(task) / name).read_text()
        if tasks.get(task).family == "tagging":
            (folder / name).write_text("\n\n".join(text.split("\n\n")[:rows]) + "\n\n")
        else:
            (folder / name).write_text("".join(text.splitlines(keepends=True)[: rows + 1]))
    return folder


def refused(
    main: Callable[[Sequence[str]], int], capsys: pytest.CaptureFixture[str], *argv: object
) -> tuple[str, list[str]]:
    """(error, printed lines) of a command that ends by a user's mistake: one line on stderr, exit status 2."""
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1
    return err, out.splitlines()


def run(argv: Sequence[str]) -> dict[str, Any]:
    """The result of a run in this process."""
    from launch import train
    from launch.run import settings

    config, _ = settings.parse(argv)
    return train.run(config)


def run_on_ranks(world: int, lines: Sequence[Sequence[str]], folder: Path) -> list[Any]:
    """Rank 0's results of several runs, one after another, on `world` processes; an exception stands for itself."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "screen.txt").write_text("")  # there also where a rank dies before its first line
    try:
        start_processes(_rank, (dict(os.environ), world, port, [list(line) for line in lines], folder), world)
    finally:
        print((folder / "screen.txt").read_text(), end="")
    results: list[Any] = pickle.loads((folder / "answers.pickle").read_bytes())
    return results


def start_processes(function: Callable[..., None], args: tuple[Any, ...], number: int) -> None:
    """`function(rank, *args)` in `number` processes, forked from one that has imported what a run imports (warm.py)."""
    multiprocessing.set_forkserver_preload(["warm"])
    with pytest.MonkeyPatch.context() as patch:  # the server does not get this process's sys.path
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        multiprocessing.forkserver.ensure_running()
    torch.multiprocessing.start_processes(function, args, number, start_method="forkserver")


def _rank(rank: int, environment: dict[str, str], world: int, port: int, lines: list[list[str]], folder: Path) -> None:
    assert "warm" in sys.modules
    screen = os.open(folder / "screen.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(screen, 1)  # output and environment are those of the server's start
    os.dup2(screen, 2)
    os.environ.clear()
    os.environ.update(
        environment,
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1",
    )  # fmt: skip
    torch.set_num_threads(1)
    from harness import distributed, logs

    logs.quiet_libraries()
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True  # the arithmetic is real, by PyTorch's slower path
    results: list[Any] = []
    for line in lines:
        try:
            results.append(run(line))
        except Exception as error:
            results.append(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    if rank == 0:
        (folder / "answers.pickle").write_bytes(pickle.dumps(results))
    distributed.close()


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file of a run folder by its relative name, with a digest of what must be the same in equal runs."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.name in NOT_COMPARED or path.suffix == ".pt":  # a zip archive; the weights are compared in model/
            content = b""
        elif path.name in ("result.json", "metrics.jsonl"):
            rows = [content] if path.name == "result.json" else content.splitlines()
            content = json.dumps([steady(json.loads(row)) for row in rows], sort_keys=True).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def steady(record: Any) -> Any:
    """Without times and speeds."""
    if isinstance(record, dict):
        return {key: steady(value) for key, value in record.items() if not CHANGING.fullmatch(key) and key != "timing"}
    return record


def assert_user_error(call: Callable[[], object], *parts: str) -> None:
    """`call` raises a UserError of one line in which the parts stand."""
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and all(part in text for part in parts), text

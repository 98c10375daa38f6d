"""What a program does before it loads what takes seconds to import: flags are checked."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from running import clean_environment

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
HEAVY = ("torch", "transformers", "deepspeed", "scipy", "sklearn", "wandb", "submitit")
WRONG = [
    ("train", ["--lerning_rate", "1"]),
    ("train", ["--task", "mednly"]),
    ("train", ["--help"]),
    ("submit", ["--suite", "blu"]),
    ("submit", ["--help"]),
    ("score", ["--tusk", "hoc"]),
    ("report", ["--outt", "x"]),
]
LOADED = """
import runpy, sys
script, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    status = end.code
print("status", status, "loaded", *sorted(set(sys.modules) & set(HEAVY)))
"""


@pytest.mark.parametrize(("program", "words"), WRONG, ids=[" ".join([name, *words]) for name, words in WRONG])
def test_a_mistake_is_answered_before_anything_heavy_is_loaded(program: str, words: list[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = [sys.executable, "-c", LOADED.replace("HEAVY", repr(HEAVY)), str(LAUNCH / f"{program}.py"), *words]
    done = subprocess.run(line, env=clean_environment(), capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    status = 0 if words == ["--help"] else 2
    assert done.stdout.splitlines()[-1] == f"status {status} loaded", done.stdout + done.stderr
    assert status == 0 or done.stderr.startswith("error: "), done.stderr
    seconds = (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    )  # not the clock: others compute as well
    assert seconds < 2, f"{seconds:.1f} s of CPU"


def test_openmp_is_told_how_to_wait_before_torch_is_loaded() -> None:
    """It reads the variable once, when torch is loaded."""
    watch = """
import builtins, os, sys
real = builtins.__import__
def importing(name, *rest):
    if name == "torch":
        print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
        os._exit(0)
    return real(name, *rest)
builtins.__import__ = importing
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    environment = {name: value for name, value in clean_environment().items() if name != "OMP_WAIT_POLICY"}
    line = [str(LAUNCH / "train.py"), "--task", "mednli", "--model_name_or_path", "none"]
    done = subprocess.run(
        [sys.executable, "-c", watch, *line], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["starting: task mednli, model none; loading libraries ...", "PASSIVE"], (
        done.stderr
    )

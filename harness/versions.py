"""Of what code and which libraries a run was computed: its score may depend on them beside the settings."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
from importlib import metadata
from pathlib import Path


@functools.cache
def installed(adapters: bool = False) -> dict[str, str]:
    """Versions of Python and of the libraries that a score may depend on; with `adapters` of a run with --lora_rank."""
    packages = ("torch", "deepspeed", "transformers", "tokenizers", "scipy", "scikit-learn", "wandb")
    found = {"python": sys.version.split()[0]}
    for name in (*packages, "peft") if adapters else packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def commit() -> str | None:
    """The commit of the code that runs, with `+changes` where the tree differs; of an installed package its version
    (`v0.1.0`); None where nothing tells.

    A submitted run runs from a copy of the code, which names its commit in files of its own (`launch/jobs/slurm.py`).
    """
    here = Path(__file__).resolve().parent.parent
    if (here / "COMMIT").is_file():
        changed = (here / "changes.diff").is_file() and (here / "changes.diff").stat().st_size > 0
        return (here / "COMMIT").read_text(encoding="utf-8").strip() + ("+changes" if changed else "")
    if not (here / ".git").exists():
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f"v{metadata.version('blue-harness')}"
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return None
    return done.stdout.strip() if done.returncode == 0 else None

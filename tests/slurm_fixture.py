"""The session fixture `slurm`: a real SLURM of two or more nodes, from tests/slurm_cluster.sh.

A test file asks for it with `pytest_plugins = ("slurm_fixture",)` and marks its tests `slurm`. A cluster of ours that
is up already is used and left up; one that the fixture started is taken down at the end of the session. Where the
script may not start one (exit 77) the tests skip, with its reason.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from running import clean_environment

SCRIPT = Path(__file__).with_name("slurm_cluster.sh")
NOT_HERE = 77


@dataclass(frozen=True)
class Slurm:
    conf: Path

    @property
    def env(self) -> dict[str, str]:
        """This process's environment, without traces of a job of another cluster that the tests may run in."""
        clean = {
            name: value for name, value in clean_environment().items() if not name.startswith(("SLURM_", "SBATCH_"))
        }
        return {**clean, "SLURM_CONF": str(self.conf)}

    def run(self, *command: str, timeout: float = 120, check: bool = True, **env: str) -> str:
        """The standard output of an srun, sbatch, sacct, ...; `env` is added to its environment."""
        done = subprocess.run(command, env={**self.env, **env}, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout


def _script(command: str, folder: Path | None) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ) if folder is None else {**os.environ, "SLURM_TEST_DIR": str(folder)}
    return subprocess.run(["bash", str(SCRIPT), command], env=env, capture_output=True, text=True, timeout=580)


def _conf(output: str) -> Path:
    return Path(output.strip().splitlines()[-1].removeprefix("export SLURM_CONF="))


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    exported = Path(os.environ.get("SLURM_CONF", ""))
    folder = exported.parent.parent if (exported.parent.parent / ".slurm_cluster").is_file() else None
    running = _script("status", folder)
    if running.returncode == 0:
        yield Slurm(_conf(running.stdout))
        return
    started = _script("up", folder)
    if started.returncode == NOT_HERE:
        pytest.skip(started.stdout.strip())
    try:
        if started.returncode != 0:
            pytest.fail(f"slurm_cluster.sh up: exit {started.returncode}\n{started.stdout}{started.stderr}")
        yield Slurm(_conf(started.stdout))
    finally:
        _script("down", folder)

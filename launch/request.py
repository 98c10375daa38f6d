"""Where runs shall run: the flags of launch/submit.py that say so, checked against this machine."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import UserError
from harness.flags import Parser as Parser  # launch/submit.py and its commands take it from here
from launch.cluster import Profile


@dataclass(frozen=True)
class Request:
    """Where every run of a submission shall run, and how many of them at once."""

    cluster: str  # slurm | local | debug
    nodes: int = 1
    gpus_per_node: int = 1  # 0: on CPUs
    tasks_per_node: int = 1  # processes: one a device
    profile: Profile = dataclasses.field(default_factory=Profile)
    jobs: int | None = None  # local: runs side by side in all; None: one a device
    runs_per_gpu: int = 1  # local: runs side by side on one device

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a run's submission.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Request:
        """The reverse of `to_dict`."""
        return cls(**{**values, "profile": Profile(**values["profile"])})


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `from_options` reads."""
    group = parser.add_argument_group("where")
    group.add_argument("--cluster", choices=("auto", "slurm", "local", "debug"), default="auto",
                       help="auto: slurm where it answers, else local; debug: in this process [auto]")  # fmt: skip
    group.add_argument("--nodes", type=int, default=1, metavar="N", help="machines for each run [1]")
    group.add_argument(
        "--gpus_per_node", type=int, metavar="N", help="devices a machine; 0: none, train on its CPUs [1]"
    )
    group.add_argument(
        "--tasks_per_node", type=int, metavar="N", help="processes a machine, where gpus_per_node is 0 [1]"
    )
    group.add_argument("--profile", metavar="FILE", help="facts of the cluster, see slurm/cluster.example.toml")
    group.add_argument(
        "--jobs", type=int, metavar="N", help="local: runs side by side, the CPUs shared out [one a device]"
    )
    group.add_argument("--runs_per_gpu", type=int, default=1, metavar="N", help="local: runs side by side on a GPU [1]")


def from_options(options: argparse.Namespace, printing: bool) -> Request:
    """The request, complete. Raises UserError. `printing`: nothing will be started, so SLURM need not be here."""
    gpus = 1 if options.gpus_per_node is None else options.gpus_per_node
    tasks = options.tasks_per_node or max(1, gpus)
    jobs = 1 if options.jobs is None else options.jobs
    for name, value, least in (("nodes", options.nodes, 1), ("gpus_per_node", gpus, 0), ("tasks_per_node", tasks, 1),
                               ("jobs", jobs, 1), ("runs_per_gpu", options.runs_per_gpu, 1)):  # fmt: skip
        if value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
    if gpus and tasks != gpus:
        raise UserError(
            f"--tasks_per_node {tasks}: a process has one device, so it must be --gpus_per_node {gpus}; "
            "leave it out, or give --gpus_per_node 0 to train on CPUs"
        )
    profile = Profile() if options.profile is None else Profile.read(Path(options.profile).expanduser())
    cluster = options.cluster
    if cluster == "auto":
        cluster = "slurm" if printing or slurm_answers() else "local"
    if cluster in ("local", "debug") and not printing and (options.nodes, tasks) != (1, 1):
        raise UserError(
            f"--cluster {cluster}: gives each run one process on one device; for {options.nodes * tasks} on this "
            f"machine, deepspeed --num_gpus {options.nodes * tasks} launch/train.py"
        )
    if cluster in ("local", "debug") and options.gpus_per_node and not _has_gpu():
        raise UserError(
            f"--gpus_per_node {gpus}: no GPU can be used here; leave it out, or 0, to train on this machine's CPUs"
        )
    if cluster == "slurm" and (options.jobs is not None or options.runs_per_gpu > 1):
        raise UserError(
            "--jobs, --runs_per_gpu: are for --cluster local; on SLURM array_parallelism of the profile says how many "
            "runs go on at once, each with its devices to itself"
        )
    return Request(cluster, options.nodes, gpus, tasks, profile, options.jobs, options.runs_per_gpu)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def slurm_answers() -> bool:
    """Whether there is a SLURM with nodes behind this machine's commands."""
    if shutil.which("sbatch") is None:
        return False
    try:
        done = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and bool(done.stdout.strip())

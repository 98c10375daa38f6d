"""Where runs shall run: the flags of launch/submit.py that say so, and the facts of one cluster, from a TOML file.

The profile is the only place where a site differs from another.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from harness import files
from harness.config import nearest
from harness.errors import UserError
from harness.processes import answer
from harness.validation import checked

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # characters; a line break begins another line of the batch script
STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


def _without_control(value: Any, allowed: str = "") -> Any:
    if isinstance(value, str) and set(CONTROL.findall(value)) - {*allowed}:
        raise ValueError("has a control character, which no line of a batch script can hold")
    return value


Positive = Annotated[int, Field(ge=1)]
Line = Annotated[str, AfterValidator(_without_control)]
ShellLines = Annotated[str, AfterValidator(lambda text: _without_control(text, allowed="\n\t"))]


class Profile(BaseModel):
    """Facts of one cluster; None: the cluster's default. See slurm/cluster.example.toml."""

    model_config = STRICT

    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    cpus_per_task: Positive | None = None  # a device
    cpus_per_gpu: Positive | None = None  # the same as sbatch's --cpus-per-gpu
    mem_gb: Positive | None = None  # a node
    mem_per_gpu_gb: Positive | None = None
    time: Positive = 240  # minutes
    signal_delay_s: Positive = 90  # the stop request comes so long before the time limit
    array_parallelism: Positive | None = None  # runs of a suite at once
    setup: list[ShellLines] = []
    environment: list[Line] | None = None  # what reaches the job: NAME, or NAME=value; None: all
    container: Line | None = None
    container_runtime: Literal["pyxis", "apptainer"] = "pyxis"
    container_mounts: list[Line] = []
    container_python: Line = "python"
    additional_parameters: dict[Line, Annotated[Any, AfterValidator(_without_control)]] = {}

    @classmethod
    def read(cls, path: Path) -> Profile:
        """Raises UserError that lists every fault, a line each."""
        values = files.read_settings(path, "--profile", "see slurm/cluster.example.toml")
        return checked(lambda: cls(**values), f"--profile {path}: ", lambda key: nearest(key, list(cls.model_fields)))

    @field_validator("cpus_per_gpu", "mem_per_gpu_gb")
    @classmethod
    def _not_said_twice(cls, value: int | None, info: ValidationInfo) -> int | None:
        other = {"cpus_per_gpu": "cpus_per_task", "mem_per_gpu_gb": "mem_gb"}[str(info.field_name)]
        if value is not None and info.data.get(other) is not None:
            raise ValueError(f"{other} is there too; give one of the two")
        return value


class Request(BaseModel):
    """Where every run of a submission shall run, and how many of them at once."""

    model_config = STRICT

    cluster: Literal["slurm", "local", "debug"]
    nodes: Positive = 1
    gpus_per_node: Annotated[int, Field(ge=0)] = 1  # 0: on CPUs
    tasks_per_node: Positive = 1  # processes: one a device
    profile: Profile = Profile()
    jobs: Positive | None = None  # local: runs side by side in all; None: one a device
    runs_per_gpu: Positive = 1  # local: runs side by side on one device

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a run's submission.json."""
        return self.model_dump()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "") -> Request:
        """The reverse of `to_dict`. Raises UserError, after `where`: somebody may have changed the file, or another
        version has written it."""
        return checked(lambda: cls(**values), where)


NUMBERS = (  # flags, what they are without being given, and what they mean
    ("nodes", 1, "machines for each run [1]"),
    ("gpus_per_node", None, "devices a machine; 0: none, train on its CPUs [1]"),
    ("tasks_per_node", None, "processes a machine, where gpus_per_node is 0 [1]"),
    ("jobs", None, "local: runs side by side, the CPUs shared out [one a device]"),
    ("runs_per_gpu", 1, "local: runs side by side on a GPU [1]"),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `from_options` reads."""
    group = parser.add_argument_group("where")
    group.add_argument("--cluster", choices=("auto", "slurm", "local", "debug"), default="auto",
                       help="auto: slurm where it answers, else local; debug: in this process [auto]")  # fmt: skip
    group.add_argument("--profile", metavar="FILE", help="facts of the cluster, see slurm/cluster.example.toml")
    for name, default, text in NUMBERS:
        group.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text)


def from_options(options: argparse.Namespace, printing: bool) -> Request:
    """The request, complete. Raises UserError. `printing`: nothing will be started, so SLURM need not be here."""
    gpus = 1 if options.gpus_per_node is None else options.gpus_per_node
    tasks = options.tasks_per_node or max(1, gpus)
    numbers: dict[str, Any] = {name: getattr(options, name) for name, *_ in NUMBERS}
    numbers |= {"gpus_per_node": gpus, "tasks_per_node": tasks}
    for name, value in numbers.items():
        least = 0 if name == "gpus_per_node" else 1
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
    if gpus and tasks != gpus:
        raise UserError(
            f"--tasks_per_node {tasks}: a process has one device, so it must be --gpus_per_node {gpus}; "
            "leave it out, or give --gpus_per_node 0 to train on CPUs"
        )
    profile = Profile() if options.profile is None else Profile.read(Path(options.profile).expanduser())
    cluster = options.cluster
    if cluster == "auto":  # slurm where its commands have nodes behind them
        cluster = "slurm"
        if not printing and not (shutil.which("sbatch") and (answer("sinfo", "--noheader", seconds=30) or "").strip()):
            cluster = "local"
    if cluster in ("local", "debug") and not printing and (options.nodes, tasks) != (1, 1):
        raise UserError(
            f"--cluster {cluster}: gives each run one process on one device; for {options.nodes * tasks} on this "
            f"machine, deepspeed --num_gpus {options.nodes * tasks} launch/train.py"
        )
    if cluster in ("local", "debug") and options.gpus_per_node:
        from harness import device

        if not device.available():
            raise UserError(
                f"--gpus_per_node {gpus}: no GPU can be used here; leave it out, or 0, to train on this machine's CPUs"
            )
    if cluster == "slurm" and (options.jobs is not None or options.runs_per_gpu > 1):
        raise UserError(
            "--jobs, --runs_per_gpu: are for --cluster local; on SLURM array_parallelism of the profile says how many "
            "runs go on at once, each with its devices to itself"
        )
    return Request(cluster=cluster, profile=profile, **numbers)

"""Where runs shall run: the flags of launch/submit.py that say so, and the facts of one cluster, from a TOML file.

The profile is the only place where a site differs from another.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from harness import files
from harness.config import nearest
from harness.errors import UserError
from harness.flags import Parser as Parser
from harness.validation import checked

ALWAYS_PASSED = ("HOME", "PATH", "USER", "LANG")  # beside what `environment` names
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

    def cpus(self, gpus_per_node: int) -> int | None:
        """CPUs of a process; without GPUs, a process's share is what a GPU's would be."""
        return self.cpus_per_task if gpus_per_node else self.cpus_per_task or self.cpus_per_gpu

    def memory(self, tasks_per_node: int, gpus_per_node: int) -> str | None:
        """Of a node, as sbatch's --mem; None where it is said for each GPU, or not at all."""
        if self.mem_gb is None and self.mem_per_gpu_gb is not None and not gpus_per_node:
            return f"{self.mem_per_gpu_gb * tasks_per_node}GB"
        return None if self.mem_gb is None else f"{self.mem_gb}GB"

    def sbatch_options(self, gpus_per_node: int) -> dict[str, Any]:
        """Options that submitit has no name for, or would warn of; the site's own come last and win."""
        options: dict[str, Any] = {}
        if gpus_per_node and self.cpus_per_gpu is not None:
            options["cpus-per-gpu"] = self.cpus_per_gpu
        if gpus_per_node and self.mem_per_gpu_gb is not None:
            options["mem-per-gpu"] = f"{self.mem_per_gpu_gb}GB"
        if self.environment is not None:
            names = [word for word in self.environment if "=" not in word]
            options["export"] = ",".join(dict.fromkeys((*ALWAYS_PASSED, *names)))
        return {**options, **self.additional_parameters}

    def setup_lines(self) -> list[str]:
        """Shell lines before the project's own."""
        pairs = [word.partition("=") for word in self.environment or [] if "=" in word]
        return [*(f"export {name}={shlex.quote(value)}" for name, _, value in pairs), *self.setup]

    def srun_args(self, gpus_per_node: int, mounts: Sequence[Path], code: Path) -> list[str]:
        """Options of the srun inside the job."""
        words = []
        cpus = self.cpus(gpus_per_node)
        if cpus is not None:
            words.append(f"--cpus-per-task={cpus}")  # since SLURM 22.05 srun does not inherit it
        if self.environment is not None:
            words.append("--export=ALL")  # else it repeats sbatch's --export, and what setup exports is lost
        if self.container is not None and self.container_runtime == "pyxis":
            words.append(f"--container-image={self.container}")
            words.append(f"--container-mounts={','.join(self._mounts(mounts))}")
            words.append(f"--container-workdir={code}")
        return words

    def python(self, mounts: Sequence[Path], code: Path) -> str | None:
        """The shell command that starts Python in the job; None: the one that submits."""
        if self.container is None:
            return None
        if self.container_runtime == "pyxis":
            return self.container_python
        binds = [word for mount in self._mounts(mounts) for word in ("--bind", mount)]
        words = ["apptainer", "exec", "--nv", *binds, "--pwd", str(code), self.container]
        return f"{shlex.join(words)} {self.container_python}"

    def _mounts(self, paths: Sequence[Path]) -> list[str]:
        """`from:to`; a path inside another one needs no mount of its own."""
        outer = [path for path in paths if not any(other != path and path.is_relative_to(other) for other in paths)]
        own = [mount if ":" in mount else f"{mount}:{mount}" for mount in self.container_mounts]
        return list(dict.fromkeys([*own, *(f"{path}:{path}" for path in outer)]))


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
    if cluster in ("local", "debug") and options.gpus_per_node:
        import torch

        if not torch.cuda.is_available():
            raise UserError(
                f"--gpus_per_node {gpus}: no GPU can be used here; leave it out, or 0, to train on this machine's CPUs"
            )
    if cluster == "slurm" and (options.jobs is not None or options.runs_per_gpu > 1):
        raise UserError(
            "--jobs, --runs_per_gpu: are for --cluster local; on SLURM array_parallelism of the profile says how many "
            "runs go on at once, each with its devices to itself"
        )
    return Request(
        cluster=cluster,
        nodes=options.nodes,
        gpus_per_node=gpus,
        tasks_per_node=tasks,
        profile=profile,
        jobs=options.jobs,
        runs_per_gpu=options.runs_per_gpu,
    )


def slurm_answers() -> bool:
    """Whether there is a SLURM with nodes behind this machine's commands."""
    if shutil.which("sbatch") is None:
        return False
    try:
        done = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and bool(done.stdout.strip())

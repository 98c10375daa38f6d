"""Where runs shall run: the flags of launch/submit.py that say so, and the facts of one cluster, from a TOML file.

The profile is the only place where a site differs from another.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import files
from harness.config import nearest
from harness.errors import UserError
from harness.flags import Parser as Parser

RUNTIMES = ("pyxis", "apptainer")
ALWAYS_PASSED = ("HOME", "PATH", "USER", "LANG")  # beside what `environment` names
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # characters; a line break begins another line of the batch script
EXCLUSIVE = (("cpus_per_task", "cpus_per_gpu"), ("mem_gb", "mem_per_gpu_gb"))


@dataclass(frozen=True)
class Profile:
    """Facts of one cluster; None: the cluster's default. See slurm/cluster.example.toml."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cpus_per_task: int | None = None  # a device
    cpus_per_gpu: int | None = None  # the same as sbatch's --cpus-per-gpu
    mem_gb: int | None = None  # a node
    mem_per_gpu_gb: int | None = None
    time: int = 240  # minutes
    signal_delay_s: int = 90  # the stop request comes so long before the time limit
    array_parallelism: int | None = None  # runs of a suite at once
    setup: list[str] = dataclasses.field(default_factory=list)
    environment: list[str] | None = None  # what reaches the job: NAME, or NAME=value; None: all
    container: str | None = None
    container_runtime: str = "pyxis"
    container_mounts: list[str] = dataclasses.field(default_factory=list)
    container_python: str = "python"
    additional_parameters: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Profile:
        """Raises UserError that lists every fault, a line each."""
        values = files.read_settings(path, "--profile", "see slurm/cluster.example.toml")
        faults = [f"--profile {path}: {fault}" for fault in cls._faults(values)]
        if faults:
            raise UserError("\n".join(faults))
        return cls(**values)

    @classmethod
    def _faults(cls, values: Mapping[str, Any]) -> list[str]:
        kinds = {field.name: str(field.type).split()[0] for field in dataclasses.fields(cls)}
        faults = []
        for name, value in values.items():
            if name not in kinds:
                faults.append(f"{name}: no such key{nearest(name, list(kinds))}")
            elif kinds[name] == "int" and (type(value) is not int or value < 1):
                faults.append(f"{name} = {value!r}: must be a whole number above 0")
            elif kinds[name] == "str" and not isinstance(value, str):
                faults.append(f"{name} = {value!r}: must be text in quotes")
            elif kinds[name] == "list[str]" and not _is_list_of_text(value):
                what = "shell lines" if name == "setup" else "text in quotes"
                faults.append(f"{name} = {value!r}: must be a list of {what}")
            elif name == "additional_parameters" and not isinstance(value, dict):
                faults.append(f"{name} = {value!r}: must be a table of sbatch options")
            else:
                faults += _control_characters(name, value)
        faults += [f"{one}, {other}: give one of the two" for one, other in EXCLUSIVE if {one, other} <= values.keys()]
        runtime = values.get("container_runtime", RUNTIMES[0])
        if isinstance(runtime, str) and runtime not in RUNTIMES:
            faults.append(f"container_runtime = {runtime!r}: must be one of {', '.join(RUNTIMES)}")
        return faults

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


def _control_characters(name: str, value: Any) -> list[str]:
    """Faults of a value that would break a line of the batch script; shell lines may have several lines."""
    words = value if isinstance(value, list) else [*value, *value.values()] if isinstance(value, dict) else [value]
    allowed = "\n\t" if name == "setup" else ""
    found = [word for word in words if isinstance(word, str) and set(CONTROL.findall(word)) - {*allowed}]
    return [f"{name}: {word!r} has a control character, which no line of a batch script can hold" for word in found]


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


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

"""Facts of one cluster, from a TOML file: the only place where a site differs from another."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import UserError
from harness.config import nearest


@dataclass(frozen=True)
class Profile:
    """Facts of one cluster, from a TOML file; None: the cluster's default. See slurm/cluster.example.toml."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cpus_per_task: int | None = None  # a device
    mem_gb: int | None = None  # a node
    time: int = 240  # minutes
    signal_delay_s: int = 90  # the stop request comes so long before the time limit
    setup: list[str] = dataclasses.field(default_factory=list)
    additional_parameters: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Profile:
        """Raises UserError that lists every fault, a line each."""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--profile {path}: cannot be read ({error}); see slurm/cluster.example.toml") from error
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"--profile {path}: not TOML ({error})") from error
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
            elif name == "setup" and not (isinstance(value, list) and all(isinstance(line, str) for line in value)):
                faults.append(f"{name} = {value!r}: must be a list of shell lines")
            elif name == "additional_parameters" and not isinstance(value, dict):
                faults.append(f"{name} = {value!r}: must be a table of sbatch options")
        return faults

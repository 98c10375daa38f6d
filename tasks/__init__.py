"""What is particular to benchmarks: their tasks by name, and custom tasks by their definitions."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.task import Task, UserError
from tasks import definition as definitions
from tasks import old_names
from tasks.faults import unknown

__all__ = ["SUITES", "TASKS", "get", "is_sample", "resolve", "sample_dir"]

Definition = Mapping[str, Any]  # of a custom task, see tasks/definition.py

FOLDER = Path(__file__).parent
SUITES: Mapping[str, tuple[str, ...]] = {
    name: tuple(members) for name, members in tomllib.loads((FOLDER / "suites.toml").read_text()).items()
}
TASKS: Mapping[str, Task] = {name: definitions.shipped(f"blue/{name}.toml") for name in SUITES["blue"]}


def resolve(name: str, data_dir: Path | None, definition: Definition | None = None) -> str:
    """The name of a task in TASKS, or that of the definition; capitals and hyphens do not matter.

    `bc5cdr`, as the original spelled both of its tasks, takes the entity type from the name of the data folder, else
    from the mentions in its files. With a definition the name may be left empty. Raises UserError for a name that is
    not known or not the definition's, and for `bc5cdr` where neither decides.
    """
    plain = name.strip().lower().replace("-", "_")
    if definition is not None:
        defined = str(definition["name"])
        if plain not in ("", defined):
            raise UserError(f"--task {name}: the task file defines {defined}; leave --task out")
        return defined
    if plain in TASKS:
        return plain
    if plain != old_names.OLD_NAME:
        raise unknown("task", name, TASKS)
    reason = "there is no data folder"
    if data_dir is not None:
        kind = old_names.kind_in(data_dir, TASKS["bc5cdr_disease"].filenames.values())
        if kind is not None:
            return f"{plain}_{kind}"
        folder = data_dir.absolute().name.lower()
        reason = f"neither the name of the data folder, {folder!r}, nor the mentions in its files say"
    raise UserError(f"task {name!r}: disease or chemical? {reason}; use bc5cdr_disease or bc5cdr_chem")


def get(name: str, definition: Definition | None = None) -> Task:
    """The task of that name; with a definition the one that it defines. Raises UserError that names the nearest one."""
    if definition is not None:
        return definitions.build(definition)
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def sample_dir(name: str) -> Path:
    """The folder of the made-up sample data of a task."""
    return FOLDER / "samples" / get(name).name


def is_sample(name: str, folder: Path) -> bool:
    """Whether that is the folder of the task's sample data; custom tasks have none."""
    return name in TASKS and folder.resolve() == sample_dir(name).resolve()

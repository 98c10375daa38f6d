"""What is particular to BLUE: the ten tasks by name, and tasks of the user's own by their definitions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.task import Task, UserError
from tasks import bc5cdr, biosses, chemprot, clefe, ddi2013, hoc, i2b2_2010, mednli, medsts, own
from tasks.names import unknown

__all__ = ["TASKS", "get", "is_sample", "resolve", "sample_dir"]

Definition = Mapping[str, Any]  # of a task of the user's own, see tasks/own.py

TASKS: Mapping[str, Task] = {
    "medsts": medsts.TASK,
    "biosses": biosses.TASK,
    "bc5cdr_disease": bc5cdr.DISEASE,
    "bc5cdr_chem": bc5cdr.CHEMICAL,
    "clefe": clefe.TASK,
    "ddi2013": ddi2013.TASK,
    "chemprot": chemprot.TASK,
    "i2b2_2010": i2b2_2010.TASK,
    "hoc": hoc.TASK,
    "mednli": mednli.TASK,
}


def resolve(name: str, data_dir: Path | None, definition: Definition | None = None) -> str:
    """The name of a task in TASKS, or that of the definition; capitals and hyphens do not matter.

    `bc5cdr`, as the original spelled both of its tasks, takes the entity type from the name of the data folder, else
    from the mentions in its files. With a definition the name may be left empty. Raises UserError for a name that is
    not known or not the definition's, and for `bc5cdr` where neither decides.
    """
    plain = name.strip().lower().replace("-", "_")
    if definition is not None:
        own_name = str(definition["name"])
        if plain not in ("", own_name):
            raise UserError(f"--task {name}: the task file defines {own_name}; leave --task out")
        return own_name
    if plain in TASKS:
        return plain
    if plain != "bc5cdr":
        raise unknown("task", name, TASKS)
    folder = "" if data_dir is None else data_dir.absolute().name.lower()
    kinds = [kind for kind in ("disease", "chem") if kind in folder]
    if len(kinds) != 1 and data_dir is not None:
        kinds = [kind for kind in [bc5cdr.kind_in(data_dir)] if kind is not None]
    if len(kinds) != 1:
        reason = "there is no data folder"
        if data_dir is not None:
            reason = f"neither the name of the data folder, {folder!r}, nor the mentions in its files say"
        raise UserError(f"task {name!r}: disease or chemical? {reason}; use bc5cdr_disease or bc5cdr_chem")
    return f"bc5cdr_{kinds[0]}"


def get(name: str, definition: Definition | None = None) -> Task:
    """The task of that name; with a definition the one that it defines. Raises UserError that names the nearest one."""
    if definition is not None:
        return own.build(definition)
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def sample_dir(name: str) -> Path:
    """The folder of the made-up sample data of a task."""
    return Path(__file__).parent / "samples" / get(name).name


def is_sample(name: str, folder: Path) -> bool:
    """Whether that is the folder of the task's sample data; tasks of the user's own have none."""
    return name in TASKS and folder.resolve() == sample_dir(name).resolve()

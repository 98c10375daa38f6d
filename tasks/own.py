"""Tasks of the user's own: a TOML file in place of code, for the families that the ten tasks are of.

    name = "symptoms"                   # of run folders and columns
    family = "multiclass"               # or similarity, tagging, multilabel
    metric = "micro F1"
    labels = ["none", "mild", "severe"]
    negative = "none"
    [columns]
    sentence = "text"                   # a name in the header of the files, or a column's number
    label = "degree"

docs/custom_tasks.md has whole examples, and the table of all keys. A checked file is a definition: plain values, every
default filled in, so that two files that mean the same are the same. It travels in a run's settings.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from harness.files import LFS_POINTER, MOST_DOTS
from harness.task import Example, Task, UserError
from tasks import conll, multiclass, multilabel, similarity, tagging
from tasks.own_keys import FAMILIES, TAG_COLUMNS, check, columns_of, header_of
from tasks.tables import Layout, locate

__all__ = ["build", "read", "text", "text_columns"]

LARGEST_FILE = 100_000  # bytes


def read(path: Path) -> tuple[dict[str, Any], Path | None]:
    """(definition, data folder where the file names one). Raises UserError that lists every fault, a line each."""
    where = " ".join(str(path).splitlines())
    try:
        if not path.is_file():
            raise UserError(f"--task_file {where}: no such file; name a TOML file that defines a task")
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"--task_file {where}: larger than {LARGEST_FILE} bytes; name a TOML file, not the data")
        content = path.read_text(encoding="utf-8-sig")
        if content.startswith(LFS_POINTER.decode()):
            raise UserError(
                f"--task_file {where}: is a Git LFS pointer, not the file; run `git lfs pull` in its folder"
            )
        if max((line.count(".") for line in content.splitlines()), default=0) > MOST_DOTS:
            raise UserError(f"{where}: a line of more than {MOST_DOTS} dots; no key and no value needs so many")
        values = tomllib.loads(content)
    except OSError as error:
        raise UserError(f"--task_file {where}: cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: not TOML ({reason}); docs/custom_tasks.md has files to start from") from None
    folder = values.pop("data_dir", None)
    definition = check(values, where)
    if folder is None:
        return definition, None
    if not isinstance(folder, str) or not folder.strip() or not folder.isprintable():
        raise UserError(f"{where}: key data_dir: no folder's name; write it in quotes, relative to this file")
    return definition, Path(os.path.normpath(path.absolute().parent / os.path.expanduser(folder)))


def text(definition: Mapping[str, Any], data_dir: str | None = None) -> str:
    """A task file of that meaning; `read` gives the same definition back."""
    named = {"data_dir": data_dir} if data_dir is not None and data_dir.isprintable() else {}
    plain = {name: value for name, value in definition.items() if not isinstance(value, dict)}
    lines = [f"{name} = {_toml(value)}" for name, value in (plain | named).items()]
    for table in (name for name in definition if name not in plain):
        lines += ["", f"[{table}]", *(f"{name} = {_toml(value)}" for name, value in definition[table].items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """JSON of printable text, numbers and lists is TOML too; tables are written in one line."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{name} = {_toml(one)}' for name, one in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)


def build(definition: Mapping[str, Any], where: str = "own_task") -> Task:
    """The task. Raises UserError where somebody has changed the definition to one that is none."""
    labels = definition.get("labels")
    if definition.get("family") == "tagging" and isinstance(labels, list) and len(labels) > 1:
        definition = {"collapse_types": True, **definition}  # what runs of before that key meant; `read` asks for it
    given = check(definition, where)
    family, files = given["family"], given["files"]
    common: dict[str, Any] = {"name": given["name"], "filenames": files}
    score_key = FAMILIES[family].metrics[given["metric"]]
    if family == "tagging":
        forms = {split: _form({**given, "columns": columns_of(given, split)}) for split in files}
        reader = partial(_read_tags, files=files, forms=forms)
        return tagging.task(**common, read=reader, form=forms["test"], train_splits=("train",))
    layout = Layout(
        {split: columns_of(given, split) for split in files}, {split: header_of(given, split) for split in files}
    )
    if family == "similarity":
        return similarity.task(**common, read=partial(_read_pairs, files=files, layout=layout))
    labels = tuple(given["labels"])
    if family == "multilabel":
        read_labels = partial(_read_label_sets, files=files, layout=layout, labels=labels)
        return multilabel.task(**common, read=read_labels, labels=labels, score_key=score_key)
    read_classes = partial(_read_classes, files=files, layout=layout, labels=labels)
    negative = given.get("negative")
    return multiclass.task(**common, read=read_classes, labels=labels, negative=negative, score_key=score_key)


def text_columns(definition: Mapping[str, Any]) -> tuple[str, ...]:
    """What the task's examples are made of: sentence, or sentence1 and sentence2."""
    return tuple(name for name in columns_of(definition, "train") if name.startswith("sentence")) or ("sentence",)


def _form(definition: Mapping[str, Any]) -> conll.Form:
    word, tag = (definition["columns"][name] - 1 for name in TAG_COLUMNS)
    return conll.Form(
        word,
        tag,
        blanks=definition["separator"] == "blanks",
        comment=definition.get("comment"),
        kinds=tuple(definition["labels"]),
        ignored=tuple(definition["ignored"]),
        plain=not definition["labels"],
        scheme=definition.get("scheme", "auto"),
        longest=definition["longest_sentence"],
    )


# Module functions, not closures: a task can be pickled.
def _read_tags(data_dir: Path, split: str, files: Mapping[str, str], forms: Mapping[str, conll.Form]) -> list[Example]:
    others = {data_dir / name: forms[other] for other, name in files.items() if other != split}
    return conll.read_sentences(locate(data_dir, split, files), split, forms[split], others)


def _read_pairs(data_dir: Path, split: str, files: Mapping[str, str], layout: Layout) -> list[Example]:
    return similarity.read_own(locate(data_dir, split, files), split, layout)


def _read_classes(
    data_dir: Path, split: str, files: Mapping[str, str], layout: Layout, labels: tuple[str, ...]
) -> list[Example]:
    return multiclass.read_own(locate(data_dir, split, files), split, labels, layout)


def _read_label_sets(
    data_dir: Path, split: str, files: Mapping[str, str], layout: Layout, labels: tuple[str, ...]
) -> list[Example]:
    return multilabel.read_own(locate(data_dir, split, files), split, labels, layout)

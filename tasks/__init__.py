"""What is particular to benchmarks: their tasks by name, and custom tasks by their definitions."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from harness.task import Task, UserError
from harness.validation import unknown
from tasks import definition as definitions
from tasks import published
from tasks.readers import Layout

Definition = Mapping[str, Any]  # of a custom task, see tasks/definition.py

FOLDER = Path(__file__).parent
_SUITES: Mapping[str, Any] = tomllib.loads((FOLDER / "suites.toml").read_text())
SUITES: Mapping[str, tuple[str, ...]] = {
    name: tuple(suite["tasks"] if isinstance(suite, dict) else suite) for name, suite in _SUITES.items()
}
# Suite -> the groups that its total is the mean of; none where each of its tasks counts alike.
TOTALS: Mapping[str, dict[str, tuple[str, ...]]] = {
    name: {group: tuple(of) for group, of in suite.get("total", {}).items()}
    for name, suite in _SUITES.items()
    if isinstance(suite, dict)
}
BLUE = SUITES["blue"]  # what a table without a suite of its own is of
_FILES = {path.stem: path for path in sorted(definitions.SHIPPED.glob("*/*.toml"))}
_SHIPPED = {name: definitions.shipped(_FILES[name]) for name in dict.fromkeys(chain(*SUITES.values(), _FILES))}
# All that ship: in the order of suites, then those of none.
TASKS: Mapping[str, Task] = {name: shipped.task() for name, shipped in _SHIPPED.items()}

# As the original's command lines spelled two tasks, and how the last word of a mention of each ends: that decides for
# over half of the published mentions, for one in a hundred wrongly.
BC5CDR = "bc5cdr"
ENDINGS: Mapping[str, re.Pattern[str]] = {
    "disease": re.compile(
        r".*(itis|emia|osis|oses|omas?|path(y|ies)|algia|ache|trophy|penia|spasms?|tension|tensive|cardia|toxicity|"
        r"uria|edema|kinesias?|malacia|rrhag(e|ia)|pain|failure|diseases?|syndromes?|disorders?|cancers?|tumou?rs?|"
        r"seizures?|fever|injur(y|ies)|infections?|infarction|dysfunction|damage|death|stroke|nausea|vomiting|"
        r"depression|bleeding|inflammation|ulcers?|rash|epilepsy|diabetes|asthma|migraine)"
    ),
    "chem": re.compile(r".{2,}(ine|ide|ate|ol|one|ium|am|in|en|vir|mab|azole|pril|acid)|acid"),
}
A_FEW, TIMES = 3, 5  # of one kind there must be at least so many, and so many times more than of the other


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
    if plain != BC5CDR:
        raise unknown("task", name, TASKS)
    reason = "there is no data folder"
    if data_dir is not None:
        folder = data_dir.absolute().name.lower()
        kinds = [kind for kind in ENDINGS if kind in folder]
        kind = kinds[0] if len(kinds) == 1 else _kind_of_mentions(data_dir)
        if kind is not None:
            return f"{plain}_{kind}"
        reason = f"neither the name of the data folder, {folder!r}, nor the mentions in its files say"
    raise UserError(f"task {name!r}: disease or chemical? {reason}; use bc5cdr_disease or bc5cdr_chem")


def _kind_of_mentions(data_dir: Path) -> str | None:
    """disease | chem: what is tagged in a folder's files, which have the same text in both; None if not clear."""
    names = TASKS["bc5cdr_disease"].filenames.values()
    try:
        path = next(data_dir / name for name in names if (data_dir / name).is_file())
        lines = path.read_text(encoding="utf-8", errors="replace").lower().splitlines()
    except (OSError, StopIteration):
        return None
    mentions: list[list[str]] = []  # the cells of the last word of each
    inside = False
    for cells in map(str.split, lines):
        tag = cells[-1] if len(cells) > 1 else "o"
        inside = tag.startswith("b") or (inside and tag.startswith("i"))
        if tag.startswith("b"):
            mentions.append(cells)
        elif inside:
            mentions[-1] = cells
    found: Counter[str] = Counter()
    for word, *_, tag in mentions:
        typed = [kind for kind in ENDINGS if kind in tag]  # b-disease
        by_ending = [kind for kind, ending in ENDINGS.items() if ending.fullmatch(word)]
        found.update((typed or by_ending)[:1])
    for kind, other in (("disease", "chem"), ("chem", "disease")):
        if found[kind] >= max(A_FEW, TIMES * found[other]):
            return kind
    return None


def get(name: str, definition: Definition | None = None) -> Task:
    """The task of that name; with a definition the one that it defines. Raises UserError that names the nearest one."""
    if definition is not None:
        return definitions.build(definition)
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def marks_mentions(task: Task) -> bool:
    """Whether two mentions are marked, as `@TYPE$` or `[S1]`: in shipped tasks of format blue-relations."""
    return is_shipped(task) and facts(task.name).get("format") == "blue-relations"


def is_shipped(task: Task) -> bool:
    """Whether it is no custom one, which may have the name of a shipped one of another benchmark than BLUE."""
    return TASKS.get(task.name) is task


def has_pairs(task: Task) -> bool:
    """Whether its examples are pairs of texts."""
    layout = task.layout("train")
    return isinstance(layout, Layout) and layout.has_pairs


def recipe_for(model: str, name: str, definition: Definition | None = None) -> str:
    """The recipe of an encoder for the task of that name, or for the definition."""
    return published.recipe_for(model, name if definition is None else published.LIKE[definition["family"]])


def facts(name: str, definition: Definition | None = None) -> Definition:
    """What defines the task of that name; the definition where there is one."""
    return _SHIPPED[get(name).name].values() if definition is None else definition


def digest(name: str, definition: Definition | None = None) -> str:
    """SHA-256 of what defines the task of that name, or of the definition."""
    return definitions.digest(facts(name, definition))


def defaults(recipe: str, name: str, definition: Definition | None = None) -> dict[str, Any]:
    """The configuration of a task under a recipe, by flag name. Raises UserError for an unknown recipe or task.

    Of a task that the recipe has no settings for, and of every custom one: those for a task of the same family, and
    what the definition itself says in place of them.
    """
    own, like = facts(name, definition).get("recipe", {}), like_of(recipe, name, definition)
    return published.over(published.defaults(recipe, like, own), {} if like == name else own)


def like_of(recipe: str, name: str, definition: Definition | None = None) -> str:
    """The task whose settings a recipe takes for that of this name, or of the definition: itself where it has some."""
    return published.like(recipe, "" if definition else name, facts(name, definition)["family"])


def sample_dir(name: str) -> Path:
    """The folder of the made-up sample data of a task."""
    return FOLDER / "samples" / get(name).name


def is_sample(name: str, folder: Path) -> bool:
    """Whether that is the folder of the task's sample data; custom tasks have none."""
    return name in TASKS and folder.resolve() == sample_dir(name).resolve()

"""Seeded damage to run folders: what kills, full disks, other programs and ill will leave in place of their files."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fuzzing import damaged

RECORDS = ("config.json", "result.json", "submission.json", "attempt.json")
OTHERS = ("metrics.jsonl", "train.log", "predictions/test.tsv", "predictions/test_probabilities.tsv")
DEEP = "[" * 5000 + "]" * 5000
DEEPER = '{"a":' * 150 + "1" + "}" * 150  # parsers take it
VALUES: Sequence[str] = (
    "null", "true", "[]", "{}", '""', '"x"', "-1", "0", "3", "1.5", "1" + "0" * 400, "-1e308", "1e999", "NaN",
    "-Infinity", "1" * 5000, '"\\u0000"', '"\\ud800"', '"\\u001b[2J\\u001b]0;x\\u0007"', '"=1+1"', '"a\\nb"', "[null]",
    '[["x"], 1]', '{"": {}}', '"' + "x" * 100_000 + '"', DEEP, DEEPER, '"../../etc"', '"--user=root"', '"[/bold]"',
)  # fmt: skip


def one_value(rng: random.Random, path: Path) -> str:
    """Another value, of any type, at any level of a JSON file; or a name more, or one less."""
    if path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        number = rng.randrange(len(lines))
        lines[number], what = _changed(rng, lines[number])
        path.write_text("\n".join(lines) + "\n")
    else:
        text, what = _changed(rng, path.read_text())
        path.write_text(text)
    return what


def _changed(rng: random.Random, text: str) -> tuple[str, str]:
    whole = json.loads(text)
    places = list(_places(whole))
    parent, key = rng.choice(places)
    kind = rng.choice(("value", "value", "value", "value", "less", "more"))
    value = rng.choice(VALUES)
    if kind == "less":
        del parent[key]
    elif kind == "more" and isinstance(parent, dict):
        parent[rng.choice(("later", "", "\x1b[31m", "score", "own_task", "x" * 5000))] = "@@"
    else:
        parent[key] = "@@"
    return json.dumps(whole).replace('"@@"', value), f"{kind} at {key}: {value[:40]}"


def _places(value: Any) -> list[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((value, key), *_places(inner))]


def scrambled(rng: random.Random, path: Path) -> str:
    what, content = damaged(str(rng.random()), path.read_bytes())
    path.write_bytes(content)
    return what


def garbage(rng: random.Random, path: Path) -> str:
    path.write_bytes(rng.randbytes(rng.choice((1, 100, 5000))))
    return "garbage"


def another_kind(rng: random.Random, path: Path) -> str:
    """Something else of the same name."""
    path.unlink()
    kind = rng.choice(("folder", "pipe", "link to nothing", "link to itself", "nothing", "unreadable"))
    if kind == "folder":
        (path / "result.json").mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind.startswith("link"):
        path.symlink_to(path if kind.endswith("itself") else path.with_name("gone"))
    elif kind == "unreadable":
        path.touch(0o000)
    return kind


Damage = Callable[[random.Random, Path], str]


def damage(seed: int, pristine: Path, folder: Path) -> str:
    """A damaged copy of a run folder; returns what was done. The same for the same seed."""
    rng = random.Random(seed)
    shutil.copytree(pristine, folder)
    name = rng.choice([name for name in (*RECORDS, *RECORDS, *OTHERS) if (folder / name).exists()])
    path = folder / name
    kinds: tuple[Damage, ...] = (one_value, one_value, one_value) if path.suffix in (".json", ".jsonl") else ()
    return f"{name}: {rng.choice((*kinds, scrambled, garbage, another_kind))(rng, path)}"

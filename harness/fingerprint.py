"""fingerprint.json: what a run's settings point to, so that no other content is ever taken for it.

Files are known by their SHA-256 and by their names inside their folders: the same content under another path is the
same run. The record is made at a run's first start; from its first checkpoint or figures on it is compared with.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from harness import files, pretrained
from harness.config import RunConfig
from harness.errors import UserError
from harness.model_folder import HEAD_FILE
from harness.pretrained import JSON_FILES, VOCABULARIES, WEIGHTS, Source
from harness.run_folder import RunFolder, has_line

SCHEMA = 1
COMMIT = "commit"  # beside the digests of a hub model's files
INPUTS = ("data", "tokenizer", "weights")
RECORDED = {**dict.fromkeys((*INPUTS, "ds_config", "versions"), dict), "precision": str, "changes": list}

Digest = Callable[[Path], str]


def sha256(path: Path) -> str:
    """Of a file's bytes. Raises UserError where it cannot be read."""
    try:
        return files.sha256(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


@dataclass(frozen=True)
class Input:
    """What a run reads of one kind."""

    kind: str  # data | tokenizer | weights (and their config.json)
    settings: tuple[str, ...]  # of RunConfig, that name it; the one that counts first
    named: str  # as `--data_dir X`
    files: Mapping[str, Path]  # that are there, by split or by name
    commit: str | None = None  # of a model of the hub

    def digests(self) -> dict[str, str]:
        """As recorded."""
        kept = {name: sha256(path) for name, path in self.files.items()}
        return kept if self.commit is None else {COMMIT: self.commit, **kept}

    def changed(self, recorded: Mapping[str, str], digest: Digest = sha256) -> str | None:
        """The name of a file that is not what was recorded; None where all are."""
        of_the_hub = self.commit is not None or COMMIT in recorded
        if of_the_hub and recorded.get(COMMIT) == self.commit:
            return None
        names = recorded.keys() & self.files.keys()
        if self.kind != "data" and self.files and not of_the_hub:  # the hub's cache has what was asked for alone
            # Without one of its files a tokenizer is made of the others; weights that are gone are missed when loaded.
            names = self.files.keys() | (recorded.keys() if self.kind == "tokenizer" else set())
        for name in sorted(names):
            path = self.files.get(name)
            if path is None or digest(path) != recorded.get(name):
                return name if path is None else path.name
        return None


def tokenizer(config: RunConfig) -> Input:
    """The files that the tokenizer is made of."""
    source = pretrained.source(config, "tokenizer_name")
    place, commit = _place(source)
    names = ("tokenizer_name", "model_name_or_path", "revision")
    return Input("tokenizer", names, _named(source), _there(place, (*JSON_FILES, *VOCABULARIES)), commit)


def weights(config: RunConfig) -> Input:
    """The encoder: the weights that are loaded, its config.json, and the code that comes with it where that is run."""
    source = pretrained.source(config)
    place, commit = _place(source)
    found = _there(place, ("config.json", HEAD_FILE, *_weights(place)))
    if place is not None and config.trust_remote_code:
        found |= {path.name: path for path in sorted(place.glob("*.py"))}
    if config.config_name:
        path = Path(config.config_name)
        other = path if path.is_file() else (_place(pretrained.source(config, "config_name"))[0] or path) / path.name
        found |= {"config.json": other if other.is_file() else other.with_name("config.json")}
    names = ("model_name_or_path", "config_name", "revision")
    return Input("weights", names, _named(source), found, commit)


def fetch(config: RunConfig) -> None:
    """Have the weights of a hub model in the cache, from which they will be loaded. Raises UserError."""
    source = pretrained.source(config)
    if source.folder is None:
        file = next((name for name in WEIGHTS if source.path(name) is not None), "")
        for part in _parts(source.path(file)) if file.endswith(".index.json") else ():
            source.path(part)


def _named(source: Source) -> str:
    return f"{source.flag} {source.name}"


def _place(source: Source) -> tuple[Path | None, str | None]:
    """(the folder with a model's files, the commit of a hub model). The hub itself is not asked, only its cache."""
    if source.folder is not None or Path(source.name).is_absolute():
        return source.folder, None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from harness.hub import FILES  # with torch, which takes seconds

    options = source.options
    for name in FILES:
        try:
            found = try_to_load_from_cache(
                source.name, name, options.get("cache_dir"), revision=options.get("revision")
            )
        except HFValidationError:  # the path of a folder that is gone
            break
        if isinstance(found, str):
            return Path(found).parent, Path(found).parent.name
    return None, None


def _there(place: Path | None, names: tuple[str, ...]) -> dict[str, Path]:
    return {} if place is None else {name: place / name for name in names if (place / name).is_file()}


def _weights(place: Path | None) -> tuple[str, ...]:
    """The names of the files that weights are loaded from."""
    file = next(iter(_there(place, WEIGHTS).values()), None)
    return () if file is None else (file.name, *(_parts(file) if file.name.endswith(".index.json") else ()))


def _parts(index: Path | None) -> list[str]:
    """The files that an index names; none where it cannot be read, which is said when weights are loaded."""
    try:
        return sorted(set(json.loads((index or Path()).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def begun(folder: RunFolder) -> bool:
    """Whether anything was computed from the inputs yet: before that, other ones may still take their place."""
    return folder.result.is_file() or any(folder.checkpoints.glob("step-*")) or has_line(folder.metrics)


def read(folder: RunFolder) -> dict[str, Any] | None:
    """What was recorded; None of a run that began before there were records. Raises UserError for a damaged one."""
    path = folder.fingerprint
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, getattr(error, "strerror", None) or "not JSON") from error
    if not isinstance(values, dict):
        raise _damaged(path, "no JSON object")
    if values.get("schema") != SCHEMA:
        raise _damaged(path, f"its schema is {str(values.get('schema'))[:20]}, this version knows {SCHEMA}")
    for name, kind in RECORDED.items():
        if not isinstance(values.get(name), kind):
            raise _damaged(path, f"{name} is missing or of another kind")
    return values


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}:1: not a run's fingerprint ({why}); name another --output_dir, or remove the file to go on without "
        "knowing whether the inputs are those of the first start"
    )


def write(folder: RunFolder, values: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    files.write(folder.fingerprint, json.dumps({"schema": SCHEMA, **values}, indent=2) + "\n")


def changes(before: Any, now: Any, name: str = "") -> Iterator[dict[str, Any]]:
    """{"name", "before", "now"} of every value that differs; those in tables as `table.name`."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**before, **now}:
            yield from changes(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield {"name": name, "before": before, "now": now}


@functools.cache
def versions() -> dict[str, str]:
    """What a score may depend on beside the settings."""
    packages = ("torch", "deepspeed", "transformers", "tokenizers", "scipy", "scikit-learn", "wandb")
    found = {"python": sys.version.split()[0]}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def commit() -> str | None:
    """The commit of the code that runs, with `+changes` where the tree differs; of an installed package its version
    (`v0.1.0`); None where nothing tells.

    A submitted run runs from a copy of the code, which names its commit in files of its own (`launch/jobs/job.py`).
    """
    here = Path(__file__).resolve().parent.parent
    if (here / "COMMIT").is_file():
        changed = (here / "changes.diff").is_file() and (here / "changes.diff").stat().st_size > 0
        return (here / "COMMIT").read_text(encoding="utf-8").strip() + ("+changes" if changed else "")
    if not (here / ".git").exists():
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f"v{metadata.version('blue-harness')}"
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return None
    return done.stdout.strip() if done.returncode == 0 else None

"""Token ids of a split, kept from one run to the next beside the data that they were made of.

The original's cache was named by model and length alone and gave old features for new data; here a file's name is a
hash of everything that token ids depend on, so that a stale one is never read, and a file holds a digest of its
content, so that a damaged one is not either. Token ids can be turned back into text: they stay in the data's own
folder, for the owner only, and go away with it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import tokenizers
import torch
from safetensors.torch import save

from harness import files
from harness.task import Encoded, Example

FOLDER = ".features"
NOWHERE = "none"  # --feature_cache none
FORMAT = 2  # of the file
DIGEST = "sha256"  # in the file's header
WORTH = 500  # examples; fewer are tokenised at once

logger = logging.getLogger("harness.token_cache")


def place(data_dir: Path, wanted: str | None) -> Path | None:
    """The folder of the cache: `wanted`, else inside the data folder; None where there is to be none."""
    if wanted is not None:
        return None if wanted == NOWHERE else Path(wanted)
    try:  # root may write everywhere; a folder without the owner's write bit is meant to stay as it is
        writable = data_dir.stat().st_mode & stat.S_IWUSR and os.access(data_dir, os.W_OK)
    except OSError:
        writable = False
    return data_dir / FOLDER if writable else None


def encode(
    make: Callable[[Sequence[Example], Any, int], Encoded],
    examples: Sequence[Example],
    tokenizer: Any,
    max_seq_length: int,
    folder: Path | None,
) -> Encoded:
    """`make(examples, tokenizer, max_seq_length)`, from the cache where it is there, and put there where it is not.

    Several processes may do so at once. A damaged file is made anew; one that cannot be written is not.
    """
    if folder is None or len(examples) < WORTH:
        return make(examples, tokenizer, max_seq_length)
    file = folder / f"{_key(make, examples, tokenizer, max_seq_length)}.safetensors"
    try:
        if file.is_file():
            return _read(file, len(examples))
    except Exception as error:  # of as many kinds as there are ways to damage a file
        logger.warning("features %s: cannot be used (%s); made anew", file, type(error).__name__)
    encoded = make(examples, tokenizer, max_seq_length)
    try:
        _write(file, encoded)
    except OSError as error:
        logger.warning("features %s: cannot be kept (%s); --feature_cache names another folder", folder, error.strerror)
    return encoded


def _key(make: Callable[..., Encoded], examples: Sequence[Example], tokenizer: Any, max_seq_length: int) -> str:
    """Settings, all code that may have a part in tokenising, the whole of the tokenizer's state, and the examples."""
    backend: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    backend |= {"truncation": None, "padding": None}  # left over from its last call
    kind, place = type(tokenizer), type(tokenizer).__module__
    # Of a checkpoint's own code no version tells.
    code = "" if place.startswith("transformers.") else _sources(place.rpartition(".")[0] or place)
    parts = [
        *(FORMAT, sys.version, tokenizers.__version__, metadata.version("transformers"), max_seq_length),
        *(_sources(__name__.partition(".")[0]), *_named(make)),
        *(place, kind.__qualname__, code),
        *(backend, tokenizer.model_input_names, tokenizer.truncation_side, tokenizer.split_special_tokens),
        *((example.texts, example.label) for example in examples),
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:32]


def _named(value: Any) -> Iterator[Any]:
    """A function by its name and the sources of its package, any file of which it may call, and a task's also by its
    labels, which are kept as numbers; else the value itself."""
    if isinstance(value, functools.partial):
        for part in (value.func, *value.args, *(item for pair in sorted(value.keywords.items()) for item in pair)):
            yield from _named(part)
    elif hasattr(value, "__qualname__"):
        yield from (value.__module__, value.__qualname__, _sources(value.__module__.partition(".")[0]))
        yield getattr(getattr(value, "__self__", None), "labels", ())
    else:
        yield value


def _sources(package: str) -> str:
    """Digest of all Python files of an imported package, or of the file of a module that is in none."""
    module = sys.modules[package]
    files = [path for folder in getattr(module, "__path__", ()) for path in sorted(Path(folder).rglob("*.py"))]
    digest = hashlib.sha256()
    for path in files or [Path(str(module.__file__))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _write(file: Path, encoded: Encoded) -> None:
    arrays: dict[str, np.ndarray] = {}
    for each in fields(Encoded):
        rows = getattr(encoded, each.name)
        if rows is None:
            continue
        if len(rows) and np.ndim(rows[0]):
            arrays[f"{each.name}.ends"] = np.cumsum([len(row) for row in rows], dtype=np.int64)
            rows = [number for row in rows for number in row]
        array = np.asarray(rows)
        arrays[each.name] = array.astype(np.float64 if array.dtype.kind == "f" else np.int32)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write(file, save(tensors, {DIGEST: _digest(arrays)}))


def _read(file: Path, examples: int) -> Encoded:
    """Raises an error of any kind where the file is not as it was written."""
    with safetensors.safe_open(file, framework="pt") as kept:
        written = (kept.metadata() or {}).get(DIGEST)
        arrays = {name: kept.get_tensor(name).numpy() for name in kept.keys()}  # noqa: SIM118
    if written != _digest(arrays):
        raise ValueError(file)
    found: dict[str, Any] = dict.fromkeys(field.name for field in fields(Encoded))
    for name in found.keys() & arrays.keys():
        values, ends = arrays[name], arrays.get(f"{name}.ends")
        rows = () if ends is None else pairwise((0, *ends.tolist()))
        found[name] = values.tolist() if ends is None else [values[start:end] for start, end in rows]
    encoded = Encoded(**found)
    if len(encoded) != examples:
        raise ValueError(file)
    return encoded


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

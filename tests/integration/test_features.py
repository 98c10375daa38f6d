"""The cache of token ids: never stale, never torn, for the owner only, and of no consequence for a number."""

from __future__ import annotations

import dataclasses
import importlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import tokenizer_for
from running import arguments, cut, run
from safetensors.torch import save

import tasks
from harness import data, token_cache
from harness.task import Encoded, Example

FAMILIES = ("mednli", "chemprot", "hoc", "biosses", "bc5cdr_disease")


def sample(task: str) -> list[Example]:
    """Enough examples to be worth a file."""
    rows = tasks.get(task).read(tasks.sample_dir(task), "train")
    return (rows * (token_cache.WORTH // len(rows) + 1))[: token_cache.WORTH]


def counted(task: str) -> tuple[Callable[..., Encoded], list[int]]:
    """The task's features, and a list that grows by one a call. A partial, as multi-class tasks have it."""
    calls: list[int] = []
    return partial(_counting, inner=tasks.get(task).features, calls=_Silent(calls)), calls


class _Silent:
    """A list that does not count as a setting."""

    def __init__(self, calls: list[int]) -> None:
        self.calls = calls

    def __repr__(self) -> str:
        return "calls"


def _counting(rows: Sequence[Example], tokenizer: Any, length: int, inner: Any, calls: _Silent) -> Encoded:
    calls.calls.append(len(rows))
    return inner(rows, tokenizer, length)


@pytest.mark.parametrize("task", FAMILIES)
def test_what_comes_back_is_what_was_made(task: str, tmp_path: Path) -> None:
    make, calls = counted(task)
    rows, tokenizer = sample(task), tokenizer_for("bert")
    first, again = (token_cache.encode(make, rows, tokenizer, 32, tmp_path) for _ in range(2))
    assert calls == [len(rows)]
    for name in ("input_ids", "token_type_ids", "labels", "positions", "words"):
        made, kept = getattr(first, name), getattr(again, name)
        assert (made is None) == (kept is None)
        if made is not None:
            assert [np.asarray(row).tolist() for row in made] == [np.asarray(row).tolist() for row in kept], name
    for chosen in ([0], [3, 499, 7], list(range(100))):
        ours, theirs = data.collate(again, chosen, 0), data.collate(first, chosen, 0)
        for each in dataclasses.fields(ours):
            one, other = getattr(ours, each.name), getattr(theirs, each.name)
            assert one.dtype == other.dtype and one.equal(other) if hasattr(one, "equal") else one == other
    joined, plain = data.join([again, again]), data.join([first, first])
    assert data.collate(joined, [700, 2], 0).labels.equal(data.collate(plain, [700, 2], 0).labels)


def change(rows: list[Example], **changes: Any) -> list[Example]:
    return [dataclasses.replace(rows[0], **changes), *rows[1:]]


def test_nothing_stale_is_read(tmp_path: Path) -> None:
    make, calls = counted("mednli")
    rows, tokenizer = sample("mednli"), tokenizer_for("bert")
    other_case = tokenizer_for("bert")
    other_case.backend_tokenizer.normalizer = None
    kinds: list[tuple[list[Example], Any, int]] = [
        (rows, tokenizer, 32),
        (rows, tokenizer, 33),
        (rows, other_case, 32),
        (rows, tokenizer_for("roberta"), 32),
        (change(rows, texts=(rows[0].texts[0] + " x", rows[0].texts[1])), tokenizer, 32),
        (change(rows, label=next(row.label for row in rows if row.label != rows[0].label)), tokenizer, 32),
        (rows[1:] + rows[:1], tokenizer, 32),
        ([*rows, rows[0]], tokenizer, 32),
    ]
    for number, kind in enumerate(kinds, 1):
        token_cache.encode(make, *kind, tmp_path)
        assert len(calls) == number
    for kind in kinds:
        token_cache.encode(make, *kind, tmp_path)
    assert len(calls) == len(kinds)
    other, calls = counted("chemprot")
    assert token_cache.encode(other, sample("chemprot"), tokenizer, 32, tmp_path).labels and len(calls) == 1


FAMILY = "from made_up.inner import encode\n\n\ndef features(rows, tokenizer, length):\n    return encode(rows)\n"
INNER = """from harness.task import Encoded


def encode(rows):
    return Encoded([[ID]] * len(rows), None, [0] * len(rows))
"""


def test_code_that_is_called_by_the_familys_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tasks/encoding.py is by the families: another version of it makes other ids of the same text."""
    package, rows = tmp_path / "made_up", sample("mednli")
    package.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    (package / "__init__.py").write_text("")
    (package / "family.py").write_text(FAMILY)
    for expected in (7, 8, 7):
        (package / "inner.py").write_text(INNER.replace("ID", str(expected)))
        for name in [name for name in sys.modules if name.partition(".")[0] == "made_up"]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        shutil.rmtree(package / "__pycache__", ignore_errors=True)  # goes by size and second
        make = importlib.import_module("made_up.family").features
        for _ in range(2):
            assert token_cache.encode(make, rows, tokenizer_for("bert"), 32, tmp_path / "kept").input_ids[0] == [
                expected
            ]
    assert len(list((tmp_path / "kept").iterdir())) == 2


@pytest.mark.parametrize("package", ["transformers", "python", "tokenizers"])
def test_versions_count(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, calls = counted("mednli")
    rows, tokenizer = sample("mednli"), tokenizer_for("bert")
    token_cache.encode(make, rows, tokenizer, 32, tmp_path)
    if package == "transformers":
        monkeypatch.setattr(token_cache.metadata, "version", lambda name: "99.0" if name == "transformers" else "0")
    elif package == "python":
        monkeypatch.setattr(sys, "version", "4.0")
    else:
        monkeypatch.setattr(token_cache.tokenizers, "__version__", "99.0")
    token_cache.encode(make, rows, tokenizer, 32, tmp_path)
    assert len(calls) == 2


def test_a_tokenizers_own_code_and_settings_count(tmp_path: Path) -> None:
    make, calls = counted("mednli")
    rows = sample("mednli")
    other = tokenizer_for("bert")
    other.split_special_tokens = True
    derived = tokenizer_for("bert")
    derived.__class__ = type("Derived", (type(derived),), {"__module__": __name__})
    for number, tokenizer in enumerate((tokenizer_for("bert"), other, derived), 1):
        token_cache.encode(make, rows, tokenizer, 32, tmp_path)
        assert len(calls) == number


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def header(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "noise": lambda content: b"\xff" * 100,
    "truncated": lambda content: content[:-5],
    "longer": lambda content: content + b"x",
    "zeros": lambda content: bytes(len(content)),
    "zeros from the body on": lambda content: content[: header(content)] + bytes(len(content) - header(content)),
    "zeros at the end": lambda content: content[:-4096] + bytes(4096),
    "a bit of the body": lambda content: flipped(content, header(content) + 3),
    "the last bit": lambda content: flipped(content, len(content) - 1),
    "a type in the header": lambda content: content.replace(b'"I32"', b'"F32"'),
    "a name in the header": lambda content: content.replace(b'"labels"', b'"labelz"'),
    "the digest": lambda content: content.replace(b'"sha256":"', b'"sha256":"0', 1)[: len(content)],
    "another schema": lambda content: save({"input_ids": torch.zeros(500, 2, dtype=torch.int32)}),
    "half precision": lambda content: save({"input_ids": torch.zeros(500, 2, dtype=torch.bfloat16)}),
    "no tensors": lambda content: save({}),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_made_anew(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make, calls = counted("mednli")
    rows, tokenizer = sample("mednli"), tokenizer_for("bert")
    whole = token_cache.encode(make, rows, tokenizer, 32, tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    damaged = DAMAGE[kind](content)
    assert damaged != content
    file.write_bytes(damaged)
    for _ in range(2):
        again = token_cache.encode(make, rows, tokenizer, 32, tmp_path)
        assert len(calls) == 2
        assert [np.asarray(row).tolist() for row in again.input_ids] == whole.input_ids and again.labels == whole.labels
    assert file.read_bytes() == content and caplog.text.count("made anew") == 1


def test_files_of_the_same_name_with_fewer_rows_and_things_that_are_no_files(tmp_path: Path) -> None:
    make, calls = counted("mednli")
    rows, tokenizer = sample("mednli"), tokenizer_for("bert")
    token_cache.encode(make, [*rows, rows[0]], tokenizer, 32, tmp_path)
    (longer,) = tmp_path.iterdir()
    token_cache.encode(make, rows, tokenizer, 32, tmp_path)
    (file,) = (path for path in tmp_path.iterdir() if path != longer)
    file.write_bytes(longer.read_bytes())
    assert len(token_cache.encode(make, rows, tokenizer, 32, tmp_path)) == len(rows) and len(calls) == 3
    target = tmp_path / "target"
    target.write_text("somebody's")
    for put in (os.mkfifo, lambda place: place.symlink_to(target), lambda place: place.mkdir()):
        file.unlink()
        put(file)
        assert len(token_cache.encode(make, rows, tokenizer, 32, tmp_path)) == len(rows)
    assert target.read_text() == "somebody's"


def test_several_at_once(tmp_path: Path) -> None:
    rows = sample("bc5cdr_disease")
    make = tasks.get("bc5cdr_disease").features
    expected = make(rows, tokenizer_for("bert"), 32)
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(
                lambda _: token_cache.encode(make, rows, tokenizer_for("bert"), 32, tmp_path), range(8), timeout=120
            )
        )
    assert all([list(row) for row in each.positions or []] == expected.positions for each in found)
    assert len(list(tmp_path.iterdir())) == 1


def test_for_the_owner_only_and_nothing_for_a_few(tmp_path: Path) -> None:
    make, rows, tokenizer = tasks.get("hoc").features, sample("hoc"), tokenizer_for("bert")
    token_cache.encode(make, rows[:-1], tokenizer, 32, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    token_cache.encode(make, rows, tokenizer, 32, tmp_path / "kept")
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "kept").iterdir()} == {0o600}


def test_a_place_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make, rows, tokenizer = tasks.get("hoc").features, sample("hoc"), tokenizer_for("bert")
    (tmp_path / "file").write_text("x")
    encoded = token_cache.encode(make, rows, tokenizer, 32, tmp_path / "file" / "kept")
    assert len(encoded) == len(rows) and "--feature_cache names another folder" in caplog.text


def test_where_it_is(tmp_path: Path) -> None:
    assert token_cache.place(tmp_path, None) == tmp_path / ".features"
    assert token_cache.place(tmp_path, "/elsewhere") == Path("/elsewhere")
    assert token_cache.place(tmp_path, "none") is None
    assert token_cache.place(tmp_path / "nowhere", None) is None
    os.chmod(tmp_path, 0o500)
    assert token_cache.place(tmp_path, None) is None
    os.chmod(tmp_path, 0o700)


def test_a_run_from_the_cache_has_the_same_scores(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "WORTH", 1)
    folder, results = cut("bc5cdr_disease", tmp_path / "data", 30), []
    for name, cache in (("without", "none"), ("first", tmp_path / "kept"), ("second", tmp_path / "kept")):
        more = ("--data_dir", str(folder), "--max_steps", "4", "--feature_cache", str(cache))
        results.append(run(arguments("bc5cdr_disease", tiny_bert, tmp_path / name, *more))["scores"])
        kept = sorted((tmp_path / "kept").iterdir()) if (tmp_path / "kept").exists() else []
    assert results[0] == results[1] == results[2] and len(kept) == 3


def test_labels_in_another_order_are_other_features(tmp_path: Path) -> None:
    """Of two task files beside the same data."""
    task, tokenizer, rows = tasks.get("mednli"), tokenizer_for("bert"), sample("mednli")
    other = dataclasses.replace(task, labels=task.labels[::-1])
    ours, theirs = (token_cache.encode(one.features, rows, tokenizer, 32, tmp_path).labels for one in (task, other))
    assert [task.labels[one] for one in ours] == [other.labels[one] for one in theirs] and list(ours) != list(theirs)

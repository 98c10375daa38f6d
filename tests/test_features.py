"""The cache of token ids: never stale, never torn, for the owner only, and of no consequence for a number."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import tokenizer_for
from running import arguments, cut, run

import tasks
from harness import data, features
from harness.task import Encoded, Example

FAMILIES = ("mednli", "chemprot", "hoc", "biosses", "bc5cdr_disease")


def sample(task: str) -> list[Example]:
    """Enough examples to be worth a file."""
    rows = tasks.get(task).read(tasks.sample_dir(task), "train")
    return (rows * (features.WORTH // len(rows) + 1))[: features.WORTH]


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
    first, again = (features.encode(make, rows, tokenizer, 32, tmp_path) for _ in range(2))
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
        features.encode(make, *kind, tmp_path)
        assert len(calls) == number
    for kind in kinds:
        features.encode(make, *kind, tmp_path)
    assert len(calls) == len(kinds)
    other, calls = counted("chemprot")
    assert features.encode(other, sample("chemprot"), tokenizer, 32, tmp_path).labels and len(calls) == 1


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, None])
def test_a_torn_file_is_made_anew(content: bytes | None, tmp_path: Path) -> None:
    make, calls = counted("mednli")
    rows, tokenizer = sample("mednli"), tokenizer_for("bert")
    whole = features.encode(make, rows, tokenizer, 32, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5] if content is None else content)
    again = features.encode(make, rows, tokenizer, 32, tmp_path)
    assert len(calls) == 2 and again.input_ids == whole.input_ids
    features.encode(make, rows, tokenizer, 32, tmp_path)
    assert len(calls) == 2


def test_several_at_once(tmp_path: Path) -> None:
    rows = sample("bc5cdr_disease")
    make = tasks.get("bc5cdr_disease").features
    expected = make(rows, tokenizer_for("bert"), 32)
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda _: features.encode(make, rows, tokenizer_for("bert"), 32, tmp_path), range(8), timeout=120)
        )
    assert all([list(row) for row in each.positions or []] == expected.positions for each in found)
    assert len(list(tmp_path.iterdir())) == 1


def test_for_the_owner_only_and_nothing_for_a_few(tmp_path: Path) -> None:
    make, rows, tokenizer = tasks.get("hoc").features, sample("hoc"), tokenizer_for("bert")
    features.encode(make, rows[:-1], tokenizer, 32, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    features.encode(make, rows, tokenizer, 32, tmp_path / "kept")
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "kept").iterdir()} == {0o600}


def test_a_place_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make, rows, tokenizer = tasks.get("hoc").features, sample("hoc"), tokenizer_for("bert")
    (tmp_path / "file").write_text("x")
    encoded = features.encode(make, rows, tokenizer, 32, tmp_path / "file" / "kept")
    assert len(encoded) == len(rows) and "--feature_cache names another folder" in caplog.text


def test_where_it_is(tmp_path: Path) -> None:
    assert features.place(tmp_path, None) == tmp_path / ".features"
    assert features.place(tmp_path, "/elsewhere") == Path("/elsewhere")
    assert features.place(tmp_path, "none") is None
    assert features.place(tmp_path / "nowhere", None) is None
    os.chmod(tmp_path, 0o500)
    assert features.place(tmp_path, None) is None
    os.chmod(tmp_path, 0o700)


def test_a_run_from_the_cache_has_the_same_scores(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "WORTH", 1)
    folder, results = cut("bc5cdr_disease", tmp_path / "data", 30), []
    for name, cache in (("without", "none"), ("first", tmp_path / "kept"), ("second", tmp_path / "kept")):
        more = ("--data_dir", str(folder), "--max_steps", "4", "--feature_cache", str(cache))
        results.append(run(arguments("bc5cdr_disease", tiny_bert, tmp_path / name, *more))["scores"])
        kept = sorted((tmp_path / "kept").iterdir()) if (tmp_path / "kept").exists() else []
    assert results[0] == results[1] == results[2] and len(kept) == 3

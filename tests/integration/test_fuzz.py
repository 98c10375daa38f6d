"""Damaged input to every converter and every reader: it is read right, or refused in one line; never anything else."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from blurb_sources import SOURCES
from fuzzing import HUGE, damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tasks
from harness.task import SPLITS, UserError
from tasks import corpora
from tasks.checks import quick
from tasks.corpora.corpus import Options
from tasks.corpora.preparing import prepare
from tasks.corpora.text import sentences, words

QUICK, BIG = 12, 150  # damaged copies of each source, and of each task's file
LONGEST = 10.0  # seconds of processor time for one case: more is a hang


def packed(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """A source as a zip archive."""

    def write_archive(folder: Path) -> Path:
        return Path(shutil.make_archive(str(folder.with_suffix("")), "zip", write(folder.with_name("unpacked"))))

    return write_archive


ALL = {
    **SOURCES,
    "hoc_zip": ("hoc", packed(SOURCES["hoc"][1])),
    "ddi2013_zip": ("ddi2013", packed(SOURCES["ddi2013"][1])),
}


def message_of(error: UserError) -> str:
    message = str(error)
    assert message and "\n" not in message and "\r" not in message and len(message) < 1000
    return message


def convert_damaged(name: str, pristine: Path, seed: str, folder: Path) -> str:
    """What became of one damaged copy of a source: "read", or "refused"."""
    corpus = ALL[name][0]
    rng = random.Random(f"file {seed}")
    files = [pristine] if pristine.is_file() else sorted(path for path in pristine.rglob("*") if path.is_file())
    path = rng.choice(files)
    original = path.read_bytes()
    what, content = damaged(seed, original)
    out = folder / "out"
    started = time.process_time()
    path.write_bytes(content)
    try:
        for done in prepare(corpora.CORPORA[corpus], pristine, out, Options()):
            for split in SPLITS:
                assert tasks.get(done.task).read(done.folder, split)
        outcome = "read"
    except UserError as error:
        message_of(error)
        assert not list(out.iterdir()) if out.exists() else True, f"{what} in {path.name}: partial output"
        outcome = "refused"
    except Exception as error:
        raise AssertionError(f"{name}, seed {seed!r}: {what} in {path.name}") from error
    finally:
        path.write_bytes(original)
        shutil.rmtree(out, ignore_errors=True)
    assert time.process_time() - started < LONGEST, f"{what} in {path.name}"
    return outcome


def read_damaged(task: str, folder: Path, seed: str) -> str:
    """What became of one damaged data file: "read", or "refused"."""
    name = tasks.get(task).filenames["test"]
    sample = (tasks.sample_dir(task) / name).read_bytes()
    what, content = damaged(seed, b"\n".join(sample.split(b"\n")[:40]) + b"\n")
    (folder / name).write_bytes(content)
    started = time.process_time()
    try:
        examples = tasks.get(task).read(folder, "test")
        assert examples and all(example.id and all(text.strip() for text in example.texts) for example in examples)
        quick(tasks.get(task), {"test": examples})
        outcome = "read"
    except UserError as error:
        assert str(folder) in message_of(error)
        outcome = "refused"
    except Exception as error:
        raise AssertionError(f"{task}, seed {seed!r}: {what}") from error
    assert time.process_time() - started < LONGEST, what
    return outcome


@pytest.mark.parametrize("source", ALL)
def test_converters(tmp_path: Path, source: str) -> None:
    pristine = ALL[source][1](tmp_path / "raw")
    assert convert_all(source, pristine, tmp_path, QUICK)["refused"]


@pytest.mark.parametrize("task", tasks.BLUE)
def test_readers(tmp_path: Path, task: str) -> None:
    assert Counter(read_damaged(task, tmp_path, f"{task} {seed}") for seed in range(2 * QUICK))["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("source", ALL)
def test_converters_at_length(tmp_path: Path, source: str) -> None:
    pristine = ALL[source][1](tmp_path / "raw")
    outcomes = convert_all(source, pristine, tmp_path, BIG)
    assert outcomes["refused"] > BIG / 10 and (outcomes["read"] > BIG / 50 or source.endswith("_zip"))


@pytest.mark.slow
@pytest.mark.parametrize("task", tasks.BLUE)
def test_readers_at_length(tmp_path: Path, task: str) -> None:
    outcomes = Counter(read_damaged(task, tmp_path, f"{task} {seed}") for seed in range(2 * BIG))
    assert outcomes["refused"] > BIG / 10 and outcomes["read"] > BIG / 10


def convert_all(source: str, pristine: Path, folder: Path, count: int) -> Counter[str]:
    return Counter(convert_damaged(source, pristine, f"{source} {seed}", folder) for seed in range(count))


TEXTS = st.text(st.sampled_from("aA1 .!?\n\t()[]\"'-_*\u2019\u00a0\u2028\U0001f600e\u0301|~"), max_size=80)


class TestAnyText:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(TEXTS, st.lists(st.tuples(st.integers(0, 80), st.integers(1, 20)), max_size=4))
    def test_sentences_hold_every_character_once(self, text: str, spans: list[tuple[int, int]]) -> None:
        whole = [(start, min(len(text), start + length)) for start, length in spans if start < len(text)]
        found = sentences(text, whole)
        assert "".join("".join(text[start:end].split()) for start, end in found) == "".join(text.split())
        assert all(end <= start for (_, end), (start, _) in pairwise(found))
        for start, _ in found[1:]:
            assert not any(low < start < high for low, high in whole)

    @settings(max_examples=100, deadline=None)
    @given(TEXTS)
    def test_words_hold_every_character_once(self, text: str) -> None:
        found = words(text, 0, len(text))
        assert "".join(text[start:end] for start, end in found) == "".join(text.split())

    @pytest.mark.parametrize("piece", ["a", "A. ", "a-", "(", "1.", "\n", "it's ", '"', "Dr. ", "...", "e.g. A"])
    def test_the_splitter_does_not_hang(self, piece: str) -> None:
        started = time.process_time()
        sentences(piece * (HUGE // len(piece)))
        assert time.process_time() - started < LONGEST

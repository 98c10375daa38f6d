"""From a source to finished task folders, written aside and renamed when whole; each has a manifest.json that says from
which files, by which rules and with which result it was made."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import tasks
from harness.files import private, sha256
from harness.task import UserError
from tasks.corpora.corpus import DUMMIES, Corpus, Options, Row, with_splits
from tasks.corpora.sources import Source
from tasks.corpora.text import splitter_version

__all__ = ["MANIFEST", "Prepared", "is_whole", "prepare", "read_manifest"]

MANIFEST = "manifest.json"
LIBRARIES = ("blue-harness", "lxml", "python-docx")


@dataclass(frozen=True)
class Prepared:
    """What became of one task."""

    task: str
    folder: Path
    manifest: Mapping[str, Any]
    was_there: bool  # the folder held the same already, and was kept


def prepare(corpus: Corpus, path: Path, out: Path, options: Options) -> list[Prepared]:
    """Convert a source to `out/<task>` for each task of the corpus.

    A folder that holds the same data, made here, is kept; any other that is there already is an error. Files
    are for their owner alone. Raises UserError; then nothing new is under a task's name.
    """
    names = corpus.published.tasks
    for task in names:
        if (out / task).exists() and not (out / task / MANIFEST).is_file():
            raise _occupied(out / task)
    try:
        with Source(path, corpus.published.expects, corpus.skips) as source:
            out.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Beside the final folders, so that a rename suffices; and gone again, whatever happens.
            with tempfile.TemporaryDirectory(prefix=".preparing-", dir=out) as aside:
                manifests = _write_all(corpus, source, Path(aside), options)
                was_there = {task: _holds(out / task, manifests[task]) for task in names}
                for task in names:
                    if not was_there[task]:
                        os.rename(Path(aside, task), out / task)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); name a folder of yours") from None
    return [Prepared(task, out / task, manifests[task], was_there[task]) for task in names]


@dataclass
class _SplitFile:
    """What is to be written to one file, and what the manifest tells about it."""

    parts: list[bytes] = field(default_factory=list)
    rows: int = 0
    words: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    documents: set[str] = field(default_factory=set)

    def add(self, row: Row, document: str) -> None:
        """Raises ValueError for what the readers of the BLUE format would not take."""
        if isinstance(row, Mapping):
            lines = [tuple(row.values())] if self.rows else [tuple(row), tuple(row.values())]
        else:
            lines = [*row, ()]  # an empty line after each sentence
            self.words += len(row)
        cells = [cell for line in lines for cell in line]
        if not all(cell.strip() for cell in cells):
            raise ValueError("an empty text or name")
        if any("\0" in cell for cell in cells):
            raise ValueError("a NUL character")
        try:
            self.parts.append("".join("\t".join(line) + "\n" for line in lines).encode("utf-8"))
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair") from None
        self.rows += 1
        self.labels.update(_labels(row))
        self.documents.add(document)


def _labels(row: Row) -> list[str]:
    """What the manifest counts: the class, the labels, the whole part of the score, each mention."""
    if not isinstance(row, Mapping):
        return ["mention" if tag == "B" else tag for *_, tag in row if tag == "B" or "-" in tag]
    if "score" in row:
        return [str(int(float(row["score"])))]
    if "labels" in row:  # 0_0,1_1,...
        return [value.removesuffix("_1") for value in row["labels"].split(",") if value.endswith("_1")] or ["none"]
    return [row["label"]]


def _write_all(corpus: Corpus, source: Source, aside: Path, options: Options) -> dict[str, dict[str, Any]]:
    """Write the splits of each task and its manifest to `aside/<task>`; task -> manifest."""
    files: dict[tuple[str, str], _SplitFile] = defaultdict(_SplitFile)
    for split, document in with_splits(corpus, source, options):
        for task, rows in document.rows.items():
            for row in rows:
                try:
                    files[task, split].add(row, document.name)
                except ValueError as error:
                    wrong = f"{error} in document {document.name[:40]!a} ({split})"
                    raise source.error(wrong, "put the published file of that document there") from None
    manifests = {}
    for task in corpus.published.tasks:
        splits = {}
        (aside / task).mkdir(mode=0o700)
        for split, name in tasks.get(task).filenames.items():
            file = files[task, split]
            if not file.rows:
                raise source.error(f"no examples of {task} {split} in it")
            content = b"".join(file.parts)
            with open(aside / task / name, "xb", opener=private) as stream:
                stream.write(content)
            splits[split] = {
                "file": name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "chosen": options.rules[split],
                "documents": len(file.documents),
                **({"sentences": file.rows, "words": file.words} if file.words else {"rows": file.rows}),
                "labels": dict(sorted(file.labels.items())),
            }
        manifests[task] = _manifest(task, splits, source, options)
        with open(aside / task / MANIFEST, "x", encoding="utf-8", opener=private) as text:
            text.write(json.dumps(manifests[task], indent=2) + "\n")
    return manifests


def _manifest(task: str, splits: Mapping[str, Any], source: Source, options: Options) -> dict[str, Any]:
    """The content: the same source and options give the same, apart from `versions`."""

    def counts(counted: Mapping[tuple[str, str], int]) -> dict[str, int]:
        return {reason: count for (name, reason), count in sorted(counted.items()) if name == task}

    def listed(ids: frozenset[str] | None) -> dict[str, Any] | None:
        if ids is None:
            return None
        return {"ids": len(ids), "sha256": hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()}

    corrected = counts(options.corrected)
    return {
        "task": task,
        "splits": splits,
        "left_out": counts(options.left_out),
        **({"corrected": corrected} if corrected else {}),
        "options": {
            "seed": options.seed,
            "splitter": options.splitter,
            **({} if options.mentions == DUMMIES else {"mentions": options.mentions}),
            "dev_ids": listed(options.dev_ids),
            "test_ids": listed(options.test_ids),
        },
        "sources": source.fingerprints(),
        "versions": {"python": platform.python_version(), "splitter": splitter_version(options.splitter)}
        | {name: metadata.version(name) for name in LIBRARIES},
    }


def _holds(folder: Path, content: Mapping[str, Any]) -> bool:
    """Whether the folder holds just this, and whole. Raises UserError where it holds anything else."""
    if not folder.exists():
        return False
    there = read_manifest(folder) or {}
    # Two runs of a command agree in all but the versions.
    if there | {"versions": None} != dict(content) | {"versions": None} or not is_whole(folder, content):
        raise _occupied(folder)
    return True


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None where there is none that can be read."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def is_whole(folder: Path, content: Mapping[str, Any]) -> bool:
    """Whether the files of the splits are those that the manifest tells of, byte by byte.

    Raises LookupError, TypeError or AttributeError where it is no manifest of `prepare`.
    """
    try:
        return all(sha256(folder / split["file"]) == split["sha256"] for split in content["splits"].values())
    except OSError:
        return False


def _occupied(folder: Path) -> UserError:
    return UserError(f"--out {folder}: exists and holds other data; name another folder, or move that one away")

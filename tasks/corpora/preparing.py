"""From a source to finished task folders: written aside, renamed when whole."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import tasks
from harness.files import private
from harness.task import SPLITS, UserError
from tasks.corpora import manifest
from tasks.corpora.records import Corpus, Options, Record
from tasks.corpora.sources import Source

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """What became of one task."""

    task: str
    folder: Path
    manifest: Mapping[str, Any]
    was_there: bool  # the folder held the same already, and was left alone


@dataclass
class _SplitFile:
    """One file being written, and what the manifest tells about it."""

    stream: IO[bytes]
    header: tuple[str, ...]
    digest: Any = field(default_factory=hashlib.sha256)
    rows: int = 0
    words: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    documents: int = 0
    last: str | None = None  # records of a document come one after another: counting documents takes no memory

    def line(self, cells: tuple[str, ...]) -> None:
        """Raises UnicodeEncodeError for half of a surrogate pair, which JSON can spell."""
        content = ("\t".join(cells) + "\n").encode("utf-8")
        self.digest.update(content)
        self.stream.write(content)

    def add(self, record: Record) -> None:
        """Write a record and count it."""
        for cells in record.lines:
            self.line(cells)
        if not self.header:
            self.line(())  # an empty line after each sentence
            self.words += len(record.lines)
        self.rows += 1
        self.labels.update(record.labels)
        self.documents += record.document != self.last
        self.last = record.document


def prepare(corpus: Corpus, path: Path, out: Path, options: Options) -> list[Prepared]:
    """Convert a source to `out/<task>` for each task of the corpus.

    A folder that holds the same data, made here, is left alone; any other that is there already is an error. Files
    are for their owner alone. Raises UserError; then nothing new is under a task's name.
    """
    for task in corpus.headers:
        if (out / task).exists() and not (out / task / manifest.FILE).is_file():
            raise _occupied(out / task)
    try:
        with ExitStack() as stack:
            source = stack.enter_context(Source(path))
            out.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Beside the final folders, so that a rename suffices; and gone again, whatever happens.
            aside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".preparing-", dir=out)))
            contents = _write_all(corpus, source, aside, options)
            was_there = {task: _holds(out / task, content) for task, content in contents.items()}
            for task in contents:
                if not was_there[task]:
                    os.rename(aside / task, out / task)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); name a folder of yours") from None
    return [Prepared(task, out / task, content, was_there[task]) for task, content in contents.items()]


def _write_all(corpus: Corpus, source: Source, aside: Path, options: Options) -> dict[str, dict[str, Any]]:
    """Task -> its manifest."""
    with ExitStack() as stack:
        files = {
            (task, split): stack.enter_context(_opened(aside / task, tasks.get(task).filenames[split], header))
            for task, header in corpus.headers.items()
            for split in SPLITS
        }
        for record in corpus.convert(source, options):
            file = files[record.task, record.split]
            _check(record, source)
            try:
                file.add(record)
            except UnicodeEncodeError:
                raise _unfit(record, source, "half of a surrogate pair") from None
    contents = {}
    for task in corpus.headers:
        splits = {}
        for split in SPLITS:
            file = files[task, split]
            if not file.rows:
                raise source.error(f"no examples of {task} {split} in it", f"give {corpus.expects}")
            splits[split] = _described(tasks.get(task).filenames[split], file, options.rules[split])
        contents[task] = manifest.describe(task, splits, source, options)
        text = json.dumps(contents[task], indent=2) + "\n"
        with open(aside / task / manifest.FILE, "w", encoding="utf-8", opener=private) as stream:
            stream.write(text)
    return contents


@contextmanager
def _opened(folder: Path, name: str, header: tuple[str, ...]) -> Iterator[_SplitFile]:
    folder.mkdir(mode=0o700, exist_ok=True)
    with open(folder / name, "xb", opener=private) as stream:
        file = _SplitFile(stream, header)
        if header:
            file.line(header)
        yield file


def _check(record: Record, source: Source) -> None:
    """Raises UserError for a record that the readers of the BLUE format would not take."""
    for cells in record.lines:
        for cell in cells:
            if not cell.strip():
                raise _unfit(record, source, "an empty text or name")
            if "\0" in cell:
                raise _unfit(record, source, "a NUL character")


def _unfit(record: Record, source: Source, what: str) -> UserError:
    document = ascii(record.document[:40])
    return source.error(
        f"{what} in document {document} ({record.split})", "put the published file of that document there"
    )


def _described(name: str, file: _SplitFile, rule: str) -> dict[str, Any]:
    size = {"rows": file.rows} if file.header else {"sentences": file.rows, "words": file.words}
    return {
        "file": name,
        "sha256": file.digest.hexdigest(),
        "chosen": rule,
        "documents": file.documents,
        **size,
        "labels": dict(sorted(file.labels.items())),
    }


def _holds(folder: Path, content: Mapping[str, Any]) -> bool:
    """Whether the folder holds just this, and whole. Raises UserError where it holds anything else."""
    if not folder.exists():
        return False
    there = manifest.read(folder)
    same = there is not None and manifest.without_versions(there) == manifest.without_versions(content)
    if not same or not manifest.is_whole(folder, content):
        raise _occupied(folder)
    return True


def _occupied(folder: Path) -> UserError:
    return UserError(f"--out {folder}: exists and holds other data; name another folder, or move that one away")

"""The report of `launch/prepare.py check`: figures of a task folder beside the published ones, and findings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

import tasks
from harness import UserError
from harness.files import folder_fault
from harness.logs import Console
from harness.task import SPLITS, Task
from launch import settings
from tasks import corpora
from tasks.corpora import manifest
from tasks.corpora.checks import Finding, Survey
from tasks.corpora.lengths import Lengths, measure
from tasks.tables import NoExamples

EXIT_FINE, EXIT_WEIGHTY = 0, 1
MOST_CUT = 0.3  # share of a split's examples: more is of weight; of DDI the published recipe cuts nearly a quarter
WIDTH = 120  # where no terminal tells


def check(folder: Path, name: str | None, task_file: str | None, model: str | None, max_seq_length: int) -> int:
    """Print the report; exit status 0 fine, 1 findings of weight. Raises UserError where the data cannot be read."""
    if (fault := folder_fault(folder)) is not None:
        raise UserError(f"{folder}: {fault}; name a task's folder, such as the one that prepare.py wrote")
    if task_file is None:
        name = name or _task_of(folder)
    task = settings.named_task(name, task_file, folder)
    tokenizer = None if model is None else _tokenizer(task, task_file, folder, model)
    survey, lengths = Survey(task), {}
    lacks = [name for name in task.filenames.values() if not (folder / name).is_file()]
    if lacks and task_file is None and (command := corpora.how_to_convert(task.name, folder)) is not None:
        raise UserError(
            f"{folder}: lacks {', '.join(lacks)}; if that is the corpus as published, convert it: {command}"
        )
    without: list[Finding] = []
    for split in (split for split in SPLITS if split in task.filenames):
        try:
            examples = task.read(folder, split)
        except NoExamples as error:
            if split != "dev":
                raise
            without.append(Finding(task_file is None, f"dev: no examples ({error})"))
            continue
        survey.add(split, examples)
        if tokenizer is not None:
            lengths[split] = measure(task, examples, tokenizer, max_seq_length)
        del examples  # the next split is read without this one in memory
    findings = sorted(
        [*without, *survey.findings(), *(() if task_file else _of_manifest(folder)), *_of_lengths(lengths)],
        key=lambda finding: not finding.weighty,
    )
    _show(folder, survey, lengths, findings)
    return EXIT_WEIGHTY if any(finding.weighty for finding in findings) else EXIT_FINE


def _task_of(folder: Path) -> str:
    """The task that the folder's manifest or its name says."""
    content = manifest.read(folder) or {}
    for guess in (content.get("task"), folder.absolute().name.lower()):
        if isinstance(guess, str) and guess in tasks.TASKS:
            return guess
    raise UserError(f"{folder}: which task is it? give --task (one of {', '.join(tasks.TASKS)})")


def _tokenizer(task: Task, task_file: str | None, folder: Path, model: str) -> Any:
    from harness.model import load_tokenizer

    named = ["--task", task.name] if task_file is None else ["--task_file", task_file]
    config, _ = settings.parse([*named, "--model_name_or_path", model, "--data_dir", str(folder)])
    return load_tokenizer(config, task.head.per_word)  # with the casing that training would use


def _of_manifest(folder: Path) -> Iterator[Finding]:
    content = manifest.read(folder)
    if content is None:
        yield Finding(False, f"no {manifest.FILE}: not known from which files the folder was made")
    elif not manifest.describes(content):
        yield Finding(True, f"{manifest.FILE} is not one of launch/prepare.py")
    elif not manifest.is_whole(folder, content):
        yield Finding(True, f"the files are not those that {manifest.FILE} tells of: changed since they were prepared")


def _of_lengths(lengths: dict[str, Lengths]) -> Iterator[Finding]:
    for split, found in lengths.items():
        if found.cut:
            text = f"{split}: {found.cut} examples ({found.share_cut:.1%}) are cut at {found.limit} word pieces"
            yield Finding(found.share_cut > MOST_CUT, text)


def _show(folder: Path, survey: Survey, lengths: dict[str, Lengths], findings: list[Finding]) -> None:
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(Text(f"{folder}: {survey.task.name} ({survey.task.family})", style="bold"))
    console.print(_sizes(survey))
    if lengths:
        console.print(_pieces(lengths))
    for finding in findings:
        console.print(Text("! " if finding.weighty else "- ", style="red" if finding.weighty else ""), end="")
        console.print(Text(finding.text))
    if not findings:
        console.print("Nothing to remark.")


def _sizes(survey: Survey) -> Table:
    published = {size.what: size for size in survey.sizes()}
    table = Table(box=None, pad_edge=False)
    table.add_column("number of")
    for split in survey.splits:
        table.add_column(split, justify="right")
        if published:
            table.add_column("published", justify="right", style="dim")
    for what in dict.fromkeys(["rows", *published]):
        cells = []
        for split in survey.splits:
            cells.append(str(survey.size(split, what)))
            if published:
                cells.append(str(getattr(published[what], split)) if what in published else "")
        table.add_row(Text(what), *cells)
    for label in sorted({label for found in survey.splits.values() for label in found.labels} - published.keys()):
        cells = []
        for found in survey.splits.values():
            cells += [str(found.labels[label]), *([""] if published else [])]
        table.add_row(Text(f"label {label}"), *cells)
    return table


def _pieces(lengths: dict[str, Lengths]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("word pieces", "mean", "median", "longest", "cut", "share cut"):
        table.add_column(name, justify="left" if name == "word pieces" else "right")
    for split, found in lengths.items():
        cells = (f"{found.mean:.1f}", f"{found.median:.0f}", str(found.most), str(found.cut), f"{found.share_cut:.2%}")
        table.add_row(split, *cells)
    return table

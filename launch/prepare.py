"""Published corpora to the folders that training reads, and whether a folder is right.

python launch/prepare.py hoc --source hoc.zip --out data     # writes data/hoc
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

import tasks
from harness import terminal
from harness.errors import EXIT_USER, UserError
from harness.files import folder_fault
from harness.flags import Parser
from harness.logs import Console
from harness.task import SPLITS, Task
from launch.run import settings
from tasks import corpora
from tasks.corpora import manifest
from tasks.corpora.checks import Finding, Survey
from tasks.corpora.lengths import Lengths, measure
from tasks.readers import NoExamples


@terminal.safely()
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 `check` found something serious, 2 a mistake of the user's or unreadable data."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.umask(terminal.OWNER_ONLY)
    try:
        options = _parser().parse_args(words)
        return int(options.call(options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER


def _parser() -> argparse.ArgumentParser:
    from tasks.corpora import CORPORA
    from tasks.corpora.addresses import OFFERS
    from tasks.corpora.records import Options
    from tasks.corpora.sentences import SPLITTERS

    parser = Parser(allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for name, corpus in CORPORA.items():
        one = commands.add_parser(name, help=f"write {', '.join(corpus.headers)}", allow_abbrev=False)
        one.set_defaults(call=_convert, corpus=name)
        one.add_argument("--source", required=True, metavar="PATH", help=corpus.expects)
        one.add_argument("--out", required=True, metavar="DIR", help="the task folders are made below it")
        for split in corpus.drawn:
            text = f"ids of the {split} split, one a line [drawn by --seed]"
            one.add_argument(f"--{split}_ids", metavar="FILE", help=text)
        if corpus.drawn:
            one.add_argument("--seed", type=int, default=Options.seed, help=f"for what is drawn [{Options.seed}]")
        if corpus.splits_sentences:
            one.add_argument("--splitter", choices=tuple(SPLITTERS), default=Options.splitter, help="of sentences")
    one = commands.add_parser("check", help="is a task folder what it should be?", allow_abbrev=False)
    one.set_defaults(call=_check)
    one.add_argument("folder", metavar="DIR", help="the folder of one task")
    one.add_argument("--task", metavar="T", help="its task [as its manifest or its name says]")
    one.add_argument("--task_file", metavar="FILE", help="the TOML file that defines its task, one of your own")
    one.add_argument("--model_name_or_path", metavar="M", help="measure lengths in subword tokens of this encoder")
    one.add_argument("--max_seq_length", type=int, default=128, help="how much of an example a model sees [128]")
    one = commands.add_parser("fetch", help="download a corpus that is open to everyone", allow_abbrev=False)
    one.set_defaults(call=_fetch)
    one.add_argument("corpus", metavar="CORPUS", help=f"{', '.join(OFFERS)}; of the others, where to apply is said")
    one.add_argument("--out", required=True, metavar="DIR", help="where the file is put")
    one.add_argument("--accept-license", "--accept_license", action="store_true", help="you agree to the terms shown")
    one.add_argument("--address", metavar="URL", help="take the file from a mirror")
    return parser


def _fetch(options: argparse.Namespace) -> int:
    from tasks.corpora.addresses import offer
    from tasks.corpora.download import download

    found = offer(options.corpus)
    if options.address is not None:
        found = replace(found, url=options.address)
    print(f"{options.corpus}: {found.licence}")
    if not options.accept_license:
        raise UserError("read these terms, and give --accept-license to agree and download")
    path, was_there = download(found, Path(options.out))
    print(f"{path}: {'was there already' if was_there else 'downloaded'}")
    if found.sha256 is None and not was_there:
        print("  no checksum is published; its SHA-256 is now recorded, and a later download must have the same")
    return 0


def _check(options: argparse.Namespace) -> int:
    from launch.prepare import check

    where = Path(options.folder), options.task, options.task_file
    return check(*where, options.model_name_or_path, options.max_seq_length)


def _convert(options: argparse.Namespace) -> int:
    from tasks import corpora
    from tasks.corpora.preparing import prepare
    from tasks.corpora.records import Options
    from tasks.corpora.splits import read_ids

    dev_ids, test_ids = (
        None if (given := getattr(options, flag, None)) is None else read_ids(Path(given), flag)
        for flag in ("dev_ids", "test_ids")
    )
    seed, splitter = getattr(options, "seed", Options.seed), getattr(options, "splitter", Options.splitter)
    chosen = Options(dev_ids, test_ids, seed, splitter)
    for done in prepare(corpora.get(options.corpus), Path(options.source), Path(options.out), chosen):
        sizes = ", ".join(
            f"{split} {entry.get('rows', entry.get('sentences'))}" for split, entry in done.manifest["splits"].items()
        )
        print(f"{done.folder}: {sizes}{' (was there already, the same)' if done.was_there else ''}")
        for reason, count in done.manifest["left_out"].items():
            print(f"  left out: {count} {reason}")
        for reason, count in done.manifest.get("corrected", {}).items():
            print(f"  corrected: {count} {reason}")
        for split, entry in done.manifest["splits"].items():
            print(f"  {split}: {entry['chosen']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())


EXIT_FINE, EXIT_SERIOUS = 0, 1
MOST_CUT = 0.3  # share of a split's examples: more is serious; of DDI the published recipe cuts nearly a quarter
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
        key=lambda finding: not finding.serious,
    )
    _show(folder, survey, lengths, findings)
    return EXIT_SERIOUS if any(finding.serious for finding in findings) else EXIT_FINE


def _task_of(folder: Path) -> str:
    """The task that the folder's manifest or its name says."""
    content = manifest.read(folder) or {}
    for guess in (content.get("task"), folder.absolute().name.lower()):
        if isinstance(guess, str) and guess in tasks.TASKS:
            return guess
    raise UserError(f"{folder}: which task is it? give --task (one of {', '.join(tasks.TASKS)})")


def _tokenizer(task: Task, task_file: str | None, folder: Path, model: str) -> Any:
    from harness.tokenizer import load_tokenizer

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
            text = f"{split}: {found.cut} examples ({found.share_cut:.1%}) are cut at {found.limit} subword tokens"
            yield Finding(found.share_cut > MOST_CUT, text)


def _show(folder: Path, survey: Survey, lengths: dict[str, Lengths], findings: list[Finding]) -> None:
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(Text(f"{folder}: {survey.task.name} ({survey.task.family})", style="bold"))
    console.print(_sizes(survey))
    if lengths:
        console.print(_pieces(lengths))
    for finding in findings:
        console.print(Text("! " if finding.serious else "- ", style="red" if finding.serious else ""), end="")
        console.print(Text(finding.text))
    if not findings:
        console.print("No issues found.")


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
    for name in ("subword tokens", "mean", "median", "longest", "cut", "share cut"):
        table.add_column(name, justify="left" if name == "subword tokens" else "right")
    for split, found in lengths.items():
        cells = (f"{found.mean:.1f}", f"{found.median:.0f}", str(found.most), str(found.cut), f"{found.share_cut:.2%}")
        table.add_row(split, *cells)
    return table

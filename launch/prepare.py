"""Published corpora to the folders that training reads, and whether a folder is right.

python launch/prepare.py hoc --source hoc.zip --out data     # writes data/hoc
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

import tasks
from harness.errors import UserError
from harness.files import folder_fault
from harness.flags import Parser
from harness.logs import Console
from harness.task import SPLITS, Example, Task
from harness.terminal import guarded
from launch.run import settings
from tasks import corpora, published
from tasks.checks import Finding, Survey
from tasks.corpora.corpus import DUMMIES, Options
from tasks.corpora.download import distribution, download
from tasks.corpora.preparing import MANIFEST, is_whole, prepare, read_manifest
from tasks.corpora.text import MARKERS, SPLITTERS
from tasks.readers import NoExamples

EXIT_FINE, EXIT_SERIOUS = 0, 1
MOST_CUT = 0.3  # share of a split's examples: more is serious; of DDI the published recipe cuts nearly a quarter
WIDTH = 120  # where no terminal tells
UNLIMITED = 1_000_000  # subword tokens; no example has so many
CHUNK = 1000  # examples tokenised at once


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 `check` found something serious, 2 a mistake of the user's or unreadable data."""
    options = _parser().parse_args(argv)
    return int(options.call(options))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for name, corpus in corpora.CORPORA.items():
        one = commands.add_parser(name, help=f"write {', '.join(corpus.published.tasks)}", allow_abbrev=False)
        one.set_defaults(call=_convert, corpus=name)
        one.add_argument("--source", required=True, metavar="PATH", help=corpus.published.expects)
        one.add_argument("--out", required=True, metavar="DIR", help="the task folders are made below it")
        for split in corpus.drawn:
            text = f"ids of the {split} split, one a line [drawn by --seed]"
            one.add_argument(f"--{split}_ids", metavar="FILE", help=text)
        if corpus.drawn:
            one.add_argument("--seed", type=int, default=Options.seed, help=f"for what is drawn [{Options.seed}]")
        if corpus.marks_mentions:
            text = "the two mentions of a relation: @KIND$ in their place, or they stay between markers [S1] ... [E1]"
            one.add_argument("--mentions", choices=(DUMMIES, MARKERS), default=DUMMIES, help=f"{text} [{DUMMIES}]")
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
    offered = ", ".join(name for name, corpus in published.CORPORA.items() if corpus.download is not None)
    one.add_argument("corpus", metavar="CORPUS", help=f"{offered}; of the others, where to apply is said")
    one.add_argument("--out", required=True, metavar="DIR", help="where the file is put")
    one.add_argument("--accept-license", "--accept_license", action="store_true", help="you agree to the terms shown")
    one.add_argument("--address", metavar="URL", help="take the file from a mirror")
    return parser


def _fetch(options: argparse.Namespace) -> int:
    wanted = distribution(options.corpus)
    if options.address is not None:
        wanted = replace(wanted, url=options.address)
    print(f"{options.corpus}: {wanted.licence}")
    if not options.accept_license:
        raise UserError("read these terms, and give --accept-license to agree and download")
    path, was_there = download(wanted, Path(options.out))
    print(f"{path}: {'was there already' if was_there else 'downloaded'}")
    if wanted.sha256 is None and not was_there:
        print("  no checksum is published; its SHA-256 is now recorded, and a later download must have the same")
    return 0


def _convert(options: argparse.Namespace) -> int:
    given = vars(options)
    dev_ids, test_ids = (_ids(given.get(flag), flag) for flag in ("dev_ids", "test_ids"))
    seed, splitter = given.get("seed", Options.seed), given.get("splitter", Options.splitter)
    chosen = Options(dev_ids, test_ids, seed, splitter, given.get("mentions", DUMMIES))
    for done in prepare(corpora.CORPORA[options.corpus], Path(options.source), Path(options.out), chosen):
        splits = done.manifest["splits"]
        sizes = ", ".join(f"{split} {entry.get('rows', entry.get('sentences'))}" for split, entry in splits.items())
        print(f"{done.folder}: {sizes}{' (was there already, the same)' if done.was_there else ''}")
        for what in ("left_out", "corrected"):
            for reason, count in done.manifest.get(what, {}).items():
                print(f"  {what.replace('_', ' ')}: {count} {reason}")
        for split, entry in splits.items():
            print(f"  {split}: {entry['chosen']}")
    return 0


def _ids(path: str | None, flag: str) -> frozenset[str] | None:
    """The ids of a file, one a line. Raises UserError where it cannot be read or holds none."""
    if path is None:
        return None
    remedy = "name a text file with one id a line"
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"--{flag} {path}: cannot be read ({reason}); {remedy}") from None
    ids = frozenset(line.strip() for line in lines if line.strip())
    if not ids:
        raise UserError(f"--{flag} {path}: no ids in it; {remedy}")
    return ids


def _check(options: argparse.Namespace) -> int:
    """Print the report; exit status 0 fine, 1 serious findings. Raises UserError where the data cannot be read."""
    folder, task_file = Path(options.folder), options.task_file
    if (fault := folder_fault(folder)) is not None:
        raise UserError(f"{folder}: {fault}; name a task's folder, such as the one that prepare.py wrote")
    manifest = read_manifest(folder)
    name = options.task or (_task_of(folder, manifest or {}) if task_file is None else None)
    task = settings.named_task(name, task_file, folder)
    tokenizer = None
    if options.model_name_or_path is not None:
        from harness.tokenizer import load_tokenizer

        named = ["--task", task.name] if task_file is None else ["--task_file", task_file]
        named += ["--model_name_or_path", options.model_name_or_path, "--data_dir", str(folder)]
        config, _ = settings.parse(named)
        tokenizer = load_tokenizer(config, task.per_word)  # with the casing that training would use
    lacks = [name for name in task.filenames.values() if not (folder / name).is_file()]
    if lacks and task_file is None and (command := published.how_to_convert(task.name, folder)) is not None:
        remedy = f"if that is the corpus as published, convert it: {command}"
        raise UserError(f"{folder}: lacks {', '.join(lacks)}; {remedy}")
    survey, lengths, findings = Survey(task), {}, []
    for split in (split for split in SPLITS if split in task.filenames):
        try:
            examples = task.read(folder, split)
        except NoExamples as error:
            if split != "dev":
                raise
            findings.append(Finding(task_file is None, f"dev: no examples ({error})"))
            continue
        survey.add(split, examples)
        if tokenizer is not None:
            lengths[split] = _lengths(task, examples, tokenizer)
        del examples  # the next split is read without this one in memory
    findings += survey.findings()
    if task_file is None:
        findings += _of_manifest(folder, manifest)
    limit = options.max_seq_length
    for split, tokens in lengths.items():
        if cut := int((tokens > limit).sum()):
            share = cut / len(tokens)
            text = f"{split}: {cut} examples ({share:.1%}) are cut at {limit} subword tokens"
            findings.append(Finding(share > MOST_CUT, text))
    findings.sort(key=lambda finding: not finding.serious)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(Text(f"{folder}: {task.name} ({task.family})", style="bold"))
    console.print(_size_table(survey))
    if lengths:
        console.print(_length_table(lengths, limit))
    for finding in findings:
        console.print(Text("! " if finding.serious else "- ", style="red" if finding.serious else ""), end="")
        console.print(Text(finding.text))
    if not findings:
        console.print("No issues found.")
    return EXIT_SERIOUS if any(finding.serious for finding in findings) else EXIT_FINE


def _task_of(folder: Path, manifest: dict[str, Any]) -> str:
    """The task that the folder's manifest or its name says."""
    for guess in (manifest.get("task"), folder.absolute().name.lower()):
        if isinstance(guess, str) and guess in tasks.TASKS:
            return guess
    raise UserError(f"{folder}: which task is it? give --task (one of {', '.join(tasks.TASKS)})")


def _lengths(task: Task, examples: Sequence[Example], tokenizer: Any) -> np.ndarray:
    """Subword tokens of each example with the tokenizer's special tokens, as its task tokenises it."""
    starts = range(0, len(examples), CHUNK)
    encoded = (task.features(examples[start : start + CHUNK], tokenizer, UNLIMITED).input_ids for start in starts)
    return np.array([len(ids) for chunk in encoded for ids in chunk])


def _of_manifest(folder: Path, manifest: dict[str, Any] | None) -> Iterator[Finding]:
    if manifest is None:
        yield Finding(False, f"no {MANIFEST}: not known from which files the folder was made")
        return
    try:
        if not is_whole(folder, manifest):
            yield Finding(True, f"the files are not those that {MANIFEST} tells of: changed since they were prepared")
    except (LookupError, TypeError, ValueError, AttributeError):
        yield Finding(True, f"{MANIFEST} is not one of launch/prepare.py")


def _size_table(survey: Survey) -> Table:
    """How many there are of what in each split, beside the published counts."""
    sizes = {size.what: size for size in survey.sizes}
    counts = {what: [survey.size(split, what) for split in survey.splits] for what in dict.fromkeys(["rows", *sizes])}
    for label in sorted({label for found in survey.splits.values() for label in found.labels} - sizes.keys()):
        counts[f"label {label}"] = [found.labels[label] for found in survey.splits.values()]
    rows = []
    for what, here in counts.items():
        there = [str(getattr(sizes[what], split)) if what in sizes else "" for split in survey.splits]
        rows.append([what, *(cell for pair in zip(map(str, here), there, strict=True) for cell in pair)])
    header = ["number of", *(name for split in survey.splits for name in (split, "published"))]
    return _table(header, rows) if sizes else _table(header[:1] + header[1::2], [row[:1] + row[1::2] for row in rows])


def _length_table(lengths: dict[str, np.ndarray], limit: int) -> Table:
    rows = []
    for split, tokens in lengths.items():
        cut = tokens > limit
        figures = [f"{tokens.mean():.1f}", f"{np.median(tokens):.0f}", f"{tokens.max()}"]
        rows.append([split, *figures, f"{cut.sum()}", f"{cut.mean():.2%}"])
    return _table(["subword tokens", "mean", "median", "longest", "cut", "share cut"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", style="dim" if name == "published" else None)
    for title, *cells in rows:
        table.add_row(Text(title), *cells)
    return table


if __name__ == "__main__":
    sys.exit(main())

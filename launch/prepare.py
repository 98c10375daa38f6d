"""Published corpora to the folders that training reads, and whether a folder is right.

python launch/prepare.py hoc --source hoc.zip --out data     # writes data/hoc
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness import UserError, runs, terminal
from harness.flags import Parser
from launch.train import EXIT_USER


@terminal.safely()
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 `check` found something of weight, 2 a mistake of the user's or unreadable data."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.umask(runs.OWNER_ONLY)
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
    one.add_argument("--model_name_or_path", metavar="M", help="measure lengths in word pieces of this encoder")
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
    from launch.check import check

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

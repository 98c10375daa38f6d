"""Published corpora to the folders that training reads, and whether a folder is right.

python launch/prepare.py hoc --source hoc.zip --out data     # writes data/hoc
"""

from __future__ import annotations

import argparse
import os
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

from harness import UserError, runs
from launch.train import EXIT_USER


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 a mistake of the user's; of `check` see there."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.umask(runs.OWNER_ONLY)
    try:
        options = _parser().parse_args(words)
        return int(options.call(options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message}; --help lists what there is")


def _parser() -> argparse.ArgumentParser:
    from tasks.corpora import CORPORA
    from tasks.corpora.records import Options
    from tasks.corpora.sentences import SPLITTERS

    parser = _Parser(allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
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
    return parser


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
        for split, entry in done.manifest["splits"].items():
            print(f"  {split}: {entry['chosen']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

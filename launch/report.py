"""Run folders to a leaderboard and a page to look at.

python launch/report.py runs --out report --baseline biobert-base-cased-v1.1
python launch/report.py bundle runs --out runs.zip      # for others, without the text of the corpora
python launch/report.py verify runs                     # is each score the one that its predictions give?
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.text import Text

import tasks
from harness import files
from harness.errors import UserError
from harness.flags import Parser
from harness.logs import Console
from harness.terminal import guarded, visible
from launch.reporting import collect, ensembles, leaderboard, overview, statistics, submission, tables

COMMANDS = {  # each a module of launch/reporting/
    "verify": "compute each score again from predictions and gold, and compare digests; exit status 1 if one differs",
    "bundle": "runs as one zip file without the text of the corpora, to make the same leaderboard elsewhere",
}
PIPE_WIDTH = 240  # columns where the output is no terminal: nothing is folded


def build_parser() -> Parser:
    """The flags of a report; `verify` and `bundle` have their own."""
    lines = "\n".join(f"  %(prog)s {name} RUNS...  {what}" for name, what in COMMANDS.items())
    parser = Parser(
        description=(__doc__ or "").splitlines()[0],
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"also (a folder of such a name is reported as ./verify):\n{lines}",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run folders, or folders that hold them")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write report.html, leaderboard.md, .tex, .csv, .json and, where settings were searched, "
        "overview.md, .tex, .csv here",
    )
    parser.add_argument(
        "--with_text", action="store_true", help="put the examples' texts, read from the data folders, into the page"
    )
    parser.add_argument("--suite", metavar="NAME", help="the total is this suite's, where runs of several lie together "
                        f"({', '.join(tasks.SUITES)}, or one of your own)")  # fmt: skip
    parser.add_argument("--baseline", metavar="MODEL", help="test every other row of the leaderboard against this one")
    parser.add_argument(
        "--published", action="store_true", help="show the published rows below ours, and the tasks without a run"
    )
    parser.add_argument(
        "--ensemble", action="store_true", help="below each row with several seeds, these seeds as one system"
    )
    parser.add_argument(
        "--blurb",
        type=Path,
        metavar="F.zip",
        help="write the test predictions of one encoder's runs, one run a task, in BLURB's form of submission; the "
        "README in it says what of that form could not be checked",
    )
    return parser


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 reported, 1 not verified, 2 a mistake of the user's."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        return int(importlib.import_module(f"launch.reporting.{words[0]}").main(words[1:]))
    given = build_parser().parse_args(words)
    if given.with_text and given.out is None:
        raise UserError("--with_text: texts go into the page, which only --out DIR writes; give both or neither")
    found = collect.find(given.runs)
    board = statistics.assess(leaderboard.build(found, given.published, given.suite))
    if given.ensemble:
        rows, remarks = ensembles.build(board)
        board = replace(board, ensembles=rows, missing=[*board.missing, *remarks])
    searched = overview.build(found)
    submitted = submission.write(found, given.blurb) if given.blurb is not None else []
    row = statistics.choose(board, given.baseline) if given.baseline else None
    tests, baseline = (statistics.compare(board, row), row.label) if row else ([], "")
    # Written first: a reader of the terminal's part, such as head, may leave early.
    texts = {}
    if given.out is not None:
        from launch.reporting import page  # plotly takes half a second

        texts = {
            "leaderboard.md": tables.markdown(board, tests, baseline),
            "leaderboard.tex": tables.latex(board, tests, baseline),
            "leaderboard.csv": tables.comma_separated(board),
            "leaderboard.json": tables.as_json(board, tests, baseline),
            "report.html": page.build(found, board, tests, baseline, given.with_text),
        }
        if searched:
            texts["overview.md"] = overview.markdown(searched)
            texts["overview.tex"] = overview.latex(searched)
            texts["overview.csv"] = overview.comma_separated(found)
    for name, text in texts.items():
        try:
            files.write(given.out / name, visible(text))
        except OSError as error:
            wrong = f"--out {given.out}: cannot be written ({error.strerror}); name a folder of yours"
            raise UserError(wrong) from error
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    is_shown = board.rows or board.published
    console.print(tables.terminal(board, console.width) if is_shown else tables.NO_ROWS)
    if tests:
        console.print(tables.tests_table(board, tests, baseline))
        console.print(Text(statistics.method(tests)), soft_wrap=True)
    for note in tables.notes(board):
        console.print(Text(note), soft_wrap=True)
    for one in searched:
        console.print(overview.terminal(one))
        for note in one.notes:
            console.print(Text(note), soft_wrap=True)
    for name in texts:
        print(given.out / name)
    for line in submitted:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())

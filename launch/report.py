"""Run folders to a leaderboard and a page to look at.

python launch/report.py runs --out report --baseline biobert-base-cased-v1.1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from harness import files
from harness.errors import UserError
from harness.flags import Parser
from harness.logs import Console
from harness.terminal import guarded, visible
from launch.reporting import collect, leaderboard, page, statistics, tables
from launch.reporting.leaderboard import Leaderboard
from launch.reporting.page import Report
from launch.reporting.statistics import Test

PIPE_WIDTH = 240  # columns where the output is no terminal: nothing is folded


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 reported, 2 a mistake of the user's."""
    return guarded(lambda: _main(argv))


def _parser() -> Parser:
    parser = Parser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run folders, or folders that hold them")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write report.html and leaderboard.md, .tex, .csv, .json here"
    )
    parser.add_argument(
        "--with_text", action="store_true", help="put the examples' texts, read from the data folders, into the page"
    )
    parser.add_argument("--baseline", metavar="MODEL", help="test every other row of the leaderboard against this one")
    return parser


def _main(argv: Sequence[str] | None) -> int:
    given = _parser().parse_args(argv)
    if given.with_text and given.out is None:
        raise UserError("--with_text: texts go into the page, which only --out DIR writes; give both or neither")
    found = collect.find(given.runs)
    board = leaderboard.build(found)
    baseline = statistics.choose(board, given.baseline) if given.baseline else None
    tests = statistics.compare(board, baseline) if baseline else []
    name = baseline.label if baseline else ""
    # Written first: a reader of the terminal's part, such as head, may leave early.
    written = _write(given.out, Report(found, board, tests, name, given.with_text)) if given.out else []
    _show(board, tests, name)
    for path in written:
        print(path)
    return 0


def _show(board: Leaderboard, tests: Sequence[Test], baseline: str) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    if board.rows:
        console.print(tables.terminal(board, console.width))
    else:
        console.print("No run counts for a leaderboard.")
    if tests:
        console.print(tables.tests_table(board, tests, baseline))
        console.print(Text(statistics.METHOD), soft_wrap=True)
    for note in tables.notes(board):
        console.print(Text(note), soft_wrap=True)


def _write(folder: Path, report: Report) -> list[Path]:
    board, tests, baseline = report.board, report.tests, report.baseline
    texts = {
        "leaderboard.md": tables.markdown(board, tests, baseline),
        "leaderboard.tex": tables.latex(board, tests, baseline),
        "leaderboard.csv": tables.comma_separated(board),
        "leaderboard.json": tables.as_json(board, tests, baseline),
        "report.html": page.build(report),
    }
    for name, text in texts.items():
        try:
            files.write(folder / name, visible(text))
        except OSError as error:
            raise UserError(f"--out {folder}: cannot be written ({error.strerror}); name a folder of yours") from error
    return [folder / name for name in texts]


if __name__ == "__main__":
    sys.exit(main())

"""The leaderboard as files and for the terminal. Tables show scores times 100, CSV and JSON hold fractions."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

import tasks
from launch.reporting.leaderboard import Cell, Leaderboard, Row, printed
from launch.reporting.statistics import METHOD, Test
from tasks import published
from tasks.published import Mean

NOTHING = "-"
SIGNIFICANT = 0.05
MOST_ALIKE = 5  # runs that are left out for one reason, in lines of their own
WIDE = 180  # columns of a terminal that holds a row of eleven scores
FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")  # what a spreadsheet computes begins so
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
TEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "]": "{]}"}


def cell(mean: float, std: float | None) -> str:
    """Of fractions: `85.3 (0.4)`, or `85.3` where there is no spread."""
    return f"{printed(mean):.1f}" + ("" if std is None else f" ({100 * std:.1f})")


def numbers(row: Row, column: str) -> tuple[str, str, str] | None:
    """(score, letters of marks, ` n=2` where seeds are missing) of a row's column; None where there is nothing."""
    found = row.value(column)
    if found is None:
        return None
    fewer = f" n={len(found.runs)}" if isinstance(found, Cell) and len(found.runs) < len(row.seeds) else ""
    return cell(found.mean, found.std), found.marks, fewer


def caption(board: Leaderboard) -> str:
    """What the numbers are, in one sentence."""
    return (
        "Test scores times 100, mean (standard deviation) over seeds; the total is the mean of the ten tasks. "
        "Bold: the best of our rows in each column."
    )


def notes(board: Leaderboard) -> list[str]:
    """Footnotes: the marks that occur, rows without a total, and what was left out."""
    lines = [f"{mark}: {text}" for mark, text in board.marks.items()]
    for row in board.rows:
        if row.total is None and set(row.cells) & set(tasks.TASKS):
            lacking = [board.columns[task] for task in tasks.TASKS if task not in row.cells]
            lines.append(f"{row.label}: no total without {', '.join(lacking)}")
    if board.own:
        lines.append(f"not of the ten, and not in the total: {'; '.join(board.own.values())}")
    if any("#" in task for task in board.own):
        lines.append("#: task files of one name that do not say the same; each has a column of its own")
    return [*lines, *board.missing, *_left_out(board)]


def _left_out(board: Leaderboard) -> list[str]:
    """A line a run; one for all where one reason has kept many out."""
    alike: dict[str, list[str]] = {}
    for run, why in board.left_out:
        alike.setdefault(why, []).append(str(run.folder))
    lines = []
    for why, folders in alike.items():
        if len(folders) > MOST_ALIKE:
            lines.append(f"left out: {len(folders)} runs, {folders[0]} to {folders[-1]} ({why})")
        else:
            lines += [f"left out: {folder} ({why})" for folder in folders]
    return lines


# ---- terminal
def terminal(board: Leaderboard, width: int) -> Table:
    """For rich: a row a model where the terminal is wide enough, else a column a model."""
    lines = [[Text(name) for name in ("model", "seeds", *board.columns.values())]]
    for row in board.rows:
        lines.append([Text(row.label), Text(str(len(row.seeds))), *(_cell(board, row, c) for c in board.columns)])
    for title, scores in published.ROWS.items():
        texts = [beside(scores.get(column)) for column in board.columns]
        lines.append([Text(text, "dim") for text in (f"{title} (published)", str(published.SEEDS), *texts)])
    table = Table(title="Leaderboard", title_justify="left", caption=caption(board), caption_justify="left")
    if width < WIDE:
        lines = [list(line) for line in zip(*lines, strict=True)]
    for place, name in enumerate(lines[0]):
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for line in lines[1:]:
        table.add_row(*line)
    return table


def _cell(board: Leaderboard, row: Row, column: str) -> Text:
    found = numbers(row, column)
    if found is None:
        return Text(NOTHING)
    text, marks, count = found
    style = "bold" if _is_best(board, row, column) else ""
    return Text.assemble((text, style), f" {marks}" if marks else "", count)


def beside(mean: Mean | None) -> str:
    """A published score, as `cell` shows ours; nothing is published of a custom task."""
    return NOTHING if mean is None else f"{mean.mean:.1f} ({mean.std:.1f})"


def tests_table(board: Leaderboard, tests: Sequence[Test], baseline: str) -> Table:
    """Differences to the baseline, for rich."""
    table = Table(title=f"Against {baseline}", title_justify="left")
    for name in ("model", "task", "difference", "p", "on"):
        table.add_column(name, justify="right" if name in ("difference", "p") else "left")
    for test in tests:
        table.add_row(test.row, board.columns[test.task], difference(test), p_value(test), test.remark)
    return table


def difference(test: Test) -> str:
    """Times 100, with its sign."""
    return NOTHING if test.difference is None else f"{100 * test.difference:+.1f}"


def p_value(test: Test) -> str:
    """With a star below SIGNIFICANT."""
    if test.p is None:
        return NOTHING
    return ("<0.001" if test.p < 0.001 else f"{test.p:.3f}") + ("*" if test.p < SIGNIFICANT else "")


def _is_best(board: Leaderboard, row: Row, column: str) -> bool:
    found = row.value(column)
    return found is not None and board.is_best(column, found.mean)


def _formatted(board: Leaderboard, row: Row, column: str, bold: str, raised: str, nothing: str = NOTHING) -> str:
    """A cell as text. `bold` and `raised` are formats, of the best score and of the marks behind a score."""
    found = numbers(row, column)
    if found is None:
        return nothing
    text, marks, count = found
    text = bold.format(text) if _is_best(board, row, column) else text
    return text + (raised.format(marks) if marks else "") + count


# ---- Markdown
def markdown(board: Leaderboard, tests: Sequence[Test] = (), baseline: str = "") -> str:
    """A table as GitHub shows it, with notes below."""
    lines = [_line(["model", "seeds", *map(_plain, board.columns.values())])]
    lines.append("|---|" + "---:|" * (len(board.columns) + 1))
    for row in board.rows:
        cells = [_formatted(board, row, column, "**{}**", "<sup>{}</sup>") for column in board.columns]
        lines.append(_line([_plain(row.label), str(len(row.seeds)), *cells]))
    for title, scores in published.ROWS.items():
        texts = [beside(scores.get(column)) for column in board.columns]
        lines.append(_line([f"*{title}, published*", str(published.SEEDS), *texts]))
    text = "\n".join(lines) + f"\n\n{caption(board)} Published rows: {published.SOURCE}.\n"
    if tests:
        text += f"\nAgainst **{_plain(baseline)}**: {METHOD}. \\*: p < {SIGNIFICANT}.\n\n"
        text += "\n".join([_line(["model", "task", "difference", "p", "on"]), "|---|---|---:|---:|---|"])
        for test in tests:
            cells = [
                _plain(test.row),
                _plain(board.columns[test.task]),
                difference(test),
                p_value(test),
                _plain(test.remark),
            ]
            text += "\n" + _line([part.replace("*", "\\*") for part in cells])
        text += "\n"
    return text + "".join(f"\n- {_plain(note)}" for note in notes(board)) + ("\n" if notes(board) else "")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


# ---- LaTeX
def latex(board: Leaderboard, tests: Sequence[Test] = (), baseline: str = "") -> str:
    """A `table*` with booktabs rules (\\usepackage{booktabs}); a second one for the tests."""
    head = " & ".join(["Model", "Seeds", *map(tex, board.columns.values())])
    lines = [r"% \usepackage{booktabs}", r"\begin{table*}", r"\centering\small", r"\setlength{\tabcolsep}{3pt}"]
    lines += [rf"\begin{{tabular}}{{lr{'r' * len(board.columns)}}}", r"\toprule", rf"{head} \\", r"\midrule"]
    for row in board.rows:
        cells = [
            _formatted(board, row, column, r"\textbf{{{}}}", r"\textsuperscript{{{}}}", "--")
            for column in board.columns
        ]
        lines.append(" & ".join([tex(row.label), str(len(row.seeds)), *cells]) + r" \\")
    lines.append(r"\midrule")
    for title, scores in published.ROWS.items():
        texts = [beside(scores.get(column)) for column in board.columns]
        lines.append(" & ".join([rf"\textit{{{tex(title)}}}", str(published.SEEDS), *texts]) + r" \\")
    text = [
        caption(board),
        f"In italics, published: {published.SOURCE}.",
        *(f"{mark}: {meaning}." for mark, meaning in board.marks.items()),
    ]
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{tex(' '.join(text))}}}", r"\end{table*}"]
    if tests:
        lines += [r"\begin{table}", r"\centering\small", r"\begin{tabular}{llrr}", r"\toprule"]
        lines += [r"Model & Task & Difference & $p$ \\", r"\midrule"]
        for test in tests:
            if test.p is not None:
                cells = [tex(test.row), tex(board.columns[test.task]), f"${difference(test)}$", tex(p_value(test))]
                lines.append(" & ".join(cells) + r" \\")
        about = tex(f"Difference to {baseline}, times 100, and p-value by {METHOD}. *: p < {SIGNIFICANT}.")
        lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{about}}}", r"\end{table}"]
    lines += [f"% {note}" for line in notes(board) for note in line.splitlines()]
    return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(TEX.get(letter, letter) for letter in text).replace("<", r"$<$").replace(">", r"$>$")


# ---- files for programs
def comma_separated(board: Leaderboard) -> str:
    """One line a score: fractions; `kind` is ours or published, or note for what a suite left out."""
    lines: list[list[Any]] = []
    lines.append(["kind", "model", "task", "mean", "std", "seeds", "scores", "marks", "best"])
    for row in board.rows:
        for column in board.columns:
            found = row.value(column)
            if found is None:
                continue
            runs = found.runs if isinstance(found, Cell) else {}
            scores = " ".join(repr(runs[seed].test_score) for seed in sorted(runs))
            head = ["ours", row.label, column, repr(found.mean), "" if found.std is None else repr(found.std)]
            seeds = " ".join(map(str, sorted(runs) or row.seeds))
            lines.append([*head, seeds, scores, found.marks, int(board.is_best(column, found.mean))])
    for title, means in published.ROWS.items():
        for column, published_mean in means.items():
            mean, std = round(published_mean.mean / 100, 4), round(published_mean.std / 100, 4)
            lines.append(["published", title, column, mean, std, published.SEEDS, "", "", ""])
    for line in board.missing:
        lines.append(["note", line, *[""] * 7])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([_no_formula(str(cell)) for cell in line] for line in lines)
    return out.getvalue()


def _no_formula(cell: str) -> str:
    """A spreadsheet would compute what begins as a formula; behind an apostrophe it is text. Numbers stay numbers."""
    is_formula = FORMULA.match(cell) and not all(NUMBER.fullmatch(part) for part in cell.split(" "))
    return f"'{cell}" if is_formula else cell


def as_json(board: Leaderboard, tests: Sequence[Test] = (), baseline: str = "") -> str:
    """Everything that the other forms show; fractions."""
    rows: list[Mapping[str, Any]] = []
    for row in board.rows:
        cells = {
            task: {
                "mean": found.mean,
                "std": found.std,
                "scores": {str(seed): run.test_score for seed, run in sorted(found.runs.items())},
                "folders": {str(seed): str(run.folder) for seed, run in sorted(found.runs.items())},
                "marks": found.marks,
            }
            for task, found in row.cells.items()
        }
        total = row.total and {"mean": row.total.mean, "std": row.total.std, "marks": row.total.marks}
        rows.append({"model": row.label, "seeds": row.seeds, "total": total, "tasks": cells})
    tested = [
        {**{name: getattr(test, name) for name in ("row", "task", "difference", "p")},
         "seeds": list(test.seeds), "remark": test.remark}
        for test in tests
    ]  # fmt: skip
    rows_beside = {
        title: {column: {"mean": round(s.mean / 100, 4), "std": round(s.std / 100, 4)} for column, s in means.items()}
        for title, means in published.ROWS.items()
    }
    values = {
        "rows": rows,
        "published": {"source": published.SOURCE, "seeds": published.SEEDS, "rows": rows_beside},
        "marks": board.marks,
        "significance": {"baseline": baseline, "method": METHOD, "tests": tested} if tests else None,
        "left_out": [{"folder": str(run.folder), "why": why} for run, why in board.left_out],
        "missing": list(board.missing),
    }
    return json.dumps(values, indent=2, allow_nan=False) + "\n"

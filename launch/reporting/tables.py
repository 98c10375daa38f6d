"""The leaderboard as files and for the terminal. Tables show scores times 100, CSV and JSON hold fractions."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from launch.reporting import intervals
from launch.reporting.leaderboard import Leaderboard, Row, printed
from launch.reporting.statistics import Test, method
from tasks import published

NOTHING = "-"
NO_ROWS = "No run counts for a leaderboard."
MOST_NAMED = 2  # missing tasks, in a cell
ENSEMBLES = (
    "the mean probability of a row's seeds where all have written theirs, else a majority vote (of a tie the first "
    "seed's answer among the tied), the mean of similarity scores; each is one system of several, never in bold"
)
MOST_ALIKE = 5  # runs that are left out for one reason, in lines of their own
LABEL = 16  # letters of a model's name in a line, where it stands above a column
FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")  # what a spreadsheet computes begins so
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
TEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "]": "{]}", "<": r"$<$", ">": r"$>$"}
TEST_HEAD = ("model", "task", "difference", "p", "p (Holm)", "on")


def caption(board: Leaderboard) -> str:
    """What the numbers of a table are."""
    suite, titles = board.suite, {**{task: task for task in board.suite.tasks}, **board.every_column}
    tasks_of = f"the {len(suite.tasks)} tasks of suite {suite.name}" if suite.name else "the ten tasks"
    if suite.groups:
        groups = [f"{name} ({', '.join(titles[task] for task in of)})" for name, of in suite.groups.items()]
        tasks_of = f"the means of the groups of suite {suite.name}, {'; '.join(groups)}"
    text = f"Test scores times 100, mean (standard deviation) over seeds; the total is the mean of {tasks_of}. "
    text += "Bold: the best of our rows in each column on the seeds that all have, and those that cannot be told apart "
    text += "from it (paired bootstrap at 5 %, corrected for the number of rows)."
    if suite.shared:
        text += f" {titles['total_shared']}: over the tasks that all rows have, "
        text += f"{', '.join(titles[task] for task in suite.shared)}."
    if board.ensembles:
        text += f" Ensembles: {ENSEMBLES}."
    return text + (f" Published rows: {published.SOURCE}." if board.published else "")


def without_total(board: Leaderboard, row: Row) -> str:
    """For the total's cell of a row that has none: which tasks it lacks, or how many; `notes` name them."""
    lacks = board.lacking(row)
    return f"lacks {len(lacks) if len(lacks) > MOST_NAMED else ', '.join(lacks)}" if lacks else ""


def cell(mean: float, std: float | None) -> str:
    """Of fractions: `85.3 (0.4)`, or `85.3` where there is no spread."""
    return f"{printed(mean):.1f}" + ("" if std is None else f" ({100 * std:.1f})")


def numbers(row: Row, column: str) -> tuple[str, str, str] | None:
    """(score, letters of marks, ` n=2` where seeds are missing) of a row's column; None where there is nothing."""
    found = row.cells.get(column)
    if found is None:
        return None
    count = len(found.runs) or found.members
    fewer = f" n={count}" if 0 < count < len(row.seeds) else ""
    return cell(found.mean, found.std), found.marks, fewer


def notes(board: Leaderboard) -> list[str]:
    """Footnotes, in the order of `grouped_notes`."""
    return [line for lines in grouped_notes(board).values() for line in lines]


def grouped_notes(board: Leaderboard) -> dict[str, list[str]]:
    """Kind -> footnotes: the marks that occur, rows without a total, and what was left out: a line a run, or one for
    all where one reason has kept many out."""
    found: dict[str, list[str]] = {"marks": [f"{mark}: {text}" for mark, text in board.marks.items()]}
    for row in board.rows:
        if lacking := board.lacking(row):
            found.setdefault("no total", []).append(f"{row.label}: no total without {', '.join(lacking)}")
    if outside := [title for column, title in board.columns.items() if column in board.outside]:
        of_suite = f"suite {board.suite.name}" if board.suite.name else "the ten"
        found["columns"] = [f"not of {of_suite}, and not in the total: {'; '.join(outside)}"]
    if any("#" in task for task in board.own):
        alike_names = "#: task files of one name that do not say the same; each has a column of its own"
        found.setdefault("columns", []).append(alike_names)
    if any("[" in task for task in board.own):
        differ = "[ ]: runs on other data, or scored by another version of the metric, than those of the task's column"
        found.setdefault("columns", []).append(f"{differ}: nothing is averaged or compared over both")
    found["intervals, ranks and bold"] = list(board.remarks)
    found["missing runs"] = list(board.missing)
    alike: dict[str, list[str]] = {}
    for run, why in board.left_out:
        alike.setdefault(why, []).append(run.name)
    for why, folders in alike.items():
        lines = [f"left out: {folder} ({why})" for folder in folders]
        if len(folders) > MOST_ALIKE:
            lines = [f"left out: {len(folders)} runs, {folders[0]} to {folders[-1]} ({why})"]
        found.setdefault("left out", []).extend(lines)
    return {kind: lines for kind, lines in found.items() if lines}


@dataclass(frozen=True)
class Form:
    """How a kind of table writes its cells; all but the first are formats."""

    plain: Callable[[str], str]  # text that must not be read as markup
    best: str = "{}"  # the best score of a column
    marks: str = " {}"  # the letters behind a score
    published: str = "{}"  # the title of a published row
    nothing: str = NOTHING


def lines(board: Leaderboard, form: Form) -> tuple[list[list[str]], list[list[str]]]:
    """(our rows and their ensembles, the published ones): label, number of seeds and a cell a column of each."""
    ours, references = [], []
    for row in (*board.rows, *board.ensembles):
        ours.append([form.plain(row.label), str(len(row.seeds))])
        for column in board.columns:
            lacks = form.plain(without_total(board, row)) if column == "total" else ""
            text, marks, count = numbers(row, column) or (lacks or form.nothing, "", "")
            if column in row.cells and row.cells[column].is_best:
                text = form.best.format(text)
            ours[-1].append(text + (form.marks.format(marks) if marks else "") + count)
    for row in board.published:
        cells = [(numbers(row, column) or (form.nothing,))[0] for column in board.columns]
        references.append([form.published.format(form.plain(row.label)), str(published.SEEDS), *cells])
    return ours, references


def test_cells(board: Leaderboard, test: Test) -> tuple[str, str, str, str, str, str]:
    """For the columns of TEST_HEAD: the difference times 100; the corrected p has a star below SIGNIFICANT."""
    difference = NOTHING if test.difference is None else f"{printed(test.difference) + 0.0:+.1f}"  # no -0.0
    ps = [NOTHING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}" for p in (test.p, test.corrected)]
    star = "*" if test.is_significant else ""
    return test.row, board.columns[test.task], difference, ps[0], ps[1] + star, test.remark


def interval_cells(board: Leaderboard, form: Form, dash: str) -> list[list[str]]:
    """A line a column of the leaderboard, where a row has an interval or a rank: title, then of each row
    `81.2-84.5 (1-2)`, the interval times 100 and the rank."""
    made = []
    for column, title in board.columns.items():
        line = []
        for row in board.rows:
            found = row.cells.get(column)
            ends = dash.join(f"{printed(end):.1f}" for end in (found and found.interval) or ())
            places = dash.join(map(str, dict.fromkeys((found and found.rank) or ())))  # once where both are one
            line.append(f"{ends} ({places})" if places else ends or form.nothing)
        if any(cell != form.nothing for cell in line):
            made.append([form.plain(title), *line])
    return made


# ---- terminal
def terminal(board: Leaderboard, width: int) -> Group:
    """For rich: a row a model where that fits, else a column a model, in as many tables as are needed."""
    form = Form(escape, best="[bold]{}[/bold]", published="{} (published)")
    ours, references = lines(board, form)
    texts = [[escape(name) for name in ("model", "seeds", *board.columns.values())], *ours]
    texts += [[f"[dim]{text}[/dim]" for text in line] for line in references]
    cells = [[Text.from_markup(text, emoji=False) for text in line] for line in texts]
    head, *rows = cells
    shown = [cells]
    if sum(max(cell.cell_len for cell in column) + 3 for column in zip(*cells, strict=True)) + 1 > width:
        taken = free = max(cell.cell_len for cell in head) + 4
        shown = []
        for row in rows:
            needed = max(min(row[0].cell_len, LABEL), *(cell.cell_len for cell in row[1:])) + 3
            if not shown or taken + needed > width:
                shown.append([head])
                taken = free
            shown[-1].append(row)
            taken += needed
        shown = [[list(line) for line in zip(*group, strict=True)] for group in shown]
    above = [Text(f"All rows: {board.shared}")] if board.shared else []
    return Group("Leaderboard", *above, *map(_rich_table, shown), Text(caption(board)))


def _rich_table(texts: Sequence[Sequence[Text]]) -> Table:
    """The names of columns may take several lines, their cells do not."""
    table = Table()
    for place, (name, *column) in enumerate(zip(*texts, strict=True)):
        least = max((cell.cell_len for cell in column), default=0)
        table.add_column(name, justify="right" if place else "left", overflow="fold", min_width=least)
    for line in texts[1:]:
        table.add_row(*line)
    return table


def tests_table(board: Leaderboard, tests: Sequence[Test], baseline: str) -> Table:
    """Differences to the baseline, for rich."""
    table = Table(title=f"Against {baseline}", title_justify="left")
    for name in TEST_HEAD:
        table.add_column(name, justify="right" if name not in ("model", "task", "on") else "left")
    for test in tests:
        table.add_row(*test_cells(board, test))
    return table


# ---- Markdown
def plain(text: str) -> str:
    """Text in a cell or a line of Markdown."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def markdown_table(head: Sequence[str], parts: Sequence[Sequence[str]], left: int = 1) -> str:
    """Cells as they are; the first `left` columns to the left."""
    rule = "|" + "---|" * left + "---:|" * (len(head) - left)
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *parts)]
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def markdown(board: Leaderboard, tests: Sequence[Test] = (), baseline: str = "") -> str:
    """A table as GitHub shows it, with notes below."""
    form = Form(plain, best="**{}**", marks="<sup>{}</sup>", published="*{}, published*")
    ours, references = lines(board, form)
    text = f"All rows: {plain(board.shared)}\n\n" if board.shared and ours else ""
    text += markdown_table(["model", "seeds", *map(plain, board.columns.values())], [*ours, *references])
    text += f"\n{caption(board)}\n"
    text = text if ours or references else f"{NO_ROWS}\n"
    if ranges := interval_cells(board, form, "-"):
        head = ["task", *(plain(row.label) for row in board.rows)]
        text += f"\n{intervals.METHOD}.\n\n{markdown_table(head, ranges)}"
    if tests:
        about = method(tests).replace("*", "\\*")
        text += f"\nAgainst **{plain(baseline)}**: {about}.\n\n"
        text += "| " + " | ".join(TEST_HEAD) + " |\n|---|---|---:|---:|---:|---|\n"
        for test in tests:
            row, task, *ps, remark = test_cells(board, test)
            cells = [plain(row), plain(task), *ps, plain(remark)]
            text += "| " + " | ".join(part.replace("*", "\\*") for part in cells) + " |\n"
    return text + "".join(f"\n- {plain(note)}" for note in notes(board)) + ("\n" if notes(board) else "")


# ---- LaTeX
def tex(text: str) -> str:
    """Text of a LaTeX document."""
    return "".join(TEX.get(letter, letter) for letter in text)


def tex_table(kind: str, layout: str, head: Sequence[str], parts: Sequence[Sequence[str]], caption: str) -> list[str]:
    """Lines of an environment `kind` with booktabs rules; `parts`: blocks of rows, cells joined by &."""
    made = [rf"\begin{{{kind}}}", r"\centering\small", rf"\begin{{tabular}}{{{layout}}}", r"\toprule"]
    for part in ([" & ".join(head)], *parts):
        made += [*(rf"{line} \\" for line in part), r"\midrule"]
    return [*made[:-1], r"\bottomrule", r"\end{tabular}", rf"\caption{{{tex(caption)}}}", rf"\end{{{kind}}}"]


def latex(board: Leaderboard, tests: Sequence[Test] = (), baseline: str = "") -> str:
    """A `table*` with booktabs rules (\\usepackage{booktabs}); a second one for the tests."""
    form = Form(tex, r"\textbf{{{}}}", r"\textsuperscript{{{}}}", r"\textit{{{}}}", "--")
    parts = [[" & ".join(cells) for cells in part] for part in lines(board, form) if part]
    text = [f"All rows: {board.shared}."] if board.shared else []
    text += [caption(board).replace("Published rows:", "In italics, published:")]
    text += [f"{mark}: {meaning}." for mark, meaning in board.marks.items()]
    head = ["Model", "Seeds", *map(tex, board.columns.values())]
    made = tex_table("table*", f"lr{'r' * len(board.columns)}", head, parts, " ".join(text))
    made[2:2] = [r"\setlength{\tabcolsep}{3pt}"]
    made = made if parts else [f"% {NO_ROWS}"]
    if ranges := interval_cells(board, form, "--"):
        part = [" & ".join(cells) for cells in ranges]
        head = ["Task", *(tex(row.label) for row in board.rows)]
        made += tex_table("table*", f"l{'r' * len(board.rows)}", head, [part], f"{intervals.METHOD}.")
    if tests:
        part = []
        for test in tests:
            if test.p is not None:
                row, task, difference, p, corrected, _ = test_cells(board, test)
                part.append(f"{tex(row)} & {tex(task)} & ${difference}$ & {tex(p)} & {tex(corrected)}")
        about = f"Difference to {baseline}, times 100, and p-value by {method(tests)}."
        made += tex_table("table", "llrrr", ["Model", "Task", "Difference", "$p$", "$p$ (Holm)"], [part], about)
    made += [f"% {note}" for line in notes(board) for note in line.splitlines()]
    return "\n".join([r"% \usepackage{booktabs}", *made]) + "\n"


# ---- files for programs
def comma_separated(board: Leaderboard) -> str:
    """One line a score: fractions; `kind` is ours or published, or note for what a suite left out."""
    made: list[list[Any]] = [["kind", "model", "task", "mean", "std", "seeds", "scores", "marks", "best"]]
    made[0] += ["low", "high", "rank_best", "rank_worst"]
    for row in board.rows:
        for column, found in row.cells.items():
            bounds = [*(found.interval or ("", "")), *(found.rank or ("", ""))]
            seeds = " ".join(map(str, sorted(found.runs) or row.seeds))
            scores = " ".join(map(repr, found.scores))
            std = "" if found.std is None else found.std
            figures = [found.mean, std, seeds, scores, found.marks, int(found.is_best), *bounds]
            made.append(["ours", row.label, column, *figures])
    for row in board.ensembles:
        for column, found in row.cells.items():
            members = found.members or len(row.seeds)
            made.append(["ensemble", row.label, column, found.mean, "", members, "", found.marks, *[""] * 5])
    for row in board.published:
        for column, found in row.cells.items():
            made.append(["published", row.label, column, found.mean, found.std, published.SEEDS, *[""] * 7])
    said = [caption(board), *([f"all rows: {board.shared}"] if board.shared else [])]
    made += [["note", line, *[""] * 11] for line in (*said, *board.remarks, *board.missing)]
    return csv_text(made)


def csv_text(lines: Sequence[Sequence[Any]]) -> str:
    """Lines of cells as a CSV file."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([_no_formula(str(cell)) for cell in line] for line in lines)
    return out.getvalue()


def _no_formula(cell: str) -> str:
    """A spreadsheet would compute what begins as a formula; behind an apostrophe it is text. Numbers stay numbers."""
    is_formula = FORMULA.match(cell) and not all(NUMBER.fullmatch(part) for part in cell.split(" "))
    return f"'{cell}" if is_formula else cell


def as_json(board: Leaderboard, tests: Sequence[Test] = (), baseline: str = "") -> str:
    """Everything that the other forms show; fractions."""
    rows = []
    for row in board.rows:
        cells: dict[str, Any] = {}
        for column, found in row.cells.items():
            runs = {str(seed): run.name for seed, run in sorted(found.runs.items())}
            scores = {"scores": dict(zip(runs, found.scores, strict=True)), "folders": runs} if runs else {}
            cells[column] = {"mean": found.mean, "std": found.std, **scores, "marks": found.marks}
            cells[column] |= {"best": found.is_best, "interval": found.interval, "rank": found.rank}
        totals = {name: cells.pop(name, None) for name in ("total", "total_shared")}
        rows.append({"model": row.label, "seeds": row.seeds, **totals, "lacks": board.lacking(row), "tasks": cells})
    references = {
        row.label: {column: {"mean": one.mean, "std": one.std} for column, one in row.cells.items()}
        for row in board.published
    }
    tested = [dataclasses.asdict(test) for test in tests]
    values = {
        "rows": rows,
        "ensembles": [_ensemble(row) for row in board.ensembles],
        "settings_of_all_rows": board.shared,
        "suite": dataclasses.asdict(board.suite),
        "published": {"source": published.SOURCE, "seeds": published.SEEDS, "rows": references},
        "marks": board.marks,
        "intervals": intervals.METHOD,
        "remarks": list(board.remarks),
        "significance": {"baseline": baseline, "method": method(tests), "tests": tested} if tests else None,
        "left_out": [{"folder": run.name, "why": why} for run, why in board.left_out],
        "missing": list(board.missing),
    }
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def _ensemble(row: Row) -> dict[str, Any]:
    cells = {
        column: {"score": cell.mean, "seeds": cell.members, "marks": cell.marks} for column, cell in row.cells.items()
    }
    return {"model": row.label, **{name: cells.pop(name, None) for name in ("total", "total_shared")}, "tasks": cells}

"""Runs to the table that goes into a paper: a row a model, a column a task, test scores over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tasks
from harness.validation import unknown
from launch.jobs import suite_record
from launch.jobs.suite_record import Total
from launch.jobs.suites import natural
from launch.jobs.tuning import SMALL_DEV, counts_of
from launch.reporting import paths, searches, series
from launch.reporting.collect import RowKey, Run, joined, written
from tasks import published

MARKS = {  # letter after a score -> what it says
    "d": "dev was trained on (as the published recipe does): its score says little",
    "t": f"tiny dev set: fewer than {SMALL_DEV} examples, or positive ones; what was chosen by it was chosen by noise",
    "s": "seeds are missing that other tasks of the row have",
    "u": "unfinished, failed or unreadable runs are left out",
    "x": "its runs differ in examples per step, data folder, selected epoch or chosen settings",
    "c": "its settings were chosen by dev among those of a sweep",
    "b": "its settings were chosen by dev in more or fewer trials than other rows of the column had",
    "r": "repeated: several runs of one seed; the newest counts",
    "l": "long: over 1 % of its test examples (tagging: words) were cut (with --stride: a pair's shorter text)",
}
MUCH = 0.01  # of test that is cut
SEARCHED = {"chosen": " (tuned)", "sweep": " (sweep)", "trial": " (trials)"}  # kind of search -> behind the model


@dataclass(frozen=True)
class Score:
    """Test score of one row in one column, as a fraction."""

    mean: float
    std: float | None  # sample standard deviation over seeds; None for one seed
    marks: str = ""  # letters of MARKS
    runs: Mapping[int, Run] = field(default_factory=dict)  # by seed; empty for a total and for what is published
    scores: Sequence[float] = ()  # of the runs, by seed
    members: int = 0  # seeds of an ensemble
    trials: int = 0  # runs of all trials that its settings were chosen by; 0: nothing was searched
    is_best: bool = False  # bold: best of its column or not told apart from it, see launch/reporting/statistics.py
    interval: tuple[float, float] | None = None  # 95 %, fractions, see launch/reporting/intervals.py
    rank: tuple[int, int] | None = None  # best and worst place in the column, from 1: tied rows share places


@dataclass(frozen=True)
class Row:
    """One model under one choice of settings."""

    label: str
    # By column, in their order: "total" where all tasks of the suite are there, "total_shared" over those that all rows
    # have where some row has no total, tasks with a counted run.
    cells: Mapping[str, Score]
    seeds: Sequence[int] = ()  # of the suite's tasks, where it has any of them
    is_choice: bool = False  # one of several settings of a model: no test score may choose, so never bold or ranked

    @property
    def total(self) -> Score | None:
        """Mean over the suite's tasks, or of the means of its groups. Its deviation is that of the seeds' totals."""
        return self.cells.get("total")


@dataclass(frozen=True)
class Suite:
    """The tasks that a total is of. Without a suite's own record it is BLUE: its ten, each counting alike."""

    name: str = ""  # "": BLUE
    tasks: Sequence[str] = tasks.BLUE
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)  # their means count alike; empty: the tasks do
    shared: Sequence[str] = ()  # tasks of "total_shared"; empty where there is none

    def weights(self, column: str) -> dict[str, float]:
        """Task -> its part of the total that is called so; they add up to 1. Empty for the column of a task."""
        of = {"total": self.tasks, "total_shared": self.shared}.get(column, ())
        groups = [[task for task in group if task in of] for group in (self.groups or {"": self.tasks}).values()]
        groups = [group for group in groups if group]
        return {task: 1 / len(groups) / len(group) for group in groups for task in group}

    def total(self, cells: Mapping[str, Score], column: str) -> Score | None:
        """None where there is no such total, or one of its tasks is missing in `cells`."""
        weights = self.weights(column)
        if not weights or any(task not in cells for task in weights):
            return None
        found = [cells[task] for task in weights]
        marks = "".join(mark for mark in "suxcb" if any(mark in cell.marks for cell in found))
        mean, std = statistics.fmean([cell.mean for cell in found], weights.values()), None
        # Else the seeds have no totals of their own.
        if all(cell.runs for cell in found) and len({frozenset(cell.runs) for cell in found}) == 1:
            by_seed = zip(*(cell.scores for cell in found), strict=True)
            _, std = _mean_and_std([statistics.fmean(scores, weights.values()) for scores in by_seed])
        return Score(mean, std, marks)

    def with_totals(self, cells: Mapping[str, Score]) -> dict[str, Score]:
        """A row's cells, its totals before its tasks."""
        totals = {name: self.total(cells, name) for name in ("total", "total_shared")}
        return {**{name: total for name, total in totals.items() if total is not None}, **cells}


PUBLISHED = [
    Row(title, {column: Score(round(one.mean / 100, 4), round(one.std / 100, 4)) for column, one in scores.items()})
    for title, scores in published.ROWS.items()
]


@dataclass(frozen=True)
class Leaderboard:
    """Models by total, then by label; those without a total last. The rows of one model stand together, by label: they
    are choices among its settings or its checkpoints, which no test score may order."""

    rows: Sequence[Row]
    left_out: Sequence[tuple[Run, str]]  # every run that is not in a cell, and why
    own: Mapping[str, str]  # custom tasks that have a score -> title
    missing: Sequence[str]  # lines on runs of the same suites that were never started, see launch/jobs/suites.py
    shared: str = ""  # settings that all rows have in common, see `shared_settings`: no label says them
    suite: Suite = field(default_factory=Suite)
    ensembles: Sequence[Row] = ()  # shown below ours, and never among the best: they are several systems
    references: Sequence[Row] = ()  # published ones, with totals over the same tasks as ours
    published: Sequence[Row] = ()  # those of them that tables show below ours
    remarks: Sequence[str] = ()  # lines on what intervals, ranks and bold rest on

    @property
    def columns(self) -> dict[str, str]:
        """Names and titles of what tables show: `every_column` that our rows have, all with the published rows."""
        ours = {column for row in self.rows for column in row.cells}
        shown = {*ours, "total"} if ours & {*self.suite.tasks} else ours
        if self.published or not ours:
            shown = {*ours, "total", "total_shared", *tasks.BLUE, *self.own}
        return {name: title for name, title in self.every_column.items() if name in shown}

    @property
    def every_column(self) -> dict[str, str]:
        """Names and titles: the totals, the tasks that ship, then the custom ones."""
        shared = f"Total ({len(self.suite.shared)} of {len(self.suite.tasks)})"
        totals = {"total": "Total", **({"total_shared": shared} if self.suite.shared else {})}
        return {**totals, **{task: known.title for task, known in tasks.TASKS.items()}, **self.own}

    @property
    def outside(self) -> list[str]:
        """Tasks that have a score and are in no total."""
        scored = {column for row in self.rows for column in row.cells}
        return [name for name in self.every_column if name in scored - {"total", "total_shared", *self.suite.tasks}]

    def lacking(self, row: Row) -> list[str]:
        """Titles of the suite's tasks that the row has no score of; none where it has none of the suite at all."""
        lacks = [self.every_column.get(task, task) for task in self.suite.tasks if task not in row.cells]
        return lacks if len(lacks) < len(self.suite.tasks) else []

    @property
    def marks(self) -> dict[str, str]:
        """The letters that occur, with their meaning."""
        used = {mark for row in self.rows for score in row.cells.values() for mark in score.marks}
        more = {mark: self._trials(mark) for mark in "cb"} | {"l": self._cut()}
        return {mark: text + more.get(mark, "") for mark, text in MARKS.items() if mark in used}

    def _cut(self) -> str:
        """How much of test was cut, where that is much."""
        shares = {
            f"{row.label} {self.every_column[name]}": share
            for row in self.rows
            for name, cell in row.cells.items()
            if (share := max(map(share_cut, cell.runs.values()), default=0.0)) > MUCH
        }
        return f" ({', '.join(f'{name} {100 * share:.0f} %' for name, share in shares.items())})" if shares else ""

    def _trials(self, mark: str) -> str:
        """Of the marks that are about searches: by how many runs of trials the settings of each row were chosen."""
        said = []
        for row in self.rows:
            cells = [cell for cell in row.cells.values() if cell.runs]
            if mark == "b" or (mark == "c" and any("c" in cell.marks for cell in cells)):
                said.append(f"{row.label} {' or '.join(map(str, sorted({cell.trials for cell in cells})))}")
        return f" (trials a task: {', '.join(said)})" if said else ""


def printed(fraction: float) -> float:
    """Times 100, to the one decimal that tables show."""
    return round(100 * fraction, 1)


def common_means(rows: Sequence[Row], column: str, suite: Suite) -> dict[str, float]:
    """Label -> mean over the seeds that all rows with a score have, so that no row is compared on luckier ones.

    Over each row's own seeds where there is no such seed.
    """
    rows = [row for row in rows if column in row.cells]
    if weights := suite.weights(column):
        by_task = [common_means(rows, task, suite) for task in weights]
        return {row.label: statistics.fmean([of[row.label] for of in by_task], weights.values()) for row in rows}
    seeds = set.intersection(*(set(row.cells[column].runs) for row in rows)) if rows else set()
    means = {}
    for row in rows:
        by_seed = dict(zip(sorted(row.cells[column].runs), row.cells[column].scores, strict=True))
        means[row.label] = statistics.fmean(by_seed[seed] for seed in seeds or by_seed)
    return means


def best_of(means: Mapping[str, float], tied: Collection[str] = ()) -> set[str]:
    """Labels of what is bold in a column: what prints as the best mean, and `tied`, which cannot be told apart from it.

    Nothing where there is no second row, and never a 0.0.
    """
    top = max(map(printed, means.values()), default=0.0)
    if len(means) < 2:
        return set()
    return {label for label, mean in means.items() if printed(mean) > 0 and (printed(mean) == top or label in tied)}


def build(runs: Sequence[Run], published: bool = False, suite_name: str | None = None) -> Leaderboard:
    """Sample data, unfinished and broken runs never count; each is in `left_out`. `published`: with those rows.
    `suite_name`: whose total, in place of that of the suite that the runs are of. Raises UserError where it is none.

    Trials of a search are not even left out, nor are the points of a sweep that were not chosen.
    """
    left_out: list[tuple[Run, str]] = []
    groups: dict[RowKey, dict[str, list[Run]]] = {}
    trials = {(one.run.row, one.run.task): one.budget for one in searches.find(runs) if one.run.data == "given"}
    labels, shared = row_labels(runs), shared_settings([run for run in runs if run.is_counted])
    missing = [paths.shortened(line) for line in suite_record.left_out_notes([run.folder for run in runs])]
    missing += [*searches.unfinished(runs), *searches.not_chosen(runs)]
    runs = searches.of_rows(runs)
    for run in runs:
        if run.is_counted:
            groups.setdefault(run.row, {}).setdefault(run.task, []).append(run)
        elif run.data == "sample":
            left_out.append((run, "SAMPLE DATA: made-up text, its scores mean nothing"))
        else:
            is_finished = run.status == "finished"
            left_out.append((run, "test was not predicted" if is_finished else f"{run.status}: {run.reason}"))
    uncounted = {(run.row, run.task) for run in runs if not run.is_counted and run.data == "given" and run.task}
    by_column = sorted(runs, key=lambda run: run.task)
    own = {run.task: run.title for run in by_column if run.is_counted and run.has_own_column}
    suite, said = _suite(runs, suite_name)
    board: dict[RowKey, dict[str, Score]] = {}
    for key, of_row in groups.items():
        newest = {task: _newest(group, left_out) for task, group in of_row.items()}
        seeds = {seed for task, by_seed in newest.items() if task in suite.tasks for seed in by_seed}
        board[key] = {}
        for task in (*tasks.TASKS, *own):
            if task in newest:
                is_repeated = len(of_row[task]) > len(newest[task])
                found = _score(newest[task], seeds, (key, task) in uncounted, is_repeated)
                board[key][task] = replace(found, trials=trials.get((key, task), 0))
    _mark_searches(board)
    suite = replace(suite, shared=_shared(suite, list(board.values())))
    rows: dict[str, list[Row]] = {}  # by model, or series of checkpoints
    families = series.families(model for model, *_ in board)
    for key, cells in board.items():
        of_suite = [cell for task, cell in cells.items() if task in suite.tasks]
        all_seeds = sorted({seed for cell in of_suite or cells.values() for seed in cell.runs})
        alike = [other for other, theirs in board.items()
                 if (families[other[0]], other[2]) == (families[key[0]], key[2]) and {*theirs} & {*cells}]  # fmt: skip
        is_usual = key[1] == "" and families[key[0]] == key[0]  # it stands for the model
        is_choice = len(alike) > 1 and not is_usual
        row = Row(labels[key], suite.with_totals(cells), all_seeds, is_choice)
        rows.setdefault(families[key[0]], []).append(row)
    references = []
    for row in PUBLISHED:
        of_tasks = {task: cell for task, cell in row.cells.items() if task in tasks.TASKS}
        own_total = {} if suite.name or row.total is None else {"total": row.total}  # it has a deviation, too
        references.append(Row(row.label, {**suite.with_totals(of_tasks), **own_total}))
    return Leaderboard(
        rows=_with_bold(_in_order([*rows.values()]), suite),
        left_out=left_out,
        own=own,
        missing=[*missing, *said],
        shared=shared,
        suite=suite,
        references=references,
        published=references if published else (),
    )


def _with_bold(rows: Sequence[Row], suite: Suite) -> list[Row]:
    """By printed means, which need no predictions."""
    comparable = [row for row in rows if not row.is_choice]
    columns = {column for row in rows for column in row.cells}
    best = {column: best_of(common_means(comparable, column, suite)) for column in columns}
    return [
        replace(row, cells={name: replace(cell, is_best=row.label in best[name]) for name, cell in row.cells.items()})
        for row in rows
    ]


def _suite(runs: Sequence[Run], name: str | None) -> tuple[Suite, list[str]]:
    """(the suite of that name, else the one that the runs are of; a line where they are of several)."""
    found = suite_record.recorded_totals([run.folder for run in runs])
    if name is not None:
        shipped = {one: Total(tasks=of, groups=tasks.TOTALS.get(one, {})) for one, of in tasks.SUITES.items()}
        if name not in (known := shipped | found):
            raise unknown("suite", name, known)
        found = {name: known[name]}
    reported = {run.task for run in runs}
    found = {one: total for one, total in found.items() if len(found) == 1 or reported & {*total.tasks}}
    counted = {run.task for run in runs if run.is_counted}
    if not found and not counted & {*tasks.BLUE}:  # a suite with a total of its own, whose tasks were run one by one
        of_counted = [one for one, total in tasks.TOTALS.items() if total and counted & {*tasks.SUITES[one]}]
        found = {one: Total(tasks=tasks.SUITES[one], groups=tasks.TOTALS[one]) for one in of_counted}
    if len(found) > 1:
        said = f"runs of several suites ({', '.join(found)}): the total is of the ten tasks of BLUE"
        return Suite(), [f"{said}; of another by --suite NAME"]
    for name, total in found.items():
        if total.groups or {*total.tasks} != {*tasks.BLUE}:
            return Suite(name, total.tasks, total.groups), []
    return Suite(), []


def _shared(suite: Suite, rows: Sequence[Mapping[str, Score]]) -> list[str]:
    """The suite's tasks that all rows have, where some row lacks one of the suite; at least two."""
    of_suite = [row for row in rows if any(task in row for task in suite.tasks)]
    shared = [task for task in suite.tasks if all(task in row for row in of_suite)]
    return shared if of_suite and 1 < len(shared) < len(suite.tasks) else []


def _in_order(models: Sequence[Sequence[Row]]) -> list[Row]:
    """Models by the total of the first of their rows, by label, that has one."""

    def place(rows: Sequence[Row]) -> tuple[bool, float, str]:
        totals = [row.cells.get("total_shared") or row.total for row in rows]
        first = next((total.mean for total in totals if total), None)
        return first is None, -(first or 0.0), rows[0].label

    by_label = [sorted(rows, key=lambda row: natural(row.label)) for rows in models]
    return [row for rows in sorted(by_label, key=place) for row in rows]


def _mark_searches(board: Mapping[RowKey, dict[str, Score]]) -> None:
    """What was chosen from how much is no secret: a model that was searched for longer has an advantage."""
    for (_, _, kind), cells in board.items():
        for task, cell in cells.items():
            budgets = {others[task].trials for others in board.values() if task in others}
            marks = ("c" if kind == "sweep" else "") + ("b" if cell.trials and len(budgets) > 1 else "")
            cells[task] = replace(cell, marks=cell.marks + marks)


def _newest(group: Sequence[Run], left_out: list[tuple[Run, str]]) -> dict[int, Run]:
    """By seed; the others go into `left_out`."""
    found: dict[int, Run] = {}
    for run in sorted(group, key=written):
        if run.seed in found:
            left_out.append((found[run.seed], f"seed {run.seed} was run again in {run.name}"))
        found[run.seed] = run
    return found


def row_labels(runs: Sequence[Run]) -> dict[RowKey, str]:
    """Name of each row: the model without its path where that is enough, whether its settings were searched, and those
    that set it apart from other rows."""
    names = paths.tails({run.model for run in runs if run.model})
    labels = {}
    for run in runs:
        if run.model:
            own = joined(run.row_settings)
            kind = SEARCHED.get(run.search.get("kind", ""), "")
            labels[run.row] = names[run.model] + kind + (f" [{own}]" if own else "")
    return labels


def shared_settings(runs: Sequence[Run]) -> str:
    """Settings, other than the recipe's, that all rows have in common: on all tasks, then on some of them."""
    by_task = {run.title: run.common for run in runs if run.model}
    first = next(iter(by_task.values()), {})
    of_all = {name: value for name, value in first.items() if all(one.get(name) == value for one in by_task.values())}
    parts = [joined(of_all)]
    for title, common in by_task.items():
        rest = joined({name: value for name, value in common.items() if name not in of_all})
        parts += [f"{title} {rest}"] if rest else []
    return "; ".join(filter(None, parts))


def _score(by_seed: Mapping[int, Run], seeds: set[int], is_incomplete: bool, is_repeated: bool) -> Score:
    """`seeds`: those that the row has on any of the suite's tasks."""
    circumstances = set()
    is_recorded = all(run.data_digests for run in by_seed.values())  # then it is the same data, wherever it lies
    for run in by_seed.values():
        examples = run.result["scores"]["test"].get("examples")
        folder = None if is_recorded or run.config is None else run.config.data_dir
        values = str(sorted(run.search.get("values", {}).items()))
        circumstances.add((run.result.get("examples_per_step"), folder, run.result.get("selected"), examples, values))
    applies_to = {
        "d": any(run.result.get("dev_was_trained_on") for run in by_seed.values()),
        "t": any(is_small_dev(run) for run in by_seed.values()),
        "s": set(by_seed) < seeds,
        "u": is_incomplete,
        "x": len(circumstances) > 1,
        "r": is_repeated,
        "l": any(share_cut(run) > MUCH for run in by_seed.values()),
    }
    marks = "".join(mark for mark, applies in applies_to.items() if applies)
    scores = [score for _, run in sorted(by_seed.items()) if (score := run.test_score) is not None]
    return Score(*_mean_and_std(scores), marks, by_seed, scores)


def share_cut(run: Run) -> float:
    """Of its test examples, in tagging of their words."""
    return float(run.result.get("cut", {}).get("test", 0.0))


def is_small_dev(run: Run) -> bool:
    """Fewer than SMALL_DEV examples, or of them positive ones, in dev; False where dev was never scored."""
    dev: Mapping[str, Any] | None = run.result.get("scores", {}).get("dev")
    if dev is None:
        return False
    return bool(min(counts_of(dev)) < SMALL_DEV)


def _mean_and_std(scores: Sequence[float]) -> tuple[float, float | None]:
    return statistics.fmean(scores), statistics.stdev(scores) if len(scores) > 1 else None

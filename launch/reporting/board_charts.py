"""The page's charts of all tasks together: scores by task, and differences to a baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from plotly import graph_objects as go

from launch.reporting.charts import COLORS, QUIET, figure, names, plain, symbol
from launch.reporting.leaderboard import Leaderboard, Row, Score
from launch.reporting.statistics import Test

MOST_BASELINES = 20  # of our rows
NARROWEST, WIDEST = 5.0, 20.0  # points of difference at which the colours end
SYMBOLS = ("circle-open", "square-open", "diamond-open", "triangle-up-open", "x-thin-open")  # of published rows


def of_board(board: Leaderboard, columns: Mapping[str, str], numbers: Mapping[str, int]) -> go.Figure:
    """Our rows and the published ones, task by task. `numbers`: label of our rows -> number on the page."""
    traces, lowest, called = [], 100.0, names(row.label for row in board.rows)
    for place, row in enumerate((*board.rows, *board.references)):
        is_ours = place < len(board.rows)
        color = COLORS[numbers[row.label] % len(COLORS)] if is_ours else QUIET
        shape = symbol(numbers[row.label]) if is_ours else SYMBOLS[place % len(SYMBOLS)]
        trace = go.Scatter(name=called[row.label] if is_ours else f"{plain(row.label)} (published)", mode="markers")
        trace.marker = {"color": color, "symbol": shape, "size": 10 if is_ours else 7}
        found = [row.cells.get(column) for column in columns]
        trace.x, trace.y = [*map(plain, columns.values())], [one and 100 * one.mean for one in found]
        ends = [_ends(one) for one in found if one is not None]
        below = [100 * (one.mean - _ends(one)[0]) if one else 0.0 for one in found]
        above = [100 * (_ends(one)[1] - one.mean) if one else 0.0 for one in found]
        trace.error_y = {"array": above, "arrayminus": below, "thickness": 1, "width": 3, "color": color}
        traces.append(trace)
        lowest = min([lowest, *(100 * low for low, _ in ends)])
    layout = {"yaxis_range": [10 * math.floor((lowest - 2) / 10), 101], "scattermode": "group"}
    return figure("Test score by task", traces, "test score", scattergap=0.4, **layout)


def _ends(score: Score) -> tuple[float, float]:
    """Of its bar: the interval, or one standard deviation; the mean itself where neither is known."""
    deviation = score.std or 0.0
    return score.interval or (score.mean - deviation, score.mean + deviation)


def of_differences(
    board: Leaderboard, columns: Mapping[str, str], tests: Sequence[Test], baseline: str
) -> go.Figure | None:
    """Our rows minus a baseline, in points: a trace for each baseline, ours or published, of which the page shows one.

    The row called `baseline`, which the tests are against, comes first. None where there is nothing to compare.
    """
    own = sorted(board.rows, key=lambda row: row.label != baseline)[:MOST_BASELINES]
    called = names(row.label for row in board.rows)
    traces: list[go.Heatmap] = []
    for against in (*own, *board.references):
        rows = [row for row in board.rows if row is not against]
        shared = [name for name in columns if name in against.cells and any(name in row.cells for row in rows)]
        if not shared:
            continue
        known = {(test.row, test.task): test for test in tests if against.label == baseline}
        cells = [[_difference(row, against, name, known.get((row.label, name))) for name in shared] for row in rows]
        x, y = [plain(columns[name]) for name in shared], [called[row.label] for row in rows]
        trace = go.Heatmap(name=against.label, meta=len(traces), x=x, y=y, coloraxis="coloraxis", xgap=2, ygap=2)
        trace.z = [[gap for gap, _ in line] for line in cells]
        trace.customdata = [[said for _, said in line] for line in cells]
        trace.texttemplate = "%{z:+.1f}"
        trace.hovertemplate = "%{y}, %{x}: %{z:+.2f}<br>%{customdata}<extra></extra>"
        traces.append(trace)
    if not traces:
        return None
    widest = max(abs(gap) for trace in traces for line in trace.z for gap in line if gap is not None)
    end = min(max(widest, NARROWEST), WIDEST)
    axes = {"xaxis_type": "category", "yaxis": {"type": "category", "autorange": "reversed"}}
    layout = {"coloraxis": {"cmin": -end, "cmax": end}, "height": 130 + 30 * len(board.rows)}
    return figure("Difference to a baseline", traces, "", **axes, **layout)


def _difference(row: Row, against: Row, column: str, test: Test | None) -> tuple[float | None, str]:
    """(points, what is known of its significance), over the seeds that both have where it was tested."""
    if column not in row.cells:
        return None, ""
    if test is None or test.difference is None or test.corrected is None:
        return round(100 * (row.cells[column].mean - against.cells[column].mean), 2), "not tested"
    p = "p < 0.001" if test.corrected < 0.001 else f"p = {test.corrected:.3f}"
    return round(100 * test.difference, 2), ("" if test.is_significant else "not significant, ") + f"{p} (Holm)"

"""The wandb run that sums a suite up, in the group of its runs: the leaderboard as a table, the means as metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import tracking
from harness.config import RunConfig
from harness.tracking import TrackerIdentity
from launch.reporting import collect, leaderboard, tables


def save(configs: Sequence[RunConfig], home: Path) -> str | None:
    """Save what `configs`, the runs of one suite, have reached. Returns a line for the user where one is left to do.

    `home` is the folder above all runs: it keeps the id, so that the suite's next repeat goes on with the same wandb
    run. Without a run that counts for a leaderboard (sample data never does) nothing is saved.
    """
    board = leaderboard.build(collect.read_all([Path(config.output_dir) for config in configs]))
    if not board.rows:
        return None
    first = configs[0]
    identity = TrackerIdentity(
        project=first.wandb_project,
        entity=first.wandb_entity,
        group=first.wandb_group,
        name=first.wandb_group,
        tags=first.wandb_tags,
        notes="\n".join([*([f"all rows: {board.shared}"] if board.shared else []), *tables.notes(board)]),
        job_type="summary",
    )
    suite = {
        "tasks": sorted({config.task for config in configs}),
        "models": sorted({config.model_name_or_path for config in configs}),
        "seeds": sorted({config.seed for config in configs}),
        "runs": len(configs),
    }
    built = tracking.build(home, is_main=True, mode=first.wandb_mode, config=suite, identity=identity)
    ours, _ = tables.lines(board, tables.Form(str, nothing=""))  # mean (standard deviation) times 100, with its marks
    columns = ["model", "seeds", *board.columns.values()]
    built.table("leaderboard", columns, [[label, int(seeds), *cells] for label, seeds, *cells in ours])
    # <row>/<task or total> -> mean test score, a fraction
    built.summary({f"{row.label}/{column}": found.mean for row in board.rows for column, found in row.cells.items()})
    line = built.close("finished")
    return f"To upload the suite's leaderboard: {line}" if line else None

"""Score the predictions of any system by a task's published metric; no model is needed.

python launch/score.py --task mednli --predictions predictions/test.tsv --data_dir ~/blue/mednli
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

import tasks
from harness.errors import UserError
from harness.files import read_json
from harness.flags import Parser
from harness.logs import Console
from harness.run_folder import RunFolder
from harness.task import SPLITS, Task
from harness.terminal import guarded
from launch.run import settings
from tasks import predictions, submission

PIPE_WIDTH = 100  # columns of the table where stderr is no terminal


def score(task: Task, path: Path, data_dir: Path | None = None, split: str = "test") -> dict[str, Any]:
    """The metrics of result.json's `scores`, but for what needs probabilities (loss, ROC AUC). Fractions.

    Without `data_dir` the file's own gold column counts; with it the split's data file, which it must agree with.
    Raises UserError naming file and line.
    """
    read = submission.read if path.suffix.lower() in submission.SUFFIXES else predictions.read
    answers = read(task, path)
    if data_dir is not None:
        answers = predictions.check(task, answers, task.read(data_dir, split), data_dir / task.filenames[split])
    elif not answers.has_gold:
        remedy = "name the task's folder by --data_dir (and --split where it is not test)"
        raise UserError(f"{path}:1: has no gold column; {remedy}")
    report = task.metric(answers.examples, answers.predictions)
    is_sample = tasks.is_sample(task.name, data_dir) if data_dir is not None else _is_of_sample_run(path)
    return {
        "score": report.score,
        "metric": report.metric,
        "task": task.name,
        **report.values,
        "per_class": {label: dict(metrics) for label, metrics in report.per_class.items()},
        "warnings": list(report.warnings),
        "gold": "the predictions file" if data_dir is None else str(data_dir / task.filenames[split]),
        **({"note": settings.SAMPLE_BANNER} if is_sample else {}),
    }


def _is_of_sample_run(path: Path) -> bool:
    """Whether the file lies in the folder of a run on sample data."""
    try:
        return bool(read_json(RunFolder(path.absolute().parents[1]).result)["data"] == "sample")
    except (OSError, ValueError, LookupError, TypeError):
        return False


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 scored, 2 a mistake of the user's."""
    parser = Parser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--task", metavar="T", help="name of a task that ships")
    which.add_argument("--task_file", metavar="FILE", help="TOML file that defines a custom task")
    parser.add_argument(
        "--predictions",
        required=True,
        metavar="FILE",
        help="`index gold prediction` or, with --data_dir, `index prediction`; tab separated, with that header; labels "
        "of several hallmarks as 0_0,1_1,...; tagging `token gold prediction` or `token prediction` with an empty "
        "line between sentences; or, with --data_dir, what report.py --blurb writes (.zip, .json)",
    )
    parser.add_argument("--data_dir", metavar="DIR", help="the task's folder: its gold labels count")
    parser.add_argument("--split", choices=SPLITS, help="split of --data_dir [test]")
    given = parser.parse_args(argv)
    if given.split and not given.data_dir:
        raise UserError(f"--split {given.split}: names a file of --data_dir, which is missing; give both or neither")
    data_dir = Path(given.data_dir) if given.data_dir else None
    task = settings.named_task(given.task, given.task_file, data_dir)
    found = score(task, Path(given.predictions), data_dir, given.split or "test")
    print(json.dumps(found, indent=2, allow_nan=False))
    sys.stdout.flush()
    show(found, task.label_titles)
    return 0


def show(found: Mapping[str, Any], titles: Sequence[str]) -> None:
    """For people, on stderr: score and metrics times 100, and how each class was found; `titles` of the classes."""
    console = Console(stderr=True, width=None if sys.stderr.isatty() else PIPE_WIDTH, highlight=False)
    console.print(f"{found['task']}: {found['metric']} {100 * found['score']:.2f}", style="bold")
    if found["per_class"]:
        table = Table(box=None)
        for name in ("", "precision", "recall", "F1", "support"):
            table.add_column(name, justify="right" if name else "left")
        for number, (label, metrics) in enumerate(found["per_class"].items()):
            title = f"{label} {titles[number]}" if titles else label
            shares = (f"{100 * metrics[name]:.2f}" for name in ("precision", "recall", "f1"))
            table.add_row(Text(title), *shares, str(metrics["support"]))
        console.print(table)
    for warning in (*found["warnings"], *([found["note"]] if "note" in found else [])):
        console.print(f"WARNING: {warning}", style="yellow", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

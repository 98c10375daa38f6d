"""Where a run's metrics go: metrics.jsonl always, wandb where it is wanted, nothing on other ranks than 0.

The JSONL file is the record that reports are made from. wandb is a guest: whatever happens to it, training goes on.
Neither ever gets text of an example: only names, labels and numbers.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import pwd
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from harness import records
from harness.errors import UserError
from harness.files import private, write
from harness.flags import wandb_mode
from harness.records import Row
from harness.run_folder import METRICS_FILE, WANDB_ID_FILE
from harness.task import Confusion, Report, Scatter

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 30.0  # to reach the server, where WANDB_INIT_TIMEOUT does not say otherwise
FINISH_SECONDS = 30.0  # to upload the rest (WANDB_FINISH_TIMEOUT): less than the grace that a preempted job gets
BEST: Mapping[str, Literal["min", "max"]] = {"dev/score": "max", "dev/loss": "min"}  # what the summary keeps
ROWS_CLOSED = "rows_closed"  # in the run's wandb folder
Mode = Literal["online", "offline", "disabled"]

logger = logging.getLogger(__name__)
Status = Literal["finished", "stopped", "failed"]


class MetricsFile:
    """metrics.jsonl: {"kind": "step" | "epoch", "step", "epoch", "time", "values"} a line; NaN and inf are null."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        self.last_epoch: int | None = None  # step of the newest epoch's line that an earlier start wrote
        # What came after the checkpoint that the run goes on from will be computed again.
        self._keep(lambda row: row.step <= resumed_step)

    def _keep(self, wanted: Callable[[Row], bool]) -> None:
        """Drop the lines that are not wanted, and those that are none of ours: a kill cuts the last one short."""
        self.last_epoch, is_whole = None, True
        for line, row in records.rows(self.path):
            if row is None or not wanted(row):
                is_whole = False
                continue
            is_whole = is_whole and line.endswith(b"\n")
            self.last_epoch = row.step if row.kind == "epoch" else self.last_epoch
        if not is_whole:
            kept = (line for line, row in records.rows(self.path) if row is not None and wanted(row))
            write(self.path, (line.rstrip(b"\n") + b"\n" for line in kept), durable=True)

    def rows(self, first: int = 0) -> Iterator[Row]:
        """What the lines say, from number `first` on, counted from 0."""
        return (row for _, row in itertools.islice(records.rows(self.path), first, None) if row is not None)

    def count(self) -> int:
        """How many lines there are now."""
        return sum(1 for _ in records.rows(self.path))

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        self._append("step", step, None, values)

    def log_epoch(self, epoch: float, step: int, values: Mapping[str, float]) -> None:
        # Killed between this line and the checkpoint of the epoch's end, the epoch's evaluation is repeated too.
        if step == self.last_epoch:
            self._keep(lambda row: (row.kind, row.step) != ("epoch", step))
        self._append("epoch", step, epoch, values)

    def _append(self, kind: str, step: int, epoch: float | None, values: Mapping[str, float]) -> None:
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        record = {"kind": kind, "step": step, "epoch": epoch, "time": round(time.time(), 3), "values": numbers}
        with open(self.path, "a", encoding="utf-8", opener=private) as lines:  # closed, hence flushed, each time
            lines.write(json.dumps(record, allow_nan=False, default=float) + "\n")  # default: numbers of NumPy


@dataclass(frozen=True)
class TrackerIdentity:
    """Under which names wandb files the run: arguments of wandb.init."""

    project: str
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None
    job_type: str | None = None


class Tracker:
    """Takes metrics under their full names: train/loss, dev/score, ... Other ranks than 0 have neither file nor run.

    In wandb steps and epochs are columns of our own, never its own step: what is computed again does not collide.
    """

    def __init__(self, metrics: MetricsFile | None = None, run: wandb.Run | None = None) -> None:
        self.metrics, self.run = metrics, run
        self.folder = Path() if metrics is None else metrics.path.parent / "wandb"
        self.best: dict[str, float] = {}
        self.has_failed = False
        self._wandb(self._start)

    def _wandb(self, action: Callable[[wandb.Run], object]) -> None:
        """Do it, unless wandb has failed before. Its first failure is its last: one warning, then JSONL only."""
        if self.run is None or self.has_failed:
            return
        try:
            action(self.run)
        except Exception as error:  # whatever it is, it is not worth a training run
            self.has_failed = True
            _give_up(error, f"wandb failed, going on with {METRICS_FILE} only")

    def _start(self, run: wandb.Run) -> None:
        for column in ("global_step", "epoch"):
            run.define_metric(column, hidden=True)
        for pattern, column in (("train/*", "global_step"), ("dev/*", "epoch"), ("test/*", "epoch")):
            run.define_metric(pattern, step_metric=column)
        for name, summary in BEST.items():
            run.define_metric(name, step_metric="epoch", summary=summary)
        try:  # how many rows there were when wandb was last closed as it should be
            closed = int((self.folder / ROWS_CLOSED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            closed = 0
        # Log again what went down with a killed process, whose wandb writes to disk only now and then: the rows since
        # then. Those that did arrive are there twice, the same. A new offline part knows nothing of the best before it.
        for number, row in enumerate(self.metrics.rows() if self.metrics else ()):
            values = {name: value for name, value in row.values.items() if value is not None}
            if number < closed:
                self._keep_best(values)
            elif row.kind == "step":
                run.log({**values, "global_step": row.step})
            else:
                self._log_epoch(run, row.epoch or 0.0, row.step, values)

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of training after optimizer step `step`, drawn against it."""
        if self.metrics is not None:
            self.metrics.log_step(step, values)
        self._wandb(lambda run: run.log({**values, "global_step": step}))

    def log_epoch(self, epoch: float, step: int, values: Mapping[str, float]) -> None:
        """Metrics of an epoch, drawn against `epoch`; the epoch's mean of training as train/epoch_<name>."""
        if self.metrics is not None:
            self.metrics.log_epoch(epoch, step, values)
        self._wandb(lambda run: self._log_epoch(run, epoch, step, values))

    def _log_epoch(self, run: wandb.Run, epoch: float, step: int, values: Mapping[str, float]) -> None:
        for name in values:
            if name.startswith("train/"):  # by its own name it goes before the pattern train/*
                run.define_metric(name, step_metric="epoch")
        run.log({**values, "epoch": epoch, "global_step": step})
        self._keep_best(values)
        run.summary.update({name: {BEST[name]: best} for name, best in self.best.items()})

    def _keep_best(self, values: Mapping[str, float]) -> None:
        for name, kind in BEST.items():
            if name in values and math.isfinite(values[name]):
                best = self.best.get(name, values[name])
                self.best[name] = max(best, values[name]) if kind == "max" else min(best, values[name])

    def chart(self, split: str, report: Report) -> None:
        """The report's confusion matrix, table of counts or scatter."""
        chart = report.chart
        if chart is not None:
            self._wandb(lambda run: self._log_media(run, lambda: _drawing(split, chart)))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """A table of names and numbers."""
        self._wandb(lambda run: self._log_media(run, lambda: _table(name, columns, rows)))

    def _log_media(self, run: wandb.Run, make: Callable[[], Mapping[str, Any]]) -> None:
        """Tables wait for their upload inside the run folder, not in the home directory, where another node misses
        them."""
        before = os.environ.get("WANDB_DATA_DIR")
        os.environ["WANDB_DATA_DIR"] = before or str(self.folder.resolve())
        try:
            run.log(dict(make()))
        finally:
            if before is None:
                del os.environ["WANDB_DATA_DIR"]

    def summary(self, values: Mapping[str, Any]) -> None:
        """Single values of the whole run."""
        self._wandb(lambda run: run.summary.update(dict(values)))

    def close(self, status: Status) -> str | None:
        """End the record. Returns the last line to show the user, where something is left to do: what uploads the
        offline parts (one a process) and an online one cut short."""
        metrics = self.metrics
        if self.run is None or metrics is None:
            return None
        if status == "stopped":
            self._wandb(lambda run: run.mark_preempting())
        self._wandb(lambda run: run.finish(exit_code=0 if status == "finished" else 1))
        self._wandb(lambda _: write(self.folder / ROWS_CLOSED, f"{metrics.count()}\n"))
        place, pattern = self.folder.resolve(), f"offline-run-*-{_run_id(self.folder.parent)}*"
        offline = [path for path in place.glob(pattern) if not any(path.glob("*.wandb.synced"))]
        words = [f"{shlex.quote(str(place))}/{offline[0].name if len(offline) == 1 else pattern}"] if offline else []
        if self.has_failed and not self.run.offline:
            words = ["--include-online", shlex.quote(self.run.settings.sync_dir), *words]
        return " ".join(["wandb sync", *words]) if words else None


def _table(name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    import wandb

    return {name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])}


def _drawing(split: str, chart: Confusion | Scatter) -> dict[str, Any]:
    import wandb

    if isinstance(chart, Scatter):
        table = _table("", ["gold", "predicted"], zip(chart.gold, chart.predicted, strict=True))[""]
        return {f"{split}/gold_predicted": wandb.plot.scatter(table, "gold", "predicted", f"{split}: gold, predicted")}
    rows = list(zip(chart.rows, chart.counts, strict=True))
    if chart.rows != chart.columns:
        return _table(f"{split}/counts", ["label", *chart.columns], ([name, *counts] for name, counts in rows))
    cells = [[name, *cell] for name, counts in rows for cell in zip(chart.columns, counts, strict=True)]
    fields = {name: name for name in ("Actual", "Predicted", "nPredictions")}
    table, title = _table("", list(fields), cells)[""], {"title": f"{split}: confusion matrix"}
    return {f"{split}/confusion": wandb.plot_table("wandb/confusion_matrix/v1", table, fields, title)}


def _give_up(error: Exception, message: str) -> None:
    """Say so in one line and stop wandb's own process: it holds the run's id, and would fail once more at exit."""
    logger.warning("%s: %s", message, next(iter(str(error).splitlines()), type(error).__name__))
    with contextlib.suppress(Exception):
        import wandb

        wandb.teardown()


def sweep_run() -> tuple[str, str] | None:
    """(sweep's id, run's id) where an agent of a wandb sweep has started this process, else None."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    return (sweep, run) if sweep and run else None


def _run_id(folder: Path) -> str:
    """The run folder's own id, made once: every process that goes on with the folder goes on with the wandb run.

    In a sweep it is the id that the agent gives: by that one the sweep knows the run.
    """
    path, swept = folder / WANDB_ID_FILE, sweep_run()
    if swept is not None or path.is_symlink() or not path.exists():
        write(path, (swept[1] if swept else secrets.token_hex(6)) + "\n")
    return path.read_text(encoding="utf-8").strip()


def _without_home(config: Mapping[str, Any]) -> Any:
    """`~` in place of the user's home folder, by each of its paths: a wandb project is often read by others."""
    homes = {os.path.expanduser("~")}
    with contextlib.suppress(KeyError):  # a user without an entry; in a container $HOME is often another folder
        homes.add(pwd.getpwuid(os.getuid()).pw_dir)
    homes |= {os.path.realpath(home) for home in homes}
    paths = sorted((re.escape(home.rstrip("/")) for home in homes if home.strip("/")), key=len, reverse=True)
    home = re.compile(rf"(?<![\w.~-])(?:{'|'.join(paths)})(?![\w.-])" if paths else "(?!)")

    def shortened(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {shortened(name): shortened(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [shortened(item) for item in value]
        return home.sub("~", value) if isinstance(value, str) else value

    return shortened(config)


def _open(folder: Path, mode: str | None, config: Mapping[str, Any], identity: TrackerIdentity) -> wandb.Run:
    """Online where that is wanted and possible, else offline."""

    def init(mode: Mode) -> wandb.Run:
        settings = wandb.Settings(
            console="off",
            silent=True,
            save_code=False,
            disable_code=True,
            disable_git=True,
            allow_val_change=True,
            use_dot_wandb=False,
            reinit="create_new",  # never the run that a crash left open in this process
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_SECONDS)),
            finish_timeout=float(os.environ.get("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)),
            finish_timeout_raises=True,
        )
        about = {**vars(identity), "config": _without_home(config), "settings": settings}
        return wandb.init(id=_run_id(folder), resume="allow", dir=folder, mode=mode, **about)

    import wandb

    before = set((folder / "wandb").glob("run-*"))
    try:
        from wandb.sdk.lib import wbauth  # no public function finds a key without asking the person for one

        if mode != "offline":
            server = wandb.setup(wandb.Settings(silent=True)).settings.base_url
            if wbauth.authenticate_session(host=server, source="blue", prompt=False, update_session=False):
                return init("online")
        if mode == "online":
            logger.warning("wandb is offline for this run: no key (`wandb login` stores one)")
    except Exception as error:  # no network, wrong key, server at fault: none of it ends a run
        _give_up(error, "wandb is offline for this run")
        for path in set((folder / "wandb").glob("run-*")) - before:  # of the attempt: empty, but waiting for a sync
            shutil.rmtree(path, ignore_errors=True)
    return init("offline")


def build(
    folder: Path,
    *,
    is_main: bool,
    mode: str | None,
    config: Mapping[str, Any],
    identity: TrackerIdentity,
    resumed_step: int = 0,
) -> Tracker:
    """The tracker of a run folder that goes on from `resumed_step` (0: from the start).

    `mode` is online, offline or disabled; None: $WANDB_DISABLED or $WANDB_MODE of this machine, which may be a node of
    a cluster, else online where a key is known, else offline.
    """
    asked = mode or wandb_mode() or None
    if asked and asked not in get_args(Mode):  # on every rank, so that all of them end
        raise UserError(f"wandb mode {asked!r}: --wandb_mode (or WANDB_MODE) takes one of {', '.join(get_args(Mode))}")
    if not is_main:
        return Tracker()
    metrics = MetricsFile(folder / METRICS_FILE, resumed_step)
    run = None
    try:
        run = None if asked == "disabled" else _open(folder, asked, config, identity)
    except Exception as error:  # as above
        _give_up(error, f"wandb cannot start, going on with {METRICS_FILE} only")
    return Tracker(metrics, run)

"""Where a run's figures go: metrics.jsonl always, wandb where it is wanted, nothing on the ranks beside 0.

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


class Tracker:
    """Takes figures under their full names: train/loss, dev/score, ... This one keeps nothing: what other ranks get."""

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of training after optimizer step `step`, drawn against it."""

    def log_epoch(self, epoch: float, step: int, values: Mapping[str, float]) -> None:
        """Figures of an epoch, drawn against `epoch`; the epoch's mean of training as train/epoch_<name>."""

    def chart(self, split: str, report: Report) -> None:
        """The report's confusion matrix, table of counts or scatter."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """A table of names and numbers."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Single figures of the whole run."""

    def close(self, status: Status) -> str | None:
        """End the record. Returns the last line to show the user, where something is left to do."""
        return None


class MetricsFile(Tracker):
    """metrics.jsonl: {"kind": "step" | "epoch", "step", "epoch", "time", "values"} a line; NaN and inf are null."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        self.last_epoch: int | None = None  # step of the newest epoch's line that an earlier start wrote
        # What came after the checkpoint that the run goes on from will be lived again.
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
            self._replace(line.rstrip(b"\n") + b"\n" for line in kept)

    def _replace(self, lines: Iterable[bytes]) -> None:
        aside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.partial")
        try:
            with open(aside, "xb", opener=private) as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.path)
        finally:
            aside.unlink(missing_ok=True)

    def rows(self, first: int = 0) -> Iterator[Row]:
        """What the lines say, from number `first` on, counted from 0."""
        return (row for _, row in itertools.islice(records.rows(self.path), first, None) if row is not None)

    def count(self) -> int:
        """How many lines there are now."""
        if not self.path.exists():
            return 0
        with open(self.path, "rb") as file:
            return sum(part.count(b"\n") for part in iter(lambda: file.read(2**20), b""))

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        self._append("step", step, None, values)

    def log_epoch(self, epoch: float, step: int, values: Mapping[str, float]) -> None:
        # Killed between this line and the checkpoint of the epoch's end, the epoch's evaluation is lived again too.
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
    """Under which names wandb files the run."""

    project: str
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None
    job_type: str | None = None


class WandbTracker(Tracker):
    """The JSONL file, and one wandb run beside it.

    Steps and epochs are columns of our own, never wandb's step: what is lived again does not collide with it.
    """

    def __init__(self, metrics: MetricsFile, run: wandb.Run) -> None:
        self.metrics, self.run, self.folder = metrics, run, metrics.path.parent
        self.broken = False
        # The best before a resume: a new offline part of the run knows nothing of those epochs.
        self.earlier: dict[str, float] = {}
        for row in metrics.rows():
            for name in BEST if row.kind == "epoch" else ():
                if (value := row.values.get(name)) is not None:
                    self.earlier[name] = _better(name, self.earlier.get(name, value), value)
        self._guarded(self._define)
        self._guarded(self._catch_up)

    def _define(self) -> None:
        for column in ("global_step", "epoch"):
            self.run.define_metric(column, hidden=True)
        for pattern, column in (("train/*", "global_step"), ("dev/*", "epoch"), ("test/*", "epoch")):
            self.run.define_metric(pattern, step_metric=column)
        for name, summary in BEST.items():
            self.run.define_metric(name, step_metric="epoch", summary=summary)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do it, unless wandb has failed before. Its first failure is its last: one warning, then JSONL only."""
        if self.broken:
            return
        try:
            action()
        except Exception as error:  # whatever it is, it is not worth a training run
            self.broken = True
            _give_up(error, f"wandb failed, going on with {METRICS_FILE} only")

    def _catch_up(self) -> None:
        """Log again what went down with a killed process, whose wandb writes to disk only now and then: the rows since
        wandb was last closed. Those that did arrive are there twice, the same."""
        for row in self.metrics.rows(self._rows_closed()):
            values = {name: value for name, value in row.values.items() if value is not None}
            if row.kind == "step":
                self._log_step(row.step, values)
            else:
                self._log_epoch(row.epoch or 0.0, row.step, values)

    def _rows_closed(self) -> int:
        """How many rows of the JSONL file were there when wandb was last closed as it should be."""
        try:
            return int((self.folder / "wandb" / ROWS_CLOSED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        self.metrics.log_step(step, values)
        self._guarded(lambda: self._log_step(step, values))

    def _log_step(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({**values, "global_step": step})

    def log_epoch(self, epoch: float, step: int, values: Mapping[str, float]) -> None:
        self.metrics.log_epoch(epoch, step, values)
        self._guarded(lambda: self._log_epoch(epoch, step, values))

    def _log_epoch(self, epoch: float, step: int, values: Mapping[str, float]) -> None:
        for name in values:
            if name.startswith("train/"):  # by its own name it goes before the pattern train/*
                self.run.define_metric(name, step_metric="epoch")
        self.run.log({**values, "epoch": epoch, "global_step": step})
        for name, best in self.earlier.items():
            if name in values:
                self.earlier[name] = _better(name, best, values[name]) if math.isfinite(values[name]) else best
                self.run.summary.update({name: {BEST[name]: self.earlier[name]}})

    def chart(self, split: str, report: Report) -> None:
        def log() -> None:
            if report.chart is not None:
                with _staged_in(self.folder / "wandb"):
                    self.run.log(_drawing(split, report.chart))

        self._guarded(log)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        def log() -> None:
            import wandb

            with _staged_in(self.folder / "wandb"):
                self.run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

        self._guarded(log)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._guarded(lambda: self.run.summary.update(dict(values)))

    def close(self, status: Status) -> str | None:
        if status == "stopped":
            self._guarded(self.run.mark_preempting)
        self._guarded(lambda: self.run.finish(exit_code=0 if status == "finished" else 1))
        self._guarded(lambda: write(self.folder / "wandb" / ROWS_CLOSED, f"{self.metrics.count()}\n"))
        return self._sync_command()

    def _sync_command(self) -> str | None:
        """What uploads the rest: the offline parts (one per process that was resumed), an online one cut short."""
        place, pattern = (self.folder / "wandb").resolve(), f"offline-run-*-{_run_id(self.folder)}*"
        offline = [path for path in place.glob(pattern) if not any(path.glob("*.wandb.synced"))]
        words = [f"{shlex.quote(str(place))}/{offline[0].name if len(offline) == 1 else pattern}"] if offline else []
        if self.broken and not self.run.offline:
            words = ["--include-online", shlex.quote(self.run.settings.sync_dir), *words]
        return " ".join(["wandb sync", *words]) if words else None


def _better(name: str, one: float, other: float) -> float:
    return max(one, other) if BEST[name] == "max" else min(one, other)


@contextlib.contextmanager
def _staged_in(folder: Path) -> Iterator[None]:
    """Tables wait for their upload inside the run folder, not in the home directory, where another node misses them."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = before or str(folder.resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]


def _drawing(split: str, chart: Confusion | Scatter) -> dict[str, Any]:
    import wandb

    if isinstance(chart, Scatter):
        pairs = [list(pair) for pair in zip(chart.gold, chart.predicted, strict=True)]
        table = wandb.Table(columns=["gold", "predicted"], data=pairs)
        return {f"{split}/gold_predicted": wandb.plot.scatter(table, "gold", "predicted", f"{split}: gold, predicted")}
    rows = list(zip(chart.rows, chart.counts, strict=True))
    if chart.rows != chart.columns:
        data = [[name, *counts] for name, counts in rows]
        return {f"{split}/counts": wandb.Table(columns=["label", *chart.columns], data=data)}
    cells = [[name, *cell] for name, counts in rows for cell in zip(chart.columns, counts, strict=True)]
    fields = {"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"}
    table, title = wandb.Table(columns=list(fields), data=cells), {"title": f"{split}: confusion matrix"}
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


def _start(folder: Path, mode: Mode, config: Mapping[str, Any], identity: TrackerIdentity) -> wandb.Run:
    import wandb

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
    return wandb.init(
        id=_run_id(folder),
        resume="allow",
        dir=folder,
        mode=mode,
        config=_without_home(config, _homes()),
        settings=settings,
        project=identity.project,
        entity=identity.entity,
        group=identity.group,
        name=identity.name,
        tags=identity.tags,
        notes=identity.notes,
        job_type=identity.job_type,
    )


def _homes() -> re.Pattern[str]:
    """The user's home folder in a text, by each of its paths; in a container $HOME is often another one."""
    homes = {os.path.expanduser("~")}
    with contextlib.suppress(KeyError):  # a user without an entry
        homes.add(pwd.getpwuid(os.getuid()).pw_dir)
    homes |= {os.path.realpath(home) for home in homes}
    paths = sorted((re.escape(home.rstrip("/")) for home in homes if home.strip("/")), key=len, reverse=True)
    return re.compile(rf"(?<![\w.~-])(?:{'|'.join(paths)})(?![\w.-])" if paths else "(?!)")


def _without_home(value: Any, homes: re.Pattern[str]) -> Any:
    """A value of the configuration with `~` for the user's home: a wandb project is often read by others."""
    if isinstance(value, Mapping):
        return {_without_home(name, homes): _without_home(item, homes) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_home(item, homes) for item in value]
    return homes.sub("~", value) if isinstance(value, str) else value


def _open(folder: Path, mode: str | None, config: Mapping[str, Any], identity: TrackerIdentity) -> wandb.Run:
    """Online where that is wanted and possible, else offline."""
    before = set((folder / "wandb").glob("run-*"))
    try:
        import wandb
        from wandb.sdk.lib import wbauth  # no public function finds a key without asking the person for one

        if mode != "offline":
            server = wandb.setup(wandb.Settings(silent=True)).settings.base_url
            if wbauth.authenticate_session(host=server, source="blue", prompt=False, update_session=False):
                return _start(folder, "online", config, identity)
        if mode == "online":
            logger.warning("wandb is offline for this run: no key (`wandb login` stores one)")
    except Exception as error:  # no network, wrong key, server at fault: none of it ends a run
        _give_up(error, "wandb is offline for this run")
        for path in set((folder / "wandb").glob("run-*")) - before:  # of the attempt: empty, but waiting for a sync
            shutil.rmtree(path, ignore_errors=True)
    return _start(folder, "offline", config, identity)


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
    if asked == "disabled":
        return metrics
    try:
        return WandbTracker(metrics, _open(folder, asked, config, identity))
    except Exception as error:  # as above
        _give_up(error, f"wandb cannot start, going on with {METRICS_FILE} only")
        return metrics

"""The trials of searches, from the first start until all have ended: what runs, what waits, what is given up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from harness.config import RunConfig
from harness.errors import EXIT_FAILED, EXIT_STOPPED
from launch.jobs import status
from launch.jobs.status import RunStatus
from launch.jobs.tuning import Search, Tried, Values, is_lost, is_scored

Start = Callable[[Sequence[RunConfig], Callable[[], None]], tuple[int, Collection[Path]]]
"""Starts runs, after calling the second argument once nothing stands in the way. Returns the exit status, and the
folders of the runs that were left out because something is missing."""


def run(found: Sequence[Search], start: Start, is_repeat: bool = False) -> tuple[int, dict[Search, list[Tried]]]:
    """Start what is not finished, generation by generation. Returns the exit status, and what came of the trials of
    each search all of which have ended. Nothing and 0: the rest is in a queue.

    `is_repeat`: nobody watches, so that what has stopped or failed is not started again. Raises UserError.
    """
    asked = {search: search.recorded() for search in found}
    status_of_all = 0

    def give_up(search: Search, why: str) -> None:
        asked.pop(search)
        print(f"{search.name}: {why}; the same command goes on with its trials", file=sys.stderr)

    while True:
        for search, tried in _read(asked).items():
            if all(has_ended(run) for one in tried for run in one.runs):
                asked[search] = [*asked[search], *search.propose(tried)]
        waiting = {search: runs for search, tried in _read(asked).items() if (runs := _waiting(tried))}
        if is_repeat:
            for search, runs in list(waiting.items()):
                if stuck := [run for run in runs if _was_sent(run)]:
                    give_up(search, f"{stuck[0].folder} has {stuck[0].status} ({stuck[0].reason})")
                    status_of_all = EXIT_FAILED
                    del waiting[search]

        def write_down(behind: Mapping[Search, Sequence[Values]] = {s: asked[s] for s in waiting}) -> None:
            for search, values in behind.items():
                search.record(values)

        # Those that are finished too: to see that they are of these settings, data and models.
        trials = [trial for search, values in asked.items() for one in values for trial in search.trials(one)]
        outcome, missing = start(trials, write_down) if trials else (0, ())
        asked = {s: v for s, v in asked.items() if not any(folder.is_relative_to(s.folder) for folder in missing)}
        known = _read(asked)
        left = {search: runs for search, tried in known.items() if (runs := _waiting(tried))}
        if left and (outcome == EXIT_STOPPED or all(_is_queued(run) for runs in left.values() for run in runs)):
            return outcome, {}
        for search, runs in left.items():
            give_up(search, f"{runs[0].folder} has {runs[0].status} ({runs[0].reason})")
            status_of_all = max(status_of_all, outcome, EXIT_FAILED)
        if not any(search in asked for search in waiting):
            return status_of_all, {search: tried for search, tried in known.items() if search in asked}


def listed(found: Sequence[Search]) -> list[RunConfig]:
    """The trials that are known now: of a random search those of its first generation, before anything is started."""
    return [trial for search in found for values in search.recorded() or search.propose([])
            for trial in search.trials(values)]  # fmt: skip


def _read(asked: Mapping[Search, Sequence[Values]]) -> dict[Search, list[Tried]]:
    """How the trials stand; the queue is asked once for all."""
    folders = [Path(trial.output_dir) for search, values in asked.items() for one in values
               for trial in search.trials(one)]  # fmt: skip
    known = {run.folder: run for run in status.read_all([folder for folder in folders if folder.is_dir()])}

    def runs(search: Search, values: Values) -> list[RunStatus]:
        places = [Path(trial.output_dir) for trial in search.trials(values)]
        return [known.get(folder, RunStatus(folder, "stopped", "not started")) for folder in places]

    return {search: [Tried(one, runs(search, one)) for one in values] for search, values in asked.items()}


def has_ended(run: RunStatus) -> bool:
    """Finished, or failed for good."""
    return is_scored(run) or is_lost(run)


def _waiting(tried: Sequence[Tried]) -> list[RunStatus]:
    return [run for one in tried for run in one.runs if not has_ended(run)]


def _is_queued(run: RunStatus) -> bool:
    return run.status in ("queued", "running")


def _was_sent(run: RunStatus) -> bool:
    """Whether it was submitted, and has left the queue without coming to its end: failed, cancelled, never begun."""
    return not _is_queued(run) and status.read_submission(run.folder) is not None

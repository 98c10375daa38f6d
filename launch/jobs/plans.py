"""What a command would do with each of its runs, and what stands in the way; known before any folder is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import run_folder
from harness.config import RunConfig
from harness.errors import UserError
from harness.run_folder import RunFolder
from launch.jobs import preflight, slurm, status, suite_record
from launch.jobs.preflight import Missing
from launch.jobs.resources import Request
from launch.jobs.status import RunState
from launch.run import inputs, settings


@dataclass
class Plan:
    """Runs by what becomes of them. `wanted` are all but those that were left out."""

    wanted: list[RunConfig]
    left: list[RunConfig] = field(default_factory=list)  # to be started
    finished: list[tuple[RunConfig, Mapping[str, Any]]] = field(default_factory=list)  # with their results
    left_out: Mapping[Path, Missing] = field(default_factory=dict)  # by run folder
    faults: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)  # who has the run, of those that are queued or running
    notes: list[str] = field(default_factory=list)  # on what is missing
    remedy: str = ""  # where leaving something out would help
    home: Path = Path()  # the folder above all runs, those that were left out too

    def refuse(self) -> None:
        """Raises UserError that lists every fault, a line each."""
        if self.faults:
            raise UserError("\n".join([*self.faults, *([self.remedy] if self.remedy else [])]))

    def make_folders(self) -> None:
        """Of the runs that are left, and the record of those that are left out. Raises UserError."""
        faults = []
        for config in self.left:
            try:
                with ExitStack() as stack:
                    run_folder.hold(RunFolder(Path(config.output_dir)), stack)
                    settings.prepare(config)  # the queues were asked for the plan
            except UserError as error:
                faults += str(error).splitlines()
        if faults:
            raise UserError("\n".join(faults))
        folders = [Path(config.output_dir) for config in self.wanted]
        if len(folders) + len(self.left_out) > 1:
            lacking = {folder: (missing.what, missing.text) for folder, missing in self.left_out.items()}
            suite_record.update(self.home, [*folders, *self.left_out], lacking)

    def left_out_lines(self) -> list[str]:
        """For the end of a table."""
        return suite_record.notes([Path(config.output_dir) for config in self.wanted])


def make(where: Request | None, configs: Sequence[RunConfig], skip_missing: bool = False) -> Plan:
    """Look at everything and change nothing. `where`: None where that itself is at fault."""
    every = [dataclasses.replace(config, output_dir=str(Path(config.output_dir).absolute())) for config in configs]
    plan = Plan(every, home=slurm.home(every))
    known = status.by_folder([Path(config.output_dir) for config in every])
    for config in every:
        state = known.get(Path(config.output_dir))
        if state is not None and state.state in ("queued", "running"):
            (plan.busy if _is_same(state, config) and len(every) > 1 else plan.faults).append(_whose(state))
            continue
        try:
            _, result = run_folder.examine(config, compare=_compare)
        except UserError as error:
            plan.faults += str(error).splitlines()
            continue
        if result is None:
            plan.left.append(config)
        else:
            plan.finished.append((config, result))
    missing: list[Missing] = []
    # One run on this machine says the same by itself, as quickly; a job would wait in the queue for nothing.
    alone = len(every) == 1 and where is not None and where.cluster != "slurm"
    if plan.left and not alone:
        missing, plan.notes = preflight.check(where, plan.left)
    lacking = {Path(folder): one for one in reversed(missing) if one.what for folder in one.folders}
    rest = [config for config in every if Path(config.output_dir) not in lacking]
    if skip_missing and rest:
        plan.left_out, plan.wanted = lacking, rest
        plan.left = [config for config in plan.left if config in rest]
        plan.notes += [f"left out: {one.what} ({one.text})" for one in missing if one.what]
    plan.faults += [one.text for one in missing if not (one.what and skip_missing and rest)]
    if lacking and rest and not skip_missing:
        names = ", ".join(dict.fromkeys(one.what for one in missing if one.what))
        plan.remedy = f"--skip_missing leaves out {names} and starts the rest"
    return plan


def _compare(before: RunConfig, config: RunConfig, finished: bool) -> str | None:
    """Of inputs under other names the content; what has changed in its place each run sees by itself when it starts."""
    return run_folder.other_names(before, config) and inputs.compare(before, config, finished)


def _is_same(state: RunState, config: RunConfig) -> bool:
    return state.config is not None and state.config.identity(inputs=True) == config.identity(inputs=True)


def _whose(state: RunState) -> str:
    """Who has a folder, and what to do."""
    who = " ".join(part for part in (state.state, state.job or state.reason) if part)
    return f"{state.folder}: {who}; wait for it, or: python launch/submit.py cancel {state.folder}"

"""A saved wandb workspace for the runs of a project: the charts that one would otherwise click together."""

from __future__ import annotations

import os
from typing import Any

from harness.errors import UserError
from harness.flags import wandb_mode

NAME = "BLUE"
GROUP = "Group"  # wandb's column; a run's group is <task>/<model> unless --wandb_group says otherwise
SECTIONS = {  # section -> charts: title, kind, figures
    "Scores": (
        ("Dev score by epoch", "line", ("dev/score",)),
        ("Test score", "bar", ("test/score",)),
        ("Dev score of the reported weights", "bar", ("reported_dev/score",)),
    ),
    "Loss": (
        ("Training loss by epoch", "line", ("train/epoch_loss",)),
        ("Dev loss by epoch", "line", ("dev/loss",)),
    ),
    "Speed": (
        ("Examples a second", "steps", ("train/examples_per_second",)),
        ("Learning rate", "steps", ("train/lr",)),
        ("Gradient norm", "steps", ("train/grad_norm",)),
    ),
}


def save(target: str) -> list[str]:
    """Save the workspace in `target`, ENTITY/PROJECT. Returns lines for the user; offline, what it would do.

    Raises UserError where the target is no such pair, the package is missing or wandb refuses.
    """
    entity, _, project = target.partition("/")
    if not entity or not project or "/" in project:
        raise UserError(f"--wandb {target}: must be ENTITY/PROJECT, as in the address of the project's page")
    reason = _offline()
    if reason:
        lines = [f"wandb is offline ({reason}). Online, --wandb {target} would save a workspace there:"]
        lines.append(f"  {NAME}, runs grouped by {GROUP.lower()} (task and model), curves with the spread over seeds")
        return lines + [f"  {name}: {', '.join(title for title, *_ in charts)}" for name, charts in SECTIONS.items()]
    workspace = build(entity, project)
    try:
        workspace.save()
    except Exception as error:  # network, rights, server: one line says which
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"--wandb {target}: not saved ({first}); check the names and your rights there") from error
    return [f"workspace saved: {workspace.url}"]


def build(entity: str, project: str) -> Any:
    """The workspace, not yet sent. Raises UserError without the package."""
    try:
        import wandb_workspaces.reports.v2 as charts
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise UserError("--wandb: needs another package; pip install wandb-workspaces") from None

    def panel(title: str, kind: str, figures: tuple[str, ...]) -> Any:
        if kind == "bar":
            return charts.BarPlot(title=title, metrics=list(figures))
        x = "epoch" if kind == "line" else "global_step"
        return charts.LinePlot(title=title, x=x, y=list(figures), groupby_aggfunc="mean", groupby_rangefunc="minmax")

    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            workspaces.Section(name=name, panels=[panel(*chart) for chart in found], is_open=True)
            for name, found in SECTIONS.items()
        ],
        runset_settings=workspaces.RunsetSettings(groupby=[workspaces.Metric(GROUP)]),
    )


def _offline() -> str:
    """Why wandb cannot be reached; empty where it can, as far as this machine knows."""
    mode = wandb_mode()
    if mode in ("offline", "disabled"):
        return f"WANDB_MODE is {mode}" if os.environ.get("WANDB_MODE") else "WANDB_DISABLED is set"
    from wandb.sdk import wandb_setup  # its public `setup` starts a process, or needs the one that $WANDB_SERVICE names
    from wandb.sdk.lib import wbauth  # no public function finds a key without asking the person for one

    try:
        server = wandb_setup.singleton().settings.base_url
        known = wbauth.authenticate_session(host=server, source="blue", prompt=False, update_session=False)
    except Exception as error:
        return next(iter(str(error).splitlines()), type(error).__name__)
    return "" if known else "no key; `wandb login` stores one"

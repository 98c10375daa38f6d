"""A finished run as people see it: the table that closes its log, and again when its command is repeated."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from harness import UserError, fingerprint, logs
from harness.config import RunConfig
from harness.fingerprint import Digest
from harness.runs import RunFolder
from launch import inputs, settings

logger = logging.getLogger("harness.launch")


def show(result: Mapping[str, Any]) -> None:
    """The closing table: scores times 100."""
    rows: list[dict[str, str | float]] = []
    for name, values in result["scores"].items():
        remark = "trained on" if name == "dev" and result.get("dev_was_trained_on") else ""
        rows.append(
            {
                "split": name,
                "metric": values["metric"],
                "score": f"{100 * values['score']:.2f}",
                "loss": f"{values['loss']:.4f}",
                "examples": str(values["examples"]),
                "": remark,
            }
        )
    if rows:
        logs.print_table(f"{result['task']}, seed {result['seed']}", rows)
    if result["data"] == "sample":
        logger.warning(settings.SAMPLE_BANNER)


def show_again(config: RunConfig, result: Mapping[str, Any]) -> None:
    """The same of a run that was finished before, on the terminal alone: its log has it already. Rank 0 alone."""
    path = RunFolder(Path(config.output_dir)).result
    logs.setup(True, None)
    try:
        logger.info("finished before, on %s; nothing is done again (%s)", _date(path), path)
        show(result)
        for text in stale(config):
            logger.warning("%s", text)
    finally:
        logs.close()


def stale(config: RunConfig, digest: Digest = fingerprint.sha256) -> list[str]:
    """A line for each input of a finished run that is gone, or is not what it was."""
    lines = [f"{text} is gone now: the scores are of what was there then" for text in gone(config)]
    try:
        lines += [
            f"{text} has changed since the run began: the scores are of what was there then; for those of now, name "
            "another --output_dir, or start anew with --overwrite_output_dir"
            for text in inputs.changed(config, digest)
        ]
    except UserError as error:
        lines.append(f"whether the inputs are still those of the run cannot be told: {error}")
    return lines


def _date(path: Path) -> str:
    return f"{datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M}"


def gone(config: RunConfig) -> list[str]:
    """The inputs of a run that are no longer where they were, each as `--flag value`."""
    texts = []
    try:
        settings.find_data(config)
    except UserError:
        texts.append(f"--data_dir {config.data_dir}")
    for name in ("task_file", "model_name_or_path", "tokenizer_name"):
        value = getattr(config, name)
        if value and Path(value).is_absolute() and not os.path.exists(value):
            texts.append(f"--{name} {value}")
    return texts

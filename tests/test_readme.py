"""What README.md promises exists: tasks, flags, files, make targets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tasks
from harness import flags
from harness.ds.config import CONFIGS
from launch import submit

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_has_the_ten_tasks_and_their_files() -> None:
    named = re.findall(r"^\| `(\w+)` \|", README, re.M)
    assert set(tasks.TASKS) <= set(named)
    for name in ("bc5cdr_disease", "clefe"):
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}`"))
        assert " ".join(tasks.get(name).filenames.values()) in row


def test_every_flag_exists() -> None:
    known = set(flags.known_names()) | set(flags.RETIRED)
    launchers = {"num_gpus", "nproc_per_node", "module", "help", "source", "rdzv_conf", "dev_ids", "accept-license"}
    launchers |= {"out", "baseline", "with_text", "predictions", "split", "input"}
    launchers |= {option.removeprefix("--") for option in submit.build_parser()._option_string_actions}
    named = {flag.removeprefix("no-") for flag in re.findall(r"(?<![\w-])--([a-z][a-z_0-9-]+)", README)}
    assert named and named <= known | launchers, named - known - launchers


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.M))
def test_every_make_target_exists(target: str) -> None:
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()


def test_every_link_and_folder_exists() -> None:
    local = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    folders = re.findall(r"`((?:launch|harness|tasks|ds_configs|benchmarks|slurm)/[\w./]*)`", README)
    missing = [name for name in local + folders if "NAME" not in name and not (ROOT / name).exists()]
    assert local and folders and not missing


def test_every_ds_config_is_described() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} <= set(re.findall(r"`(\w+)`", README))

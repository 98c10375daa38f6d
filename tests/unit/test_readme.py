"""What README.md, CONTRIBUTING.md and docs/ promise exists: tasks, flags, files, make targets, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tasks
from harness import errors, flags, run_folder
from harness.ds.config import CONFIGS
from launch import submit
from launch.reporting.leaderboard import MARKS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path: path.read_text(encoding="utf-8") for path in FILES}
OTHER_PROGRAMS = {
    *("num_gpus", "nproc_per_node", "module", "help", "source", "rdzv_conf", "dev_ids", "mentions", "accept-license"),
    *("list", "only", "minutes", "small", "standalone", "count", "tokens", "tflops", "batch", "length"),
    *("out", "baseline", "published", "ensemble", "with_text", "blurb", "predictions", "split", "input", "rank"),
}
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def test_the_table_has_the_ten_tasks_and_their_files() -> None:
    named = re.findall(r"^\| `(\w+)` \|", README, re.M)
    assert set(tasks.BLUE) <= set(named)
    for name in ("bc5cdr_disease", "clefe"):
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}`"))
        assert " ".join(tasks.get(name).filenames.values()) in row


@every_file
def test_every_flag_exists(path: Path) -> None:
    known = set(flags.known_names()) | set(flags.RETIRED) | OTHER_PROGRAMS
    known |= {option.removeprefix("--") for option in submit.build_parser()._option_string_actions}
    named = {flag.removeprefix("no-") for flag in re.findall(r"(?<![\w-])--([a-z][a-z_0-9-]+)", TEXTS[path])}
    assert named <= known, named - known


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {target for text in TEXTS.values() for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)}
    assert named and [target for target in named if f"\n{target}:" not in makefile] == []


@every_file
def test_every_link_and_file_exists(path: Path) -> None:
    text = TEXTS[path]
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    missing = [link for link in links if not (path.parent / link).exists()]
    named = re.findall(r"`((?:launch|harness|tasks|tests|ds_configs|benchmarks|slurm|docs)/[\w./]*)`", text)
    assert missing + [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []


def test_every_page_is_linked_from_the_readme() -> None:
    linked = re.findall(r"\]\(docs/([^)#]+)", README)
    assert {path.name for path in FILES if path.parent != ROOT} <= set(linked)


def test_no_sentence_is_there_twice() -> None:
    found: dict[str, str] = {}
    for path, text in TEXTS.items():
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        for sentence in re.split(r"(?<=[.:;])\s+|\n\n|\|", prose):
            plain = " ".join(sentence.split())
            if len(plain) > 50:
                assert plain not in found, f"{path.name} and {found[plain]}: {plain}"
                found[plain] = path.name


def page(name: str) -> str:
    return TEXTS[ROOT / "docs" / name]


def test_every_ds_config_is_described() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} <= set(re.findall(r"`(\w+)`", page("ds_configs.md")))


def test_every_file_of_a_run_is_described() -> None:
    names = (*run_folder.OWN_FILES, *run_folder.OWN_FOLDERS, *run_folder.ORIGINAL_FILES)
    text = page("run_folder.md")
    assert [name for name in names if f"`{name}" not in text] == []


def test_every_exit_status_is_described() -> None:
    statuses = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    rows = [f"| {value} | `{name}` |" for name, value in statuses.items()]
    assert rows and [row for row in rows if row not in page("exit_statuses.md")] == []


def test_every_mark_of_the_leaderboard_is_described() -> None:
    assert [mark for mark, text in MARKS.items() if f"| {mark} | {text} |" not in page("results.md")] == []

"""Data folders of the published sizes for corpora that are not at hand: the made-up samples, repeated."""

from __future__ import annotations

import re
from pathlib import Path

import tasks
from tasks.published import SIZES


def published_size(task: str, split: str) -> int:
    """Rows of a split, or mentions in tagging."""
    sizes = {size.what: getattr(size, split) for size in SIZES[task]}
    return int(
        sizes.get("rows") or sizes.get("mentions") or sizes["positive"] + sizes.get("false", sizes.get("DDI-false", 0))
    )


def made_up(task: str, folder: Path, share: float) -> Path:
    """A data folder with the sample repeated up to `share` of the published sizes."""
    folder.mkdir(parents=True)
    for split, name in tasks.get(task).filenames.items():
        wanted = max(1, round(share * published_size(task, split)))
        text = (tasks.sample_dir(task) / name).read_text(encoding="utf-8")
        if tasks.get(task).family == "tagging":
            text *= -(-wanted // text.count("\tB\n"))
        else:
            header, *rows = text.splitlines(keepends=True)
            text = header + "".join(again(rows[i % len(rows)], i // len(rows)) for i in range(wanted))
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def again(row: str, repeat: int) -> str:
    """The row under another index, since each occurs once: `<split>-<n>` at its start, `<document>_s<n>` at its end."""
    row = re.sub(r"^(train|dev|test)-", rf"\1-{repeat}-", row)
    return re.sub(r"\t(\d+)(_s\d+\n)$", lambda found: f"\t{int(found[1]) + 1_000_000_000 * repeat}{found[2]}", row)

"""What a part of the check found, kept in a file as soon as it is known, and the table that is made of these files."""

from __future__ import annotations

import json
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import versions
from harness.errors import first_line

NOT_MEASURED = "not measured"
CPU = "cpu"  # the device's name where there is no GPU


class Report:
    """The rows of one part. The file is written anew with each row: what ends the part does not take them away."""

    def __init__(self, file: Path, part: str, device: str, small: bool) -> None:
        self.file, self.on_gpu, self.began = file, device != CPU, time.monotonic()
        self.content: dict[str, Any] = {
            "part": part, "status": "unfinished", "error": "", "device": device, "small": small,
            "commit": versions.commit(), "rows": [],
        }  # fmt: skip

    def row(self, name: str, value: str, outcome: str = "", **numbers: Any) -> None:
        """`outcome`: ok, failed, `not measured`, or nothing for a plain fact; `numbers` are for the file alone."""
        self.content["rows"].append({"name": name, "value": value, "outcome": outcome, "numbers": numbers})
        self._write()

    def check(self, name: str, passed: bool, value: str, **numbers: Any) -> None:
        """A row that is ok or failed."""
        self.row(name, value, "ok" if passed else "failed", **numbers)

    def measure(self, name: str, value: str, **numbers: Any) -> None:
        """A number that means something on a GPU alone."""
        self.row(name, value if self.on_gpu else "", "" if self.on_gpu else NOT_MEASURED, **numbers)

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """An error within it is a failed row, and the part goes on."""
        try:
            yield
        except (Exception, SystemExit) as error:  # SystemExit: of benchmarks.bench, where a system failed
            traceback.print_exc()
            self.row(name, one_line(error), "failed")

    def finish(self, error: str = "") -> None:
        """The part is over: failed with an error, or where a row failed."""
        failed = error or any(row["outcome"] == "failed" for row in self.content["rows"])
        self.content |= {"status": "failed" if failed else "done", "error": error}
        self._write()

    def _write(self) -> None:
        self.content["seconds"] = round(time.monotonic() - self.began, 1)
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.file)


def one_line(error: BaseException) -> str:
    """An error's kind and first line; of a SystemExit, whose text is a program's output, the line that tells most."""
    return telling_line(str(error)) if isinstance(error, SystemExit) else f"{type(error).__name__}: {first_line(error)}"


def telling_line(text: str) -> str:
    """The last line that speaks of an error, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"\b\w*(Error|Exception)\b:|^error:", line)]
    return (telling or lines or ["no message"])[-1][:300]


def load(file: Path) -> dict[str, Any] | None:
    """What `Report` wrote; None where there is nothing that can be read."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def rows_of(part: str, found: Mapping[str, Any] | None) -> list[tuple[str, str, str, str]]:
    """(part, what, value, outcome) of a part."""
    if found is None:
        return [(part, "", "not run yet", "")]
    rows = [(part, row["name"], row["value"], row["outcome"]) for row in found["rows"]]
    if found["error"]:
        rows.append((part, "", f"failed: {found['error']}", "failed"))
    return rows


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns are padded, so that it can be read as it is."""
    cells = [[cell.replace("|", "/") for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
             for row in cells]  # fmt: skip
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def say(text: str) -> None:
    """To whoever watches, at once."""
    print(text, flush=True, file=sys.stderr)

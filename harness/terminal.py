"""What a terminal is shown of names and texts that come from files: it would obey the control sequences in them.

`safely` stands around every command; whatever is printed meanwhile is made visible. rich's own sequences shall arrive:
it writes past the streams of `safely`, and its texts are made visible by the console of harness/logs.py.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

# Control characters but tab and line end, those that turn the direction of writing, and bytes that are no UTF-8.
OBEYED = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)"
)


def visible(text: str) -> str:
    r"""The text with control characters as \u001b: nothing obeys them, and JSON keeps its meaning."""
    return OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _Stream:
    """A stream that takes only visible text. rich writes to what the name of the attribute says."""

    def __init__(self, stream: Any) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(visible(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


@contextlib.contextmanager
def safely() -> Iterator[None]:
    """While it lasts, or the function that it decorates, what is printed is visible text."""
    with contextlib.redirect_stdout(_safe(sys.stdout)), contextlib.redirect_stderr(_safe(sys.stderr)):
        yield


def _safe(stream: Any) -> Any:
    return stream if stream is None or isinstance(stream, _Stream) else _Stream(stream)

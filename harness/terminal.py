"""What a terminal is shown of names and texts that come from files: it would obey the control sequences in them.

`safely` stands around every command; whatever is printed meanwhile is made visible. rich's own sequences shall arrive:
it writes past the streams of `safely`, and its texts are made visible by the console of harness/logs.py.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec

from harness.errors import EXIT_USER, UserError

OWNER_ONLY = 0o077  # umask: clinical text is under data use agreements
OTHER_RANKS_WAIT = 1.0  # seconds: a launcher ends all ranks when one leaves, and rank 0 has to print first

# Control characters but tab and line end, those that turn the direction of writing, and bytes that are no UTF-8.
OBEYED = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)"
)

P = ParamSpec("P")


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


def rank() -> int:
    """Of this process, known from its first line on, before the ranks have met."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def say(message: str) -> None:
    """Print on stderr, once for all ranks: rank 0 does, the others wait until it has."""
    if rank() == 0:
        print(message, file=sys.stderr, flush=True)
    else:
        time.sleep(OTHER_RANKS_WAIT)


def guarded(command: Callable[P, int]) -> Callable[P, int]:
    """Decorates a command: its exit status is 2, with one line on stderr, for a mistake of the user's.

    Files that it writes are for their owner only.
    """

    @functools.wraps(command)
    @safely()
    def run(*args: P.args, **options: P.kwargs) -> int:
        os.umask(OWNER_ONLY)
        try:
            status = command(*args, **options)
            sys.stdout.flush()
            return status
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USER
        except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    return run

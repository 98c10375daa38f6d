"""What the reporting commands share at the terminal: flags that fail in one line, and their exit status."""

from __future__ import annotations

import argparse
import os
import sys
import typing
from collections.abc import Callable

from harness import UserError, runs

EXIT_USER = 2


class Parser(argparse.ArgumentParser):
    """Raises UserError where argparse would print its usage and leave."""

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message}; --help lists the flags")


def guarded(command: Callable[[], int]) -> int:
    """The exit status of `command`; 2, with one line on stderr, for a mistake of the user's.

    Files that it writes are for their owner only.
    """
    os.umask(runs.OWNER_ONLY)
    try:
        status = command()
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0

"""What the reporting commands share at the terminal: their exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from harness import UserError, runs, terminal
from harness.flags import Parser as Parser  # the commands take both from here

EXIT_USER = 2


@terminal.safely()
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

"""A process that does one run after another, so that only the first one pays for starting up.

Started by launch/local_jobs.py. Requests are JSON lines on stdin, {"config": settings, "log": file}; each is answered
by one on stdout, {"exit": status}. The end of stdin ends the process; in the middle of a run, at its next checkpoint.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import sys
import threading
import traceback
from typing import Any

from harness import runs
from harness.files import private
from launch.job import TrainJob
from launch.train import EXIT_FAILED, EXIT_STOPPED


def main() -> None:
    """Serve until stdin ends."""
    os.umask(runs.OWNER_ONLY)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while (request := requests.get()) is not None:
        _write_to(request["log"])
        status = _attempt(request["config"])
        sys.stdout.flush()
        sys.stderr.flush()
        answers.write(json.dumps({"exit": status}) + "\n")
        _spare_the_collector()
    os._exit(0)  # libraries' threads have nothing left to say


def _listen(requests: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    for line in sys.stdin:
        requests.put(json.loads(line))
    requests.put(None)
    os.kill(os.getpid(), signal.SIGTERM)  # who asked is gone: a run that is going on stops at its next checkpoint


def _spare_the_collector() -> None:
    """After the first run: what is left are the libraries' objects, half a million, and each run ends with a collection
    that would look through them. Not after later runs: what one of them had left over would stay for good."""
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def _write_to(log: str) -> None:
    """All that the run and its libraries print goes to the end of that file."""
    sys.stdout.flush()
    sys.stderr.flush()
    handle = private(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def _attempt(config: dict[str, Any]) -> int:
    """The exit status that a process with this run alone would have."""
    try:
        outcome = TrainJob(config)()
    except SystemExit as end:
        return int(end.code or 0) if not isinstance(end.code, str) else EXIT_FAILED
    except BaseException:
        traceback.print_exc()
        return EXIT_FAILED
    return EXIT_STOPPED if outcome["status"] == "stopped" else 0


if __name__ == "__main__":
    main()

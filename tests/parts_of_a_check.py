"""Parts for tests of the GPU check's command: functions that a process of their own calls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from benchmarks.gpu_check.part import Job


def works(job: Job) -> None:
    job.report.check("sum", True, "2", count=2)
    job.report.measure("rate", "7 a second", rate=7)


def fails_in_a_row(job: Job) -> None:
    with job.report.attempt("first"):
        raise ValueError("no such card\nmore about it")
    job.report.check("second", True, "fine")


def raises(job: Job) -> None:
    job.report.check("before", True, "fine")
    raise RuntimeError("CUDA error: an illegal memory access\nmore about it")


def dies(job: Job) -> None:
    job.report.check("before", True, "fine")
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(job: Job) -> None:
    """With a child that hangs too, and hears no request to end."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code])
    job.report.row("child", str(child.pid))
    time.sleep(600)

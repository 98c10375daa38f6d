"""One part of the check, in a process of its own: `python -m benchmarks.gpu_check.part MODULE:FUNCTION --name N`."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_check.report import CPU, Report, one_line


@dataclass(frozen=True)
class Job:
    """What a part is given."""

    report: Report
    scratch: Path  # shared by the parts of one command, gone at its end
    data: Path | None  # folder with a folder for each corpus, where there is one
    small: bool  # a tiny encoder and a few steps: whether the check itself works

    @property
    def on_gpu(self) -> bool:
        """Whether there is a CUDA device."""
        return self.report.on_gpu


def parser() -> argparse.ArgumentParser:
    """The flags that the command hands on."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("function")
    flags.add_argument("--name", required=True)
    flags.add_argument("--out", type=Path, required=True)
    flags.add_argument("--scratch", type=Path, required=True)
    flags.add_argument("--device", default=CPU)
    flags.add_argument("--data", type=Path)
    flags.add_argument("--small", action="store_true")
    return flags


def main() -> int:
    """Exit status 0 where the part came to its end, whatever it found."""
    args = parser().parse_args()
    module, _, function = args.function.partition(":")
    report = Report(args.out / f"{args.name}.json", args.name, args.device, args.small)
    try:
        getattr(importlib.import_module(module), function)(Job(report, args.scratch, args.data, args.small))
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        report.finish(one_line(error))
        return 1
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())

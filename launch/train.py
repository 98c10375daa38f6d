"""One run: fine-tune an encoder on a task, score dev and test, leave a run folder.

deepspeed launch/train.py --task mednli          # or torchrun, srun, python
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from harness import UserError, logs
from harness.config import RunConfig

EXIT_FAILED, EXIT_USER, EXIT_STOPPED, EXIT_LOST = 1, 2, 75, 76  # 75: EX_TEMPFAIL, the same command goes on


def run(config: RunConfig) -> dict[str, Any]:
    """The result, as in result.json. Can be called again and again in one process, on all ranks alike.

    Raises UserError, TrainingFailed, and Stopped where a stop request left the run at a checkpoint.
    """
    from harness import distributed, runs
    from harness.runs import RunFolder
    from launch import assembly, record, scoring, settings, training
    from launch.failures import FirstFailure

    started = time.perf_counter()
    os.umask(runs.OWNER_ONLY)
    folder = RunFolder(Path(config.output_dir).absolute(), config.result_prefix)
    world = distributed.init(config.no_cuda, shared=folder.path)
    with ExitStack() as stack:
        start = distributed.on_main(lambda: runs.hold(folder, stack))
        finished = distributed.on_main(lambda: settings.prepare(config))
        if finished is not None:
            if world.is_main:
                record.show(finished)
            return finished
        logs.setup(world.is_main, folder.log)
        stack.callback(logs.close)
        failures = stack.enter_context(FirstFailure(folder, world, start))
        parts = assembly.build(config, world, folder)
        tracker = stack.enter_context(record.tracker(parts))
        stack.callback(failures.stop_watching)  # to close the tracker may take rank 0 a while
        state = training.train(parts, tracker) if parts.trains else None
        scores = scoring.score(parts, tracker)
        return distributed.on_main(lambda: record.finish(parts, scores, state, time.perf_counter() - started))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 finished, 1 failed, 2 a mistake of the user's, 75 stopped and ready to go on, 76 lost a rank."""
    import torch

    logs.quiet_libraries(torch.cuda.is_available())
    from launch import crash, failures, settings
    from launch.training import Stopped

    try:
        config, notes = settings.parse(sys.argv[1:] if argv is None else argv)
    except UserError as error:  # the same on all ranks
        say(f"error: {error}")
        return EXIT_USER
    for note in notes:
        say(note)
    try:
        with crash.noted(Path(config.output_dir), harmless=Stopped):
            run(config)
        return 0
    except Stopped as stop:
        say(str(stop))
        return EXIT_STOPPED
    except Exception as error:
        return failures.report(error)


def say(message: str) -> None:
    """One voice for all ranks; the others wait until it was heard, since a launcher kills all when one leaves."""
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        print(message, file=sys.stderr, flush=True)
    else:
        time.sleep(1)


def command() -> NoReturn:
    """The program, from its first line to its last."""
    status = main()
    from harness import distributed

    distributed.leave(status)


if __name__ == "__main__":
    command()

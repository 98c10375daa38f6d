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
from typing import Any

from harness import UserError, logs
from harness.config import RunConfig

EXIT_FAILED, EXIT_USER, EXIT_STOPPED = 1, 2, 75  # 75: EX_TEMPFAIL, the same command goes on


def run(config: RunConfig) -> dict[str, Any]:
    """The result, as in result.json. Can be called again and again in one process, on all ranks alike.

    Raises UserError, TrainingFailed, and Stopped where a stop request left the run at a checkpoint.
    """
    from harness import distributed, runs
    from harness.runs import RunFolder
    from launch import assembly, record, scoring, training

    started = time.perf_counter()
    os.umask(runs.OWNER_ONLY)
    world = distributed.init(config.no_cuda)
    folder = RunFolder(Path(config.output_dir).absolute(), config.result_prefix)
    with ExitStack() as stack:
        distributed.on_main(lambda: runs.hold(folder, stack))
        finished = distributed.on_main(lambda: runs.prepare(config))
        if finished is not None:
            if world.is_main:
                record.show(finished)
            return finished
        logs.setup(world.is_main, folder.log)
        stack.callback(logs.close)
        parts = assembly.build(config, world, folder)
        tracker = stack.enter_context(record.tracker(parts))
        state = training.train(parts, tracker) if parts.trains else None
        scores = scoring.score(parts, tracker)
        return distributed.on_main(lambda: record.finish(parts, scores, state, time.perf_counter() - started))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 finished, 1 training failed, 2 a mistake of the user's, 75 stopped and ready to go on."""
    import torch

    logs.quiet_libraries(torch.cuda.is_available())
    from harness.engine import TrainingFailed
    from launch import crash, settings
    from launch.training import Stopped

    try:
        config, notes = settings.parse(sys.argv[1:] if argv is None else argv)
        for note in notes:
            say(note)
        with crash.noted(config.output_dir, harmless=Stopped):
            run(config)
        return 0
    except UserError as error:
        say(f"error: {error}")
        return EXIT_USER
    except TrainingFailed as error:
        say(f"error: {error}")
        return EXIT_FAILED
    except Stopped as stop:
        say(str(stop))
        return EXIT_STOPPED


def say(message: str) -> None:
    """One voice for all ranks; the others wait until it was heard, since a launcher kills all when one leaves."""
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        print(message, file=sys.stderr, flush=True)
    else:
        time.sleep(1)


if __name__ == "__main__":
    status = main()
    from harness import distributed

    distributed.leave(status)

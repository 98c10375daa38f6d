"""One run: fine-tune an encoder on a task, score dev and test, leave a run folder.

python launch/train.py --task mednli          # one device; or deepspeed -q, torchrun, srun
"""

from __future__ import annotations

from harness import preemption, terminal
from harness.errors import EXIT_STOPPED, EXIT_USER, Stopped, UserError

if __name__ == "__main__":
    preemption.listen()  # first of all: what is imported below may take its time

import gc
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from harness.config import RunConfig


def run(config: RunConfig) -> dict[str, Any]:
    """The result, as in result.json. Can be called again and again in one process, on all ranks alike.

    Raises UserError, TrainingFailed, and Stopped where a stop request was followed.
    """
    from harness import distributed, lock, logs
    from harness.preemption import StopRequest
    from harness.run_folder import RunFolder
    from harness.watchdog import Watchdog
    from launch.jobs import status
    from launch.run import result, settings, setup, train_and_score
    from launch.run.failures import FirstFailure

    begin = time.perf_counter()
    os.umask(terminal.OWNER_ONLY)
    folder = RunFolder(Path(config.output_dir).absolute(), config.result_prefix)
    world = distributed.init(config.no_cuda, folder.path, config.rendezvous_seconds, config.tf32)
    config = distributed.broadcast(config)  # parsing looks into folders, which may differ between nodes
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        token = distributed.on_main(lambda: lock.acquire(folder, stack))
        finished = distributed.on_main(lambda: settings.prepare(config, status.submitted))
        if finished is not None:
            if world.is_main:
                result.show_again(config, finished)
            return finished
        logs.setup(world.is_main, folder.log)
        stack.callback(logs.close)
        lock.log_lease(folder)
        failures = stack.enter_context(FirstFailure(folder, world, token))
        watch = stack.enter_context(
            Watchdog(world, config.watchdog_minutes, compiles=config.compile, end=failures.end_stuck, token=token)
        )
        prepared = setup.build(config, world, folder)
        gc.enable()  # which `main` disabled: nearly all is imported
        tracker = stack.enter_context(result.tracker(prepared))
        stack.callback(failures.stop_watching)  # to close the tracker may take rank 0 a while
        stack.callback(watch.stop)
        state = train_and_score.train(prepared, tracker, stop) if prepared.trains else None
        scores = train_and_score.score(prepared, tracker)
        return distributed.on_main(lambda: result.finish(prepared, scores, state, time.perf_counter() - begin))


@terminal.safely()
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 finished, 1 failed, 2 a mistake of the user's, 75 stopped and ready to go on, 76 lost a rank
    or stood still."""
    from harness import lora
    from launch.run import settings

    try:
        config, notes = settings.parse(sys.argv[1:] if argv is None else argv)
        if config.lora_rank is not None:
            lora.check_installed("--lora_rank")
    except UserError as error:  # the same on all ranks
        terminal.say(f"error: {error}")
        return EXIT_USER
    for note in notes:
        terminal.say(note)
    if terminal.rank() == 0:
        print(f"starting: task {config.task}, model {config.model_name_or_path}; loading libraries ...", flush=True)
    gc.disable()  # what is imported stays: to look through it over and over takes a tenth of the start
    from harness import logs
    from harness.preemption import ignored

    logs.quiet_libraries()
    from launch.jobs import requeue
    from launch.run import failures

    try:
        with requeue.noted(Path(config.output_dir)):
            run(config)
        return 0
    except Stopped as stop:
        with ignored():
            terminal.say(str(stop))
            return EXIT_STOPPED
    except Exception as error:
        with ignored():
            return failures.report(error)
    finally:
        gc.enable()


def command() -> NoReturn:
    """The program, from its first line to its last."""
    preemption.listen()
    status = main()
    preemption.ignore()
    if distributed := sys.modules.get("harness.distributed"):
        distributed.leave(status)
    sys.exit(status)


if __name__ == "__main__":
    command()

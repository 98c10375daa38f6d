"""Send runs to a SLURM cluster, or do them here: the same flags as launch/train.py, plus which runs, and where.

python launch/submit.py --task mednli --profile slurm/cluster.toml --nodes 2 --gpus_per_node 4
python launch/submit.py --suite blue --model M --seeds 5
python launch/submit.py status runs
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from harness import UserError, flags, runs
from harness.config import RunConfig
from launch import commands, local_jobs, request, settings, slurm_jobs, states, suites
from launch.job import TrainJob
from launch.request import Request
from launch.suites import Suite
from launch.train import EXIT_STOPPED, EXIT_USER
from tasks.suites import SUITES


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 submitted or finished, 1 failed, 2 a mistake of the user's, 75 stopped here and ready to go on."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.umask(runs.OWNER_ONLY)
    try:
        if words and words[0] in commands.COMMANDS:
            return commands.main(words, start)
        options, rest = build_parser().parse_known_args(words)
        if options.help:
            return _help()
        configs, notes = suites.expand(_suite(options), rest)
        where = request.from_options(options, options.print)
        for note in notes:
            print(note, file=sys.stderr)
        if options.print:
            return show(where, configs)
        status = start(where, configs)
        if options.suite is not None and status != EXIT_STOPPED:
            _sum_up(where, configs)
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER


def build_parser() -> argparse.ArgumentParser:
    """The flags of this command alone; every other word belongs to launch/train.py."""
    lines = [f"  %(prog)s {name:<8} RUNS...  {what}" for name, what in commands.COMMANDS.items()]
    parser = request.Parser(
        allow_abbrev=False,
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --task T | --task_file F | --suite NAME [which runs] [where] [flags of launch/train.py]",
        description="Send runs to a SLURM cluster, or do them here, one after another on each device.\n"
        "Finished runs are skipped; the others begin, or go on from their last checkpoint.",
        epilog="afterwards:\n" + "\n".join(lines),
    )
    parser.add_argument("-h", "--help", action="store_true", help="this text, then the flags of the run")
    parser.add_argument("--print", action="store_true", help="show the runs and the sbatch script, start nothing")
    which = parser.add_argument_group("which runs (all combinations; without these flags, the one of --task)")
    which.add_argument("--suite", metavar="X", help=f"{', '.join(SUITES)}, or a TOML file")
    which.add_argument("--tasks", metavar="A,B", help="only these tasks of the suite, or these without a suite; "
                       "tasks of your own by their TOML files")  # fmt: skip
    which.add_argument("--model", nargs="+", default=[], metavar="M", help="encoders: folders or hub names")
    which.add_argument("--seeds", metavar="N|A,B", help=f"how many, from {suites.FIRST_SEED} on; or which ones")
    which.add_argument("--sweep", nargs="+", action="extend", default=[], metavar="NAME=A,B",
                       help="values of a setting, for example learning_rate=3e-5,5e-5")  # fmt: skip
    request.add_flags(parser)
    return parser


def _help() -> int:
    build_parser().print_help()
    run = flags.build_parser()
    run.usage, run.description = argparse.SUPPRESS, "Flags of each run, as of launch/train.py:"
    print()
    run.print_help()
    return 0


def _suite(options: argparse.Namespace) -> Suite:
    parts = (options.tasks, options.seeds, options.sweep, len(options.model) > 1)
    suite = Suite(several=any(parts)) if options.suite is None else suites.read(options.suite)
    return suites.narrowed(suite, options.tasks, options.model, options.seeds, options.sweep)


def show(where: Request, configs: Sequence[RunConfig]) -> int:
    """What would be started, and as what."""
    if len(configs) > 1 or where.cluster != "slurm":
        for config in configs:
            print(config.output_dir, file=sys.stderr if where.cluster == "slurm" else sys.stdout)
    if where.cluster == "slurm":
        print(slurm_jobs.sbatch_text(where, configs), end="")
    return 0


def start(where: Request, configs: Sequence[RunConfig]) -> int:
    """Start what is not finished. Raises UserError, before anything is started, where a run cannot be."""
    absolute = [dataclasses.replace(config, output_dir=str(Path(config.output_dir).absolute())) for config in configs]
    left = _prepared(absolute)
    if not left:
        return 0
    if where.cluster == "debug":
        outcomes = [TrainJob(config.to_dict())()["status"] for config in left]
        return 0 if set(outcomes) == {"finished"} else EXIT_STOPPED
    return slurm_jobs.submit(where, left) if where.cluster == "slurm" else local_jobs.run(where, left)


def _sum_up(where: Request, configs: Sequence[RunConfig]) -> None:
    """Send a suite's leaderboard to wandb once all its runs have ended: on SLURM, when the command is repeated then."""
    from launch.reporting import suite_run  # takes a second, and only the end of a suite needs it

    ended = all((Path(config.output_dir) / "result.json").is_file() for config in configs)
    if len(configs) > 1 and (ended or where.cluster != "slurm"):
        line = suite_run.save(configs, slurm_jobs.home(configs))
        if line is not None:
            print(line)


def _prepared(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """The runs that are left to do; their folders are made. Others' folders and busy runs are told now."""
    left: list[RunConfig] = []
    finished: list[RunConfig] = []
    busy, faults = [], []
    known = states.by_folder([Path(config.output_dir) for config in configs])
    for config in configs:
        folder = runs.RunFolder(Path(config.output_dir), config.result_prefix)
        state = known.get(folder.path)
        if state is not None and state.state in ("queued", "running"):
            busy.append(f"{folder.path}: {state.state} {state.job or state.reason}")
            continue
        try:
            with ExitStack() as stack:
                runs.hold(folder, stack)
                done = settings.prepare(config) is not None
        except UserError as error:
            faults += str(error).splitlines()
            continue
        (finished if done else left).append(config)
    if faults:
        raise UserError("\n".join(faults))
    if busy and len(configs) == 1:
        raise UserError(f"{busy[0]}; wait for it, or: python launch/submit.py cancel {configs[0].output_dir}")
    for text in busy:
        print(f"left alone: {text}")
    if finished:
        each = [str(Path(config.output_dir) / "result.json") for config in finished]
        print(f"finished already: {each[0] if len(each) == 1 else f'{len(each)} of {len(configs)} runs'}")
    return left


if __name__ == "__main__":
    sys.exit(main())

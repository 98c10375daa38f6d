"""Send runs to a SLURM cluster, or do them here: the same flags as launch/train.py, plus which runs, and where.

python launch/submit.py --task mednli --profile slurm/cluster.toml --nodes 2 --gpus_per_node 4
python launch/submit.py --suite blue --model M --seeds 5
python launch/submit.py status runs
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import tasks
from harness import flags, run_folder, terminal
from harness.config import RunConfig
from harness.errors import EXIT_STOPPED, EXIT_USER, UserError
from harness.run_folder import RunFolder
from launch.jobs import commands, display, local, plans, resources, slurm, suites
from launch.jobs.job import TrainJob
from launch.jobs.plans import Plan
from launch.jobs.resources import Request
from launch.jobs.suites import Suite
from launch.run import inputs, result, settings


@terminal.safely()
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 submitted or finished, 1 failed, 2 a mistake of the user's, 75 stopped here and ready to go on."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.umask(terminal.OWNER_ONLY)
    try:
        if words and not words[0].startswith("-"):
            return commands.main(words, start)
        options, rest = build_parser().parse_known_args(words)
        _check_names(list(vars(options)), rest)
        where, configs = _asked(options, rest)
        plan = plans.make(where, configs, options.skip_missing)
        if options.print:
            return show(where, plan)
        status = carry_out(where, plan)
        if options.suite is not None and status != EXIT_STOPPED:
            _sum_up(where, plan.wanted)
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER


def build_parser() -> argparse.ArgumentParser:
    """The flags of this command alone; every other word belongs to launch/train.py."""
    lines = [f"  %(prog)s {name:<8} RUNS...  {what}" for name, what in commands.COMMANDS.items()]
    parser = resources.Parser(
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --task T | --task_file F | --suite NAME [which runs] [where] [flags of launch/train.py]",
        description="Send runs to a SLURM cluster, or do them here, one after another on each device.\n"
        "Data, models and this machine are looked at first, and nothing starts where something is missing.\n"
        "Finished runs are skipped; the others start, or go on from their last checkpoint.",
        epilog="afterwards:\n" + "\n".join(lines) + "\n\nThe flags of a run (data, model, training, wandb and "
        "others) work here too:\n  python launch/train.py --help",
    )
    parser.add_argument("--print", action="store_true", help="show the runs and the sbatch script, then what is "
                        "missing (exit status 2); start nothing")  # fmt: skip
    which = parser.add_argument_group("which runs (all combinations; without these flags, the one of --task)")
    which.add_argument("--suite", metavar="X", help=f"{', '.join(tasks.SUITES)}, or a TOML file")
    which.add_argument("--tasks", metavar="A,B", help="only these tasks of the suite, or these without a suite; "
                       "custom tasks by their TOML files")  # fmt: skip
    which.add_argument("--model", nargs="+", default=[], metavar="M", help="encoders: folders or hub names")
    which.add_argument("--seeds", metavar="N|A,B", help=f"how many, from {suites.FIRST_SEED} on; or which ones")
    which.add_argument("--sweep", nargs="+", action="extend", default=[], metavar="NAME=A,B",
                       help="values of a setting, for example learning_rate=3e-5,5e-5")  # fmt: skip
    which.add_argument("--skip_missing", action="store_true", help="leave out the tasks and models that are not all "
                       "there; every table of the suite says so")  # fmt: skip
    resources.add_flags(parser)
    return parser


def _check_names(own: Sequence[str], rest: Sequence[str]) -> None:
    """Raises UserError for what is a flag neither of this command nor of a run, with the nearest one of both."""
    _, unknown = flags.build_parser(settings.HELP).parse_known_args(list(rest))
    faults = flags.unknown_flags(unknown, [*own, *flags.known_names()])
    if faults:
        raise UserError("\n".join(faults))


def _asked(options: argparse.Namespace, rest: Sequence[str]) -> tuple[Request, list[RunConfig]]:
    """Where, and which runs. Raises UserError that lists the faults of both and, where only the place is at fault, what
    the runs lack."""
    faults: list[str] = []
    where, configs = None, None
    try:
        where = resources.from_options(options, options.print)
    except UserError as error:
        faults += str(error).splitlines()
    try:
        if options.suite is None:
            suite = Suite(several=any((options.tasks, options.seeds, options.sweep, len(options.model) > 1)))
        else:
            suite = suites.read(options.suite)
        suite = suites.narrowed(suite, options.tasks, options.model, options.seeds, options.sweep)
        expanded, notes = suites.expand(suite, rest)
        for config in expanded:
            run_folder.check_inputs(RunFolder(Path(config.output_dir)), {"--suite": options.suite})
        configs = expanded
        for note in notes:
            print(note, file=sys.stderr)
    except UserError as error:
        faults += str(error).splitlines()
    if where is None and configs is not None and len(configs) > 1:
        faults += plans.make(None, configs, options.skip_missing).faults
    if where is None or configs is None:
        raise UserError("\n".join(faults))
    return where, configs


def show(where: Request, plan: Plan) -> int:
    """What would be started, and as what; then what is missing. Exit status 2 where anything is."""
    on_slurm = where.cluster == "slurm" and plan.wanted
    script = slurm.sbatch_text(where, plan.wanted) if on_slurm else ""  # first: a name may be refused
    if len(plan.wanted) > 1 or where.cluster != "slurm":
        for config in plan.wanted:
            print(config.output_dir, file=sys.stderr if where.cluster == "slurm" else sys.stdout)
    print(script, end="")
    for text in plan.notes:
        print(text, file=sys.stderr)
    plan.refuse()
    return 0


def start(where: Request, configs: Sequence[RunConfig]) -> int:
    """Start what is not finished. Raises UserError, before anything is started, where a run cannot be."""
    return carry_out(where, plans.make(where, configs))


def carry_out(where: Request, plan: Plan) -> int:
    """Make the folders and start the runs. Raises UserError, before anything is made, where one of them cannot be."""
    if plan.left and where.cluster == "slurm" and (fault := slurm.fault(where, plan.left)):
        plan.faults.insert(0, fault)
    plan.refuse()
    plan.make_folders()
    for text in plan.notes:
        print(text, file=sys.stderr)
    for text in plan.busy:
        print(f"skipped: {text}")
    if plan.finished and len(plan.wanted) == 1:
        result.show_again(*plan.finished[0])
    before = [config for config, _ in plan.finished] if len(plan.wanted) > 1 else []
    if before and (where.cluster != "local" or not plan.left):
        rows = [(config, "finished", "finished before") for config in before]
        digest = functools.cache(inputs.sha256)  # runs share models
        for text in dict.fromkeys(text for config in before for text in inputs.stale(config, digest)):
            print(text, file=sys.stderr)
        display.show_runs(f"{len(before)} of {len(plan.wanted)} runs finished before", rows, plan.left_out_lines())
    if not plan.left:
        return 0
    if where.cluster == "debug":
        outcomes = [TrainJob(config.to_dict())()["status"] for config in plan.left]
        return 0 if set(outcomes) == {"finished"} else EXIT_STOPPED
    if where.cluster == "slurm":
        return slurm.submit(where, plan.left)
    return local.run(where, plan.left, before, plan.left_out_lines())


def _sum_up(where: Request, configs: Sequence[RunConfig]) -> None:
    """Send a suite's leaderboard to wandb once all its runs have ended: on SLURM, when the command is repeated then."""
    from launch.reporting import suite_run  # takes a second, and only the end of a suite needs it

    ended = all((Path(config.output_dir) / "result.json").is_file() for config in configs)
    if len(configs) > 1 and (ended or where.cluster != "slurm"):
        line = suite_run.save(configs, slurm.home(configs))
        if line is not None:
            print(line)


if __name__ == "__main__":
    sys.exit(main())

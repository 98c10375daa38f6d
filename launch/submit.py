"""Send runs to a SLURM cluster, or do them here: the same flags as launch/train.py, plus which runs, and where.

python launch/submit.py --task mednli --profile slurm/cluster.toml --nodes 2 --gpus_per_node 4
python launch/submit.py --suite blue --model M --seeds 5
python launch/submit.py --suite blue --model M --tune --seeds 5
python launch/submit.py status runs
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import tasks
from harness import flags, run_folder, terminal
from harness.config import RunConfig
from harness.errors import EXIT_FAILED, EXIT_STOPPED, EXIT_USER, Faults, UserError
from harness.run_folder import RunFolder
from launch.jobs import commands, local, preflight, resources, slurm, suite_record, suites, trials, tuning
from launch.jobs.preflight import Plan
from launch.jobs.resources import Request
from launch.jobs.slurm import TrainJob
from launch.jobs.suites import Suite
from launch.jobs.tuning import Search
from launch.run import inputs, result


@terminal.safely()
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 submitted or finished, 1 failed, 2 a mistake of the user's, 75 stopped here and ready to go on."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.umask(terminal.OWNER_ONLY)
    try:
        if words and not words[0].startswith("-"):
            # Raises UserError, before anything is started, where a run cannot be.
            return commands.main(words, lambda where, configs: carry_out(where, preflight.plan(where, configs)))
        options, rest = build_parser().parse_known_args(words)
        where, configs, searches = _asked(options, rest)
        if searches:
            return tune(where, searches, options, words)
        plan = preflight.plan(where, configs, options.skip_missing)
        if options.print:
            return show(where, plan)
        status = carry_out(where, plan, options.suite)
        if options.suite is not None and status != EXIT_STOPPED:
            _sum_up(where, plan.wanted)
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER


def build_parser() -> argparse.ArgumentParser:
    """The flags of this command alone; every other word belongs to launch/train.py."""
    lines = [f"  %(prog)s {name:<8} RUNS...  {what}" for name, what in commands.COMMANDS.items()]
    parser = flags.Parser(
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
    which.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="M",
        help="encoders: folders or hub names, or a pattern such as 'ckpts/step-*', in quotes: the folders that match",
    )
    which.add_argument("--seeds", metavar="N|A,B", help=f"how many, from {suites.FIRST_SEED} on; or which ones")
    which.add_argument("--sweep", nargs="+", action="extend", default=[], metavar="NAME=A,B",
                       help="values of a setting, for example learning_rate=3e-5,5e-5")  # fmt: skip
    which.add_argument("--skip_missing", action="store_true", help="leave out the tasks and models that are not all "
                       "there; every table of the suite says so")  # fmt: skip
    which.add_argument("--tune", action="store_true", help="choose settings by the dev scores of trials, then train by "
                       "them: [tune] of the suite file or --sweep; default: published rates and epochs")  # fmt: skip
    resources.add_flags(parser)
    return parser


def _asked(options: argparse.Namespace, rest: Sequence[str]) -> tuple[Request, list[RunConfig], list[Search]]:
    """Where, which runs, and with --tune the searches for their settings. Raises UserError that lists the faults
    of both and, where only the place is at fault, what the runs lack."""
    _, unknown = flags.build_parser({}, "").parse_known_args(list(rest))
    Faults(flags.unknown_flags(unknown, [*vars(options), *flags.known_names()])).refuse()
    faults = Faults()
    where, configs = None, None
    searches: list[Search] = []
    with faults.collected():
        where = resources.from_options(options, options.print)
    with faults.collected():
        if options.suite is None:
            suite = Suite(several=any((options.tasks, options.seeds, options.sweep, len(options.model) > 1)))
        else:
            suite = suites.read(options.suite)
        suite = suites.narrowed(suite, options.tasks, options.model, options.seeds, options.sweep)
        if options.tune:
            suite = suites.tuned(suite)
        elif suite.tune:
            print(f"--suite {options.suite}: [tune] is for --tune, which is not given", file=sys.stderr)
        expanded, notes = suites.expand(suite, rest)
        for config in expanded:
            run_folder.check_inputs(RunFolder(Path(config.output_dir)), {"--suite": options.suite})
        if options.tune:
            searches = tuning.searches(expanded, suite.tunes, suites.fixed(suite, rest))
        configs = expanded
        for note in notes:
            print(note, file=sys.stderr)
    if where is None and configs is not None and len(configs) > 1 and not searches:
        faults += preflight.plan(None, configs, options.skip_missing).faults
    faults.refuse()
    assert where is not None and configs is not None
    return where, configs, searches


def tune(where: Request, searches: Sequence[Search], options: argparse.Namespace, words: Sequence[str]) -> int:
    """Search settings by trials, then do the runs with what was chosen. Exit status as `main`'s.

    On SLURM the runs of either part are sent when nothing of the one before is left, by a job that waits for it and
    repeats this command, `words`.
    """
    if options.print:
        return show_search(where, searches, options.skip_missing, words)

    def start(configs: Sequence[RunConfig], begin: Callable[[], None]) -> tuple[int, Collection[Path]]:
        plan = preflight.plan(where, configs, options.skip_missing)
        plan.faults.refuse()
        plan.finished = []  # compared, and of no more interest
        if plan.to_start:
            begin()
        return carry_out(where, plan, options.suite) if plan.to_start or plan.busy else 0, plan.left_out

    faults = Faults()
    for search in searches:
        with faults.collected():
            search.check_folders()
    faults.refuse()
    status, tried = trials.run(searches, start, slurm.REPEATS in os.environ)
    if not tried and status == 0 and where.cluster == "slurm":
        slurm.repeat(where, trials.listed(searches), words)
    elif not tried and status == 0:
        print("another command does the trials; the same command goes on once they have ended", file=sys.stderr)
        return EXIT_STOPPED
    if not tried:
        return status
    wanted = []
    for search, ended in tried.items():
        with faults.collected():
            found = search.choice(ended)
            search.record([one.values for one in ended], found)
            wanted += search.chosen_runs(found)
            print(tuning.said(search, found))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    status = max(status, EXIT_FAILED) if faults else status
    wanted.sort(key=lambda config: config.seed)  # stable: a whole column of the table before the second seed
    if wanted:
        plan = preflight.plan(where, wanted, options.skip_missing)
        outcome = carry_out(where, plan, options.suite)
        if outcome != EXIT_STOPPED:
            _sum_up(where, plan.wanted)
        status = outcome if outcome == EXIT_STOPPED else max(status, outcome)
    return status


def show_search(where: Request, searches: Sequence[Search], skip_missing: bool, words: Sequence[str]) -> int:
    """What the search would start, as `show`: the first trials, then the job that sends what comes after them."""
    first, on_slurm = trials.listed(searches), where.cluster == "slurm"
    status = show(where, preflight.plan(where, first, skip_missing))
    if on_slurm:
        print("\n\n# ---- the job that sends what comes after them")
        print(slurm.repeat_text(where, first, [word for word in words if word != "--print"], ["JOB"]))
    for config in (config for search in searches for config in search.base):
        print(f"then, by what is chosen: {config.output_dir}", file=sys.stderr if on_slurm else sys.stdout)
    return status


def show(where: Request, plan: Plan) -> int:
    """What would be started, and as what; then what is missing. Exit status 2 where anything is."""
    on_slurm = where.cluster == "slurm"
    script = slurm.sbatch_text(where, plan.wanted) if on_slurm and plan.wanted else ""  # first: a name may be refused
    if len(plan.wanted) > 1 or not on_slurm:
        for config in plan.wanted:
            print(config.output_dir, file=sys.stderr if on_slurm else sys.stdout)
    print(script, end="")
    for text in plan.notes:
        print(text, file=sys.stderr)
    plan.faults.refuse()
    return 0


def carry_out(where: Request, plan: Plan, suite: str | None = None) -> int:
    """Make the folders and start the runs. Raises UserError, before anything is made, where one of them cannot be.

    `suite`: as in --suite, whose runs they are.
    """
    faults = Faults()
    if plan.to_start and where.cluster == "slurm":
        with faults.collected():
            slurm.check(where, plan.to_start)
    Faults([*faults, *plan.faults]).refuse()
    plan.make_folders()
    if suite is not None:
        known = suites.read(suite)
        total = suite_record.Total(tasks=known.tasks, groups=known.total)
        folders = [*(Path(config.output_dir) for config in plan.wanted), *plan.left_out]
        suite_record.record_total(folders, known.name, total)
    left_out = suite_record.left_out_notes([Path(config.output_dir) for config in plan.wanted])
    for text in plan.notes:
        print(text, file=sys.stderr)
    for text in plan.busy:
        print(f"skipped: {text}")
    before = plan.finished if len(plan.wanted) > 1 else []
    if plan.finished and not before:
        result.show_again(plan.wanted[0], plan.finished[0].result or {})
    if before and (where.cluster != "local" or not plan.to_start):
        digest = functools.cache(inputs.sha256)  # runs share models
        configs = [run.config for run in before if run.config is not None]
        for text in dict.fromkeys(text for config in configs for text in inputs.stale(config, digest)):
            print(text, file=sys.stderr)
        title, base = f"{len(before)} of {len(plan.wanted)} runs finished before", slurm.home(plan.wanted)
        commands.show_runs(title, base, before, local.COLUMNS, left_out)
    if not plan.to_start:
        return 0
    commands.warn_of_samples(plan.to_start)
    if where.cluster == "debug":
        outcomes = [TrainJob(config.to_dict())()["status"] for config in plan.to_start]
        return 0 if set(outcomes) == {"finished"} else EXIT_STOPPED
    if where.cluster == "slurm":
        return slurm.submit(where, plan.to_start)
    return local.run(where, plan.to_start, before, left_out)


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

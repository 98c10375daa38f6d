"""Send a run to a SLURM cluster, or start it here: the same flags as launch/train.py, plus where it shall run.

python launch/submit.py --task mednli --profile slurm/cluster.toml --nodes 2 --gpus_per_node 4
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import typing
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import UserError, flags, runs
from harness.config import RunConfig
from launch.cluster import Profile
from launch.job import TrainJob, setup_lines, snapshot, snapshot_folder
from launch.train import EXIT_FAILED, EXIT_STOPPED, EXIT_USER

SUBMITIT = "submitit"  # below the run folder: pickles, sbatch files and the logs of every rank
REQUEUES = 1000  # submitit takes any stop of a job shorter than 10 minutes for a timeout; the site's limit is SLURM's
FOREVER = 366 * 24 * 60  # minutes: a local run has no time limit


@dataclass(frozen=True)
class Request:
    """Where a run shall run."""

    cluster: str  # slurm | local | debug
    nodes: int
    gpus_per_node: int
    tasks_per_node: int  # one a device
    profile: Profile


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 submitted or finished, 1 failed, 2 a mistake of the user's, 75 stopped here and ready to go on."""
    from launch import settings

    words = list(sys.argv[1:] if argv is None else argv)
    try:
        options, rest = _parser().parse_known_args(words)
        if options.help:
            _parser().print_help()
            flags.build_parser().print_help()
            return 0
        config, notes = settings.parse(rest)
        config = dataclasses.replace(config, output_dir=str(Path(config.output_dir).absolute()))
        request = _request(options)
        for note in notes:
            print(note, file=sys.stderr)
        if options.print:
            print(sbatch_text(request, config), end="")
            return 0
        return _start(request, config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message}; --help lists the flags")


def _parser() -> argparse.ArgumentParser:
    """The flags of this command alone; every other word belongs to launch/train.py."""
    parser = _Parser(allow_abbrev=False, add_help=False, description="Send a run to a SLURM cluster, or start it here.")
    parser.add_argument("-h", "--help", action="store_true", help="this text, then the flags of the run")
    parser.add_argument("--cluster", choices=("auto", "slurm", "local", "debug"), default="auto",
                        help="auto: slurm where it answers, else local; debug: in this process [auto]")  # fmt: skip
    parser.add_argument("--nodes", type=int, default=1, help="machines [1]")
    parser.add_argument("--gpus_per_node", type=int, help="devices a machine; 0: none, train on its CPUs [1]")
    parser.add_argument("--tasks_per_node", type=int, help="processes a machine, where gpus_per_node is 0 [1]")
    parser.add_argument("--profile", metavar="FILE", help="facts of the cluster, see slurm/cluster.example.toml")
    parser.add_argument("--print", action="store_true", help="show the sbatch script and submit nothing")
    return parser


def _request(options: argparse.Namespace) -> Request:
    gpus = 1 if options.gpus_per_node is None else options.gpus_per_node
    tasks = options.tasks_per_node or max(1, gpus)
    for name, value, least in (("nodes", options.nodes, 1), ("gpus_per_node", gpus, 0), ("tasks_per_node", tasks, 1)):
        if value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
    if gpus and tasks != gpus:
        raise UserError(
            f"--tasks_per_node {tasks}: a process has one device, so it must be --gpus_per_node {gpus}; "
            "leave it out, or give --gpus_per_node 0 to train on CPUs"
        )
    profile = Profile() if options.profile is None else Profile.read(Path(options.profile))
    cluster = options.cluster
    if cluster == "auto":
        cluster = "slurm" if options.print or _slurm_answers() else "local"
    if cluster in ("local", "debug") and not options.print and (options.nodes, tasks) != (1, 1):
        raise UserError(
            f"--cluster {cluster}: starts one process on one device; for {options.nodes * tasks} on this machine, "
            f"deepspeed --num_gpus {options.nodes * tasks} launch/train.py"
        )
    return Request(cluster, options.nodes, gpus, tasks, profile)


def _slurm_answers() -> bool:
    if shutil.which("sbatch") is None:
        return False
    try:
        done = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and bool(done.stdout.strip())


def _start(request: Request, config: RunConfig) -> int:
    os.umask(runs.OWNER_ONLY)
    folder = runs.RunFolder(Path(config.output_dir), config.result_prefix)
    if request.cluster == "debug":
        return 0 if TrainJob(config.to_dict())()["status"] == "finished" else EXIT_STOPPED
    with ExitStack() as stack:  # a run that another process is at, or another run's folder, is told now
        runs.hold(folder, stack)
        finished = runs.prepare(config) is not None
    if finished:
        print(f"finished already: {folder.result}")
        return 0
    return _submit(request, config, folder.path) if request.cluster == "slurm" else _run_here(request, config)


# ---- SLURM
def sbatch_parameters(request: Request, config: RunConfig, code: Path) -> dict[str, Any]:
    """What submitit's SlurmExecutor is told; what the profile leaves open is the cluster's own default."""
    profile = request.profile
    srun = ["--kill-on-bad-exit=1", "--open-mode=append"]  # a dead rank ends all; a requeued job's log goes on
    if profile.cpus_per_task is not None:
        srun.append(f"--cpus-per-task={profile.cpus_per_task}")  # since SLURM 22.05 srun does not inherit it
    values: dict[str, Any] = {
        "job_name": f"{config.task}-{config.model_label}-{config.seed}",
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "time": profile.time,
        "nodes": request.nodes,
        "ntasks_per_node": request.tasks_per_node,
        "gpus_per_node": request.gpus_per_node or None,
        "cpus_per_task": profile.cpus_per_task,
        "mem": None if profile.mem_gb is None else f"{profile.mem_gb}GB",
        "signal_delay_s": profile.signal_delay_s,
        "stderr_to_stdout": True,
        "setup": [*profile.setup, *setup_lines(code)],
        "srun_args": srun,
        "additional_parameters": {"requeue": True, **profile.additional_parameters},
    }
    return {name: value for name, value in values.items() if value is not None}


def sbatch_text(request: Request, config: RunConfig) -> str:
    """The batch script that would be submitted, also on a machine without SLURM."""
    from submitit.slurm import slurm  # SlurmExecutor itself refuses where there is no srun

    folder = Path(config.output_dir) / SUBMITIT
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    values = sbatch_parameters(request, config, snapshot_folder(Path(config.output_dir)))
    return str(slurm._make_sbatch_string(command=command, folder=folder, **values))


def _submit(request: Request, config: RunConfig, folder: Path) -> int:
    import submitit

    if shutil.which("sbatch") is None:
        raise UserError("--cluster slurm: there is no sbatch here; log in to the cluster, or --cluster local")
    code = snapshot(folder)
    executor = submitit.SlurmExecutor(folder=folder / SUBMITIT, max_num_timeout=REQUEUES)
    executor.update_parameters(**sbatch_parameters(request, config, code))
    # Nothing of a job that this command may itself run in; but clean_env would also take what users set for sbatch.
    kept = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or name.startswith("SBATCH_")}
    try:
        with submitit.helpers.clean_env(), submitit.helpers.environment_variables(**kept):
            job = executor.submit(TrainJob(config.to_dict()))
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        said = " ".join(str(error).split()) or "no reason given"
        raise UserError(f"sbatch refused the job: {said}; --print shows the script") from error
    print(f"job     {job.job_id}")
    print(f"folder  {folder}")
    print(f"code    {code}")
    print(f"queue   squeue -j {job.job_id}")
    print(f"log     tail -F {shlex.quote(str(job.paths.stdout))}")
    return 0


# ---- this machine
def _run_here(request: Request, config: RunConfig) -> int:
    """One run through submitit's local executor, its log shown here. Ctrl-C stops it at a checkpoint."""
    import submitit

    executor = submitit.LocalExecutor(folder=Path(config.output_dir) / SUBMITIT)
    values: dict[str, Any] = {"timeout_min": FOREVER, "gpus_per_node": request.gpus_per_node, "stderr_to_stdout": True}
    named = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if all(word.isdigit() for word in named):  # else submitit would take the first device of the machine
        values["visible_gpus"] = [int(word) for word in named]
    executor.update_parameters(**values)
    # What submitit starts would be killed by a Ctrl-C on the spot. It inherits that it is to ignore it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        job = executor.submit(TrainJob(config.to_dict()))
    finally:
        signal.signal(signal.SIGINT, before)
    interrupted = _follow(job)
    status = "stopped" if interrupted else "failed"  # of a process that ended without a result
    if job.paths.result_pickle.exists():
        with contextlib.suppress(submitit.core.utils.FailedJobError):  # its traceback was shown with the log
            status = job.result()["status"]
    if status == "stopped":
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
    return {"finished": 0, "stopped": EXIT_STOPPED}.get(str(status), EXIT_FAILED)


def _follow(job: Any) -> bool:
    """Copy the job's log to the terminal until it ends. True where the user interrupted it."""
    interrupted, position, ended = False, 0, False
    while not ended:
        try:
            ended = job.done()
            if job.paths.stdout.exists():
                with open(job.paths.stdout, encoding="utf-8", errors="replace") as file:
                    file.seek(position)
                    print(file.read(), end="", flush=True)
                    position = file.tell()
            time.sleep(0.2)
        except KeyboardInterrupt:
            print("stopping at the next step", file=sys.stderr, flush=True)
            interrupted = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)  # submitit hands it on to the run
    return interrupted


if __name__ == "__main__":
    sys.exit(main())

"""Runs on a SLURM cluster: one job for one run, one job array for several, through submitit.

A job runs a copy of the code (`snapshot`), so that one that waits does not see later changes.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import run_folder, versions
from harness.config import RunConfig
from harness.errors import UserError
from harness.files import PARTIAL
from launch.jobs import status
from launch.jobs.job import TrainJob, setup_lines, teardown_lines
from launch.jobs.resources import CONTROL, Request
from launch.jobs.status import Submission

ROOT = Path(__file__).resolve().parent.parent.parent  # a checkout, or the folder that packages are installed in
PACKAGES = ("launch", "harness", "tasks", "ds_configs")  # what a run reads of this project
REQUEUES = 1000  # submitit takes any stop of a job shorter than 10 minutes for a timeout; the site's limit is SLURM's


def home(configs: Sequence[RunConfig]) -> Path:
    """Where the pickles, logs and the copy of the code of a submission lie: the run's folder, or the one above all."""
    return Path(os.path.commonpath([config.output_dir for config in configs]))


def parameters(request: Request, configs: Sequence[RunConfig], code: Path) -> dict[str, Any]:
    """The parameters of submitit's SlurmExecutor; what the profile leaves open is the cluster's own default.

    Raises UserError where a value would break its line of the batch script.
    """
    profile, first, place = request.profile, configs[0], home(configs)
    name = f"{first.task}-{first.model_label}-{first.seed}" if len(configs) == 1 else first.wandb_group or "blue"
    # submitit quotes a line break, which SLURM does not know. The profile's values have been checked.
    for what, text in (("--output_dir", str(place)), ("the job's name, of task, model and --wandb_group,", name)):
        if CONTROL.search(text):
            raise UserError(f"{what} {text!r}: has a control character, which no batch script can hold; rename it")
    values: dict[str, Any] = {
        "job_name": name,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "time": profile.time,
        "nodes": request.nodes,
        "ntasks_per_node": request.tasks_per_node,
        "gpus_per_node": request.gpus_per_node or None,
        "cpus_per_task": profile.cpus(request.gpus_per_node),
        "mem": profile.memory(request.tasks_per_node, request.gpus_per_node),
        "array_parallelism": profile.array_parallelism,
        "signal_delay_s": profile.signal_delay_s,
        "stderr_to_stdout": True,
        "setup": [*profile.setup_lines(), *setup_lines(code, place / run_folder.SUBMITIT)],
        "teardown": teardown_lines(place / run_folder.SUBMITIT),
        "srun_args": [
            "--kill-on-bad-exit=1",  # a dead rank ends all
            "--open-mode=append",  # a requeued job's log goes on
            *profile.srun_args(request.gpus_per_node, _mounts(configs, code), code),
        ],
        "additional_parameters": {"requeue": True, **profile.sbatch_options(request.gpus_per_node)},
    }
    return {name: value for name, value in values.items() if value is not None}


def _mounts(configs: Sequence[RunConfig], code: Path) -> list[Path]:
    """What a container has to see beside the site's own: runs, data and models, the code, the current folder."""
    names = [config.data_dir for config in configs] + [config.model_name_or_path for config in configs]
    given = [Path(name) for name in names if name and Path(name).is_absolute()]
    return list(dict.fromkeys([home(configs), code.parent.parent, Path.cwd(), *given]))


def sbatch_text(request: Request, configs: Sequence[RunConfig]) -> str:
    """The batch script that would be submitted, also on a machine without SLURM."""
    from submitit.slurm import slurm  # SlurmExecutor itself refuses where there is no srun

    place = home(configs)
    code, folder = snapshot_folder(place), place / run_folder.SUBMITIT
    command = f"{_python(request, configs, code)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    values = parameters(request, configs, code)
    count = len(configs) if len(configs) > 1 else None
    return str(slurm._make_sbatch_string(command=command, folder=folder, map_count=count, **values))


def _python(request: Request, configs: Sequence[RunConfig], code: Path) -> str:
    """The interpreter as a shell command."""
    return request.profile.python(_mounts(configs, code), code) or shlex.quote(sys.executable)


def fault(request: Request, configs: Sequence[RunConfig]) -> str | None:
    """Why the runs cannot be sent, or nothing from this machine."""
    if shutil.which("sbatch") is None:
        return "--cluster slurm: there is no sbatch here; log in to the cluster, or --cluster local"
    try:
        parameters(request, configs, snapshot_folder(home(configs)))
    except UserError as error:
        return str(error)
    return None


def submit(request: Request, configs: Sequence[RunConfig]) -> int:
    """Send the runs and say where they are. Exit status 0. Raises UserError where sbatch refuses."""
    import submitit

    place = home(configs)
    code, folder = snapshot(place), place / run_folder.SUBMITIT
    python = _python(request, configs, code)
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=REQUEUES, python=python)
    executor.update_parameters(**parameters(request, configs, code))
    for config in configs:
        status.forget(Path(config.output_dir))  # now: the job may start before the file of the new one is there
    # Nothing of a job that this command may itself run in; but clean_env would also take what users set for sbatch.
    kept = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or name.startswith("SBATCH_")}
    try:
        with submitit.helpers.clean_env(), submitit.helpers.environment_variables(**kept), executor.batch():
            jobs = [executor.submit(TrainJob(config.to_dict())) for config in configs]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise UserError(f"sbatch refused the job: {reason}; --print shows the script") from error
    for job, config in zip(jobs, configs, strict=True):
        sent = Submission("slurm", job.job_id, str(folder), os.uname().nodename, work_dir=str(Path.cwd()),
                          request=request.to_dict())  # fmt: skip
        sent.write(Path(config.output_dir))
    _print_places(jobs, place, code)
    return 0


def _print_places(jobs: Sequence[Any], place: Path, code: Path) -> None:
    number = jobs[0].job_id.split("_")[0]
    count = f" ({len(jobs)} runs)" if len(jobs) > 1 else ""
    log = str(jobs[0].paths.stdout) if len(jobs) == 1 else f"{jobs[0].paths.folder}/{number}_<run>_0_log.out"
    print(f"job     {number}{count}")
    print(f"folder  {place}")
    print(f"code    {code}")
    print(f"queue   squeue -j {number}")
    print(f"log     tail -F {shlex.quote(log)}" if len(jobs) == 1 else f"log     {log}")
    print(f"status  python launch/submit.py status {shlex.quote(str(place))}")


def snapshot_folder(home: Path) -> Path:
    """Where the code as it is now is kept, below a run's or a suite's folder; the same code has the same place."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(str(path).encode() + b"\0" + (ROOT / path).read_bytes())
    return home / "code" / digest.hexdigest()[:12]


def snapshot(home: Path) -> Path:
    """Copy the code to where `snapshot_folder` says. Returns the copy's folder.

    COMMIT and changes.diff in it say where it came from. A copy is complete or not there.
    """
    target = snapshot_folder(home)
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(PARTIAL, f".{target.name}.", target.parent))
    for path in _sources():
        (aside / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, aside / path)
    commit = _git("rev-parse", "HEAD")
    (aside / "COMMIT").write_text(commit or versions.commit() or "outside a git checkout\n", encoding="utf-8")
    if commit is not None:
        (aside / "changes.diff").write_text(_git("diff", "HEAD") or "", encoding="utf-8")
    try:
        aside.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(aside)  # another command made the same copy meanwhile
    return target


def _sources() -> list[Path]:
    """Relative to ROOT: what git tracks or would, so that a new file is there before it is committed."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKAGES)
    if listed:
        found = {Path(name) for name in listed.split("\0") if name}
    else:
        found = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*")}
    return sorted(path for path in found if (ROOT / path).is_file() and "__pycache__" not in path.parts)


def _git(*words: str) -> str | None:
    """What git says about this checkout; None outside one."""
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None

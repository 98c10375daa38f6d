"""Runs on a SLURM cluster: one job for one run, one job array for several, through submitit.

A job runs a copy of the code (`snapshot`), so that one that waits does not see later changes. Of a run only its
settings travel: where it stands is on disk, so that the pickle of the first submission, which SLURM runs again after a
node failure, is as good as that of the last requeue.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import run_folder, terminal, versions
from harness.config import RunConfig
from harness.errors import EXIT_NO_PROGRESS, EXIT_STOPPED, Stopped, UserError
from harness.files import PARTIAL
from harness.processes import answer
from harness.terminal import say
from launch.jobs import requeue, status
from launch.jobs.resources import CONTROL, Request
from launch.jobs.status import Submission

ROOT = Path(__file__).resolve().parent.parent.parent  # a checkout, or the folder that packages are installed in
PASSED_ON = ("partition", "account", "qos", "constraint", "time", "array_parallelism", "signal_delay_s")  # of a profile
ALWAYS_PASSED = ("HOME", "PATH", "USER", "LANG")  # beside what the profile's `environment` names
PACKAGES = ("launch", "harness", "tasks", "ds_configs")  # what a run reads of this project
WORK_DIR = "BLUE_WORK_DIR"  # environment: the folder that relative paths of the settings start from
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
HANDOVER_SECONDS = 120.0  # the other ranks wait so long for SLURM to end them
ENDING = ("CANCELLED", "COMPLETING", "PREEMPTED", "TIMEOUT")  # states of a job that is not ours to requeue
REPEATS = "BLUE_REPEATS"  # environment: this command is repeated by a job, and nobody watches
REQUEUES = 1000  # submitit takes any stop of a job shorter than 10 minutes for a timeout; the site's limit is SLURM's


def home(configs: Sequence[RunConfig]) -> Path:
    """Where the pickles, logs and the copy of the code of a submission lie: the run's folder, or the one above all."""
    return Path(os.path.commonpath([config.output_dir for config in configs]))


def parameters(request: Request, configs: Sequence[RunConfig], code: Path) -> dict[str, Any]:
    """The parameters of submitit's SlurmExecutor; what the profile leaves open is the cluster's own default.

    Raises UserError where a value would break its line of the batch script.
    """
    profile, gpus, first, place = request.profile, request.gpus_per_node, configs[0], home(configs)
    name = f"{first.task}-{first.model_label}-{first.seed}" if len(configs) == 1 else first.wandb_group or "blue"
    # submitit quotes a line break, which SLURM does not know. The profile's values have been checked.
    for what, text in (("--output_dir", str(place)), ("the job's name, of task, model and --wandb_group,", name)):
        if CONTROL.search(text):
            raise UserError(f"{what} {text!r}: has a control character, which no batch script can hold; rename it")
    # Without GPUs, a process's share of the machine is what a GPU's would be.
    cpus = profile.cpus_per_task or (None if gpus else profile.cpus_per_gpu)
    memory = profile.mem_gb
    if memory is None and profile.mem_per_gpu_gb is not None and not gpus:
        memory = profile.mem_per_gpu_gb * request.tasks_per_node
    options: dict[str, Any] = {"requeue": True}  # that submitit has no name for, or would warn of
    if gpus and profile.cpus_per_gpu is not None:
        options["cpus-per-gpu"] = profile.cpus_per_gpu
    if gpus and profile.mem_per_gpu_gb is not None:
        options["mem-per-gpu"] = f"{profile.mem_per_gpu_gb}GB"
    srun = ["--kill-on-bad-exit=1", "--open-mode=append"]  # a dead rank ends all; a requeued job's log goes on
    if cpus is not None:
        srun.append(f"--cpus-per-task={cpus}")  # since SLURM 22.05 srun does not inherit it
    exports = []
    if profile.environment is not None:
        passed = [word for word in profile.environment if "=" not in word]
        options["export"] = ",".join(dict.fromkeys((*ALWAYS_PASSED, *passed)))
        srun.append("--export=ALL")  # else it repeats sbatch's --export, and what setup exports is lost
        pairs = (word.partition("=") for word in profile.environment if "=" in word)
        exports = [f"export {key}={shlex.quote(value)}" for key, _, value in pairs]
    if profile.container is not None and profile.container_runtime == "pyxis":
        srun.append(f"--container-image={profile.container}")
        srun.append(f"--container-mounts={','.join(_mounts(request, configs, code))}")
        srun.append(f"--container-workdir={code}")
    before, after = _around_srun(code, place / run_folder.SUBMITIT)
    values: dict[str, Any] = {
        **{field: getattr(profile, field) for field in PASSED_ON},
        "job_name": name,
        "nodes": request.nodes,
        "ntasks_per_node": request.tasks_per_node,
        "gpus_per_node": gpus or None,
        "cpus_per_task": cpus,
        "mem": None if memory is None else f"{memory}GB",
        "stderr_to_stdout": True,
        "setup": [*exports, *profile.setup, *before],
        "teardown": after,
        "srun_args": srun,
        "additional_parameters": {**options, **profile.additional_parameters},
    }
    return {name: value for name, value in values.items() if value is not None}


def _around_srun(code: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Shell lines before and after srun; `folder` is the submission's."""
    quoted, mark = shlex.quote(str(code)), shlex.quote(f"{folder}/") + '"$SLURM_JOB_ID".requeue'
    before = [
        f"unset {' '.join(LAUNCHER_VARIABLES)}",
        f'export {WORK_DIR}="$PWD"',
        f'export PYTHONPATH={quoted}"${{PYTHONPATH:+:$PYTHONPATH}}"',
        f"export {requeue.ATTEMPTS}={shlex.quote(str(folder))}/$SLURM_JOB_ID.attempts",
        f"cd {quoted}",  # Python puts the current folder before PYTHONPATH, so that has to be the snapshot too
    ]
    # requeue.py decides on a requeue. Rank 0 in a container has no scontrol: it asks for a requeue by the file `mark`.
    after = [
        "status=$?",
        f"if [ -e {mark} ]; then rm {mark}; status={EXIT_STOPPED}; fi",
        f'{shlex.quote(sys.executable)} -m launch.jobs.requeue "$status"',
    ]
    return before, after


def _mounts(request: Request, configs: Sequence[RunConfig], code: Path) -> list[str]:
    """What a container has to see: the site's own mounts, runs, data and models, the code, the current folder.

    A folder within another one needs no mount of its own.
    """
    names = [config.data_dir for config in configs] + [config.model_name_or_path for config in configs]
    given = [Path(name) for name in names if name and Path(name).is_absolute()]
    paths = list(dict.fromkeys([home(configs), code.parent.parent, Path.cwd(), *given]))
    outer = [path for path in paths if not any(other != path and path.is_relative_to(other) for other in paths)]
    own = [mount if ":" in mount else f"{mount}:{mount}" for mount in request.profile.container_mounts]
    return list(dict.fromkeys([*own, *(f"{path}:{path}" for path in outer)]))


def _python(request: Request, configs: Sequence[RunConfig], code: Path) -> str:
    """The shell command that starts Python in the job."""
    profile = request.profile
    if profile.container is None:
        return shlex.quote(sys.executable)
    if profile.container_runtime == "pyxis":
        return profile.container_python
    binds = [word for mount in _mounts(request, configs, code) for word in ("--bind", mount)]
    words = ["apptainer", "exec", "--nv", *binds, "--pwd", str(code), profile.container]
    return f"{shlex.join(words)} {profile.container_python}"


def sbatch_text(request: Request, configs: Sequence[RunConfig]) -> str:
    """The batch script that would be submitted, also on a machine without SLURM."""
    from submitit.slurm import slurm  # SlurmExecutor itself refuses where there is no srun

    place = home(configs)
    code, folder = snapshot_folder(place), place / run_folder.SUBMITIT
    command = f"{_python(request, configs, code)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    values = parameters(request, configs, code)
    count = len(configs) if len(configs) > 1 else None
    return str(slurm._make_sbatch_string(command=command, folder=folder, map_count=count, **values))


def check(request: Request, configs: Sequence[RunConfig]) -> None:
    """Raises UserError where the runs cannot be sent, or nothing from this machine."""
    if shutil.which("sbatch") is None:
        raise UserError("--cluster slurm: there is no sbatch here; log in to the cluster, or --cluster local")
    parameters(request, configs, snapshot_folder(home(configs)))


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
    try:
        with _outside_jobs(), executor.batch():
            jobs = [executor.submit(TrainJob(config.to_dict())) for config in configs]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise UserError(f"sbatch refused the job: {reason}; --print shows the script") from error
    for job, config in zip(jobs, configs, strict=True):
        sent = Submission("slurm", job.job_id, str(folder), os.uname().nodename, work_dir=str(Path.cwd()),
                          request=request.to_dict())  # fmt: skip
        sent.write(Path(config.output_dir))
    number = jobs[0].job_id.split("_")[0]
    print(f"job     {number}{f' ({len(jobs)} runs)' if len(jobs) > 1 else ''}")
    print(f"folder  {place}")
    print(f"code    {code}")
    print(f"queue   squeue -j {number}")
    if len(jobs) == 1:
        print(f"log     tail -F {shlex.quote(str(jobs[0].paths.stdout))}")
    else:
        print(f"log     {jobs[0].paths.folder}/{number}_<run>_0_log.out")
    print(f"status  python launch/submit.py status {shlex.quote(str(place))}")
    return 0


@contextmanager
def _outside_jobs() -> Iterator[None]:
    """Nothing of a job that this command may itself run in; but clean_env would also take what users set for sbatch."""
    import submitit

    kept = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or name.startswith("SBATCH_")}
    with submitit.helpers.clean_env(), submitit.helpers.environment_variables(**kept):
        yield


def repeat_text(request: Request, configs: Sequence[RunConfig], words: Sequence[str], jobs: Sequence[str]) -> str:
    """The batch script of a job without devices that repeats a command of launch/submit.py, `words`, once `jobs` have
    ended, however they did."""
    from submitit.slurm import slurm

    place = home(configs)
    code, folder = snapshot_folder(place), place / run_folder.SUBMITIT
    small = request.model_copy(update={"nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1})
    values = parameters(small, configs, code)
    values["job_name"] = _repeat_name(place, words)
    # What the command reads of its environment, of which a profile may pass on little; no keys, since it is in a file.
    kept = [name for name in os.environ if name == "DATASET_DIR" or name.startswith(("HF_", "WANDB_"))]
    kept = [name for name in kept if not re.search("KEY|TOKEN|SECRET", name)]
    exports = [f"export {name}={shlex.quote(os.environ[name])}" for name in sorted(kept)]
    values["setup"] = [*values["setup"], *exports, f"export {REPEATS}=1", f'cd "${WORK_DIR}"']
    devices = re.compile("gres|gpus|exclusive|cpus-per-gpu|mem-per-gpu")
    more = {name: value for name, value in values["additional_parameters"].items() if not devices.match(name)}
    values["additional_parameters"] = more | {"dependency": f"afterany:{':'.join(jobs)}"}
    del values["teardown"], values["srun_args"]
    # Without srun, from within which no job could be sent; -P: the code is the copy's, not the current folder's.
    command = shlex.join([sys.executable, "-P", "-u", "-m", "launch.submit", *words, "--cluster", "slurm"])
    return str(slurm._make_sbatch_string(command=command, folder=folder, use_srun=False, **values))


def _repeat_name(place: Path, words: Sequence[str]) -> str:
    return f"blue-tune-{hashlib.sha256(repr((str(place), *words)).encode()).hexdigest()[:8]}"


def repeat(request: Request, configs: Sequence[RunConfig], words: Sequence[str]) -> None:
    """Send that job, behind all jobs that have a run of the search; the one that is there already is enough."""
    place = home(configs)
    name = _repeat_name(place, words)
    there = (answer("squeue", "--noheader", "--me", f"--name={name}", "--format=%i") or "").split()
    there = [job for job in there if job != os.environ.get("SLURM_JOB_ID")]
    if there:
        print(f"next    job {there[0]} waits for the trials and then repeats this command")
        return
    folders = [folder for config in configs if (folder := Path(config.output_dir)).is_dir()]
    sent = [run.job.split("_")[0] for run in status.read_all(folders) if run.status in ("queued", "running")]
    jobs = sorted({job for job in sent if job})
    if not jobs:
        print("next    repeat this command: the trials have ended meanwhile")
        return
    snapshot(place)
    script = place / run_folder.SUBMITIT / "repeat.sh"
    script.parent.mkdir(exist_ok=True)
    script.write_text(repeat_text(request, configs, words, jobs), encoding="utf-8")
    with _outside_jobs():
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = " ".join(done.stderr.split())
        print(f"next    repeat this command once these have ended: sbatch refused the job that would do so ({why})")
    else:
        print(f"next    job {done.stdout.strip()} waits for the trials and then repeats this command")


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
    return answer("git", "-C", str(ROOT), *words, seconds=600) if (ROOT / ".git").exists() else None


# ---- inside the job
@dataclass(frozen=True)
class TrainJob:
    """A run as a callable that pickles. `config`: a RunConfig's `to_dict`."""

    config: dict[str, Any]

    def __call__(self) -> dict[str, Any]:
        """Outcome and scores, small enough for any pickle. Ends the process where the run failed or is requeued."""
        os.chdir(os.environ.get(WORK_DIR, "."))
        from harness import distributed, logs

        logs.quiet_libraries()
        from launch import train
        from launch.run import failures

        folder = Path(self.config["output_dir"])
        if status.is_cancelled(folder):  # SLURM starts a job again whose node has failed, cancelled or not
            say("the run was cancelled")
            return {"status": "stopped"}
        try:
            with requeue.noted(folder), status.recorded(folder):
                result = train.run(RunConfig.from_dict(self.config))
        except Stopped as stop:
            say(str(stop))
            return _hand_over(folder)
        except Exception as error:
            distributed.leave(failures.report(error))
        _leave_at_exit()
        scores = {split: {name: values[name] for name in ("metric", "score")}
                  for split, values in result["scores"].items()}  # fmt: skip
        return {"status": "finished", "folder": self.config["output_dir"], "scores": scores}

    def checkpoint(self) -> Any:
        """What submitit puts in the place of its pickle before it requeues the job: the same settings."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(TrainJob(self.config))


def _hand_over(folder: Path) -> dict[str, Any]:
    """After a stop at a checkpoint: under SLURM the job is requeued, by submitit's own handler on rank 0.

    That handler counts the timeouts, renews the pickle, calls `scontrol requeue` and ends the process; in a container
    without SLURM's commands, the batch script requeues. Elsewhere, and in a job that someone cancelled or that SLURM
    requeues itself, the stop is the end.
    """
    from harness import distributed

    stopped = {"status": "stopped"}
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return stopped
    in_container = shutil.which("scontrol") is None
    if in_container or status.is_cancelled(folder):
        if terminal.rank() == 0 and not status.is_cancelled(folder):
            # The mark that the batch script looks for, see `_around_srun`.
            (Path(os.environ["SUBMITIT_FOLDER"]) / f"{os.environ['SLURM_JOB_ID']}.requeue").touch()
        _leave_at_exit()
        return stopped
    if why := requeue.no_progress(folder):
        say(why)
        status.write_attempt(folder, "failed", why, final=True)
        distributed.leave(EXIT_NO_PROGRESS)
    if terminal.rank() == 0:
        state = requeue.job_state()
        if state in ENDING:
            say(f"the job is {state}: not requeued from here")
            return stopped
        os.kill(os.getpid(), signal.SIGUSR2)  # runs the handler that was there before training: raises SystemExit
        return stopped
    # A rank that left first could take rank 0 with it, half way through the requeue.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(HANDOVER_SECONDS)
    return stopped


def _leave_at_exit() -> None:
    """With several ranks: after submitit has written the result. See `distributed.leave` for the reason."""
    from harness import distributed

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        atexit.register(distributed.leave, 0)

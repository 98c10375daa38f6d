"""The session fixture `slurm`: a real SLURM of four nodes, from tests/slurm_cluster.sh.

A test file asks for it with `pytest_plugins = ("slurm_fixture",)` and marks its tests `slurm`. Sessions take turns: one
waits until the other has ended. A cluster that someone brought up by hand is used and left up; one that the fixture
started is taken down at the end of the session, or, where that session was killed, at the beginning of the next. Where
the script may not start one (exit 77) the tests skip, with its reason.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from running import clean_environment

SCRIPT = Path(__file__).with_name("slurm_cluster.sh")
SUBMIT = SCRIPT.parent.parent / "launch" / "submit.py"
NOT_HERE = 77
TURN_SECONDS = 540  # less than a test's time limit
OURS = "started_by_tests"  # in the cluster's folder
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", ""}


@dataclass(frozen=True)
class Slurm:
    conf: Path
    folder: Path  # of slurm_cluster.sh

    @property
    def env(self) -> dict[str, str]:
        """This process's environment, without traces of a job of another cluster that the tests may run in."""
        clean = {
            name: value for name, value in clean_environment().items() if not name.startswith(("SLURM_", "SBATCH_"))
        }
        return {**clean, "SLURM_CONF": str(self.conf)}

    def run(self, *command: str, timeout: float = 120, check: bool = True, **env: str) -> str:
        """The standard output of an srun, sbatch, sacct, ...; `env` is added to its environment."""
        done = subprocess.run(command, env={**self.env, **env}, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def without_accounting(self, folder: Path) -> Slurm:
        """The same cluster as seen by commands for which it has no accounting: sacct fails."""
        told = self.conf.read_text()
        assert "\nAccountingStorageType=" in told
        conf = folder / "without_accounting.conf"
        conf.write_text(re.sub(r"(?m)^AccountingStorage.*\n", "", told))
        return Slurm(conf, self.folder)

    def cluster(self, *words: str) -> None:
        """A command of slurm_cluster.sh: `kill node2`, `up`."""
        done = _script(self.folder, *words)
        assert done.returncode == 0, done.stdout + done.stderr

    def send(self, line: list[str], profile: Path, *where: str) -> str:
        """The id of the job or array that launch/submit.py sent here."""
        words = ("--cluster", "slurm", "--gpus_per_node", "0", "--profile", str(profile))
        said = self.run(sys.executable, str(SUBMIT), *line, *words, *where, timeout=300)
        found = re.search(r"\bjob\s+(\d+)", said)
        assert found, said
        return found.group(1)

    def state(self, job: str) -> str:
        """In SLURM's words, of an array those of its tasks; "" once SLURM has forgotten the job."""
        found = self.run("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}", check=False)
        return " ".join(sorted(set(found.split())))

    def restarts(self, job: str) -> int:
        """How often the job was requeued."""
        return int(self.run("scontrol", "show", "job", job).split("Restarts=")[1].split()[0])

    def is_over(self, job: str) -> bool:
        """The job, or all tasks of the array, have left the queue for good."""
        return set(self.state(job).split()) <= OVER

    def wait_until(self, job: str, reached: Callable[[], bool], what: str, seconds: float = 400) -> None:
        """Fails where it takes longer, or where the job is over before."""
        until = time.monotonic() + seconds
        next_look = 0.0
        while True:
            asked = time.monotonic()
            if reached():
                return
            if asked > next_look:
                next_look = asked + 3
                if self.is_over(job) and not reached():
                    pytest.fail(f"job {job} is over ({self.state(job) or 'forgotten'}) before: {what}")
            if asked > until:
                self.run("scancel", job, check=False)
                pytest.fail(f"job {job}: not in {seconds:.0f} s: {what}")
            # What takes long to find out, as each question to SLURM, takes processor time from the job.
            time.sleep(min(1.0, max(0.05, 5 * (time.monotonic() - asked))))

    def wait_for_end(self, job: str, seconds: float = 400) -> None:
        self.wait_until(job, lambda: self.is_over(job), "its end", seconds)

    def recorded(self, job: str, fields: str = "State") -> list[str]:
        """How each start of a job that is over ended, as sacct has it: it hears of that after the controller."""
        for _ in range(60):
            rows = self.run("sacct", "-nXPD", "-o", fields, "-j", job).splitlines()
            if rows and not rows[-1].startswith(("RUNNING", "PENDING")):
                return rows
            time.sleep(1)
        pytest.fail(f"job {job}: sacct has {rows}")

    def tasks(self, job: str) -> dict[int, int]:
        """rank -> process id, of the job's tasks: the nodes share this machine's processes."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "environ").read_bytes().split(b"\0")
                values = dict(word.decode(errors="replace").split("=", 1) for word in words if b"=" in word)
                if values.get("SLURM_JOB_ID") != job or "SLURM_STEP_ID" not in values:
                    continue
                parent = re.findall(r"PPid:\s+(\d+)", (folder / "status").read_text())[0]
                if Path(f"/proc/{parent}/comm").read_text().strip() == "slurmstepd":
                    found[int(values["SLURM_PROCID"])] = int(folder.name)
            except OSError:
                continue  # it has ended meanwhile
        return found


def _script(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SLURM_TEST_DIR": str(folder)}
    return subprocess.run(["bash", str(SCRIPT), *words], env=env, capture_output=True, text=True, timeout=580)


def _folder() -> Path:
    exported = Path(os.environ.get("SLURM_CONF", "")).parent.parent
    if (exported / ".slurm_cluster").is_file():
        return exported
    return Path(os.environ.get("SLURM_TEST_DIR", "/tmp/blue-slurm"))


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """This session alone may use the cluster, or a killed session's lock is free again."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + TURN_SECONDS
    with open(folder.with_name(f"{folder.name}.turn"), "w", encoding="utf-8") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    pytest.fail(f"another session of tests has had the cluster in {folder} for {TURN_SECONDS} s")
                time.sleep(1)
        yield


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    folder = _folder()
    with _turn(folder):
        if (folder / OURS).exists():
            _script(folder, "down")
        elif _script(folder, "status").returncode == 0:
            yield Slurm(folder / "etc" / "slurm.conf", folder)
            return
        started = _script(folder, "up", "4")
        if started.returncode == NOT_HERE:
            pytest.skip(started.stdout.strip())
        try:
            if started.returncode != 0:
                pytest.fail(f"slurm_cluster.sh up: exit {started.returncode}\n{started.stdout}{started.stderr}")
            (folder / OURS).touch()
            yield Slurm(folder / "etc" / "slurm.conf", folder)
        finally:
            _script(folder, "down")

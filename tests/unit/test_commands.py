"""status, cancel, logs and requeue: from run folders alone."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import made_up
from running import assert_user_error

from harness import files, lock, processes, run_folder
from harness.config import RunConfig
from harness.run_folder import RunFolder
from launch import submit
from launch.jobs import commands, resources
from launch.jobs import status as run_status
from launch.jobs.resources import Profile, Request
from launch.jobs.status import Attempt, Submission
from launch.reporting import collect, paths
from launch.run import settings
from launch.run.settings import parse

HERE = os.uname().nodename
SENT = Submission("slurm", "77_1", "/logs", "login", request=Request(cluster="slurm", nodes=2).to_dict())


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever this machine has: no SLURM answers, unless a test puts one there."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    squeue(tmp_path, "exit 1")


def squeue(tmp_path: Path, script: str) -> None:
    (tmp_path / "bin" / "squeue").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "squeue").chmod(0o755)


FINISHED = {"task": "mednli", "model": "m", "seed": 12, "data": "given", "scores": {}}


def made(folder: Path, sent: Submission | None = None, attempt: Attempt | None = None) -> Path:
    """A run folder that was prepared, sent and tried."""
    config, _ = parse(["--task", "mednli", "--model_name_or_path", "m", "--output_dir", str(folder)])
    run_folder.prepare(config)
    if sent is not None:
        sent.write(folder)
    if attempt is not None:
        files.write(RunFolder(folder).attempt, json.dumps(dataclasses.asdict(attempt)))
    return folder


def status_of(folder: Path) -> tuple[str, str]:
    (found,) = run_status.read_all([folder])
    return found.status, found.reason


class TestStatus:
    def test_finished(self, tmp_path: Path) -> None:
        folder = made(tmp_path / "run", SENT, Attempt("running"))
        scores = {"metric": "accuracy", "loss": 1.0, "examples": 4}
        result = {**FINISHED, "scores": {"dev": {"score": 0.9, **scores}, "test": {"score": 0.8, **scores}}}
        run_folder.write_result(RunFolder(folder), result)
        (found,) = run_status.read_all([folder])
        assert (found.status, found.metrics.dev, found.metrics.test) == ("finished", 0.9, 0.8)

    def test_somebody_has_the_lock(self, tmp_path: Path) -> None:
        folder = made(tmp_path / "run")
        with ExitStack() as stack:
            lock.acquire(RunFolder(folder), stack)
            assert status_of(folder) == ("running", f"process {os.getpid()} on {HERE}")
        assert status_of(folder) == ("stopped", "not started")

    @pytest.mark.parametrize(
        ("queue", "attempt", "expected"),
        [
            ("echo '77_1|PENDING||Priority'", None, ("queued", "Priority")),
            ("echo '77_1|PENDING||BeginTime'", Attempt("stopped", "at step 3"), ("queued", "BeginTime")),
            ("echo '77_1|RUNNING|node3|None'", Attempt("running"), ("running", "")),
            ("echo '77_1|CANCELLED|node3|None'", Attempt("stopped", "at step 3"), ("stopped", "at step 3")),
            ("echo '77_2|RUNNING|node3|None'", Attempt("failed", "loss"), ("failed", "loss")),
            ("true", Attempt("running", process=9), ("failed", "exited without an error message (process 9 is gone)")),
            ("exit 1", Attempt("running"), ("running", "as last heard: squeue does not answer here")),
            ("exit 1", None, ("queued", "as last heard: squeue does not answer here")),
            ("exit 1", Attempt("failed", "loss"), ("failed", "loss")),
        ],
    )
    def test_on_slurm(self, queue: str, attempt: Attempt | None, expected: tuple[str, str], tmp_path: Path) -> None:
        squeue(tmp_path, queue)
        assert status_of(made(tmp_path / "run", SENT, attempt)) == expected

    def test_in_a_queue_of_this_machine(self, tmp_path: Path) -> None:
        me = os.getpid()
        sent = Submission("local", f"{me}_3", "/logs", HERE, processes.start(me))
        assert status_of(made(tmp_path / "run", sent)) == ("queued", f"in the queue of process {me}")
        gone = dataclasses.replace(sent, started="1")  # the number is another process's now
        assert status_of(made(tmp_path / "other", gone, Attempt("stopped", "at step 3"))) == ("stopped", "at step 3")
        cancelled = made(tmp_path / "third", dataclasses.replace(gone, cancelled=True))
        assert status_of(cancelled) == ("stopped", "cancelled")


class TestFailedStart:
    """`status` and `report` say the same of a folder in which nothing was computed."""

    def said(self, folder: Path) -> tuple[str, str]:
        """By both; also found by both."""
        by_status = status_of(folder)
        assert run_status.find([str(folder.parent)]) == [folder]
        (run,) = collect.find([folder.parent])
        shortened = paths.shortened(by_status[1])  # a report is passed on: it names no path of this machine
        assert (run.folder, run.status, run.reason) == (folder, by_status[0], shortened)
        return by_status

    def test_reason_is_in_the_log(self, tmp_path: Path) -> None:
        folder = made(tmp_path / "run")
        assert self.said(folder) == ("stopped", "not started")
        RunFolder(folder).log.write_text(
            "2026-01-01 10:00:00 ERROR The run failed: of an earlier start\n"
            "2026-01-01 11:00:00 ERROR The run failed: no weights (rank 0 of 1, process 7 on here)\n"
        )
        assert self.said(folder) == ("failed", "no weights")

    @pytest.mark.parametrize(
        ("script", "attempt", "expected"),
        [
            ("true", Attempt("failed", "--data_dir /x: no such folder"), ("failed", "--data_dir /x: no such folder")),
            ("echo '77_1|PENDING||Priority'", None, ("queued", "Priority")),
            ("true", None, ("stopped", "not started")),
        ],
    )
    def test_reason_is_the_jobs(
        self, script: str, attempt: Attempt | None, expected: tuple[str, str], tmp_path: Path
    ) -> None:
        squeue(tmp_path, script)
        assert self.said(made(tmp_path / "run", SENT, attempt)) == expected

    @pytest.mark.parametrize("content", ["{", '{"task": "mednli", "of_another_version": 1}', "[]"])
    def test_settings_that_cannot_be_read(self, content: str, tmp_path: Path) -> None:
        folder = made(tmp_path / "run")
        RunFolder(folder).config.write_text(content)
        status, reason = self.said(folder)
        assert status == "broken" and reason.startswith(f"{folder}/config.json: ")
        assert submit.main(["status", str(folder)]) == submit.main(["status", "--json", str(folder)]) == 0

    def test_a_submission_that_waits_keeps_its_folder(self, tmp_path: Path) -> None:
        """From a corrected command too, until the job has left the queue."""
        folder = made(tmp_path / "run", SENT)
        line = ["--task", "mednli", "--model_name_or_path", "other", "--output_dir", str(folder)]
        corrected, _ = parse(line)
        squeue(tmp_path, "echo '77_1|PENDING||Priority'")
        assert_user_error(
            lambda: settings.prepare(corrected, run_status.submitted), "queued, job 77_1, Priority", f"cancel {folder}"
        )
        squeue(tmp_path, "exit 1")
        assert_user_error(
            lambda: settings.prepare(corrected, run_status.submitted), "queued, job 77_1", "squeue does not answer here"
        )
        squeue(tmp_path, "echo '77_1|FAILED||None'")
        assert settings.prepare(corrected, run_status.submitted) is None and run_status.read_submission(folder) is None

    def test_a_queue_of_this_machine_keeps_its_folders(self, tmp_path: Path) -> None:
        me = os.getpid()
        sent = Submission("local", f"{me}_3", "/logs", HERE, processes.start(me))
        folder = made(tmp_path / "run", sent)
        corrected, _ = parse(["--task", "mednli", "--model_name_or_path", "other", "--output_dir", str(folder)])
        assert_user_error(
            lambda: settings.prepare(corrected, run_status.submitted), f"queued, in the queue of process {me}"
        )
        dataclasses.replace(sent, started="").write(folder)
        assert settings.prepare(corrected, run_status.submitted) is None


def test_runs_are_found_below_a_folder(tmp_path: Path) -> None:
    for name in ("a/seed-1", "b/c/seed-2", ".hidden/seed-3", "a/seed-1/code/seed-4", "model/seed-5"):
        made(tmp_path / "all" / name)
    (tmp_path / "all/a/seed-1/model").mkdir()
    (tmp_path / "all/a/seed-1/model/config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "all/b/config.json").write_text('{"model_type": "bert"}')
    found = run_status.find([str(tmp_path / "all"), str(tmp_path / "all/a")])
    names = [str(path.relative_to(tmp_path / "all")) for path in found]
    assert names == ["a/seed-1", "b/c/seed-2", "model/seed-5"]  # the last of an encoder that is called so


def test_status_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "runs/a/seed-1", SENT, Attempt("failed", "loss is not finite", node="node3"))
    made(tmp_path / "runs/b/seed-2")
    (tmp_path / "runs/b/seed-2/metrics.jsonl").write_text(
        '{"kind": "epoch", "step": 9, "epoch": 2.0, "values": {"dev/score": 0.525}}\n'
    )
    assert submit.main(["status", str(tmp_path / "runs")]) == 0
    title, header, one, two = capsys.readouterr().out.splitlines()
    assert title == str(tmp_path / "runs") and header.split() == [
        "run", "status", "progress", "dev", "test", "job", "node", "reason"
    ]  # fmt: skip
    assert one.split() == ["a/seed-1", "failed", "77_1", "node3", "loss", "is", "not", "finite"]
    assert two.split() == ["b/seed-2", "stopped", "epoch", "2/6", "step", "9", "52.50"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("status", "/no/where"), "/no/where: no such folder"),
        (("status", "."), ".: is empty"),
        (("status", "above"), "above: no run folder in or below it"),
        (("status", "all/one/config.json"), "all/one/config.json: is a file, not a folder"),
        (("status", "~/none"), "~/none: no such folder"),
        (("stop", "all"), "stop: no such command; did you mean cancel?"),
        (("List", "all"), "List: no such command; did you mean status?"),
        (("resume", "all"), "resume: no such command; did you mean requeue?"),
        (("canel", "all"), "canel: no such command; did you mean cancel?"),
        (("all",), "all: no such command; there are status, cancel, logs, requeue"),
        (("logs", "all", "--line", "3"), "--line: no such flag; did you mean --lines?"),
        (("status",), "the following arguments are required: RUNS"),
        (("logs", "all"), "logs: 2 runs there, name one of them"),
        (("logs", "all/one"), "no log of rank 0 yet"),
        (("logs", "all/one", "--rank", "3"), "no log of rank 3 yet"),
    ],
)
def test_mistakes(
    words: Sequence[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "all/one")
    made(tmp_path / "all/two")
    (tmp_path / "empty").mkdir()
    (tmp_path / "above/no-run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty" if "." in words else tmp_path)
    assert submit.main(words) == 2
    assert said in capsys.readouterr().err


def test_logs_are_those_of_the_newest_submission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made(tmp_path / "run", dataclasses.replace(SENT, logs=str(tmp_path)), Attempt("failed"))
    RunFolder(folder).log.write_text("kept\n")
    assert submit.main(["logs", str(folder)]) == 0 and capsys.readouterr().out == "kept\n"
    for rank in (0, 1):
        (tmp_path / f"77_1_{rank}_log.out").write_text("".join(f"rank {rank} line {n}\n" for n in range(50)))
    assert submit.main(["logs", str(folder), "--rank", "1", "--lines", "2"]) == 0
    assert capsys.readouterr().out == "rank 1 line 48\nrank 1 line 49\n"
    assert submit.main(["logs", str(folder), "--follow", "--lines", "1"]) == 0  # ends with the run, which has ended


def test_cancel_asks_the_process_that_has_the_lock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made(tmp_path / "run")
    holds = (
        "import sys, signal; from contextlib import ExitStack\n"
        "from pathlib import Path; from harness import lock, run_folder\n"
        "stack = ExitStack(); lock.acquire(run_folder.RunFolder(Path(sys.argv[1])), stack)\n"
        "print('has it', flush=True); signal.pause()"
    )
    process = subprocess.Popen([sys.executable, "-c", holds, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"has it\n"
    assert submit.main(["cancel", str(folder)]) == 0
    assert process.wait(timeout=20) == -15
    assert submit.main(["cancel", str(folder)]) == 0  # nothing to do is no failure
    said = capsys.readouterr().out
    assert "asked to stop at its next step" in said and "stopped, nothing to cancel" in said


NO_OWNERS = (
    "process {victim} on {host}",
    "process {victim} started {start} on {host}",
    "process {victim} started 1 on {host}",
    "process {mine} started {start} on {host}",
    "process {victim} started {start} on another.host",
    "process 0 started 0 on {host}",
    "process 1 started 0 on {host}",
    "process -1 started 0 on {host}",
    "process {victim} started  on {host}",
    "{victim}",
    "",
)


@pytest.mark.parametrize("text", NO_OWNERS)
def test_a_lock_that_names_another_process_ends_none(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lock is held, and its text is anybody's: a process is asked to stop only if it has the lock open."""
    folder = made(tmp_path / "run")
    asked: list[int] = []
    with subprocess.Popen(["sleep", "60"]) as victim, open(RunFolder(folder).lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        values = {"victim": victim.pid, "mine": os.getpid(), "start": processes.start(victim.pid), "host": HERE}
        held.write(text.format(**values))
        held.flush()
        monkeypatch.setattr(os, "kill", lambda process, number: asked.append(process))
        status = submit.main(["cancel", str(folder)])
        monkeypatch.undo()
        victim.kill()
    assert status == 1 and asked == []
    said = capsys.readouterr().out
    assert said.startswith(f"{folder}: cannot be asked to stop: ") and said.count("\n") == 1


def scancel(tmp_path: Path) -> Path:
    """Writes down what it is asked."""
    (tmp_path / "bin" / "scancel").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n')
    (tmp_path / "bin" / "scancel").chmod(0o755)
    return tmp_path / "asked"


JOBS = (
    "--user=root",
    "-1",
    "0",
    "",
    "77 78",
    "77,78",
    "77_[1-9]",
    "77_1\n",
    "77_*",
    "\u0667\u0667",
    "all",
    77,
    None,
    ["77"],
)


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("answer", ["cat ids", "exit 1"])
def test_what_is_no_job_id_reaches_no_command(
    job: Any, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scancel(tmp_path)
    folder = made(tmp_path / "run", dataclasses.replace(SENT, job=job), Attempt("running"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids").write_text(f"{job}|RUNNING|node3|None|{tmp_path}/run/submitit/a.sh\n")
    squeue(tmp_path, answer)
    for command in ("cancel", "requeue", "status"):
        submit.main([command, str(folder)])
    assert not asked.exists() and run_status.read_submission(folder) is None


@pytest.mark.parametrize(
    ("logs", "script"),
    [
        ("other/submitit", "other/submitit/77_submission.sh"),  # a copy of a folder of another run, which still runs
        ("run/submitit", "other/submitit/77_submission.sh"),
        ("other/submitit", "run/submitit/77_submission.sh"),
        ("run/submitit", "(null)"),  # salloc
        ("run/submitit", "."),
        ("run", "run/77_submission.sh"),
    ],
)
def test_a_job_of_another_folder_is_left_alone(
    logs: str, script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = scancel(tmp_path)
    folder = made(tmp_path / "run", dataclasses.replace(SENT, logs=str(tmp_path / logs)), Attempt("running"))
    place = script if script == "(null)" else str(tmp_path / script)
    squeue(tmp_path, f"echo '77_1|RUNNING|node3|None|{place}'")
    assert submit.main(["cancel", str(folder)]) == 1
    assert "job 77_1, which its submission.json names, was not submitted for this" in capsys.readouterr().out
    squeue(tmp_path, "exit 1")
    assert submit.main(["cancel", str(folder)]) == 1 and "squeue does not answer" in capsys.readouterr().out
    assert not asked.exists() and not run_status.is_cancelled(folder)


def test_a_run_that_goes_on_here_is_asked_though_it_was_a_job_before(tmp_path: Path) -> None:
    asked = scancel(tmp_path)
    folder = made(tmp_path / "run", dataclasses.replace(SENT, logs=str(tmp_path / "run/submitit")), Attempt("failed"))
    for answer in (f"echo '77_1|FAILED|node3|None|{folder}/submitit/77_submission.sh'", "exit 1"):
        squeue(tmp_path, answer)
        with ExitStack() as stack, pytest.raises(KeyboardInterrupt):
            lock.acquire(RunFolder(folder), stack)
            before = signal.signal(signal.SIGTERM, signal.default_int_handler)
            stack.callback(signal.signal, signal.SIGTERM, before)
            submit.main(["cancel", str(folder)])
    assert not asked.exists()


def test_a_cancelled_run_is_marked_so_that_its_job_does_not_come_back(tmp_path: Path) -> None:
    asked, logs = scancel(tmp_path), tmp_path / "submitit"
    squeue(tmp_path, f"echo '77_1|RUNNING|node3|None|{logs}/77_submission.sh'")
    folder = made(tmp_path / "run", dataclasses.replace(SENT, logs=str(logs)), Attempt("running"))
    assert submit.main(["cancel", str(folder)]) == 0
    assert asked.read_text() == "--signal=USR2 77_1\n" and run_status.is_cancelled(folder)
    asked.unlink()
    squeue(tmp_path, f"echo '77_1|PENDING||Priority|{logs}/.submission_file_1.sh'")
    assert submit.main(["cancel", str(folder)]) == 0
    assert asked.read_text() == "77_1\n"  # nothing to save yet
    run_status.forget(folder)
    assert not run_status.is_cancelled(folder)


def test_requeue_sends_what_is_not_finished_to_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(tmp_path, "true")
    (tmp_path / "all").mkdir()
    (tmp_path / "home").mkdir()
    request_of_before = Request(cluster="slurm", nodes=2, profile=Profile(partition="gpu", setup=["module load cuda"]))
    sent = dataclasses.replace(SENT, work_dir=str(tmp_path / "home"), request=request_of_before.to_dict())
    made(tmp_path / "all/failed", sent, Attempt("failed", "loss"))
    made(tmp_path / "all/cancelled", dataclasses.replace(sent, cancelled=True), Attempt("stopped"))
    made(tmp_path / "all/local", Submission("local", "1", "/logs", HERE, "", "", Request(cluster="local").to_dict()))
    made(tmp_path / "all/by-hand")
    run_folder.write_result(RunFolder(made(tmp_path / "all/finished", sent)), FINISHED)
    started: list[tuple[Request, list[str], str]] = []

    def start(where: Request, configs: Sequence[RunConfig]) -> int:
        started.append((where, [Path(config.output_dir).name for config in configs], str(Path.cwd())))
        return 0

    monkeypatch.chdir(tmp_path)
    assert commands.main(["requeue", str(tmp_path / "all")], start) == 0
    assert (request_of_before, ["cancelled", "failed"], str(tmp_path / "home")) in started and len(started) == 2
    assert [names for where, names, _ in started if where == Request(cluster="local")] == [["local"]]


def test_a_request_survives_its_file() -> None:
    request = Request(cluster="slurm", profile=Profile(environment=["A"]))
    values: dict[str, Any] = json.loads(json.dumps(request.to_dict()))
    assert Request.from_dict(values) == request
    assert resources.Request.from_dict(values).profile.time == 240


def test_runs_on_sample_data_are_named_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up(tmp_path / "runs" / "a", "mednli")
    assert submit.main(["status", str(tmp_path / "runs")]) == 0 and "SAMPLE" not in capsys.readouterr().err
    made_up(tmp_path / "runs" / "b", "hoc", data_dir=None)
    assert submit.main(["status", str(tmp_path / "runs")]) == 0
    assert "WARNING: 1 of 2 runs: SAMPLE DATA: made-up text" in capsys.readouterr().err

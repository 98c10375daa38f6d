"""Ranks that come late or never, ports that others have, folders that not all see: one line each, within seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from running import clean_environment, free_port

from harness import distributed
from harness.distributed import Rendezvous
from harness.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No launcher before, none of its variables afterwards."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("SLURM", "MASTER_", "TORCHELASTIC_")):
            del os.environ[name]
    monkeypatch.setattr(distributed, "WARN_SECONDS", 0.1)
    yield
    os.environ.clear()
    os.environ.update(before)


def rank(number: int, size: int, shared: Path | None = None, seconds: float = 1.0) -> Rendezvous:
    return Rendezvous(number, size, shared, seconds)


@pytest.fixture
def port() -> int:
    """What a launcher gave."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    return int(os.environ["MASTER_PORT"])


def meet(*ranks: Rendezvous) -> list[Future[object]]:
    """Each rank in a thread; what became of each."""
    with ThreadPoolExecutor(len(ranks)) as pool:
        return [pool.submit(each.store) for each in ranks]


def refused(outcome: Future[object]) -> str:
    error = outcome.exception()
    assert isinstance(error, UserError) and "\n" not in str(error), error
    return str(error)


@pytest.mark.usefixtures("port")
class TestWaiting:
    def test_the_missing_ones_are_named(self, caplog: pytest.LogCaptureFixture) -> None:
        first = rank(0, 4)
        store = first.connect()
        store.set("0/rank 2", "")
        with pytest.raises(UserError, match=r"waited 1 s for 2 of 4 ranks \(number 1, 3; have they been started"):
            first.wait_for_all(store)
        assert [record.message for record in caplog.records] == [
            "waiting for 2 of 4 ranks (number 1, 3; have they been started?) ..."
        ]

    def test_all_go_on_together(self, tmp_path: Path) -> None:
        first, arrived = rank(0, 3, tmp_path), threading.Event()

        def come(number: int) -> None:
            rank(number, 3, tmp_path, seconds=20).store()
            assert arrived.is_set()

        with ThreadPoolExecutor() as pool:
            others = [pool.submit(come, number) for number in (1, 2)]
            time.sleep(0.3)
            arrived.set()
            store = first.store()  # which must be there as long as others look at it
            for other in others:
                other.result(timeout=10)
        del store
        assert list(tmp_path.iterdir()) == []

    def test_rank_0_that_never_comes(self, caplog: pytest.LogCaptureFixture) -> None:
        with pytest.raises(UserError, match=r"waited 1 s for rank 0 at 127.0.0.1 port \d+ \(has it been started"):
            rank(1, 2).connect()
        assert "waiting for rank 0 at 127.0.0.1" in caplog.text

    def test_how_long_is_a_flag(self) -> None:
        began = time.monotonic()
        with pytest.raises(UserError, match=r"waited 2 s .*--rendezvous_seconds"):
            rank(1, 2, seconds=2.0).store()
        assert time.monotonic() - began < 4


class TestPort:
    def test_of_another_program_where_rank_0_would_listen(self, port: int) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))
            other.listen()
            with pytest.raises(UserError, match=rf"MASTER_PORT {port}: rank 0 cannot listen there on 127.0.0.1"):
                rank(0, 2).connect()

    @pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["none", "closes", "http"])
    def test_where_another_program_answers(self, port: int, answer: bytes | None) -> None:
        """Rank 0 is on another host, or not started; who listens there is no store."""
        kept = []

        def serve() -> None:
            for _ in range(8):
                try:
                    connection, _ = other.accept()
                except OSError:
                    return
                if answer is None:
                    kept.append(connection)
                    continue
                connection.sendall(answer)
                connection.close()

        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            threading.Thread(target=serve, daemon=True).start()
            began = time.monotonic()
            with pytest.raises(UserError, match=rf"MASTER_PORT {port}: another program answers there on 127.0.0.1"):
                rank(1, 2).connect()
            assert time.monotonic() - began < 10

    @pytest.mark.usefixtures("port")
    @pytest.mark.parametrize(("size", "name", "said"), [(2, "theirs", "--output_dir"), (3, "ours", "2 ranks, here 3")])
    def test_of_another_run(self, size: int, name: str, said: str, tmp_path: Path) -> None:
        """Its rank 1 is not there yet, and ours must not take its place."""
        own, late = meet(rank(0, 2, tmp_path / "ours", seconds=2), rank(1, size, tmp_path / name))
        assert said in refused(late) and "runs another command" in refused(late)
        assert "1 of 2 ranks (number 1" in refused(own)

    @pytest.mark.usefixtures("port")
    def test_ranks_that_torchrun_starts_again_find_nothing_of_the_ranks_before(self, tmp_path: Path) -> None:
        store = rank(0, 2).connect()  # plays torchrun's, which stays
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        for outcome in meet(rank(0, 2, tmp_path), rank(1, 2, tmp_path)):
            outcome.result()
        os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"
        assert "1 of 2 ranks (number 1" in refused(meet(rank(0, 2, tmp_path))[0])
        del store


class TestRunFolder:
    @pytest.mark.usefixtures("port")
    @pytest.mark.parametrize("launcher", ["a port", "torchrun"])
    def test_one_that_not_all_see(self, launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same name on two machines, as /tmp/run: rank 1 looks into a folder of its own. Under srun, where rank 0
        tells its port there, see TestMeetingPlace."""
        monkeypatch.setattr(Rendezvous, "_refuse", lambda *_: None)
        store = None
        if launcher == "torchrun":
            store = rank(0, 2).connect()  # plays torchrun's own
            os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        first, second = meet(rank(0, 2, tmp_path / "one", seconds=4), rank(1, 2, tmp_path / "two", seconds=4))
        assert "rank 1 on" in refused(second) and "does not see what rank 0 writes there" in refused(second)
        assert "name a folder that all nodes share" in refused(first)
        assert list((tmp_path / "one").iterdir()) == []
        del store

    @pytest.mark.usefixtures("port")
    def test_what_a_killed_start_left_is_cleared(self, tmp_path: Path) -> None:
        """And what one that is alive has there is not."""
        gone, alive = (tmp_path / f".meeting.{os.uname().nodename}.{number}.partial" for number in (4_194_305, 1))
        gone.touch()
        alive.touch()
        store = rank(0, 1, tmp_path).store()
        del store
        assert list(tmp_path.iterdir()) == [alive]

    def test_one_that_rank_0_cannot_write(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        first, second = meet(*(rank(number, 2, tmp_path / "file" / "run", seconds=2) for number in (0, 1)))
        assert "cannot be written (Not a directory)" in refused(first)
        assert second.exception() is not None


class TestMeetingPlace:
    """Rank 0 listens where it likes and tells the others in a folder that all see."""

    def test_name_is_that_of_one_start_of_one_step(self) -> None:
        base = {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}
        others = ({"SLURM_JOB_ID": "78"}, {"SLURM_STEP_ID": "1"}, {"SLURM_RESTART_COUNT": "1"})
        names = {distributed.meeting_file({**base, **other}) for other in ({}, *others)}
        assert len(names) == 4 and all(name.endswith(".partial") for name in names)

    def test_the_others_find_rank_0(self, tmp_path: Path) -> None:
        place = tmp_path / "run" / "meeting"
        store = rank(0, 2).connect(place)
        store.set("who", "rank 0")
        del os.environ["MASTER_PORT"]
        assert rank(1, 2).connect(place).get("who") == b"rank 0"
        assert os.environ["MASTER_PORT"] == str(store.port)

    def test_two_jobs_on_a_machine_do_not_meet(self, tmp_path: Path) -> None:
        one, other = (rank(0, 2).connect(tmp_path / name) for name in ("one", "other"))
        assert one.port != other.port

    @pytest.mark.parametrize(
        ("environment", "host"),
        [({}, "127.0.0.1"), ({"SLURM_STEP_NUM_NODES": "2"}, "localhost"), ({"MASTER_ADDR": "127.0.0.2"}, "127.0.0.2")],
    )
    def test_address(self, environment: dict[str, str], host: str, tmp_path: Path) -> None:
        os.environ.update({"SLURMD_NODENAME": "localhost", **environment})
        rank(0, 2).connect(tmp_path / "meeting")
        assert (tmp_path / "meeting").read_text().split()[0] == host

    def test_a_folder_that_not_all_see(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"waited .* for rank 0's address in --output_dir .* \(do all nodes see"):
            rank(1, 2).connect(tmp_path / "meeting")

    @pytest.mark.slow
    def test_srun_on_nodes_that_do_not_share_the_folder(self, tmp_path: Path) -> None:
        """Each rank in a process: without a port from the launcher, rank 0 tells its own in the folder."""
        code = """
import pathlib, sys
from harness import distributed
from harness.errors import UserError
try:
    distributed.init(True, pathlib.Path(sys.argv[1]), 10)
except UserError as error:
    print(error)
"""
        slurm = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(tmp_path / str(number) / "run")],
                env=clean_environment() | slurm | {"SLURM_PROCID": str(number)},
                cwd=ROOT, stdout=subprocess.PIPE, text=True,
            )
            for number in range(2)
        ]  # fmt: skip
        first, second = (each.communicate(timeout=120)[0] for each in ranks)
        assert f"1 of 2 ranks (number 1; have they been started, and do they see {tmp_path}/0/run?)" in first
        assert f"rank 0's address in --output_dir {tmp_path}/1/run (do all nodes see that folder?)" in second

    def test_nowhere_to_meet(self) -> None:
        with pytest.raises(UserError, match="MASTER_PORT: not set by the launcher"):
            rank(1, 2).store()

"""`deepspeed --hostfile` over a real sshd, and torchrun, on two nodes with a network and a host name each.

The nodes are those of the test cluster (tests/slurm_cluster.sh), whose SLURM has no part in it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from encoders import tiny_encoder
from running import arguments, clean_environment, cut, run_on_ranks

if TYPE_CHECKING:
    from slurm_fixture import Slurm

pytest_plugins = ("slurm_fixture",)
pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

TRAIN = Path(__file__).resolve().parents[2] / "launch" / "train.py"
BIN = Path(sys.executable).parent
NODES = ("node1", "node2")
PORT, SSH_PORT, SSH_PORT_HIDDEN = 29611, 2222, 2223
LIMIT = 20  # --rendezvous_seconds: two starts at once on a busy machine may lie some seconds apart


@dataclass
class Nodes:
    """`own`: a folder that node2 has to itself, where it is reached through SSH_PORT_HIDDEN or `inside_hidden`."""

    place: Path
    processes: dict[str, int]  # of each node's slurmd, whose namespaces make the node
    own: Path
    hidden: int = 0  # the process that sees `own`

    def inside(self, node: str, *command: str | Path, hidden: bool = False) -> list[str]:
        process = self.hidden if hidden and node == "node2" else self.processes[node]
        return ["nsenter", f"--target={process}", "--net", "--uts", "--mount", f"--wd={self.place}",
                *map(str, command)]  # fmt: skip

    def address(self, node: str) -> str:
        return subprocess.check_output(self.inside(node, "getent", "hosts", node), text=True).split()[0]

    def sshd(self, node: str, port: int, hidden: bool = False) -> subprocess.Popen[bytes]:
        config = self.place / f"sshd-{node}-{port}.conf"
        config.write_text(
            f"Port {port}\nListenAddress {self.address(node)}\nHostKey {self.place}/key\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.place}/key.pub\nStrictModes no\nPermitRootLogin yes\n"
        )
        return subprocess.Popen(self.inside(node, shutil.which("sshd") or "", "-D", "-e", "-f", config, hidden=hidden),
                                stderr=open(self.place / f"sshd-{node}-{port}.log", "wb"))  # fmt: skip


@pytest.fixture(scope="module")
def nodes(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    place = tmp_path_factory.mktemp("nodes")
    processes = {node: int((slurm.folder / "run" / f"{node}.pid").read_text()) for node in NODES}
    found = Nodes(place, processes, place / "own")
    found.own.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / "key")], check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own, which a service would make
    # The user's own ssh settings stay as they are: `ssh` is a program with settings of its own.
    (place / "ssh_config").write_text(
        f"Host node2-hidden\nHostName node2\nPort {SSH_PORT_HIDDEN}\n"  # another door to node2, behind which lies `own`
        f"Host *\nIdentityFile {place}/key\nPort {SSH_PORT}\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n"
        "LogLevel ERROR\n"
    )
    (place / "bin").mkdir()
    (place / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {place}/ssh_config "$@"\n')
    (place / "bin" / "ssh").chmod(0o700)
    (place / "environment").write_text("OMP_NUM_THREADS=1\n")
    with ExitStack() as stack:
        hider = subprocess.Popen(
            found.inside("node2", "unshare", "--mount", "--propagation", "private", "sh", "-c",
                         f"mount -t tmpfs none {found.own} && exec sleep 3000")
        )  # fmt: skip
        stack.callback(hider.kill)
        found.hidden = hider.pid
        wait_until(lambda: f" {found.own} " in Path(f"/proc/{hider.pid}/mounts").read_text())
        for node, port, hidden in (("node1", SSH_PORT, False), ("node2", SSH_PORT, False),
                                   ("node2", SSH_PORT_HIDDEN, True)):  # fmt: skip
            stack.callback(found.sshd(node, port, hidden).kill)
        for name in (*NODES, "node2-hidden"):
            wait_until(lambda name=name: _answers(found, name))
        yield found


def _answers(nodes: Nodes, name: str) -> bool:
    return subprocess.run(nodes.inside("node1", nodes.place / "bin" / "ssh", name, "true"),
                          capture_output=True).returncode == 0  # fmt: skip


def wait_until(reached: Any, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.fixture(scope="module")
def line(nodes: Nodes) -> list[str]:
    """A run without its output folder."""
    tiny_encoder(nodes.place / "model", dropout=0.1)
    cut("biosses", nodes.place / "data", 40)
    words = arguments("biosses", nodes.place / "model", nodes.place / "none", "--num_train_epochs", "2",
                      "--rendezvous_seconds", str(LIMIT), "--data_dir", str(nodes.place / "data"),
                      "--no_cuda")  # fmt: skip
    at = words.index("--output_dir")
    return words[:at] + words[at + 2 :]


Done = list[tuple[int, str, float]]  # status, what was printed, seconds: of each command


def launch(nodes: Nodes, commands: Sequence[list[str]]) -> Done:
    environment = clean_environment() | {"PATH": f"{nodes.place}/bin:{BIN}:{os.environ['PATH']}:/usr/sbin",
                                         "DS_ENV_FILE": str(nodes.place / "environment")}  # fmt: skip
    started = time.monotonic()
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
               for command in commands]  # fmt: skip
    seen = []
    for process in running:
        out, _ = process.communicate(timeout=300)
        seen.append((process.returncode, out, time.monotonic() - started))
        print(process.args, out, seen[-1][::2], sep="\n")
    return seen


def deepspeed(nodes: Nodes, words: list[str], hosts: Sequence[str] = NODES) -> Done:
    (nodes.place / "hostfile").write_text("".join(f"{host} slots=1\n" for host in hosts))
    command = nodes.inside("node1", BIN / "deepspeed", "-q", "--hostfile", nodes.place / "hostfile", "--master_port",
                           str(PORT), TRAIN, *words)  # fmt: skip
    return launch(nodes, [command])


def torchrun(nodes: Nodes, words: list[str], hidden: bool = False) -> Done:
    return launch(
        nodes,
        [
            nodes.inside(node, BIN / "torchrun", "--nnodes", "2", "--node_rank", str(rank), "--nproc_per_node", "1",
                         "--master_addr", nodes.address("node1"), "--master_port", str(PORT), TRAIN, *words,
                         hidden=hidden)
            for rank, node in enumerate(NODES)
        ],
    )  # fmt: skip


def errors(done: Done) -> list[str]:
    lines = [line for _, out, _ in done for line in out.splitlines()]
    return [
        found[1] for line in lines if (found := re.match(r"(?:node[\w-]+: )?error: (.*)", line))
    ]  # pdsh tells the node


@pytest.fixture(scope="module")
def expected(nodes: Nodes, line: list[str]) -> dict[str, Any]:
    """Of two ranks on one machine."""
    [result] = run_on_ranks(2, [[*line, "--output_dir", str(nodes.place / "one-machine")]], nodes.place / "answers")
    assert not isinstance(result, str), result
    return dict(result)


@pytest.mark.parametrize("launcher", [deepspeed, torchrun])
def test_the_same_result(launcher: Any, nodes: Nodes, line: list[str], expected: dict[str, Any]) -> None:
    folder = nodes.place / f"{launcher.__name__}-run"
    done = launcher(nodes, [*line, "--output_dir", str(folder)])
    assert [status for status, _, _ in done] == [0] * len(done), done
    result = json.loads((folder / "result.json").read_text())
    assert result["world_size"] == 2
    assert (result["scores"], result["epochs"]) == (expected["scores"], expected["epochs"])


@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
def test_a_run_folder_that_not_both_see(launcher: str, nodes: Nodes, line: list[str]) -> None:
    words = [*line, "--output_dir", str(nodes.own / launcher)]
    if launcher == "torchrun":
        done = torchrun(nodes, words, hidden=True)
    else:
        done = deepspeed(nodes, words, ("node1", "node2-hidden"))
    assert all(status != 0 and seconds < 3 * LIMIT + 60 for status, _, seconds in done)
    (said,) = errors(done)
    assert said.startswith(f"--output_dir {nodes.own / launcher}: rank 1 on node2 does not see")
    assert "name a folder that all nodes share" in said


@contextmanager
def taken(nodes: Nodes, port: int) -> Iterator[None]:
    """A stranger listens there on node1, and says nothing."""
    listen = f"import socket, time; s = socket.create_server(('', {port})); print(flush=True); time.sleep(600)"
    stranger = subprocess.Popen(nodes.inside("node1", sys.executable, "-c", listen), stdout=subprocess.PIPE)
    try:
        assert stranger.stdout is not None and stranger.stdout.readline()
        yield
    finally:
        stranger.kill()
        stranger.wait()


def test_a_port_that_somebody_has(nodes: Nodes, line: list[str]) -> None:
    with taken(nodes, PORT):
        done = deepspeed(nodes, [*line, "--output_dir", str(nodes.place / "port")])
    assert done[0][0] != 0 and done[0][2] < 3 * LIMIT + 60
    assert f"MASTER_PORT {PORT}: rank 0 cannot listen there on " in errors(done)[0]


@pytest.mark.parametrize("fault", ["node", "port"])
def test_torchrun_finds_it_before_a_rank_starts(fault: str, nodes: Nodes, line: list[str]) -> None:
    """It waits for its other node as long as docs/resuming.md says, and ends at once where it cannot listen."""
    command = nodes.inside("node1", BIN / "torchrun", "--nnodes", "2", "--node_rank", "0", "--nproc_per_node", "1",
                           "--master_addr", nodes.address("node1"), "--master_port", str(PORT), "--rdzv_conf",
                           "timeout=10", TRAIN, *line, "--output_dir", str(nodes.place / "alone"))  # fmt: skip
    with taken(nodes, PORT) if fault == "port" else nullcontext():
        [(status, out, seconds)] = launch(nodes, [command])
    assert status != 0 and seconds < 60
    assert ("1/2 clients joined" if fault == "node" else f"port: {PORT}") in out
    assert not (nodes.place / "alone").exists()


def test_a_rank_that_never_comes(nodes: Nodes, line: list[str]) -> None:
    """On the second node the program does not start."""
    (nodes.own / "env").symlink_to(BIN.parent)  # behind the other door it is not there
    (nodes.place / "hostfile").write_text("node1 slots=1\nnode2-hidden slots=1\n")
    command = nodes.inside("node1", nodes.own / "env" / "bin" / BIN.joinpath(sys.executable).name, BIN / "deepspeed",
                           "-q", "--hostfile", nodes.place / "hostfile", "--master_port", str(PORT), TRAIN, *line,
                           "--output_dir", str(nodes.place / "missing"))  # fmt: skip
    done = launch(nodes, [command])
    assert done[0][0] != 0 and done[0][2] < 3 * LIMIT + 60
    (said,) = errors(done)
    assert said.startswith(f"waited {LIMIT} s for 1 of 2 ranks (number 1;")

"""What srun gives its ranks, on a real SLURM (see slurm_cluster.sh)."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from slurm_fixture import Slurm

pytest_plugins = ("slurm_fixture",)
pytestmark = pytest.mark.slurm

RANK = """
import json, os, socket, subprocess
names = subprocess.run(["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]],
                       capture_output=True, text=True, check=True).stdout.split()
seen = {name: value for name, value in os.environ.items() if name.startswith(("SLURM_", "SLURMD_"))}
seen.update(hostname=socket.gethostname(), names=names, addresses=[socket.gethostbyname(name) for name in names])
print(json.dumps(seen))
"""


def test_two_ranks_on_two_nodes(slurm: Slurm, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    # A file for each rank: on srun's own stdout long lines of two ranks get mixed.
    slurm.run("srun", "-N2", "-n2", f"--output={tmp_path}/%t.json", sys.executable, str(script))
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    known = slurm.run("scontrol", "--oneliner", "show", "node", "node1,node2")
    addresses = re.findall(r"NodeAddr=(\S+)", known)

    assert [rank["SLURM_PROCID"] for rank in ranks] == ["0", "1"]
    assert [rank["SLURM_NODEID"] for rank in ranks] == ["0", "1"]
    assert [rank["SLURMD_NODENAME"] for rank in ranks] == ["node1", "node2"]
    assert [rank["hostname"] for rank in ranks] == ["node1", "node2"]
    for rank in ranks:
        assert rank["SLURM_LOCALID"] == "0"
        assert rank["SLURM_NTASKS"] == rank["SLURM_NPROCS"] == rank["SLURM_STEP_NUM_TASKS"] == "2"
        assert rank["SLURM_NNODES"] == rank["SLURM_JOB_NUM_NODES"] == rank["SLURM_STEP_NUM_NODES"] == "2"
        assert rank["SLURM_STEP_NODELIST"] == rank["SLURM_JOB_NODELIST"] == "node[1-2]"
        assert rank["SLURM_TASKS_PER_NODE"] == "1(x2)"
        # The first name is what MASTER_ADDR becomes: every rank must reach it, each node at an address of its own.
        assert rank["names"] == ["node1", "node2"]
        assert rank["addresses"] == addresses and len(set(addresses)) == 2


PLACE = """
import os
from harness import distributed
print("PLACE", *distributed.from_environment(os.environ))
"""


def test_a_program_typed_into_the_shell_of_a_step_is_one_process(slurm: Slurm, tmp_path: Path) -> None:
    """And an srun there starts ranks, though they inherit the variables of the shell."""
    script = tmp_path / "place.py"
    script.write_text(PLACE)
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(["srun", "-N2", "-n4", "--overcommit", "--pty", "bash", "--norc"], env=slurm.env,
                             stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)  # fmt: skip
    shown = ""
    try:
        for line, places in (
            (f"{sys.executable} {script}", ["0 1 0 1"]),
            (f"srun --overlap -n2 bash -c '{sys.executable} {script}; true'", ["0 2 0 1", "1 2 0 1"]),
        ):
            os.write(ours, f"{line}\n".encode())
            before = len(shown)
            while len(found := re.findall(r"PLACE ([\d ]+\d)\r", shown[before:])) < len(places):
                assert select.select([ours], [], [], 60)[0], shown
                shown += os.read(ours, 4096).decode(errors="replace")
            assert sorted(found) == places
    finally:
        shell.terminate()
        shell.wait(timeout=60)
        os.close(ours)
        os.close(theirs)

"""What srun gives its ranks, on a real SLURM (see slurm_cluster.sh)."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from running import arguments

if TYPE_CHECKING:
    from slurm_fixture import Slurm

pytest_plugins = ("slurm_fixture",)
pytestmark = pytest.mark.slurm

SCRIPT = Path(__file__).resolve().parent.parent / "launch" / "train.py"

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


def test_srun_starts_a_run_on_two_nodes(slurm: Slurm, tiny_bert: Path, tmp_path: Path) -> None:
    """No hostfile, no ssh, no MPI: rank and address come from SLURM."""
    line = arguments("mednli", tiny_bert, tmp_path / "run", "--max_steps", "2")
    output = f"--output={tmp_path}/%t.log"
    slurm.run("srun", "-N2", "-n2", output, sys.executable, str(SCRIPT), *line, OMP_NUM_THREADS="1", timeout=300)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["world_size"] == 2 and result["steps"] == 2
    assert "16 a step" in (tmp_path / "0.log").read_text()

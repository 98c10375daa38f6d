"""Runs on two ranks, each with another fault; what the user saw and how the ranks ended, as JSON, for test_failures.py.

python tests/crashes.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import crashing
import forked
from encoders import tiny_encoder
from running import arguments

SCENARIOS: dict[str, dict[int, str]] = {
    "crash of rank 1": {1: "crash"},
    "crash of rank 0": {0: "crash"},
    "crash of both": {0: "crash", 1: "crash"},
    "out of memory on rank 1": {1: "memory"},
    "mistake seen by rank 1": {1: "mistake"},
    "not to be pickled": {0: "unpicklable"},
    "killed": {1: "vanish"},
    "crash while the other hangs": {1: "crash", 0: "hang"},
    "killed while the other hangs": {1: "vanish", 0: "hang"},
}


def main(place: Path) -> None:
    model = tiny_encoder(place / "model")
    seen = {}
    for name, faults in SCENARIOS.items():
        output, screen = place / name.replace(" ", "-"), place / f"{name}.screen"
        line = arguments("biosses", model, output, "--max_steps", "4", "--save_steps", "2")
        ranks = forked.start(line, 2, screen, prepare=partial(crashing.prepare, faults=faults, GRACE_SECONDS=2.0))
        statuses = dict(ranks.wait())
        apart = max(ranks.ended.values()) - min(ranks.ended.values())
        seen[name] = {
            "statuses": [statuses[rank] for rank in (0, 1)],
            "apart": apart,
            "screen": screen.read_text(),
            "log": (output / "train.log").read_text(),
            "folder": str(output),
            "host": os.uname().nodename,
            "processes": ranks.processes,
            "left": sorted(path.name for path in output.iterdir()),
        }
        again = forked.start(line, 2, place / f"{name}.again")
        seen[name]["again"] = [again.wait()[rank] for rank in (0, 1)]
        seen[name]["left again"] = sorted(path.name for path in output.iterdir())
    (place / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

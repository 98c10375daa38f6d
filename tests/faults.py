"""Faults at seeded random moments of a run; the same command again must end as if nothing had happened.

    make faults                                  # all faults for each of ZeRO 0 to 3 on two ranks, and fp32 on one
    python tests/faults.py --kill 2 --only zero3

kill    SIGKILL to a random rank
freeze  SIGSTOP to a random rank, for good
damage  a rank is killed, and bytes of a file of the newest checkpoint change, which is then skipped
change  a rank is killed, and bytes of an input change: the command is refused until the input is back

Moments are found by looking at the run folder from outside: there is no hook in the code that is tested. The ranks are
stopped (SIGSTOP) while the moment is named and one of them is killed; the others then have to end by themselves.
Prints a table; exit status 1 where a run did not end bit-identical, left something behind or had to be helped.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import forked
from encoders import tiny_encoder
from running import arguments, fingerprint

import tasks
from harness.errors import EXIT_LOST, EXIT_USER
from harness.run_folder import newest_first

EPOCHS, STEPS_PER_EPOCH, SAVE_STEPS = 3, 10, 4  # of two ranks; of one rank twice the steps
CASES = {**{f"zero{stage}": 2 for stage in range(4)}, "fp32": 1}  # name: ranks
PLAN = {"training": 11, "saving": 8, "evaluating": 5, "writing": 4, "starting": 2}  # of 30 moments
FAULTS = {"kill": 30, "freeze": 5, "damage": 5, "change": 5}  # of each kind of run
CHANGED = ("data/train.tsv", "data/test.tsv", "model/tokenizer.json", "model/model.safetensors")
END_SECONDS = 15.0  # so soon the other ranks must have ended
WATCHDOG_SECONDS = 8.0  # where a rank is frozen
LAUNCHER_SECONDS = 3.0  # before they know each other, only a launcher can tell: it is played by this program


@dataclass
class Row:
    """One fault."""

    case: str
    fault: str
    seed: int
    moment: str
    rank: int
    resumed: str = ""
    faults: list[str] = field(default_factory=list)


class Bench:
    """A place for runs, with what an undisturbed run of each case left."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.model = tiny_encoder(place / "model", dropout=0.1)
        self.data = shutil.copytree(tasks.sample_dir("biosses"), place / "data")
        self.scratch = place / "tmp"
        self.scratch.mkdir()
        self.undisturbed: dict[str, dict[str, str]] = {}

    def line(self, case: str, output: Path, watchdog: float = 60.0) -> list[str]:
        settings = self.place / f"{case}.json"
        if case != "fp32" and not settings.exists():
            auto = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
            content = {**dict.fromkeys(auto, "auto"), "zero_allow_untested_optimizer": True, "bf16": {"enabled": True},
                       "zero_optimization": {"stage": int(case[-1])}}  # fmt: skip
            settings.write_text(json.dumps(content))
        return arguments("biosses", self.model, output, "--precision", "auto", "--num_train_epochs", str(EPOCHS),
                         "--ds_config", "fp32" if case == "fp32" else str(settings), "--save_steps", str(SAVE_STEPS),
                         "--logging_steps", "1", "--per_gpu_eval_batch_size", "1", "--seed", "12",
                         "--data_dir", str(self.data), "--feature_cache", "none",
                         "--watchdog_minutes", str(watchdog / 60))  # fmt: skip

    def start(self, case: str, output: Path, watchdog: float = 60.0) -> forked.Ranks:
        screen = output.with_suffix(".screen")
        return forked.start(self.line(case, output, watchdog), CASES[case], screen, TMPDIR=str(self.scratch))

    def finish(self, case: str, output: Path) -> str:
        """Run to the end; returns what it printed."""
        screen = output.with_suffix(".screen")
        screen.unlink(missing_ok=True)
        statuses = self.start(case, output).wait()
        assert set(statuses.values()) == {0}, screen.read_text()
        return screen.read_text()

    def expected(self, case: str) -> dict[str, str]:
        if case not in self.undisturbed:
            self.finish(case, self.place / f"{case}-undisturbed")
            self.undisturbed[case] = fingerprint(self.place / f"{case}-undisturbed")
        return self.undisturbed[case]


def moment_of(folder: Path, last_step: int) -> str:
    """What a run is at, from its folder alone."""
    if (folder / "result.json").exists():
        return "finished"
    if list((folder / "checkpoints").glob(".step-*.partial")):
        return "saving"
    if (folder / "checkpoints" / f"step-{EPOCHS:04d}-000000").exists():
        return "writing"  # model/, predictions, result files
    rows = metrics(folder)
    if rows and rows[-1]["kind"] == "step" and rows[-1]["step"] % (last_step // EPOCHS) == 0:
        return "evaluating"
    return "training" if rows else "starting"


def metrics(folder: Path) -> list[dict[str, Any]]:
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]
    except (OSError, ValueError):  # not there yet, or a line half written
        return []


def wait_for(wanted: str, folder: Path, ranks: forked.Ranks, draw: random.Random, last_step: int) -> None:
    """Return at a random moment of the wanted kind, or when the run ends."""
    condition: Callable[[], bool]
    delay = draw.uniform(
        0, {"starting": 1.5, "training": 0.03, "saving": 0.04, "evaluating": 0.08, "writing": 0.5}[wanted]
    )
    if wanted == "training":
        step = draw.randrange(1, last_step)
        condition = lambda: len([row for row in metrics(folder) if row["kind"] == "step"]) >= step  # noqa: E731
    elif wanted == "saving":
        number, seen = draw.randrange(1, last_step // SAVE_STEPS), set()
        condition = lambda: len(seen.update(folder.glob("checkpoints/.step-*")) or seen) >= number  # noqa: E731
    elif wanted == "evaluating":
        step = draw.randrange(1, EPOCHS + 1) * last_step // EPOCHS
        condition = lambda: bool(rows := metrics(folder)) and rows[-1]["step"] >= step  # noqa: E731
    else:
        condition = lambda: wanted == "starting" or moment_of(folder, last_step) == "writing"  # noqa: E731
    while ranks.running() and not condition():
        time.sleep(0.002)
    time.sleep(delay)


def disturb(bench: Bench, case: str, fault: str, wanted: str, seed: int, output: Path) -> Row:
    """Start a run, kill or freeze one rank at a moment of the wanted kind, and see how the others end."""
    draw, world = random.Random(f"{case} {fault} {seed}"), CASES[case]
    last_step = EPOCHS * STEPS_PER_EPOCH * 2 // world
    while True:  # again where the run was faster than the moment
        shutil.rmtree(output, ignore_errors=True)
        output.with_suffix(".screen").unlink(missing_ok=True)
        ranks = bench.start(case, output, WATCHDOG_SECONDS if fault == "freeze" else 60.0)
        wait_for(wanted, output, ranks, draw, last_step)
        running = ranks.running()
        ranks.signal(signal.SIGSTOP)
        moment = moment_of(output, last_step)
        saved = newest_first(output / "checkpoints")
        fits = (
            fault in ("kill", "freeze") or saved
        )  # else there is nothing to damage, and nothing that other inputs spoil
        if running == list(range(world)) and moment != "finished" and fits:
            break
        ranks.signal(signal.SIGKILL)
        ranks.wait()
    row = Row(case, fault, seed, moment, draw.randrange(world))
    if fault != "freeze":
        ranks.signal(signal.SIGKILL, row.rank)
    ranks.signal(signal.SIGCONT, *(rank for rank in range(world) if rank != row.rank or fault != "freeze"))
    if world > 1:
        seconds = END_SECONDS + (3 * WATCHDOG_SECONDS if fault == "freeze" else 0)
        see_the_others_end(ranks, row, LAUNCHER_SECONDS if moment == "starting" else seconds)
    ranks.wait()
    return row


def spoil(path: Path, draw: random.Random) -> None:
    """Other bytes, as many as before."""
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    content[place] ^= 1
    path.write_bytes(content)


def damage(row: Row, output: Path) -> Path:
    """A file of the newest checkpoint; returns the checkpoint."""
    draw = random.Random(f"{row.case} {row.seed}")
    newest = newest_first(output / "checkpoints")[0]
    spoil(draw.choice(sorted(path for path in newest.rglob("*") if path.is_file())), draw)
    return newest


def change(bench: Bench, row: Row, output: Path) -> None:
    """An input, and back: meanwhile the command must be refused, in one line that names the file."""
    path = bench.place / CHANGED[row.seed % len(CHANGED)]
    content = path.read_bytes()
    spoil(path, random.Random(row.seed))
    screen = output.with_suffix(".refused")
    ranks = forked.start(bench.line(row.case, output), CASES[row.case], screen)
    statuses, said = set(ranks.wait().values()), screen.read_text().splitlines()
    path.write_bytes(content)
    if statuses != {EXIT_USER} or f"{path.name} is not what it was when the run in {output} began" not in said[-1]:
        row.faults.append(f"with another {path.name}: {statuses}, {said[-1:]}")


def see_the_others_end(ranks: forked.Ranks, row: Row, seconds: float) -> None:
    statuses = ranks.wait(seconds)
    others = {status for rank, status in statuses.items() if rank != row.rank}
    said = ranks.screen.read_text().splitlines()
    if row.moment == "starting":
        return
    if others != {EXIT_LOST}:
        row.faults.append(f"the others ended with {others}")
    if f"error: rank {row.rank} (process {ranks.processes[row.rank]} on " not in said[-1]:
        row.faults.append(f"last line: {said[-1]}")
    if any("Traceback" in line for line in said):
        row.faults.append("a traceback of a rank that did nothing wrong")


def go_on(bench: Bench, row: Row, output: Path) -> None:
    """The same command again, to the end; what it left against what an undisturbed run leaves."""
    damaged = damage(row, output) if row.fault == "damage" else None
    if row.fault == "change":
        change(bench, row, output)
    said = bench.finish(row.case, output)
    if damaged is not None and not re.search(f"{damaged.name}.* is skipped", said):
        row.faults.append(f"not said that {damaged.name} is damaged")
    found = re.search(r"Resumed after (\d+) epochs and (\d+) steps", said)
    row.resumed = f"{found[1]}+{found[2]}" if found else "0"
    expected, left = bench.expected(row.case), fingerprint(output)
    row.faults += [f"differs: {name}" for name in expected if left.get(name, expected[name]) != expected[name]]
    row.faults += [f"missing: {name}" for name in expected.keys() - left.keys()]
    row.faults += [f"left behind: {name}" for name in left.keys() - expected.keys()]
    row.faults += [f"left behind: {path}" for path in bench.scratch.iterdir()]


def moments(kills: int, case: int, draw: random.Random) -> list[str]:
    """The kinds of moment of so many kills: as in PLAN; of a few kills the likeliest faults, others in each case."""
    if kills < sum(PLAN.values()):
        order = ("saving", "evaluating", "training", "writing", "starting")
        return [order[(case * kills + number) % len(order)] for number in range(kills)]
    kinds = [kind for kind, count in PLAN.items() for _ in range(count)]
    draw.shuffle(kinds)
    return [kinds[number % len(kinds)] for number in range(kills)]


def planned(chosen: argparse.Namespace) -> Iterator[tuple[str, str, int, str]]:
    """(run, fault, number, kind of moment). One rank alone cannot miss another that is frozen."""
    for place, case in enumerate(chosen.only):
        for fault in FAULTS:
            count = 0 if fault == "freeze" and CASES[case] == 1 else getattr(chosen, fault)
            for number, wanted in enumerate(moments(count, place, random.Random(chosen.first_seed))):
                saved = fault in ("damage", "change")  # which need a checkpoint
                yield case, fault, number, "training" if saved and wanted == "starting" else wanted


def show(rows: Sequence[Row], seconds: float) -> None:
    print(f"\n{'run':8}{'fault':8}{'moments':72}{'identical':>10}")
    for case, fault in dict.fromkeys((row.case, row.fault) for row in rows):
        own = [row for row in rows if (row.case, row.fault) == (case, fault)]
        counted = Counter(row.moment for row in own)
        told = ", ".join(f"{kind} {counted[kind]}" for kind in PLAN if counted[kind])
        print(f"{case:8}{fault:8}{told:72}{sum(not row.faults for row in own):>4} of {len(own)}")
    print(f"{len(rows)} faults in {seconds / 60:.1f} minutes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for fault, number in FAULTS.items():
        parser.add_argument(f"--{fault}", type=int, default=number, help=f"of each kind of run (default {number})")
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--first_seed", type=int, default=0)
    chosen = parser.parse_args()
    began, rows = time.monotonic(), []
    shared_memory = set(os.listdir("/dev/shm"))
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        bench = Bench(Path(place))
        print(
            f"{'run':8}{'fault':8}{'seed':>5}  {'moment':12}{'rank':>4}  {'resumed at':12}{'identical':10}", flush=True
        )
        for case, fault, number, wanted in planned(chosen):
            output = bench.place / f"{case}-{fault}-{number}"
            row = disturb(bench, case, fault, wanted, chosen.first_seed + number, output)
            go_on(bench, row, output)
            shutil.rmtree(output)
            rows.append(row)
            print(f"{case:8}{fault:8}{row.seed:5}  {row.moment:12}{row.rank:4}  {row.resumed:12}"
                  f"{'no: ' + '; '.join(row.faults) if row.faults else 'yes'}", flush=True)  # fmt: skip
    show(rows, time.monotonic() - began)
    ours = {name for name in set(os.listdir("/dev/shm")) - shared_memory if any(w in name for w in ("torch", "gloo"))}
    if ours:
        print(f"left behind in /dev/shm: {ours}")
    return 1 if ours or any(row.faults for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

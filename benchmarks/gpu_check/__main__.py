"""Everything that can only be proven on a GPU, in parts, and one table of what came out.

    python -m benchmarks.gpu_check                   # make gpu-check
    python -m benchmarks.gpu_check --only peers_32   # a part alone, done before or not
    python -m benchmarks.gpu_check --minutes 9       # no longer than so; the same command goes on where this one ended
    python -m benchmarks.gpu_check --small           # a tiny encoder and a few steps, on a CPU too

Each part is a process with a time limit, and a file in --out; a part that fails or runs out of time is a row of the
table. The command repeated does the parts that are missing or failed. It needs no network: without --data the rows are
made up, of the published sizes, and the weights of BERT-base are random.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.gpu_check import report, targets
from benchmarks.gpu_check.report import CPU, Report, say

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 25.0  # of one command
GRACE = 10.0  # seconds between the request to end and the end of a part
CORRECT, SPEED = "benchmarks.gpu_check.correct", "benchmarks.gpu_check.speed"


@dataclass(frozen=True)
class Part:
    """A part of the check."""

    name: str
    what: str
    function: str  # module:function, called with a Job
    expected: float  # minutes on an H100
    limit: float = 8.0  # minutes after which it is ended


PARTS = (
    Part("machine", "versions, driver, card, commit", f"{CORRECT}:machine", 0.5),
    Part("demo", "the demo, by the deepspeed launcher", f"{CORRECT}:demo", 1.0),
    Part("attention", "attention backends, gradients of packed rows against float32", f"{CORRECT}:attention", 0.7),
    Part("waits", "three steps in which the host must not wait for the device", f"{CORRECT}:waits", 1.0),
    Part("ds_configs", "20 steps under each of ds_configs/ against fp32 on the CPU", f"{CORRECT}:ds_configs", 1.5),
    Part("overflow", "an overflow skips one step, at ZeRO 0, 1 and 2", f"{CORRECT}:overflow", 0.5),
    Part("resume", "save, resume to the bit, load at another stage", f"{CORRECT}:resume", 1.0),
    Part("profile", "kernels, idle share of the device, host time by phase", f"{SPEED}:profile", 1.0),
    Part("peers_32", "ours against its peers, batch 32", f"{SPEED}:peers_32", 4.0),
    Part("peers_256", "ours against its peers, batch 256", f"{SPEED}:peers_256", 4.0),
    Part("suite", "the ten tasks, one epoch each", f"{SPEED}:suite", 3.5),
    Part("graphs", "CUDA graphs on and off", f"{SPEED}:graphs", 2.0),
    Part("compile", "--compile on and off", f"{SPEED}:compiled", 2.0),
    Part("deberta", "DeBERTa-v3's base size against HF Trainer", f"{SPEED}:deberta", 1.0),
)


def probe() -> tuple[str, int]:
    """(name of the card or `cpu`, number of cards), by another process: this one must not hold memory on them."""
    code = "import torch; c = torch.cuda; n = c.device_count(); print(n, c.get_device_name() if n else 'cpu', sep=';')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: torch cannot look for a GPU: {report.telling_line(done.stderr)}")
    count, _, name = done.stdout.strip().splitlines()[-1].partition(";")
    return name, int(count)


def run(part: Part, flags: Sequence[str], out: Path, device: str, seconds: float) -> dict[str, Any]:
    """What a part found, or that it failed; its output is in <part>.log."""
    file, log = out / f"{part.name}.json", out / f"{part.name}.log"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_check.part", part.function, "--name", part.name, "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")]))}
    began = time.monotonic()
    with open(log, "w", encoding="utf-8") as output:
        running = subprocess.Popen(
            [*command, "--device", device, *flags], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        status: int | None = running.wait(seconds)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        end(running)
    found = report.load(file)
    if found is None or found["status"] == "unfinished":
        stopped = Report(file, part.name, device, "--small" in flags)
        stopped.content |= found or {}
        stopped.began = began
        last = report.telling_line(log.read_text(encoding="utf-8", errors="replace"))
        why = f"ended by signal {-status}" if status and status < 0 else f"exit status {status}"
        stopped.finish(f"out of time after {seconds:.0f} s" if status is None else f"{why}: {last}")
        found = stopped.content
    return found


def end(running: subprocess.Popen[bytes]) -> None:
    """A part and what it started: its process group, which may outlive it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, number)
            if number == signal.SIGTERM:
                until = time.monotonic() + GRACE
                while time.monotonic() < until:
                    running.poll()
                    os.killpg(running.pid, 0)  # raises once all are gone
                    time.sleep(0.1)
    running.wait()


def show(out: Path, device: str) -> tuple[str, bool]:
    """(the table of all parts and targets, whether something failed); the table is kept in table.md."""
    found = {part.name: report.load(out / f"{part.name}.json") for part in PARTS}
    rows = [row for name, content in found.items() for row in report.rows_of(name, content)]
    rows += targets.rows(found)
    commits: dict[str, list[str]] = {}
    for name, content in found.items():
        if content is not None:
            commits.setdefault(str(content["commit"]), []).append(name)
    said = [f"Commit {commit}" + f": {', '.join(names)}" * (len(commits) > 1) for commit, names in commits.items()]
    table = report.markdown(("part", "what", "value", "outcome"), rows)
    text = "\n\n".join([f"# GPU check: {device}", *said, table]) + "\n"
    (out / "table.md").write_text(text, encoding="utf-8")
    return text, any(row[-1] == "failed" for row in rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="the parts, and the minutes that each takes on an H100")
    parser.add_argument("--only", action="append", default=[], metavar="PART", choices=[part.name for part in PARTS],
                        help="this part, done before or not; may be given several times")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of the outcomes [benchmarks/results/gpu-<card>-<date>]")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="no part goes on for longer than so [25]")
    parser.add_argument("--data", type=Path, help="folder that holds a folder for each task [made-up rows]")
    parser.add_argument("--small", action="store_true", help="a tiny encoder and a few steps")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 where something failed, 2 where there is no GPU to check."""
    args = parse(argv)
    if args.list:
        for part in PARTS:
            print(f"{part.name:12s} {part.expected:4.1f} min  {part.what}")
        return 0

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)  # the part that runs is ended on the way out

    signal.signal(signal.SIGTERM, stop)
    device, cards = probe()
    if device == CPU and not args.small and not args.only:
        say("error: torch sees no GPU here, where this would take hours; --small tries the check itself on a CPU")
        return 2
    if cards > 1:  # one is measured: Hugging Face Trainer would take them all
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    card = re.sub(r"\W+", "-", device.removeprefix("NVIDIA ")).lower() + ("-small" if args.small else "")
    out = (args.out or ROOT / "benchmarks" / "results" / f"gpu-{card}-{time.strftime('%Y%m%d')}").absolute()
    out.mkdir(parents=True, exist_ok=True)
    flags = ["--small"] if args.small else []
    flags += ["--data", str(args.data.absolute())] if args.data else []
    until = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        for part in PARTS:
            before = report.load(out / f"{part.name}.json")
            if part.name not in args.only if args.only else before is not None and before["status"] == "done":
                continue
            left = until - time.monotonic()
            if left <= 0:
                say(f"{args.minutes:g} minutes are over; the same command goes on with {part.name}")
                break
            say(f"{part.name}: {part.what} ...")
            found = run(part, [*flags, "--scratch", scratch], out, device, min(60 * part.limit, left))
            say(f"{part.name}: {found['status']} after {found['seconds']:.0f} s {found['error']}")
            show(out, device)
    text, failed = show(out, device)
    print(text)
    print(f"kept in {out}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

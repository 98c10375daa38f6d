"""Time and memory of converting and checking many rows: `python -m benchmarks.prepare [--sentences N ...]`.

Made-up PubTator text of N sentences is converted to BC5CDR's two tasks and checked, each in a process of its own;
the sentence splitter alone on the same text is what the time is measured against.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

SENTENCES_OF_A_DOCUMENT = 10
CHEMICALS, DISEASES = ("aspirin", "lithium carbonate", "5-HT"), ("pain", "renal failure", "tremor of the hands")
SHARES = {"Training": 0.8, "Development": 0.1, "Test": 0.1}


def write_source(folder: Path, sentences: int) -> None:
    """Three PubTator files of invented documents, `sentences` of them together."""
    rng = random.Random(1)
    number = 0
    for name, share in SHARES.items():
        with open(folder / f"CDR_{name}Set.PubTator.txt", "w", encoding="utf-8") as file:
            for _ in range(max(1, round(share * sentences / SENTENCES_OF_A_DOCUMENT))):
                number += 1
                file.write(document(rng, number))


def document(rng: random.Random, number: int) -> str:
    """A title and an abstract with a chemical and a disease in each sentence, and an empty line."""
    text, mentions = f"Report {number} on what drugs do.", []
    for _ in range(SENTENCES_OF_A_DOCUMENT - 1):
        chemical, disease = rng.choice(CHEMICALS), rng.choice(DISEASES)
        for part, kind in (
            (" After the patients of group", ""), (f" {rng.randrange(1000)} took ", ""), (chemical, "Chemical"),
            (", as Dr. Grey reports (cf. Fig. 2), ", ""), (disease, "Disease"),
            (f" fell by {rng.random():.3f} per cent.", ""),
        ):  # fmt: skip
            if kind:
                mentions.append(f"{number}\t{len(text)}\t{len(text) + len(part)}\t{part}\t{kind}\t-\n")
            text += part
    title = text[: text.index(".") + 1]
    return f"{number}|t|{title}\n{number}|a|{text[len(title) + 1 :]}\n{''.join(mentions)}\n"


def split_only(folder: Path) -> None:
    """The sentence splitter on all abstracts."""
    from tasks.corpora.text import sentences

    for path in sorted(folder.glob("*.txt")):
        with open(path, encoding="utf-8") as file:
            for line in file:
                if "|a|" in line:
                    sentences(line.split("|a|", 1)[1])


def measure(what: str, folder: Path) -> None:
    """Do one thing in this process and print seconds of processor time and the peak of memory over the start."""
    # What is imported on first use belongs to the start.
    from launch import prepare
    from tasks.corpora.text import sentences

    sentences("One. Two.")
    before = resource.getrusage(resource.RUSAGE_SELF)
    if what == "split":
        split_only(folder / "raw")
    elif what == "convert":
        prepare.main(["bc5cdr", "--source", str(folder / "raw"), "--out", str(folder / "out")])
    else:
        prepare.main(["check", str(folder / "out" / "bc5cdr_chem")])
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures = {"what": what, "seconds": round(seconds, 2), "start_mib": before.ru_maxrss // 1024,
               "peak_mib": after.ru_maxrss // 1024}  # fmt: skip
    print(json.dumps(figures))


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line of JSON for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "DIR"), help="used by the program itself")
    options = parser.parse_args(argv)
    if options.measure:
        measure(options.measure[0], Path(options.measure[1]))
        return
    for count in options.sentences:
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / "raw").mkdir()
            write_source(Path(place) / "raw", count)
            for what in ("split", "convert", "check"):
                started = time.perf_counter()
                command = [sys.executable, "-m", "benchmarks.prepare", "--measure", what, place]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                figures = json.loads(done.stdout.splitlines()[-1])
                print(
                    json.dumps({"sentences": count, **figures, "wall": round(time.perf_counter() - started, 1)}),
                    flush=True,
                )


if __name__ == "__main__":
    main()

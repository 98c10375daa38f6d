"""Writes the made-up sample data of the tasks of BLUE and BLURB: `python tests/samples/generate.py [--out DIR]`.

All text is invented, by templates and word lists in this folder, and scores reached on it mean nothing. The files
have the formats of the published ones, every sentence of a task occurs once over its three splits, and the same seed
gives the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import blurb
import documents
import pairs
import relations
import tagging
from pairs import Row

SAMPLES = Path(__file__).resolve().parents[2] / "tasks" / "samples"
SEED = 1
SPLITS = ("train", "dev", "test")
FIRST_ID = 990_000_000  # invented document numbers, longer than any real one

Fresh = Callable[[tuple[str, ...]], bool]  # true once for texts not seen before in the task
Splits = Mapping[str, int]  # split -> rows, sentences or documents

# Shares of each label in a task whose rows are drawn one by one.
LEVELS_MEDSTS = {str(level): 1 for level in range(6)}
LEVELS_BIOSSES = {str(level): 1 for level in range(5)}
NLI = dict.fromkeys(pairs.NLI_LABELS, 1)
DDI = {"DDI-advise": 3, "DDI-effect": 4, "DDI-int": 2, "DDI-mechanism": 4, "DDI-false": 12}
CHEMPROT = {"CPR:3": 4, "CPR:4": 6, "CPR:5": 2, "CPR:6": 2, "CPR:9": 4, "false": 12}
I2B2 = {"PIP": 3, "TeCP": 2, "TeRP": 3, "TrAP": 3, "TrCP": 2, "TrIP": 2, "TrNAP": 2, "TrWP": 2, "false": 11}

ONE = "index\tsentence\tlabel"
TWO = "index\tsentence1\tsentence2\t"


def _once() -> Fresh:
    """A test that is true for texts none of which it was asked about (and said yes to) before."""
    seen: set[str] = set()

    def fresh(texts: tuple[str, ...]) -> bool:
        if seen.intersection(texts):
            return False
        seen.update(texts)
        return True

    return fresh


def _plan(rng: Random, shares: Mapping[str, int], rows: int) -> list[str]:
    """`rows` labels in random order, as near to the shares as whole numbers allow."""
    cycle = [label for label, share in shares.items() for _ in range(share)]
    labels = [cycle[index * len(cycle) // rows] for index in range(rows)]
    rng.shuffle(labels)
    return labels


def _table(
    task: str,
    seed: int,
    header: str,
    shares: Mapping[str, int],
    make: Callable[[Random, str], Row],
    sizes: Splits,
) -> dict[str, str]:
    """File name -> text of a task with one row an example."""
    fresh, files = _once(), {}
    for split, size in sizes.items():
        rng = Random(f"{task}-{split}-{seed}")
        lines = [header]
        for number, label in enumerate(_plan(rng, shares, size)):
            texts, answer = make(rng, label)
            while not fresh(texts):
                texts, answer = make(rng, label)
            lines.append("\t".join((f"{split}-{number}", *texts, answer)))
        files[f"{split}.tsv"] = "".join(line + "\n" for line in lines)
    return files


def _tagged(
    key: str,
    seed: int,
    corpus: tagging.Corpus,
    names: tuple[str, str, str],
    sizes: Splits,
    length: tuple[int, int],
) -> dict[str, str]:
    """File name -> text of a tagging task. Two corpora with the same `key` tag the same text."""
    fresh, files = _once(), {}
    for place, (split, size) in enumerate(sizes.items()):
        rng = Random(f"{key}-{split}-{seed}")
        text = ""
        for number in range(size):
            name = f"{FIRST_ID + 10_000 * place + number}"
            if corpus.notes:
                name = f"{10_000 * (place + 1) + number}-{rng.randrange(1_000_000):06d}-SAMPLE_NOTE"
            text += tagging.document(rng, name, corpus, rng.randint(*length), fresh)
        files[names[place]] = text
    return files


def _hoc(seed: int, sizes: Splits) -> dict[str, str]:
    """File name -> text of the hallmarks task; the main hallmarks of the documents of a split go round."""
    fresh, files = _once(), {}
    for place, (split, size) in enumerate(sizes.items()):
        rng = Random(f"hoc-{split}-{seed}")
        text = "labels\tsentence\tindex\n"
        for number in range(size):
            name = f"{FIRST_ID + 10_000 * place + number}"
            main = number % len(documents.HALLMARKS)
            text += documents.document(rng, name, main, rng.randint(4, 8), fresh)
        files[f"{split}.tsv"] = text
    return files


def _sizes(train: int, dev: int, test: int) -> Splits:
    return dict(zip(SPLITS, (train, dev, test), strict=True))


def build(seed: int = SEED) -> dict[str, str]:
    """Path below the output folder -> text of every sample file."""
    rows = _sizes(400, 100, 100)
    bc5cdr = ("train.tsv", "devel.tsv", "test.tsv")
    clefe = ("Training.tsv", "Development.tsv", "Test.tsv")
    abstracts, notes = _sizes(60, 14, 14), _sizes(42, 11, 11)
    tasks = {
        "medsts": _table("medsts", seed, TWO + "score", LEVELS_MEDSTS, pairs.medsts, _sizes(370, 100, 100)),
        "biosses": _table("biosses", seed, TWO + "score", LEVELS_BIOSSES, pairs.biosses, _sizes(160, 40, 40)),
        "bc5cdr_disease": _tagged("bc5cdr", seed, tagging.BC5CDR_DISEASE, bc5cdr, abstracts, (4, 8)),
        "bc5cdr_chem": _tagged("bc5cdr", seed, tagging.BC5CDR_CHEM, bc5cdr, abstracts, (4, 8)),
        "clefe": _tagged("clefe", seed, tagging.CLEFE, clefe, notes, (6, 10)),
        "ddi2013": _table("ddi2013", seed, ONE, DDI, relations.ddi2013, rows),
        "chemprot": _table("chemprot", seed, ONE, CHEMPROT, relations.chemprot, rows),
        "i2b2_2010": _table("i2b2_2010", seed, ONE, I2B2, relations.i2b2_2010, rows),
        "hoc": _hoc(seed, _sizes(80, 20, 20)),
        "mednli": _table("mednli", seed, TWO + "label", NLI, pairs.mednli, _sizes(600, 120, 120)),
    }
    tasks |= _blurb(seed)
    return {f"{task}/{name}": text for task, files in tasks.items() for name, text in files.items()}


def _blurb(seed: int) -> dict[str, dict[str, str]]:
    """Task -> file name -> text of BLURB's."""
    few = _sizes(60, 24, 24)
    answers = dict.fromkeys(blurb.QUESTIONS, 1)
    tasks = {
        "blurb_chemprot": _table("blurb_chemprot", seed, ONE, CHEMPROT, relations.chemprot, _sizes(120, 36, 36)),
        "blurb_ddi": _table("blurb_ddi", seed, ONE, DDI, blurb.ddi, _sizes(120, 36, 36)),
        "gad": _table("gad", seed, ONE, dict.fromkeys(blurb.GAD, 1), blurb.gad, few),
        "blurb_biosses": _table("blurb_biosses", seed, TWO + "score", LEVELS_BIOSSES, pairs.biosses, few),
        "pubmedqa": _table("pubmedqa", seed, TWO + "label", answers, blurb.question, few),
        "bioasq": _table("bioasq", seed, TWO + "label", {"yes": 2, "no": 1}, blurb.question, few),
    }
    for task in blurb.TAGGED:
        fresh, files = _once(), {}
        for split, size in few.items():
            files[f"{split}.tsv"] = blurb.tagged(Random(f"{task}-{split}-{seed}"), task, size, fresh)
        tasks[task] = files
    fresh, tasks["blurb_hoc"] = _once(), {}
    for place, (split, size) in enumerate(_sizes(30, 12, 12).items()):
        rng, text = Random(f"blurb_hoc-{split}-{seed}"), "labels\tsentence\tindex\n"
        for number in range(size):
            text += blurb.abstract(rng, f"{FIRST_ID + 10_000 * place + number}", number % 10, fresh)
        tasks["blurb_hoc"][f"{split}.tsv"] = text
    return tasks


def main() -> None:
    """Write every file below --out, by default where the product reads them."""
    parser = argparse.ArgumentParser(description="Write the made-up sample data of the tasks.")
    parser.add_argument("--out", type=Path, default=SAMPLES, help="folder to write to")
    out = parser.parse_args().out
    for path, text in build().items():
        file = out / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()

"""Which documents are train, dev and test where a corpus does not say: a published list, or drawn by a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from harness.task import UserError
from tasks.corpora.records import Options

__all__ = ["assign", "read_ids"]

PUBLISHED = "as published"


def assign(documents: Sequence[str], shares: Mapping[str, float], options: Options) -> dict[str, str]:
    """Document -> split, for every document.

    A split of `shares` (dev, test) is the user's list where there is one, else that share of the documents: those with
    the lowest SHA-256 of `<seed> <document>`. The rest is train. Raises UserError for a listed id that is no document.
    """
    given = {"dev": options.dev_ids, "test": options.test_ids}
    left = set(documents)
    split_of: dict[str, str] = {}
    for split in shares:
        wanted = given[split]
        if wanted is not None:
            split_of |= dict.fromkeys(_listed(split, wanted, left), split)
            options.rules[split] = f"the {len(wanted)} ids of --{split}_ids"
            left -= split_of.keys()
    for split, share in shares.items():
        if given[split] is None:
            count = min(max(1, round(share * len(documents))), max(0, len(left) - 1))
            drawn = sorted(left, key=lambda document: _rank(options.seed, document))[:count]
            split_of |= dict.fromkeys(drawn, split)
            options.rules[split] = (
                f"{count} of {len(documents)} documents drawn with seed {options.seed}, not published"
            )
            left -= set(drawn)
    return {document: split_of.get(document, "train") for document in documents}


def _rank(seed: int, document: str) -> str:
    return hashlib.sha256(f"{seed} {document}".encode("utf-8", "surrogateescape")).hexdigest()


def _listed(split: str, wanted: Collection[str], documents: Collection[str]) -> list[str]:
    unknown = sorted(set(wanted) - set(documents))
    if unknown:
        shown = ", ".join(ascii(name[:40]) for name in unknown[:3])
        raise UserError(
            f"--{split}_ids: {len(unknown)} of {len(wanted)} ids are no documents of the split's source, or are listed "
            f"twice ({shown}); check that the list belongs to this corpus"
        )
    return list(wanted)


def read_ids(path: Path, flag: str) -> frozenset[str]:
    """The ids of a file, one a line. Raises UserError where it cannot be read or holds none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"--{flag} {path}: cannot be read ({reason}); name a text file with one id a line") from None
    ids = frozenset(line.strip() for line in lines if line.strip())
    if not ids:
        raise UserError(f"--{flag} {path}: no ids in it; name a text file with one id a line")
    return ids

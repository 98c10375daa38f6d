"""Seeded damage to files: what downloads, editors and spreadsheets do to them, or somebody tries on."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

Mutation = Callable[[random.Random, bytes], bytes]
HUGE = 100_000  # characters of a huge field

SCRAPS = (
    b"\0", b"\r", b"\r\n", b"\n", b"\n\n", b"\t", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"\xed\xa0\x80", b"\x0c",
    b"\xe2\x80\xa8", b"\xc2\x85", b'"', b"'", b"<", b"&", b"]]>", b"&a;", b"{", b"|", b"||", b"-1", b"0", b"nan",
    b"1e999", b"999999999999999999999", b"../..", b"###", b"\xef\xbf\xbd", b"B", b"I", b"\\ud800", b"\xd9\xa3", b" ",
)  # fmt: skip


def cut(rng: random.Random, content: bytes) -> bytes:
    """The download broke off."""
    return content[: rng.randrange(len(content) + 1)]


def head_lost(rng: random.Random, content: bytes) -> bytes:
    return content[rng.randrange(len(content) + 1) :]


def piece_lost(rng: random.Random, content: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.randrange(1, 40) :]


def swapped_lines(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def swapped_cells(rng: random.Random, content: bytes) -> bytes:
    parts = re.split(rb"([\t|\"= \n])", content)
    if len(parts) < 3:
        return content
    one, other = (2 * rng.randrange((len(parts) + 1) // 2) for _ in range(2))
    parts[one], parts[other] = parts[other], parts[one]
    return b"".join(parts)


def line_twice(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    return b"\n".join([*lines[: at + 1], *lines[at:]])


def all_twice(_: random.Random, content: bytes) -> bytes:
    return content + content


def line_lost(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    del lines[rng.randrange(len(lines))]
    return b"\n".join(lines)


def utf16(_: random.Random, content: bytes) -> bytes:
    return content.decode("utf-8", "replace").encode("utf-16")


def latin1(_: random.Random, content: bytes) -> bytes:
    return content.decode("utf-8", "replace").replace("a", "\xe4", 3).encode("latin-1", "replace")


def crlf(_: random.Random, content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


def old_mac(_: random.Random, content: bytes) -> bytes:
    return content.replace(b"\n", b"\r")


def marked(_: random.Random, content: bytes) -> bytes:
    """A byte order mark."""
    return b"\xef\xbb\xbf" + content


def scrap(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice(SCRAPS) + content[at + rng.randrange(2) :]


def byte(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]


def huge(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    filler = rng.choice((b"a", b"a ", b"1", b". A", b"(", b"\xce\xb1", b"<a>", b"[", b'"', b"-", b"a."))
    return content[:at] + filler * (HUGE // len(filler)) + content[at:]


def number(rng: random.Random, content: bytes) -> bytes:
    """Another number in place of one: offsets, ids, scores."""
    places = list(re.finditer(rb"[0-9]+", content))
    if not places:
        return content
    place = rng.choice(places)
    other = rng.choice(
        (b"0", b"1", b"-1", b"99999", b"1.5", b"", b"00007", b"9" * 400, str(rng.randrange(60)).encode())
    )
    return content[: place.start()] + other + content[place.end() :]


def nothing_left(_: random.Random, content: bytes) -> bytes:
    return b""


MUTATIONS: Sequence[Mutation] = (
    cut, head_lost, piece_lost, swapped_lines, swapped_cells, line_twice, all_twice, line_lost, utf16, latin1, crlf,
    old_mac, marked, scrap, scrap, byte, huge, number, number, number, nothing_left,
)  # fmt: skip


def damaged(seed: str, content: bytes) -> tuple[str, bytes]:
    """(what was done, the damaged file); the same for the same seed. One to three mutations."""
    rng = random.Random(seed)
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        mutation = rng.choice(MUTATIONS)
        done.append(mutation.__name__)
        content = mutation(rng, content)
    return "+".join(done), content

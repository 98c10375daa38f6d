"""One file from its address: resumed where it broke off, checked before it gets its name."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from harness import files
from harness.task import UserError
from tasks.corpora import archives
from tasks.corpora.addresses import Offer

__all__ = ["LOCK", "download"]

LOCK = "downloads.json"  # beside the files: where each came from, and its SHA-256
TIMEOUT = 60  # seconds without a byte
WAITS = (1, 4, 16)  # seconds before another attempt
MOST_BYTES = 2 * 2**30
CHUNK = 2**16
AGENT = "blue-harness (launch/prepare.py fetch)"
BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: urllib.request.Request, *rest: Any) -> urllib.request.Request | None:
        following = super().redirect_request(req, *rest)
        if following is not None and req.full_url.startswith("https:") and not following.full_url.startswith("https:"):
            raise UserError(f"{req.full_url}: leads to an address without encryption; name a mirror with --address")
        return following


def download(offer: Offer, folder: Path, waits: tuple[float, ...] = WAITS) -> tuple[Path, bool]:
    """(the file, whether it was there already).

    Bytes are gathered in `.<file>.part` and get the file's name when their number is the promised one and their
    SHA-256 the published one, or that of the first download (in downloads.json), and an archive can be opened.
    Raises UserError; what has arrived stays in the .part file, and the same call goes on from there.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = folder / offer.file
        known = offer.sha256 or _locked(folder).get(offer.file, {}).get("sha256")
        if target.exists():
            _check_there(target, known)
            return target, True
        part = folder / f".{offer.file}.part"
        _gather(offer.url, part, waits)
        digest = _checked(part, offer, known)
        _lock(folder, offer, part.stat().st_size, digest)
        os.replace(part, target)
        _validator_file(part).unlink(missing_ok=True)
        return target, False
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror}); name a folder of yours") from None


def _check_there(target: Path, known: str | None) -> None:
    if known is None:
        raise UserError(f"{target}: exists, and was not downloaded here; move it away to download it again")
    if files.sha256(target) != known:
        raise UserError(f"{target}: exists and is another file (SHA-256 differs); move it away to download it again")


def _gather(url: str, part: Path, waits: tuple[float, ...]) -> None:
    """Bytes until there are as many as promised; a broken transfer is resumed a few times."""
    if not url.startswith(("https://", "http://")):
        raise UserError(f"--address {url}: no address that starts with https://")
    wrong = ""
    for wait in (0.0, *waits):
        time.sleep(wait)
        try:
            if _transfer(url, part):
                return
            wrong = f"broke off after {_size(part)} bytes"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is no beginning of what is there now
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise UserError(f"{url}: answers {error.code} ({error.reason}); try a mirror with --address") from None
            wrong = f"answers {error.code}"
        except ValueError as error:
            raise UserError(f"--address {url}: no address ({_one_line(str(error))})") from None
        except BROKEN as error:
            wrong = str(getattr(error, "reason", None) or error or type(error).__name__)
    raise UserError(f"{url}: {_one_line(wrong)}, {1 + len(waits)} times; the same command goes on where it stopped")


def _transfer(url: str, part: Path) -> bool:
    """One request; whether all promised bytes are there now."""
    have = _size(part)
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    validator = _validator_file(part)
    if have and validator.exists():  # the server then sends all of it where the file has changed since
        headers |= {"Range": f"bytes={have}-", "If-Range": validator.read_text(encoding="utf-8")}
    opener = urllib.request.build_opener(_NoDowngrade)
    with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        start = _start(answer.headers.get("Content-Range")) if answer.status == 206 else 0
        if start not in (0, have):
            part.unlink()
            return False
        length = answer.headers.get("Content-Length")
        promised = None if length is None or not length.isdigit() else start + int(length)
        if start == 0:
            _remember(validator, answer.headers)
        size = _copy(answer, part, start, url)
    return size == promised if promised is not None else size > 0


def _copy(answer: Any, part: Path, start: int, url: str) -> int:
    size = start
    with open(part, "ab" if start else "wb", opener=files.private) as file:
        while chunk := answer.read(CHUNK):
            size += len(chunk)
            if size > MOST_BYTES:
                raise UserError(f"{url}: more than {MOST_BYTES // 2**30} GiB; this is not the corpus")
            file.write(chunk)
    return size


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _start(content_range: str | None) -> int:
    match = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)", content_range or "")
    return -1 if match is None else int(match[1])


def _remember(validator: Path, headers: Any) -> None:
    """The mark by which the server knows this version of the file; without one, a broken transfer starts anew."""
    mark = headers.get("ETag") or headers.get("Last-Modified")
    if mark and not mark.startswith("W/"):
        files.write(validator, mark)
    else:
        validator.unlink(missing_ok=True)


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _checked(part: Path, offer: Offer, known: str | None) -> str:
    """The SHA-256 of what has arrived; a wrong file is removed. Raises UserError."""
    digest = files.sha256(part)
    try:
        if known is not None and digest != known:
            source = "the published one" if offer.sha256 else f"that of the first download in {LOCK}"
            raise UserError(f"{offer.url}: another file (SHA-256 {digest}, not {source}); try a mirror with --address")
        if offer.file.endswith(".zip"):
            archives.vet_zip(part)
        elif part.read_bytes()[:64].lstrip().lower().startswith((b"<!doctype", b"<html")):
            raise UserError(f"{offer.url}: a web page, not the file; try a mirror with --address")
    except UserError:
        part.unlink()
        _validator_file(part).unlink(missing_ok=True)
        raise
    return digest


def _locked(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / LOCK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        content = None
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise UserError(f"{folder / LOCK}: not a list of downloads; move it away")
    return content


def _lock(folder: Path, offer: Offer, size: int, digest: str) -> None:
    entry = {
        "address": offer.url,
        "bytes": size,
        "sha256": digest,
        "checked_against": "the published SHA-256" if offer.sha256 else "nothing: first download, no SHA-256 published",
        "licence": offer.licence,
    }
    before = _locked(folder).get(offer.file)
    if before is None or before.get("sha256") != digest:
        files.write(folder / LOCK, json.dumps(_locked(folder) | {offer.file: entry}, indent=2) + "\n")


def _one_line(text: str) -> str:
    return " ".join(text.split())

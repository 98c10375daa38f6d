"""One file from its address: resumed where it broke off, checked before it gets its name."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import files
from harness.task import UserError
from harness.validation import unknown
from tasks import readers
from tasks.corpora import archives
from tasks.published import CORPORA, Distribution

__all__ = ["LOCK", "distribution", "download"]

LOCK = "downloads.json"  # beside the files: where each came from, and its SHA-256
TIMEOUT = 60  # seconds without a byte
WAITS = (1, 4, 16)  # seconds before another attempt
MOST_BYTES = 2 * 2**30
CHUNK = 2**16
AGENT = "blue-harness (launch/prepare.py fetch)"
BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


def distribution(name: str) -> Distribution:
    """The file of the corpus of that name. Raises UserError that says where to apply for one that is not open."""
    plain = name.strip().lower().replace("-", "_")
    if plain not in CORPORA:
        raise unknown("corpus", name, CORPORA)
    found = CORPORA[plain]
    if found.download is None:
        where = f"apply at {found.apply}, download it there, and prepare it"
        raise UserError(f"{plain} is not open to everyone; {where}")
    return found.download


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: urllib.request.Request, *rest: Any) -> urllib.request.Request | None:
        following = super().redirect_request(req, *rest)
        if following is not None and req.full_url.startswith("https:") and not following.full_url.startswith("https:"):
            raise UserError(f"{req.full_url}: leads to an address without encryption; name a mirror with --address")
        return following


def download(wanted: Distribution, folder: Path, waits: Sequence[float] = WAITS) -> tuple[Path, bool]:
    """(the file, whether it was there already).

    Bytes are gathered in `.<file>.part` and get the file's name when their number is the promised one and their
    SHA-256 the published one, or that of the first download (in downloads.json), and an archive can be opened.
    Raises UserError; what has arrived stays in the .part file, and the same call goes on from there.
    """
    target, part = folder / wanted.file, folder / f".{wanted.file}.part"
    version = part.with_name(part.name + ".version")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        recorded = _locked(folder).get(wanted.file, {}).get("sha256")
        known = wanted.sha256 or recorded
        if target.exists():
            if known is None or files.sha256(target) != known:
                wrong = "was not downloaded here" if known is None else "is another file (SHA-256 differs)"
                raise UserError(f"{target}: exists, and {wrong}; move it away to download it again")
            return target, True
        _gather(wanted.url, part, version, waits)
        digest = files.sha256(part)
        try:
            _check(part, wanted, digest, known)
        except UserError:
            part.unlink()
            version.unlink(missing_ok=True)
            raise
        if recorded != digest:
            against = "the published SHA-256" if wanted.sha256 else "nothing: first download, no SHA-256 published"
            entry = {"address": wanted.url, "bytes": part.stat().st_size, "sha256": digest}
            entry |= {"checked_against": against, "licence": wanted.licence}
            files.write(folder / LOCK, json.dumps(_locked(folder) | {wanted.file: entry}, indent=2) + "\n")
        os.replace(part, target)
        version.unlink(missing_ok=True)
        return target, False
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror}); name a folder of yours") from None


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


def _check(part: Path, wanted: Distribution, digest: str, known: str | None) -> None:
    """Raises UserError where what has arrived is not the file."""
    if known is not None and digest != known:
        source = "the published one" if wanted.sha256 else f"that of the first download in {LOCK}"
        raise UserError(f"{wanted.url}: another file (SHA-256 {digest}, not {source}); try a mirror with --address")
    if archives.is_archive(Path(wanted.file)):
        archives.vet(part, wanted.file)
    elif (kind := readers.kind_of(part.read_bytes())) is not None:
        raise UserError(f"{wanted.url}: {kind[0]}; try a mirror with --address")


def _gather(url: str, part: Path, version: Path, waits: Sequence[float]) -> None:
    """Bytes until there are as many as promised; a broken transfer is resumed a few times."""
    if not url.startswith(("https://", "http://")):
        raise UserError(f"--address {url}: no address that starts with https://")
    wrong = ""
    for wait in (0.0, *waits):
        time.sleep(wait)
        try:
            if _transfer(url, part, version):
                return
            wrong = f"broke off after {part.stat().st_size if part.exists() else 0} bytes"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is no beginning of what is there now
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise UserError(f"{url}: answers {error.code} ({error.reason}); try a mirror with --address") from None
            wrong = f"answers {error.code}"
        except ValueError as error:
            raise UserError(f"--address {url}: no address ({' '.join(str(error).split())})") from None
        except BROKEN as error:
            wrong = " ".join(str(getattr(error, "reason", None) or error or type(error).__name__).split())
    raise UserError(f"{url}: {wrong}, {1 + len(waits)} times; the same command goes on where it stopped")


def _transfer(url: str, part: Path, version: Path) -> bool:
    """One request; whether all promised bytes are there now.

    `version` keeps the mark by which the server knows this version of the file: where the file has changed since, the
    server sends all of it. Without a mark, a broken transfer starts anew.
    """
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if have and version.exists():
        headers |= {"Range": f"bytes={have}-", "If-Range": version.read_text(encoding="utf-8")}
    opener = urllib.request.build_opener(_NoDowngrade)
    with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        size = 0
        if answer.status == 206:
            said = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)", answer.headers.get("Content-Range") or "")
            if said is None or int(said[1]) not in (0, have):
                part.unlink()
                return False
            size = int(said[1])
        length = answer.headers.get("Content-Length") or ""
        promised = size + int(length) if length.isdigit() else None
        if size == 0:
            mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "W/"
            if mark.startswith("W/"):  # a weak one holds for files that are not the same to the byte
                version.unlink(missing_ok=True)
            else:
                files.write(version, mark)
        with open(part, "ab" if size else "wb", opener=files.private) as file:
            while chunk := answer.read(CHUNK):
                size += len(chunk)
                if size > MOST_BYTES:
                    raise UserError(f"{url}: more than {MOST_BYTES // 2**30} GiB; this is not the corpus")
                file.write(chunk)
    return size == promised if promised is not None else size > 0

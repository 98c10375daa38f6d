"""`launch/prepare.py fetch` against a server that breaks off, lies and serves wrong files."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.task import UserError
from launch import prepare
from tasks.corpora.download import LOCK, download
from tasks.published import CORPORA, Distribution

NOW = (0.0, 0.0)  # two more attempts, without waiting


def archive(seed: int = 0) -> bytes:
    """A zip file of some 100 kB that does not compress."""
    content = b"".join(hashlib.sha256(b"%d %d" % (seed, n)).digest() for n in range(3000))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(zipfile.ZipInfo("text/1.txt"), content)
    return buffer.getvalue()


class Server:
    """Serves `content`; `behave` may do something else for the n-th request (counted from 1)."""

    def __init__(self) -> None:
        self.content = archive()
        self.requests: list[dict[str, str]] = []
        self.behave: Callable[[BaseHTTPRequestHandler, int], bool] = lambda handler, number: False
        self.tag = '"one"'
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append({name.lower(): value for name, value in self.headers.items()})
                if not outer.behave(self, len(outer.requests)):
                    outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/corpus.zip"

    def answer(
        self, handler: BaseHTTPRequestHandler, stop: int | None = None, more: int = 0, ranges: bool = True
    ) -> None:
        """The file, or the rest of it: at most `stop` bytes, with `more` added to the promised length."""
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = 0
        if asked and ranges and handler.headers.get("If-Range") == self.tag:
            start = int(asked[1])
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            handler.send_response(200)
        handler.send_header("ETag", self.tag)
        handler.send_header("Content-Length", str(len(self.content) - start + more))
        handler.end_headers()
        handler.wfile.write(self.content[start : None if stop is None else start + stop])
        handler.wfile.flush()
        handler.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.http.shutdown()
    thread.join()
    found.http.server_close()


def offer(server: Server, **changes: str) -> Distribution:
    return Distribution(**({"url": server.url, "file": "corpus.zip", "licence": "open"} | changes))  # type: ignore[arg-type]


def complaint(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_download_and_its_record(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    path, was_there = download(offer(server), folder, NOW)
    assert path.read_bytes() == server.content and not was_there
    (entry,) = json.loads((folder / LOCK).read_text()).values()
    assert entry["sha256"] == hashlib.sha256(server.content).hexdigest()
    assert "first download" in entry["checked_against"]
    assert {path.name for path in folder.iterdir()} == {"corpus.zip", LOCK}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert download(offer(server), folder, NOW) == (path, True)
    assert len(server.requests) == 1


def test_it_goes_on_where_it_broke_off(server: Server, tmp_path: Path) -> None:
    def breaks(handler: BaseHTTPRequestHandler, number: int) -> bool:
        if number < 3:
            server.answer(handler, stop=30_000)
        return number < 3

    server.behave = breaks
    path, _ = download(offer(server), tmp_path, NOW)
    assert path.read_bytes() == server.content
    assert [request.get("range") for request in server.requests] == [None, "bytes=30000-", "bytes=60000-"]


def test_the_next_command_goes_on_too(server: Server, tmp_path: Path) -> None:
    def breaks(handler: BaseHTTPRequestHandler, number: int) -> bool:
        if number < 4:
            server.answer(handler, stop=1000)
        return number < 4

    server.behave = breaks
    message = complaint(lambda: download(offer(server), tmp_path, NOW))
    assert "broke off after 3000 bytes, 3 times; the same command goes on" in message
    assert not (tmp_path / "corpus.zip").exists()
    assert download(offer(server), tmp_path, NOW)[0].read_bytes() == server.content
    assert server.requests[-1]["range"] == "bytes=3000-"


def test_another_version_in_between_is_taken_whole(server: Server, tmp_path: Path) -> None:
    def changes(handler: BaseHTTPRequestHandler, number: int) -> bool:
        if number == 1:
            server.answer(handler, stop=50_000)
            server.content, server.tag = archive(1), '"two"'
        return number == 1

    server.behave = changes
    assert download(offer(server), tmp_path, NOW)[0].read_bytes() == archive(1)


def test_a_server_without_ranges(server: Server, tmp_path: Path) -> None:
    def plain(handler: BaseHTTPRequestHandler, number: int) -> bool:
        server.answer(handler, stop=50_000 if number == 1 else None, ranges=False)
        return True

    server.behave = plain
    assert download(offer(server), tmp_path, NOW)[0].read_bytes() == server.content


def test_more_is_promised_than_comes(server: Server, tmp_path: Path) -> None:
    server.behave = lambda handler, number: server.answer(handler, more=10) is None
    assert "broke off" in complaint(lambda: download(offer(server), tmp_path, NOW))
    assert not (tmp_path / "corpus.zip").exists()


def test_less_is_promised_than_the_file_has(server: Server, tmp_path: Path) -> None:
    server.behave = lambda handler, number: server.answer(handler, more=-50) is None
    assert "not a zip archive, or a broken one" in complaint(lambda: download(offer(server), tmp_path, NOW))
    assert not list(tmp_path.glob("*.zip")) and not list(tmp_path.glob(".*"))


def test_a_wrong_answer_to_a_range(server: Server, tmp_path: Path) -> None:
    def shifted(handler: BaseHTTPRequestHandler, number: int) -> bool:
        if number == 1:
            server.answer(handler, stop=5000)
        elif number == 2:
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes 10-{len(server.content) - 1}/{len(server.content)}")
            handler.send_header("Content-Length", str(len(server.content) - 10))
            handler.end_headers()
            handler.wfile.write(server.content[10:])
        return number < 3

    server.behave = shifted
    assert download(offer(server), tmp_path, NOW)[0].read_bytes() == server.content


@pytest.mark.parametrize("content", [b"<html>Sorry</html>", b"", b"PK\x03\x04 and nothing", archive()[:-1]])
def test_a_wrong_file(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content = content
    complaint(lambda: download(offer(server), tmp_path, NOW))
    assert not (tmp_path / "corpus.zip").exists() and not (tmp_path / LOCK).exists()


def test_a_web_page_instead_of_a_table(server: Server, tmp_path: Path) -> None:
    server.content = b"\n<!DOCTYPE html><p>moved"
    assert "a web page" in complaint(lambda: download(offer(server, file="pairs.tsv"), tmp_path, NOW))


def test_another_file_than_published_or_downloaded_before(server: Server, tmp_path: Path) -> None:
    published = offer(server, sha256="0" * 64)
    assert "not the published one" in complaint(lambda: download(published, tmp_path / "a", NOW))
    download(offer(server), tmp_path / "b", NOW)[0].unlink()
    server.content = archive(1)
    assert f"first download in {LOCK}" in complaint(lambda: download(offer(server), tmp_path / "b", NOW))
    (tmp_path / "b" / "corpus.zip").write_bytes(b"mine")
    assert "is another file" in complaint(lambda: download(offer(server), tmp_path / "b", NOW))
    assert (tmp_path / "b" / "corpus.zip").read_bytes() == b"mine"


@pytest.mark.parametrize(("code", "part", "requests"), [(404, "answers 404", 1), (503, "answers 503, 3 times", 3)])
def test_refusals(server: Server, tmp_path: Path, code: int, part: str, requests: int) -> None:
    server.behave = lambda handler, number: handler.send_error(code) is None
    assert part in complaint(lambda: download(offer(server), tmp_path, NOW))
    assert len(server.requests) == requests


def test_nobody_listens(server: Server, tmp_path: Path) -> None:
    nowhere = offer(server, url="http://127.0.0.1:9/corpus.zip")
    assert "refused" in complaint(lambda: download(nowhere, tmp_path, NOW)).lower()


def test_an_archive_that_is_no_zip(server: Server, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        file.addfile(tarfile.TarInfo("documents/1.tokens"))
    server.content = buffer.getvalue()
    wanted = replace(offer(server), file="corpus.tar.gz")
    assert download(wanted, tmp_path, NOW) == (tmp_path / "corpus.tar.gz", False)
    server.content = b"<html><body>Sorry</body></html>"
    assert "broken (ReadError)" in complaint(lambda: download(wanted, tmp_path / "b", NOW))
    assert not list((tmp_path / "b").glob("*corpus*"))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "corpus.zip", "http://[x/", "https://"])
def test_what_is_no_address(tmp_path: Path, url: str) -> None:
    complaint(lambda: download(Distribution(url, "corpus.zip", "open"), tmp_path, ()))
    assert not (tmp_path / "corpus.zip").exists()


class TestCommand:
    def test_terms_come_first(self, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = ["fetch", "hoc", "--out", str(tmp_path / "raw"), "--address", server.url]
        assert prepare.main(line) == 2
        shown = capsys.readouterr()
        assert "General Public License" in shown.out and "--accept-license" in shown.err
        assert not server.requests and not (tmp_path / "raw").exists()
        assert prepare.main([*line, "--accept-license"]) == 0
        assert "no checksum is published" in capsys.readouterr().out
        assert (tmp_path / "raw" / CORPORA["hoc"].download.file).read_bytes() == server.content

    @pytest.mark.parametrize("corpus", [name for name, corpus in CORPORA.items() if corpus.apply])
    def test_where_to_apply(self, tmp_path: Path, corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert prepare.main(["fetch", corpus, "--out", str(tmp_path), "--accept-license"]) == 2
        assert "apply at https://" in capsys.readouterr().err

    def test_unknown_name(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert prepare.main(["fetch", "chemport", "--out", str(tmp_path)]) == 2
        assert "did you mean 'chemprot'?" in capsys.readouterr().err

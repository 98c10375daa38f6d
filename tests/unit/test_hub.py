"""A model that is not here: what is said, and how soon, of a hub that answers, refuses, hangs or is not there."""

from __future__ import annotations

import logging
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch.multiprocessing
from huggingface_hub import constants
from running import assert_user_error, start_processes

from harness import model, pretrained
from harness.config import RunConfig
from harness.tokenizer import load_tokenizer

NAME = "some-lab/some-encoder"
ANSWERS = {  # what the real hub answers to a HEAD of config.json
    NAME: (200, {"ETag": '"1"', "X-Repo-Commit": "a" * 40, "Content-Length": "0"}),
    "some-lab/tokenizer-only": (404, {"X-Error-Code": "EntryNotFound"}),
    "some-lab/misspelt": (401, {"X-Error-Code": "RepoNotFound"}),
    "some-lab/mirror-404": (404, {}),
    "some-lab/gated": (403, {"X-Error-Code": "GatedRepo"}),
    "some-lab/old-token": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "some-lab/no-revision": (404, {"X-Error-Code": "RevisionNotFound"}),
    "some-lab/busy": (503, {}),
}
asked: list[str] = []


class Answer(BaseHTTPRequestHandler):
    """A stand-in of the hub."""

    def do_HEAD(self) -> None:
        asked.append(self.path)
        status, headers = ANSWERS[self.path.strip("/").split("/resolve/")[0]]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, online, whatever this machine's variables say."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as own:
        threading.Thread(target=own.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        at(monkeypatch, f"http://127.0.0.1:{own.server_port}")
        yield own
        own.shutdown()


def at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """As $HF_ENDPOINT, which is read when the library is loaded."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def cached(tmp_path: Path, name: str = NAME) -> None:
    """A file of the model, as a download leaves it in the cache."""
    folder = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    (folder / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("a" * 40) / "config.json").write_text("{}")


def check(name: str, **options: str) -> None:
    pretrained.check_reachable(pretrained.Source("--model_name_or_path", name, options))


class TestHubThatAnswers:
    @pytest.mark.parametrize("name", [NAME, "some-lab/tokenizer-only"])
    def test_model_is_there(self, name: str, server: ThreadingHTTPServer) -> None:
        check(name)
        assert not constants.HF_HUB_OFFLINE

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("some-lab/misspelt", "no such folder here, and no such model on the hub; check the spelling"),
            (
                "some-lab/mirror-404",
                "(it answers 404: no such model there, or a proxy answers for it), and it is not in",
            ),
            ("some-lab/gated", "a gated model: ask for access on http://127.0.0.1"),
            ("some-lab/old-token", "the hub refuses (401); is the token valid (`hf auth login`)"),
            ("some-lab/no-revision", "no revision v9"),
            ("some-lab/busy", "(it answers 503), and it is not in the cache"),
        ],
    )
    def test_model_is_not_to_be_had(self, name: str, said: str, server: ThreadingHTTPServer) -> None:
        assert_user_error(lambda: check(name, revision="v9"), f"--model_name_or_path {name}: ", said)


def test_hub_in_trouble_is_asked_once_and_the_cache_is_loaded(
    server: ThreadingHTTPServer, tiny_bert: Path, tmp_path: Path
) -> None:
    cached(tmp_path, "some-lab/busy")
    shutil.copytree(tiny_bert, tmp_path / "cache/models--some-lab--busy/snapshots" / ("a" * 40), dirs_exist_ok=True)
    config = RunConfig(task="mednli", model_name_or_path="some-lab/busy", cache_dir=str(tmp_path / "cache"))
    asked.clear()
    assert load_tokenizer(config).is_fast
    assert model.build(config, 3, per_word=False).encoder.config.hidden_size == 32
    assert len(asked) == 1


class TestHubOutOfReach:
    @pytest.fixture(params=["refused", "hangs", "no address"])
    def reason(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        """What happens to a request; the time for it is cut short."""
        monkeypatch.setattr(pretrained, "ANSWER_SECONDS", 0.3)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            if request.param == "hangs":  # the connection is made, and nobody ever answers
                listener.listen()
            host = "no-such-host.invalid" if request.param == "no address" else "127.0.0.1"
            at(monkeypatch, f"http://{host}:{port}")
            yield request.param

    def test_is_said_soon_and_in_one_line(self, reason: str, tmp_path: Path) -> None:
        started = time.monotonic()
        assert_user_error(
            lambda: check(NAME),
            f"--model_name_or_path {NAME}: cannot reach the hub http://",
            f"it is not in the cache {tmp_path / 'cache'}; download it",
        )
        assert time.monotonic() - started < 5

    def test_cache_is_used(self, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        cached(tmp_path)
        with caplog.at_level(logging.WARNING, "harness"):
            check(NAME)
        assert "cannot reach the hub" in caplog.text and "the cache has it" in caplog.text
        assert constants.HF_HUB_OFFLINE  # no more requests, each of which would wait
        assert_user_error(lambda: check("some-lab/other"), "the hub is out of reach, and it is not in")


def on_a_rank(rank: int, place: str, endpoint: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=2)
    constants.HUGGINGFACE_CO_URL_TEMPLATE = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = place, False
    try:
        check("some-lab/misspelt")
    except Exception as error:
        Path(place, f"rank-{rank}").write_text(f"{type(error).__name__}: {error}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_rank_0_asks_for_all(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    asked.clear()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    start_processes(on_a_rank, (str(tmp_path), endpoint), 2)
    said = {(tmp_path / f"rank-{rank}").read_text() for rank in range(2)}
    assert (
        len(asked) == 1
        and len(said) == 1
        and said.pop().startswith("UserError: --model_name_or_path some-lab/misspelt")
    )


def test_the_limits_add_up_to_less_than_ten_seconds() -> None:
    assert pretrained.ANSWER_SECONDS + 0.5 < 4  # and as much for all that is loaded before


class TestOffline:
    @pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
    def test_no_network_is_tried(self, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(variable, "1")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: pytest.fail("a request"))
        assert_user_error(lambda: check(NAME), f"{variable} is set, so that no network is tried")

    def test_what_the_cache_has_is_fine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cached(tmp_path)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        check(NAME)
        assert_user_error(lambda: check(NAME, cache_dir=str(tmp_path / "other")), f"{tmp_path}/other")


class TestFolder:
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("/no/such/folder", "no such folder"),
            ("./encoder", "no such folder"),
            ("../a/b", "no such folder"),
            ("models/a/encoder", "no such folder"),
            ("there/encoder", "no such folder, and cannot reach the hub"),  # either was meant
            ("there", "is empty"),
            ("there/", "is empty"),
            ("weights.bin", "is a file, not a folder"),
            ("a name with blanks", "no such folder, and the hub has no such names"),
        ],
    )
    @pytest.mark.parametrize("flag", ["model_name_or_path", "tokenizer_name", "config_name"])
    def test_path_is_not_asked_of_the_hub(
        self, flag: str, name: str, said: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        at(monkeypatch, "http://127.0.0.1:9")
        (tmp_path / "there").mkdir()
        (tmp_path / "weights.bin").write_bytes(b"x")
        if (flag, name) == ("config_name", "weights.bin"):
            pytest.skip("a config may be a file")
        config = RunConfig(task="mednli", **{"model_name_or_path": str(tiny_bert), flag: name})
        assert_user_error(lambda: load_tokenizer(config), f"--{flag} {name}: {said}")

    def test_folder_of_the_same_name_as_an_owner_hides_no_model(
        self, tmp_path: Path, server: ThreadingHTTPServer
    ) -> None:
        (tmp_path / "some-lab").mkdir()
        check(NAME)
        assert not constants.HF_HUB_OFFLINE

    def test_that_is_there_is_fine(self, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        at(monkeypatch, "http://127.0.0.1:9")
        check(str(tiny_bert))

"""launch/report.py --wandb: what is sent, to a server of our own, and what is said without one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import made_up

from harness.errors import UserError
from launch import report
from launch.reporting import workspace


class Server(BaseHTTPRequestHandler):
    """Takes every GraphQL request for one that saves a view."""

    received: list[dict[str, Any]]
    status = 200

    def do_POST(self) -> None:
        self.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        view = {"id": "aWQ6MQ==", "type": "project-view", "name": "nw-abc-v", "displayName": "BLUE", "spec": "{}"}
        body = json.dumps({"data": {"upsertView": {"view": view, "inserted": True}, "viewer": {"id": "x"}}}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    import wandb

    kind = type("Own", (Server,), {"received": []})
    own = HTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=own.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{own.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    wandb.teardown()
    yield kind
    own.shutdown()
    wandb.teardown()


def test_a_workspace_is_saved(server: type[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up(tmp_path / "run", "mednli")
    assert report.main([str(tmp_path), "--wandb", "someone/blue"]) == 0
    assert "workspace saved: " in capsys.readouterr().out
    sent = next(request["variables"] for request in server.received if "upsertView" in request["query"])
    assert (sent["entityName"], sent["projectName"], sent["displayName"]) == ("someone", "blue", "BLUE")
    spec = json.loads(sent["spec"])
    found = spec["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in found] == list(workspace.SECTIONS)
    assert found[0]["panels"][0]["config"]["metrics"] == ["dev/score"]
    assert spec["section"]["runSets"][0]["grouping"]


def test_a_server_that_refuses(server: type[Server]) -> None:
    server.status = 403
    with pytest.raises(UserError, match=r"--wandb someone/blue: not saved .*check the names"):
        workspace.save("someone/blue")


def test_offline_it_says_what_it_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    made_up(tmp_path / "run", "mednli")
    assert report.main([str(tmp_path), "--wandb", "someone/blue"]) == 0
    out = capsys.readouterr().out
    assert "wandb is offline (WANDB_MODE is offline)" in out and "Dev score by epoch" in out


@pytest.mark.parametrize("target", ["blue", "a/b/c", "/blue", "someone/"])
def test_a_target_that_is_none(target: str) -> None:
    with pytest.raises(UserError, match=r"must be ENTITY/PROJECT"):
        workspace.save(target)

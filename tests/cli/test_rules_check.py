"""`streamer rules check`: errors with file and line before anything starts, and test messages to real receivers."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from streamer.cli.main import main
from tests.support.hooks import Endpoint
from tests.support.ntfy import NtfyServer

CONFIG = """\
agent: home
streams:
  gate: {{source: synthetic, tasks: [{{task: object_detection, name: people}}]}}
rules:
  ladder: {{when: {{label: person}}, notify: [phone]}}
notify:
  phone:
    kind: apprise
    url: {url}
  second:
    kind: apprise
    url: {second}
"""


def run(path: Path, *words: str) -> int:
    sys.argv = ["streamer", "rules", "check", "--config", str(path), *words]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(autouse=True)
def arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])


def written(folder: Path, url: str, second: str) -> Path:
    path = folder / "home.yaml"
    path.write_text(CONFIG.format(url=url, second=second))
    return path


def test_test_message_reaches_each_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with NtfyServer() as ntfy, Endpoint() as endpoint:
        path = written(tmp_path, ntfy.url, endpoint.url.replace("http", "json"))
        assert run(path) == 0
        assert ntfy.published == []
        assert run(path, "--send-test") == 0
    assert [one.title for one in ntfy.published] == ["Test of home"]
    assert [one["title"] for one in endpoint.accepted] == ["Test of home"]
    assert capsys.readouterr().out.splitlines()[-2:] == ["phone: ok", "second: ok"]


def test_target_that_fails_is_named_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with NtfyServer() as ntfy:
        path = written(tmp_path, f"json://me:Pa55word-long@127.0.0.1:{port}", ntfy.url)
        assert run(path, "--send-test") == 1
    out = capsys.readouterr().out
    assert "phone: failed: json: connection refused: nothing listens there\nsecond: ok\n" in out
    assert "Pa55word-long" not in out


def test_wrong_urls_are_errors_with_their_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "nfty://T0ken9876543210", "tgram://T0ken9876543210")
    assert run(path) == 2
    errors = capsys.readouterr().err
    assert f"{path}:9: notify.phone.url: nfty://*** has a scheme that Apprise does not know" in errors
    assert f"{path}:12: notify.second.url: tgram://*** is not complete or not valid" in errors
    assert "T0ken9876543210" not in errors

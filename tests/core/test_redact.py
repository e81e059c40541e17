"""No text leaves the program with a credential in it: logs, events, RPC answers, config errors, command line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.bus.rpc import RpcClient, RpcServer
from streamer.capture.sources import Rtsp
from streamer.cli import main as command_line
from streamer.cli.check import _keys, probe_all
from streamer.cli.doctor import examine
from streamer.cli.finding import Finding
from streamer.config.model import Config, from_mapping
from streamer.core import logs
from streamer.core.errors import ConfigError, SourceLost
from streamer.core.redact import Url, redact, remember
from streamer.events.build import result_event, status_event
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.ledger.dead_letters import list_dead_letters
from streamer.events.schema import encode
from tests.support.agents import until
from tests.support.sample_events import result

SECRET = "gar4den/gate"
URL = "rtsp://bob:gar4den%2Fgate@127.0.0.1/cam"
TEXT = f"cannot open {URL}: token {SECRET} is wrong"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rtsp://bob:other@host/a", "rtsp://***@host/a"),
        (f"token {SECRET}", "token ***"),
        ("token gar4den%2Fgate", "token ***"),
        ("at noon", "at noon"),
    ],
)
def test_secrets_and_url_users_are_replaced(text: str, expected: str) -> None:
    remember(SECRET)
    remember("no")  # too short to be a secret: would hide parts of words
    assert redact(text) == expected


def test_url_shows_credentials_only_on_reveal() -> None:
    url = Url(URL)
    assert str(url) == "rtsp://***@127.0.0.1/cam"
    assert repr(url) == "Url('rtsp://***@127.0.0.1/cam')"
    assert url.reveal() == URL


def _config(source: str) -> Config:
    return from_mapping({"agent": "test", "streams": {"cam": {"source": source, "tasks": [{"task": "caption"}]}}})


Way = Callable[[Path, pytest.MonkeyPatch], object]


def _log(form: logs.Format) -> Way:
    def write(folder: Path, patch: pytest.MonkeyPatch) -> None:
        logger = logging.getLogger("test")
        root = logging.getLogger()
        patch.setattr(root, "handlers", [])
        patch.setattr(root, "level", root.level)
        logs.setup("test", form=form)
        logger.warning("camera: %s", TEXT)
        try:
            raise ValueError(TEXT)
        except ValueError:
            logger.exception("crashed")

    return write


def _status_event(folder: Path, patch: pytest.MonkeyPatch) -> bytes:
    return encode(status_event("home", "gate", "down", TEXT))


def _result_event(folder: Path, patch: pytest.MonkeyPatch) -> bytes:
    return encode(result_event("home", result(outcome="error", error=TEXT), "tiny"))


def _config_error(folder: Path, patch: pytest.MonkeyPatch) -> str:
    errors = []
    for source in ("rtsp://bob:gar4den%2Fgate@:554", "rtmp://bob:gar4den%2Fgate@host/a"):
        with pytest.raises(ConfigError) as caught:
            _config(source)
        errors.append(str(caught.value))
    return "\n".join(errors)


def _rpc_error(folder: Path, patch: pytest.MonkeyPatch) -> str:
    server, client = RpcServer(folder / "rpc.sock"), RpcClient(folder / "rpc.sock")
    try:
        client.send(op="add")
        server.reply_error(until(server.receive, 5, "request")[0], TEXT)
        return json.dumps(until(client.receive, 5, "response"))
    finally:
        client.close()
        server.close()


def _dead_letter(folder: Path, patch: pytest.MonkeyPatch) -> object:
    with Ledger(folder / LEDGER_FILE) as ledger:
        cursor = ledger.cursors(["hook"])["hook"]
        ledger.commit([status_event("home", "gate", "up")])
        cursor.dead_letter(1, TEXT)
        cursor.close()
    return list_dead_letters(folder / LEDGER_FILE)


def _command(folder: Path, patch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ConfigError(TEXT)

    patch.setattr(command_line, "app", fail)
    with pytest.raises(SystemExit):
        command_line.main()


def _check_settings(folder: Path, patch: pytest.MonkeyPatch) -> str:
    return _keys(Rtsp.model_validate({"url": URL}))


def _probe(folder: Path, patch: pytest.MonkeyPatch) -> None:
    def fail(self: Rtsp, read_limit: float = 15.0) -> None:
        raise SourceLost(TEXT)

    patch.setattr(Rtsp, "open", fail)
    probe_all(_config(URL))


def _doctor(folder: Path, patch: pytest.MonkeyPatch) -> None:
    monkey = sys.modules[examine.__module__]
    patch.setattr(monkey, "_findings", lambda *_: [Finding("fail", TEXT, TEXT)])
    examine(_config(URL), folder / "config.yaml")


WAYS: dict[str, Way] = {
    "text log": _log("text"),
    "JSON log": _log("json"),
    "status event": _status_event,
    "result event": _result_event,
    "config error": _config_error,
    "RPC error": _rpc_error,
    "dead letter": _dead_letter,
    "command error": _command,
    "check": _check_settings,
    "probe": _probe,
    "doctor": _doctor,
}


@pytest.mark.parametrize("way", WAYS)
def test_no_way_out_shows_a_secret(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    remember(SECRET)
    returned = WAYS[way](tmp_path, monkeypatch)
    shown = "".join((str(returned), *capfd.readouterr()))
    assert "***" in shown
    assert "gar4den" not in shown
    assert "bob" not in shown


@pytest.mark.parametrize("userinfo", ["bob%0d%0aX:word", "bob:wo%00rd", "bob:word%7F"])
def test_control_character_in_password_is_refused(userinfo: str) -> None:
    with pytest.raises(ValueError, match="holds a control character"):
        Url(f"http://{userinfo}@127.0.0.1/cam")

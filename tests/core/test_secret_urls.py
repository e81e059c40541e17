"""No URL, valid or not, shows its secrets: as text, as config error, or on a way out of the program."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.bus.rpc import RpcClient, RpcServer
from streamer.capture.sources import parse_source
from streamer.cli import main
from streamer.config.model import from_mapping
from streamer.core import logs, redact
from streamer.core.errors import ConfigError
from streamer.core.redact import Url, remember_url
from streamer.events.build import status_event
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.ledger.dead_letters import list_dead_letters
from streamer.events.schema import encode
from tests.support.agents import until
from tests.support.secret_urls import SecretUrl, all_urls, parsable

URLS = list(all_urls())
VALID = [url for url in URLS if parsable(url)]
KINDS = ("webhook", "mqtt")
SENTENCES = ("cannot open {}: timed out", "`{}`", "({})", '{{"url": "{}"}}', "source={}", "{}", "a {}, then b@c")


def shown(text: str, urls: list[SecretUrl]) -> list[str]:
    """Return the URLs of which a secret is in `text`."""
    return [url.text for url in urls if any(secret in text for secret in url.secrets)]


def test_corpus_is_large() -> None:
    assert len(URLS) > 400
    assert len(VALID) > 100
    assert len({url.text for url in URLS}) == len(URLS)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_unknown_url_in_a_text_is_hidden(sentence: str) -> None:
    assert not [url.text for url in URLS if shown(redact.redact(sentence.format(url.text)), [url])]


def test_remembered_url_is_hidden_in_every_form() -> None:
    for url in URLS:
        if re.search("user(name)?=Hid", url.text):
            continue  # the name of a user is hidden in addresses only
        remember_url(url.text)
        passwords = url.secrets[-2:]
        password = re.search(f"{passwords[0]}.*{passwords[1]}(==)?", url.text)[0]  # type: ignore[index]
        for form in (password, json.dumps(password), repr(password), Url.__str__(_unchecked(url.text))):
            assert not shown(redact.redact(f"refused {form} at once"), [SecretUrl(url.text, passwords)])


def _unchecked(text: str) -> Url:
    url = Url("http://host/")
    object.__setattr__(url, "_text", text)
    return url


def test_url_error_shows_no_secret() -> None:
    assert not [url.text for url in URLS for parse in (Url, parse_source) if shown(_error_of(parse, url.text), [url])]


def _error_of(parse: Callable[[str], object], text: str) -> str:
    try:
        parse(text)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("character", "/?#[]℀ ")
def test_error_names_the_character_to_encode(character: str) -> None:
    with pytest.raises(ValueError, match="must be written with %") as caught:
        Url(f"rtsp://user:12{character}secret@host/stream")
    for encoded in {"/": "%2F", "?": "%3F", "#": "%23", "[": "%5B", "]": "%5D", "℀": "%E2%84%80", " ": "%20"}[
        character
    ]:
        assert encoded in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["admin:secretpw@192.168.1.10/stream1", "192.168.1.10:554/x", "10.0.0.1/a", "cam:554/"]
)
def test_missing_scheme_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="the scheme is missing: write rtsp://") as caught:
        parse_source(text)
    assert "secretpw" not in str(caught.value)


@pytest.mark.parametrize("text", ["clip@2x.mp4", "/data/a:b@c.mp4", "clips/12:30.mp4", "1.mp4", "cam.1.2.3.4.mp4"])
def test_file_names_are_still_files(text: str) -> None:
    assert parse_source(text) == {"kind": "file", "path": text}


@pytest.mark.parametrize(
    "text",
    [
        "key frames only, every 2 s; user 3 asked, the token budget is 5",
        "12:30:05 WARNING capture:gate: silent for 15 s",
        "2026-11-25T17:00:01.123+00:00 {'frames': 12, 'a:b': 'c'}",
        "write to bob@example.com, or see docs: a:b",
        "keyframe=3 every=2 monkey=1 max_tokens=32 user=3 expected key=value",
        "streamer@gate.service: started, 127.0.0.1:8080 is free",
        "home.yaml:3: streams.gate.tasks[0].text: must not be empty",
        "http://127.0.0.1:8080/api/events?limit=10&stream=gate",
        "http://host/@team/x",
        '{"a":"http://host/x","b":"bob@example.com"}',
        "basic authentication is needed, the password is wrong",
    ],
)  # fmt: skip
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert redact.redact(text) == text.replace("host/@", "***@")


def test_short_password_is_hidden_as_a_whole_word_only() -> None:
    redact.remember("cam1")
    assert redact.redact("cam10 webcam1 cam1 a%40cam1") == "cam10 webcam1 *** a%40***"


def test_user_name_is_not_hidden_in_other_words() -> None:
    Url("rtsp://user:hunter2@host/")
    assert redact.redact("user 3: hunter2") == "user 3: ***"


def test_basic_credentials_are_hidden() -> None:
    Url("http://u:p%22word@host/")
    assert redact.redact("got dTpwIndvcmQ= back") == "got *** back"
    assert redact.redact("Authorization: Basic YTpiYw==") == "Authorization: Basic ***"


# Ways out, each with all URLs


TEXTS = [f"cannot open {url.text}: timed out" for url in URLS]


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_shows_no_url_secret(
    form: logs.Format, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    logs.setup("test", "debug", form)
    for text in TEXTS:
        logging.getLogger("test").debug("camera: %s", text)
        try:
            raise ValueError(text)
        except ValueError:
            logging.getLogger("test").exception("crashed")
    for name in ("httpx2", "httpcore2.connection", "httpcore2.http11"):
        logging.getLogger(name).debug("send_request_headers %s", "quiet-marker")
    output = capfd.readouterr().err
    assert output.count("cannot open") >= 2 * len(TEXTS)
    assert not shown(output, URLS)
    assert "quiet-marker" not in output


def test_event_and_ledger_show_no_url_secret(tmp_path: Path) -> None:
    events = [status_event("home", f"gate{number}", "down", text) for number, text in enumerate(TEXTS)]
    assert not shown(b"".join(map(encode, events)).decode(), URLS)
    with Ledger(tmp_path / LEDGER_FILE) as ledger:
        cursor = ledger.cursors(["hook"])["hook"]
        ledger.commit(events)
        for number, text in enumerate(TEXTS, 1):
            cursor.dead_letter(number, text)
        cursor.close()
    assert not shown(str(list_dead_letters(tmp_path / LEDGER_FILE)), URLS)
    for file in tmp_path.iterdir():
        assert not shown(file.read_bytes().decode(errors="replace"), URLS)


def test_rpc_error_shows_no_url_secret(tmp_path: Path) -> None:
    server, client = RpcServer(tmp_path / "rpc.sock"), RpcClient(tmp_path / "rpc.sock")
    try:
        client.send(op="add")
        server.reply_error(until(server.receive, 5, "request")[0], "\n".join(TEXTS))
        assert not shown(json.dumps(until(client.receive, 5, "response")), URLS)
    finally:
        client.close()
        server.close()


def _config(urls: list[SecretUrl], **keys: object) -> dict[str, object]:
    task = [{"task": "caption"}]
    return {"streams": {f"s{n}": {"source": url.text, "tasks": task} for n, url in enumerate(urls)}, **keys}


def _streamer(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["streamer", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("command", ["check", "doctor"])
def test_command_shows_no_url_secret(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Invalid URLs are listed in one error, valid ones are printed or connected to."""
    path = tmp_path / "home.yaml"
    bad = [url for url in URLS if url not in VALID]
    path.write_text(json.dumps(_config(bad)))
    assert _streamer(monkeypatch, command, str(path)) == 2
    errors = capfd.readouterr().err
    assert errors.count("\n") == len(bad)
    assert not shown(errors, URLS)

    hooks = [{"kind": "webhook", "name": f"w{n}", "url": u.text} for n, u in enumerate(VALID) if u.text[0] == "h"]
    path.write_text(json.dumps(_config(VALID, sinks=hooks)))
    assert _streamer(monkeypatch, command, str(path)) == (0 if command == "check" else 1)
    output = "".join(capfd.readouterr())
    assert output.count("stream s") == len(VALID)
    assert not shown(output, URLS)


def test_sink_error_shows_no_url_secret() -> None:
    sinks = [{"kind": kind, "name": f"{kind}{n}", "url": url.text} for n, url in enumerate(URLS) for kind in KINDS]
    with pytest.raises(ConfigError) as caught:
        from_mapping({**_config([SecretUrl("synthetic", ())]), "sinks": sinks})
    assert not shown(str(caught.value), URLS)

"""Apprise with real receivers: an ntfy server, an HTTP endpoint, a mail server, and servers that fail."""

from __future__ import annotations

import email
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from email import policy
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope

from streamer.core.errors import ConfigError, SinkError, SinkRefused
from streamer.core.redact import Url
from streamer.events.notify import Apprise, Message, Messenger
from streamer.events.notify._secret_url import SecretUrl
from tests.support.agents import until
from tests.support.certificates import Authority
from tests.support.hooks import Endpoint, RawEndpoint, status
from tests.support.ntfy import NtfyServer
from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.tcp_server import TcpServer

PICTURE = b"\xff\xd8\xff\xe0 a picture \xff\xd9"
TOPIC = "c0ffee12ab34cd56ef7890ab12cd34ef"


def message(**fields: Any) -> Message:
    values = {"state": "start", "title": "ladder at gate", "body": "1 x person at gate", "severity": "high"}
    return Message(**{"id": "event-1", "topic": TOPIC, **values, **fields})


def messenger(url: str, timeout: float = 60.0) -> Messenger:
    return Apprise(kind="apprise", url=SecretUrl(url), timeout=timeout).open(Path())


@pytest.fixture
def ntfy() -> Iterator[NtfyServer]:
    with NtfyServer() as server:
        yield server


class Mailbox:
    """A mail server that keeps what it accepts."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.answer = "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
        if self.answer.startswith("250"):
            self.mails.append(email.message_from_bytes(envelope.original_content or b"", policy=policy.default))
        return self.answer


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, str]]:
    box = Mailbox()
    port = free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, f"mailto://127.0.0.1:{port}?from=agent@home.example&to=me@home.example&mode=insecure"
    controller.stop()


def test_ntfy_gets_title_text_priority_and_picture(ntfy: NtfyServer) -> None:
    sender = messenger(ntfy.url)
    sender.send(message())
    sender.send(message(severity="critical", picture=PICTURE))
    plain, pictured = ntfy.published
    assert (plain.topic, plain.title, plain.message) == ("alarms", "ladder at gate", "1 x person at gate")
    assert (plain.priority, pictured.priority) == ("high", "max")
    assert (plain.attachment, pictured.attachment) == (None, PICTURE)
    assert (pictured.title, pictured.message) == (plain.title, plain.message)


def test_ntfy_replaces_the_notification_of_a_topic(ntfy: NtfyServer) -> None:
    sender = messenger(ntfy.url)
    sender.send(message())
    sender.send(message(id="event-2", state="update", body="2 x person at gate", silent=True))
    (shown,) = ntfy.shown
    assert (shown.message, shown.priority, shown.sequence) == ("2 x person at gate", "low", TOPIC)


def test_priority_of_the_url_is_kept(ntfy: NtfyServer) -> None:
    messenger(ntfy.url + "?priority=min").send(message(severity="critical"))
    assert ntfy.published[0].priority == "min"


def test_json_receiver_gets_id_type_and_picture() -> None:
    with Endpoint() as endpoint:
        messenger(endpoint.url.replace("http://", "json://")).send(message(severity="critical", picture=PICTURE))
        (body,), ((headers, _),) = endpoint.accepted, endpoint.requests
    assert (body["title"], body["message"], body["type"]) == ("ladder at gate", "1 x person at gate", "failure")
    assert body["attachments"][0]["mimetype"] == "image/jpeg"
    assert headers["webhook-id"] == "event-1"


def test_mails_of_an_incident_are_one_conversation(mailbox: tuple[Mailbox, str]) -> None:
    box, url = mailbox
    sender = messenger(url)
    sender.send(message(picture=PICTURE))
    sender.send(message(id="event-2", state="end", title="ladder at gate: over"))
    first, second = box.mails
    assert (first["subject"], second["subject"]) == ("ladder at gate", "ladder at gate: over")
    assert first["references"] == second["references"] == f"<{TOPIC}@streamer>"
    assert (first["x-streamer-event"], second["x-streamer-event"]) == ("event-1", "event-2")
    assert [one.get_all("message-id") for one in box.mails] == [["<event-1@streamer>"], ["<event-2@streamer>"]]
    assert [part.get_content() for part in first.iter_attachments()] == [PICTURE]


@pytest.mark.parametrize(
    ("answer", "refused", "reason"),
    [("552 too large", True, "SMTP 552"), ("451 later", False, "SMTP 451")],
)
def test_mail_server_refuses_for_good_or_for_now(
    mailbox: tuple[Mailbox, str], answer: str, refused: bool, reason: str
) -> None:
    box, url = mailbox
    box.answer = answer
    with pytest.raises(SinkRefused if refused else SinkError, match=f"^mailto: {reason}$"):
        messenger(url).send(message())


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (400, SinkRefused, "ntfy: HTTP 400"),
        (413, SinkRefused, "ntfy: HTTP 413"),
        (401, SinkError, "ntfy: HTTP 401: check the user, password or token in `url`"),
        (302, SinkError, "ntfy: HTTP 302: redirects are not followed: set `url`"),
        (503, SinkError, "ntfy: HTTP 503"),
    ],
)
def test_status_says_whether_to_try_again(ntfy: NtfyServer, code: int, kind: type[Exception], reason: str) -> None:
    ntfy.status = lambda: code
    with pytest.raises(kind) as failed:
        messenger(ntfy.url).send(message())
    assert str(failed.value) == reason
    assert not getattr(failed.value, "in_doubt", False)


def test_unreachable_server_is_named_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for url in (f"json://127.0.0.1:{port}", f"mailto://127.0.0.1:{port}?from=a@b.example&to=c@d.example&mode=insecure"):
        with pytest.raises(SinkError, match="connection refused: nothing listens there") as failed:
            messenger(url).send(message())
        assert not failed.value.in_doubt


def test_certificates_and_proxy_are_those_of_the_config(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.cert)
    server.load_cert_chain(*authority.issue("server"))
    server.verify_mode = ssl.CERT_REQUIRED
    cert, key = authority.issue("agent")
    with Endpoint(server) as endpoint, Proxy("user:pass word") as proxy:
        login = proxy.url.replace("http://", "http://user:pass%20word@")
        url = SecretUrl(endpoint.url.replace("https://", "jsons://"))
        tls = {"ca": authority.cert, "cert": cert, "key": key, "proxy": Url(login)}
        Apprise(kind="apprise", url=url, **tls).open(Path()).send(message())
        assert len(endpoint.accepted) == len(proxy.targets) == 1
        with pytest.raises(SinkError, match="the proxy refuses the connection"):
            Apprise(kind="apprise", url=url, **{**tls, "proxy": Url(proxy.url)}).open(Path()).send(message())
        with pytest.raises(SinkError, match="not from a known authority: give that of its authority as `ca: FILE`"):
            messenger(url.reveal()).send(message())
        with pytest.raises(SinkError, match=r"requires a client certificate|broke off during the handshake"):
            Apprise(kind="apprise", url=url, ca=authority.cert).open(Path()).send(message())


def test_certificates_of_mail_servers_are_refused() -> None:
    with pytest.raises(ValueError, match="proxy: only for services by HTTP, not for mailtos://"):
        Apprise(kind="apprise", url=SecretUrl("mailtos://a:b@mail.example"), proxy=Url("http://proxy:3128"))


def test_hanging_server_is_left_after_the_timeout(ntfy: NtfyServer) -> None:
    ntfy.hang.set()
    sender = messenger(ntfy.url, timeout=2.0)
    with pytest.raises(SinkError, match="no response") as failed:
        sender.send(message())
    assert failed.value.in_doubt


@pytest.mark.parametrize("part", [b"x-a: b\r\n", b"content-length: 9999\r\n\r\n"], ids=["headers", "body"])
def test_server_that_drips_is_left_and_tried_again(part: bytes) -> None:
    def drip(_: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        if mended.is_set():
            yield b"content-length: 0\r\n\r\n"
            return
        while True:  # until the connection ends
            yield part
            mended.wait(0.05)

    mended = threading.Event()
    with RawEndpoint(drip) as endpoint:
        sender = messenger(endpoint.url.replace("http://", "json://"), timeout=3.0)
        with pytest.raises(SinkError, match=r"no response within 3 s"):
            sender.send(message())
        until(lambda: not any(one.name == "notify json" for one in threading.enumerate()), 5, "the end of the thread")
        mended.set()
        sender.send(message())


class DrippingMailServer(TcpServer):
    """A mail server whose next line never ends, after some good lines."""

    def __init__(self, lines: Sequence[bytes], first: bytes) -> None:
        """`first`: bytes before those that drip."""
        super().__init__()
        self._lines, self._first = lines, first

    def serve(self, client: socket.socket) -> None:
        for line in self._lines:
            client.sendall(line)
            client.recv(4096)
        client.sendall(self._first)
        while True:
            client.sendall(b"2")
            time.sleep(0.05)


LINES = (b"220 mail.example ESMTP\r\n", b"250 mail.example\r\n")


@pytest.mark.parametrize(
    ("scheme", "lines", "first"),
    [("mailto", (), b""), ("mailto", LINES[:1], b""), ("mailto", LINES, b""), ("mailtos", (), b"\x16\x03\x03\x40\x00")],
    ids=["greeting", "hello", "sender", "TLS"],
)
def test_mail_server_that_drips_is_left(scheme: str, lines: Sequence[bytes], first: bytes) -> None:
    with DrippingMailServer(lines, first) as server:
        mode = "ssl" if scheme == "mailtos" else "insecure"
        url = f"{scheme}://{server.address}?from=agent@home.example&to=me@home.example&mode={mode}"
        sender = messenger(url, timeout=1.0)
        for _ in range(2):  # the second message is not held by the thread of the first one
            with pytest.raises(SinkError, match="no response"):
                sender.send(message())
            until(lambda: not running(f"notify {scheme}"), 30, "the end of the thread")


def running(name: str) -> bool:
    return any(one.name == name for one in threading.enumerate())


def test_large_response_is_not_read_whole() -> None:
    sent = 0

    def flood(request: bytes) -> Iterator[bytes]:
        nonlocal sent
        yield b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n"
        for _number in range(200):
            sent += 1 << 20
            yield bytes(1 << 20)

    with RawEndpoint(flood) as endpoint:
        messenger(endpoint.url.replace("http://", "json://")).send(message())
    assert sent < 100 << 20


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nfty://host/topic", "has a scheme that Apprise does not know"),
        ("mailto://", "must be an Apprise URL"),
        ("tgram://short/1", "is not complete or not valid"),
        ("ntfy://host.example", "names no receiver"),
    ],
)
def test_wrong_url_is_refused(url: str, problem: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=problem):
        messenger(url)


class Records(logging.Handler):
    """The log of the program, as its root logger gets it."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage() + "\n"


def test_failure_logs_and_names_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """The root logger has level DEBUG, and the environment a proxy that nothing listens on."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    root, records = logging.getLogger(), Records()
    monkeypatch.setattr(root, "level", logging.DEBUG)
    monkeypatch.setattr(root, "handlers", [*root.handlers, records])
    with Endpoint() as endpoint:
        endpoint.behaviour = status(503)
        port = endpoint.url.rpartition(":")[2].partition("/")[0]
        sender = messenger(f"json://user:hunter22secret@127.0.0.1:{port}/T0ken9876543210/hook?-x=9876543210abc")
        with pytest.raises(SinkError) as failed:
            sender.send(message())
        assert endpoint.paths == ["/T0ken9876543210/hook?x=9876543210abc"]
    logging.getLogger("tests").debug("end")
    assert records.text == "end\n"
    assert str(failed.value) == "json: HTTP 503"


def test_commands_and_config_import_no_apprise() -> None:
    modules = "streamer.config.model, streamer.processes.emit, streamer.rules.engine"
    code = f"import sys, {modules}; print('apprise' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"

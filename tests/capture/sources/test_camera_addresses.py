"""A network camera reaches only what its config names: as a camera, by a redirect, a playlist entry or a key."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from streamer.capture.sources import Http, Rtsp, _http_client
from streamer.core.addresses import Address, resolve
from streamer.core.errors import SourceLost
from tests.support.http_camera import HttpCamera, Request, Send, answer, reply
from tests.support.tcp_server import TcpServer
from tests.support.ts_camera import mpeg_ts

VIDEO = b"".join(mpeg_ts(3, 10))
LOOPBACK = ["127.0.0.1", "127.0.0.2", "127.255.255.254", "localhost", "LOCALHOST", "[::1]", "[0:0:0:0:0:0:0:1]"]
SPELLINGS = [
    "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127%2e0%2e0%2e1",
    "127\u30020\u30020\u30021", "\u2460\u2461\u2466.0.0.1", "\uff11\uff12\uff17.0.0.1", "0300.0250.1.1",
]  # fmt: skip
"""Unusual spellings of 127.0.0.1; the last one is of 192.168.1.1."""
EMBEDDED = [
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
    "[2001:0:7f00:1::]", "[::ffff:0:127.0.0.1]", "[::ffff:169.254.169.254]",
]  # fmt: skip
"""IPv4 addresses inside IPv6 addresses."""
NO_HOST = ["0.0.0.0", "0", "[::]", "0.0.0.1", "255.255.255.255", "224.0.0.1", "[ff02::1]"]
SPECIAL = ["169.254.169.254", "169.254.170.2", "[fd00:ec2::254]", "[fe80::1%25lo]"]
"""Metadata services, and a link-local address."""
DECEPTIVE = ["127.0.0.2:80@127.0.0.1", "camera.test@127.0.0.1", "127.0.0.1:1@localhost"]
"""Users that look like hosts."""
ADDRESSES = [*LOOPBACK, *SPELLINGS, *EMBEDDED, *NO_HOST, *SPECIAL, *DECEPTIVE]
REFERENCES = [
    "//127.0.0.1:{port}/", "\\\\127.0.0.1:{port}/", "/\\127.0.0.1:{port}/", "http:\\\\127.0.0.1:{port}/",
    "HTTP://127.0.0.1:{port}/", "http:///127.0.0.1:{port}/", "http:127.0.0.1:{port}/", "http://127.0.0.1:{port}#@/",
    "https://127.0.0.1:{port}/", "file:///etc/passwd", "FILE:///etc/passwd", "/etc/passwd", "data:a;base64,AAAA",
    "rtsp://127.0.0.1:{port}/", "tcp://127.0.0.1:{port}", "tls://127.0.0.1:{port}", "gopher://127.0.0.1:{port}/_x",
    "ftp://127.0.0.1:{port}/", "httpproxy://127.0.0.1:{port}/", "crypto+http://127.0.0.1:{port}/", "hls+file:///etc/x",
    "concat:/etc/passwd|/etc/passwd", "subfile,,start,0,end,100,,:/etc/passwd", "async:/etc/passwd", "unix:/tmp/x",
]  # fmt: skip
"""Other ways to write that a resource is elsewhere."""
HOST = "127.0.0.77"
"""The camera's own address, which the config names."""


@pytest.fixture
def elsewhere() -> Iterator[tuple[int, list[str]]]:
    """Listen on a port of all addresses of this computer; yield it and what connected."""
    reached: list[str] = []
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:

        def listen() -> None:
            with suppress(OSError):
                while True:
                    connection, peer = server.accept()
                    reached.append(f"{peer[0]} to {connection.getsockname()[0]}")
                    connection.close()

        thread = threading.Thread(target=listen)
        thread.start()
        yield server.getsockname()[1], reached
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def lost(url: str, **keys: Any) -> str:
    """Return why a camera is lost."""
    kind = Rtsp if url.startswith("rtsp") else Http
    with pytest.raises(SourceLost) as caught:
        for _ in kind.model_validate({"url": url, **keys}).open(2.0):
            pass
    return str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_listener_is_reached_when_the_config_names_it(elsewhere: tuple[int, list[str]], scheme: str) -> None:
    port, reached = elsewhere
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"):
        reached.clear()
        lost(f"{scheme}://{host}:{port}/")
        assert len(reached) == 1, host
    reached.clear()


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
@pytest.mark.parametrize("host", [*SPELLINGS, *NO_HOST])
def test_other_spelling_in_the_config_is_refused(elsewhere: tuple[int, list[str]], host: str, scheme: str) -> None:
    port, reached = elsewhere
    reason = lost(f"{scheme}://{host}:{port}/")
    assert re.search(
        "unusual spelling|not the address of one host|host name unknown|URL is not valid|refused to connect", reason
    )
    assert not reached


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
@pytest.mark.parametrize("address", [*LOOPBACK, *EMBEDDED, *NO_HOST, *SPECIAL, HOST])
def test_name_does_not_lead_to_special_addresses(
    elsewhere: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch, address: str, scheme: str
) -> None:
    """Each connection of a source looks the name up once and checks the addresses, so DNS may change its answer."""
    port, reached = elsewhere
    original = socket.getaddrinfo
    text = address.strip("[]").replace("%25", "%")

    def getaddrinfo(host: Any, *rest: Any, **keys: Any) -> Any:
        return original(text if host == "camera.test" else host, *rest, **keys)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    reason = lost(f"{scheme}://camera.test:{port}/")
    assert "camera.test: refused to connect to" in reason or "not the address of one host" in reason
    assert not reached


def all_references(port: int) -> list[str]:
    return [
        *(f"http://{host.partition('@')[0]}@{host.partition('@')[2]}:{port}/" for host in ADDRESSES if "@" in host),
        *(f"http://{host}:{port}/" for host in ADDRESSES if "@" not in host),
        *(reference.format(port=port) for reference in REFERENCES),
    ]


class _RedirectingCamera(TcpServer):
    """An RTSP camera that redirects each request to the next of `locations`."""

    def __init__(self, locations: list[str]) -> None:
        super().__init__(HOST)
        self.left = list(locations)

    def serve(self, client: socket.socket) -> None:
        while request := client.recv(65536):
            number = re.search(rb"CSeq: *(\d+)", request)
            location = self.left.pop(0) if request.startswith(b"DESCRIBE") and self.left else ""
            status = f"302 Moved\r\nLocation: {location}" if location else "200 OK"
            client.sendall(f"RTSP/1.0 {status}\r\nCSeq: {number[1].decode() if number else 1}\r\n\r\n".encode())


def test_rtsp_redirect_leads_to_no_special_address(elsewhere: tuple[int, list[str]]) -> None:
    port, reached = elsewhere
    with _RedirectingCamera([one.replace("http", "rtsp", 1) for one in all_references(port)]) as camera:
        while camera.left:
            before = len(camera.left)
            lost(f"rtsp://{camera.address}/")
            assert len(camera.left) < before
    assert not reached


@pytest.mark.parametrize("redirects", ["same_host", "any"])
@pytest.mark.parametrize("way", ["redirect", "variant", "segment", "key", "header"])
def test_camera_leads_to_no_special_address(elsewhere: tuple[int, list[str]], way: str, redirects: str) -> None:
    port, reached = elsewhere
    reference = ""

    def send(_request: Request, send: Send) -> None:
        if way == "redirect":
            return send(answer(b"", "", "302 Found", f"Location: {reference.encode().decode('latin-1')}"))
        lines = {
            "variant": f"#EXT-X-STREAM-INF:BANDWIDTH=1\n{reference}",
            "segment": f"#EXTINF:1,\n{reference}",
            "key": f'#EXT-X-KEY:METHOD=AES-128,URI="{reference}"\n#EXTINF:1,\nvideo',
            "header": f'#EXT-X-MAP:URI="{reference}"\n#EXTINF:1,\nvideo',
        }
        send(answer(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{lines[way]}\n#EXT-X-ENDLIST\n".encode()))

    def send_video(_request: Request, send: Send) -> None:
        send(answer(VIDEO))

    with HttpCamera({"start": send, "video": send_video}, HOST) as camera:
        for reference in all_references(port):
            reason = lost(camera.url("/start"), allow_redirects=redirects)
            assert "/etc/passwd" not in reason
            assert not reached, f"{reference} was reached"


def test_name_is_looked_up_once_for_all_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name cannot lead elsewhere after it was checked."""
    asked: list[str] = []

    def look_up(host: str, *, in_config: bool) -> tuple[Address, ...]:
        asked.append(host)
        return resolve(HOST, in_config=True)

    monkeypatch.setattr(_http_client, "resolve", look_up)
    text = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ns\n#EXTINF:1,\n/s\n#EXT-X-ENDLIST\n"
    with HttpCamera({"list": reply(answer(text)), "s": reply(answer(VIDEO))}, HOST) as camera:
        assert lost(f"http://camera.test:{camera.port}/list") == "the stream ended"
        assert camera.paths() == ["/list", "/s", "/s"]
        assert {request.headers["host"] for request in camera.requests} == {f"camera.test:{camera.port}"}
    assert asked == ["camera.test"]

"""The webhook sink on the network: certificates, proxies, addresses, and endpoints that are broken or hostile."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from streamer.core.errors import ConfigError, SinkError
from streamer.core.redact import redact
from streamer.events.sinks import SinkField, Webhook
from streamer.types import Sink
from tests.support.certificates import Authority, Certificate
from tests.support.hooks import Endpoint, RawEndpoint
from tests.support.proxy import Proxy
from tests.support.sinks import RecordedProgress, entries, sink_context


def opened(url: str, **keys: Any) -> Sink:
    return settings(url, **keys).open(sink_context(), RecordedProgress())


def settings(url: str, **keys: Any) -> Webhook:
    sink = TypeAdapter(SinkField).validate_python({"kind": "webhook", "url": url, **keys})
    assert isinstance(sink, Webhook)
    return sink


def failure(sink: Sink) -> str:
    with pytest.raises(SinkError) as caught:
        sink.write(entries(1, 1))
    sink.close()
    return str(caught.value)


def server_side(certificate: Certificate, clients: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_own_authority_and_client_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine = authority.issue("agent")
    with Endpoint(server_side(authority.issue("server"), authority.cert)) as endpoint:
        sink = opened(endpoint.url, ca=authority.cert, cert=mine.cert, key=mine.key)
        sink.write(entries(1, 3))
        sink.close()
        assert len(endpoint.accepted) == 3
        assert re.search("requires a client certificate|broke off", failure(opened(endpoint.url, ca=authority.cert)))
        assert "not from a known authority: give that of its authority as `ca: FILE`" in failure(opened(endpoint.url))


def test_certificate_of_another_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    with Endpoint(server_side(authority.issue("server"))) as endpoint:
        monkeypatch.setattr("streamer.core.addresses._NAMED", frozenset())
        monkeypatch.setattr("streamer.core.addresses._OPEN", frozenset({"loopback"}))
        monkeypatch.setattr(socket, "getaddrinfo", _dns("127.0.0.1"))
        sink = opened(endpoint.url.replace("127.0.0.1", "hooks.example"), ca=authority.cert)
        assert "hooks.example: TLS: its certificate is for another name" in failure(sink)


def test_certificate_file_that_is_gone_harms_only_this_sink(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with Endpoint(server_side(authority.issue("server"))) as endpoint:
        sink = opened(endpoint.url, ca=authority.cert)
        content = authority.cert.read_bytes()
        authority.cert.unlink()
        assert "cannot use the certificates in" in failure(sink)
        with pytest.raises(ConfigError, match="cannot use the certificates in"):
            settings(endpoint.url, ca=authority.cert).check()
        authority.cert.write_bytes(content)


def test_headers_and_content_type_are_sent() -> None:
    """Some receivers read `application/json` only, and require a token."""
    with Endpoint() as endpoint:
        headers = {"Authorization": "Bearer s3cret-token-1", "X-Site": "north"}
        sink = opened(endpoint.url, headers=headers, content_type="application/json")
        sink.write(entries(1, 1))
        sink.close()

    sent, _ = endpoint.requests[0]
    assert sent["content-type"] == "application/json"
    assert (sent["authorization"], sent["x-site"]) == ("Bearer s3cret-token-1", "north")
    assert redact("it is s3cret-token-1") == "it is ***"


def test_user_of_the_url_is_sent_as_basic_login() -> None:
    with Endpoint() as endpoint:
        sink = opened(endpoint.url.replace("//", "//cam:p%40ss%2Fword@"))
        sink.write(entries(1, 1))
        sink.close()

    assert endpoint.requests[0][0]["authorization"] == "Basic Y2FtOnBAc3Mvd29yZA=="
    assert endpoint.requests[0][0]["host"].startswith("127.0.0.1:")


def test_proxy_carries_requests(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with Endpoint() as plain, Endpoint(server_side(authority.issue("server"))) as tls, Proxy("cam:pw") as proxy:
        with_login = proxy.url.replace("//", "//cam:pw@")
        for endpoint, keys in ((plain, {}), (tls, {"ca": authority.cert})):
            sink = opened(endpoint.url, proxy=with_login, **keys)
            sink.write(entries(1, 2))
            sink.close()
            assert len(endpoint.accepted) == 2
        assert {place for place in proxy.targets} == {url.split("/")[2] for url in (plain.url, tls.url)}
        assert "the proxy refuses the connection" in failure(opened(tls.url, proxy=proxy.url, ca=authority.cert))


def test_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with Endpoint() as endpoint, Proxy() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        sink = opened(endpoint.url)
        sink.write(entries(1, 1))
        sink.close()
        assert len(endpoint.accepted) == 1
        assert proxy.targets == []
    assert "only the key `proxy` is used" in failure(opened(endpoint.url))


def test_cookies_of_the_endpoint_are_not_sent_back() -> None:
    with Endpoint() as endpoint:
        endpoint.headers = {"set-cookie": "session=" + "x" * 3000 + "; Path=/"}
        sink = opened(endpoint.url, in_flight=1)
        sink.write(entries(1, 5))
        sink.close()

    assert not [headers for headers, _ in endpoint.requests if "cookie" in headers]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(code: int) -> None:
    with Endpoint() as other, Endpoint() as endpoint:
        endpoint.behaviour = lambda _, __: code
        endpoint.headers = {"location": other.url}
        reason = failure(opened(endpoint.url.replace("//", "//cam:password@")))
        assert not other.requests

    assert f"HTTP {code}: it redirects to another address" in reason
    assert "set `url`" in reason


def endless(_: bytes) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"8000\r\n" + b"x" * 0x8000 + b"\r\n"


def slow(_: bytes) -> Iterator[bytes]:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"x" * 100:
        yield bytes([byte])
        time.sleep(0.1)


def interim(_: bytes) -> Iterator[bytes]:
    while True:
        yield b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _: [b""], "not valid HTTP"),
        (lambda _: [b"\x00" * 1000], "not valid HTTP"),
        (lambda _: [b"HTTP/1.1 5x0 marker\r\n\r\n"], "not valid HTTP"),
        (lambda request: [b"HTTP/1.1 200 OK\r\nX " + request[:500] + b"\r\n bad\r\n\r\n"], "not valid HTTP"),
        (lambda _: [b"HTTP/1.1 200 OK\r\n" + b"x: marker\r\n" * 100_000], "not valid HTTP"),
        (lambda _: [b"HTTP/1.1 500 marker \xff\xfe\r\ncontent-length: 0\r\n\r\n"], "HTTP 500"),
        (lambda _: [b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n"], "not valid HTTP"),
        (lambda _: [b"SSH-2.0-marker\r\n"], "not valid HTTP"),
        (slow, r"no response within 0\.5 s"),
        (interim, r"no response within 0\.5 s|not valid HTTP"),
    ],
)
def test_bad_answers_are_failures_in_own_words(answer: Any, reason: str) -> None:
    with RawEndpoint(answer) as endpoint:
        timeout = "500ms" if answer in (slow, interim) else "20s"
        found = failure(opened(endpoint.url + "?key=marker", timeout=timeout))

    assert re.search(reason, found)
    assert "marker" not in found


def test_endless_response_is_cut() -> None:
    with RawEndpoint(endless) as endpoint:
        sink = opened(endpoint.url, timeout="1m")
        started = time.monotonic()
        sink.write(entries(1, 1))
        sink.close()

    assert time.monotonic() - started < 30


def _dns(*answers: str) -> Any:
    """Return a resolver that gives the answers in turn, the last one for all that follow."""
    left = list(answers)

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        address = left.pop(0) if len(left) > 1 else left[0]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, 0))]

    return getaddrinfo


REFUSED_NAMES = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.170.2", "169.254.1.1",
    "100.100.100.200", "192.0.0.192", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1",
    "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:7f00:1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1",
    "2001:0:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe",
]  # fmt: skip
"""Addresses that a name must not lead to."""
REFUSED_TEXTS = [
    "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.1", "0", "2852039166", "0xa9fea9fe",
    "0.0.0.0", "[::]", "224.0.0.1", "255.255.255.255", "[ff02::1]",
]  # fmt: skip
"""Hosts in the config that are no address of one host, or an unusual spelling of one."""


@pytest.mark.parametrize("address", REFUSED_NAMES)
def test_name_does_not_lead_to_this_computer(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _dns(address))
    reason = failure(opened("http://hooks.example:9/hook"))

    assert "refused to connect to" in reason or "not the address of one host" in reason


@pytest.mark.parametrize("host", REFUSED_TEXTS)
def test_odd_address_in_the_config_is_refused(host: str) -> None:
    reason = failure(opened(f"http://{host}:9/hook"))

    assert "unusual spelling of the address" in reason or "not the address of one host" in reason


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_address_that_the_config_names_is_used(host: str) -> None:
    with Endpoint() as endpoint:
        sink = opened(endpoint.url.replace("127.0.0.1", host))
        sink.write(entries(1, 1))
        sink.close()
        assert len(endpoint.accepted) == 1


def test_name_is_looked_up_once_for_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second answer of DNS could lead elsewhere than the one that was checked."""
    with Endpoint() as endpoint:
        monkeypatch.setattr("streamer.core.addresses._OPEN", frozenset({"loopback"}))
        monkeypatch.setattr(socket, "getaddrinfo", _dns("127.0.0.1", "169.254.169.254"))
        sink = opened(endpoint.url.replace("127.0.0.1", "hooks.example"), in_flight=1)
        sink.write(entries(1, 5))
        assert len(endpoint.accepted) == 5
        endpoint.behaviour = lambda _, __: 500  # its connection is given up
        with pytest.raises(SinkError):
            sink.write(entries(6, 6))
        endpoint.behaviour = lambda _, __: 204
        assert "refused to connect to 169.254.169.254 (metadata)" in failure(sink)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "control character"),
        ({"headers": {"X-A": "\x00"}}, "control character"),
        ({"headers": {"X-A": "Grüße"}}, "no ASCII"),
        ({"headers": {"X A": "a"}}, "not the name of a header"),
        ({"headers": {"X-A\r\nX-B": "a"}}, "not the name of a header"),
        ({"headers": {"Content-Length": "5"}}, "set by streamer"),
        ({"headers": {"x-a": "1", "X-A": "2"}}, "given twice"),
        ({"content_type": "text"}, "pattern"),
        ({"content_type": "text/plain\r\nx: y"}, "pattern"),
        ({"url": "http://host/a\r\nx"}, "control character"),
        ({"url": "http://host/a b"}, "space"),
        ({"url": "http://host", "ca": "ca.pem"}, "ca: only allowed with https://"),
        ({"url": "https://host", "key": "key.pem"}, "give `cert` too"),
        ({"url": "http://u:p@host", "headers": {"Authorization": "Bearer x"}}, "not both"),
        ({"proxy": "socks5://host"}, "must begin with http://"),
    ],
)
def test_invalid_settings_are_rejected(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**{"url": "https://host", **keys})


def test_percent_encoded_control_characters_stay_encoded() -> None:
    with Endpoint() as endpoint:
        sink = opened(endpoint.url + "/%0d%0aX-Evil:%201?a=%0a&b=ü")
        sink.write(entries(1, 1))
        sink.close()

    assert "x-evil" not in endpoint.requests[0][0]
    assert endpoint.paths == ["/hook/%0d%0aX-Evil:%201?a=%0a&b=%C3%BC"]


def test_values_of_headers_are_not_shown() -> None:
    sink = settings("https://host", headers={"Authorization": "Bearer s3cret-token-2"})

    assert "s3cret" not in repr(sink)
    assert "s3cret" not in sink.model_dump_json()

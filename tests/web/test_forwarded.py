"""Headers of reverse proxies: only those of trusted ones count."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamer.config.model import from_mapping
from streamer.core.errors import ConfigError
from streamer.web.forwarded import ForwardedMiddleware, client_key
from tests.support.web_process import CONFIG

TOKEN = "a-token-of-good-length"


def seen(web: dict[str, Any], peer: str, path: str = "/", **headers: str) -> tuple[str, str, str, str]:
    """Return client, scheme, host and path of a request as the application sees it."""
    settings = from_mapping({**CONFIG, "web": {"token": TOKEN, **web}}).web
    assert settings is not None
    given = {"host": "inner:8080", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http", "client": (peer, 50000), "scheme": "http", "path": path, "raw_path": path.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }  # fmt: skip
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    asyncio.run(ForwardedMiddleware(app, settings)(scope, None, None))  # type: ignore[arg-type]
    (found,) = scopes
    return found["client"][0], found["scheme"], dict(found["headers"])[b"host"].decode(), found["path"]


PROXY: dict[str, Any] = {"trusted_proxies": ["127.0.0.1", "10.0.0.0/8", "::1/128"]}
FORWARDED = {"x_forwarded_for": "203.0.113.7", "x_forwarded_proto": "https", "x_forwarded_host": "cams.example"}


def test_headers_of_a_trusted_proxy_count() -> None:
    assert seen(PROXY, "127.0.0.1", **FORWARDED) == ("203.0.113.7", "https", "cams.example", "/")
    assert seen(PROXY, "::ffff:10.1.2.3", **FORWARDED)[0] == "203.0.113.7"
    assert seen(PROXY, "::1", **FORWARDED)[0] == "203.0.113.7"


def test_headers_of_others_are_ignored() -> None:
    ignored = ("192.0.2.1", "http", "inner:8080", "/")
    assert seen(PROXY, "192.0.2.1", **FORWARDED) == ignored
    assert seen({}, "127.0.0.1", **FORWARDED) == ("127.0.0.1", *ignored[1:])


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("198.51.100.9, 203.0.113.7", "203.0.113.7"),  # the first was invented by the client
        ("203.0.113.7, 10.1.1.1", "203.0.113.7"),  # two proxies in a row
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("unknown", "127.0.0.1"),
        ("203.0.113.7, <script>", "127.0.0.1"),
        ("", "127.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_client_is_the_last_address_that_is_no_proxy(header: str, client: str) -> None:
    assert seen(PROXY, "127.0.0.1", x_forwarded_for=header)[0] == client


def test_scheme_and_host_are_the_last_ones() -> None:
    headers = {"x_forwarded_proto": "https, http", "x_forwarded_host": "evil.example, cams.example"}
    assert seen(PROXY, "127.0.0.1", **headers)[1:3] == ("http", "cams.example")
    assert seen(PROXY, "127.0.0.1", x_forwarded_proto="gopher")[1] == "http"


def test_base_path_is_removed_once_and_optional() -> None:
    web = {"base_path": "/a/cams/"}
    for path, inner in (
        ("/a/cams/", "/"), ("/a/cams/api/streams", "/api/streams"), ("/api/streams", "/api/streams"), ("/", "/"),
        ("/a/camsx", "/a/camsx"), ("/a/cams/a/cams/", "/a/cams/"),
    ):  # fmt: skip
        assert seen(web, "127.0.0.1", path)[3] == inner


def test_clients_are_told_apart_by_ipv4_address_or_ipv6_network() -> None:
    assert client_key("203.0.113.7") == client_key("::ffff:203.0.113.7") == "203.0.113.7"
    assert client_key("2001:db8::1") == client_key("2001:db8::ffff:1") == "2001:db8::/64"
    assert client_key("2001:db8::1") != client_key("2001:db8:0:1::1")


@pytest.mark.parametrize(
    ("web", "words"),
    [
        ({"trusted_proxies": ["127.0.0.1"]}, "web: others can reach the page through a proxy"),
        ({"token": TOKEN, "trusted_proxies": ["0.0.0.0/0"]}, "web.trusted_proxies[0]: would trust every computer"),
        ({"token": TOKEN, "trusted_proxies": ["::/0"]}, "would trust every computer"),
        ({"token": TOKEN, "trusted_proxies": ["proxy.example"]}, "must be the IP address or network of a proxy"),
        ({"token": TOKEN, "trusted_proxies": [5]}, "must be the IP address or network of a proxy"),
        ({"base_path": "/"}, "web.base_path: must be a path such as /cams"),
        ({"base_path": "/../x"}, "must be a path such as /cams"),
        ({"base_path": "/a b"}, "must be a path such as /cams"),
        ({"base_path": "/a//b"}, "must be a path such as /cams"),
        ({"base_path": "/a;b"}, "must be a path such as /cams"),
        ({"base_path": "/a\nb"}, "must be a path such as /cams"),
        ({"base_path": 5}, "must be a path such as /cams"),
    ],
    ids=str,
)
def test_invalid_proxy_settings_are_config_errors(web: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_mapping({**CONFIG, "web": web})
    assert words in str(error.value)

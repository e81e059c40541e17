"""An HTTP client for one endpoint that is not trusted.

It keeps no cookies, follows no redirects, reads no environment, resolves the host once for each connection, and bounds
the time and size of every response. No error contains a byte that the endpoint sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

import httpcore2

from streamer.core.digest_auth import basic
from streamer.core.errors import AddressError, ConfigError, SinkError
from streamer.core.proxies import VARIABLES
from streamer.core.redact import Url
from streamer.core.tls import ClientTls
from streamer.events.sinks._event_loop import LookUp, look_up_within, resolve_configured, root_cause

CONNECT_S = 3.0
"""Longest time to connect to all addresses of the endpoint together."""
KEEP_S = 5.0
"""Time that an unused connection is kept."""
MAX_RESPONSE_BYTES = 1 << 16
"""Bytes read of a response, so that the connection can be reused; the rest of a larger response is not read."""
MAX_RESPONSE_S = 1.0
_SAFE = "/%:@!$&'()*+,;=~?"
"""Characters of a URL that are sent as they are, with letters, digits and `-._`."""


class Response(NamedTuple):
    status: int
    retry_after: str
    """Value of the header Retry-After."""


class HttpClient:
    """Posts to one URL. Used in one event loop; `close` makes the next request connect anew."""

    def __init__(
        self,
        url: Url,
        tls: ClientTls,
        proxy: Url | None,
        connections: int,
        timeout: float,
        look_up: LookUp = resolve_configured,
    ) -> None:
        """`timeout`: seconds of one request. `look_up`: finds the addresses of the host.

        Raises ConfigError for a host that no request can name.
        """
        self._look_up = look_up
        self._tls, self._proxy, self._connections, self._timeout = tls, proxy, connections, timeout
        parts = urlsplit(url.reveal())
        self._is_tls, self.host = parts.scheme.lower() == "https", parts.hostname or ""
        host = _ascii(self.host)
        self._url = httpcore2.URL(
            scheme=parts.scheme.lower().encode(), host=host, port=parts.port, target=_target(parts)
        )
        port = b"" if parts.port is None else b":%d" % parts.port
        self._headers = {b"host": (b"[%b]" % host if b":" in host else host) + port}
        if parts.username is not None:
            login = basic(unquote(parts.username), unquote(parts.password or ""))
            self._headers[b"authorization"] = login.encode()
        self._pool: httpcore2.AsyncConnectionPool | None = None

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()
            self._pool = None

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """Send one request. Raises SinkError when there is no valid response within the time."""
        encoded = {name.lower().encode(): value.encode("latin-1") for name, value in headers.items()}
        phases = dict.fromkeys(("read", "write", "pool"), self._timeout) | {"connect": CONNECT_S}
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._connected().stream(
                    "POST",
                    self._url,
                    headers=[*(self._headers | encoded).items()],
                    content=body,
                    extensions={"timeout": phases},
                ) as response,
            ):
                await _read_to_end(response)
        except TimeoutError:
            raise SinkError(f"no response within {self._timeout:g} s") from None
        except (AddressError, ConfigError) as error:
            raise SinkError(str(error).removeprefix(f"{self.host}: ")) from None
        except (*_ERRORS, OSError) as error:
            raise SinkError(self._describe(error)) from None
        found = dict((name.lower(), value) for name, value in response.headers)
        return Response(response.status, found.get(b"retry-after", b"").decode("latin-1"))

    def _connected(self) -> httpcore2.AsyncConnectionPool:
        if self._pool is None:
            self._pool = httpcore2.AsyncConnectionPool(
                ssl_context=self._tls.tls_context() if self._is_tls else None,
                proxy=None if self._proxy is None else _proxy(self._proxy),
                max_connections=self._connections,
                keepalive_expiry=KEEP_S,
                network_backend=_ResolvingBackend(self._look_up),
            )
        return self._pool

    def _describe(self, error: Exception) -> str:
        """Return the cause in words of this program: texts of some errors repeat bytes of the endpoint or the URL."""
        match error:
            case httpcore2.ConnectTimeout():
                return f"no connection within {CONNECT_S:g} s{self._proxy_hint()}"
            case httpcore2.TimeoutException():
                return "no response in time"
            case httpcore2.ConnectError() | OSError():
                return f"{root_cause(error)}{self._proxy_hint()}"
            case httpcore2.RemoteProtocolError():
                return "the response is not valid HTTP"
            case httpcore2.LocalProtocolError() | httpcore2.UnsupportedProtocol():
                return "the request cannot be sent: check `url` and `headers`"
            case httpcore2.ProxyError():
                return "the proxy refuses the connection"
        return root_cause(error)

    def _proxy_hint(self) -> str:
        if self._proxy is not None or not any(name.lower() in VARIABLES for name in os.environ):
            return ""
        return " (the environment names a proxy, but only the key `proxy` is used)"


_ERRORS = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol,
)


class _ResolvingBackend(httpcore2.AnyIOBackend):
    """Connects to an address that the host has now. The check of a certificate still uses its name."""

    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await look_up_within(timeout, self._look_up, host)
        share = None if timeout is None else timeout / len(addresses)
        for address in addresses[:-1]:
            with contextlib.suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await super().connect_tcp(str(address), port, share, local_address, socket_options)
        return await super().connect_tcp(str(addresses[-1]), port, share, local_address, socket_options)


async def _read_to_end(response: httpcore2.Response) -> None:
    """Read and discard a small response, so that the connection can be reused."""
    size = 0
    with contextlib.suppress(TimeoutError, *_ERRORS):
        async with asyncio.timeout(MAX_RESPONSE_S):
            async for chunk in response.aiter_stream():
                size += len(chunk)
                if size > MAX_RESPONSE_BYTES:
                    return


def _ascii(host: str) -> bytes:
    try:
        return host.encode() if host.isascii() else host.encode("idna")
    except UnicodeError:
        raise ConfigError("the host of `url` is not a valid name") from None


def _target(parts: SplitResult) -> bytes:
    query = f"?{parts.query}" if parts.query else ""
    return quote(f"{parts.path or '/'}{query}", safe=_SAFE).encode()


def _proxy(url: Url) -> httpcore2.Proxy:
    parts = urlsplit(url.reveal())
    login = None
    if parts.username is not None:
        login = unquote(parts.username).encode(), unquote(parts.password or "").encode()
    return httpcore2.Proxy(f"http://{parts.netloc.rpartition('@')[2]}", auth=login)

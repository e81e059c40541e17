"""The client's address, host name, scheme and path, also behind a reverse proxy.

Headers of a proxy are used only if the connection comes from an address in `trusted_proxies`. Everybody else could
write them too: to hide an address from the limits, or to pretend another host name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from streamer.config.web import Network, Web

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ForwardedMiddleware:
    """ASGI middleware that writes the client's view of a request into its scope, and removes `base_path`.

    A proxy may remove `base_path` or leave it: both forms of a path are accepted.
    """

    def __init__(self, app: ASGIApp, web: Web) -> None:
        self._app, self._trusted, self._base = app, web.trusted_proxies, (web.base_path or "").encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if self._base and scope["raw_path"] == self._base:
                redirect = RedirectResponse(f"{self._base.decode().rpartition('/')[2]}/")
                return await redirect(scope, receive, send)
            scope = {**scope, **self._forwarded(scope), **self._below_base(scope)}
        await self._app(scope, receive, send)

    def _forwarded(self, scope: Scope) -> Scope:
        """Return the keys of the scope that a trusted proxy knows better."""
        peer = parse_address(scope["client"][0]) if scope["client"] else None
        if peer is None or not is_in(peer, self._trusted):
            return {}
        headers = Headers(scope=scope)
        changed: Scope = {"client": (str(self._client(peer, headers.getlist("x-forwarded-for"))), 0)}
        if (scheme := _last(headers.getlist("x-forwarded-proto")).lower()) in ("http", "https"):
            changed["scheme"] = scheme
        if host := _last(headers.getlist("x-forwarded-host")):
            others = [(name, value) for name, value in scope["headers"] if name != b"host"]
            changed["headers"] = [*others, (b"host", host.encode("latin-1"))]
        return changed

    def _client(self, peer: Address, forwarded_for: Sequence[str]) -> Address:
        """Return the last address that is no trusted proxy: those before it may be invented by the client."""
        for text in reversed(",".join(forwarded_for).split(",")):
            address = parse_address(text.strip())
            if address is None:
                break
            peer = address
            if not is_in(address, self._trusted):
                break
        return peer

    def _below_base(self, scope: Scope) -> Scope:
        raw: bytes = scope["raw_path"]
        if not self._base or not raw.startswith(self._base + b"/"):
            return {}
        return {"raw_path": raw[len(self._base) :], "path": scope["path"][len(self._base) :]}


def parse_address(text: str) -> Address | None:
    """Return the IP address in a text that may also hold a port, or None. IPv4 in IPv6 is given as IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        try:
            address = ipaddress.ip_address(urlsplit(f"//{text}").hostname or "")
        except ValueError:
            return None
    return getattr(address, "ipv4_mapped", None) or address


def is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def client_key(text: str) -> str:
    """Return the key by which limits count a client: its IPv4 address, or the /64 network of its IPv6 address."""
    address = parse_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _last(values: Sequence[str]) -> str:
    """Return the last part of a header that several proxies may have written."""
    return ",".join(values).rpartition(",")[2].strip()

"""Access control in front of every URL.

Without a token the server listens on loopback and answers only requests for a loopback host name. This stops DNS
rebinding: a foreign page whose name resolves to this computer sends its own name. With a token, requests need it as a
bearer header or need the cookie that /login sets; any host name is accepted. A token may be limited to reading.
Requests from pages of other sites are always refused.
"""

from __future__ import annotations

import asyncio
import html
import ipaddress
import logging
import math
import time
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as StarletteScope

from streamer.config.web import ALL_SCOPES, Scope, Web
from streamer.core.logs import RareLog
from streamer.events.notify.push_links import PushLinks
from streamer.web.connections import CONNECTION, Connections, TooManyRequests
from streamer.web.forwarded import client_key
from streamer.web.opening_links import OPEN_PATH, USED_LINK, OpeningLinks
from streamer.web.session import LONGEST_S, Session, SessionKey, cookie_of, equal, renewed
from streamer.web.throttle import TokenThrottle

log = logging.getLogger(__name__)

WRONG_TOKEN_S = 0.5
"""Delay of the answer to a wrong token, against guessing."""
MAX_FORM_BYTES, FORM_TIMEOUT_S = 4096, 5.0
ACCESS = "access"
"""Key of a request's `Access` in the state of its ASGI scope."""
MAX_SHOWN = 200
"""Characters of a header in an answer."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser sends /login the Origin null
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every response: no foreign scripts, no framing by other sites, no caching."""


class Access(NamedTuple):
    """The sender of an allowed request."""

    name: str
    """Name of the access token."""
    scopes: frozenset[Scope]


NOTIFICATION = Access("notification", ALL_SCOPES)
"""Whoever has a link of a notification. The link itself allows one thing only."""
LOCAL = Access("page", ALL_SCOPES)
"""Whoever can reach a page without a token: everybody on this computer."""


class _Key(NamedTuple):
    """An access token."""

    access: Access
    token: str
    sessions: SessionKey


def access_of(scope: StarletteScope) -> Access:
    """Return the sender of a request that `AuthMiddleware` has let through."""
    access: Access = scope["state"][ACCESS]
    return access


class AuthMiddleware:
    """ASGI middleware that answers a request itself unless it is allowed."""

    def __init__(
        self,
        app: ASGIApp,
        web: Web,
        agent: str,
        connections: Connections,
        links: PushLinks | None = None,
        openings: OpeningLinks | None = None,
    ) -> None:
        """`links`: checks the links of notifications, which need no token. `openings`: links that log in once."""
        self._app, self._connections, self._links, self._openings = app, connections, links, openings
        self._keys = [
            _Key(Access(name, frozenset(one.scopes)), text, SessionKey(text))
            for name, one in web.all_tokens.items()
            if (text := one.token.get_secret_value())
        ]
        self._throttle = TokenThrottle(time.monotonic())
        self._cookie = f"streamer-{agent}"  # cookies are shared by all ports, and two agents may run on this computer
        self._cookie_path = f"{web.base_path or ''}/"
        self._wrong_tokens = RareLog(log, "%s received, last client %s", noun="wrong token")

    async def __call__(self, scope: StarletteScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._respond(scope, receive, send)

    async def _respond(self, scope: StarletteScope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        client = client_key(scope["client"][0] if scope["client"] else "")
        session, key = self._session(headers)
        allowed = self._refuse_site(headers) or await self._authorize(scope, receive, headers, client, key)
        if not isinstance(allowed, Access):
            await allowed(scope, receive, _with_headers(send))
            return
        scope["state"][ACCESS] = allowed
        fresh = renewed(session, time.time()) if session is not None else None
        send = _with_headers(send, None if fresh is None or key is None else self._set_cookie(fresh, key, scope))
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        connection = scope["state"][CONNECTION]
        seconds = None if session is None else (fresh or session).expires_in(time.time())
        try:
            with self._connections.serving(connection, client):
                async with asyncio.timeout(seconds) as limit:
                    await self._app(scope, receive, send)
        except TimeoutError:
            if not limit.expired():
                raise
            connection.transport.abort()  # a video or followed events; a browser with a new cookie connects again
            await asyncio.sleep(0)  # until the server knows that the connection is closed
        except TooManyRequests:
            busy = _refusal(503, "Too many requests are open: close other pages or players.", {"Retry-After": "5"})
            await busy(scope, receive, send)

    def _refuse_site(self, headers: Headers) -> Response | None:
        """Return the response to a request that other host names or other sites sent, else None."""
        host = _host_name(headers.get("host", ""))
        if not self._keys and not _is_loopback(host):
            return _refusal(
                403,
                "This page is served to this computer only: open it as localhost or 127.0.0.1. "
                "To serve it to others, set web.token in the config.",
            )
        return _foreign(headers, host)

    async def _authorize(
        self, scope: StarletteScope, receive: Receive, headers: Headers, client: str, key: _Key | None
    ) -> Response | Access:
        """Return the sender if the request is allowed, else the response to send instead. `key`: of its cookie."""
        if not self._keys:
            return LOCAL
        if self._links is not None and self._links.read(scope["path"], time.time()) is not None:
            return NOTIFICATION
        if scope["path"] == "/login":
            return await self._log_in(scope, receive, client)
        if self._openings is not None and scope["path"].startswith(OPEN_PATH) and scope["method"] == "GET":
            return await self._enter(scope, scope["path"].removeprefix(OPEN_PATH), client)
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and given.strip():
            checked = await self._check(given.strip(), client)
            if isinstance(checked, int):
                return _refusal(429, _too_many(checked), {"Retry-After": str(checked)})
            key = checked
        if key is not None:
            needed: Scope = "view" if scope["method"] in ("GET", "HEAD") else "command"
            if needed in key.access.scopes:
                return key.access
            return _refusal(
                403, f"The token {key.access.name} has no permission to {needed}: see `scopes` in the config."
            )
        if "text/html" in headers.get("accept", ""):
            return _form(scope, 401, "This page needs a token.")
        return _refusal(
            401, "Token missing or wrong: send the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )

    async def _log_in(self, scope: StarletteScope, receive: Receive, client: str) -> Response:
        """Set the cookie if the form has the token. POST only: a token in a URL would stay in histories and logs."""
        if scope["method"] != "POST":
            return _form(scope, 401, "This page needs a token.")
        given = parse_qs((await read_body(receive)).decode("latin-1")).get("token", [""])[0]
        return await self._enter(scope, given, client)

    async def _enter(self, scope: StarletteScope, given: str, client: str) -> Response:
        """Set the cookie if the token is right."""
        checked = await self._check(given, client)
        if checked is None:
            return _form(scope, 403, "Wrong token." if self._openings is None else USED_LINK)
        if isinstance(checked, int):
            return _form(scope, 429, _too_many(checked), {"Retry-After": str(checked)})
        now = int(time.time())
        root = "./" if scope["path"] == "/login" else "../"  # relative, because a proxy may serve the page below a path
        response = RedirectResponse(root, 303)
        response.headers["Set-Cookie"] = self._set_cookie(Session(now, now), checked, scope)
        return response

    async def _check(self, given: str, client: str) -> _Key | int | None:
        """Return the key whose token is given, None if it is wrong, or the seconds until one may be checked again."""
        if wait := self._throttle.wait(client, time.monotonic()):
            self._connections.refused["token_not_checked"] += 1
            return math.ceil(wait)
        name = None if self._openings is None else self._openings.take(given)
        found = [key for key in self._keys if equal(given, key.token) or key.access.name == name]
        if found:
            self._throttle.right(client, time.monotonic())
            return found[0]
        self._throttle.wrong(client, time.monotonic())
        self._wrong_tokens.add(client)
        self._connections.refused["wrong_token"] += 1
        await asyncio.sleep(WRONG_TOKEN_S)
        return None

    def _session(self, headers: Headers) -> tuple[Session, _Key] | tuple[None, None]:
        """Return the session of a request's cookie, and the key with whose token it was opened."""
        value = cookie_of(headers.get("cookie", ""), self._cookie)
        for key in self._keys if value is not None else ():
            if session := key.sessions.read(value or "", time.time()):
                return session, key
        return None, None

    def _set_cookie(self, session: Session, key: _Key, scope: StarletteScope) -> str:
        """Return the value of a Set-Cookie header."""
        left = session.opened + LONGEST_S - session.seen
        secure = "; Secure" if scope["scheme"] == "https" else ""
        value = key.sessions.write(session)
        return f"{self._cookie}={value}; Path={self._cookie_path}; Max-Age={left}; HttpOnly; SameSite=lax{secure}"


async def read_body(receive: Receive, most: int = MAX_FORM_BYTES) -> bytes:
    """Return at most `most` bytes of a request's body, or nothing if it takes longer than FORM_TIMEOUT_S."""
    body, more = b"", True
    try:
        async with asyncio.timeout(FORM_TIMEOUT_S):
            while more and len(body) < most:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
    except TimeoutError:
        return b""
    return body[:most]


def _host_name(header: str) -> str:
    """Return the host name of a Host header, without its port."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _foreign(headers: Headers, host: str) -> Response | None:
    """Return the response to a page of another site that sent a request by a script, an image or a frame; else None.

    A browser's Sec-Fetch-Site is right whatever a proxy does with the host name. Browsers send it over TLS and to
    loopback only; without it the Origin must name the host that the request is for.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site == "same-origin":
        return None
    if site not in (None, "none") and (headers.get("sec-fetch-mode") != "navigate" or origin is not None):
        return _refusal(403, "Requests from other web sites are not allowed.")
    if origin is not None and _host_name(origin.partition("://")[2]) != host:
        return _refusal(
            403,
            f"The header Origin ({origin[:MAX_SHOWN]}) names another host than the header Host "
            f"({headers.get('host', '')[:MAX_SHOWN]}). Requests from other web sites are not allowed. If a reverse "
            "proxy is in between, it must pass the header Host on; in nginx: proxy_set_header Host $http_host;",
        )
    return None


def _refusal(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{text}\n", status, headers)


def _too_many(wait: int) -> str:
    return f"Too many wrong tokens: try again in {wait} s."


def _form(scope: StarletteScope, status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    up = "../" * (scope["raw_path"].count(b"/") - 1)  # relative, because a proxy may serve the page below a path
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>streamer</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<h1>streamer</h1><p>{html.escape(text)}</p><form action="{up}login" method="post">
<label>Token <input name="token" type="password" autofocus required></label> <button>Open</button></form>
"""
    return HTMLResponse(page, status, {"WWW-Authenticate": "Bearer"} if status == 401 else headers)


def _with_headers(send: Send, cookie: str | None = None) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if cookie is not None:
                headers.append("Set-Cookie", cookie)
        await send(message)

    return send_with_headers


def _without_body(send: Send) -> Send:
    """Return a `send` that ends the response after its headers, as HEAD asks for. An endless one is told to stop."""

    async def send_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body"})

    return send_headers

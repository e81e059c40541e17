"""Access control in front of every URL.

Without a token the server listens on loopback and answers only requests for a loopback host name. This stops DNS
rebinding: a foreign page whose name resolves to this computer sends its own name. With a token, requests need it as a
bearer header or need the cookie that /login sets; any host name is accepted. Requests from pages of other sites are
always refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import html
import ipaddress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamer.config.web import Web

WRONG_TOKEN_S = 0.5
"""Delay of the answer to a wrong token, against guessing."""
MAX_FORM_BYTES, FORM_TIMEOUT_S = 4096, 5.0
COOKIE_S = 30 * 86400
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser sends /login the Origin null
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every response: no foreign scripts, no framing by other sites, no caching."""


class AuthMiddleware:
    """ASGI middleware that answers a request itself unless it is allowed."""

    def __init__(self, app: ASGIApp, web: Web, agent: str) -> None:
        self._app = app
        self._token = web.token.get_secret_value() if web.token is not None else None
        self._cookie = f"streamer-{agent}"  # cookies are shared by all ports, and two agents may run on this computer
        # Derived from the token, so that a stolen cookie does not reveal the token itself.
        self._cookie_value = hmac.digest((self._token or "").encode(), b"streamer cookie", hashlib.sha256).hex()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            respond = await self._authorize(scope, receive)
            await respond(scope, receive, _with_headers(send))

    async def _authorize(self, scope: Scope, receive: Receive) -> ASGIApp:
        """Return the application if the request is allowed, else the response to send instead."""
        headers = Headers(scope=scope)
        host = _host_name(headers.get("host", ""))
        if self._token is None and not _is_loopback(host):
            return _refusal(403, "This page is served to this computer only: open it as localhost or 127.0.0.1.")
        if _is_foreign(headers, host):
            return _refusal(403, "Requests from other web sites are not allowed.")
        if self._token is None:
            return self._app
        if scope["path"] == "/login":
            return await self._log_in(scope, receive, self._token)
        if self._is_authenticated(headers, self._token):
            return self._app
        if "text/html" in headers.get("accept", ""):
            return _form(401, "This page needs a token.")
        return _refusal(
            401, "Token missing or wrong: send the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )

    async def _log_in(self, scope: Scope, receive: Receive, token: str) -> Response:
        """Set the cookie if the form has the token. POST only: a token in a URL would stay in histories and logs."""
        if scope["method"] != "POST":
            return _form(401, "This page needs a token.")
        given = parse_qs((await _body(receive)).decode("latin-1")).get("token", [""])[0]
        if not _equal(given, token):
            await asyncio.sleep(WRONG_TOKEN_S)
            return _form(403, "Wrong token.")
        response = RedirectResponse("/", 303)
        response.set_cookie(self._cookie, self._cookie_value, max_age=COOKIE_S, httponly=True, samesite="lax")
        return response

    def _is_authenticated(self, headers: Headers, token: str) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return _equal(given.strip(), token)
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and _equal(cookie.value, self._cookie_value)


async def _body(receive: Receive) -> bytes:
    """Return at most MAX_FORM_BYTES of a request's body, or nothing if it takes longer than FORM_TIMEOUT_S."""
    body, more = b"", True
    try:
        async with asyncio.timeout(FORM_TIMEOUT_S):
            while more and len(body) < MAX_FORM_BYTES:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
    except TimeoutError:
        return b""
    return body[:MAX_FORM_BYTES]


def _equal(given: str, expected: str) -> bool:
    """Compare in constant time, so that the time does not reveal how much of `given` is right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


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


def _is_foreign(headers: Headers, host: str) -> bool:
    """Return whether a page of another site sent the request: by a script, or as an embedded image or frame."""
    origin = headers.get("origin")
    if origin is not None and _host_name(origin.partition("://")[2]) != host:
        return True
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode")
    return site not in ("none", "same-origin") and mode != "navigate"


def _refusal(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{text}\n", status, headers)


def _form(status: int, text: str) -> Response:
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>streamer</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<h1>streamer</h1><p>{html.escape(text)}</p><form action="/login" method="post">
<label>Token <input name="token" type="password" autofocus required></label> <button>Open</button></form>
"""
    return HTMLResponse(page, status, {"WWW-Authenticate": "Bearer"} if status == 401 else None)


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers

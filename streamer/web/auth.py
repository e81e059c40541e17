"""Who may look: everything is refused that is not allowed here, before anything else sees the request.

Without a token the page is on loopback, and only a browser that asked for a loopback name gets an answer: a foreign
web page whose name was made to point here (DNS rebinding) asks with its own name. With a token, whoever brings it,
as a bearer header or as the cookie that /login set, may look, under whatever name.
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
"""How long a wrong token waits for its answer."""
MAX_FORM_BYTES, FORM_S = 4096, 5.0
COOKIE_S = 30 * 86400
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser hides from /login where the form came from
    "X-Content-Type-Options": "nosniff",
}
"""With every answer. The page runs no foreign script, is shown in no foreign frame, and nothing of it is kept."""


class AuthMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, web: Web, agent: str) -> None:
        self._app = app
        self._token = web.token.get_secret_value() if web.token is not None else None
        self._cookie = f"streamer-{agent}"  # cookies know no ports, and there may be two agents on this computer
        # Not the token itself, so that who reads a browser's cookies has no token for other programs.
        self._proof = hmac.digest((self._token or "").encode(), b"streamer cookie", hashlib.sha256).hex()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await (await self._answer(scope, receive))(scope, receive, _with_headers(send))

    async def _answer(self, scope: Scope, receive: Receive) -> ASGIApp:
        headers = Headers(scope=scope)
        host = _name(headers.get("host", ""))
        if self._token is None and not _is_loopback(host):
            return _refusal(403, "This page is for this computer only: ask for it as localhost or 127.0.0.1.")
        if _is_foreign(headers, host):
            return _refusal(403, "Other web pages may not ask here.")
        if self._token is None:
            return self._app
        if scope["path"] == "/login":
            return await self._log_in(scope, receive, self._token)
        if self._knows(headers, self._token):
            return self._app
        if "text/html" in headers.get("accept", ""):
            return _form(401, "This page needs a token.")
        return _refusal(401, "A token is needed: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"})

    async def _log_in(self, scope: Scope, receive: Receive, token: str) -> Response:
        """By POST alone: a token in an address would stay in histories and logs."""
        if scope["method"] != "POST":
            return _form(401, "This page needs a token.")
        given = parse_qs((await _body(receive)).decode("latin-1")).get("token", [""])[0]
        if not _same(given, token):
            await asyncio.sleep(WRONG_TOKEN_S)
            return _form(403, "That is not the token.")
        response = RedirectResponse("/", 303)
        response.set_cookie(self._cookie, self._proof, max_age=COOKIE_S, httponly=True, samesite="lax")
        return response

    def _knows(self, headers: Headers, token: str) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return _same(given.strip(), token)
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value, self._proof)


async def _body(receive: Receive) -> bytes:
    """What was sent with a request: no more of it than a form has, and nothing when it takes too long."""
    body, more = b"", True
    try:
        async with asyncio.timeout(FORM_S):
            while more and len(body) < MAX_FORM_BYTES:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
    except TimeoutError:
        return b""
    return body[:MAX_FORM_BYTES]


def _same(given: str, right: str) -> bool:
    """Takes as long for a nearly right text as for a wrong one."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), right.encode())


def _name(host: str) -> str:
    """The host of a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
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
    """Sent by the page of another site: as a script's request, or as a picture or frame inside it."""
    origin = headers.get("origin")
    if origin is not None and _name(origin.partition("://")[2]) != host:
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
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return answer

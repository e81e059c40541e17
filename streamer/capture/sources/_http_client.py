"""HTTP requests to a camera: checked addresses, one connection per request, a time limit for everything.

Proxies of the environment are not used: cameras are in the own network, and a proxy looks up names itself.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import quote, unquote, urljoin, urlsplit

from streamer.capture.sources._deadline import SourceDeadline
from streamer.capture.sources._http_answer import Answer, Wire, failures_in_words, lost
from streamer.capture.sources.http import PORTS, Redirects
from streamer.core.addresses import Address, classify, connect, resolve
from streamer.core.digest_auth import AuthenticationUnsupportedError, Authenticator
from streamer.core.errors import AddressError, ConfigError, SourceLost, SourceRefused
from streamer.core.network_failures import describe_os_error, describe_status, status_failure
from streamer.core.redact import Url
from streamer.core.tls import Tls

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})
_WITHOUT_CONTENT = frozenset({204, 205})
_ALLOW_ANY = "to allow it, set `allow_redirects: any`"
_SAFE = "!#$%&'()*+,/:;=?@[]~"
"""Characters of a URL that are not percent-encoded."""


class Gone(SourceLost):
    """The camera knows no resource at an address, or no longer."""


@dataclass(frozen=True, slots=True)
class Target:
    """The address of a request, without user and password."""

    scheme: str
    host: str
    port: int
    path: str
    """Path and query, percent-encoded."""

    @classmethod
    def parse(cls, text: str) -> Target:
        """Raises ValueError unless `text` is an HTTP URL."""
        if re.search(r"[\x00-\x20\x7f]", text):
            raise ValueError("control character")
        parts = urlsplit(text)
        if parts.scheme not in PORTS or not parts.hostname:
            raise ValueError("not an HTTP URL")
        path = quote(parts.path or "/", _SAFE) + (f"?{quote(parts.query, _SAFE)}" if parts.query else "")
        port = PORTS[parts.scheme] if parts.port is None else parts.port
        host = parts.hostname.rstrip(".")
        if not host.isascii():
            host = host.encode("idna").decode()
            if re.fullmatch(r"[\d.]+", host):
                raise ValueError("an address in other than ASCII digits")
        return cls(parts.scheme, host, port, path)

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def netloc(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.path}"


class HttpClient:
    """Sends the requests of one connection of a source."""

    def __init__(self, url: Url, tls: Tls, redirects: Redirects, deadline: SourceDeadline) -> None:
        """Raises SourceLost if the URL cannot be used."""
        parts = urlsplit(url.reveal())
        try:
            self.start = Target.parse(url.reveal())
        except ValueError:
            raise SourceLost("the URL is not valid: check its host and port") from None
        self.deadline = deadline
        self._tls, self._redirects = tls, redirects
        self._login = None
        if parts.username is not None:
            self._login = Authenticator(
                *(unquote(text or "", errors="surrogateescape") for text in (parts.username, parts.password))
            )
        self._context: ssl.SSLContext | None = None
        self._addresses: dict[str, tuple[Address, ...]] = {}
        """Addresses by host, looked up once."""

    def get(self, target: Target, first_byte: int | None = None) -> tuple[Answer, Target]:
        """Return the answer to a request that succeeds, and its target after redirects. Raises SourceLost.

        `first_byte`: number of the first byte of the resource to ask for.
        """
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._request(target, first_byte)
            locations = answer.headers("location")
            if answer.status not in _REDIRECTS or not locations:
                return self._checked(answer), target
            answer.close()
            target = self.follow(target, quote(locations[0].encode("latin-1", "replace"), _SAFE))
        raise SourceLost(f"redirects more than {MAX_REDIRECTS} times")

    def _checked(self, answer: Answer) -> Answer:
        """Return the answer unless it is a failure. Raises SourceLost."""
        encodings = [value.strip().lower() for value in answer.headers("content-encoding")]
        if answer.status in _GONE:
            failure: SourceLost = Gone(describe_status(answer.status, self._login is not None))
        elif not 200 <= answer.status < 300:
            failure = status_failure(answer.status, self._login is not None)
        elif answer.status in _WITHOUT_CONTENT:
            failure = SourceLost(f"answers without content ({answer.status})")
        elif any(encoding not in ("", "identity") for encoding in encodings):
            failure = SourceLost("sends compressed data (Content-Encoding), which is not accepted")
        else:
            return answer
        answer.close()
        raise failure

    def follow(self, base: Target, reference: str) -> Target:
        """Return the target that an answer or a playlist refers to. Raises SourceLost if the rules forbid it."""
        try:
            target = Target.parse(urljoin(base.url, reference))
        except ValueError:
            raise SourceLost("refers to an address that is not a valid HTTP URL") from None
        if self._redirects == "any" or target.origin == self.start.origin:
            return target
        if base.scheme == "https" and target.scheme == "http":
            raise SourceLost(f"refers from https to http: {_ALLOW_ANY}")
        if not self._is_start_host(target.host):
            raise SourceLost(f"refers to another host: {_ALLOW_ANY}")
        if target.port != self.start.port and (target.port not in PORTS.values() or self._is_special()):
            raise SourceLost(f"refers to another port of its host: {_ALLOW_ANY}")
        return target

    def _is_start_host(self, host: str) -> bool:
        """Return True for the host in the config, under its name or one of its addresses."""
        if host == self.start.host:
            return True
        try:
            return ip_address(host) in self._resolve(self.start.host)
        except ValueError:
            return False

    def _is_special(self) -> bool:
        return any(classify(address) not in ("public", "private") for address in self._resolve(self.start.host))

    def _resolve(self, host: str) -> tuple[Address, ...]:
        if host not in self._addresses:
            in_config = self._is_start_host(host)
            try:
                self._addresses[host] = resolve(host, in_config=in_config)
            except AddressError as error:
                raise SourceLost(str(error)) from None
        return self._addresses[host]

    def _request(self, target: Target, first_byte: int | None) -> Answer:
        """Return the answer to a request, repeated with user and password where they may be sent."""
        login = self._login if self._may_log_in(target) else None
        answer, tries = self._send(target, first_byte, login), 1
        try:
            while (
                answer.status == 401
                and login is not None
                and login.accept(_as_sent(answer.headers("www-authenticate")), tries)
            ):
                answer.close()
                answer, tries = self._send(target, first_byte, login), tries + 1
        except AuthenticationUnsupportedError as error:
            answer.close()
            raise SourceRefused(str(error)) from None
        return answer

    def _may_log_in(self, target: Target) -> bool:
        """Return True for the origin in the config, and for the change from http to https on the usual ports."""
        start = self.start.scheme, self.start.port
        allowed = {start, ("https", 443)} if start == ("http", 80) else {start}
        return self._is_start_host(target.host) and (target.scheme, target.port) in allowed

    def _send(self, target: Target, first_byte: int | None, login: Authenticator | None) -> Answer:
        lines = [
            f"GET {target.path} HTTP/1.1",
            f"Host: {target.netloc}",
            "User-Agent: streamer",
            "Accept: */*",
            "Accept-Encoding: identity",
            "Connection: close",
        ]
        if first_byte is not None:
            lines.append(f"Range: bytes={first_byte}-")
        if login is not None and (header := login.authorization("GET", target.path)):
            lines.append(f"Authorization: {header}")
        wire = self._connect(target)
        try:
            with failures_in_words():
                wire.send("\r\n".join((*lines, "", "")).encode(errors="surrogateescape"))
            return Answer(wire)
        except BaseException:
            wire.close()
            raise

    def _connect(self, target: Target) -> Wire:
        try:
            connection = connect(self._resolve(target.host), target.port, self.deadline.left())
        except OSError as error:
            self.deadline.left()
            raise SourceLost(f"{describe_os_error(error)}{_proxy_note(target.scheme)}") from None
        try:
            if target.scheme == "https":
                connection.settimeout(self.deadline.left())
                connection = self._tls_context().wrap_socket(connection, server_hostname=target.host)
        except BaseException as error:
            connection.close()
            if not isinstance(error, OSError):
                raise
            self.deadline.left()
            raise lost(error) from None
        return Wire(connection, self.deadline)

    def _tls_context(self) -> ssl.SSLContext:
        if self._context is None:
            try:
                self._context = self._tls.tls_context()
            except ConfigError as error:  # the file may be back at the next attempt
                raise SourceLost(str(error)) from None
        return self._context


def _as_sent(values: list[str]) -> list[str]:
    """Return header values, decoded as Latin-1 by `http.client`, as `digest_auth` takes them."""
    return [value.encode("latin-1", "replace").decode(errors="surrogateescape") for value in values]


def _proxy_note(scheme: str) -> str:
    name = f"{scheme}_proxy"
    return f" ({name} is set, but cameras are reached directly)" if os.environ.get(name) else ""

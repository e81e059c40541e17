"""Imports Apprise, and bounds what it does: no log, no redirects, no files, no proxy of the environment, own mail ids.

Apprise logs URLs with their tokens, and reports a failure as False only. Its log therefore ends here; the exception or
the HTTP status behind a failure is noted for the thread that sends.
"""

from __future__ import annotations

import logging
import smtplib
import socket
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from streamer.core.tls import ClientTls

MAX_RESPONSE_BYTES = 1 << 20
"""Bytes read of a response. Services that Apprise reads answer with a few kilobytes."""

PART_BYTES = 1 << 16


@dataclass(slots=True)
class Attempt:
    """One delivery, and why it failed."""

    timeout: float
    """Seconds to connect, and between two parts of a response."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers of HTTP requests."""
    message_id: str = ""
    """`Message-ID` of e-mails."""
    tls: ClientTls | None = None
    """Certificates of HTTP requests."""
    proxy: str | None = None
    """URL of the proxy of HTTP requests."""
    status: int | None = None
    """Status of the newest HTTP response."""
    retry_after: str = ""
    error: BaseException | None = None
    """The newest exception that Apprise logged."""
    _sockets: list[socket.socket] = field(default_factory=list)
    _is_over: bool = False

    def connected(self, sock: socket.socket) -> None:
        """Note a new connection of this attempt."""
        self._sockets.append(sock.dup())  # TLS takes the socket itself away
        if self._is_over:
            self.break_off()

    def break_off(self) -> None:
        """End its connections, so that its thread ends: a server that sends a byte now and then would hold it."""
        self._is_over = True
        for sock in self._sockets:
            with suppress(OSError):  # the server has ended it
                sock.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Release what this holds of the connections."""
        sockets, self._sockets = self._sockets, []  # two threads may close them
        for sock in sockets:
            sock.close()


class _Active(threading.local):
    attempt = Attempt(timeout=10.0)


_active = _Active()


def begin(attempt: Attempt) -> None:
    """Make this thread's requests and failures those of `attempt`."""
    _active.attempt = attempt


@cache
def apprise() -> Any:
    """Return the package, with its HTTP sessions and its log replaced. It must be installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of its modules looks for a module that Python has deprecated
        import apprise
        import requests

        apprise.Apprise.instantiate("json://localhost")  # loads the services, which takes most of the time
    for name in (apprise.LOGGER_NAME, "urllib3", "requests"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [_NoteError() if name == apprise.LOGGER_NAME else logging.NullHandler()], False
        log.setLevel(logging.DEBUG if name == apprise.LOGGER_NAME else logging.WARNING)  # some failures are DEBUG only
    for module in (requests, requests.sessions):
        setattr(module, "Session", _session_class(requests))  # noqa: B010
    # Apprise adds a new id to each e-mail, beside any that a header gives; the same id makes a repeat recognizable.
    mail = import_module("apprise.plugins.email.base")
    setattr(mail, "make_msgid", lambda **_: _active.attempt.message_id)  # noqa: B010
    _note_mail_connections()
    return apprise


class _NoteError(logging.Handler):
    """Notes the exception that is being handled where Apprise logs; the record itself is not used."""

    def emit(self, record: logging.LogRecord) -> None:
        _active.attempt.error = sys.exc_info()[1] or _active.attempt.error


def _session_class(requests: Any) -> Any:
    """Return the class of sessions with time limits, a size limit, and the headers of the attempt."""

    class Adapter(requests.adapters.HTTPAdapter):  # type: ignore[misc]
        def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
            pool = super().get_connection_with_tls_context(*args, **kwargs)
            pool.ConnectionCls = _noted(pool.ConnectionCls)
            return pool

    class Session(requests.Session):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for scheme in ("http://", "https://"):
                self.mount(scheme, Adapter())
            self.trust_env = False  # no proxies, netrc and certificates of the environment

        def send(self, request: Any, **kwargs: Any) -> Any:
            attempt = _active.attempt
            request.headers.update(attempt.headers)
            kwargs.update(timeout=attempt.timeout, stream=True, allow_redirects=False)
            kwargs["proxies"] = {} if attempt.proxy is None else dict.fromkeys(("http", "https"), attempt.proxy)
            if (tls := attempt.tls) is not None and tls.ca is not None and kwargs.get("verify") is not False:
                kwargs["verify"] = str(tls.ca)
            if tls is not None and tls.cert is not None:
                kwargs["cert"] = str(tls.cert) if tls.key is None else (str(tls.cert), str(tls.key))
            response = super().send(request, **kwargs)
            attempt.status, attempt.retry_after = response.status_code, response.headers.get("retry-after", "")
            content = bytearray()
            with response, suppress(requests.RequestException):  # the status counts, whatever becomes of the rest
                for part in response.iter_content(PART_BYTES):
                    content += part
                    if len(content) >= MAX_RESPONSE_BYTES:
                        break
            response._content = bytes(content)  # `content` would read without a limit
            return response

    return Session


@cache
def _noted(connection: Any) -> Any:
    """Return a class of connections that the attempt of their thread knows."""
    if connection.__name__ == "NotedConnection":
        return connection

    class NotedConnection(connection):  # type: ignore[misc]
        def _new_conn(self) -> Any:
            sock = super()._new_conn()
            _active.attempt.connected(sock)
            return sock

    return NotedConnection


def _note_mail_connections() -> None:
    """Let the attempt of their thread know the connections to mail servers, before TLS and the greeting."""
    connect: Any = smtplib.SMTP._get_socket  # type: ignore[attr-defined]

    def noted(self: Any, host: str, port: int, timeout: float) -> Any:
        sock = connect(self, host, port, timeout)
        _active.attempt.connected(sock)
        return sock

    setattr(smtplib.SMTP, "_get_socket", noted)  # noqa: B010

"""Sends messages with Apprise.

Each message is sent in a thread of its own with a time limit: a server that sends a byte now and then would otherwise
hold a request without end. The connections of an abandoned thread are ended. While it still runs, no other one
starts.
"""

from __future__ import annotations

import errno
import logging
import smtplib
import ssl
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

from streamer.core.errors import ConfigError, SinkError, SinkRefused
from streamer.core.network_failures import describe_os_error
from streamer.core.reasons import error_id
from streamer.core.redact import Url
from streamer.core.tls import ClientTls, describe_tls_error
from streamer.events.incident_data import Severity
from streamer.events.notify._apprise_library import Attempt, apprise, begin
from streamer.events.notify._base import Message
from streamer.events.notify._secret_url import SecretUrl
from streamer.events.sinks._webhook_delivery import REFUSED, retry_after_s

log = logging.getLogger(__name__)

_TYPES: dict[Severity, str] = {
    "info": "info", "low": "info", "medium": "warning", "high": "warning", "critical": "failure",
}  # fmt: skip
"""Apprise's types by severity."""
_NTFY_PRIORITIES: dict[Severity, str] = {
    "info": "low", "low": "low", "medium": "default", "high": "high", "critical": "max",
}  # fmt: skip
_RECEIVERS_OF_ID = frozenset({"json", "jsons", "xml", "xmls", "form", "forms"})
"""Schemes of plain HTTP receivers, which get the id of the message in a header."""
_MAX_CAUSES = 10
_MAX_RETRY_AFTER_S = 3600.0
_BROKEN_OFF = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ETIMEDOUT})
"""Errors of a connection that was open: the message may have been sent."""


class AppriseMessenger:
    """One service. Raises ConfigError if Apprise does not accept its URL."""

    def __init__(self, url: SecretUrl, timeout: float, tls: ClientTls, proxy: Url | None) -> None:
        """`tls`, `proxy`: of requests by HTTP."""
        self._library, self._scheme, self._timeout = apprise(), url.scheme, timeout
        self._tls, self._proxy = tls, None if proxy is None else proxy.reveal()
        self._service = _service(self._library, url)
        self._has_priority = "priority" in parse_qs(urlsplit(url.reveal().replace("://", "://x", 1)).query)
        self._thread: threading.Thread | None = None

    def send(self, message: Message) -> None:
        if self._thread is not None and self._thread.is_alive():
            raise SinkError(f"{self._scheme}: the server still holds an earlier request", in_doubt=True)
        attempt = Attempt(self._timeout / 2, self._headers(message), f"<{message.id}@streamer>", self._tls, self._proxy)
        outcome: list[bool | BaseException] = []
        self._thread = threading.Thread(
            target=self._send, args=(message, attempt, outcome), name=f"notify {self._scheme}", daemon=True
        )
        self._thread.start()
        self._thread.join(self._timeout)
        if not outcome:
            attempt.break_off()
            raise SinkError(f"{self._scheme}: no response within {self._timeout:g} s", in_doubt=True)
        if isinstance(error := outcome[0], BaseException):
            # Its text and stack may hold the URL, so neither is logged.
            raise SinkError(f"{self._scheme}: internal error {error_id(error)} of Apprise", in_doubt=True)
        if outcome[0] is False:
            raise _failure(self._scheme, attempt)

    def close(self) -> None:
        self._thread = None

    def _send(self, message: Message, attempt: Attempt, outcome: list[bool | BaseException]) -> None:
        begin(attempt)
        try:
            self._set_options(message)
            outcome.append(
                bool(
                    self._service.notify(
                        body=message.body,
                        title=message.title,
                        notify_type="success" if message.state in ("end", "test") else _TYPES[message.severity],
                        attach=self._attachment(message),
                        body_format="text",
                    )
                )
            )
        except Exception as error:  # of one of the many services: it concerns this message only
            outcome.append(error)
        finally:
            attempt.close()

    def _headers(self, message: Message) -> dict[str, str]:
        if self._scheme in ("ntfy", "ntfys"):
            return {"X-Sequence-ID": message.topic}  # a later message with it replaces this one
        return {"webhook-id": message.id} if self._scheme in _RECEIVERS_OF_ID else {}

    def _set_options(self, message: Message) -> None:
        if self._scheme in ("ntfy", "ntfys") and not self._has_priority:
            self._service.priority = "low" if message.silent else _NTFY_PRIORITIES[message.severity]
        if self._scheme in ("mailto", "mailtos"):  # mail programs show the messages of a topic as one conversation
            thread = {"References": f"<{message.topic}@streamer>", "X-Streamer-Event": message.id}
            self._service.headers = {**self._service.headers, **thread}

    def _attachment(self, message: Message) -> Any:
        if message.picture is None or not self._service.attachment_support:
            return None
        picture = self._library.attachment.memory.AttachMemory(
            content=message.picture, name=f"{message.topic}.jpg", mimetype="image/jpeg"
        )
        return self._library.AppriseAttachment(picture)


def _service(library: Any, url: SecretUrl) -> Any:
    asset = library.AppriseAsset(
        app_id="streamer",
        app_desc="streamer",
        app_url="",
        image_url_mask="",
        image_url_logo="",
        http_redirects=False,
        storage_mode="memory",
        plugin_paths=None,
        service_timeout=0,
    )
    try:
        service = library.Apprise.instantiate(url.reveal(), asset=asset)
    except Exception as error:  # of one of the many services
        log.debug("Apprise cannot parse a URL with %s://: error %s", url.scheme, error_id(error))
        service = None
    if service is None:
        known = url.scheme in library.NotificationManager().schemas()
        problem = "is not complete or not valid" if known else "has a scheme that Apprise does not know"
        raise ConfigError(f"{url} {problem}: see https://github.com/caronc/apprise/wiki")
    service.request_rate_per_sec = 0  # it would sleep for seconds between messages; a service that limits says so
    if getattr(service, "topics", None) == []:
        raise ConfigError(f"{url} names no receiver, such as a topic, chat or address")
    return service


def _failure(scheme: str, attempt: Attempt) -> SinkError | SinkRefused:
    """Return why a delivery failed, in words that hold no part of the URL and no byte that the server sent."""
    error, status = attempt.error, attempt.status
    if status is not None and not 200 <= status < 300:
        if status in REFUSED:
            return SinkRefused(f"{scheme}: HTTP {status}")
        hint = ": check the user, password or token in `url`" if status in (401, 403) else ""
        hint = ": redirects are not followed: set `url`" if 300 <= status < 400 else hint
        return SinkError(f"{scheme}: HTTP {status}{hint}", min(_MAX_RETRY_AFTER_S, retry_after_s(attempt.retry_after)))
    match error:
        case smtplib.SMTPAuthenticationError():
            return SinkError(f"{scheme}: the server refuses the user or password")
        case smtplib.SMTPRecipientsRefused():
            codes = [code for code, _ in error.recipients.values()]
            return _smtp(scheme, max(codes, default=450))
        case smtplib.SMTPResponseException():
            return _smtp(scheme, error.smtp_code)
        case smtplib.SMTPNotSupportedError():
            return SinkError(f"{scheme}: the server does not support what `url` asks for: check user and TLS mode")
    cause = error
    if (tls := _tls_error(error)) is not None:
        return SinkError(f"{scheme}: {describe_tls_error(tls, always_verified=True)}")
    while cause is not None and not (isinstance(cause, OSError) and isinstance(cause.errno, int)):
        if isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__:
            in_doubt = "Connect" not in type(cause).__name__  # else nothing was sent
            return SinkError(f"{scheme}: no response in time", in_doubt=in_doubt)
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError):
        return SinkError(f"{scheme}: {describe_os_error(cause)}", in_doubt=cause.errno in _BROKEN_OFF)
    if type(error).__name__ == "ProxyError":
        return SinkError(f"{scheme}: the proxy refuses the connection: check `proxy`")
    reason = "the service does not accept the message" if error is None else "the connection broke off"
    return SinkError(f"{scheme}: {reason}", in_doubt=error is not None)


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Return the error of TLS behind an exception. Requests keeps it as an argument, and as the reason in that one."""
    seen = 0
    while error is not None and seen < _MAX_CAUSES:
        if isinstance(error, ssl.SSLError):
            return error
        inner = [*error.args, getattr(error, "reason", None), error.__cause__, error.__context__]
        error, seen = next((one for one in inner if isinstance(one, BaseException)), None), seen + 1
    return None


def _smtp(scheme: str, code: int) -> SinkError | SinkRefused:
    text = f"{scheme}: SMTP {code}"
    return SinkRefused(text) if 500 <= code < 600 else SinkError(text)

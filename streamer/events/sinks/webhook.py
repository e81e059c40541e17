"""Posts events over HTTP, signed as in Standard Webhooks, and repeats each until the endpoint accepts it.

A response 2xx accepts the event. 400, 413, 415 and 422 refuse it for good: it becomes a dead letter. Any other response
is a failure of the endpoint, as is a redirect, which is never followed: events wait, and one request at a time tests
whether it works again. An event that fails `MAX_ATTEMPTS` times while others are accepted becomes a dead letter.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import re
from collections import Counter, deque
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator
from standardwebhooks import Webhook as Signer

from streamer.core.backoff import exponential
from streamer.core.errors import SinkError
from streamer.core.redact import Url, remember, require_scheme
from streamer.core.settings import Name, Seconds
from streamer.events.sinks._base import NetworkSinkSettings, SinkContext, SinkProgress
from streamer.events.sinks._http_client import HttpClient, Response
from streamer.events.sinks._settled import SettledEvents
from streamer.types import Sink

FIRST_WAIT_S, MAX_WAIT_S = 1.0, 300.0
"""Delay after a failed round: the first, and the longest."""
MAX_RETRY_AFTER_S = 3600.0
"""Maximum delay that an endpoint's Retry-After can set."""
MAX_ATTEMPTS = 8
"""Failures of one event, each while others were accepted, after which it becomes a dead letter."""
REFUSED = frozenset({400, 413, 415, 422})
"""Status codes that say that the event itself will never be accepted."""
_OWN_HEADERS = frozenset(
    {
        "connection", "content-length", "content-type", "host", "proxy-authorization", "te", "trailer",
        "transfer-encoding", "upgrade", "webhook-id", "webhook-signature", "webhook-timestamp",
    }
)  # fmt: skip
_LONG_PART, _LONG_PART_WITH_DIGIT = 16, 8
"""Characters from which a part of the URL's path counts as a secret: many services put their token there."""


def _remember_long_parts(url: Url) -> Url:
    parts = urlsplit(url.reveal())
    for part in parts.path.split("/"):
        if len(part) >= (_LONG_PART_WITH_DIGIT if re.search(r"\d", part) else _LONG_PART):
            remember(part)
    for item in parts.query.split("&"):
        remember(item.partition("=")[2])
    return url


def _secret(secret: SecretStr) -> SecretStr:
    remember(secret.get_secret_value())
    with contextlib.suppress(ValueError):
        if 24 <= len(base64.b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)) <= 64:
            return secret
    raise ValueError("must be a Standard Webhooks secret: whsec_ and 24 to 64 bytes in base64")


def _headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    lower: dict[str, SecretStr] = {}
    for name, secret in headers.items():
        value = secret.get_secret_value()
        for text in (value, *value.split()):
            if len(text) >= _LONG_PART_WITH_DIGIT:
                remember(text)
        if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
            raise ValueError(f"`{name!a}` is not the name of a header")
        if name.lower() in _OWN_HEADERS or name.lower() in lower:
            raise ValueError(f"the header `{name}` is set by streamer, or given twice")
        if not re.fullmatch(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", value):
            raise ValueError(
                f"the value of `{name}` holds a control character, an outer space or no ASCII, or is empty"
            )
        lower[name.lower()] = secret
    return lower


class Webhook(NetworkSinkSettings):
    """Events by HTTP POST, one per request."""

    kind: Literal["webhook"] = "webhook"
    name: Name = "webhook"
    url: Annotated[Url, require_scheme("http", "https"), AfterValidator(_remember_long_parts)]
    """`http://` or `https://`; passwords, query values and long parts of the path never appear in a log or event."""
    headers: Annotated[dict[str, SecretStr], AfterValidator(_headers)] = Field({})
    """Further headers, such as `Authorization: Bearer …`. Their values never appear in a log or event."""
    secret: Annotated[SecretStr, AfterValidator(_secret)] | None = None
    """Standard Webhooks secret, `whsec_…`, that signs every request. Without it there is no signature."""
    in_flight: Annotated[int, Field(ge=1, le=100)] = 4
    """Concurrent requests; with 1 the events arrive in order while none fails. After a failure so many may repeat."""
    timeout: Seconds = 15.0
    """Maximum duration of one request."""

    @model_validator(mode="after")
    def _keys_are_used(self) -> Self:
        for key in ("ca", "cert"):
            if self.url.scheme == "http" and getattr(self, key) is not None:
                raise ValueError(f"{key}: only allowed with https://")
        if "authorization" in self.headers and urlsplit(self.url.reveal()).username is not None:
            raise ValueError("give either a user in `url` or the header `Authorization`, not both")
        return self

    def check(self) -> None:
        self.tls_context()

    def open(self, context: SinkContext, progress: SinkProgress) -> Sink:
        self.check()
        return _WebhookSink(self, progress)


class _WebhookSink:
    """Runs an event loop during `write`, so that a slow request can be cancelled at any moment."""

    def __init__(self, settings: Webhook, progress: SinkProgress) -> None:
        self._settings = settings
        self._host = urlsplit(settings.url.reveal()).hostname
        self._signer = None if settings.secret is None else Signer(settings.secret.get_secret_value())
        self._runner = asyncio.Runner()
        self._client = HttpClient(settings.url, settings, settings.proxy, settings.in_flight, settings.timeout)
        self._settled = SettledEvents(progress)
        self._failures: Counter[int] = Counter()  # by position, while other events were accepted
        self._failed_rounds = 0  # in a row, in which nothing was accepted

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        self._runner.run(self._round(self._settled.start(events)))

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    async def _round(self, events: Sequence[tuple[int, bytes]]) -> None:
        """Deliver all events, `in_flight` at a time. Raises SinkError at the first failure."""
        waiting = deque(events)
        size = self._settings.in_flight
        if self._failed_rounds and waiting:
            # One request, with a different event in each round: a bad event alone must not look like a bad endpoint.
            waiting.rotate(-self._failed_rounds)
            size = 1
        while waiting:
            group = [waiting.popleft() for _ in range(min(size, len(waiting)))]
            errors = await asyncio.gather(*(self._deliver(*one) for one in group))
            failed = {position: error for (position, _), error in zip(group, errors, strict=True) if error is not None}
            if len(failed) < len(group):
                self._failed_rounds = 0
                self._count_failures(failed)
            self._settled.advance()
            if failed:
                self._failed_rounds += len(failed) == len(group)
                await self._client.close()  # the host may have another address now, or a renewed certificate
                raise self._error(list(failed.values()))
            if size == 1:
                waiting = deque(sorted(waiting))
            size = self._settings.in_flight

    async def _deliver(self, position: int, body: bytes) -> SinkError | None:
        """Deliver or dead-letter one event; return the error if it is to be repeated."""
        try:
            refusal = await self._post(body)
        except SinkError as error:
            return error
        if refusal is None:
            self._settled.add(position)
        else:
            self._settled.refuse(position, refusal)
        return None

    def _count_failures(self, failed: dict[int, SinkError]) -> None:
        """Count failures while the endpoint accepts others; remove and dead-letter events at `MAX_ATTEMPTS`."""
        self._failures.update(failed.keys())
        for position in [one for one in failed if self._failures[one] >= MAX_ATTEMPTS]:
            error = failed.pop(position)
            self._settled.refuse(position, f"{error}, {MAX_ATTEMPTS} times, while other events were accepted")

    def _error(self, failed: list[SinkError]) -> SinkError:
        delay = exponential(FIRST_WAIT_S, MAX_WAIT_S, self._failed_rounds) * random.uniform(0.5, 1.0)
        requested = min(MAX_RETRY_AFTER_S, max(one.wait_s or 0.0 for one in failed))
        return SinkError(f"{self._host}: {failed[0]}", max(delay, requested))

    async def _post(self, body: bytes) -> str | None:
        """Send one event; return None if it was accepted, else why it never will be. Raises SinkError."""
        return _refusal(await self._client.post(body, self._headers(body)))

    def _headers(self, body: bytes) -> dict[str, str]:
        event_id, now = json.loads(body)["id"], datetime.now(UTC)
        headers = {
            "user-agent": "streamer",
            **{name: value.get_secret_value() for name, value in self._settings.headers.items()},
            "content-type": self._settings.content_type,
            "webhook-id": event_id,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if self._signer is not None:
            headers["webhook-signature"] = self._signer.sign(event_id, now, body.decode())
        return headers


def _refusal(response: Response) -> str | None:
    """Return None for an accepted event, the reason for a refused one. Raises SinkError for any other status."""
    status = response.status
    if 200 <= status < 300:
        return None
    if status in REFUSED:
        return f"HTTP {status}"
    if 300 <= status < 400:
        raise SinkError(f"HTTP {status}: it redirects to another address, and redirects are not followed: set `url`")
    if status == 410:
        raise SinkError("HTTP 410: the endpoint is gone for good: remove the sink or change `url`", MAX_WAIT_S)
    raise SinkError(f"HTTP {status}", _retry_after_s(response.retry_after))


def _retry_after_s(text: str) -> float:
    """Return the seconds of a Retry-After header, which is a number or a date; 0 for any other text."""
    if text.strip().isdecimal():
        return float(text)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    return 0.0

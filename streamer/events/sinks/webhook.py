"""Posts events over HTTP, signed as in Standard Webhooks, and repeats each until the endpoint accepts it.

A response 2xx accepts the event. 400, 413, 415 and 422 refuse it for good: it becomes a dead letter. Any other response
is a failure of the endpoint, as is a redirect, which is never followed: events wait, and one request at a time tests
whether it works again. An event that fails `MAX_ATTEMPTS` times while others are accepted becomes a dead letter.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import random
import re
from collections import Counter, deque
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Literal
from urllib.parse import urlsplit

import httpx2
from pydantic import AfterValidator, Field, SecretStr
from standardwebhooks import Webhook as Signer

from streamer.core.backoff import exponential
from streamer.core.errors import SinkError
from streamer.core.redact import Url, remember, require_scheme
from streamer.core.settings import Name, Seconds
from streamer.events.sinks._base import SinkContext, SinkProgress, SinkSettings
from streamer.types import Sink

CONNECT_S = 3.0
FIRST_WAIT_S, MAX_WAIT_S = 1.0, 300.0
"""Delay after a failed round: the first, and the longest."""
MAX_RETRY_AFTER_S = 3600.0
"""Maximum delay that an endpoint's Retry-After can set."""
MAX_RESPONSE_BYTES = 1 << 16
"""Bytes read of a response, so that the connection can be reused; the rest of a larger response is not read."""
MAX_ATTEMPTS = 8
"""Failures of one event, each while others were accepted, after which it becomes a dead letter."""
REFUSED = frozenset({400, 413, 415, 422})
"""Status codes that say that the event itself will never be accepted."""
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


class Webhook(SinkSettings):
    """Events by HTTP POST, one per request."""

    kind: Literal["webhook"] = "webhook"
    name: Name = "webhook"
    url: Annotated[Url, require_scheme("http", "https"), AfterValidator(_remember_long_parts)]
    """`http://` or `https://`; passwords, query values and long parts of the path never appear in a log or event."""
    secret: Annotated[SecretStr, AfterValidator(_secret)] | None = None
    """Standard Webhooks secret, `whsec_…`, that signs every request. Without it there is no signature."""
    in_flight: Annotated[int, Field(ge=1, le=100)] = 4
    """Concurrent requests; with 1 the events arrive in order while none fails. After a failure so many may repeat."""
    timeout: Seconds = 15.0
    """Maximum duration of one request."""

    def open(self, context: SinkContext, progress: SinkProgress) -> Sink:
        return _WebhookSink(self, progress)


class _WebhookSink:
    """Runs an event loop during `write`, so that a slow request can be cancelled at any moment."""

    def __init__(self, settings: Webhook, progress: SinkProgress) -> None:
        self._settings, self._progress = settings, progress
        self._host = urlsplit(settings.url.reveal()).hostname
        self._signer = None if settings.secret is None else Signer(settings.secret.get_secret_value())
        self._runner = asyncio.Runner()
        self._client: httpx2.AsyncClient | None = None
        self._settled: set[int] = set()  # positions accepted or dead-lettered, behind an earlier one that is not
        self._failures: Counter[int] = Counter()  # by position, while other events were accepted
        self._failed_rounds = 0  # in a row, in which nothing was accepted

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        self._settled &= {position for position, _ in events}
        self._runner.run(self._round(events))

    def close(self) -> None:
        if self._client is not None:
            self._runner.run(self._client.aclose())
        self._runner.close()

    async def _round(self, events: Sequence[tuple[int, bytes]]) -> None:
        """Deliver all events, `in_flight` at a time. Raises SinkError at the first failure."""
        waiting = deque(one for one in events if one[0] not in self._settled)
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
            self._advance(events)
            if failed:
                self._failed_rounds += len(failed) == len(group)
                raise self._error(list(failed.values()))
            if size == 1:
                waiting = deque(sorted(waiting))
            size = self._settings.in_flight

    async def _deliver(self, position: int, body: bytes) -> SinkError | None:
        """Deliver or dead-letter one event; return the error if it is to be repeated."""
        try:
            if refusal := await self._post(body):
                self._progress.dead_letter(position, refusal)
        except SinkError as error:
            return error
        self._settled.add(position)
        return None

    def _count_failures(self, failed: dict[int, SinkError]) -> None:
        """Count failures while the endpoint accepts others; remove and dead-letter events at `MAX_ATTEMPTS`."""
        self._failures.update(failed.keys())
        for position in [one for one in failed if self._failures[one] >= MAX_ATTEMPTS]:
            error = failed.pop(position)
            self._progress.dead_letter(position, f"{error}, {MAX_ATTEMPTS} times, while other events were accepted")
            self._settled.add(position)

    def _advance(self, events: Sequence[tuple[int, bytes]]) -> None:
        """Advance to the last event before the first one that is not settled."""
        settled = list(itertools.takewhile(lambda position: position in self._settled, (one for one, _ in events)))
        if settled:
            self._progress.advance(settled[-1])

    def _error(self, failed: list[SinkError]) -> SinkError:
        delay = exponential(FIRST_WAIT_S, MAX_WAIT_S, self._failed_rounds) * random.uniform(0.5, 1.0)
        requested = min(MAX_RETRY_AFTER_S, max(one.wait_s or 0.0 for one in failed))
        return SinkError(f"{self._host}: {failed[0]}", max(delay, requested))

    async def _post(self, body: bytes) -> str | None:
        """Send one event; return None if it was accepted, else why it never will be. Raises SinkError."""
        limit = self._settings.timeout
        try:
            async with (
                asyncio.timeout(limit),
                self._http().stream(
                    "POST", self._settings.url.reveal(), content=body, headers=self._headers(body)
                ) as response,
            ):
                await _read_to_end(response)
        except TimeoutError:
            raise SinkError(f"no response within {limit:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise SinkError(_describe(error)) from None
        return _refusal(response)

    def _http(self) -> httpx2.AsyncClient:
        if self._client is None:
            limits = httpx2.Timeout(self._settings.timeout, connect=CONNECT_S)
            self._client = httpx2.AsyncClient(timeout=limits, follow_redirects=False)
        return self._client

    def _headers(self, body: bytes) -> dict[str, str]:
        event_id, now = json.loads(body)["id"], datetime.now(UTC)
        headers = {
            "content-type": "application/cloudevents+json",
            "user-agent": "streamer",
            "webhook-id": event_id,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if self._signer is not None:
            headers["webhook-signature"] = self._signer.sign(event_id, now, body.decode())
        return headers


def _describe(error: Exception) -> str:
    """Return the cause in words of this program: the texts of some errors repeat bytes of the endpoint or of `url`."""
    match error:
        case httpx2.ConnectTimeout():
            return f"no connection within {CONNECT_S:g} s"
        case httpx2.TimeoutException():
            return "no response in time"
        case httpx2.ConnectError() | OSError():  # texts of the system and of OpenSSL
            return str(error) or "no connection"
        case httpx2.RemoteProtocolError():
            return "the response is not valid HTTP"
        case httpx2.LocalProtocolError() | httpx2.InvalidURL() | httpx2.UnsupportedProtocol():
            return "the request cannot be sent: check `url`"
        case httpx2.ProxyError():
            return "the proxy refuses the connection"
    return "the connection broke off"


async def _read_to_end(response: httpx2.Response) -> None:
    """Read and discard a small response, so that the connection can be reused."""
    size = 0
    with contextlib.suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(1.0):
            async for chunk in response.aiter_raw():
                size += len(chunk)
                if size > MAX_RESPONSE_BYTES:
                    return


def _refusal(response: httpx2.Response) -> str | None:
    """Return None for an accepted event, the reason for a refused one. Raises SinkError for any other status."""
    status = response.status_code
    if response.is_success:
        return None
    if status in REFUSED:
        return f"HTTP {status}"
    if response.is_redirect:
        raise SinkError(f"HTTP {status}: the endpoint has moved, and redirects are not followed: change `url`")
    if status == 410:
        raise SinkError("HTTP 410: the endpoint is gone for good: remove the sink or change `url`", MAX_WAIT_S)
    raise SinkError(f"HTTP {status}", _retry_after_s(response.headers.get("retry-after", "")))


def _retry_after_s(text: str) -> float:
    """Return the seconds of a Retry-After header, which is a number or a date; 0 for any other text."""
    if text.strip().isdecimal():
        return float(text)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    return 0.0

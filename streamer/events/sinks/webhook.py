"""Events by HTTP POST, signed as in Standard Webhooks, each until the endpoint has taken it.

Taken is any answer 2xx. One that says that the event is wrong (400, 413, 415, 422) makes it a dead letter, and the next
is tried. Everything else, also a redirect, which is never followed, says that the endpoint is not well: the events wait
and one at a time tries whether it is again. An event that fails while others are taken becomes a dead letter too.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import logging
import random
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
from streamer.events.sinks._base import SinkContext, SinkSettings
from streamer.types import Sink

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it would tell every request, with its whole address

CONNECT_S = 3.0
FIRST_WAIT_S, MAX_WAIT_S = 1.0, 300.0
MAX_OBEYED_S = 3600.0
"""Of the wait that an endpoint asks for."""
MAX_RESPONSE_BYTES = 1 << 16
"""Bytes that are read of an answer, so that the connection can be used again; of a larger one the rest is not."""
PATIENCE = 8
"""Failures of one event, each while others were taken, after which it is the event's own fault."""
REFUSED = frozenset({400, 413, 415, 422})
_LONG_PART = 16


def _remember_long_parts(url: Url) -> Url:
    for part in urlsplit(url.reveal()).path.split("/"):
        if len(part) >= _LONG_PART:  # many services put their token there
            remember(part)
    return url


def _secret(secret: SecretStr) -> SecretStr:
    remember(secret.get_secret_value())
    with contextlib.suppress(ValueError):
        if 24 <= len(base64.b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)) <= 64:
            return secret
    raise ValueError("must be a secret of Standard Webhooks: whsec_ and 24 to 64 bytes in base64")


class Webhook(SinkSettings):
    """Events by HTTP POST, one in each request."""

    kind: Literal["webhook"] = "webhook"
    name: Name = "webhook"
    url: Annotated[Url, require_scheme("http", "https"), AfterValidator(_remember_long_parts)]
    """`http://` or `https://`; passwords, query values and long parts of the path never reach a log or event."""
    secret: Annotated[SecretStr, AfterValidator(_secret)] | None = None
    """Signs every request: `whsec_…`, as Standard Webhooks has it. Without it there is no signature."""
    in_flight: Annotated[int, Field(ge=1, le=100)] = 4
    """Requests at once; with 1 the events arrive in order while none fails. So many may come twice after a break."""
    timeout: Seconds = 15.0
    """For one request in all."""

    def open(self, context: SinkContext) -> Sink:
        return _WebhookSink(self, context)


class _Unwell(Exception):
    """The endpoint did not take an event; `wait_s` is what it asks for."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _WebhookSink:
    """Runs an event loop while it writes: only there can a slow answer be given up at any moment."""

    def __init__(self, settings: Webhook, context: SinkContext) -> None:
        self._settings, self._context = settings, context
        self._host = urlsplit(settings.url.reveal()).hostname
        self._signer = None if settings.secret is None else Signer(settings.secret.get_secret_value())
        self._runner = asyncio.Runner()
        self._client: httpx2.AsyncClient | None = None
        self._taken: set[int] = set()  # of the events that are not done yet, because an earlier one is not
        self._faults: Counter[int] = Counter()  # by position: failures while others were taken
        self._breaks = 0  # rounds in a row in which nothing was taken

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        self._taken &= {position for position, _ in events}
        self._runner.run(self._round(events))

    def close(self) -> None:
        if self._client is not None:
            self._runner.run(self._client.aclose())
        self._runner.close()

    async def _round(self, events: Sequence[tuple[int, bytes]]) -> None:
        """Deliver all of them, some at once. Raises SinkError at the first failure."""
        line = deque(one for one in events if one[0] not in self._taken)
        size = self._settings.in_flight
        if self._breaks and line:
            # One, and another each time, so that a bad event does not pass for a bad endpoint.
            line.rotate(-self._breaks)
            size = 1
        while line:
            group = [line.popleft() for _ in range(min(size, len(line)))]
            verdicts = await asyncio.gather(*(self._deliver(*one) for one in group))
            failed = {position: why for (position, _), why in zip(group, verdicts, strict=True) if why is not None}
            if len(failed) < len(group):
                self._breaks = 0
                self._blame(failed)
            self._finish(events)
            if failed:
                self._breaks += len(failed) == len(group)
                raise self._error(list(failed.values()))
            if size == 1:
                line = deque(sorted(line))
            size = self._settings.in_flight

    async def _deliver(self, position: int, body: bytes) -> _Unwell | None:
        """Why it was not taken, if it may be later."""
        try:
            if why := await self._post(body):
                self._context.dead_letter(position, why)
        except _Unwell as error:
            return error
        self._taken.add(position)
        return None

    def _blame(self, failed: dict[int, _Unwell]) -> None:
        """The endpoint is well, so what failed may be bad by itself."""
        self._faults.update(failed.keys())
        for position in [one for one in failed if self._faults[one] >= PATIENCE]:
            why = failed.pop(position)
            self._context.dead_letter(position, f"{why}, {PATIENCE} times, while other events were taken")
            self._taken.add(position)

    def _finish(self, events: Sequence[tuple[int, bytes]]) -> None:
        """All before the first that was not taken is done."""
        done = list(itertools.takewhile(lambda position: position in self._taken, (one for one, _ in events)))
        if done:
            self._context.done(done[-1])

    def _error(self, failed: list[_Unwell]) -> SinkError:
        delay = exponential(FIRST_WAIT_S, MAX_WAIT_S, self._breaks) * random.uniform(0.5, 1.0)
        asked = min(MAX_OBEYED_S, max(one.wait_s for one in failed))
        return SinkError(f"{self._host}: {failed[0]}", max(delay, asked))

    async def _post(self, body: bytes) -> str | None:
        """None: it was taken; else why it never will be. Raises _Unwell."""
        limit = self._settings.timeout
        try:
            async with (
                asyncio.timeout(limit),
                self._http().stream(
                    "POST", self._settings.url.reveal(), content=body, headers=self._headers(body)
                ) as answer,
            ):
                await _read_away(answer)
        except TimeoutError:
            raise _Unwell(f"no answer within {limit:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise _Unwell(str(error) or type(error).__name__) from None
        return _verdict(answer)

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


async def _read_away(answer: httpx2.Response) -> None:
    """Read a small answer to its end, so that the connection can be used again. What it says does not matter."""
    size = 0
    with contextlib.suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(1.0):
            async for chunk in answer.aiter_raw():
                size += len(chunk)
                if size > MAX_RESPONSE_BYTES:
                    return


def _verdict(answer: httpx2.Response) -> str | None:
    status = answer.status_code
    if answer.is_success:
        return None
    if status in REFUSED:
        return f"HTTP {status}"
    if answer.is_redirect:
        raise _Unwell(f"HTTP {status}: it has moved, and a redirect is not followed: change `url`")
    if status == 410:
        raise _Unwell("HTTP 410: it wants no more events", MAX_WAIT_S)
    raise _Unwell(f"HTTP {status}", _asked_for(answer.headers.get("retry-after", "")))


def _asked_for(text: str) -> float:
    """Seconds of a Retry-After, which is a number or a date; 0 for what is neither."""
    if text.strip().isdecimal():
        return float(text)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    return 0.0

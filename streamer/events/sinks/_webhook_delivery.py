"""Posts events over HTTP and repeats each until the endpoint accepts it.

A response 2xx accepts the event. 400, 413, 415 and 422 refuse it for good: it becomes a dead letter. Any other response
is a failure of the endpoint, as is a redirect, which is never followed: events wait, and one request at a time tests
whether it works again. An event that fails `MAX_ATTEMPTS` times while others are accepted becomes a dead letter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from standardwebhooks import Webhook as Signer

from streamer.core.backoff import exponential
from streamer.core.errors import SinkError
from streamer.events.sinks._base import SinkProgress
from streamer.events.sinks._http_client import HttpClient, Response
from streamer.events.sinks._settled import SettledEvents

FIRST_WAIT_S, MAX_WAIT_S = 1.0, 300.0
"""Delay after a failed round: the first, and the longest."""
MAX_RETRY_AFTER_S = 3600.0
"""Maximum delay that an endpoint's Retry-After can set."""
MAX_ATTEMPTS = 8
"""Failures of one event, each while others were accepted, after which it becomes a dead letter."""
REFUSED = frozenset({400, 413, 415, 422})
"""Status codes that say that the event itself will never be accepted."""


class WebhookSink:
    """Runs an event loop during `write`, so that a slow request can be cancelled at any moment."""

    def __init__(
        self,
        client: HttpClient,
        headers: Mapping[str, str],
        signer: Signer | None,
        in_flight: int,
        progress: SinkProgress,
    ) -> None:
        self._client, self._headers, self._signer, self._in_flight = client, headers, signer, in_flight
        self._runner = asyncio.Runner()
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
        size = self._in_flight
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
            size = self._in_flight

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
        return SinkError(f"{self._client.host}: {failed[0]}", max(delay, requested))

    async def _post(self, body: bytes) -> str | None:
        """Send one event; return None if it was accepted, else why it never will be. Raises SinkError."""
        event_id, now = json.loads(body)["id"], datetime.now(UTC)
        headers = {**self._headers, "webhook-id": event_id, "webhook-timestamp": str(int(now.timestamp()))}
        if self._signer is not None:
            headers["webhook-signature"] = self._signer.sign(event_id, now, body.decode())
        return _refusal(await self._client.post(body, headers))


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
    raise SinkError(f"HTTP {status}", retry_after_s(response.retry_after))


def retry_after_s(text: str) -> float:
    """Return the seconds of a Retry-After header, which is a number or a date; 0 for any other text."""
    if text.strip().isdecimal():
        return float(text)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    return 0.0

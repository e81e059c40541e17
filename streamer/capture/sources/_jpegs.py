"""Pictures of a camera that sends JPEGs over HTTP: a stream of them, or one for each request."""

from __future__ import annotations

import time
from collections.abc import Iterator

from streamer.capture.interfaces import Picture
from streamer.capture.sources._av import OPEN_S
from streamer.capture.sources._content import check_is_video, holds_pictures
from streamer.capture.sources._http_answer import READ_BYTES, Answer
from streamer.capture.sources._http_client import HttpClient
from streamer.capture.sources._jpeg_intake import JpegIntake
from streamer.capture.sources._jpeg_splitter import JpegSplitter
from streamer.core.errors import SourceLost
from streamer.core.memory_limit import allow_pictures
from streamer.core.network_failures import BROKEN_OFF

MIN_POLL_S = 0.2
"""Shortest time between two requests for a single picture."""
MAX_DAMAGED = 3
"""Requests in a row with a picture that cannot be decoded, after which the source is lost."""
_YIELD_S = 1.0
"""Longest time without a yield between two requests: the reader learns that the source is alive."""


class JpegSource:
    """A camera that sends pictures. An answer with a single picture is asked for again at the tasks' interval.

    The media time of a picture is the time of its arrival.
    """

    note: str | None = None

    def __init__(self, client: HttpClient, answer: Answer, read_limit: float) -> None:
        self._client, self._answer, self._limit = client, answer, read_limit
        self._interval = 0.0
        self._intake = JpegIntake()

    def set_interval(self, every: float) -> bool:
        """Set the seconds between two requests. Return False: every picture that arrives can be had."""
        self._interval = every
        return False

    def close(self) -> None:
        self._answer.close()

    def __iter__(self) -> Iterator[Picture | None]:
        deadline, damaged = self._client.deadline, 0
        while True:
            asked_at, count = time.monotonic(), 0
            deadline.restart(self._limit)
            for jpeg in self._pictures():
                count += 1
                arrived = time.monotonic()
                picture = self._intake.take(jpeg, arrived, arrived)
                yield picture
                damaged = damaged + 1 if picture is None else 0
                if picture is not None:
                    deadline.restart(self._limit)
            self._answer.close()
            if count != 1:
                raise SourceLost(BROKEN_OFF if count else "the answer holds no JPEG picture")
            if damaged >= MAX_DAMAGED:
                raise SourceLost("sends pictures that cannot be decoded")
            while (left := asked_at + max(self._interval, MIN_POLL_S) - time.monotonic()) > 0:
                time.sleep(min(left, _YIELD_S))
                yield None
            deadline.restart(min(OPEN_S, self._limit))
            self._answer, _ = self._client.get(self._client.start)
            if not holds_pictures(self._answer):
                check_is_video(self._answer)

    def _pictures(self) -> Iterator[bytes]:
        """Yield the pictures of the current answer."""
        splitter = JpegSplitter()
        while data := self._answer.read(READ_BYTES):
            self._client.deadline.on_data()
            jpegs = splitter.feed(data)
            allow_pictures(splitter.pixels)
            yield from jpegs
        if (last := splitter.finish()) is not None:
            yield last

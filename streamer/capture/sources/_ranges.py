"""A file on an HTTP server, read out of order."""

from __future__ import annotations

import os

from streamer.capture.sources._http_answer import PARTIAL_CONTENT, Answer
from streamer.capture.sources._http_client import HttpClient, Target
from streamer.core.errors import SourceLost


class RangeReader:
    """Reads a file of known size. A jump is a new request, for the bytes from there on.

    An MP4 file may have its index at the end.
    """

    def __init__(self, client: HttpClient, answer: Answer, target: Target, size: int) -> None:
        """`answer`: of the whole file, from `target`."""
        self._client, self._target, self._size = client, target, size
        self._answer: Answer | None = answer
        self._position = 0

    def read(self, size: int) -> bytes:
        if self._position >= self._size:
            return b""
        if self._answer is None:
            self._answer, _ = self._client.get(self._target, self._position)
            if self._answer.status != PARTIAL_CONTENT:
                raise SourceLost("the server cannot send a file from its middle on")
        data = self._answer.read(size)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        position = min(max(0, start + offset), self._size)
        if position != self._position:
            self.close()
            self._answer, self._position = None, position
        return position

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()

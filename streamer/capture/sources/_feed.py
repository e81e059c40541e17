"""Bytes that this program reads itself, decoded by FFmpeg. FFmpeg then opens no connection and no file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from streamer.capture.interfaces import Picture
from streamer.capture.sources._av import AvSource
from streamer.capture.sources._deadline import SourceDeadline
from streamer.core.errors import SourceLost

NO_PROTOCOL = {"protocol_whitelist": "none"}
"""Option of FFmpeg: no container in the bytes can make it open anything else."""


class Reader(Protocol):
    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, b"" at the end. Raises SourceLost."""

    def close(self) -> None: ...


@runtime_checkable
class SeekableReader(Reader, Protocol):
    def seek(self, offset: int, whence: int) -> int:
        """Go to a byte, as files do; return its number."""


class Feed:
    """A file object for PyAV. `read` never raises: PyAV would print the traceback of every error but the first."""

    name = "feed"
    """FFmpeg takes the type of a file from the suffix of its name; this one has none."""

    def __init__(self, reader: Reader, deadline: SourceDeadline) -> None:
        """`deadline`: the reader's own."""
        self.failure: BaseException | None = None
        """Error that ended the bytes."""
        self._reader, self._deadline = reader, deadline

    def read(self, size: int) -> bytes:
        if self.failure is None:
            try:
                if data := self._reader.read(size):
                    self._deadline.on_data()
                return data
            except BaseException as error:  # raised again by `FedSource`: no error may be lost
                self.failure = error
        return b""

    def seekable(self) -> bool:
        return isinstance(self._reader, SeekableReader)

    def seek(self, offset: int, whence: int) -> int:
        assert isinstance(self._reader, SeekableReader)
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self.seek(0, os.SEEK_CUR)


class FedSource:
    """Frames of a live stream whose bytes come from a Feed."""

    def __init__(
        self, reader: Reader, deadline: SourceDeadline, read_limit: float, decode: Callable[[Feed], AvSource]
    ) -> None:
        """Open the stream with `decode`. Raises SourceLost.

        `deadline`: of the reader; it is restarted at each frame.
        """
        self._reader, self._deadline, self._limit = reader, deadline, read_limit
        self._feed = Feed(reader, deadline)
        try:
            self._source = decode(self._feed)
        except BaseException as error:
            reader.close()
            raise self._feed.failure or error from None

    @property
    def note(self) -> str | None:
        return self._source.note

    def __iter__(self) -> Iterator[Picture | None]:
        self._deadline.restart(self._limit)
        try:
            for picture in self._source:
                yield picture
                self._deadline.restart(self._limit)
        except SourceLost as error:
            raise self._feed.failure or error from None

    def set_interval(self, every: float) -> bool:
        return self._source.set_interval(every)

    def close(self) -> None:
        self._source.close()
        self._reader.close()

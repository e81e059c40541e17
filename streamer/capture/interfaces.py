"""Interfaces between capture and the kinds of source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Protocol, runtime_checkable

from streamer.types import Image, Luma, Pace


class Picture(Protocol):
    """A decoded picture before its conversion to BGR."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def pts(self) -> float | None:
        """Media time in seconds, None where the source gives none."""

    def write_bgr(self, out: Image) -> None:
        """Fill `out`, uint8 (height, width, 3). Raises FrameError."""

    def luma(self) -> Luma:
        """Return a small copy of the brightness, as `capture.motion_gate.shrink` makes it. Raises FrameError."""


@runtime_checkable
class Dated(Protocol):
    """A picture that was captured some time before it arrived."""

    @property
    def captured_mono(self) -> float:
        """Monotonic second of the capture, on the clock of this host."""


@runtime_checkable
class Encoded(Protocol):
    """A picture that is kept as it was encoded."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def encoded(self) -> bytes:
        """A JPEG or PNG, upright and with square pixels."""


class Source(Protocol):
    """One connection. Capture does retry, pacing and counting."""

    @property
    def note(self) -> str | None:
        """A remark for the user on how the source runs, None if there is none."""

    def __iter__(self) -> Iterator[Picture | None]:
        """Yield pictures, or None where data has arrived without one (skipped by `set_interval`, or incomplete).

        Raises SourceLost (connect again) or SourceEnded (do not).
        """

    def set_interval(self, every: float) -> bool:
        """Set the shortest time in seconds between two needed pictures; 0: all are needed.

        Return whether the source skips pictures because of it.
        """

    def close(self) -> None: ...


@runtime_checkable
class RestingSource(Protocol):
    """A source that gets frames only when they are needed: meanwhile its newest frame is an old one."""

    def rests(self, needed_at: float) -> bool:
        """Return whether its newest frame is an old one.

        `needed_at`: monotonic second at which a consumer needs the next frame; -inf: all are needed, inf: none.
        """

    def wake(self) -> None:
        """Yield soon: `needed_at` has changed. Called from any thread, also after `close`."""


class SourceSettings(Protocol):
    """Configuration of a source, and its factory."""

    modules: ClassVar[tuple[str, ...]]
    """Modules that `open` imports, which the capture processes of an agent share."""

    @property
    def pace(self) -> Pace: ...

    def open(self, read_limit: float = 15.0) -> Source:
        """Connect. Later the source raises SourceLost after `read_limit` seconds of silence; files need not.

        Raises SourceLost if another attempt may succeed, ConfigError if not.
        """

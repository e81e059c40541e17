"""Settings shared by several kinds of source."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, StringConstraints

from streamer.core.redact import Url
from streamer.core.settings import Settings
from streamer.types import MAX_PIXELS, Pace, Source


def width_and_height(size: str) -> tuple[int, int]:
    """Return the numbers of a validated Size."""
    width, height = size.split("x")
    return int(width), int(height)


def _check_size(size: str) -> str:
    width, height = width_and_height(size)
    if min(width, height) < 16 or width * height > MAX_PIXELS:
        raise ValueError("must be at least 16x16 and at most 7680x4320")
    return size


Size = Annotated[str, StringConstraints(pattern=r"^\d{1,5}x\d{1,5}$"), AfterValidator(_check_size)]
"""Width and height in pixels, for example `640x480`."""

Fps = Annotated[float, Field(gt=0, le=1000)]
"""Frames per second."""

HwAccel = Literal["none", "auto", "cuda", "qsv", "vaapi", "drm"]
"""Hardware decoder: `none` (decode on the CPU), `auto` (the first that works), or a kind of device."""

Decode = Literal["auto", "all"]
"""`auto`: key frames only, while no task, motion gate or view needs more. `all`: every frame."""


class NetworkCamera(Settings):
    """Base class of cameras with a URL."""

    pace: ClassVar[Pace] = "live"
    kind: str
    url: Url
    decode: Decode = "auto"
    """`auto`: key frames only, while no task, motion gate or view needs more. `all`: every frame."""
    hwaccel: HwAccel = "none"
    """Hardware decoder: `none` (decode on the CPU), `auto` (the first that works), or a kind of device."""

    @abstractmethod
    def options(self) -> dict[str, str]:
        """Return the options of FFmpeg's input."""

    def open(self, read_limit: float = 15.0) -> Source:
        from streamer.capture.sources._av import AvSource

        skip = self.decode == "auto"
        return AvSource(
            self.url.reveal(), self.options(), read_limit=read_limit, hwaccel=self.hwaccel, may_skip_frames=skip
        )

"""A camera connected to this computer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from streamer.capture.interfaces import Source
from streamer.capture.sources._allowed import WEBCAM
from streamer.capture.sources._fields import Fps, Size
from streamer.core.errors import SourceLost
from streamer.core.landlock import Rules
from streamer.core.settings import Settings
from streamer.types import Pace


class Webcam(Settings):
    """A camera connected to this computer (Video4Linux). It is reopened after being unplugged."""

    pace: ClassVar[Pace] = "live"
    modules: ClassVar[tuple[str, ...]] = ("streamer.capture.sources._av",)
    kind: Literal["webcam"] = "webcam"
    device: Annotated[str, Field(pattern=r"^/dev/.+$", examples=["/dev/video0"])]
    """For example `/dev/video0`, or a persistent name in `/dev/v4l/by-id/`."""
    size: Size | None = None
    """Requested width and height, such as `1280x720`. Default: the camera's current setting."""
    fps: Fps | None = None
    """Requested frames per second. Default: the camera's current setting."""
    pixel_format: Annotated[str, Field(pattern=r"^[a-z0-9]+$", examples=["mjpeg"])] | None = None
    """Requested format, such as `mjpeg` or `yuyv422`. Many cameras need `mjpeg` for full size and rate."""

    def options(self) -> dict[str, str]:
        """Return the options of FFmpeg's `v4l2` input."""
        options = {
            "video_size": self.size,
            "framerate": self.fps and f"{self.fps:g}",
            "input_format": self.pixel_format,
        }
        return {key: value for key, value in options.items() if value}

    def open(self, read_limit: float = 15.0) -> Source:
        if not Path(self.device).exists():
            raise SourceLost(f"no such device: {self.device}")
        if not Path(self.device).is_char_device():
            raise SourceLost(f"{self.device} is not a device")
        from streamer.capture.sources._av import AvSource
        from streamer.capture.sources._picture import BT601

        try:
            return AvSource(
                self.device,
                self.options(),
                read_limit=read_limit,
                container_format="v4l2",
                unstated_matrix=BT601,
                keeps_jpegs=True,
                allowed=WEBCAM,
            )
        except SourceLost as error:
            raise SourceLost(f"{self.device}: {_HINTS.get(str(error), error)}") from None

    def needs(self) -> Rules:
        """Return what a confined process needs to use the camera."""
        return Rules(devices=[Path(self.device)])


_HINTS = {
    "Inappropriate ioctl for device": "not a camera",
    "Permission denied": "permission denied: add this user to the group `video`",
    "Device or resource busy": "in use by another program",
}
"""Error text of libav (the C library's text for an errno) -> reason for the user."""

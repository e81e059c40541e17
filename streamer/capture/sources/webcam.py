"""A camera on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import StringConstraints

from streamer.capture.sources._fields import Fps, Size
from streamer.core.errors import SourceLost
from streamer.core.settings import Settings
from streamer.types import Pace, Source


class Webcam(Settings):
    """A camera on this machine, over Video4Linux. It may be unplugged and come back."""

    kind: Literal["webcam"] = "webcam"
    device: Annotated[str, StringConstraints(pattern=r"^/dev/.+$")]
    """For example `/dev/video0`, or a lasting name below `/dev/v4l/by-id/`."""
    size: Size | None = None
    """Width and height to ask of it, such as `1280x720`. Default: what it is set to."""
    fps: Fps | None = None
    """Pictures per second to ask of it. Default: what it is set to."""
    pixel_format: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+$")] | None = None
    """Format to ask of it, such as `mjpeg` or `yuyv422`; many reach full size and rate only with `mjpeg`."""

    @property
    def pace(self) -> Pace:
        return "live"

    def options(self) -> dict[str, str]:
        """What FFmpeg's `v4l2` input is told."""
        asked = {"video_size": self.size, "framerate": self.fps and f"{self.fps:g}", "input_format": self.pixel_format}
        return {key: value for key, value in asked.items() if value}

    def open(self, read_limit: float = 15.0) -> Source:
        if not Path(self.device).exists():
            raise SourceLost(f"no such device: {self.device}")
        if not Path(self.device).is_char_device():
            raise SourceLost(f"{self.device} is not a device")
        from streamer.capture.sources._av import AvSource

        try:
            return AvSource(self.device, self.options(), read_limit=read_limit, container_format="v4l2")
        except SourceLost as error:
            raise SourceLost(f"{self.device}: {_HINTS.get(str(error), error)}") from None


_HINTS = {
    "Inappropriate ioctl for device": "is not a camera",
    "Permission denied": "permission denied: this user must be in the group `video`",
    "Device or resource busy": "another program uses it",
}
"""What libav says (the C library's words for an errno), and what it means here."""

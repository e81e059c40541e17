"""Motion JPEG for browsers, through the web process; encoded only while somebody watches."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from streamer.core.ipc import check_endpoint
from streamer.video.outputs._base import OutputSettings


class Mjpeg(OutputSettings):
    """JPEG pictures one after another, served by the web page: the least delay, the most bytes."""

    SERVED = True

    kind: Literal["mjpeg"] = "mjpeg"


def jpeg_endpoint(runtime: Path, view: str) -> str:
    """Where a view gives JPEG pictures to subscribers of `jpeg`: an XPUB socket, messages `jpeg, picture`."""
    return check_endpoint(f"ipc://{runtime}/jpeg-{view}.sock")

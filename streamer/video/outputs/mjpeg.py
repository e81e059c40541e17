"""Motion JPEG for browsers, served by the web process; encoded only while a client is connected."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from streamer.core.ipc import check_endpoint
from streamer.video.outputs.base import OutputSettings, ViewId


class Mjpeg(OutputSettings):
    """Motion JPEG, served by the web process: lowest delay, highest bandwidth."""

    SERVED = True

    kind: Literal["mjpeg"] = "mjpeg"


def jpeg_endpoint(runtime: Path, view: ViewId) -> str:
    """Return the address of a view's XPUB socket. Messages: the topic `jpeg`, then one JPEG image."""
    return check_endpoint(f"ipc://{runtime}/jpeg-{view}.sock")

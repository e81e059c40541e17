"""Where annotated video goes. A new kind is one file here and one line below."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from streamer.video.outputs._base import (
    SYNC,
    EncodedFrame,
    H264Settings,
    OutputContext,
    OutputSettings,
    Writer,
    stream_of,
)
from streamer.video.outputs.hls import Hls
from streamer.video.outputs.mjpeg import Mjpeg
from streamer.video.outputs.mp4 import Mp4
from streamer.video.outputs.rtsp_push import RtspPush

__all__ = [
    "SYNC",
    "EncodedFrame",
    "H264Settings",
    "Hls",
    "Mjpeg",
    "Mp4",
    "OutputContext",
    "OutputField",
    "OutputSettings",
    "RtspPush",
    "Writer",
    "outputs_by_view",
    "stream_of",
]

OutputField = Annotated[Mjpeg | Hls | Mp4 | RtspPush, Field(discriminator="kind")]
"""The settings of any output."""


def outputs_by_view(outputs: Iterable[OutputSettings]) -> dict[str, list[OutputSettings]]:
    """Views by name, each with what takes its pictures: one per stream, and one more for `sync: true`."""
    views: dict[str, list[OutputSettings]] = {}
    for output in outputs:
        views.setdefault(output.view, []).append(output)
    return views

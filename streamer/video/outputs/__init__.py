"""Outputs of annotated video. A new kind is one file here, one import and one member of `OutputField`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from streamer.video.outputs._base import (
    CLOCK_HZ,
    EncodedFrame,
    H264Settings,
    OutputContext,
    OutputSettings,
    ViewId,
    Writer,
)
from streamer.video.outputs.hls import Hls
from streamer.video.outputs.mjpeg import Mjpeg
from streamer.video.outputs.mp4 import Mp4
from streamer.video.outputs.rtsp_push import RtspPush

__all__ = [
    "CLOCK_HZ",
    "EncodedFrame",
    "H264Settings",
    "Hls",
    "Mjpeg",
    "Mp4",
    "OutputContext",
    "OutputField",
    "OutputSettings",
    "RtspPush",
    "ViewId",
    "Writer",
    "outputs_by_view",
]

OutputField = Annotated[Mjpeg | Hls | Mp4 | RtspPush, Field(discriminator="kind")]
"""The settings of any output."""


def outputs_by_view(outputs: Iterable[OutputSettings]) -> dict[ViewId, list[OutputSettings]]:
    """Group outputs by the view whose frames they take."""
    views: dict[ViewId, list[OutputSettings]] = {}
    for output in outputs:
        views.setdefault(output.view, []).append(output)
    return views

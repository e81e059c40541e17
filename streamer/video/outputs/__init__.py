"""Outputs of annotated video. A new kind is one file here, one import and one member of `OutputField`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from streamer.video.outputs.hls import Hls
from streamer.video.outputs.mjpeg import Mjpeg
from streamer.video.outputs.mp4 import Mp4
from streamer.video.outputs.rtsp_push import RtspPush

OutputField = Annotated[Mjpeg | Hls | Mp4 | RtspPush, Field(discriminator="kind")]
"""The settings of any output."""

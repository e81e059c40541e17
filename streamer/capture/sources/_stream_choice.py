"""The choice of one video stream among the streams of a container."""

from __future__ import annotations

from typing import cast

from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from streamer.core.errors import SourceLost


def choose_stream(container: InputContainer) -> VideoStream:
    """Return the video stream that FFmpeg prefers. An attached picture is cover art, not video. Raises SourceLost."""
    videos = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    # PyAV's types do not say so: a stream has no codec context if there is no decoder for it.
    decodable = [one for one in videos if cast(VideoCodecContext | None, one.codec_context) is not None]
    if not decodable:
        raise SourceLost("has video of an unknown codec only" if videos else "has no video")
    best = container.streams.best("video")
    return best if isinstance(best, VideoStream) and best in decodable else decodable[0]

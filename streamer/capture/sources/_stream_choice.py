"""The choice of one video stream among the streams of a container.

All other streams are discarded: they are neither demuxed nor decoded, and HLS does not download them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from streamer.capture.sources._allowed import PICTURES, Allowed
from streamer.core.errors import SourceLost

_STILL = Disposition.attached_pic | Disposition.timed_thumbnails
"""A picture, not video: cover art, or previews for a seek bar."""


def choose_stream(
    container: InputContainer, allowed: Allowed, index: int | None = None
) -> tuple[VideoStream, str | None]:
    """Return the largest video stream that can be decoded, and a note for the user if there are several.

    A stream of single pictures (MJPEG, PNG) beside one of a video codec is cover art or previews that are not marked.
    `index`: choose this stream instead. The streams that are not chosen are discarded. Raises SourceLost.
    """
    videos = [one for one in container.streams.video if not one.disposition & _STILL]
    # PyAV's types do not say so: a stream has no codec context if there is no decoder for it.
    decodable = [one for one in videos if cast(VideoCodecContext | None, one.codec_context) is not None]
    if not decodable:
        if videos:
            raise SourceLost("has video of an unknown codec only")
        raise SourceLost("has no video, only sound" if container.streams.audio else "has no video")
    if index is None:
        preferred = container.streams.best("video")
        chosen = max(
            decodable,
            key=lambda one: (
                _codec(one) in allowed.codecs,
                _codec(one) not in PICTURES,
                _pixels(one),
                one is preferred,
            ),
        )
    else:
        matching = [one for one in decodable if one.index == index]
        if not matching:
            raise SourceLost(f"has no video stream {index}: choose {_listed(decodable, 'or')}")
        (chosen,) = matching
    for stream in container.streams:
        if stream is not chosen:
            stream.discard = Discard.all
    others = [one for one in decodable if one is not chosen]
    return chosen, f"plays video stream {_described(chosen)}, not {_listed(others, 'and')}" if others else None


def _codec(stream: VideoStream) -> str:
    return stream.codec_context.codec.canonical_name


def _pixels(stream: VideoStream) -> int:
    return stream.codec_context.width * stream.codec_context.height


def _described(stream: VideoStream) -> str:
    return f"{stream.index} ({stream.codec_context.width}x{stream.codec_context.height})"


def _listed(streams: Sequence[VideoStream], conjunction: str) -> str:
    *first, last = [_described(stream) for stream in streams]
    return f"{', '.join(first)} {conjunction} {last}" if first else last

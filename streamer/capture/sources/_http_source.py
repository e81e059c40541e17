"""The source that fits what a camera answers over HTTP."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from streamer.capture.sources._av import OPEN_S, AvSource
from streamer.capture.sources._deadline import Deadline
from streamer.capture.sources._feed import NO_PROTOCOL, FedSource, Feed
from streamer.capture.sources._hls import HlsReader
from streamer.capture.sources._http_answer import Answer
from streamer.capture.sources._http_client import HttpClient, Target
from streamer.capture.sources._jpegs import JpegSource
from streamer.capture.sources._playlist import is_playlist
from streamer.capture.sources._ranges import RangeReader
from streamer.core.errors import SourceLost
from streamer.types import Source

if TYPE_CHECKING:
    from streamer.capture.sources.http import Http, Snapshot

_HEAD_BYTES = 64
"""First bytes of an answer that are looked at."""
_NOT_VIDEO = {
    "text/html": "a web page",
    "text/plain": "text",
    "text/xml": "text",
    "application/xml": "text",
    "application/dash+xml": "a DASH playlist",
    "application/json": "text",
    "application/sdp": "a description of a session",
}
"""Types that no video has, in words. Other types stay out of errors: they may hold any text of the camera."""


_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html|head|body)", re.IGNORECASE)
_TEXT = re.compile(rb"[\t\r\n\x20-\x7e]*")
_PICTURE_TYPES = frozenset(
    {"image/jpeg", "image/jpg", "image/pjpeg", "video/x-motion-jpeg", "video/x-mjpeg", "video/mjpeg", "video/jpeg"}
)


def open_stream(settings: Http, read_limit: float) -> Source:
    """Connect to a camera that sends a stream, a playlist or single pictures. Raises SourceLost."""
    client, answer, target = _ask(settings, read_limit)
    try:
        if settings.format is None and _holds_pictures(answer):
            return JpegSource(client, answer, read_limit)
        reader: HlsReader | RangeReader | Answer = answer
        if settings.format is None and is_playlist(answer.peek(_HEAD_BYTES)):
            reader = HlsReader(client, answer, target, settings.stream)
        else:
            _check_is_video(answer)
            if _is_mp4(answer) and answer.size is not None:
                reader = RangeReader(client, answer, target, answer.size)
    except BaseException:
        answer.close()
        raise
    # The key `stream` chooses the variant of a master playlist, or else the stream of a container.
    stream = None if isinstance(reader, HlsReader) and reader.has_variants else settings.stream
    return FedSource(reader, client.deadline, read_limit, lambda feed: _decoder(settings, feed, read_limit, stream))


def open_snapshots(settings: Snapshot, read_limit: float) -> Source:
    """Connect to a camera that sends single pictures. Raises SourceLost."""
    client, answer, _ = _ask(settings, read_limit)
    if _holds_pictures(answer):
        return JpegSource(client, answer, read_limit)
    answer.close()
    raise SourceLost("answers with something else than a JPEG picture")


def _ask(settings: Http | Snapshot, read_limit: float) -> tuple[HttpClient, Answer, Target]:
    client = HttpClient(settings.url, settings.tls, settings.allow_redirects, Deadline(min(OPEN_S, read_limit)))
    answer, target = client.get(client.start)
    return client, answer, target


def _decoder(settings: Http, feed: Feed, read_limit: float, stream: int | None) -> AvSource:
    return AvSource(
        feed,
        {**settings.demuxer_options(), **NO_PROTOCOL},
        read_limit=read_limit,
        container_format=settings.format,
        allowed=settings.allowed.extended(settings.allow),
        hwaccel=settings.hwaccel,
        may_skip_frames=settings.decode == "auto",
        stream=stream,
    )


def _holds_pictures(answer: Answer) -> bool:
    """Return True for JPEGs, in parts or not. Some cameras send them with a wrong type."""
    if answer.content_type.startswith("multipart/"):
        return True
    head = answer.peek(_HEAD_BYTES)
    if answer.content_type in _PICTURE_TYPES:
        return not _WEB_PAGE.match(head)
    return head.startswith(b"\xff\xd8\xff") or head.lstrip().startswith(b"--")


def _is_mp4(answer: Answer) -> bool:
    return answer.peek(_HEAD_BYTES)[4:8] == b"ftyp"


def _check_is_video(answer: Answer) -> None:
    """Raise SourceLost for text and for nothing."""
    head = answer.peek(_HEAD_BYTES)
    if not head:
        raise SourceLost("the answer is empty")
    if not _TEXT.fullmatch(head):
        return
    if answer.content_type in _NOT_VIDEO:
        raise SourceLost(f"answers with {_NOT_VIDEO[answer.content_type]} ({answer.content_type}), not video")
    raise SourceLost(f"answers with {'a web page' if _WEB_PAGE.match(head) else 'text'}, not video")

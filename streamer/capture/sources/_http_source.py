"""The source that fits what a camera answers over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamer.capture.interfaces import Source
from streamer.capture.sources._av import OPEN_S, AvSource
from streamer.capture.sources._content import HEAD_BYTES, check_is_video, holds_pictures, is_mp4
from streamer.capture.sources._deadline import SourceDeadline
from streamer.capture.sources._feed import NO_PROTOCOL, FedSource, Feed
from streamer.capture.sources._hls import HlsReader
from streamer.capture.sources._http_answer import Answer
from streamer.capture.sources._http_client import HttpClient, Target
from streamer.capture.sources._jpegs import JpegSource
from streamer.capture.sources._playlist import is_playlist
from streamer.capture.sources._ranges import RangeReader
from streamer.core.errors import SourceLost

if TYPE_CHECKING:
    from streamer.capture.sources.http import Http, Snapshot


def open_stream(settings: Http, read_limit: float) -> Source:
    """Connect to a camera that sends a stream, a playlist or single pictures. Raises SourceLost."""
    client, answer, target = _ask(settings, read_limit)
    try:
        if settings.format is None and holds_pictures(answer):
            return JpegSource(client, answer, read_limit)
        reader: HlsReader | RangeReader | Answer = answer
        if settings.format is None and is_playlist(answer.peek(HEAD_BYTES)):
            reader = HlsReader(client, answer, target, settings.stream)
        else:
            check_is_video(answer)
            if is_mp4(answer) and answer.size is not None:
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
    try:
        if holds_pictures(answer):
            return JpegSource(client, answer, read_limit)
        check_is_video(answer)
        raise SourceLost("answers with video, not with a JPEG picture: use `kind: http`")
    except BaseException:
        answer.close()
        raise


def _ask(settings: Http | Snapshot, read_limit: float) -> tuple[HttpClient, Answer, Target]:
    client = HttpClient(settings.url, settings.tls, settings.allow_redirects, SourceDeadline(min(OPEN_S, read_limit)))
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

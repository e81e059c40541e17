"""HLS: the segments of a playlist as one stream of bytes.

FFmpeg's own HLS reader is not used: it would open the addresses of a playlist itself, asks for suffixes that cameras do
not use, and fetches every variant. Segments of MPEG-TS and of fragmented MP4 are made to be concatenated.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

import av

from streamer.capture.sources._failures import FAILURES
from streamer.capture.sources._http_answer import PARTIAL_CONTENT, READ_BYTES, Answer
from streamer.capture.sources._http_client import Gone, HttpClient, Target
from streamer.capture.sources._playlist import (
    MAX_PLAYLIST_BYTES,
    Key,
    Part,
    Segment,
    best_variant,
    is_playlist,
    parse_playlist,
)
from streamer.core.errors import SourceLost

MAX_ENCRYPTED_BYTES = 16 << 20
"""Largest encrypted segment: it is decrypted as a whole, which takes six times its memory."""
MIN_RELOAD_S, MAX_RELOAD_S = 0.5, 30.0
"""Limits of the time between two requests for a playlist."""
MAX_MISSING = 3
"""Segments in a row that may be gone when they are asked for, because this reader was late."""
RESTART_SEGMENTS = 10
"""A playlist that ends so many segments before the last one that was read is a new one: the camera has restarted."""


class HlsReader:
    """Reads the segments of a playlist as they appear: a live one from its last segment on."""

    def __init__(self, client: HttpClient, answer: Answer, target: Target, variant: int | None = None) -> None:
        """`answer`: of the playlist, from `target`. `variant`: as of `best_variant`. Raises SourceLost."""
        self._client = client
        text = _text(answer)
        self.has_variants = False
        """The playlist was a master playlist."""
        if (reference := best_variant(text, variant)) is not None:
            self.has_variants = True
            answer, target = client.get(client.follow(target, reference))
            text = _text(answer)
            if best_variant(text) is not None:
                raise SourceLost("the playlist refers to a master playlist again")
        self._target, self._playlist = target, parse_playlist(text)
        self._answer: Answer | None = None
        self._keys: dict[Target, bytes] = {}
        self._header: Part | None = None
        self._has_read = False
        self._chunks = self._stream()
        self._left = b""

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, b"" at the end. Raises SourceLost."""
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._left = chunk
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()

    def _stream(self) -> Iterator[bytes]:
        playlist, missing = self._playlist, 0
        following = 0 if playlist.ended or not playlist.segments else playlist.segments[-1].number
        while True:
            due = [segment for segment in playlist.segments if segment.number >= following]
            for segment in due:
                following = segment.number + 1
                try:
                    yield from self._segment(segment)
                    missing, self._has_read = 0, True
                except Gone:
                    missing += 1
                    if missing > MAX_MISSING or not self._has_read:
                        raise
            if playlist.ended:
                return
            pause_s = playlist.target_s if due else playlist.target_s / 2  # RFC 8216, 6.3.4
            self._client.deadline.sleep(min(max(pause_s, MIN_RELOAD_S), MAX_RELOAD_S))
            answer, self._target = self._client.get(self._target)
            playlist = parse_playlist(_text(answer))
            if playlist.segments and playlist.segments[-1].number + RESTART_SEGMENTS < following:
                following = playlist.segments[-1].number

    def _segment(self, segment: Segment) -> Iterator[bytes]:
        if segment.header is not None and segment.header != self._header:
            if self._header is not None:
                raise SourceLost("the format of the segments has changed")
            self._header = segment.header
            yield from self._fetch(segment.header)
        if segment.key is None:
            yield from self._fetch(segment.part)
        else:
            data = b"".join(self._fetch(segment.part, MAX_ENCRYPTED_BYTES))
            yield _decrypt(data, self._key(segment.key), segment.key.iv or segment.number.to_bytes(16))

    def _fetch(self, part: Part, limit: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of a part. Raises SourceLost if there are more than `limit`."""
        target = self._client.follow(self._target, part.reference)
        self._answer, _ = self._client.get(target, part.first)
        skipped = 0 if part.first is None or self._answer.status == PARTIAL_CONTENT else part.first
        left = None if part.size is None else skipped + part.size
        size = 0
        while left != 0 and (data := self._answer.read(READ_BYTES if left is None else min(left, READ_BYTES))):
            left = None if left is None else left - len(data)
            size += len(data)
            if limit is not None and size > limit:
                raise SourceLost(f"encrypted segment of more than {limit >> 20} MiB refused")
            if (kept := data[max(0, len(data) - (size - skipped)) :]) and size > skipped:
                yield kept
        self._answer.close()

    def _key(self, key: Key) -> bytes:
        target = self._client.follow(self._target, key.reference)
        if target not in self._keys:
            answer, _ = self._client.get(target)
            self._keys = {target: answer.read_all(16, "the key of the playlist")}
        return self._keys[target]


def _text(answer: Answer) -> str:
    body = answer.read_all(MAX_PLAYLIST_BYTES, "the playlist")
    if not is_playlist(body):
        raise SourceLost("the playlist does not begin with #EXTM3U")
    return body.decode("utf-8-sig", "replace")


def _decrypt(data: bytes, key: bytes, iv: bytes) -> bytes:
    """Return AES-128-CBC data in plain. FFmpeg does it: its protocol `crypto` reads `data`, and no other one."""
    options = {"key": key.hex(), "iv": iv.hex(), "protocol_whitelist": "crypto,data"}
    encoded = base64.b64encode(data).decode()
    try:
        with av.open(f"crypto:data:application/octet-stream;base64,{encoded}", format="data", options=options) as plain:
            return b"".join(bytes(packet) for packet in plain.demux() if packet.size)
    except FAILURES:
        raise SourceLost("a segment of the playlist cannot be decrypted") from None

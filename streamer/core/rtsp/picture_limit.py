"""A limit of the bytes of one picture: FFmpeg collects the packets of a picture without any."""

from __future__ import annotations

from streamer.core.errors import SourceLost
from streamer.core.rtsp.message import RTCP_TYPES

MAX_PICTURE_BYTES = 16 << 20
"""Bytes of RTP packets of one picture. A key frame of an 8K camera has about 5 MB."""


class PictureLimit:
    """Counts the bytes since a picture began. It ends with a marker bit, or where another timestamp follows."""

    def __init__(self) -> None:
        self._pictures: dict[int, tuple[bytes, int]] = {}
        """Timestamp and bytes so far, by channel."""

    def check(self, packets: bytes) -> None:
        """Raise SourceLost if a picture has become too large. `packets`: complete ones of an RTSP connection."""
        at = 0
        while at < len(packets):
            channel, size = packets[at + 1], int.from_bytes(packets[at + 2 : at + 4], "big")
            kind = packets[at + 5] if size > 1 else 0
            if kind not in RTCP_TYPES:
                timestamp, known = packets[at + 8 : at + 12], self._pictures.get(channel)
                count = size + (known[1] if known is not None and known[0] == timestamp else 0)
                if count > MAX_PICTURE_BYTES:
                    raise SourceLost(f"sends a picture of more than {MAX_PICTURE_BYTES >> 20} MiB")
                is_last = kind & 0x80
                self._pictures[channel] = timestamp, 0 if is_last else count
            at += 4 + size

"""Sends one H.264 stream to an RTSP server that accepts RECORD, over the TCP connection of the session."""

from __future__ import annotations

import base64
import re
import select
from contextlib import suppress

from streamer.core.closing import Closing
from streamer.core.errors import SourceLost
from streamer.core.rtsp.client import RtspClient
from streamer.core.rtsp.message import RTCP_TYPES, Message
from streamer.core.rtsp.session import Session

MAX_PACKET_BYTES = 1400
"""Longest RTP packet, the usual one for networks with 1,500 bytes a packet."""
_MAX_READS = 64
"""Reads in one `receive`, so that a server that never stops sending cannot hold up the pictures."""
_START_CODE = re.compile(rb"\x00\x00\x00?\x01")
_SPS, _PPS = 7, 8


class RtspPublisher(Closing):
    """A session that has begun to record. A file-like object for FFmpeg's RTP muxer, which writes single packets.

    All methods but `close` raise SourceLost with a reason for users.
    """

    def __init__(self, session: Session, key_frame: bytes) -> None:
        """Take over the session and announce the stream. `key_frame`: Annex B, with SPS and PPS."""
        self.client: RtspClient = session.client
        self._uri = session.server.uri
        self._session: tuple[tuple[str, str], ...] = ()
        try:
            self._request("ANNOUNCE", self._uri, ("Content-Type", "application/sdp"), body=_describe(key_frame))
            transport = ("Transport", "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record")
            answer = self._request("SETUP", f"{self._uri.removesuffix('/')}/streamid=0", transport)
            self._session = (("Session", answer.value("Session").partition(";")[0]),)
            self._request("RECORD", self._uri, ("Range", "npt=0.000-"), *self._session)
        except BaseException:
            self.client.close()
            raise
        self.client.begin_media()

    def write(self, packet: bytes) -> int:
        """Send one RTP or RTCP packet."""
        data = bytes(packet)
        channel = 1 if data[1:2] and data[1] in RTCP_TYPES else 0
        self.client.send_packets(b"$" + bytes([channel]) + len(data).to_bytes(2, "big") + data)
        return len(data)

    def receive(self) -> None:
        """Take what the server has sent, without waiting. Nothing of it is needed."""
        for _ in range(_MAX_READS):
            if not select.select([self.client.socket], [], [], 0)[0]:
                return
            if self.client.receive() is None:
                raise SourceLost("the receiver closed the connection")

    def close(self) -> None:
        """End the session."""
        with suppress(SourceLost):  # it has ended already
            self.client.send(Message(f"TEARDOWN {self._uri} RTSP/1.0", self._session))
        self.client.close()

    def _request(self, method: str, uri: str, *headers: tuple[str, str], body: bytes = b"") -> Message:
        answer = self.client.request(method, uri, *headers, body=body)
        if (failure := self.client.failure(answer)) is not None:
            raise failure
        return answer


def _describe(key_frame: bytes) -> bytes:
    """Return the SDP of an H.264 stream."""
    units = [unit for unit in _START_CODE.split(key_frame) if unit]
    parameters = [next((unit for unit in units if unit[0] & 31 == kind), b"") for kind in (_SPS, _PPS)]
    sets = ",".join(base64.b64encode(unit).decode() for unit in parameters)
    lines = [
        "v=0",
        "o=- 0 0 IN IP4 127.0.0.1",
        "s=streamer",
        "c=IN IP4 0.0.0.0",
        "t=0 0",
        "m=video 0 RTP/AVP 96",
        "a=rtpmap:96 H264/90000",
        f"a=fmtp:96 packetization-mode=1;profile-level-id={parameters[0][1:4].hex()};sprop-parameter-sets={sets}",
        "a=control:streamid=0",
    ]
    return "\r\n".join([*lines, ""]).encode()

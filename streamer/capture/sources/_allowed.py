"""Containers and codecs that FFmpeg may open for each kind of source, and its limits while it probes.

Bytes from outside choose the demuxer and the decoder, and every one of several hundred is a risk. So only those that
cameras and recordings use are allowed. `allow` of a source adds to them.

FFmpeg probes a stream before options of its decoder can be set, so hardly any decoder may run while it probes: only
those of single pictures, whose size stands nowhere else. FFmpeg knows their streams from the header, and then passes
`max_pixels` on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import AfterValidator, Field

from streamer.core.errors import SourceLost
from streamer.core.picture_limits import MAX_PIXELS

MAX_STREAMS = 64
"""Streams of a container. A recorder sends at most one per channel."""
MAX_THREADS = 4
"""Threads of a decoder: each needs memory for pictures, and one stream rarely gains from more."""
_MAX_PROBE_PACKETS = 500
"""Packets that FFmpeg keeps while it finds out the codec of a stream."""

PICTURES = frozenset({"mjpeg", "png", "gif", "webp", "bmp", "tiff", "jpeg2000"})
"""Codecs of single pictures."""
_CAMERA = PICTURES | {"h264", "hevc", "vvc", "mpeg4", "mpeg1video", "mpeg2video", "h263", "vp8", "vp9"}
_RECORDINGS = _CAMERA | {
    "av1", "rawvideo", "dvvideo", "ffv1", "huffyuv", "ffvhuff", "utvideo", "prores", "dnxhd", "theora", "flv1", "vc1",
    "wmv1", "wmv2", "wmv3", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "h261", "h263p", "h263i", "vp6", "vp6f", "cinepak",
    "msvideo1", "msrle", "qtrle", "svq1", "svq3", "mjpegb", "cfhd", "apng",
}  # fmt: skip
_STREAMED = frozenset({
    "mpegts", "mpeg", "mov", "mp4", "matroska", "webm", "flv", "asf", "ogg", "avi", "nut", "mpjpeg", "mjpeg", "h264",
    "hevc", "vvc", "m4v", "mpegvideo", "ivf", "jpeg_pipe", "png_pipe", "webp_pipe", "bmp_pipe", "gif", "aac", "mp3",
    "ac3", "eac3",
})  # fmt: skip
"""Audio containers are those of the sound of HLS."""


_RTP_CODECS = {
    "av1": "av1", "x-asf-pf": "asf", "x-qt": "mov", "x-quicktime": "mov", "x-sv3v-es": "svq3", "theora": "theora",
    "dv": "dvvideo", "vc2": "dirac", "raw": "rawvideo", "h261": "h261", "x-pn-realvideo": "rv40",
    "x-pn-multirate-realvideo-live": "rv40",
}  # fmt: skip
"""Names in an SDP whose packets FFmpeg can read, other than those of the codecs in `_CAMERA`."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Names of containers and codecs as FFmpeg writes them."""

    formats: frozenset[str]
    codecs: frozenset[str]

    def extended(self, names: Iterable[str]) -> Allowed:
        """Return a copy that allows these codecs and containers too."""
        return replace(self, formats=self.formats | {*names}, codecs=self.codecs | {*names})

    def options(self) -> dict[str, str]:
        """Return the options of FFmpeg that hold while it opens and probes."""
        return {
            "format_whitelist": ",".join(sorted(self.formats)),
            "codec_whitelist": ",".join(sorted(self.codecs & PICTURES)),
            "max_pixels": str(MAX_PIXELS),
            "max_streams": str(MAX_STREAMS),
            "max_probe_packets": str(_MAX_PROBE_PACKETS),
        }

    def check_description(self, description: bytes) -> None:
        """Raise SourceLost if an RTSP server's description (SDP) names a codec that may not be decoded.

        FFmpeg reads the packets of each codec itself, before anything is decoded.
        """
        for name in re.findall(rb"(?m)^[ \t\r]*a=rtpmap:\s*\S+\s+([^/\s]+)", description):
            if (codec := _RTP_CODECS.get(name.decode("latin-1").lower())) is not None:
                self.check_codec(codec)

    def check_codec(self, name: str) -> None:
        """Raise SourceLost unless streams of this codec may be decoded."""
        if name not in self.codecs:
            raise SourceLost(
                f"video codec {name} is not allowed by default: if you trust the source, set `allow: [{name}]`"
            )


RTSP = Allowed(frozenset({"rtsp", "sdp", "rtp", "mpegts"}), _CAMERA)
"""Without AV1: see `streamer/core/ffmpeg_faults.py`."""
HTTP = Allowed(_STREAMED, _CAMERA | {"av1"})
"""Without HLS and MJPEG in parts: `_hls.py` and `_jpegs.py` read them."""
FILE = Allowed(
    _STREAMED | {"dv", "mxf", "rm", "av1", "obu", "yuv4mpegpipe", "image2", "tiff_pipe", "apng", "h263", "h261", "wtv"},
    _RECORDINGS,
)
WEBCAM = Allowed(frozenset({"v4l2", "video4linux2"}), _CAMERA | {"rawvideo", "av1"})


def _check_known(names: list[str]) -> list[str]:
    import av

    for name in names:
        if name not in av.codecs_available and name not in av.formats_available:
            raise ValueError(f"`{name}` is no codec or container of FFmpeg {av.ffmpeg_version_info}")
    return names


Allow = Annotated[list[str], Field(max_length=16), AfterValidator(_check_known)]
"""Further codecs and containers, by FFmpeg's names."""

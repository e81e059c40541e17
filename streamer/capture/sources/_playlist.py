"""HLS playlists (RFC 8216): the best variant of a master playlist, the segments of a media playlist. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter

from streamer.core.errors import SourceLost

MAX_PLAYLIST_BYTES = 1 << 20
"""Largest playlist: 10,000 segments with long addresses."""
MAX_SEGMENTS = 20_000
_ATTRIBUTE = re.compile(r'([A-Z0-9-]+)=("[^"]*"|[^,]*)')
_NUMBER = re.compile(r"\d{1,15}")
_DECIMAL = re.compile(r"\d{1,6}(\.\d{1,9})?")
_RANGE = re.compile(r"(\d{1,15})(?:@(\d{1,15}))?")
_RESOLUTION = re.compile(r"(\d{1,5})x(\d{1,5})")
_VIDEO_CODECS = ("avc", "hvc1", "hev1", "av01", "vp8", "vp9", "vp08", "vp09", "mp4v", "jpeg")
"""Starts of the names of video codecs (RFC 6381) that cameras send and FFmpeg decodes."""
_IV = re.compile(r"0[xX]([0-9a-fA-F]{1,32})")


@dataclass(frozen=True, slots=True)
class Part:
    """A resource, or a range of its bytes."""

    reference: str
    """Relative or absolute address."""
    first: int | None = None
    """Number of its first byte, None for the whole resource."""
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """An AES-128 key."""

    reference: str
    iv: bytes | None
    """None: made from the number of the segment."""


@dataclass(frozen=True, slots=True)
class Segment:
    number: int
    part: Part
    header: Part | None
    """Data for the decoder before the first segment, None in MPEG-TS."""
    key: Key | None


@dataclass(frozen=True, slots=True)
class Playlist:
    segments: tuple[Segment, ...]
    target_s: float
    """Longest duration of a segment in seconds."""
    ended: bool
    """True if no more segments will follow."""


def is_playlist(head: bytes) -> bool:
    """Return True if these first bytes are those of a playlist."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"#EXTM3U")


def best_variant(text: str, index: int | None = None) -> str | None:
    """Return the address of the variant with most pixels, then with the highest bit rate. None: no master playlist.

    A variant that states codecs, but no video codec that can be decoded, comes last.
    `index`: choose the variant with this number instead, counted from 0. Raises SourceLost.
    """
    variants: list[tuple[tuple[bool, int, int], str]] = []
    attributes: Mapping[str, str] | None = None
    for line in _lines(text):
        if line.startswith("#EXT-X-STREAM-INF:"):
            attributes = _attributes(line)
        elif not line.startswith("#") and attributes is not None:
            bandwidth = _number(attributes.get("BANDWIDTH", ""))
            variants.append(((_is_playable(attributes), _pixels(attributes), bandwidth), line))
            attributes = None
    if not variants:
        return None
    if index is not None and index >= len(variants):
        raise SourceLost(f"has no video stream {index}: its playlist has {len(variants)} variants, counted from 0")
    return variants[index][1] if index is not None else max(variants, key=itemgetter(0))[1]


def parse_playlist(text: str) -> Playlist:
    """Return the contents of a media playlist. Raises SourceLost. Unknown tags are ignored."""
    segments: list[Segment] = []
    number, target_s, ended = 0, 0.0, False
    header, key, byte_range = None, None, ""
    ends: dict[str, int] = {}  # first byte after the last range of a resource
    for line in _lines(text):
        tag, _, value = line.partition(":")
        if not line.startswith("#"):
            part = _part(line, byte_range, ends)
            segments.append(Segment(number, part, header, key))
            number, byte_range = number + 1, ""
            if len(segments) > MAX_SEGMENTS:
                raise SourceLost(f"playlist of more than {MAX_SEGMENTS} segments refused")
        elif tag == "#EXT-X-MEDIA-SEQUENCE":
            number = _number(value)
        elif tag == "#EXT-X-TARGETDURATION":
            target_s = _decimal(value)
        elif tag == "#EXT-X-BYTERANGE":
            byte_range = value
        elif tag == "#EXT-X-MAP":
            attributes = _attributes(line)
            header = _part(attributes.get("URI", ""), attributes.get("BYTERANGE", ""), {})
        elif tag == "#EXT-X-KEY":
            key = _key(_attributes(line))
        elif tag == "#EXT-X-ENDLIST":
            ended = True
    return Playlist(tuple(segments), target_s, ended)


def _lines(text: str) -> list[str]:
    lines = (line.strip() for line in re.split(r"[\r\n]+", text))
    return [line for line in lines if line]


def _attributes(line: str) -> dict[str, str]:
    return {name: value.strip('"') for name, value in _ATTRIBUTE.findall(line.partition(":")[2])}


def _part(reference: str, byte_range: str, ends: dict[str, int]) -> Part:
    match = _RANGE.match(byte_range)
    if match is None:
        return Part(reference)
    first = ends.get(reference, 0) if match[2] is None else int(match[2])
    ends[reference] = first + int(match[1])
    return Part(reference, first, int(match[1]))


def _key(attributes: Mapping[str, str]) -> Key | None:
    method = attributes.get("METHOD", "NONE")
    if method == "NONE":
        return None
    if method != "AES-128" or attributes.get("KEYFORMAT", "identity") != "identity":
        raise SourceLost("encrypted in a way that cannot be read: only AES-128 with a key by HTTP can")
    iv = _IV.fullmatch(attributes.get("IV", ""))
    return Key(attributes.get("URI", ""), None if iv is None else bytes.fromhex(iv[1].zfill(32)))


def _is_playable(attributes: Mapping[str, str]) -> bool:
    codecs = attributes.get("CODECS", "")
    return not codecs or any(codec.strip().lower().startswith(_VIDEO_CODECS) for codec in codecs.split(","))


def _pixels(attributes: Mapping[str, str]) -> int:
    match = _RESOLUTION.fullmatch(attributes.get("RESOLUTION", ""))
    return 0 if match is None else int(match[1]) * int(match[2])


def _number(text: str) -> int:
    match = _NUMBER.match(text.strip())
    return 0 if match is None else int(match[0])


def _decimal(text: str) -> float:
    match = _DECIMAL.match(text.strip())
    return 0.0 if match is None else float(match[0])

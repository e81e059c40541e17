"""Playlists of HLS: variants, segments, ranges, keys, and texts that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.capture.sources._playlist import MAX_SEGMENTS, Key, Part, best_variant, is_playlist, parse_playlist
from streamer.core.errors import SourceLost

LIVE = """#EXTM3U
#EXT-X-VERSION:6
#EXT-X-TARGETDURATION:4
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-MAP:URI="init.mp4",BYTERANGE="600@0"
#EXTINF:3.96,title
part?id=7
#EXT-X-KEY:METHOD=AES-128,URI="https://h/key?a=1,2",IV=0x1F
#EXT-X-BYTERANGE:500@1000
#EXTINF:4,
all.mp4
#EXT-X-KEY:METHOD=NONE
#EXT-X-BYTERANGE:200
#EXTINF:4,
all.mp4
"""


def test_media_playlist_is_read() -> None:
    playlist = parse_playlist(LIVE)
    assert (playlist.target_s, playlist.ended) == (4.0, False)
    assert [segment.number for segment in playlist.segments] == [7, 8, 9]
    assert [segment.part for segment in playlist.segments] == [
        Part("part?id=7"), Part("all.mp4", 1000, 500), Part("all.mp4", 1500, 200),
    ]  # fmt: skip
    assert {segment.header for segment in playlist.segments} == {Part("init.mp4", 0, 600)}
    key = Key("https://h/key?a=1,2", bytes(15) + b"\x1f")
    assert [segment.key for segment in playlist.segments] == [None, key, None]
    assert parse_playlist(LIVE.replace("\n", "\r\n") + "#EXT-X-ENDLIST").ended


@pytest.mark.parametrize(
    ("variants", "best"),
    [
        ("BANDWIDTH=1,RESOLUTION=160x120 BANDWIDTH=9,RESOLUTION=640x480 BANDWIDTH=99,RESOLUTION=320x240", 1),
        ("BANDWIDTH=5,RESOLUTION=640x480 BANDWIDTH=9,RESOLUTION=640x480", 1),
        ("BANDWIDTH=900,CODECS=mp4a BANDWIDTH=5,RESOLUTION=640x480", 1),
        ('CODECS="dvh1.05",RESOLUTION=640x480 CODECS="mp4a.40.2,avc1.4d",RESOLUTION=320x240 CODECS="mp4a"', 1),
        ("BANDWIDTH=5 BANDWIDTH=7 BANDWIDTH=6", 1),
        ("BANDWIDTH=x,RESOLUTION=1e9x1 PROGRAM-ID=1", 0),
    ],
)
def test_best_variant_has_most_pixels_then_bits(variants: str, best: int) -> None:
    lines = [f"#EXT-X-STREAM-INF:{one}\nv{number}.m3u8" for number, one in enumerate(variants.split())]
    frames_only = '#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=9,RESOLUTION=9999x9999,URI="iframes.m3u8"'
    assert best_variant("\n".join(("#EXTM3U", frames_only, *lines))) == f"v{best}.m3u8"


def test_media_playlist_has_no_variant() -> None:
    assert best_variant(LIVE) is None


@pytest.mark.parametrize("head", [b"#EXTM3U\n", b"\xef\xbb\xbf#EXTM3U", b"\r\n #EXTM3U"])
def test_playlist_is_recognised(head: bytes) -> None:
    assert is_playlist(head)
    assert not is_playlist(b"x" + head)


@pytest.mark.parametrize("key", ["METHOD=SAMPLE-AES", 'METHOD=AES-128,KEYFORMAT="com.apple.streamingkeydelivery"'])
def test_encryption_that_cannot_be_read_is_named(key: str) -> None:
    with pytest.raises(SourceLost, match="encrypted in a way that cannot be read"):
        parse_playlist(f"#EXTM3U\n#EXT-X-KEY:{key},URI=k\n#EXTINF:1,\na.ts")


def test_number_of_segments_is_limited() -> None:
    with pytest.raises(SourceLost, match="playlist of more than 20000 segments refused"):
        parse_playlist("#EXTM3U\n" + "#EXTINF:1,\na\n" * (MAX_SEGMENTS + 1))


TAGS = [
    "#EXTM3U", "#EXTINF:", "#EXT-X-MEDIA-SEQUENCE:", "#EXT-X-TARGETDURATION:", "#EXT-X-BYTERANGE:", "#EXT-X-MAP:",
    "#EXT-X-KEY:METHOD=AES-128,", "#EXT-X-STREAM-INF:", "URI=", "IV=0x", "@", "\n", "9" * 400, "-1", "nan", "1e999",
]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(TAGS), st.text(max_size=8))))
def test_any_text_is_parsed_or_refused(pieces: list[str]) -> None:
    text = "".join(pieces)
    best_variant(text)
    try:
        playlist = parse_playlist(text)
    except SourceLost:
        return
    assert 0 <= playlist.target_s < 1e6
    assert all(0 <= segment.number < 1e16 for segment in playlist.segments)

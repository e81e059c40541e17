"""HLS cameras: live and recorded, in MPEG-TS and MP4, encrypted, and hostile ones."""

from __future__ import annotations

import io
import re
import subprocess
import time
from collections.abc import Callable
from itertools import chain, islice, repeat
from typing import Any

import av
import pytest

from streamer.capture.sources import Http, _hls
from streamer.core.errors import SourceLost
from tests.support.clips import number_in, numbered
from tests.support.http_camera import HttpCamera, Request, Route, Send, answer, head, reply
from tests.support.ts_camera import mpeg_ts

SEGMENTS = [b"".join(mpeg_ts(10, 10, begin)) for begin in range(3)]
"""One second each, with the numbers 0 to 9."""
TYPE = "application/vnd.apple.mpegurl"


def http(url: str, **keys: Any) -> Http:
    return Http.model_validate({"url": url, **keys})


def read(settings: Http, count: int, read_limit: float = 5.0) -> list[int]:
    """Return the numbers in the first pictures."""
    source = settings.open(read_limit)
    try:
        return [number_in(picture) for picture in islice((one for one in source if one is not None), count)]
    finally:
        source.close()


def failure(settings: Http, read_limit: float = 5.0) -> str:
    with pytest.raises(SourceLost) as caught:
        read(settings, 1000, read_limit)
    return str(caught.value)


def playlist(*lines: str, ended: bool = True, first: int = 0) -> Route:
    """Return the route of a media playlist with these lines; a line that is no tag is a segment of 1 s."""
    body = [line if line.startswith("#") else f"#EXTINF:1,\n{line}" for line in lines]
    start = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", f"#EXT-X-MEDIA-SEQUENCE:{first}"]
    text = "\n".join((*start, *body, *(["#EXT-X-ENDLIST"] if ended else [])))
    return reply(answer(text.encode(), TYPE))


def segment(number: int) -> Route:
    return reply(answer(SEGMENTS[number], "video/mp2t"))


def test_segments_need_no_suffix_and_no_type() -> None:
    routes = {
        "list": playlist("one", "two?id=1#x"),
        "one": reply(answer(SEGMENTS[0])),
        "two": reply(answer(SEGMENTS[1], "text/plain")),
    }
    with HttpCamera(routes) as camera:
        assert read(http(camera.url("/list?token=1")), 20) == [*range(10), *range(10)]
        assert failure(http(camera.url("/list"))) == "the stream ended"


def test_only_the_best_variant_is_fetched() -> None:
    variants = [("low", "160x120"), ("best", "256x144"), ("middle", "200x140")]
    text = "".join(f"#EXT-X-STREAM-INF:BANDWIDTH=1,RESOLUTION={size}\n{name}/a.m3u8\n" for name, size in variants)
    routes = {"master": reply(answer(f"#EXTM3U\n{text}".encode(), TYPE)), "best": playlist("/s"), "s": segment(0)}
    with HttpCamera(routes) as camera:
        assert read(http(camera.url("/master")), 10) == list(range(10))
        assert camera.paths() == ["/master", "/best/a.m3u8", "/s"]


def test_live_playlist_is_read_from_its_last_segment_on() -> None:
    started = time.monotonic()

    def send_list(request: Request, send: Send) -> None:
        first = 100 + int(time.monotonic() - started)
        playlist(*(f"s{number % 3}?n={number}" for number in range(first, first + 3)), ended=False, first=first)(
            request, send
        )

    routes = {"list": send_list, **{f"s{number}": segment(number) for number in range(3)}}
    with HttpCamera(routes) as camera:
        assert read(http(camera.url("/list")), 25) == [*range(10), *range(10), *range(5)]
        asked = [path for path in camera.paths() if path != "/list"]
    assert [int(path.partition("=")[2]) for path in asked] == [102, 103, 104]


def test_segment_that_is_gone_is_left_out() -> None:
    routes = {"list": playlist("s0", "gone", "s1"), "s0": segment(0), "s1": segment(1)}
    with HttpCamera(routes) as camera:
        assert read(http(camera.url("/list")), 20) == [*range(10), *range(10)]
    with HttpCamera({"list": playlist(*["gone"] * 9)}) as camera:
        assert failure(http(camera.url("/list"))).startswith("knows no such path (404)")


def test_restarted_camera_goes_on() -> None:
    numbers = chain([1000, 1000], repeat(0))

    def send_list(request: Request, send: Send) -> None:
        first = next(numbers)
        playlist("s0" if first else "s1", ended=False, first=first)(request, send)

    with HttpCamera({"list": send_list, "s0": segment(0), "s1": segment(1)}) as camera:
        assert read(http(camera.url("/list")), 15) == [*range(10), *range(5)]


def fragmented_mp4() -> tuple[bytes, bytes]:
    """Return the header and the fragments of 10 numbered pictures."""
    out = io.BytesIO()
    out.seekable = lambda: False  # type: ignore[method-assign]
    with av.open(out, "w", format="mp4", options={"movflags": "frag_every_frame+empty_moov+default_base_moof"}) as mp4:
        stream = mp4.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 256, 144, "yuv420p"
        stream.options = {"tune": "zerolatency", "preset": "ultrafast"}
        for number in range(10):
            mp4.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number, 256, 144), format="bgr24")))
        mp4.mux(stream.encode(None))
    data = out.getvalue()
    start = data.index(b"moof") - 4
    return data[:start], data[start:]


@pytest.mark.parametrize("ranges", [True, False])
def test_ranges_of_mp4_are_read(ranges: bool) -> None:
    """A server that ignores `Range` gives the same pictures."""
    header, fragments = fragmented_mp4()
    whole = b"junk" + header + b"more junk" + fragments
    at = whole.index(fragments)
    middle = len(fragments) // 2

    def send_file(request: Request, send: Send) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", "bytes=0-"))
        assert match is not None
        first = int(match[1]) if ranges else 0
        send(answer(whole[first:], "video/mp4", "206 Partial Content" if ranges else "200 OK"))

    lines = (
        f'#EXT-X-MAP:URI="all",BYTERANGE="{len(header)}@4"',
        f"#EXT-X-BYTERANGE:{middle}@{at}",
        "all",
        f"#EXT-X-BYTERANGE:{len(fragments) - middle}",
        "all",
    )
    with HttpCamera({"list": playlist(*lines), "all": send_file}) as camera:
        assert read(http(camera.url("/list")), 10) == list(range(10))


@pytest.mark.parametrize("iv", [None, "0x" + "a5" * 16])
def test_encrypted_segments_are_read(iv: str | None) -> None:
    key = bytes(range(16))

    def encrypted(number: int) -> Route:
        vector = iv[2:] if iv else f"{number:032x}"
        command = ["openssl", "enc", "-aes-128-cbc", "-K", key.hex(), "-iv", vector]
        return reply(answer(subprocess.run(command, input=SEGMENTS[number], capture_output=True, check=True).stdout))

    tag = '#EXT-X-KEY:METHOD=AES-128,URI="key"' + (f",IV={iv}" if iv else "")
    routes = {"list": playlist(tag, "s0", "s1"), "s0": encrypted(0), "s1": encrypted(1), "key": reply(answer(key))}
    with HttpCamera(routes) as camera:
        assert read(http(camera.url("/list")), 20) == [*range(10), *range(10)]
        assert camera.paths().count("/key") == 1
    wrong = {**routes, "key": reply(answer(bytes(20)))}
    with HttpCamera(wrong) as camera:
        assert failure(http(camera.url("/list"))) == "the key of the playlist is longer than 16 bytes"
    with HttpCamera({**routes, "key": reply(answer(bytes(3)))}) as camera:
        assert failure(http(camera.url("/list"))) == "a segment of the playlist cannot be decrypted"


def test_changed_header_ends_the_connection() -> None:
    header, fragments = fragmented_mp4()
    lines = ('#EXT-X-MAP:URI="h1"', "s", '#EXT-X-MAP:URI="h2"', "s")
    routes = {
        "list": playlist(*lines),
        **dict.fromkeys(("h1", "h2"), reply(answer(header))),
        "s": reply(answer(fragments)),
    }
    with HttpCamera(routes) as camera:
        assert failure(http(camera.url("/list"))) == "the format of the segments has changed"


def endless(line: bytes) -> Route:
    def send_for_ever(_request: Request, send: Send) -> None:
        send(head("200 OK", f"Content-Type: {TYPE}") + b"#EXTM3U\n")
        while True:
            send(line * 100)

    return send_for_ever


MASTER = b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n/list\n"


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (reply(answer(MASTER, TYPE)), "the playlist refers to a master playlist again"),
        (endless(b"#EXTINF:5,\n/f/" + b"a" * 2000 + b".ts\n"), "the playlist is longer than 1048576 bytes"),
        (endless(b"#EXT-X-STREAM-INF:BANDWIDTH=1\n/v\n"), "the playlist is longer than 1048576 bytes"),
        (playlist(*["s"] * 20_001), "playlist of more than 20000 segments refused"),
        (playlist(), "damaged, or not in a format that streamer knows"),
        (playlist("/list"), "damaged, or not in a format that streamer knows"),
    ],
)
def test_hostile_playlist_ends_in_words(route: Route, reason: str) -> None:
    with HttpCamera({"list": route}) as camera:
        assert failure(http(camera.url("/list")), 2.0) == reason


def test_live_playlist_without_news_falls_silent() -> None:
    with HttpCamera({"list": playlist("s0", ended=False), "s0": segment(0)}) as camera:
        assert failure(http(camera.url("/list")), 1.5) == "silent for 1.5 s"
        assert 2 <= camera.paths().count("/list") <= 6


def test_playlist_that_becomes_a_web_page_is_named() -> None:
    pages = iter([playlist("s0", ended=False), reply(answer(b"<html>", "text/html"))])
    with HttpCamera({"list": lambda request, send: next(pages)(request, send), "s0": segment(0)}) as camera:
        assert failure(http(camera.url("/list"))) == "the playlist does not begin with #EXTM3U"


def test_encrypted_segment_has_a_size_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hls, "MAX_ENCRYPTED_BYTES", 1 << 20)
    large: Callable[[Request, Send], None] = reply(answer(bytes(1 << 21)))
    routes = {"list": playlist('#EXT-X-KEY:METHOD=AES-128,URI="key"', "s"), "s": large, "key": reply(answer(bytes(16)))}
    with HttpCamera(routes) as camera:
        assert failure(http(camera.url("/list"))) == "encrypted segment of more than 1 MiB refused"

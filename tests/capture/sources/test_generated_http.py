"""HTTP cameras with random habits, made by a seeded generator: pictures in parts, playlists, and refusals."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from streamer.capture.sources import Http
from streamer.core.errors import SourceLost
from tests.support.clips import number_in
from tests.support.http_camera import HttpCamera, Request, Route, Send, answer, head, jpeg, reply
from tests.support.ts_camera import mpeg_ts

JPEGS = [jpeg(number) for number in range(4)]
FRAMES = 12
TS = b"".join(mpeg_ts(FRAMES, FRAMES))


def read(url: str, count: int) -> list[int]:
    source = Http.model_validate({"url": url}).open(5)
    try:
        return [number_in(picture) for picture in islice((one for one in source if one is not None), count)]
    finally:
        source.close()


def pictures_in_parts(rng: random.Random) -> Route:
    """Return the route of a camera that sends four pictures, with headers as loose as those of real cameras."""
    name = rng.choice(("frame", "--myboundary", "a b", "ffmpeg", "=_next", "x" * 70))
    stated = rng.choice((f"boundary={name}", f'boundary="{name}"', f"BOUNDARY = {name}", "boundary=other", ""))
    kind = rng.choice(("multipart/x-mixed-replace", "Multipart/X-Mixed-Replace", "multipart/mixed"))
    line = rng.choice(("--", "", "----", "\r\n--")) + name + rng.choice(("", " ", "\t"))
    newline = rng.choice(("\r\n", "\n"))
    fields = {
        "type": rng.choice(
            ("", "Content-Type: image/jpeg", "content-type:image/jpeg;q=1", "Content-type : image/pjpeg")
        ),
        "length": rng.choice(
            ("", "Content-Length: {}", "content-length:{}", "Content-Length: 0", "Content-Length: 1e9")
        ),
        "time": rng.choice(("", "X-Timestamp: 1763900000.5", "Date: today", "X-\xff: \xfe")),
        "bare": rng.choice(("", "", "no colon here", ":")),
    }
    names = [name for name in fields if fields[name]]
    rng.shuffle(names)
    after = rng.choice(("", newline, newline * 2, " "))
    size = rng.choice((1, 7, 1000, 1 << 20)) if rng.random() < 0.5 else 1 << 20

    def send_parts(_request: Request, send: Send) -> None:
        send(head("200 OK", f"Content-Type: {kind}; {stated}"))
        body = b""
        for picture in JPEGS:
            lines = [line, *(fields[name].format(len(picture)) for name in names), "", ""]
            body += newline.join(lines).encode("latin-1") + picture + after.encode()
        if size < 1000:
            body, rest = body[:500], body[500:]
            for at in range(0, len(body), size):
                send(body[at : at + size])
            body = rest
        for at in range(0, len(body), 1000 if size < 1000 else size):
            send(body[at : at + (1000 if size < 1000 else size)])

    return send_parts


@pytest.mark.parametrize("seed", range(100))
def test_pictures_in_loose_parts_are_read(seed: int) -> None:
    with HttpCamera({"video": pictures_in_parts(random.Random(seed))}) as camera:
        assert read(camera.url("/video"), 4) == [0, 1, 2, 3]


def playlists(rng: random.Random) -> tuple[dict[str, Route], set[str]]:
    """Return the routes of an HLS camera, and the first parts of the paths of its best variant."""
    suffix = rng.choice((".ts", "", ".php?x=1&y=2", ".jpg", ".m4s"))
    newline = rng.choice(("\n", "\r\n"))
    kind = rng.choice(("application/vnd.apple.mpegurl", "audio/mpegurl", "text/plain", "application/octet-stream"))
    noise = rng.sample(
        ("#EXT-X-UNKNOWN:a=b", "# comment", "", "#EXT-X-INDEPENDENT-SEGMENTS", "#EXT-X-DISCONTINUITY"), 2
    )
    mark = rng.choice(("", "\ufeff"))
    media = [
        f"{mark}#EXTM3U", "#EXT-X-TARGETDURATION:1", f"#EXT-X-MEDIA-SEQUENCE:{rng.choice((0, 7, 2**40))}", *noise,
        f"#EXTINF:{rng.choice(('0.48', '1', '0.5,title, more', '.'))}", f"segment{suffix}", "#EXT-X-ENDLIST", "",
    ]  # fmt: skip
    master, widths = [f"{mark}#EXTM3U"], {}
    for size in rng.sample((1, 2, 3), 3):
        width = rng.choice((0, 160, 320, 640))
        resolution = f",RESOLUTION={width}x90" if width else ""
        master += [f'#EXT-X-STREAM-INF:BANDWIDTH={size}000,CODECS="avc1.4d,mp4a"{resolution}', f"{size}/list"]
        widths[size] = width
    best = max(widths, key=lambda size: (widths[size], size))

    def list_of(lines: list[str]) -> Route:
        return reply(answer(newline.join(lines).encode(), kind))

    def variant(request: Request, send: Send) -> None:
        send(answer(TS, "video/mp2t") if "segment" in request.path else answer(newline.join(media).encode(), kind))

    return {"live": list_of(master), **{str(size): variant for size in (1, 2, 3)}}, {"live", str(best)}


@pytest.mark.parametrize("seed", range(60))
def test_best_variant_of_a_playlist_is_read_alone(seed: int) -> None:
    routes, expected = playlists(random.Random(seed))
    with HttpCamera(routes) as camera:
        assert read(camera.url("/live"), FRAMES - 2) == list(range(FRAMES - 2))
        assert {path.strip("/").split("/")[0] for path in camera.paths()} == expected


def refusal(rng: random.Random) -> tuple[Route, str]:
    """Return an answer without video, and the words that must stand in the reason."""
    body = rng.randbytes(rng.randint(0, 50)).hex().encode()
    page = b"<!DOCTYPE html>" + body
    length = rng.choice((len(body), 0))
    status, words = rng.choice((
        ("401 Go away", "needs a user and password (401)"), ("403 No", "forbids access (403)"),
        ("404 " + "x" * rng.randint(0, 2000), "knows no such path (404)"), ("418 Teapot", "refused the request (418)"),
        ("500 Oops", "failed (500)"), ("503 Busy", "is overloaded (503)"), ("200 OK", "with a web page"),
        ("302 Found", "redirects to another address (302)"), ("429 Slow", "got too many requests (429)"),
    ))  # fmt: skip
    if status == "200 OK":
        return reply(
            answer(page, rng.choice(("text/html", "video/mp2t", "image/jpeg", "application/octet-stream")))
        ), words
    return reply(head(status, f"Content-Length: {length}", f"X-Noise: {body.decode()}") + body[:length]), words


@pytest.mark.parametrize("seed", range(60))
def test_cause_of_a_refusal_is_named(seed: int) -> None:
    route, words = refusal(random.Random(seed))
    with HttpCamera({"video": route}) as camera, pytest.raises(SourceLost) as caught:
        read(camera.url("/video"), 1)
    assert words in str(caught.value)

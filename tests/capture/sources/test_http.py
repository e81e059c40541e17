"""Cameras over HTTP with the habits and faults of real ones, against real servers."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pydantic import ValidationError

from streamer.capture.sources import Http, Snapshot
from streamer.core.errors import SourceLost, SourceRefused
from streamer.core.redact import redact
from tests.support.certificates import Authority
from tests.support.clips import number_in, write_clip
from tests.support.http_camera import HttpCamera, Request, Route, Send, answer, head, jpeg, reply
from tests.support.ts_camera import mpeg_ts

JPEGS = [jpeg(number) for number in range(4)]
COLOURS = JPEGS[0].index(b"\xff\xc0") + 9
"""Place of the number of colours in a picture."""
MULTIPART = "multipart/x-mixed-replace; boundary=frame"
TS = b"".join(mpeg_ts(12, 12))
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


def read(settings: Any, count: int, read_limit: float = 5.0) -> list[int]:
    """Return the numbers in the first pictures of a source."""
    source = settings.open(read_limit)
    try:
        return [number_in(picture) for picture in islice((one for one in source if one is not None), count)]
    finally:
        source.close()


def http(url: str, **keys: Any) -> Http:
    return Http.model_validate({"url": url, **keys})


def failure(settings: Any, read_limit: float = 5.0) -> str:
    """Return why a source is lost."""
    with pytest.raises(SourceLost) as caught:
        read(settings, 1000, read_limit)
    assert caught.value.__cause__ is None
    return str(caught.value)


def parts(
    content_type: str = MULTIPART,
    line: bytes = b"--frame",
    types: bytes = b"Content-Type: image/jpeg\r\n",
    length: Callable[[bytes], bytes] = lambda picture: b"Content-Length: %d\r\n" % len(picture),
    end: bytes = b"\r\n",
    newline: bytes = b"\r\n",
) -> Route:
    """Return the route of a camera that sends each of `JPEGS` in a part."""

    def send_parts(_request: Request, send: Send) -> None:
        send(head("200 OK", f"Content-Type: {content_type}"))
        for picture in JPEGS:
            header = line + b"\r\n" + types + length(picture)
            send(header.replace(b"\r\n", newline) + newline + picture + end)

    return send_parts


# -- pictures in parts


@pytest.mark.parametrize(
    "route",
    [
        pytest.param(parts(), id="usual"),
        pytest.param(parts(types=b"Content-Type: image/jpeg; size=123; name=a\r\n"), id="type with parameters"),
        pytest.param(parts(types=b""), id="no type"),
        pytest.param(parts(types=b"", length=lambda _: b""), id="no header"),
        pytest.param(parts(types=b"content-TYPE :image/jpg\r\nX-Time: 1.5\r\n"), id="odd header"),
        pytest.param(parts(length=lambda _: b""), id="no length"),
        pytest.param(
            parts(length=lambda picture: b"Content-Length: %d\r\n" % (len(picture) // 2)), id="length too small"
        ),
        pytest.param(parts(length=lambda _: b"Content-Length: 99999999999\r\n"), id="length too large"),
        pytest.param(parts(length=lambda _: b"Content-Length: -1\r\n"), id="negative length"),
        pytest.param(parts(line=b"frame"), id="boundary without dashes"),
        pytest.param(parts(content_type="multipart/x-mixed-replace; boundary=--frame"), id="dashes in the type"),
        pytest.param(parts(content_type='multipart/x-mixed-replace; boundary="frame"'), id="quoted boundary"),
        pytest.param(parts(content_type="multipart/x-mixed-replace"), id="boundary not told"),
        pytest.param(parts(line=b"--other"), id="another boundary"),
        pytest.param(parts(line=b"\r\n\r\n\r\n--frame"), id="late boundary"),
        pytest.param(parts(newline=b"\n", end=b"\n"), id="bare line feeds"),
        pytest.param(parts(end=b""), id="nothing after a picture"),
        pytest.param(parts(content_type="multipart/mixed; boundary=frame"), id="multipart/mixed"),
        pytest.param(parts(content_type="application/octet-stream"), id="type of the answer unknown"),
        pytest.param(parts(content_type="text/plain"), id="type of the answer wrong"),
        pytest.param(parts(content_type="video/x-motion-jpeg", line=b"", types=b"", length=lambda _: b""), id="bare"),
    ],
)
def test_pictures_in_parts_are_read(route: Route) -> None:
    with HttpCamera({"video": route}) as camera:
        assert read(http(camera.url("/video")), 4) == [0, 1, 2, 3]


def test_chunks_need_not_match_pictures() -> None:
    body = b"".join(b"--frame\r\n\r\n" + picture for picture in JPEGS)

    def send_chunks(_request: Request, send: Send) -> None:
        send(head("200 OK", "Transfer-Encoding: chunked", f"Content-Type: {MULTIPART}"))
        for at in range(0, len(body), 1500):
            piece = body[at : at + 1500]
            send(b"%x\r\n" % len(piece) + piece + b"\r\n")

    with HttpCamera({"video": send_chunks}) as camera:
        assert read(http(camera.url("/video")), 4) == [0, 1, 2, 3]


def test_length_of_the_first_picture_does_not_end_the_stream() -> None:
    def send_parts(_request: Request, send: Send) -> None:
        send(head("200 OK", f"Content-Type: {MULTIPART}", f"Content-Length: {len(JPEGS[0])}"))
        send(b"".join(b"--frame\r\n\r\n" + picture for picture in JPEGS))

    with HttpCamera({"video": send_parts}) as camera:
        assert read(http(camera.url("/video")), 4) == [0, 1, 2, 3]


def test_damaged_picture_is_left_out() -> None:
    broken = JPEGS[0][:20] + b"\0" * 600 + JPEGS[0][620:]
    body = b"".join(b"--frame\r\n\r\n" + picture for picture in (broken, *JPEGS[1:]))
    with HttpCamera({"video": reply(head("200 OK", f"Content-Type: {MULTIPART}") + body)}) as camera:
        assert read(http(camera.url("/video")), 3)[-2:] == [2, 3] or read(http(camera.url("/video")), 3) == [1, 2, 3]


def test_camera_whose_pictures_stay_damaged_is_lost() -> None:
    """Most pictures are not decoded, so that the damage is noticed a second later."""
    broken = JPEGS[0][:COLOURS] + b"\x07" + JPEGS[0][COLOURS + 1 :]

    def send_parts(_request: Request, send: Send) -> None:
        send(head("200 OK", f"Content-Type: {MULTIPART}"))
        for picture in chain(JPEGS, repeat(broken)):
            send(b"--frame\r\n\r\n" + picture)
            time.sleep(0.02)

    with HttpCamera({"video": send_parts}) as camera:
        source = http(camera.url("/video")).open(3)
        with pytest.raises(SourceLost, match="sends data, but no frame"):
            for _ in source:
                pass
        source.close()


def test_media_time_of_a_picture_is_its_arrival() -> None:
    def send_parts(_request: Request, send: Send) -> None:
        send(head("200 OK", f"Content-Type: {MULTIPART}"))
        for picture in JPEGS:
            send(b"--frame\r\n\r\n" + picture)
            time.sleep(0.2)

    with HttpCamera({"video": send_parts}) as camera:
        source = http(camera.url("/video")).open(5)
        times = [picture.pts for picture in islice(source, 4) if picture is not None]
        source.close()
    assert None not in times
    assert 0.3 < (times[-1] or 0) - (times[0] or 0) < 60


# -- single pictures


@pytest.mark.parametrize("kind", [Http, Snapshot])
def test_single_pictures_are_polled_at_the_interval(kind: type[Http] | type[Snapshot]) -> None:
    asked: list[float] = []

    def send_picture(_request: Request, send: Send) -> None:
        asked.append(time.monotonic())
        send(answer(JPEGS[len(asked) % 4], "image/jpeg"))

    with HttpCamera({"picture.jpg": send_picture}) as camera:
        source = kind.model_validate({"url": camera.url("/picture.jpg")}).open(5)
        numbers = []
        for picture in source:
            source.set_interval(0.6)
            if picture is not None:
                numbers.append(number_in(picture))
            if len(numbers) == 4:
                break
        source.close()
    assert numbers == [1, 2, 3, 0]
    assert 1.2 < asked[-1] - asked[0] < 60, "three intervals"


def test_picture_without_type_or_end_is_polled() -> None:
    with HttpCamera({"picture": reply(answer(JPEGS[2][:-2], "application/octet-stream"))}) as camera:
        assert read(http(camera.url("/picture")), 3) == [2, 2, 2]


def test_reader_hears_of_a_snapshot_camera_between_pictures() -> None:
    with HttpCamera({"picture": reply(answer(JPEGS[0], "image/jpeg"))}) as camera:
        source = http(camera.url("/picture")).open(5)
        pictures = iter(source)
        source.set_interval(3600)
        assert next(pictures) is not None
        started = time.monotonic()
        assert next(pictures) is None
        assert time.monotonic() - started < 60
        source.close()


def test_snapshot_address_that_becomes_a_web_page_is_named() -> None:
    answers = chain([answer(JPEGS[1], "image/jpeg")], repeat(answer(PAGE, "text/html")))
    with HttpCamera({"picture": lambda _request, send: send(next(answers))}) as camera:
        for kind in (Http, Snapshot):
            settings = kind.model_validate({"url": camera.url("/picture")})
            assert failure(settings) == "answers with a web page (text/html), not video"


def test_snapshots_that_cannot_be_decoded_are_lost() -> None:
    broken = JPEGS[0][:COLOURS] + b"\x07" + JPEGS[0][COLOURS + 1 :]
    with HttpCamera({"picture": reply(answer(broken, "image/jpeg"))}) as camera:
        assert failure(http(camera.url("/picture"))) == "sends pictures that cannot be decoded"
        assert len(camera.requests) == 3


def test_snapshot_address_with_video_is_lost() -> None:
    with HttpCamera({"video": reply(answer(TS, "video/mp2t"))}) as camera:
        settings = Snapshot.model_validate({"url": camera.url("/video")})
        assert failure(settings) == "answers with video, not with a JPEG picture: use `kind: http`"


# -- containers


def test_container_is_recognised_by_its_content() -> None:
    with HttpCamera({"video": reply(answer(TS, "application/octet-stream"))}) as camera:
        assert read(http(camera.url("/video")), 10) == list(range(10))
        assert failure(http(camera.url("/video"))) == "the stream ended"


def test_format_and_options_reach_ffmpeg() -> None:
    with av.open(io.BytesIO(TS), "r") as container:
        packets = b"".join(bytes(packet) for packet in container.demux(video=0) if packet.size)
    with HttpCamera({"video": reply(answer(packets, "video/h264"))}) as camera:
        settings = http(camera.url("/video"), format="h264", options={"framerate": 10})
        source = settings.open(5)
        pictures = [picture for picture in islice(source, 6) if picture is not None]
        source.close()
        assert [number_in(picture) for picture in pictures] == list(range(6))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"options": {"protocol_whitelist": "file"}}, "`protocol_whitelist` is not an option of the container"),
        ({"options": {"format_whitelist": "hls"}}, "`format_whitelist` is not an option of the container"),
        ({"options": {"probesize": "1;2"}}, "String should match pattern"),
        ({"format": "concat:a"}, "String should match pattern"),
        ({"allow_redirects": "all"}, "'same_host' or 'any'"),
        ({"url": "http://h/a\r\nX: y"}, "space or control character"),
        ({"url": "http://u%0d%0a:word@h/a"}, "control character"),
    ],
)
def test_unsafe_keys_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Http.model_validate({"url": "http://h/a", **keys})
    assert message in str(caught.value)


# -- the true cause


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (answer(PAGE, "text/html; charset=utf-8"), "answers with a web page (text/html), not video"),
        (answer(PAGE, "video/mp2t"), "answers with a web page, not video"),
        (answer(PAGE, "image/jpeg"), "answers with a web page, not video"),
        (answer(b'{"error": "busy"}', "application/json"), "answers with text (application/json), not video"),
        (answer(b"no", "text/gar4denword"), "answers with text, not video"),
        (answer(b"", "video/mp2t"), "the answer is empty"),
        (answer(b"", MULTIPART), "the answer holds no JPEG picture"),
        (answer(b"", "", "204 No Content"), "answers without content (204)"),
        (answer(b"", "", "404 Not Found"), "knows no such path (404): check the path of the URL"),
        (answer(b"", "", "410 Gone"), "refused the request (410)"),
        (answer(b"", "", "500 Oh"), "failed (500)"),
        (answer(b"", "", "503 Busy"), "is overloaded (503): the limit of its sessions may be reached"),
        (answer(b"", "", "302 Found"), "redirects to another address (302)"),
        (answer(b"x" * 100, "video/mp2t", "200 OK", "Content-Encoding: gzip"), "sends compressed data"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the answer is not valid HTTP"),
        (b"", "the connection broke off"),
    ],
)  # fmt: skip
def test_wrong_answer_is_named(data: bytes, reason: str) -> None:
    with HttpCamera({"video": reply(data)}) as camera:
        assert reason in failure(http(camera.url("/video")))


def test_sound_without_video_is_named() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="mpegts") as sound:
        stream = sound.add_stream("mp2", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
        frame.sample_rate = 48000
        for _ in range(60):
            sound.mux(stream.encode(frame))
        sound.mux(stream.encode(None))
    with HttpCamera({"sound": reply(answer(out.getvalue(), "video/mp2t"))}) as camera:
        assert failure(http(camera.url("/sound"))) == "has no video, only sound"


def test_host_without_name_or_route_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "host name unknown" in failure(http("http://no-such-camera.invalid/"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert failure(http(f"http://127.0.0.1:{port}/")) == "connection refused: nothing listens there"
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    assert failure(http(f"http://127.0.0.1:{port}/")).endswith("(http_proxy is set, but cameras are reached directly)")


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with HttpCamera({"video": parts()}) as camera:
        assert read(http(camera.url("/video")), 1) == [0]


# -- users and passwords


def locked(*challenges: str, accept: Callable[[Request], bool]) -> Route:
    def send_video(request: Request, send: Send) -> None:
        if accept(request):
            parts()(request, send)
        else:
            send(answer(b"", "", "401 Unauthorized", *(f"WWW-Authenticate: {one}" for one in challenges)))

    return send_video


def has_basic(request: Request) -> bool:
    return request.headers.get("authorization") == "Basic " + base64.b64encode(b"cam:s3cret/word").decode()


def digest_of(algorithm: str) -> Callable[[Request], bool]:
    """Return whether a request holds the right digest of `cam`, `s3cret/word`."""

    def is_right(request: Request) -> bool:
        found = re.findall(r'(\w+)=("[^"]*"|[^,\s]+)', request.headers.get("authorization", ""))
        given = {name: value.strip('"') for name, value in found}
        if given.get("algorithm", "MD5") != algorithm or "response" not in given:
            return False

        def digest(text: str) -> str:
            return hashlib.new("sha256" if algorithm == "SHA-256" else "md5", text.encode()).hexdigest()

        middle = f"{given['nonce']}:{given['nc']}:{given['cnonce']}:{given['qop']}"
        request_digest = digest(f"GET:{request.path}")
        return bool(given["response"] == digest(f"{digest('cam:door:s3cret/word')}:{middle}:{request_digest}"))

    return is_right


def test_every_usual_way_to_log_in_works() -> None:
    md5, sha256 = (f'Digest realm="door", nonce="n{name}", qop="auth", algorithm={name}' for name in ("MD5", "SHA-256"))
    routes = {
        "basic": locked('Basic realm="door"', accept=has_basic),
        "md5": locked(md5, accept=digest_of("MD5")),
        "sha256": locked(sha256, accept=digest_of("SHA-256")),
        "both": locked(md5, sha256, 'Basic realm="door"', accept=digest_of("SHA-256")),
    }
    with HttpCamera(routes) as camera:
        for name in routes:
            assert read(http(camera.url(f"/{name}?a=b", "cam:s3cret%2Fword@")), 2) == [0, 1], name


def test_users_and_realms_outside_of_ascii_log_in() -> None:
    def has_latin_password(request: Request) -> bool:
        return request.headers.get("authorization") == "Basic " + base64.b64encode(b"cam:caf\xe9").decode()

    def has_digest(request: Request) -> bool:
        given = dict(re.findall(r'(\w+)="?([^",]*)', request.headers.get("authorization", "")))
        key = hashlib.md5("cam:Tür:word".encode()).hexdigest()
        asked = hashlib.md5(b"GET:/realm").hexdigest()
        return given.get("response") == hashlib.md5(f"{key}:n:{asked}".encode()).hexdigest()

    routes = {
        "latin": locked('Basic realm="door"', accept=has_latin_password),
        "realm": locked('Digest realm="Tür", nonce="n"', accept=has_digest),
    }
    with HttpCamera(routes) as camera:
        assert read(http(camera.url("/latin", "cam:caf%E9@")), 1) == [0]
        assert read(http(camera.url("/realm", "cam:word@")), 1) == [0]


def test_refusals_of_users_are_named() -> None:
    routes = {
        "video": locked('Basic realm="door"', accept=has_basic),
        "ntlm": locked("NTLM", accept=has_basic),
        "forbidden": reply(answer(b"", "", "403 Forbidden")),
    }
    with HttpCamera(routes) as camera:
        for path, userinfo, reason in [
            ("/video", "", "needs a user and password (401)"),
            ("/video", "cam:wrong@", "refused the user or password"),
            ("/ntlm", "cam:s3cret%2Fword@", "needs NTLM authentication, which streamer does not speak"),
            ("/forbidden", "", "forbids access (403)"),
        ]:
            with pytest.raises(SourceRefused, match=re.escape(reason)):
                http(camera.url(path, userinfo)).open(5)


# -- redirects


def moved(location: str) -> Route:
    return reply(answer(b"", "", "302 Found", f"Location: {location}"))


def test_redirects_within_the_camera_are_followed() -> None:
    routes = {"old": moved("/new?x=1"), "new": locked('Basic realm="door"', accept=has_basic), "loop": moved("/loop")}
    with HttpCamera(routes) as camera:
        assert read(http(camera.url("/old", "cam:s3cret%2Fword@")), 1) == [0]
        assert failure(http(camera.url("/loop"))) == "redirects more than 5 times"


def test_redirect_to_another_host_needs_permission() -> None:
    with (
        HttpCamera({"video": parts()}, "127.0.0.2") as other,
        HttpCamera({"out": moved(other.url("/video"))}) as camera,
    ):
        url = camera.url("/out", "cam:s3cret%2Fword@")
        assert failure(http(url)) == "refers to another host: to allow it, set `allow_redirects: any`"
        assert "the config must name such an address itself" in failure(http(url, allow_redirects="any"))
        assert not other.requests


def test_password_stays_with_the_camera() -> None:
    """The other port of a host is another program."""
    with HttpCamera({"video": locked('Basic realm="x"', accept=has_basic)}) as other:
        with HttpCamera({"out": moved(other.url("/video"))}) as camera:
            url = camera.url("/out", "cam:s3cret%2Fword@")
            assert "refers to another port of its host" in failure(http(url))
            assert not other.requests
            assert failure(http(url, allow_redirects="any")) == "refused the user or password"
        assert [request.headers.get("authorization") for request in other.requests] == [None]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "rtsp://127.0.0.1/x", "http://[::1", "http://h:99999/"])
def test_redirect_to_no_http_address_is_refused(location: str) -> None:
    with HttpCamera({"out": moved(location)}) as camera:
        reason = failure(http(camera.url("/out"), allow_redirects="any"))
        assert reason == "refers to an address that is not a valid HTTP URL"


# -- certificates


def test_certificate_is_checked_by_default(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("camera"))
    with HttpCamera({"video": parts()}, context=context) as camera:
        url = camera.url("/video")
        assert "its certificate is not from a known authority" in failure(http(url))
        assert read(http(url, tls={"ca": str(authority.cert)}), 1) == [0]
        assert read(http(url, tls={"verify": False}), 1) == [0]
        assert "No such file" in failure(http(url, tls={"ca": str(tmp_path / "gone.pem")}))
    with HttpCamera({"video": parts()}) as camera:
        assert "does not speak TLS" in failure(http(camera.url("/video").replace("http", "https")))


# -- hostile cameras


def endless(start: bytes, data: bytes) -> Route:
    def send_for_ever(_request: Request, send: Send) -> None:
        send(start)
        while True:
            send(data)

    return send_for_ever


def drip(data: bytes) -> Route:
    def send_slowly(_request: Request, send: Send) -> None:
        for byte in data:
            send(bytes([byte]))
            time.sleep(0.05)

    return send_slowly


OPEN = head("200 OK", f"Content-Type: {MULTIPART}")
ONES = b"\1" * (1 << 20)
CHUNKED = head("200 OK", "Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (endless(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 1000 + b"\r\n"), "the answer is not valid HTTP"),
        (endless(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 65536), "the answer is not valid HTTP"),
        (endless(b"HTTP/1.1 200 OK\r\n", b"Set-Cookie: a=" + b"v" * 3000 + b"\r\n"), "the answer is not valid HTTP"),
        (endless(OPEN, b"X-Header: 1\r\n" * 5000), "sends no JPEG picture in 1 MiB of data"),
        (
            endless(OPEN + b"--frame\r\nContent-Length: 2000000000\r\n\r\n\xff\xd8\xff", b"\1" * (1 << 20)),
            "more than 32",
        ),
        (endless(head("200 OK"), b"\0" * (1 << 20)), "damaged, or not in a format that streamer knows"),
        (drip(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1000), "no answer within 1 s"),
        (drip(OPEN + b"--frame\r\n\r\n" + JPEGS[0]), "no answer within 1 s"),
        (reply(CHUNKED + b"7fffffffffffffff\r\n" + TS), "the connection broke off"),
        (reply(CHUNKED + b"xyz\r\n" + TS), "broke off"),
    ],
)
def test_hostile_answer_ends_in_words(route: Route, reason: str) -> None:
    with HttpCamera({"video": route}) as camera:
        assert reason in failure(http(camera.url("/video")), 1.0 if "within" in reason else 60.0)


def test_camera_that_falls_silent_is_lost() -> None:
    def send_one(_request: Request, send: Send) -> None:
        send(OPEN + b"--frame\r\n\r\n" + JPEGS[0] + b"\r\n--frame\r\n")
        time.sleep(6)

    def send_slowly(request: Request, send: Send) -> None:
        send(OPEN + b"--frame\r\n\r\n" + JPEGS[0])
        drip(JPEGS[1])(request, send)

    def send_ts(_request: Request, send: Send) -> None:
        send(head("200 OK") + TS)
        time.sleep(6)

    with HttpCamera({"silent": send_one, "slow": send_slowly, "ts": send_ts}) as camera:
        assert failure(http(camera.url("/silent")), 2.0) == "silent for 2 s"
        assert failure(http(camera.url("/slow")), 2.0) == "sends data, but no frame for 2 s"
        assert failure(http(camera.url("/ts")), 2.0) == "silent for 2 s"


def test_container_cannot_open_anything_else(tmp_path: Path) -> None:
    secret = tmp_path / "secret.ts"
    secret.write_bytes(TS)
    with HttpCamera({"canary": reply(answer(TS))}) as canary:
        concat = f"ffconcat version 1.0\nfile {secret}\nfile '{canary.url('/canary')}'\n".encode()
        sdp = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        with HttpCamera({"concat": reply(answer(concat)), "sdp": reply(answer(sdp))}) as camera:
            for path in ("/concat", "/sdp"):
                assert failure(http(camera.url(path))) == "answers with text, not video"
            forced = failure(http(camera.url("/concat"), format="concat", allow=["concat"]))
            assert "not video" in forced
        assert not canary.requests


def test_receivers_bytes_and_passwords_stay_out_of_reasons() -> None:
    word = base64.b64encode(b"cam:s3cret/word").decode()
    routes = {
        "status": reply(f"HTTP/1.1 400 {word}\r\nContent-Length: 0\r\n\r\n".encode()),
        "type": reply(answer(b"text", f"text/{word}")),
        "location": moved(f"http://{word}.invalid/{word}"),
        "garbage": reply(f"{word}\r\n\r\n".encode()),
    }
    with HttpCamera(routes) as camera:
        for path in routes:
            for redirects in ("same_host", "any"):
                reason = failure(http(camera.url(f"/{path}", "cam:s3cret%2Fword@"), allow_redirects=redirects))
                assert word not in reason
                assert word.lower() not in reason
                assert redact(reason) == reason


@pytest.mark.parametrize("ranges", [True, False])
def test_mp4_with_its_index_at_the_end_is_read(tmp_path: Path, ranges: bool) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 30).read_bytes()
    index = clip.index(b"moov") - 4
    assert index > clip.index(b"mdat")
    padding = 1 << 20  # so that FFmpeg jumps instead of reading on
    clip = clip[:index] + padding.to_bytes(4) + b"free" + bytes(padding - 8) + clip[index:]

    def send_file(request: Request, send: Send) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if ranges and match is not None:
            send(answer(clip[int(match[1]) :], "video/mp4", "206 Partial Content"))
        else:
            send(answer(clip, "video/mp4"))

    with HttpCamera({"clip.mp4": send_file}) as camera:
        settings = http(camera.url("/clip.mp4"))
        if ranges:
            assert read(settings, 30) == list(range(30))
            assert len(camera.requests) < 10
        else:
            assert failure(settings) == "the server cannot send a file from its middle on"


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_to_an_answer_is_survived(seed: int) -> None:
    """Damaged bytes are read as far as they go, or the source is lost. No other error may leave it."""
    rng = random.Random(seed)
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/ts\n#EXT-X-ENDLIST\n"
    body = rng.choice((TS, playlist, b"".join(b"--frame\r\n\r\n" + picture for picture in JPEGS), JPEGS[0]))
    kind = rng.choice((MULTIPART, "image/jpeg", "video/mp2t", ""))
    data = bytearray(
        answer(body, kind, "200 OK", "Transfer-Encoding: chunked") if seed % 4 == 0 else answer(body, kind)
    )
    for _ in range(rng.randint(1, 30)):
        at = rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 200))
        match rng.randrange(3):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randint(1, 50)]
            case _:
                data[at:at] = rng.choice((b"\r\n", b"\xff", b"\0", b"9" * 5000, rng.randbytes(9), b":"))
    with HttpCamera({"video": reply(bytes(data)), "ts": reply(answer(TS))}) as camera, suppress(SourceLost):
        read(http(camera.url("/video")), 3, 1.0)

"""Every kind of source, against real servers and files where this computer has them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import dropwhile, islice
from pathlib import Path
from typing import Any

import av
import av.filter
import cv2
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from streamer.capture.interfaces import Picture, SourceSettings
from streamer.capture.sources import File, Http, Rtsp, SourceField, Synthetic, Webcam
from streamer.capture.sources._allowed import FILE
from streamer.capture.sources._av import AvSource
from streamer.core.errors import SourceLost, SourceRefused
from streamer.core.picture_limits import MAX_PIXELS
from streamer.core.redact import redact
from streamer.toyworld.world import World
from streamer.types import Image
from tests.support.clips import bgr, number_of, numbered, write_clip
from tests.support.ports import free_port
from tests.support.rtsp import RtspServer

PASSWORD = "gar4den%2Fgate"
_SOURCE: TypeAdapter[Any] = TypeAdapter(SourceField)


def source(value: Any) -> Any:
    return _SOURCE.validate_python(value)


def times(pictures: Iterable[Picture | None]) -> list[float | None]:
    return [picture.pts for picture in pictures if picture is not None]


def read(settings: SourceSettings, count: int, read_limit: float = 5.0) -> list[Image]:
    """Return the first frames of a connection."""
    connection = settings.open(read_limit)
    try:
        return [bgr(picture) for picture in islice(connection, count)]
    finally:
        connection.close()


# -- settings


def test_text_form_equals_mapping_form(tmp_path: Path) -> None:
    clip = tmp_path / "a:b.mp4"
    clip.write_bytes(b"")
    assert source("rtsp://h:554/a") == source({"kind": "rtsp", "url": "rtsp://h:554/a"})
    assert source("rtsps://h/a").transport == "tcp"
    assert isinstance(source("http://h/a.m3u8"), Http)
    assert isinstance(source("https://h/a"), Http)
    assert source("/dev/video3") == Webcam(device="/dev/video3")
    assert source("synthetic") == Synthetic()
    assert source("synthetic?seed=7&fps=5&size=320x240&seconds=2s&pace=file") == Synthetic(
        seed=7, fps=5, size="320x240", seconds=2.0, pace="file"
    )
    assert source(str(clip)) == source(clip) == File(path=clip)
    assert source(File(path=clip)).pace == "file"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("rtsp:/192.168.1.2/a", "is not a URL with a scheme and a host: rtsp:/192.168.1.2/a"),
        ("rtsp://u:secretword@:554", "is not a URL with a scheme and a host"),
        ("rtsp://h:port/a", "has a port that is not a number"),
        ("rtmp://u:secretword@h/a", "unknown scheme `rtmp` in rtmp://***@h/a: use rtsp://"),
        ("", "must be a URL, a device, a file or `synthetic`"),
        ("nowhere.mp4", "no such file: nowhere.mp4"),
        ("/", "not a file: /"),
        ("synthetic?sed=1", "Extra inputs are not permitted"),
        ("synthetic?seed=1&seed=2", "`seed` is given twice"),
        ("synthetic?kind=file", "`kind` cannot stand here"),
        ("synthetic?fps=0", "greater than 0"),
        ("synthetic?size=8x8", "at least 16x16"),
        ("synthetic?size=99999x99999", "at most 7680x4320"),
        ("synthetic?seconds=0s", "longer than zero"),
        ({"kind": "rtsp", "url": "http://h/a"}, "must begin with rtsp:// or rtsps://, not http://"),
        ({"kind": "http", "url": "rtsp://h/a"}, "must begin with http:// or https://, not rtsp://"),
        ({"kind": "rtsp", "url": "rtsp://h/a", "transport": "tpc"}, "'tcp' or 'udp'"),
        ({"kind": "webcam", "device": "video0"}, "String should match pattern"),
        ({"kind": "webcam", "device": "/dev/video0", "size": "big"}, "String should match pattern"),
        (
            {"kind": "camera"},
            "does not match any of the expected tags: 'rtsp', 'webcam', 'file', 'http', 'snapshot', 'remote',",
        ),
    ],
)
def test_invalid_source_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        source(value)
    details = redact(str(caught.value.errors(include_input=False, include_url=False)))
    assert message in details
    assert "secretword" not in details


# -- synthetic


def test_synthetic_frame_shows_world_at_its_media_time() -> None:
    pictures = list(Synthetic(seed=4, fps=10, size="64x48", pace="file", seconds=0.5).open())
    assert times(pictures) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(bgr(pictures[3]), World(4).scene(3 / 10).paint(64, 48))


def test_live_synthetic_skips_missed_frames() -> None:
    pictures = iter(Synthetic(fps=50).open())
    next(pictures)
    time.sleep(0.2)  # the reader is blocked
    (late,) = times(islice(pictures, 1))
    assert late is not None
    assert late >= 0.18


# -- file


def test_file_yields_every_frame_with_its_time(tmp_path: Path) -> None:
    settings = File(path=write_clip(tmp_path / "a:b.mp4", pictures=12, fps=20))
    connection = settings.open()
    pictures = list(connection)
    connection.close()
    assert [number_of(bgr(picture)) for picture in pictures] == list(range(12))
    assert times(pictures) == pytest.approx([number / 20 for number in range(12)])


def test_key_frames_are_flushed_from_delaying_decoder(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 256, 144, "yuv420p", 10
        stream.options = {"x264-params": "scenecut=0:bframes=2"}
        for number in range(50):
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number, 256, 144), format="bgr24")))
        clip.mux(stream.encode(None))
    source = AvSource(str(path), {}, read_limit=5.0, allowed=FILE, may_skip_frames=True)
    assert source.set_interval(0.0) is False
    shown: list[int | None] = []
    for picture in islice(dropwhile(lambda picture: picture is None, source), 50):
        shown.append(None if picture is None else number_of(bgr(picture)))
        source.set_interval(1.0 if len(shown) < 35 else 0.0)
    source.close()
    eased = shown[shown.index(None) :]
    assert eased[: eased.index(20) + 1] == [*[None] * eased.index(20), 20]
    assert shown[-10:] == list(range(40, 50)), "full decoding restarts at the next key frame"


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100, b"\x00\x00\x00\x18ftypmp42"])
def test_file_that_is_no_video_is_a_lost_source(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceLost, match=r"cannot read .*clip\.mp4 as a video: |holds no frame"):
        read(File(path=path), 1)


def test_unknown_codec_is_a_lost_source(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 2)
    clip = path.read_bytes()
    codec = clip.rindex(b"avc1")
    path.write_bytes(clip[:codec] + b"zzzz" + clip[codec + 4 :])
    with pytest.raises(SourceLost, match=r"cannot read .*clip\.mp4 as a video: has video of an unknown codec only"):
        read(File(path=path), 1)


def test_pixel_format_without_conversion_is_no_frame(tmp_path: Path) -> None:
    path = tmp_path / "clip.nut"
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr4"
        clip.mux(stream.encode(av.VideoFrame(64, 48, "bgr4")))
    with pytest.raises(SourceLost, match="holds no frame that can be decoded"):
        read(File(path=path), 1)


def test_title_that_is_not_utf_8_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as clip:
        clip.metadata["title"] = "caf_ latin"
        stream = clip.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 144, "yuv420p"
        clip.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(5, 256, 144), format="bgr24")))
        clip.mux(stream.encode(None))
    assert b"caf_ latin" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"caf_ latin", b"caf\xe9 latin"))
    assert [number_of(image) for image in read(File(path=path), 10)] == [5]


def test_frame_above_pixel_limit_is_rejected(tmp_path: Path) -> None:
    width = 16384
    clip = write_clip(tmp_path / "huge.mp4", 1, size=(width, MAX_PIXELS // width // 2 * 2 + 16))
    with pytest.raises(SourceLost, match=r"cannot|holds no frame"):
        read(File(path=clip), 1)


# -- webcam


def test_webcam_settings_become_ffmpeg_options() -> None:
    camera = Webcam(device="/dev/video0", size="1280x720", fps=30, pixel_format="mjpeg")
    assert camera.options() == {"video_size": "1280x720", "framerate": "30", "input_format": "mjpeg"}
    assert Webcam(device="/dev/video0").options() == {}


@pytest.mark.parametrize(
    ("device", "reason"),
    [("/dev/video99", "no such device: /dev/video99"), ("/dev/null", "/dev/null: not a camera")],
)
def test_missing_webcam_is_a_lost_source(device: str, reason: str) -> None:
    with pytest.raises(SourceLost, match=reason):
        Webcam(device=device, size="640x480", fps=25, pixel_format="yuyv422").open()


# -- rtsp


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 25)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_rtsp_camera_yields_consecutive_frames(clip: Path, transport: str) -> None:
    with RtspServer(clip) as server:
        camera = source({"kind": "rtsp", "url": server.url, "transport": transport})
        numbers = [number_of(image) for image in read(camera, 6)]
    assert [(number - numbers[0]) % 25 for number in numbers] == list(range(6))


@pytest.mark.parametrize("digest", [False, True])
def test_wrong_password_is_refused_and_not_shown(clip: Path, digest: bool) -> None:
    with RtspServer(clip, user="bob", password="gar4den/gate", digest=digest) as server:
        url = server.url.replace("://", f"://bob:{PASSWORD}@")
        assert read(Rtsp.model_validate({"url": url}), 1)
        for wrong, reason in (
            (server.url, "needs a user and password (401)"),
            (server.url.replace("://", f"://bob:{PASSWORD}X@"), "refused the user or password"),
        ):
            with pytest.raises(SourceRefused) as caught:
                Rtsp.model_validate({"url": wrong}).open()
            assert str(caught.value) == reason
            assert caught.value.__context__ is None


def test_closed_port_is_a_lost_source() -> None:
    with pytest.raises(SourceLost, match="connection refused"):
        source(f"rtsp://127.0.0.1:{free_port()}/cam").open()


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_silent_server_times_out_while_opening(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"{scheme}://bob:{PASSWORD}@127.0.0.1:{mute.getsockname()[1]}/cam"
        with pytest.raises(SourceLost, match=r"^no answer within 0\.5 s$"):
            source(url).open(0.5)


def test_silent_camera_is_lost_after_read_limit(clip: Path) -> None:
    with RtspServer(clip) as server:
        connection = source(server.url).open(1.0)
        pictures = iter(connection)
        next(pictures)
        server.pause()  # keeps the session and RTCP alive
        with pytest.raises(SourceLost, match="silent for 1 s"):
            list(pictures)
        connection.close()


def test_killed_camera_is_lost(clip: Path) -> None:
    with RtspServer(clip) as server:
        connection = source(server.url).open()
        pictures = iter(connection)
        next(pictures)
        server.kill()
        with pytest.raises(SourceLost, match="the stream ended"):
            list(pictures)
        connection.close()


def test_unknown_rtsp_path_is_a_lost_source(clip: Path) -> None:
    with RtspServer(clip) as server, pytest.raises(SourceLost, match="404"):
        source(server.url + "era").open()


# -- http


class _Mjpeg(BaseHTTPRequestHandler):
    """An MJPEG camera that ends after 30 frames. `/locked` needs a password."""

    def do_GET(self) -> None:
        if self.path == "/locked" and "Authorization" not in self.headers:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=one_picture_ends_here")
        self.end_headers()
        for number in range(30):
            jpeg = cv2.imencode(".jpg", numbered(number, 256, 144))[1].tobytes()
            head = f"--one_picture_ends_here\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def _mjpeg_camera() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Mjpeg) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_http_camera_yields_frames_until_it_ends() -> None:
    with _mjpeg_camera() as host:
        connection = source(f"http://{host}/video").open(5)
        pictures = iter(connection)
        assert [number_of(bgr(picture)) for picture in islice(pictures, 30)] == list(range(30))
        with pytest.raises(SourceLost, match="the connection broke off"):
            next(pictures)
        connection.close()
        assert len(read(source(f"http://bob:{PASSWORD}@{host}/locked"), 20)) == 20
        with pytest.raises(SourceRefused):
            source(f"http://{host}/locked").open()

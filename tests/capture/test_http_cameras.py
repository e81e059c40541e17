"""Cameras over HTTP through a whole, confined capture process."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path

import pytest

from streamer.bus.frame_client import FrameRequest
from streamer.capture.silence_timeout import SilenceTimeout
from streamer.capture.sources import _jpeg_intake
from tests.support.agents import until
from tests.support.capturing import CaptureProcess, CaptureThread, Consumer
from tests.support.certificates import Authority
from tests.support.clips import number_of
from tests.support.http_camera import HttpCamera, Request, Send, answer, head, jpeg, reply


def numbers(consumer: Consumer, count: int, interval: float) -> list[int]:
    found: list[int] = []
    after = None
    while len(found) < count:
        frame = consumer.next(FrameRequest(after=after, interval=interval))
        consumer.client.settle(frame, "done")
        found.append(number_of(frame.image))
        after = frame.id
    return found


def test_polled_camera_stays_up(tmp_path: Path) -> None:
    asked: list[Request] = []

    def send_picture(request: Request, send: Send) -> None:
        asked.append(request)
        send(answer(jpeg(len(asked)), "image/jpeg"))

    with (
        HttpCamera({"picture": send_picture}) as camera,
        CaptureProcess(tmp_path, camera.url("/picture")) as capture,
        Consumer(tmp_path) as consumer,
    ):
        assert numbers(consumer, 4, 0.5) == [1, 2, 3, 4]
        assert {status["state"] for status in capture.statuses.receive()} == {"up"}  # sent again until received
        assert capture.stop()["frames"]["dropped"] == {}


def test_damaged_picture_reaches_no_consumer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture is decoded when it is fetched. One that cannot be decoded is dropped, and the next one is taken."""
    monkeypatch.setattr(_jpeg_intake, "CHECK_S", 3600.0)
    place = jpeg(1).index(b"\xff\xc0") + 9
    broken = jpeg(1)[:place] + b"\x07" + jpeg(1)[place + 1 :]
    wanted = threading.Semaphore(1)

    def send_pictures(_request: Request, send: Send) -> None:
        send(head("200 OK", "Content-Type: multipart/x-mixed-replace; boundary=frame"))
        for picture in (jpeg(1), broken, jpeg(3)):
            wanted.acquire()
            send(b"--frame\r\n\r\n" + picture + b"\r\n")
        wanted.acquire()

    with (
        HttpCamera({"video": send_pictures}) as camera,
        CaptureThread(tmp_path, camera.url("/video"), SilenceTimeout(300.0)) as capture,
        Consumer(tmp_path) as consumer,
    ):
        first = consumer.next()
        consumer.client.settle(first, "done")
        request = FrameRequest(after=first.id)
        wanted.release()
        until(lambda: consumer.wait(request).ready, 60, "the damaged picture")
        assert consumer.fetch(request).frame is None
        wanted.release()
        good = consumer.next(request)
        assert number_of(good.image) == 3
        consumer.client.settle(good, "done")
        counts = capture.stop()["frames"]
        wanted.release()
        assert (counts["done"], counts["dropped"]) == (2, {"undecodable": 1})


def test_confined_process_reads_its_ca_file(tmp_path: Path) -> None:
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    authority = Authority(certificates)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("camera"))
    runtime = tmp_path / "run"
    runtime.mkdir()
    with HttpCamera({"picture": reply(answer(jpeg(7), "image/jpeg"))}, context=context) as camera:
        source = {"kind": "snapshot", "url": camera.url("/picture"), "tls": {"ca": str(authority.cert)}}
        with CaptureProcess(runtime, source), Consumer(runtime) as consumer:
            assert numbers(consumer, 1, 0.5) == [7]


def test_hostile_answers_leave_the_process_alive(tmp_path: Path) -> None:
    """Each answer is another way to do harm; the last one is a picture."""
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"\xff\xd8\xff" + b"\1" * (40 << 20)
    frame = jpeg(1).index(b"\xff\xc0")
    bomb = jpeg(1)[: frame + 5] + b"\xff\xff\xff\xff" + jpeg(1)[frame + 9 :]
    answers = [
        answer(bomb, "image/jpeg"),
        endless,
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 1000,
        answer(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST"),
        answer(b"", "", "302 Found", "Location: http://169.254.169.254/"),
    ]
    turn = iter([*answers, *[answer(jpeg(9), "image/jpeg")] * 100])
    with (
        HttpCamera({"picture": lambda _request, send: send(next(turn))}) as camera,
        CaptureProcess(tmp_path, camera.url("/picture")) as capture,
        Consumer(tmp_path) as consumer,
    ):
        down = capture.statuses.wait("down")
        assert down["reason"].startswith("frame of 65535x65535 pixels refused")
        assert numbers(consumer, 1, 0.5) == [9]
        assert capture.process.poll() is None
        assert "Traceback" not in capture.errors.read_text()

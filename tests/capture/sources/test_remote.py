"""A stream of another host: fresh frames, exact accounting on both sides, and recovery of the link."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from streamer.bus.curve import CurveServer, PeerMessage
from streamer.bus.frame_client import FrameRequest
from streamer.bus.host_keys import HostKeys
from streamer.bus.remote_protocol import Answer, Ask, decode_answer, encode
from streamer.capture import remote_server
from streamer.capture.encoding import encode_image
from streamer.capture.remote_server import RemoteServer
from streamer.capture.sources import SourceField, _ask_times, _remote_source
from streamer.capture.sources._encoded_picture import EncodedPicture, picture_size
from streamer.capture.sources.remote import Remote
from streamer.core.errors import FrameError
from streamer.toyworld.world import World
from streamer.types import FrameId, Image
from tests.chaos.link import Link
from tests.support.agents import until
from tests.support.capturing import STREAM, CaptureThread, Consumer
from tests.support.http_camera import HttpCamera, Request, Send, head
from tests.support.serving import Served, make_keys
from tests.support.slow_link import SlowLink

CAMERA = "synthetic?fps=25&size=320x240"


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Runtime folders of the host with the camera and of the host that asks."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    make_keys()
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        folder.mkdir()
    return folders


def picture() -> Image:
    return World(1).scene(1.0).paint(320, 240)


# Pictures


def test_lossless_picture_is_exact() -> None:
    image, out = picture(), np.empty((240, 320, 3), np.uint8)
    EncodedPicture(encode_image(image, None), (320, 240), None, 0.0).write_bgr(out)
    assert np.array_equal(out, image)


def test_jpeg_is_close_and_small() -> None:
    image, out = picture(), np.empty((240, 320, 3), np.uint8)
    data = encode_image(image, 90)
    remote = EncodedPicture(data, (320, 240), None, 0.0)
    remote.write_bgr(out)
    assert np.abs(out.astype(int) - image).mean() < 4
    assert len(data) < image.nbytes / 10
    assert remote.luma().ndim == 2


@pytest.mark.parametrize("quality", [90, None], ids=["jpeg", "png"])
@pytest.mark.parametrize("damage", ["cut", "half", "empty", "other size", "noise"])
def test_damaged_picture_is_a_frame_error(quality: int | None, damage: str) -> None:
    data = encode_image(picture(), quality)
    size = (321, 240) if damage == "other size" else (320, 240)
    data = {
        "cut": data[:20],
        "half": data[: len(data) // 2],
        "empty": b"",
        "noise": b"\xff\xd8\xff\xe0" + bytes(100),
    }.get(damage, data)
    with pytest.raises(FrameError):
        EncodedPicture(data, size, None, 0.0).write_bgr(np.empty((size[1], size[0], 3), np.uint8))


def test_size_is_read_before_pixels_are_decoded() -> None:
    huge = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    bomb = huge[:16] + (60_000).to_bytes(4, "big") * 2 + huge[24:]
    assert picture_size(bomb) == (60_000, 60_000)
    with pytest.raises(FrameError, match="another size"):
        EncodedPicture(bomb, (8, 8), None, 0.0).write_bgr(np.empty((8, 8, 3), np.uint8))


# Config


def test_url_is_a_source() -> None:
    source = TypeAdapter[Any](SourceField).validate_python("streamer://boxa:5601/yard")
    assert (source.kind, source.host, source.port, source.stream, source.peer_name) == (
        "remote", "boxa", 5601, "yard", "boxa",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"url": "streamer://boxa:5600"}, "the name of a stream"),
        ({"url": "streamer://boxa/a/b"}, "the name of a stream"),
        ({"url": "streamer://me:secret@boxa/yard"}, "no user"),
        ({"url": "streamer://10.0.0.7/yard"}, "give `peer`"),
        ({"url": "tcp://boxa/yard"}, "must begin with streamer://"),
        ({"url": "streamer://boxa/yard", "quality": 0}, "greater than or equal to 1"),
    ],
)
def test_bad_settings_name_the_problem(keys: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Remote.model_validate(keys)


# Frames


def test_frames_are_fresh_and_counted_on_both_sides(hosts: tuple[Path, Path]) -> None:
    with CaptureThread(hosts[0], CAMERA), Served(hosts[0]) as served:
        with CaptureThread(hosts[1], served.source()) as capture, Consumer(hosts[1]) as consumer:
            after: FrameId | None = None
            for _ in range(10):
                frame = consumer.next(FrameRequest(after=after))
                assert -0.5 < time.monotonic() - frame.captured_mono < 10
                assert -0.5 < time.time() - frame.captured_at < 10
                assert frame.image.shape == (240, 320, 3)
                after = frame.id
                consumer.client.settle(frame, "done")
            counts = capture.stop()["frames"]
        served.stop()
        assert counts["done"] == 10
        assert counts["dropped"] == {}
        state, sent = served.changes[-1]
        assert state == "down"
        assert sent.done <= counts["captured"] <= sent.done + sum(sent.dropped.values())
        assert sum(sent.dropped.values()) <= 1  # the last frame, which no later request could confirm


@pytest.mark.parametrize(("quality", "is_passed_on"), [(95, True), ("lossless", True), (40, False)])
def test_jpeg_of_a_camera_is_passed_on(hosts: tuple[Path, Path], quality: int | str, is_passed_on: bool) -> None:
    """The asking host then has the pixels that the host of the camera would have."""
    data = encode_image(picture(), 90)

    def send_pictures(_request: Request, send: Send) -> None:
        send(head("200 OK", "Content-Type: multipart/x-mixed-replace; boundary=frame"))
        while True:  # until the connection is closed
            send(b"--frame\r\n\r\n" + data)
            time.sleep(0.05)

    with (
        HttpCamera({"video": send_pictures}) as camera,
        CaptureThread(hosts[0], camera.url("/video")),
        Served(hosts[0]) as served,
        CaptureThread(hosts[1], served.source(quality=quality)),
        Consumer(hosts[1]) as consumer,
    ):
        frame = consumer.next()
        out = np.empty((240, 320, 3), np.uint8)
        EncodedPicture(data, (320, 240), None, 0.0).write_bgr(out)
        assert np.array_equal(frame.image, out) == is_passed_on
        assert np.abs(frame.image.astype(int) - out).mean() < 20
        consumer.client.settle(frame, "done")


def test_source_rests_between_the_frames_that_are_needed(hosts: tuple[Path, Path]) -> None:
    with (
        CaptureThread(hosts[0], CAMERA) as camera,
        Served(hosts[0]) as served,
        CaptureThread(hosts[1], served.source()) as capture,
        Consumer(hosts[1]) as consumer,
    ):
        frame = consumer.next(FrameRequest(interval=0.6))
        consumer.client.settle(frame, "done")
        time.sleep(0.6)
        asked = time.monotonic()
        due = consumer.next(FrameRequest(after=frame.id, interval=0.6))
        assert due.captured_mono > asked - 0.5
        consumer.client.settle(due, "done")
        passed, counts = camera.stop()["frames"]["captured"], capture.stop()["frames"]
    assert counts["captured"] < passed * 0.8


def test_consumer_without_a_frame_wakes_a_resting_source(hosts: tuple[Path, Path]) -> None:
    with (
        CaptureThread(hosts[0], CAMERA),
        Served(hosts[0]) as served,
        CaptureThread(hosts[1], served.source()),
        Consumer(hosts[1]) as consumer,
    ):
        first = consumer.next(FrameRequest(interval=600))
        consumer.client.settle(first, "done")
        time.sleep(0.5)
        asked = time.monotonic()
        again = consumer.next(FrameRequest(interval=600))
        assert again.id > first.id
        assert again.captured_mono > asked - 0.3, "an old frame"


def test_damaged_pictures_are_dropped_with_a_cause(hosts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.capture.remote_server.encode_image", lambda *_: b"\xff\xd8 no picture")
    with (
        CaptureThread(hosts[0], CAMERA),
        Served(hosts[0]) as served,
        CaptureThread(hosts[1], served.source()) as capture,
        Consumer(hosts[1]) as consumer,
    ):
        assert until(lambda: consumer.wait().ready, 10, "a frame")
        assert consumer.fetch().frame is None
        assert capture.stop()["frames"]["dropped"].keys() == {"undecodable"}


# Failures


def test_cut_link_is_reported_and_recovers(hosts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_remote_source, "ANSWER_S", 0.2)
    with CaptureThread(hosts[0], CAMERA), Served(hosts[0]) as served, Link(served.port) as link:
        source = served.source(port=link.port)
        with CaptureThread(hosts[1], source) as capture, Consumer(hosts[1]) as consumer:
            before = consumer.next()
            consumer.client.settle(before, "done")
            link.cut()
            cut = time.monotonic()
            assert "no answer" in str(capture.statuses.wait("down", timeout=60)["reason"])
            link.mend()
            later = consumer.next(FrameRequest(after=before.id), 60)
            assert later.captured_mono > cut, "an old frame"
            consumer.client.settle(later, "done")
            assert capture.stop()["frames"]["done"] == 2


def test_lossy_link_gives_each_frame_once(hosts: tuple[Path, Path]) -> None:
    """Lost packets of TCP are late packets, and all that follows them is late too."""
    with CaptureThread(hosts[0], CAMERA), Served(hosts[0]) as served, SlowLink(served.port, 10, 100, 0.3) as link:
        with CaptureThread(hosts[1], served.source(port=link.port)) as capture, Consumer(hosts[1]) as consumer:
            frames = [consumer.next(timeout=60)]
            for _ in range(12):
                consumer.client.settle(frames[-1], "done")
                frames.append(consumer.next(FrameRequest(after=frames[-1].id), 60))
            consumer.client.settle(frames[-1], "done")
            counts = capture.stop()["frames"]
        served.stop()
    ids = [frame.id for frame in frames]
    assert ids == sorted(set(ids))
    assert counts["done"] == len(frames)
    sent = served.changes[-1][1]
    assert sent.done <= counts["captured"] <= sent.captured


def test_each_need_costs_one_frame_of_the_link(hosts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a busy computer exceeds are lifted: it loses connections, and leaves frames until they are old."""
    monkeypatch.setattr(_ask_times, "REPLACE_S", 3600.0)
    monkeypatch.setattr(_remote_source, "ANSWER_S", 60.0)
    monkeypatch.setattr(_remote_source, "LATE_S", 60.0)
    with CaptureThread(hosts[0], CAMERA), Served(hosts[0]) as served, SlowLink(served.port, 10, 100) as link:
        with CaptureThread(hosts[1], served.source(port=link.port)) as capture, Consumer(hosts[1]) as consumer:
            after: FrameId | None = None
            for _ in range(10):
                frame = consumer.next(FrameRequest(after=after, interval=600), 60)
                after = frame.id
                consumer.client.settle(frame, "done")
            counts = capture.stop()["frames"]
        served.stop()
    assert counts["done"] == 10
    assert counts["captured"] <= 11, "a need costs one frame, and one more shows that the camera is up"
    assert served.changes[-1][1].captured <= 11


def curve_server(asked: list[PeerMessage], sent: list[Answer], sizes: dict[bytes, int] | None = None) -> CurveServer:
    """Return a stand-in for the encrypted socket: it receives what is `asked`, one by one, and keeps what is sent.

    `sizes` gets the bytes of the last picture for each connection.
    """

    def send(route: bytes, parts: list[bytes]) -> bool:
        sent.append(decode_answer(parts[0]))
        if sizes is not None and len(parts) == 2:
            sizes[route] = len(parts[1])
        return True

    def receive() -> list[PeerMessage]:
        return [asked.pop(0)] if asked else []

    return cast(CurveServer, SimpleNamespace(receive=receive, take_refusals=list, close=lambda: None, send=send))


@pytest.mark.parametrize("next_s", [0.0, 60.0], ids=["it is too late", "it comes in time"])
def test_young_frame_is_preferred(hosts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, next_s: float) -> None:
    """An old frame is sent only if the next one does not come in time."""
    monkeypatch.setattr(remote_server, "NEXT_S", next_s)
    monkeypatch.setattr(remote_server, "MAX_HOLD_S", 60.0)
    asked: list[PeerMessage] = []
    sent: list[Answer] = []
    curve = curve_server(asked, sent)
    camera = f"synthetic?fps={1 if next_s else 0.001}&size=64x48"
    with (
        CaptureThread(hosts[0], camera),
        Consumer(hosts[0], "view") as consumer,
        RemoteServer(hosts[0], [STREAM], curve, lambda *_: None) as server,
    ):
        old = consumer.next(FrameRequest(interval=1), 60).id
        time.sleep(0.1)
        ask = Ask(id=1, stream=STREAM, wants_frame=True, max_age=0.1)
        asked.append(PeerMessage("boxb", b"1", encode(ask)))

        def answered() -> list[Answer]:
            server.handle()
            return sent

        until(answered, 60, "an answer")
    assert sent[0].frame is not None
    if next_s:
        assert sent[0].frame.id > old
    else:
        assert sent[0].frame.id == old


def test_hosts_get_one_frame_in_different_qualities(hosts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The camera has one frame only."""
    monkeypatch.setattr(remote_server, "MAX_HOLD_S", 600.0)
    monkeypatch.setattr(remote_server, "SILENCE_S", 600.0)
    asked: list[PeerMessage] = []
    sent: list[Answer] = []
    sizes: dict[bytes, int] = {}
    curve = curve_server(asked, sent, sizes)
    with (
        CaptureThread(hosts[0], "synthetic?fps=0.001&size=320x240"),
        RemoteServer(hosts[0], [STREAM], curve, lambda *_: None) as server,
    ):
        asks = {b"1": 90, b"2": 20, b"3": None, b"4": 90}
        asked += [
            PeerMessage("boxb", route, encode(Ask(id=number, stream=STREAM, wants_frame=True, quality=quality)))
            for number, (route, quality) in enumerate(asks.items())
        ]

        def answered() -> bool:
            server.handle()
            return len(sizes) == len(asks)

        until(answered, 60, "a frame for each host")
    assert len({answer.frame.id for answer in sent if answer.frame is not None}) == 1
    assert sizes[b"2"] < sizes[b"1"] == sizes[b"4"] < sizes[b"3"]


def test_restarted_server_is_found_again(hosts: tuple[Path, Path]) -> None:
    with (
        CaptureThread(hosts[0], CAMERA),
        Served(hosts[0]) as served,
        CaptureThread(hosts[1], served.source()) as capture,
        Consumer(hosts[1]) as consumer,
    ):
        first = consumer.next()
        consumer.client.settle(first, "done")
        served.stop()
        assert "broke off" in str(capture.statuses.wait("down")["reason"])
        with Served(hosts[0], served.port):
            consumer.client.settle(consumer.next(FrameRequest(after=first.id)), "done")
            capture.stop()


def test_unknown_stream_is_named_on_both_sides(hosts: tuple[Path, Path]) -> None:
    with Served(hosts[0]) as served, CaptureThread(hosts[1], served.source("attic")) as capture:
        assert "no stream `attic` is served" in str(capture.statuses.wait("down")["reason"])
        assert "no stream `attic` is served" in until(lambda: served.refusals, 5, "a refusal")[0]


def test_wrong_key_is_reported_with_the_remedy(hosts: tuple[Path, Path], tmp_path: Path) -> None:
    with CaptureThread(hosts[0], CAMERA), Served(hosts[0]) as served:
        HostKeys().allow("boxc", HostKeys(tmp_path / "other").create().public.hex())
        source = {**served.source(), "peer": "boxc"}
        with CaptureThread(hosts[1], source) as capture:
            assert "has another key than that of `boxc` here" in str(capture.statuses.wait("down")["reason"])
            assert capture.stop()["frames"]["captured"] == 0


def test_closed_source_is_woken_without_effect(hosts: tuple[Path, Path]) -> None:
    """The serving thread may still have the function when the connection has just ended."""
    with CaptureThread(hosts[0], CAMERA), Served(hosts[0]) as served:
        source = _remote_source.RemoteSource(Remote.model_validate(served.source()))
        source.close()
        source.wake()


def test_greedy_host_shuts_no_other_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_server, "MAX_LINKS", 4)
    asked: list[PeerMessage] = []
    changes: list[tuple[str, str]] = []
    sent: list[Answer] = []
    curve = curve_server(asked, sent)
    with RemoteServer(tmp_path, ["yard"], curve, lambda link, state: changes.append((link.peer, state))) as server:

        def ask(peer: str, route: bytes) -> Answer:
            asked.append(PeerMessage(peer, route, encode(Ask(id=1, stream="yard", wants_frame=False))))
            server.handle()
            return sent[-1]

        greedy = [ask("boxb", b"%d" % number) for number in range(5)]
        assert [answer.error is None for answer in greedy] == [True] * 4 + [False]
        assert [ask("boxc", b"c%d" % number).error is None for number in range(3)] == [True, True, False]
        assert changes.count(("boxb", "down")) == changes.count(("boxc", "up")) == 2
        assert "one ended for boxc" in server.take_refusals()[1]

"""The web process over real connections: its responses, its access control, and slow clients."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamer.config.model import from_mapping
from streamer.core.errors import ConfigError
from streamer.events.build import schedule_event, worker_event
from streamer.events.ledger.query import LedgerQuery
from tests.support import faulty
from tests.support.agents import RunningAgent, assert_identity, until
from tests.support.capturing import STREAM
from tests.support.web_process import CONFIG, Publisher, Scene, WebProcess

TOKEN = "a-token-of-good-length"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("w")) as scene:
        until(lambda: state(scene.web)["state"] == "live", 15, "a live camera")
        yield scene


def state(web: WebProcess, stream: str = STREAM) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in web.get("/api/streams").json()["streams"] if one["name"] == stream)
    return found


def decode(picture: bytes) -> np.ndarray[Any, Any]:
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


# State, events and metrics


def test_streams_report_counts_and_newest_answers(scene: Scene) -> None:
    newest = scene.answer(text="a red circle")
    scene.publish(scene.answer(text="a blue circle"), newest)

    def with_newest_answer() -> dict[str, Any]:
        now = state(scene.web)
        latest = now["tasks"][1]["latest"]
        return now if now["fps"] and latest and latest["id"] == newest.id else {}

    now = until(with_newest_answer, 5, "the newest answer")
    assert_identity(now["frames"])
    assert now["frames"]["captured"] > 0
    assert 0 < now["fps"] < 25
    assert 0 <= now["frame_age_s"] < 60
    assert 0 <= now["tasks"][1]["latest_age_s"] < 300
    assert now["live"] == [{"kind": "mjpeg", "view": STREAM, "url": f"/live/{STREAM}.mjpeg"}]


def test_snapshot_is_the_newest_frame(scene: Scene) -> None:
    answer = scene.web.get(f"/api/snapshot/{STREAM}.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    assert decode(answer.body).shape == (240, 320, 3)
    assert decode(scene.web.get(f"/api/snapshot/{STREAM}.jpg?width=100").body).shape == (75, 100, 3)
    assert scene.web.get("/api/snapshot/cam1.jpg").status == 503  # nothing captures it
    assert scene.web.get(f"/api/snapshot/{STREAM}.jpg?width=9").status == 422


@pytest.mark.parametrize(
    "number",
    [
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-1",
        "0",
        "1",
        "9" * 15,
        "9" * 400,
        "9" * 5000,
        "",
        "%00",
        "%F0%9D%9F%8F",
        "0x10",
        "1_6",
    ],
)
def test_absurd_numbers_in_urls_are_no_server_error(scene: Scene, number: str) -> None:
    for path in (
        f"/api/events?limit={number}",
        f"/api/events?after={number}",
        f"/api/snapshot/{STREAM}.jpg?width={number}",
    ):
        assert scene.web.get(path).status in (200, 422), path
    for path in (f"/api/events/live?after={number}&stream=other", f"/hls/{number}/seg_{number}.m4s"):
        assert scene.web.get(path).status in (404, 422), path


def test_unknown_names_return_404(scene: Scene) -> None:
    for path in (
        "/api/snapshot/other.jpg", "/live/other.mjpeg", "/live/cam1.mjpeg", f"/hls/{STREAM}/index.m3u8",
        "/api/events?stream=other", "/api/events/live?stream=other", "/nothing", "/..%2f..%2fetc/passwd",
        "/vendor/../../app.py", "/%2e%2e/app.py",
    ):  # fmt: skip
        assert scene.web.get(path).status == 404, path
    assert "there are: cam, cam1" in scene.web.get("/api/events?stream=other").body.decode()


def test_events_filter_by_stream_task_and_text(scene: Scene) -> None:
    quoted = scene.answer(text='Ein Äffchen "oben" \\ links')
    bicycle = scene.answer(label="Fahrrad")
    elsewhere = scene.answer(text="affchen", stream="cam1")
    down = scene.camera_down("cable unplugged")
    scene.publish(quoted, bicycle, elsewhere, down)

    def found(query: str) -> list[str]:
        page = scene.web.get(f"/api/events?limit=4&{query}").json()
        return [entry["event"]["id"] for entry in page["events"]]

    assert found("") == [quoted.id, bicycle.id, elsewhere.id, down.id]
    assert found("text=%C3%84FFCHEN") == [quoted.id]
    assert found("text=%22oben%22%20%5C") == [quoted.id]
    assert found("text=fahr") == [bicycle.id]
    assert found("text=cable") == [down.id]
    assert found("text=polygons") == []  # a key of the event, not part of the answer
    assert found("stream=cam1") == [elsewhere.id]
    assert found("task=people")[-1:] == [bicycle.id]
    assert found(f"stream={STREAM}&task=caption&text=%C3%A4ff") == [quoted.id]
    assert found("task=stream.down") == [down.id]


def test_events_continue_after_a_position(scene: Scene) -> None:
    first = scene.web.get("/api/events?limit=1").json()["position"]
    new = [scene.answer() for _ in range(5)]
    scene.publish(*new)
    page = scene.web.get(f"/api/events?after={first}&limit=3").json()
    rest = scene.web.get(f"/api/events?after={page['position']}&limit=3").json()
    ids = [entry["event"]["id"] for entry in page["events"] + rest["events"]]
    assert ids == [one.id for one in new]
    assert scene.web.get(f"/api/events?after={rest['position']}").json()["events"] == []
    assert scene.web.get("/api/events?after=-1").status == 422
    assert scene.web.get("/api/events?limit=100000").status == 422
    assert b"limit: must be a whole number" in scene.web.get("/api/events?limit=x").body
    assert scene.web.get(f"/api/events?text={'x' * 201}").body == b'{"detail":"text: must have at most 200 characters"}'


def test_metrics_report_frames_results_and_drafts(scene: Scene) -> None:
    scene.publish(scene.answer())
    samples: dict[tuple[str, ...], float] = {}

    def counted() -> bool:
        text = scene.web.get("/metrics").body.decode()
        samples.clear()
        for family in text_string_to_metric_families(text):
            samples.update({(one.name, *one.labels.values()): one.value for one in family.samples})
        return samples["streamer_events_total",] == LedgerQuery(scene.runtime / "ledger.db").head()

    until(counted, 5, "the newest event counted")
    assert samples["streamer_results_total", "ok", STREAM, "people"] >= 1
    right, checked, near = (
        samples[f"streamer_draft_tokens_{key}_total", STREAM, "people"] for key in ("right", "checked", "near")
    )
    assert (right / checked, near / checked) == (0.7, 0.2)
    assert samples["streamer_info", "test", "0.1.0"] == 1
    assert samples["streamer_frames_captured_total", STREAM] > 0
    assert samples["streamer_capture_up", STREAM] == 1
    assert samples["streamer_capture_up", "cam1"] == 0
    assert samples["streamer_frame_age_seconds", STREAM] < 60
    assert samples["streamer_inference_seconds", STREAM, "people"] == 0.041


def test_metrics_report_interval_stretch(scene: Scene) -> None:
    def stretch() -> dict[str, float]:
        found = re.findall(
            rf'^streamer_interval_stretch{{priority="(\w+)",stream="{STREAM}"}} (\S+)',
            scene.web.get("/metrics").body.decode(), re.MULTILINE,
        )  # fmt: skip
        return {priority: float(factor) for priority, factor in found}

    as_configured = {"high": 1.0, "normal": 1.0, "low": 1.0}
    for status, expected in (
        (schedule_event("test", {STREAM: {"normal": 2.0}}, "too much"), {**as_configured, "normal": 2.0}),
        (schedule_event("test", {}, None), as_configured),
        (schedule_event("test", {STREAM: {"low": 3.0}}, "too much"), {**as_configured, "low": 3.0}),
        (worker_event("test", "capture:cam", "restarted"), {**as_configured, "low": 3.0}),
        (worker_event("test", "infer", "restarted"), as_configured),
    ):
        scene.publish(status)
        until(lambda expected=expected: stretch() == expected, 5, f"{expected}")  # type: ignore[misc]


def test_health_fails_while_a_capture_process_is_dead(scene: Scene) -> None:
    health = scene.web.get("/healthz")
    assert json.loads(health.body)["streams"][STREAM] == "live"
    scene.capture.kill()
    until(lambda: scene.web.get("/healthz").status == 503, 10, "the dead capture process reported")
    until(lambda: state(scene.web)["state"] == "silent", 10, "the dead capture process on the page")
    scene.capture.restart()
    until(lambda: state(scene.web)["state"] == "live", 15, "the new capture process reported")


# Live events and video


def read_events(response: HTTPResponse) -> Iterator[tuple[int, dict[str, Any]]]:
    position = 0
    for line in response:
        if line.startswith(b"id: "):
            position = int(line[4:])
        elif line.startswith(b"data: "):
            yield position, json.loads(line[6:])


def test_live_events_arrive_and_go_on_after_a_reconnect(scene: Scene) -> None:
    start = LedgerQuery(scene.runtime / "ledger.db").head()  # the page may not know the events of earlier tests yet
    with scene.web.stream(f"/api/events/live?task=people&after={start}") as response:
        assert response.getheader("content-type", "").startswith("text/event-stream")
        assert response.readline() == b"retry: 1000\n"
        arrived = read_events(response)
        for _ in range(3):
            sent = scene.answer()
            scene.publish(scene.answer(text="not this one"), sent)
            position, got = next(arrived)
            assert got["id"] == sent.id
    missed = [scene.answer(), scene.answer()]
    scene.publish(*missed)
    with scene.web.stream("/api/events/live?task=people", {"Last-Event-ID": str(position)}) as response:
        arrived = read_events(response)
        assert [next(arrived)[1]["id"] for _ in missed] == [one.id for one in missed]


def pictures(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the parts of a Motion JPEG as they arrive."""
    boundary = response.getheader("content-type", "").partition("boundary=")[2].encode()
    assert len(boundary) >= 32
    assert response.readline() == b"--" + boundary + b"\r\n"
    while True:
        assert response.readline() == b"Content-Type: image/jpeg\r\n"
        size = int(response.readline().partition(b": ")[2])
        assert response.readline() == b"\r\n"
        yield response.read(size)
        assert response.readline() == b"\r\n"
        assert response.readline() == b"--" + boundary + b"\r\n"


def test_motion_jpeg_is_requested_only_while_watched(scene: Scene) -> None:
    publisher = scene.publisher
    until(lambda: not publisher.watched, 5, "no client")
    with scene.web.stream(f"/live/{STREAM}.mjpeg") as one, scene.web.stream(f"/live/{STREAM}.mjpeg") as other:
        first, second = pictures(one), pictures(other)
        seen = [decode(next(first)) for _ in range(5)]
        assert decode(next(second)).shape == (240, 320, 3)
        assert any((seen[0] != later).any() for later in seen)
        assert publisher.watched
    until(lambda: not publisher.watched, 5, "no client any more")


def test_annotated_snapshot_comes_from_the_view(scene: Scene) -> None:
    before = scene.publisher.sent
    assert decode(scene.web.get(f"/api/snapshot/{STREAM}.jpg?annotated=true").body).shape == (240, 320, 3)
    until(lambda: scene.publisher.sent > before, 5, "the publisher counts the picture, after it has sent it")


def test_client_that_does_not_read_is_disconnected_alone(tmp_path: Path) -> None:
    with Publisher(tmp_path, fps=40, size=(1280, 960)), WebProcess(tmp_path) as web:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", web.port))
        slow.sendall(f"GET /live/{STREAM}.mjpeg HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        slow.settimeout(60)
        assert slow.recv(15) == b"HTTP/1.1 200 OK"  # the response has begun, so it is counted
        with web.stream(f"/live/{STREAM}.mjpeg") as response:
            seen, began = pictures(response), time.monotonic()
            numbers = []

            def watchers() -> int:
                found = re.search(
                    rf'^streamer_watchers{{view="{STREAM}"}} (\d)', web.get("/metrics").body.decode(), re.M
                )
                return int(found[1]) if found else 0

            assert watchers() == 2
            while watchers() == 2:
                assert time.monotonic() - began < 200, "the slow client stays connected"
                numbers += [len(next(seen)) for _ in range(20)]
            assert watchers() == 1
            assert len(numbers) > 20, "the other client was delayed"
            next(seen)
        slow.close()


def test_connection_without_a_request_is_closed(scene: Scene) -> None:
    scene.idle.settimeout(60)
    assert scene.idle.recv(100) == b""


def test_hls_serves_only_its_own_files(scene: Scene) -> None:
    folder = scene.runtime / "hls" / "cam1"
    folder.mkdir(parents=True)
    for name in ("index.m3u8", "init_320x240.mp4", "seg_00012.m4s", "index.m3u8.tmp", "other.mp4"):
        (folder / name).write_bytes(name.encode())
    (folder / "seg_00013.m4s").symlink_to(scene.runtime / "ledger.db")
    for name, kind in (
        ("index.m3u8", "application/vnd.apple.mpegurl"),
        ("init_320x240.mp4", "video/mp4"),
        ("seg_00012.m4s", "video/iso.segment"),
    ):  # fmt: skip
        answer = scene.web.get(f"/hls/cam1/{name}")
        assert (answer.status, answer.headers["content-type"], answer.body) == (200, kind, name.encode())
    for name in (
        "index.m3u8.tmp", "other.mp4", "init.mp4", "seg_00013.m4s", "seg_00099.m4s", "..%2f..%2fledger.db",
        "seg_1%00.m4s", "%2e%2e",
    ):  # fmt: skip
        assert scene.web.get(f"/hls/cam1/{name}").status == 404, name


def test_stop_ends_open_responses_at_once(tmp_path: Path) -> None:
    with Publisher(tmp_path), WebProcess(tmp_path) as web:
        with web.stream(f"/live/{STREAM}.mjpeg") as response, web.stream("/api/events/live") as live:
            next(pictures(response))
            live.readline()
            web.process.send_signal(signal.SIGTERM)
            assert web.process.wait(3) == 0
        assert "Traceback" not in web.errors.read_text()
        assert "ERROR" not in web.errors.read_text()


# Access control


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:9000", "LOCALHOST:1"])
def test_loopback_host_names_are_accepted(scene: Scene, host: str) -> None:
    assert scene.web.get("/api/streams", {"Host": host}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "192.0.2.1"},
        {"Host": ""},
        {"Host": "localhost@evil.example:80/["},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    ],
    ids=str,
)
def test_requests_of_foreign_pages_are_refused(scene: Scene, headers: dict[str, str]) -> None:
    for path in ("/", "/api/streams", f"/live/{STREAM}.mjpeg", "/healthz", "/nothing"):
        answer = scene.web.get(path, {"Host": "localhost", **headers})
        assert answer.status in (400, 403), path
        assert b"stream" not in answer.body


def test_link_from_another_site_is_allowed(scene: Scene) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert scene.web.get("/", headers).status == 200


def test_writing_methods_are_refused(scene: Scene) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        for path in ("/", "/api/streams", "/api/events"):
            assert scene.web.get(path, method=method).status == 405, (method, path)


def test_every_response_has_security_headers(scene: Scene) -> None:
    for path in ("/", "/app.js", "/api/streams", "/nothing", f"/api/snapshot/{STREAM}.jpg"):
        headers = scene.web.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] in ("no-store", "no-cache")
        assert "server" not in headers


@pytest.fixture(scope="module")
def with_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    with WebProcess(tmp_path_factory.mktemp("g"), {**CONFIG, "web": {"bind": "0.0.0.0:0", "token": TOKEN}}) as web:
        yield web


PATHS = ["/", "/app.js", "/api/streams", "/api/events", "/api/events/live", "/healthz", "/metrics", "/nothing",
         f"/live/{STREAM}.mjpeg", f"/api/snapshot/{STREAM}.jpg", "/hls/cam1/index.m3u8"]  # fmt: skip


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer Ä€"},
        {"Cookie": f"streamer-test={TOKEN}"},
        {"Cookie": "streamer-test="},
        {"Cookie": ";=;\x01"},
    ],
    ids=str,
)
def test_requests_without_the_token_are_refused(with_token: WebProcess, headers: dict[str, str]) -> None:
    encoded = {name: value.encode("utf-8").decode("latin-1") for name, value in headers.items()}
    for path in PATHS[:: 1 if "Authorization" not in headers else 4]:  # each wrong token takes half a second
        answer = with_token.get(path, encoded)
        assert answer.status in (400, 401, 429), path
        assert b"gate" not in answer.body


def test_token_grants_access_by_header_and_cookie(with_token: WebProcess) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}", "Host": "cameras.example:8080"}
    assert with_token.get("/api/streams", bearer).status == 200
    assert with_token.get("/api/streams", {**bearer, "Origin": "http://evil.example"}).status == 403
    page = with_token.get("/", {"Accept": "text/html"})
    assert (page.status, b"<form" in page.body) == (401, True)
    for form in (b"token=wrong-but-quite-long", b"", b"token=", b"x" * 100_000, f"tokens={TOKEN}".encode()):
        assert with_token.get("/login", method="POST", body=form).status == 403
    assert with_token.get(f"/login?token={TOKEN}").status == 401  # it would stay in the browser's history
    form = f"token={TOKEN}".encode()
    assert with_token.get("/login", {"Origin": "http://evil.example"}, "POST", form).status == 403
    answer = with_token.get("/login", method="POST", body=form)
    cookie = answer.headers["set-cookie"]
    assert (answer.status, answer.headers["location"]) == (303, "./")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert TOKEN not in cookie
    assert with_token.get("/api/streams", {"Cookie": cookie.partition(";")[0]}).status == 200
    assert TOKEN not in with_token.errors.read_text()


@pytest.mark.parametrize(
    ("web", "words"),
    [
        ({"bind": "0.0.0.0:8080"}, "web: others can reach 0.0.0.0:8080, so a `token` is needed"),
        ({"bind": "[::]:8080"}, "a `token` is needed"),
        ({"bind": "8080"}, "web.bind: must be an address and a port"),
        ({"bind": "127.0.0.1:99999"}, "web.bind: must be an address and a port"),
        ({"bind": "example.com:80"}, "web.bind: must begin with an IP address of this computer"),
        ({"token": "short"}, "web.token: must have at least 16 characters"),
        ({"port": 8080}, "web.port: unknown key"),
    ],
    ids=str,
)
def test_invalid_web_settings_are_config_errors(web: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_mapping({**CONFIG, "web": web})
    assert words in str(error.value)
    assert "short" not in str(error.value)


def test_web_settings_default_and_hide_the_token() -> None:
    assert from_mapping({**CONFIG, "web": None}).web == from_mapping({**CONFIG, "web": {}}).web
    open_to_all = from_mapping({**CONFIG, "web": {"bind": "0.0.0.0:80", "token": TOKEN}})
    assert TOKEN not in repr(open_to_all)
    without = {key: value for key, value in CONFIG.items() if key not in ("web", "outputs")}
    assert from_mapping(without).web is None


def test_address_in_use_ends_the_agent_with_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        streams = {"cam": {"source": "synthetic", "tasks": [{"task": "caption"}]}}
        file = faulty.config(tmp_path, streams, {}, web={"bind": address})
        environment = faulty.install(tmp_path / "installed")
        with RunningAgent(tmp_path / "agent", ["run", str(file)], environment=environment) as agent:
            assert agent.process.wait(60) == 2, agent.log()
    assert f"web.bind: cannot serve on {address}: Address already in use" in agent.log()


def test_address_of_another_computer_is_a_config_error(tmp_path: Path) -> None:
    with WebProcess(tmp_path, {**CONFIG, "web": {"bind": "192.0.2.1:8080", "token": TOKEN}}) as web:
        assert web.report["reason"] == "web.bind: cannot serve on 192.0.2.1:8080: Cannot assign requested address"
        assert web.process.wait(5) == 2

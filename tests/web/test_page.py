"""The page in a real browser: video, events and their filter, color schemes, a phone, restarts."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from streamer.bus.result_feed import ResultPublisher
from streamer.events.build import worker_event
from streamer.events.ledger import Ledger
from streamer.events.result_data import EventParent
from streamer.types import Span
from streamer.video.outputs.base import ViewId
from streamer.video.outputs.hls import hls_folder
from tests.support.agents import until
from tests.support.capturing import STREAM
from tests.support.hostile_texts import HOSTILE
from tests.support.sample_events import event
from tests.support.viewing import Role, StatusCollector, view_config
from tests.support.web_process import CONFIG, Scene, WebProcess
from tests.web.conftest import SHOWN_MS

DESKTOP, PHONE = (1280, 800), (390, 844)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("p")) as scene, hls(hls_folder(scene.runtime, ViewId("cam1"))):
        yield scene


@contextmanager
def hls(folder: Path) -> Iterator[None]:
    """Write live HLS with ffmpeg, as a view does."""
    folder.mkdir(parents=True)
    command = [
        "ffmpeg", "-v", "error", "-re", "-f", "lavfi", "-i", "testsrc2=size=320x240:rate=10", "-c:v", "libx264",
        "-g", "10", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-f", "hls", "-hls_segment_type", "fmp4",
        "-hls_time", "0.9", "-hls_list_size", "6", "-hls_flags", "delete_segments+independent_segments+omit_endlist",
        "-hls_fmp4_init_filename", "init_320x240.mp4", "-hls_segment_filename", "seg_%05d.m4s", "index.m3u8",
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


@contextmanager
def opened(
    browser: Browser, web: WebProcess, path: str = "/", size: tuple[int, int] = DESKTOP, **options: Any
) -> Iterator[Page]:
    """Open the page; fail at the end if it had a script error or violated its Content-Security-Policy."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    page = context.new_page()
    page.set_default_timeout(SHOWN_MS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
    page.goto(web.address + path)
    try:
        yield page
    finally:
        context.close()
    assert not errors


def card(page: Page, stream: str = STREAM) -> Any:
    return page.locator(f"article[aria-label='Camera {stream}']")


def pixels(page: Page, medium: str) -> str:
    """Return the current pixels of an image or video."""
    script = """([medium]) => {
        const one = document.querySelector(medium), canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [64, 48];
        canvas.getContext("2d").drawImage(one, 0, 0, 64, 48);
        return canvas.toDataURL();
    }"""
    return str(page.evaluate(script, [medium]))


def is_moving(page: Page, medium: str) -> bool:
    before = pixels(page, medium)
    page.wait_for_timeout(200)
    return pixels(page, medium) != before


def test_motion_jpeg_moves_on_the_page(browser: Browser, scene: Scene) -> None:
    until(lambda: not scene.publisher.watched, 5, "no client")
    with opened(browser, scene.web, f"/#{STREAM}") as page:
        picture = f"article[aria-label='Camera {STREAM}'] img.there"
        page.wait_for_selector(picture)
        assert "/live/cam.mjpeg" in (page.locator(picture).get_attribute("src") or "")
        until(lambda: is_moving(page, picture), 5, "a new frame")
        page.get_by_role("button", name="still").click()
        until(lambda: not scene.publisher.watched, 5, "the live video closed")
        page.wait_for_selector(picture)
    until(lambda: not scene.publisher.watched, 5, "no client any more")


def test_hls_plays_on_the_page(browser: Browser, scene: Scene) -> None:
    until(lambda: (hls_folder(scene.runtime, ViewId("cam1")) / "seg_00002.m4s").exists(), 10, "some segments")
    with opened(browser, scene.web, "/#cam1") as page:
        page.get_by_role("button", name="HLS").click()
        page.wait_for_selector("video.there")
        first = pixels(page, "video")
        begun = page.evaluate("document.querySelector('video').currentTime")
        until(lambda: page.evaluate("document.querySelector('video').currentTime") > begun + 1, 10, "a second later")
        assert pixels(page, "video") != first
        assert page.evaluate("document.querySelector('video').videoWidth") == 320


FRAME_RATE = {
    # Frames presented by the browser, by its own count.
    "video": """([selector, seconds]) => new Promise((done) => {
        const video = document.querySelector(selector);
        let first = null;
        const seen = (_, frame) => {
            first ??= frame;
            const passed = (frame.presentationTime - first.presentationTime) / 1000;
            if (passed < seconds) video.requestVideoFrameCallback(seen);
            else done((frame.presentedFrames - first.presentedFrames) / passed);
        };
        video.requestVideoFrameCallback(seen);
        setTimeout(() => done(`stopped at ${video.currentTime}, ready state ${video.readyState}`), 3000 * seconds);
    })""",
    # Browsers fire no event for a new part of a Motion JPEG, so the pixels are compared at each redraw.
    "img": """([selector, seconds]) => new Promise((done) => {
        const image = document.querySelector(selector), canvas = new OffscreenCanvas(64, 48);
        const pixels = canvas.getContext("2d", { willReadFrequently: true });
        let before = null, first = null, count = 0;
        const look = (now) => {
            pixels.drawImage(image, 100, 100, 64, 48, 0, 0, 64, 48);
            const seen = pixels.getImageData(0, 0, 64, 48).data.join();
            if (seen !== before) {
                if (before !== null && first === null) first = now;
                else if (first !== null) count += 1;
                before = seen;
                if (first !== null && now - first >= 1000 * seconds) return done(1000 * count / (now - first));
            }
            requestAnimationFrame(look);
        };
        requestAnimationFrame(look);
    })""",
}


def test_video_of_a_camera_plays_on_the_page(browser: Browser, tmp_path: Path) -> None:
    """A real camera, view and web process: Motion JPEG and HLS. `benchmarks/view` measures the frame rates."""
    config = {**view_config({"kind": "mjpeg"}, {"kind": "hls"}), "web": {"bind": "127.0.0.1:0"}}
    with (
        StatusCollector(tmp_path),
        Role(tmp_path, config, "capture"),
        Role(tmp_path, config, "view"),
        WebProcess(tmp_path, config) as web,
        opened(browser, web) as page,
    ):
        for medium, way in (("img", "MJPEG"), ("video", "HLS")):
            page.get_by_role("button", name=way).click()
            page.wait_for_selector(f"{medium}.there")

            def rate(medium: str = medium) -> float:
                found = page.evaluate(FRAME_RATE[medium], [f"{medium}.there", 2])
                return found if isinstance(found, float | int) else 0.0

            # A player buffers at first, and a busy computer shows fewer pictures.
            until(lambda: 10 < rate() < 27, 60, f"{way} plays")


def test_events_appear_and_are_filtered(browser: Browser, scene: Scene) -> None:
    scene.publish(scene.answer(text="before the page was opened"))
    with opened(browser, scene.web) as page:
        rows = page.locator("#events li")
        expect(rows.first).to_contain_text("before the page was opened")
        for number in range(3):
            one = scene.answer(text=f"a red circle {number}")
            scene.publish(one)
            page.wait_for_selector(f"[id='event-{one.id}']")
        expect(rows.first).to_contain_text("a red circle 2")

        page.get_by_role("searchbox").fill("CIRCLE 1")
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("a red circle 1")
        scene.publish(scene.answer(text="a blue square"), wanted := scene.answer(text="the circle 1 again"))
        page.wait_for_selector(f"[id='event-{wanted.id}']")
        expect(rows).to_have_count(2)
        page.get_by_role("searchbox").fill("nothing says this")
        expect(page.get_by_text("No event matches the filter.")).to_be_visible()

        page.get_by_role("searchbox").fill("")
        scene.publish(scene.answer(text="elsewhere", stream="cam1"), scene.answer(label="bicycle"))
        page.get_by_label("Stream").select_option("cam1")
        expect(rows).to_have_count(1)
        page.get_by_label("Stream").select_option("")
        page.get_by_label("Task").select_option("people")
        expect(rows.first).to_contain_text("bicycle")
        expect(page.locator("#events li", has_text="elsewhere")).to_have_count(0)


def test_card_lists_descriptions_of_objects(browser: Browser, scene: Scene) -> None:
    plain = event(STREAM, seq=900, name="who")
    assert plain.data.result is not None
    body = plain.data.result.model_copy(update={"text": "a man <b>with</b> a hat"})
    parent = EventParent(id="e", label="person", track=7)
    update = {"parent": parent, "result": body, "region": (0.7, 0.0, 0.9, 0.3)}
    scene.publish(plain.model_copy(update={"data": plain.data.model_copy(update=update)}))
    with opened(browser, scene.web, f"/#{STREAM}") as page:
        entry = card(page).get_by_label("Objects").locator("li")
        expect(entry).to_contain_text("a man <b>with</b> a hat person 7, top right,")


def test_card_shows_answers_ages_and_drops(browser: Browser, scene: Scene) -> None:
    scene.publish(scene.answer(text="a yellow star"), scene.answer(label="bicycle"))
    with opened(browser, scene.web) as page:
        expect(card(page)).to_contain_text("a yellow star")
        expect(card(page)).to_contain_text("0 dropped")
        expect(card(page)).to_contain_text("fps")
        card(page).locator("a.open").click()
        expect(card(page, "cam1")).to_be_hidden()
        large = card(page)
        expect(large).to_contain_text("captured")
        expect(large.locator(".labels")).to_have_text("bicycle 93 %")
        expect(large).to_contain_text("last answer")
        expect(large).to_contain_text("41 ms in the model")
        large.get_by_text("all cameras").click()
        expect(card(page, "cam1")).to_be_visible()


def test_unsupported_words_are_marked_by_a_sign(browser: Browser, scene: Scene) -> None:
    text = "a 🙂 ring, a red dog and two stars"
    places = [(0, 8, True), (10, 19, False), (24, 33, False)]
    spans = tuple(Span(start, end, (), 0.1, supported) for start, end, supported in places)
    scene.publish(scene.answer(text=text, spans=spans))
    signed = "a 🙂 ring, a red dog (?) and two stars (?)"
    with opened(browser, scene.web) as page:
        expect(page.locator("#events li").first).to_contain_text(signed)
        expect(card(page)).to_contain_text(signed)
        card(page).locator("a.open").click()
        expect(card(page).locator(".text")).to_have_text(signed)
        marked = card(page).locator("mark.unsupported")
        expect(marked).to_have_text(["a red dog (?)", "two stars (?)"])
        assert marked.first.get_attribute("title") == "The picture does not show this."
        expect(marked.first.get_by_role("img", name="(not supported)")).to_be_visible()


def test_lost_camera_shows_its_reason(browser: Browser, scene: Scene) -> None:
    scene.publish(scene.camera_down("no route to host", "cam1"))
    with opened(browser, scene.web) as page:
        expect(page.locator("#events li.bad").first).to_contain_text("no route to host")
        expect(page.locator("#connection")).to_have_text("1 of 2 live")


def test_login_is_needed_once(browser: Browser, tmp_path: Path) -> None:
    token = "a-token-of-good-length"
    config = {**CONFIG, "web": {"bind": "127.0.0.1:0", "token": token}}
    with WebProcess(tmp_path, config) as web, opened(browser, web) as page:
        page.get_by_label("Token").fill("another-one-that-is-wrong")
        page.get_by_role("button").click()
        expect(page.get_by_text("Wrong token.")).to_be_visible()
        page.get_by_label("Token").fill(token)
        page.get_by_role("button").click()
        expect(page.locator("#agent")).to_have_text("test")
        assert token not in page.url
        page.reload()
        expect(page.locator("#agent")).to_have_text("test")


def test_model_output_is_never_html(browser: Browser, scene: Scene) -> None:
    words = "<img src=x onerror=\"document.title='executed'\"><script>document.title='executed'</script>"
    scene.publish(scene.answer(text=words), scene.answer(label=words))
    with opened(browser, scene.web, f"/#{STREAM}") as page:
        expect(card(page)).to_contain_text("<script>")
        page.locator("#events li summary").first.click()
        expect(page.locator("#events pre")).to_contain_text("onerror")
        assert page.title() == "test · streamer"


def test_hostile_texts_stay_texts_everywhere(browser: Browser, scene: Scene) -> None:
    """Answers, labels and reasons that try to be markup, scripts, event lines or names of object properties."""
    with opened(browser, scene.web) as page:
        for words in HOSTILE:
            scene.publish(scene.answer(text=words), scene.answer(label=words), scene.camera_down(words))
        last = scene.answer(text="the last one")
        scene.publish(last)
        page.wait_for_selector(f"[id='event-{last.id}']")
        assert page.locator("#events li").count() >= 3 * len(HOSTILE)
        for fragment in ("#<img src=x onerror=window.executed=8>", "#%", f"#{STREAM}"):
            page.evaluate("fragment => { location.hash = fragment }", fragment)
            page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
            expect(page.locator("#connection")).to_contain_text("live")
        expect(card(page)).to_contain_text("the last one")
        assert page.evaluate("window.executed") is None
        foreign = "#events :is(script, iframe, svg, img, object, embed), article svg, article iframe"
        assert page.locator(foreign).count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_page_shows_an_event_that_it_cannot_read(browser: Browser, scene: Scene) -> None:
    with opened(browser, scene.web) as page:
        odd = {"position": 1, "event": {"id": "odd", "subject": 5}}
        body = json.dumps({"position": 1, "note": "search stopped", "events": [odd, odd]})
        page.route(
            re.compile(r"/api/events\?"), lambda route: route.fulfill(body=body, content_type="application/json")
        )
        page.route("**/api/events/live**", lambda route: route.abort())
        page.get_by_role("searchbox").fill("x")
        expect(page.locator("#events li")).to_have_count(2)
        expect(page.locator("#events li").first).to_contain_text('"subject": 5')
        expect(page.get_by_text("search stopped")).to_be_visible()


def test_page_without_rules_has_no_incidents_view(browser: Browser, scene: Scene) -> None:
    with opened(browser, scene.web) as page:
        expect(page.locator("#connection")).to_have_text("1 of 2 live")
        expect(page.locator("#views")).to_be_hidden()


def test_page_follows_the_color_scheme(browser: Browser, scene: Scene) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        with opened(browser, scene.web, color_scheme=scheme) as page:
            text = page.evaluate("getComputedStyle(document.body).backgroundColor")
            shades[scheme] = sum(int(part) for part in text[4:-1].split(","))
    assert shades["dark"] < 150 < 600 < shades["light"]


@pytest.mark.parametrize("path", ["/", f"/#{STREAM}"])
def test_page_fits_on_a_phone(browser: Browser, scene: Scene, path: str) -> None:
    scene.publish(scene.answer(text="a long text without any spaces " + "x" * 300))
    with opened(browser, scene.web, path, PHONE, has_touch=True, is_mobile=True) as page:
        expect(card(page)).to_contain_text("xxx")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        width = card(page).bounding_box()["width"]
        assert width > 0.9 * PHONE[0]


def test_page_recovers_after_a_restart(browser: Browser, scene: Scene) -> None:
    picture = f"article[aria-label='Camera {STREAM}'] img.there"
    with opened(browser, scene.web, f"/#{STREAM}") as page:
        page.wait_for_selector(picture)
        for signum in (signal.SIGKILL, signal.SIGTERM):
            scene.web.process.send_signal(signum)
            scene.web.process.wait()
            scene.web = scene.web.restart()
            one = scene.answer(text="after the break")
            scene.publish(one)
            page.wait_for_selector(f"[id='event-{one.id}']")
            until(lambda: scene.publisher.watched, 10, "the video requested again")
            page.wait_for_selector(picture)
            until(lambda: is_moving(page, picture), 10, "moving video")
            expect(page.locator("#connection")).to_have_text("1 of 2 live")


def test_page_reports_a_lost_connection(browser: Browser, scene: Scene) -> None:
    with opened(browser, scene.web) as page:
        expect(page.locator("#connection")).to_have_text("1 of 2 live")
        page.route("**/api/**", lambda route: route.abort())
        expect(page.locator("#connection")).to_have_text("no connection to the agent")
        page.unroute("**/api/**")
        page.route("**/api/**", lambda route: route.fulfill(status=503, body="busy"))
        expect(page.locator("#connection")).to_have_text("too many pages or players are open")
        page.get_by_role("searchbox").fill("x")
        expect(page.get_by_text("too many searches at once, trying again")).to_be_visible()
        page.unroute("**/api/**")
        expect(page.locator("#connection")).to_have_text("1 of 2 live")


def test_page_shows_several_devices(tmp_path: Path, browser: Browser) -> None:
    names = {"0": "cuda:0", "1": "cuda:1"}
    publisher = ResultPublisher(tmp_path, {STREAM: CONFIG["streams"][STREAM]["tasks"]}, "0")
    with Ledger(tmp_path / "ledger.db") as ledger, WebProcess(tmp_path, devices=names) as web:

        def is_up() -> bool:
            publisher.greet_subscribers()
            return bool(web.get("/api/streams").json()["devices"][0]["state"] == "up")

        until(is_up, 10, "the process is seen")
        ledger.commit([worker_event("test", "infer:1", "restarted", "killed by SIGKILL")])
        with opened(browser, web) as page:
            devices = page.locator("#devices")
            expect(devices).to_have_text("cuda:0: 1 stream · cuda:1: restarting")
            expect(devices).to_have_attribute("title", "killed by SIGKILL")
            expect(card(page).locator(".facts")).to_contain_text("on cuda:0")
    publisher.close()

"""Notifications in a real browser, by its service worker. The push service between agent and browser is played.

What stands in for it: the page's `subscribe` returns a subscription of a local HTTPS server, which gets and decrypts
what the agent sends; the developer tools of Chromium deliver the decrypted message to the service worker.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from streamer.events.notify.push_files import PushFiles
from streamer.events.result_data import Snapshot
from streamer.events.snapshots.folder import SnapshotFolder
from streamer.toyworld.world import World
from tests.support.agents import until
from tests.support.capturing import STREAM
from tests.support.push_service import PushService, push_service
from tests.support.rules_scene import WITH_RULES, RulesScene

CHROMIUM = "/usr/bin/chromium"
TOKEN = "a-token-of-good-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SUBSCRIBE = """([endpoint, p256dh, auth]) => {
    const one = { endpoint, unsubscribe: async () => true, toJSON: () => ({ endpoint, keys: { p256dh, auth } }) };
    PushManager.prototype.subscribe = async (options) => { window.subscribedFor = options; return one; };
}"""
SHOWN = """() => self.registration.getNotifications().then((all) =>
    all.map((one) => ({ title: one.title, body: one.body, tag: one.tag, image: one.image })))"""
CLICK = """async (action) => {
    const [notification] = await self.registration.getNotifications();
    self.dispatchEvent(new NotificationEvent("notificationclick", { notification, action }));
}"""


def config(service: PushService) -> dict[str, Any]:
    target = {"kind": "web_push", "hosts": ["localhost"], "ca": str(service.ca)}
    rules = {**WITH_RULES["rules"], "visitor": {**WITH_RULES["rules"]["visitor"], "notify": ["browsers"]}}
    web = {"bind": "127.0.0.1:0", "token": TOKEN}
    return {**WITH_RULES, "rules": rules, "notify": {"browsers": target}, "web": web}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PushService]:
    with push_service(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, service: PushService) -> Iterator[RulesScene]:
    with RulesScene(tmp_path_factory.mktemp("a"), config(service), BEARER) as scene:
        yield scene


@pytest.fixture
def page(scene: RulesScene) -> Iterator[Page]:
    """The page, logged in, with the permission to show notifications."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context()
        context.grant_permissions(["notifications"], origin=scene.web.address)
        page = context.new_page()
        page.goto(f"{scene.web.address}/#/incidents")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button").click()
        page.goto(f"{scene.web.address}/#/incidents")
        yield page
        browser.close()


def wait_until(page: Page, condition: Callable[[], object], timeout: float = 180.0) -> None:
    """Poll `condition` while the browser's events are handled. Raises AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout} s still not"
        page.wait_for_timeout(50)


def deliver(page: Page, origin: str, message: dict[str, Any]) -> None:
    """Give a push message to the service worker. The developer tools do not say whether the worker has got it."""
    tools = page.context.new_cdp_session(page)
    found: list[dict[str, Any]] = []
    tools.on("ServiceWorker.workerRegistrationUpdated", lambda event: found.extend(event["registrations"]))
    tools.send("ServiceWorker.enable")
    wait_until(page, lambda: found)
    body = {"origin": origin, "registrationId": found[0]["registrationId"], "data": json.dumps(message)}
    tools.send("ServiceWorker.deliverPushMessage", body)
    tools.detach()


def delivered(page: Page, origin: str, message: dict[str, Any]) -> dict[str, str]:
    """Return the notification of a push message. The worker is given it up to three times."""
    for _ in range(2):
        deliver(page, origin, message)
        try:
            return shown(page, message["body"], timeout=10)
        except AssertionError:
            continue
    deliver(page, origin, message)
    return shown(page, message["body"])


def shown(page: Page, text: str, timeout: float = 180.0) -> dict[str, str]:
    """Return the only notification, once its body holds a text. The page may show the form for the token by then."""
    wait_until(page, lambda: page.context.service_workers)
    (worker,) = page.context.service_workers
    found: list[dict[str, str]] = []

    def appeared() -> bool:
        found[:] = worker.evaluate(SHOWN)
        return bool(found) and text in found[0]["body"]

    wait_until(page, appeared, timeout)
    (one,) = found
    return one


def snapshot(scene: RulesScene, event: str) -> Snapshot:
    """Store a picture as the one of an answer."""
    jpeg = cv2.imencode(".jpg", World(5).scene(0).paint(320, 240))[1].tobytes()
    SnapshotFolder(scene.workers.state).write(STREAM, event, jpeg)
    return Snapshot(sha256=hashlib.sha256(jpeg).hexdigest(), bytes=len(jpeg), width=320, height=240)


def test_push_shows_the_picture_and_its_buttons_work(scene: RulesScene, service: PushService, page: Page) -> None:
    subscription = service.subscription()
    page.evaluate(SUBSCRIBE, [subscription.endpoint, subscription.p256dh, subscription.auth])
    page.get_by_role("button", name="Turn notifications on").click()
    expect(page.get_by_text("notifications are on in this browser.")).to_be_visible()
    keys = PushFiles(scene.workers.state).keys()
    assert page.evaluate("subscribedFor") == {"userVisibleOnly": True, "applicationServerKey": keys.public}

    incident = scene.play(0.7, snapshot=lambda event: snapshot(scene, event))
    ((_, message),) = until(lambda: service.messages, 20, "the message at the push service")
    assert TOKEN not in json.dumps(message)
    assert "picture" in message
    one = delivered(page, scene.web.address, message)
    assert f"1 x person at {STREAM}" in one["body"]
    assert (one["title"], one["tag"]) == (f"visitor at {STREAM}", incident)
    picture = "url => fetch(url, { credentials: 'omit' }).then((one) => one.blob()).then(createImageBitmap)"
    assert page.evaluate(f"{picture}.then((one) => [one.width, one.height])", one["image"]) == [320, 240]
    delivered(page, scene.web.address, {**message, "body": "a later text"})  # in place of the first one

    worker = page.context.service_workers[0]
    worker.evaluate(CLICK, "wrong")
    shown(page, f"incident {incident} of visitor on {STREAM}: wrong")
    assert scene.listed(incident)["verdict"] == "wrong"
    delivered(page, scene.web.address, message)
    page.context.clear_cookies()  # the links need no session
    worker.evaluate(CLICK, "snooze")
    shown(page, "snoozed until")
    (snooze,) = scene.web.get("/api/rules/state", BEARER).json()["snoozes"]
    assert (snooze["rule"], snooze["stream"], snooze["by"]) == ("visitor", STREAM, "notification")
    scene.play(None, None, None)


def test_link_allows_nothing_else(scene: RulesScene, service: PushService) -> None:
    assert scene.web.get("/api/push").status == 401
    message = until(lambda: service.messages, 20, "a message")[0][1]
    assert scene.web.get(f"/{message['snooze']}").status == 404
    token = message["snooze"].rpartition("/")[2]
    for path, method in ((f"/push/wrong/{token}", "POST"), (f"/push/snooze/{token}0", "POST"), ("/api/rules", "GET")):
        assert scene.web.get(path, method=method).status == 401, path


def test_browser_can_install_the_page(page: Page) -> None:
    """An iPhone asks for this before it offers web push. The manifest is behind the token, like the page."""
    tools = page.context.new_cdp_session(page)
    found = tools.send("Page.getAppManifest")
    assert found["errors"] == []
    manifest = json.loads(found["data"])
    assert (manifest["display"], manifest["name"]) == ("standalone", "streamer")
    for icon in manifest["icons"]:
        size = page.evaluate(
            "async (src) => { const one = new Image(); one.src = src; await one.decode(); return one.naturalWidth; }",
            icon["src"],
        )
        assert icon["sizes"] in ("any", f"{size}x{size}")

"""One page of three hosts: agents with keys, state and addresses of their own, which share one config."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from streamer.bus.commands import RunStreams
from streamer.bus.host_keys import HostKeys
from streamer.bus.rpc import control_socket, request
from tests.support.agents import RunningAgent, until
from tests.support.ports import free_port
from tests.web.conftest import CHROMIUM

OWNER, KIOSK = "the-token-of-the-owner-1", "the-token-of-the-kiosk-1"
CAMERA = {"source": "synthetic?fps=5&size=320x240"}
STREAMS = {"a": "gate", "b": "yard", "c": "door"}
"""Stream of each host."""
START_S, WAIT_S = 300, 90
pytestmark = pytest.mark.timeout(900)


class Site:
    """The hosts a, b and c; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "shop.yaml"
        hosts = {name: {"address": f"127.0.0.{number}"} for number, name in enumerate(STREAMS, 1)}
        content = {
            "streams": dict.fromkeys(STREAMS.values(), CAMERA),
            "serve": {"bind": "127.0.0.1:0"},
            "outputs": [{"kind": "mjpeg", "stream": name} for name in STREAMS.values()],
            "modes": ["home", "away"],
            "rules": {"works": {"when": {"stream": "up"}}},
            "cluster": {"hosts": hosts, "page_port": free_port()},
            "web": {"bind": "127.0.0.1:0", "token": OWNER, "tokens": {"kiosk": {"token": KIOSK}}},
        }
        self.config.write_text(json.dumps(content))
        keys = {name: HostKeys(folder / name / "state" / "streamer" / "host.keys") for name in STREAMS}
        public = {name: one.create().public.hex() for name, one in keys.items()}
        for name, one in keys.items():
            for other in public.keys() - {name}:
                one.allow(other, public[other])
        self.agents: dict[str, RunningAgent] = {}
        self.pages: dict[str, str] = {}
        """Address of the page of each host."""

    def __enter__(self) -> Site:
        with ExitStack() as stack:
            for name, stream in STREAMS.items():
                command = ["run", str(self.config), "--host", name, "--streams", stream]
                self.agents[name] = agent = stack.enter_context(RunningAgent(self.folder / name, command))
                self.pages[name] = self._page(agent)  # one after another: at once they slow each other down
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _page(self, agent: RunningAgent) -> str:
        def address() -> re.Match[str] | None:
            return re.search(r"page served at (http://\S+)", agent.errors.read_text())

        found = until(address, START_S, "the page")
        assert found is not None
        return found[1]

    def get(self, host: str, path: str, token: str = OWNER, body: Any = None) -> tuple[int, Any]:
        """Return status and body of an answer of a host's page: parsed, unless it is a picture."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.pages[host] + path, data, headers)
        try:
            with urllib.request.urlopen(asked, timeout=WAIT_S) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        return status, json.loads(content) if content[:1] in (b"{", b"[") else content

    def state(self, host: str, stream: str) -> tuple[str, str | None]:
        """Return state and host of a stream, as the page of a host shows it."""
        _, body = self.get(host, "/api/streams")
        return next((one["state"], one["host"]) for one in body["streams"] if one["name"] == stream)

    def run_streams(self, host: str, *streams: str) -> None:
        runtime = self.folder / host / "run" / "streamer" / f"shop-{host}"
        assert "error" not in request(control_socket(runtime), RunStreams(names=list(streams), by="test").message(), 60)

    def kill(self, host: str) -> None:
        """Kill all processes of a host."""
        agent = self.agents[host]
        for pid in (agent.process.pid, *agent.children().values()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        agent.process.wait()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("s")) as site:
        for host, stream in STREAMS.items():
            until(lambda stream=stream, host=host: site.state("a", stream) == ("live", host), START_S, stream)  # type: ignore[misc]
        yield site


@pytest.fixture(scope="module")
def page(site: Site) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser: Browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(extra_http_headers={"Authorization": f"Bearer {OWNER}"})
        context.set_default_timeout(WAIT_S * 1000)
        page = context.new_page()
        page.goto(site.pages["a"])
        yield page
        browser.close()


def incidents(site: Site, host: str, query: str = "") -> dict[str, Any]:
    """Return the open incidents by stream, as the page of a host shows them."""
    status, body = site.get(host, f"/api/incidents?state=open{query}")
    return {one["stream"]: one for one in body["incidents"]} if status == 200 else {}


def test_page_shows_live_pictures_of_all_hosts(site: Site, page: Page) -> None:
    for host, stream in STREAMS.items():
        card = page.locator(f"article[aria-label='Camera {stream}']")
        expect(card.locator(".badge")).to_have_text("live")
        expect(card.locator(".facts")).to_contain_text(f"on {host}")
        picture = card.locator("img.there")
        expect(picture).to_have_attribute("src", re.compile(rf"/live/{stream}\.mjpeg"))
        assert picture.evaluate("one => one.naturalWidth") == 320
    expect(page.locator("#hosts")).to_have_text("3 hosts")


def test_api_answers_for_streams_of_other_hosts(site: Site) -> None:
    for stream in STREAMS.values():
        status, picture = site.get("a", f"/api/snapshot/{stream}.jpg")
        assert (status, picture[:2]) == (200, b"\xff\xd8")
    status, body = site.get("c", "/api/events?limit=500")
    assert status == 200
    assert {one["host"] for one in body["events"]} == set(STREAMS)
    assert {one.partition(":")[0] for one in body["position"].split(",")} == set(STREAMS)
    times = [one["event"]["time"] for one in body["events"]]
    assert len(times) > 3
    status, more = site.get("c", f"/api/events?limit=500&after={body['position']}")
    assert status == 200
    assert not {one["event"]["id"] for one in body["events"]} & {one["event"]["id"] for one in more["events"]}
    assert site.get("a", "/api/events?after=nowhere")[0] == 422
    assert site.get("a", "/api/streams?host=nowhere") == (404, {"detail": "unknown host 'nowhere'; there are: a, b, c"})


def test_incident_of_another_host_is_acknowledged_on_the_page(site: Site, page: Page) -> None:
    until(lambda: set(incidents(site, "a")) == set(STREAMS.values()), WAIT_S, "the incidents of all hosts")
    page.goto(f"{site.pages['a']}/#/incidents")
    row = page.locator("li.incident", has_text="yard · on b")
    row.get_by_role("button", name="Acknowledge").click()
    expect(row.locator(".note")).to_contain_text("acknowledged")
    expect(row.locator(".facts")).to_contain_text("acknowledged by token@a")
    assert incidents(site, "b", "&host=b")["yard"]["acknowledged"] == "token@a"
    judged = {"incident": incidents(site, "c")["door"]["incident"], "verdict": "wrong"}
    assert site.get("a", "/api/rules/feedback", body=judged)[0] == 200  # the host is not named: it is found
    until(lambda: incidents(site, "c", "&host=c")["door"]["verdict"] == "wrong", WAIT_S, "the verdict")
    status, answer = site.get("a", "/api/rules/ack", body={"incident": "c0ffee00"})
    assert (status, "no incident" in answer["detail"]) == (400, True)


def test_viewer_commands_no_other_host(site: Site) -> None:
    for path in ("/api/rules/mode", "/api/rules/mode?host=b"):
        assert site.get("a", path, KIOSK, {"mode": "away"})[0] == 403
    assert site.get("a", "/api/snapshot/yard.jpg", KIOSK)[0] == 200
    assert site.get("a", "/api/streams", "a-wrong-token-of-a-stranger")[0] == 401
    assert [site.get(host, f"/api/rules/state?host={host}")[1]["mode"] for host in STREAMS] == ["home"] * 3


def test_mode_reaches_all_hosts_and_its_events_the_page(site: Site) -> None:
    headers = {"Authorization": f"Bearer {OWNER}"}
    asked = urllib.request.Request(f"{site.pages['a']}/api/events/live", headers=headers)
    with urllib.request.urlopen(asked, timeout=WAIT_S) as live:
        assert live.readline() == b"retry: 1000\n"
        assert site.get("a", "/api/rules/mode", body={"mode": "away"}) == (200, {"done": "mode away"})
        assert [site.get(host, f"/api/rules/state?host={host}")[1]["mode"] for host in STREAMS] == ["away"] * 3
        sources: set[str] = set()
        while len(sources) < len(STREAMS):
            line = live.readline()
            if line.startswith(b"data: ") and b'"away"' in line:
                sources.add(json.loads(line[6:])["source"])
    assert sources == {f"/agents/shop-{host}/rules" for host in STREAMS}


def test_moved_stream_is_shown_once_with_its_history(site: Site, page: Page) -> None:
    page.goto(site.pages["a"])
    site.run_streams("b")
    site.run_streams("c", "door", "yard")
    until(lambda: site.state("a", "yard") == ("live", "c"), WAIT_S, "the stream at its new host")
    cards = page.locator("article[aria-label='Camera yard']")
    expect(cards).to_have_count(1)
    expect(cards.locator(".facts")).to_contain_text("on c")
    expect(cards.locator("img.there")).to_have_attribute("src", re.compile("/live/yard"))

    def both() -> bool:
        events = site.get("a", "/api/events?stream=yard&limit=500")[1]["events"]
        return {one["host"] for one in events} == {"b", "c"}

    until(both, WAIT_S, "the events of both hosts")


def test_lost_host_is_named_and_others_go_on(site: Site, page: Page) -> None:
    page.goto(site.pages["a"])
    expect(page.locator("#hosts")).to_have_text("3 hosts")
    site.kill("c")
    expect(page.locator("#hosts")).to_have_text("c unreachable")
    card = page.locator("article[aria-label='Camera door']")
    expect(card.locator(".badge")).to_have_text("not reached")
    expect(card.locator(".problem")).to_contain_text("not reached: c")
    expect(page.locator("article[aria-label='Camera gate'] .badge")).to_have_text("live")
    site.run_streams("b", "yard")
    until(lambda: site.state("a", "yard") == ("live", "b"), WAIT_S, "the stream at another host")
    assert site.get("a", "/api/snapshot/yard.jpg")[0] == 200
    status, body = site.get("a", "/api/events")
    assert (status, "not reached: c" in body["note"]) == (200, True)
    status, body = site.get("a", "/api/rules/mode", body={"mode": "home"})
    assert (status, body["detail"][:28]) == (503, "mode home, but not reached: ")
    assert site.get("b", "/api/rules/state?host=b")[1]["mode"] == "home"

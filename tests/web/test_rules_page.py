"""The view of rules and incidents: its API over real connections, and the page in a real browser."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from streamer.bus.commands import Feedback
from streamer.bus.event_channel import EventClient
from streamer.bus.rpc import rules_socket
from streamer.bus.rules_client import command_rules
from streamer.config.model import from_mapping
from streamer.events.schema import ResultEvent
from streamer.events.verdicts import FILE
from tests.support.agents import until
from tests.support.capturing import STREAM
from tests.support.incidents import Camera
from tests.support.rules_process import Workers
from tests.support.web_process import AGENT, CONFIG, WebProcess

CHROMIUM = "/usr/bin/chromium"
RULES: dict[str, Any] = {
    "visitor": {
        "when": {"label": "person", "min_score": 0.6, "clear_score": 0.45, "streams": [STREAM]},
        "grace": "2s",
        "severity": "high",
        "say": "{count} x {label} at {stream}",
    },
    "dog": {"when": {"label": "dog", "streams": [STREAM]}, "between": "22:00-06:00"},
}
WITH_RULES: dict[str, Any] = {**CONFIG, "rules": RULES}


class Scene:
    """The real emit, rules and web processes of an agent whose camera is played; a context manager."""

    def __init__(self, folder: Path, config: Mapping[str, Any] = WITH_RULES) -> None:
        self._config, self._folder = config, folder
        self._camera = Camera(STREAM, AGENT)

    def __enter__(self) -> Scene:
        with contextlib.ExitStack() as stack:
            self.workers = stack.enter_context(Workers(self._folder, from_mapping(self._config)))
            self._events = stack.enter_context(EventClient(self.workers.runtime, "infer"))
            until(rules_socket(self.workers.runtime).exists, 60, "the rules process")
            self.past = self.play(0.9, None, None, None)
            until(lambda: len(self.workers.incidents()) == 2, 20, "the first incident and its end")
            web = WebProcess(self.workers.runtime, self._config, state=self.workers.state)
            self.web = stack.enter_context(web)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, *scores: float | None) -> str:
        """Let the rules see answers with a person of these scores. Return the id of the incident that they start."""
        answers = list(self._camera.answers(*scores))
        for answer in answers:
            self._events.send(answer, None)
        assert self._events.flush(20)
        return self._incident_of(answers[0]) if scores[0] is not None else ""

    def _incident_of(self, answer: ResultEvent) -> str:
        found: list[str] = until(
            lambda: [one.data.incident for one in self.workers.incidents() if answer.id in one.data.evidence],
            20,
            "the incident of an answer",
        )
        return found[0]

    def incidents(self, query: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.web.get(f"/api/incidents?{query}").json()["incidents"]
        return found

    def listed(self, incident: str) -> dict[str, Any]:
        """Return an incident as the API lists it, once it does."""
        found: dict[str, Any] = until(
            lambda: next((one for one in self.incidents() if one["incident"] == incident), {}), 10, "the incident"
        )
        return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("r")) as scene:
        yield scene


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, web: WebProcess, size: tuple[int, int] = (1280, 800), **options: Any) -> Iterator[Page]:
    """Open the view; fail at the end if it had a script error or violated its Content-Security-Policy."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
    page.goto(f"{web.address}/#/incidents")
    try:
        yield page
    finally:
        context.close()
    assert not errors


def test_incidents_are_listed_newest_first(scene: Scene) -> None:
    scene.listed(scene.past)
    newest = scene.play(0.7)
    first = scene.listed(newest)
    assert scene.incidents()[0]["incident"] == newest
    assert first["open"]
    assert (first["severity"], first["text"]) == ("high", f"1 x person at {STREAM}")
    assert (first["why"][0]["score"], first["why"][0]["min_score"]) == (0.7, 0.6)
    assert [one["incident"] for one in scene.incidents()][-1] == scene.past
    scene.play(None, None, None)
    until(lambda: not scene.incidents("state=open"), 5, "its end")
    assert [one["open"] for one in scene.incidents("limit=1")] == [False]
    assert scene.incidents("rule=dog") == []
    assert scene.web.get("/api/incidents?stream=nowhere").status == 404


def test_rules_are_listed_with_their_state(scene: Scene) -> None:
    visitor, dog = scene.web.get("/api/rules").json()["rules"]
    assert (visitor["condition"], visitor["streams"], visitor["severity"]) == ("label person", [STREAM], "high")
    assert (dog["open"], dog["last"], dog["between"]) == (0, None, "22:00-06:00")


def test_verdict_changes_the_precision_of_its_rule(scene: Scene) -> None:
    incident = scene.play(0.7)
    assert scene.listed(incident)["verdict"] is None
    command_rules(scene.workers.runtime, Feedback(by="anna", incident=incident, verdict="wrong"))
    assert scene.listed(incident)["verdict"] == "wrong"
    stored = json.loads((scene.workers.state / FILE).read_text().splitlines()[-1])
    assert (stored["by"], stored["best_score"], stored["start_score"]) == ("anna", 0.7, 0.7)
    visitor = scene.web.get("/api/rules").json()["rules"][0]
    assert visitor["precision"] == {"right": 0, "wrong": 1, "share": 0.0}
    scene.play(None, None, None)


def test_incident_appears_with_its_reasons(browser: Browser, scene: Scene) -> None:
    with opened(browser, scene.web) as page:
        expect(page.locator(f"#incident-{scene.past}")).to_contain_text(f"1 x person at {STREAM}")
        new = scene.play(0.83)
        row = page.locator(f"#incident-{new}")
        expect(row).to_contain_text("open for")
        expect(page.locator("#open")).to_have_text("1")
        row.get_by_text("Why").click()
        expect(row.locator(".why")).to_contain_text("label person: 1 (needs >= 1), score 0.83 (starts at 0.6")
        expect(page.get_by_label("Rule visitor")).to_contain_text("open")
        expect(page.get_by_label("Rule visitor")).to_contain_text("Feedback: 0 % right (0 right, 1 wrong).")
        scene.play(None, None, None)
        expect(row).to_contain_text("lasted")
        expect(row.locator(".why")).to_be_visible()


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_incidents_fit_on_screen_and_phone(browser: Browser, scene: Scene, size: tuple[int, int]) -> None:
    with opened(browser, scene.web, size) as page:
        expect(page.locator(f"#incident-{scene.past}")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]

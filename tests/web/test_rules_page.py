"""The view of rules and incidents: its API over real connections, and the page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from streamer.config.model import from_mapping
from streamer.events.ledger import Ledger
from tests.support.agents import until
from tests.support.capturing import STREAM
from tests.support.incidents import Watch
from tests.support.web_process import CONFIG, WebProcess

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
    """A web process with a ledger into which rules report; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "ledger.db")
        self.watch = Watch(from_mapping(WITH_RULES))
        self.past = self.answer(0.9, None, None, None)
        self.web = WebProcess(folder, WITH_RULES)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.web.__exit__()
        self.ledger.close()

    def answer(self, *scores: float | None) -> str:
        """Let the rules see answers with a person of these scores. Return the id of the last incident."""
        incidents = self.watch.answers(STREAM, *scores)
        self.ledger.commit(incidents)
        return incidents[-1].data.incident

    def incidents(self, query: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.web.get(f"/api/incidents?{query}").json()["incidents"]
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
    until(lambda: scene.incidents(), 10, "the past incident")
    newest = scene.answer(0.7)
    first = until(lambda: [one for one in scene.incidents() if one["incident"] == newest], 5, "the new one")[0]
    assert first["open"]
    assert (first["severity"], first["text"]) == ("high", f"1 x person at {STREAM}")
    assert (first["why"][0]["score"], first["why"][0]["min_score"]) == (0.7, 0.6)
    assert [one["incident"] for one in scene.incidents()][-1] == scene.past
    scene.answer(None, None, None)
    until(lambda: not scene.incidents("state=open"), 5, "its end")
    assert [one["open"] for one in scene.incidents("limit=1")] == [False]
    assert scene.incidents("rule=dog") == []
    assert scene.web.get("/api/incidents?stream=nowhere").status == 404


def test_rules_are_listed_with_their_state(scene: Scene) -> None:
    visitor, dog = scene.web.get("/api/rules").json()["rules"]
    assert (visitor["condition"], visitor["streams"], visitor["severity"]) == ("label person", [STREAM], "high")
    assert (dog["open"], dog["last"], dog["between"]) == (0, None, "22:00-06:00")


def test_incident_appears_with_its_reasons(browser: Browser, scene: Scene) -> None:
    with opened(browser, scene.web) as page:
        expect(page.locator(f"#incident-{scene.past}")).to_contain_text(f"1 x person at {STREAM}")
        new = scene.answer(0.83)
        row = page.locator(f"#incident-{new}")
        expect(row).to_contain_text("open for")
        expect(page.locator("#open")).to_have_text("1")
        row.get_by_text("Why").click()
        expect(row.locator(".why")).to_contain_text("label person: 1 (needs >= 1), score 0.83 (starts at 0.6")
        expect(page.get_by_label("Rule visitor")).to_contain_text("open")
        scene.answer(None, None, None)
        expect(row).to_contain_text("lasted")
        expect(row.locator(".why")).to_be_visible()


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_incidents_fit_on_screen_and_phone(browser: Browser, scene: Scene, size: tuple[int, int]) -> None:
    with opened(browser, scene.web, size) as page:
        expect(page.locator(f"#incident-{scene.past}")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]

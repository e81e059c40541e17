"""The view of rules and incidents: its API over real connections, and the page in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from streamer.bus.commands import Feedback
from streamer.bus.rules_client import command_rules
from streamer.events.incident_data import IncidentFrame, Reason
from streamer.events.schema import IncidentEvent
from streamer.events.verdicts import FILE
from tests.support.agents import until
from tests.support.capturing import STREAM
from tests.support.hostile_texts import HOSTILE
from tests.support.incident_events import incident_event
from tests.support.rules_scene import RulesScene
from tests.support.web_process import AGENT, WebProcess
from tests.web.conftest import SHOWN_MS


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RulesScene]:
    with RulesScene(tmp_path_factory.mktemp("r")) as scene:
        yield scene


@contextmanager
def opened(browser: Browser, web: WebProcess, size: tuple[int, int] = (1280, 800), **options: Any) -> Iterator[Page]:
    """Open the view; fail at the end if it had a script error or violated its Content-Security-Policy."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    page = context.new_page()
    page.set_default_timeout(SHOWN_MS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
    page.goto(f"{web.address}/#/incidents")
    try:
        yield page
    finally:
        context.close()
    assert not errors


def test_incidents_are_listed_newest_first(scene: RulesScene) -> None:
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


def test_rules_are_listed_with_their_state(scene: RulesScene) -> None:
    visitor, dog = scene.web.get("/api/rules").json()["rules"]
    assert (visitor["condition"], visitor["streams"], visitor["severity"]) == ("label person", [STREAM], "high")
    assert (dog["open"], dog["last"], dog["between"]) == (0, None, "22:00-06:00")


def test_rules_are_listed_with_mode_and_snoozes(scene: RulesScene) -> None:
    scene.post("/api/rules/snooze", {"rule": "dog", "for": "1h"})
    answer = scene.web.get("/api/rules").json()
    scene.post("/api/rules/snooze", {"off": True})
    assert (answer["modes"], answer["mode"]) == (["home", "away"], "home")
    assert [(one["rule"], one["stream"]) for one in answer["snoozes"]] == [("dog", None)]
    assert [(one["modes"], one["armed"]) for one in answer["rules"]] == [(None, True), (["away"], False)]


def test_verdict_changes_the_precision_of_its_rule(scene: RulesScene) -> None:
    incident = scene.play(0.7)
    assert scene.listed(incident)["verdict"] is None
    command_rules(scene.workers.runtime, Feedback(by="anna", incident=incident, verdict="wrong"))
    assert scene.listed(incident)["verdict"] == "wrong"
    stored = json.loads((scene.workers.state / FILE).read_text().splitlines()[-1])
    assert (stored["by"], stored["best_score"], stored["start_score"]) == ("anna", 0.7, 0.7)
    visitor = scene.web.get("/api/rules").json()["rules"][0]
    assert visitor["precision"] == {"right": 0, "wrong": 1, "share": 0.0}
    scene.play(None, None, None)


def test_buttons_of_an_incident_take_effect(browser: Browser, scene: RulesScene) -> None:
    incident = scene.play(0.75)
    with opened(browser, scene.web) as page:
        row = page.locator(f"#incident-{incident}")
        row.get_by_role("button", name="Acknowledge").click()
        expect(row.get_by_role("status")).to_contain_text("acknowledged")
        row.get_by_role("button", name="Right").click()
        expect(row.get_by_role("button", name="Right")).to_have_attribute("aria-pressed", "true")
        expect(row.get_by_role("button", name="Acknowledge")).to_be_hidden()
        row.get_by_label("Snooze").select_option(label=f"camera {STREAM}, 1 hour")
        expect(row.get_by_role("status")).to_contain_text("snoozed until")
        visitor = page.get_by_label("Rule visitor")
        expect(visitor).to_contain_text(f"snoozed at {STREAM} until")
        visitor.get_by_label("Snooze").select_option(label="visitor, until morning")
        visitor.get_by_role("button", name="End snooze").click()
        expect(visitor.get_by_role("status")).to_contain_text("not snoozed any more")
        page.route("**/api/rules/snooze", lambda route: route.abort())
        row.get_by_label("Snooze").select_option(label="all rules, until morning")
        expect(row.get_by_role("status")).to_have_text("No answer from the agent: try again.")
        page.unroute("**/api/rules/snooze")
    scene.post("/api/rules/snooze", {"off": True})
    scene.play(None, None, None)


def test_mode_is_shown_and_switched(browser: Browser, scene: RulesScene) -> None:
    with opened(browser, scene.web) as page:
        dog = page.get_by_label("Rule dog")
        expect(dog).to_contain_text("not armed, needs mode away")
        page.get_by_label("Mode", exact=True).select_option("away")
        expect(dog).to_contain_text("active")
        expect(page.locator("#rules > header")).to_contain_text("mode away")


def test_incident_appears_with_its_reasons(browser: Browser, scene: RulesScene) -> None:
    with opened(browser, scene.web) as page:
        expect(page.locator(f"#incident-{scene.past}")).to_contain_text(f"1 x person at {STREAM}")
        new = scene.play(0.83)
        row = page.locator(f"#incident-{new}")
        expect(row).to_contain_text("open for")
        expect(page.locator("#open")).to_have_text("1")
        row.get_by_text("Why").click()
        expect(row.locator(".why")).to_contain_text("label person: 1 (needs >= 1), score 0.83 (starts at 0.6")
        expect(page.get_by_label("Rule visitor")).to_contain_text("open")
        expect(page.get_by_label("Rule visitor")).to_contain_text("Feedback: 50 % right (1 right, 1 wrong).")
        scene.play(None, None, None)
        expect(row).to_contain_text("lasted")
        expect(row.locator(".why")).to_be_visible()


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_incidents_fit_on_screen_and_phone(browser: Browser, scene: RulesScene, size: tuple[int, int]) -> None:
    with opened(browser, scene.web, size) as page:
        expect(page.locator(f"#incident-{scene.past}")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_hostile_texts_of_an_incident_stay_texts(browser: Browser, scene: RulesScene) -> None:
    with opened(browser, scene.web) as page:
        for number, words in enumerate(HOSTILE):
            scene.report(incident_of(f"hostile-{number}", words))
        last = page.locator(f"#incident-hostile-{len(HOSTILE) - 1}")
        expect(last).to_be_visible()
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        expect(last.locator(".why")).to_contain_text(HOSTILE[-1])
        expect(page.locator("#incidents").get_by_text(HOSTILE[0]).first).to_be_visible()
        assert page.evaluate("window.executed") is None
        assert page.locator("#incidents :is(script, iframe, svg, object, embed)").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def incident_of(name: str, words: str) -> IncidentEvent:
    """Return an incident that ended, whose texts are `words`."""
    why = Reason(
        condition=words, value=1, threshold=words, score=0.9, min_score=None, clear_score=None, model=words, event="e"
    )
    best = IncidentFrame(event="e", epoch=1, seq=1, label=words, score=0.9, box=None)
    return incident_event(
        state="end", incident=name, stream=STREAM, text=words, reason=words, acknowledged=words, best=best, why=(why,)
    ).model_copy(update={"id": name, "source": f"/agents/{AGENT}/streams/{STREAM}"})

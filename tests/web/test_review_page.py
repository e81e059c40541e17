"""The review page: by keys in a real browser, and its URLs over real connections."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from typer.testing import CliRunner

from pipelines.dataset.formats import coco
from pipelines.dataset.labels import LabelledObject, Labels
from pipelines.dataset.review.decisions import FILE
from streamer.cli.main import app
from streamer.core.errors import ConfigError
from tests.support.agents import until
from tests.support.review_server import ReviewServer, as_right, paint_dataset
from tests.web.conftest import SHOWN_MS

pytestmark = pytest.mark.timeout(900)  # 100 pictures take 10 s on idle cores, minutes on busy ones

DESKTOP, PHONE = (1280, 720), (390, 844)


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReviewServer]:
    """A review of two sets; the second one lacks the last object of each picture."""
    folder = tmp_path_factory.mktemp("t") / "p"
    labels = paint_dataset(folder, 5)
    pictures = [replace(one, objects=one.objects[:-1]) for one in labels.pictures]
    coco.write(folder / "other.json", replace(labels, pictures=tuple(pictures)))
    with ReviewServer(
        folder, "--labels", f"coco:{folder}/labels.json", "--against", f"coco:{folder}/other.json"
    ) as two:
        yield two


@contextmanager
def opened(browser: Browser, link: str, size: tuple[int, int] = DESKTOP, **options: Any) -> Iterator[Page]:
    """Open a link; fail at the end if the page had a script error or violated its Content-Security-Policy."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    page = context.new_page()
    page.set_default_timeout(SHOWN_MS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
    page.goto(link)
    page.wait_for_selector("#file:not(:empty)")
    try:
        yield page
    finally:
        context.close()
    assert not errors


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def counted(page: Page, reviewed: int, total: int) -> None:
    expect(page.locator("#count")).to_have_text(f"{reviewed} of {total}")


SCRIPT: Sequence[tuple[str, ...]] = (
    ("Enter",),
    ("w", "Enter"),
    ("ArrowDown", "3", "Enter"),
    ("f", "ArrowRight", "ArrowRight", "Shift+ArrowDown", "Enter", "Enter"),
    ("a", "ArrowUp", "Shift+ArrowLeft", "Enter", "l", "a", "d", "d", "e", "r", "Enter", "Enter"),
    ("w", "u", "f", "ArrowLeft", "Escape", "Enter"),
    ("l", "n", "e", "w", "Enter", "f", "Control+ArrowUp", "Enter", "Enter"),
)
"""Keys of each decision in turn: right, wrong, relabel, fix box, add box, undo, new label with a small move."""


def expected(turn: int, objects: Sequence[LabelledObject], labels: Sequence[str]) -> list[LabelledObject]:
    """Return the objects that a decision of the script leaves."""
    first, *rest = (replace(one, score=None) for one in objects)
    x0, y0, x1, y1 = first.box
    match turn % len(SCRIPT):
        case 1:
            return rest
        case 2 if rest:
            return [first, replace(rest[0], label=labels[2]), *rest[1:]]
        case 2:
            return [replace(first, label=labels[2])]
        case 3:
            right = min(0.04, 1 - x1)
            return [replace(first, box=(x0 + right, y0, x1 + right, min(y1 + 0.02, 1.0))), *rest]
        case 4:
            return [first, *rest, LabelledObject("ladder", (0.4, 0.38, 0.58, 0.58))]
        case 6:
            up = min(0.002, y0)
            return [LabelledObject("new", (x0, y0 - up, x1, y1 - up)), *rest]
    return [first, *rest]


def test_100_pictures_are_reviewed_by_keys(browser: Browser, tmp_path: Path) -> None:
    count, folder = 100, tmp_path / "p"
    before = {picture.file: picture.objects for picture in paint_dataset(folder, count).pictures}
    numbers = Counter(one.label for objects in before.values() for one in objects)
    labels = sorted(numbers, key=lambda label: (-numbers[label], label))
    with ReviewServer(folder, "--labels", f"coco:{folder}/labels.json") as server:
        with opened(browser, server.links["ann"]) as page:
            for turn in range(count):
                if turn == 30:
                    press(page, "n")  # this picture comes back at the end
                press(page, *SCRIPT[turn % len(SCRIPT)])
                if turn == 50:
                    press(page, "u", "Enter")  # withdraws the decision and makes it again
            counted(page, count, count)
            expect(page.locator(".end")).to_contain_text("All 100 pictures are reviewed")
            expect(page.locator(".end")).to_contain_text(f"streamer dataset convert review:{folder}")
        stored = server.decisions()
    assert len(stored) == count + 2
    assert [one["image"] for one in stored[50:53]] == [stored[50]["image"]] * 3
    assert stored[51]["withdrawn"]
    assert stored[50]["objects"] == stored[52]["objects"]
    assert {one["by"] for one in stored} == {"ann"}
    assert [one["at"] for one in stored] == sorted(one["at"] for one in stored)
    made = [one for place, one in enumerate(stored) if place not in (50, 51)]
    assert {one["image"] for one in made} == before.keys()
    done = CliRunner().invoke(app, ["dataset", "convert", f"review:{folder}", f"coco:{tmp_path}/reviewed.json"])
    assert done.exit_code == 0, done.output
    reviewed = {picture.file: picture.objects for picture in coco.read(tmp_path / "reviewed.json").pictures}
    for turn, decision in enumerate(made):
        wanted = expected(turn, before[decision["image"]], labels)
        found = reviewed[decision["image"]]
        assert [one.label for one in found] == [one.label for one in wanted], turn
        for one, other in zip(found, wanted, strict=True):
            assert one.box == pytest.approx(other.box, abs=1e-5), turn
            assert one.score is None
    verdicts = Counter(one["verdict"] for decision in made for one in decision["objects"])
    turns = Counter(turn % len(SCRIPT) for turn in range(count))
    assert (verdicts["wrong"], verdicts["added"]) == (turns[1], turns[4])


def test_two_sets_are_shown_side_by_side(browser: Browser, two_sets: ReviewServer) -> None:
    names = [f"coco:{two_sets.folder}/{file}" for file in ("labels.json", "other.json")]
    before = len(two_sets.decisions())
    with opened(browser, two_sets.links["ann"], color_scheme="dark") as page:
        expect(page.locator("figcaption")).to_have_text([f"left: {names[0]}", f"right: {names[1]}"])
        expect(page.locator("#why")).to_contain_text("Why now: ")
        expect(page.locator(".stage.active")).to_contain_text("left")
        left, right = (page.locator(f".stage:nth-child({place}) rect.over").count() for place in (1, 2))
        assert left == right + 1
        press(page, "s")
        expect(page.locator(".stage.active")).to_contain_text("right")
        press(page, "Enter")
        counted(page, before + 1, 5)
    stored = two_sets.decisions()[-1]
    assert (stored["labels"], len(stored["objects"])) == (names[1], right)


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_page_fits_and_works_by_buttons(browser: Browser, two_sets: ReviewServer, size: tuple[int, int]) -> None:
    before = len(two_sets.decisions())
    with opened(browser, two_sets.links["ann"], size, has_touch=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        expect(page.get_by_role("button", name="Right")).to_be_in_viewport()
        expect(page.locator(".active .canvas")).to_be_in_viewport(ratio=1)
        page.get_by_role("button", name="Add box").tap()
        box = page.locator(".active .canvas").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.2 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.8 * box["height"])
        page.mouse.up()
        page.get_by_role("button", name="Done").tap()
        page.get_by_role("combobox").fill("ladder")
        page.get_by_role("button", name="Take label").tap()
        page.get_by_role("button", name="Right").tap()
        counted(page, before + 1, 5)
    added = two_sets.decisions()[-1]["objects"][-1]
    assert (added["verdict"], added["label"]) == ("added", "ladder")
    assert added["box"] == pytest.approx([0.1, 0.2, 0.5, 0.8], abs=0.01)


def test_faults_are_named_and_lose_nothing(browser: Browser, tmp_path: Path) -> None:
    """A broken picture, a label that looks like HTML, and a server that does not answer."""
    labels, wild = paint_dataset(tmp_path, 3), "<img src=x onerror=alert(1)>"
    (tmp_path / "000.jpg").write_bytes(b"no picture")
    pictures = list(labels.pictures)
    for place, label in enumerate(["first", wild]):  # uncertain and rare, so they are reviewed first
        pictures[place] = replace(pictures[place], objects=(LabelledObject(label, (0.1, 0.1, 0.4, 0.4), score=0.5),))
    coco.write(tmp_path / "labels.json", Labels((*labels.names, "first", wild), tuple(pictures)))
    with (
        ReviewServer(tmp_path, "--labels", f"coco:{tmp_path}/labels.json") as server,
        opened(browser, server.links["ann"]) as page,
    ):
        note = page.locator("#note")
        expect(note).to_contain_text("000.jpg: cannot be read as a picture")
        press(page, "Enter")
        expect(note).to_contain_text("The picture is not shown")
        press(page, "n")
        expect(page.locator("#objects .name")).to_have_text(wild)
        expect(page.locator(".canvas .names")).to_have_text(wild)
        page.route("**/api/review/decisions", lambda route: route.abort())
        press(page, "w", "Enter")
        expect(note).to_contain_text("No answer from the server")
        expect(page.locator("#objects .wrong")).to_have_text(re.compile(re.escape(wild)))
        page.unroute("**/api/review/decisions")
        press(page, "Enter")
        counted(page, 1, 3)
    (stored,) = server.decisions()
    assert (stored["image"], stored["objects"][0]["verdict"]) == ("001.jpg", "wrong")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReviewServer]:
    """A review by two people, without labels."""
    folder = tmp_path_factory.mktemp("r") / "p"
    paint_dataset(folder, 6)
    with ReviewServer(folder, names=("ann", "bob")) as server:
        yield server


def test_link_opens_once(server: ReviewServer) -> None:
    link = server.links["ann"]
    path = link[link.index("/open/") :]
    assert server.request("GET", "/").status == 401
    assert server.request("GET", "/api/review").status == 401
    assert server.request("HEAD", path).status == 401  # a preview of the link does not use it up
    assert server.request("GET", path, **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}).status == 403
    first = server.request("GET", path)
    assert (first.status, first.headers["location"]) == (303, "../")
    cookie, _, attributes = first.headers["set-cookie"].partition(";")
    assert {"HttpOnly", "SameSite=lax"} <= {one.strip() for one in attributes.split(";")}
    second = server.request("GET", path)
    assert (second.status, b"used before" in second.body) == (403, True)
    page = server.request("GET", "/", cookie)
    assert page.status == 200
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert server.request("GET", "/api/review", cookie).json()["by"] == "ann"
    until(lambda: server.links["ann"] != link, 60, "the next link")
    assert server.request("GET", "/api/review", server.login("ann")).status == 200
    assert server.request("GET", "/api/review", server.login("bob")).json()["by"] == "bob"


def test_pages_of_other_sites_decide_nothing(server: ReviewServer) -> None:
    cookie = server.login()
    item = server.next(cookie)
    foreign = server.request("POST", "/api/review/decisions", cookie, as_right(item), Origin="http://evil.example")
    assert foreign.status == 403
    form = server.request("POST", "/api/review/undo", cookie)
    assert form.status == 415
    assert server.decisions() == []


def test_impossible_requests_are_refused_with_reason(server: ReviewServer) -> None:
    cookie = server.login()
    for body, status, reason in (
        ({"number": 0}, 422, "is missing"),
        ({"number": -1, "labels": 0, "objects": []}, 422, "number: "),
        ({"number": 99, "labels": 0, "objects": []}, 400, "there is no picture 99"),
        ({"number": 0, "labels": 0, "objects": [{"label": "x" * 201, "box": [0, 0, 1, 1]}]}, 400, "1 to 200"),
        ({"number": 0, "labels": 0, "objects": [{"label": "x", "box": [0, 0, 1, float("nan")]}]}, 400, "x0 < x1"),
        ({"number": 0, "labels": 0, "objects": [{"label": "x", "box": [0, 0, 1]}]}, 422, ""),
        ({"number": 0, "labels": 0, "objects": [], "x": "y" * (1 << 20)}, 400, "too long"),
    ):
        answer = server.request("POST", "/api/review/decisions", cookie, body)
        assert (answer.status, reason in answer.json()["detail"]) == (status, True), answer
    assert server.request("GET", "/api/review/next?after=x", cookie).status == 422
    assert server.request("GET", "/api/review/pictures/99.jpg", cookie).status == 400
    assert server.request("GET", "/../labels.json", cookie).status == 404
    assert server.decisions() == []


def test_two_reviewers_get_different_pictures(server: ReviewServer) -> None:
    ann, bob = server.login("ann"), server.login("bob")
    first, second = server.next(ann), server.next(bob)
    assert first["number"] != second["number"]
    server.right(ann, first)
    added = {"number": first["number"], "labels": 0, "objects": [{"label": "van", "box": [0, 0, 0.5, 0.5]}]}
    assert server.request("POST", "/api/review/decisions", bob, added).status == 200
    assert [(one["by"], one["image"]) for one in server.decisions()] == [("ann", first["file"]), ("bob", first["file"])]
    undone = server.request("POST", "/api/review/undo", bob, {}).json()
    assert undone["edits"]["objects"] == [{"source": None, "label": "van", "box": [0, 0, 0.5, 0.5], "wrong": False}]
    assert server.request("POST", "/api/review/undo", ann, {}).json()["file"] == first["file"]
    assert server.request("POST", "/api/review/undo", ann, {}).status == 400


def test_killed_server_loses_no_stored_decision(tmp_path: Path) -> None:
    paint_dataset(tmp_path, 4)
    killed = ReviewServer(tmp_path)
    try:
        cookie = killed.login()
        item = killed.right(cookie, killed.next(cookie))
        killed.right(cookie, item)
    finally:
        killed.kill()
    with (tmp_path / FILE).open("ab") as cut:
        cut.write(b'{"image":"003.jpg","by"')
    with ReviewServer(tmp_path) as server:
        assert "2 of 4 pictures are reviewed" in server.output
        assert server.request("GET", "/api/review", cookie).status == 401  # the cookie ended with its command
        cookie = server.login()
        server.right(cookie, server.next(cookie))
        assert server.next(cookie)["reviewed"] == 3
    assert len({one["image"] for one in server.decisions()}) == 3


def test_wrong_use_names_what_to_write(tmp_path: Path) -> None:
    paint_dataset(tmp_path, 1)

    def refused(*words: object) -> str:
        command = ["dataset", "review", *map(str, words)]
        error = CliRunner().invoke(app, command).exception
        assert isinstance(error, ConfigError)
        return str(error)

    assert "no such folder" in refused(tmp_path / "none")
    assert "--bind: must be an address and a port" in refused(tmp_path, "--bind", "nowhere")
    assert "--name: " in refused(tmp_path, "--name", "Ann Lee")
    assert "--name: " in refused(tmp_path, "--name", "token")
    assert "write a format and a path" in refused(tmp_path, "--labels", "labels.json")
    answers = [{"image": "000.jpg", "task": "object_detection", "answer": 1, "model": "m"}]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
    assert "answers.jsonl:1: " in refused(tmp_path)

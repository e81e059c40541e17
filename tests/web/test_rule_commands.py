"""The URLs that command the rules: who may use them, and what they refuse. No rules process answers here."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.web.session import Session, SessionKey
from tests.support.web_process import AGENT, CONFIG, Response, WebProcess

ALL, VIEWER, BUTTON = "all-of-it-is-allowed", "only-looking-at-it", "only-a-button-to-press"
TOKENS = {
    "kiosk": {"token": VIEWER},
    "button": {"token": BUTTON, "scopes": ["command"]},
}
JSON = "application/json"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    runtime: Path = tmp_path_factory.mktemp("web")
    settings = {"bind": "127.0.0.1:0", "token": ALL, "tokens": TOKENS}
    with Ledger(runtime / LEDGER_FILE, AGENT), WebProcess(runtime, {**CONFIG, "web": settings}) as process:
        yield process


def post(web: WebProcess, path: str, body: Any, token: str = ALL, kind: str = JSON, **headers: str) -> Response:
    given = body if isinstance(body, bytes) else json.dumps(body).encode()
    return web.get(
        path, {"Authorization": f"Bearer {token}", "Content-Type": kind, **headers}, method="POST", body=given
    )


def test_token_reaches_only_what_its_scopes_allow(web: WebProcess) -> None:
    assert web.get("/api/streams", {"Authorization": f"Bearer {VIEWER}"}).status == 200
    refused = post(web, "/api/rules/mode", {"mode": "away"}, VIEWER)
    assert (refused.status, refused.body) == (
        403, b"The token kiosk has no permission to command: see `scopes` in the config.\n",
    )  # fmt: skip
    assert web.get("/api/streams", {"Authorization": f"Bearer {BUTTON}"}).status == 403
    for token in (BUTTON, ALL):
        answer = post(web, "/api/rules/mode", {"mode": "away"}, token)
        assert (answer.status, b"no rules are running" in answer.body) == (400, True)


def test_cookie_has_the_scopes_of_its_token(web: WebProcess) -> None:
    session = Session(int(time.time()), int(time.time()))
    for token, expected in ((VIEWER, 403), (ALL, 400)):
        cookie = f"streamer-{AGENT}={SessionKey(token).write(session)}"
        answer = web.get(
            "/api/rules/mode", {"Cookie": cookie, "Content-Type": JSON}, method="POST", body=b'{"mode": "away"}'
        )
        assert answer.status == expected


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        ("mode", {}, "mode: is missing"),
        ("mode", {"mode": "away", "now": True}, "now: unknown key"),
        ("mode", ["away"], "must be a JSON object"),
        ("snooze", {"rule": "x"}, "give either `for`, such as 1h, or `off: true`"),
        ("snooze", {"for": "1h", "off": True}, "give either `for`"),
        ("snooze", {"for": "soon"}, "for: must be a duration such as"),
        ("ack", {"incident": 5}, "incident: must be a text: put it in quotes"),
        ("feedback", {"incident": "c0ffee", "verdict": "maybe"}, "verdict: must be"),
    ],
    ids=str,
)
def test_wrong_body_is_refused_in_words(web: WebProcess, path: str, body: Any, problem: str) -> None:
    answer = post(web, f"/api/rules/{path}", body)
    assert answer.status == 422
    assert problem in json.loads(answer.body)["detail"]


def test_body_that_is_no_json_is_refused(web: WebProcess) -> None:
    assert post(web, "/api/rules/mode", b"mode=away", kind="application/x-www-form-urlencoded").status == 415
    assert post(web, "/api/rules/mode", b"[" * 3000).status == 400
    assert post(web, "/api/rules/mode", b'{"mode": "' + b"a" * 9000 + b'"}').status == 400


def test_page_of_another_site_cannot_command(web: WebProcess) -> None:
    answer = post(web, "/api/rules/mode", {"mode": "away"}, Origin="http://evil.example")
    assert answer.status == 403

"""Access control over real connections: sessions, cookies, reverse proxies, HEAD."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterator

import pytest

from streamer.web.session import IDLE_S, LONGEST_S, RENEW_S, Session, SessionKey
from tests.support.capturing import STREAM
from tests.support.web_process import CONFIG, Publisher, WebProcess

TOKEN = "a-token-of-good-length"
OWNER = {"Authorization": f"Bearer {TOKEN}"}
FORM = f"token={TOKEN}".encode()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    folder = tmp_path_factory.mktemp("a")
    settings = {"bind": "127.0.0.1:0", "token": TOKEN, "base_path": "/cams", "trusted_proxies": ["127.0.0.1"]}
    with Publisher(folder), WebProcess(folder, {**CONFIG, "web": settings}) as web:
        assert web.get("/healthz", OWNER).status in (200, 503)
        yield web


def cookie(age_s: float = 0, token: str = TOKEN) -> dict[str, str]:
    seen = int(time.time() - age_s)
    return {"Cookie": f"streamer-test={SessionKey(token).write(Session(seen, seen))}"}


def test_cookie_of_a_session_that_ended_is_refused(web: WebProcess) -> None:
    assert web.get("/api/streams", cookie()).status == 200
    assert web.get("/api/streams", cookie(IDLE_S - 60)).status == 200
    assert web.get("/api/streams", cookie(IDLE_S + 60)).status == 401
    assert web.get("/api/streams", cookie(token="another-token-of-good-length")).status == 401


@pytest.mark.parametrize("path", ["/api/events/live", f"/live/{STREAM}.mjpeg"])
def test_endless_response_ends_with_its_session(web: WebProcess, path: str) -> None:
    now = int(time.time())
    value = SessionKey(TOKEN).write(Session(now - LONGEST_S + 2, now))
    cut = contextlib.suppress(ConnectionError, http.client.IncompleteRead)
    with web.stream(path, {"Cookie": f"streamer-test={value}"}) as response, cut:
        while response.read(4096):
            assert time.time() < now + 60
    assert time.time() >= now + 1
    assert "ASGI" not in web.errors.read_text()


def test_cookie_is_renewed_while_it_is_used(web: WebProcess) -> None:
    assert "set-cookie" not in web.get("/api/streams", cookie()).headers
    fresh = web.get("/api/streams", cookie(RENEW_S + 60)).headers["set-cookie"]
    assert fresh.startswith("streamer-test=")
    assert "HttpOnly" in fresh
    assert web.get("/api/streams", {"Cookie": fresh.partition(";")[0]}).status == 200


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_login_cookie_follows_path_and_scheme_of_the_proxy(web: WebProcess, scheme: str) -> None:
    headers = {"X-Forwarded-Proto": scheme, "X-Forwarded-Host": "cams.example", "Origin": f"{scheme}://cams.example"}
    answer = web.get("/cams/login", headers, "POST", FORM)
    assert (answer.status, answer.headers["location"]) == (303, "./")
    assert "; Path=/cams/;" in answer.headers["set-cookie"]
    assert ("; Secure" in answer.headers["set-cookie"]) == (scheme == "https")


def test_login_without_the_host_of_the_browser_says_what_to_set(web: WebProcess) -> None:
    headers = {"Host": "127.0.0.1:8951", "Origin": "http://cams.example"}
    answer = web.get("/login", headers, "POST", FORM)
    assert answer.status == 403
    for words in ("Origin (http://cams.example)", "Host (127.0.0.1:8951)", "proxy_set_header Host $http_host;"):
        assert words in answer.body.decode()
    allowed_by_browser = {**headers, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate"}
    assert web.get("/login", allowed_by_browser, "POST", FORM).status == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        {"Origin": "https://x.cams.example", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
    ids=str,
)
def test_login_from_another_site_is_refused(web: WebProcess, headers: dict[str, str]) -> None:
    answer = web.get("/login", {"Host": "cams.example", **headers}, "POST", FORM)
    assert answer.status == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/cams/", "/cams/api/streams", "/api/snapshot/cam.jpg", "/login"])
def test_login_form_leads_to_login_below_any_path(web: WebProcess, path: str) -> None:
    form = web.get(path, {"Accept": "text/html"}).body.decode()
    depth = path.removeprefix("/cams").count("/") - 1
    assert f'action="{"../" * depth}login"' in form


def test_base_path_without_slash_leads_to_the_page(web: WebProcess) -> None:
    answer = web.get("/cams", OWNER)
    assert (answer.status, answer.headers["location"]) == (307, "cams/")
    assert b"<title>streamer" in web.get("/cams/", OWNER).body


def test_files_of_the_page_use_relative_addresses(web: WebProcess) -> None:
    for file in ("", "app.js", "cameras.js", "events.js", "picture.js", "dom.js", "format.js", "style.css"):
        text = web.get(f"/cams/{file}", OWNER).body.decode()
        for absolute in ('"/', "'/", "`/", "url(/"):
            assert absolute not in text, (file, absolute)


def test_head_has_the_headers_of_get_and_no_body(web: WebProcess) -> None:
    for path in ("/", "/app.js", "/api/streams", "/healthz", "/readyz", "/metrics", "/api/events", "/nothing"):
        head, get = web.get(path, OWNER, "HEAD"), web.get(path, OWNER)
        assert (head.status, head.body) == (get.status, b""), path
        assert head.headers["content-type"] == get.headers["content-type"]
        assert "content-security-policy" in head.headers
    assert web.get("/api/streams", {}, "HEAD").status == 401


def test_head_of_endless_responses_ends(web: WebProcess) -> None:
    for path in ("/api/events/live", f"/live/{STREAM}.mjpeg"):
        head = web.get(path, OWNER, "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["x-accel-buffering"] == "no"
    assert f'streamer_watchers{{view="{STREAM}"}} 1.0' not in web.get("/metrics", OWNER).body.decode()


def test_invalid_parameter_is_named_in_words(web: WebProcess) -> None:
    answer = web.get("/api/events?limit=100000", OWNER)
    assert (answer.status, answer.body) == (422, b'{"detail":"limit: must be less than or equal to 1000"}')

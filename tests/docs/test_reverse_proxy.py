"""docs/reverse-proxy.md is true: its nginx and Caddy examples run in front of the page, with a browser."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from ruamel.yaml import YAML

from streamer.web import connections, ledger_reader, server, session, throttle
from tests.support.agents import until
from tests.support.capturing import STREAM
from tests.support.ports import free_port
from tests.support.reverse_proxy import HOST, caddy, certificate, nginx
from tests.support.web_process import Response, Scene
from tests.web.conftest import CHROMIUM

TEXT = (Path(__file__).parents[2] / "docs" / "reverse-proxy.md").read_text()
TOKEN = "a-token-of-good-length"
OWNER = {"Authorization": f"Bearer {TOKEN}"}
FORM = f"token={TOKEN}".encode()
FORM_TYPE = {"Content-Type": "application/x-www-form-urlencoded"}


def block(language: str, number: int = 0) -> str:
    """Return a code block of the document."""
    return str(re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)[number])


def settings() -> dict[str, Any]:
    text = block("yaml").replace("127.0.0.1:8080", "127.0.0.1:0").replace("${STREAMER_TOKEN}", TOKEN)
    web: dict[str, Any] = YAML(typ="safe").load(text)["web"]
    return web


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that runs, and the scene behind it."""

    scene: Scene
    port: int
    scheme: str
    path: str
    """Path of the page, with a slash at its end."""
    host: str = HOST

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    def connect(self, source: str = "127.0.0.1") -> http.client.HTTPConnection:
        if self.scheme == "http":
            return http.client.HTTPConnection("127.0.0.1", self.port, 10, (source, 0))
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return _NamedConnection("127.0.0.1", self.port, timeout=60, source_address=(source, 0), context=context)

    def request(
        self,
        path: str,
        headers: dict[str, str] | None = None,
        method: str = "GET",
        body: bytes | None = None,
        source: str = "127.0.0.1",
    ) -> Response:
        connection = self.connect(source)
        try:
            connection.request(method, self.path + path, body, {"Host": f"{self.host}:{self.port}", **(headers or {})})
            response = connection.getresponse()
            found = {key.lower(): value for key, value in response.getheaders()}
            return Response(response.status, found, response.read())

        finally:
            connection.close()

    @contextmanager
    def stream(self, path: str) -> Iterator[http.client.HTTPResponse]:
        connection = self.connect()
        connection.request("GET", self.path + path, headers={**OWNER, "Host": f"{self.host}:{self.port}"})
        response = connection.getresponse()
        try:
            yield response
        finally:
            response.close()
            connection.close()


class _NamedConnection(http.client.HTTPSConnection):
    """Connects to an address, and names HOST in the TLS handshake."""

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._context.wrap_socket(self.sock, server_hostname=HOST)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("s"), settings()) as scene:
        yield scene


@pytest.fixture(scope="module")
def plain_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A page that knows of no proxy."""
    with Scene(tmp_path_factory.mktemp("d"), {"token": TOKEN}) as scene:
        yield scene


def from_nginx_example(text: str, port: int, folder: Path) -> str:
    pem, key = certificate(folder)
    changes = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/certs/cameras.example.pem": str(pem),
        "/etc/ssl/private/cameras.example.key": str(key),
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def proxy(request: pytest.FixtureRequest, scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The example of the document, with the ports and the certificate of the test."""
    port, folder = free_port(), tmp_path_factory.mktemp("x")
    text = block("nginx" if request.param == "nginx" else "caddyfile")
    assert "127.0.0.1:8080" in text
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{scene.web.port}")
    if request.param == "nginx":
        running = nginx(folder, from_nginx_example(text, port, folder), port)
    else:
        running = caddy(folder, text, port)
    with running:
        yield Proxy(scene, port, "https", "/cams/")


DEFAULTS = """
server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{page}; }}
    location /cams/ {{ proxy_pass http://127.0.0.1:{page}/; proxy_set_header Host $http_host; }}
}}
"""
"""The shortest usual nginx config: buffering on, HTTP/1.0 to the page, and a path that is removed."""


@pytest.fixture(scope="module", params=["/", "/cams/"])
def default_nginx(
    request: pytest.FixtureRequest, plain_scene: Scene, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    port, folder = free_port(), tmp_path_factory.mktemp("y")
    with nginx(folder, DEFAULTS.format(port=port, page=plain_scene.web.port), port):
        yield Proxy(plain_scene, port, "http", request.param)


def assert_events_arrive_at_once(proxy: Proxy) -> None:
    with proxy.stream("api/events/live?task=people") as response:
        assert response.readline() == b"retry: 1000\n"
        lines = (line for line in iter(response.readline, b"") if line.startswith(b"data: "))
        for _ in range(3):
            sent = proxy.scene.answer()
            proxy.scene.publish(sent)
            assert json.loads(next(lines)[6:])["id"] == sent.id  # a proxy that collects answers holds it back


def assert_video_arrives(proxy: Proxy) -> None:
    with proxy.stream(f"live/{STREAM}.mjpeg") as response:
        assert response.readline().startswith(b"--")
        sizes = []
        for _ in range(10):
            head = [response.readline() for _ in range(3)]
            sizes.append(int(head[1].partition(b": ")[2]))
            assert response.read(sizes[-1]).startswith(b"\xff\xd8")
            assert response.readline() + response.readline()[:2] == b"\r\n--"


def test_login_works_through_the_example(proxy: Proxy) -> None:
    assert b"<form" in proxy.request("", {"Accept": "text/html"}).body
    answer = proxy.request("login", {"Origin": proxy.origin, **FORM_TYPE}, "POST", FORM)
    assert (answer.status, answer.headers["location"]) == (303, "./")
    cookie = answer.headers["set-cookie"]
    assert "; Secure" in cookie
    assert "; Path=/cams/;" in cookie
    assert proxy.request("api/streams", {"Cookie": cookie.partition(";")[0]}).status == 200
    foreign = proxy.request("login", {"Origin": "https://evil.example", **FORM_TYPE}, "POST", FORM)
    assert foreign.status == 403


def test_events_and_video_arrive_through_the_example(proxy: Proxy) -> None:
    assert_events_arrive_at_once(proxy)
    assert_video_arrives(proxy)


def test_client_of_the_example_is_the_browser(proxy: Proxy) -> None:
    wrong = {"Authorization": "Bearer a-token-that-is-wrong"}
    for _ in range(2):
        assert proxy.request("", {**wrong, "X-Forwarded-For": "203.0.113.7"}, source="127.0.0.5").status == 401
    log = proxy.scene.web.errors.read_text()
    assert "last client 127.0.0.5" in log
    assert "203.0.113.7" not in log


def test_default_nginx_needs_the_host_for_logins_only(default_nginx: Proxy) -> None:
    assert default_nginx.request("api/streams", OWNER).status == 200
    answer = default_nginx.request("login", {"Origin": default_nginx.origin, **FORM_TYPE}, "POST", FORM)
    if default_nginx.path == "/cams/":  # it passes on the header Host
        assert answer.status == 303
    else:
        assert answer.status == 403
        assert b"proxy_set_header Host $http_host;" in answer.body
    by_browser = {"Origin": default_nginx.origin, "Sec-Fetch-Site": "same-origin", **FORM_TYPE}
    assert default_nginx.request("login", by_browser, "POST", FORM).status == 303


def test_events_and_video_arrive_through_default_nginx(default_nginx: Proxy) -> None:
    assert_events_arrive_at_once(default_nginx)
    assert_video_arrives(default_nginx)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", f"--host-resolver-rules=MAP {HOST} 127.0.0.1"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def assert_page_works(browser: Browser, proxy: Proxy) -> None:
    """Log in, see the live picture move on, and receive an event."""
    proxy.scene.publish(proxy.scene.answer(text="before the page was opened"))
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(proxy.origin + proxy.path.rstrip("/"))
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button").click()
        expect(page.locator("#agent")).to_have_text("test")
        assert page.url == proxy.origin + proxy.path
        expect(page.locator("#events li").first).to_contain_text("before the page was opened")
        page.wait_for_selector(f"article[aria-label='Camera {STREAM}'] img.there")
        until(lambda: proxy.scene.publisher.watched, 5, "live video")
        sent = proxy.scene.answer(text="while the page is open")
        proxy.scene.publish(sent)
        page.wait_for_selector(f"[id='event-{sent.id}']")
        page.reload()
        expect(page.locator("#agent")).to_have_text("test")
        while not any("/cams/hls/cam1/" in url for url in asked):  # the timeout of the test ends it
            page.wait_for_timeout(100)
    finally:
        context.close()
    assert not problems
    assert not [url for url in asked if not f"{url}/".startswith(proxy.origin + proxy.path)]


def test_browser_uses_the_page_through_the_example(browser: Browser, proxy: Proxy) -> None:
    assert_page_works(browser, proxy)


def test_browser_uses_the_page_below_a_removed_path(browser: Browser, default_nginx: Proxy) -> None:
    if default_nginx.path == "/cams/":
        assert_page_works(browser, default_nginx)


def test_traefik_example_serves_the_path_of_the_config() -> None:
    """Traefik is not run: only the shape of its file is checked."""
    routing = YAML(typ="safe").load(block("yaml", 1))["http"]
    router = routing["routers"]["cams"]
    assert f"PathPrefix(`{settings()['base_path']}`)" in router["rule"]
    (server,) = routing["services"][router["service"]]["loadBalancer"]["servers"]
    assert server["url"] == "http://127.0.0.1:8080"


def test_limits_in_operating_are_those_of_the_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    for limit in (
        f"{connections.MAX_WAITING}, {connections.MAX_WAITING_OF_CLIENT} of one client",
        f"{connections.MAX_SERVED}, {connections.MAX_SERVED_OF_CLIENT} of one client",
        f"{throttle.CLIENT_BURST} of one client, then one in {throttle.CLIENT_EVERY_S:g} s",
        f"{throttle.ALL_BURST} in all, then one in {throttle.ALL_EVERY_S:g} s",
        f"the right token within {throttle.KNOWN_S / 3600:g} h",
        f"until a request is complete | {server.REQUEST_TIMEOUT_S:g} s",
        f"headers | {server.MAX_HEAD_BYTES >> 10} KB",
        f"less than {server.MIN_READ_BYTES >> 10} KB of a response that waits for it | {server.WRITE_TIMEOUT_S:g} s",
        f"ends {session.IDLE_S // 86400} days after its last request, {session.LONGEST_S // 86400} days after",
        f"{ledger_reader.SEARCH_S:g} s; {ledger_reader.SEARCHES} at once, {ledger_reader.MAX_WAITING_SEARCHES} wait",
    ):
        assert limit in text

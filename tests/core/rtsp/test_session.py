"""The start of an RTSP session: authentication, redirects, TLS, and the reason of each failure."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.core.errors import SourceLost, SourceRefused
from streamer.core.rtsp.session import Session, open_session
from streamer.core.tls import Tls
from tests.support.certificates import Authority, Certificate
from tests.support.rtsp_script import (
    SDP,
    SOUND,
    VIDEO,
    Answer,
    Request,
    ScriptedServer,
    camera,
    describe,
    response,
    valid_digest,
)

PASSWORD = "gar4den-gate"
USER = f"bob:{PASSWORD}"


def open_briefly(url: str, tls: Tls | None = None, seconds: float = 5.0) -> Session:
    session = open_session(url, tls or Tls(), seconds)
    session.client.close()
    return session


def reason(url: str, tls: Tls | None = None, seconds: float = 5.0) -> str:
    """Return why a session could not be opened."""
    with pytest.raises(SourceLost) as caught:
        open_briefly(url, tls, seconds)
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None
    return str(caught.value)


def locked(offers: list[str], algorithm: str = "md5", stale: int = 0) -> Callable[[Request], Answer]:
    """Return a camera that needs a digest; `stale`: it finds that many right ones expired."""
    expired = 0

    def answer(request: Request) -> Answer:
        nonlocal expired
        if not valid_digest(request, PASSWORD, algorithm):
            return response("401 no", *(f"WWW-Authenticate: {offer}" for offer in offers))
        if expired < stale:
            expired += 1
            return response("401 no", *(f"WWW-Authenticate: {offer}, stale=true" for offer in offers))
        return camera(request)

    return answer


@pytest.mark.parametrize(
    ("offers", "algorithm"),
    [
        (['Digest realm="IP Camera", nonce="abc", algorithm="SHA-256", stale="FALSE"'], "sha256"),
        (['Digest realm="r", nonce="a"', 'Digest realm="r", nonce="b", algorithm=SHA-256'], "sha256"),
        (['Digest realm="r", nonce="a", algorithm=MD5', 'Digest realm="r", nonce="b", algorithm=UNHEARD'], "md5"),
        (['Basic realm="r"', 'Digest realm="r", nonce="a"'], "md5"),
    ],
)
def test_digest_is_answered(offers: list[str], algorithm: str) -> None:
    with ScriptedServer(locked(offers, algorithm)) as server:
        open_briefly(server.url(user=USER))
        assert [request.method for request in server.requests] == ["OPTIONS", "OPTIONS", "DESCRIBE"]


def test_expired_nonce_is_replaced() -> None:
    with ScriptedServer(locked(['Digest realm="r", nonce="a"'], stale=1)) as server:
        open_briefly(server.url(user=USER))


def test_endlessly_expired_nonce_is_given_up() -> None:
    with ScriptedServer(locked(['Digest realm="r", nonce="a"'], stale=99)) as server:
        assert reason(server.url(user=USER)) == "refused the user or password"
        assert len(server.requests) == 3


def test_wrong_password_is_sent_once() -> None:
    with ScriptedServer(locked(['Digest realm="r", nonce="a"'])) as server:
        assert reason(server.url(user="bob:wrong")) == "refused the user or password"
        assert len([request for request in server.requests if request.authorization]) == 1


def test_percent_encoded_password_is_decoded() -> None:
    with ScriptedServer(locked(['Digest realm="r", nonce="a"'])) as server:
        open_briefly(server.url(user=f"bob:{PASSWORD.replace('-', '%2D')}"))


def test_unknown_authentication_is_a_refusal() -> None:
    with ScriptedServer(lambda _: response("401 no", "WWW-Authenticate: Negotiate")) as server:
        with pytest.raises(SourceRefused, match="needs NEGOTIATE authentication, which streamer does not speak"):
            open_briefly(server.url(user=USER))
        assert reason(server.url()) == "needs a user and password (401)"


STATUSES = {
    "403 x": "forbids access (403)",
    "404 x": "knows no such path (404)",
    "453 x": "has no bandwidth left (453)",
    "500 x": "failed (500)",
    "503 x": "is overloaded (503)",
    "499 gar4den-gate": "refused the request (499)",
}


@pytest.mark.parametrize("status", STATUSES)
def test_error_status_is_told_in_words(status: str) -> None:
    with ScriptedServer(lambda _: response(status)) as server:
        assert reason(server.url()).startswith(STATUSES[status])


ANSWERS: list[tuple[Answer, str]] = [
    (describe(SDP + SOUND), "has no video, only sound"),
    (describe(SDP), "has no video"),
    (describe(SDP + VIDEO * 17), "describes 17 media: the limit is 16"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP, not RTSP: use an http:// URL"),
    (b"\x15\x03\x03\x00\x02\x02\x28", "speaks TLS on this port: use an rtsps:// URL"),
    (b"220 mail.example gar4den-gate\r\n", "answers with something other than RTSP"),
    (b"RTSP/1.0 gar4den-gate\r\n\r\n", "answers with a status line that is not RTSP"),
    (None, "closed the connection without an answer"),
]


@pytest.mark.parametrize(("answer", "expected"), ANSWERS, ids=[expected for _, expected in ANSWERS])
def test_odd_answer_is_told_in_words(answer: Answer, expected: str) -> None:
    def odd(request: Request) -> Answer:
        return answer if request.method == "DESCRIBE" or not isinstance(answer, bytes) else camera(request)

    with ScriptedServer(odd) as server:
        assert reason(server.url()).startswith(expected)


def test_slow_answer_ends_at_the_deadline() -> None:
    """A byte now and then does not prolong it."""

    def drip(_: Request) -> Answer:
        return (b"R" for _ in iter(lambda: _wait(0.05), None))

    with ScriptedServer(drip) as server:
        assert reason(server.url(), seconds=0.5) == "no answer within 0.5 s"


def _wait(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def test_error_before_a_closed_connection_is_told() -> None:
    answers: list[Answer] = [response("404 x"), None]
    with ScriptedServer(lambda _: answers.pop(0)) as server:
        assert reason(server.url()).startswith("knows no such path (404)")


def test_camera_that_knows_no_options_is_used() -> None:
    with ScriptedServer(lambda r: response("501 x") if r.method == "OPTIONS" else camera(r)) as server:
        assert open_briefly(server.url()).responses["OPTIONS"].status == 200


# -- redirects


def moved(location: Callable[[], str]) -> Callable[[Request], Answer]:
    return lambda request: response("302 x", f"Location: {location()}") if "/old" in request.uri else camera(request)


def test_redirect_to_another_host_gets_no_connection() -> None:
    with ScriptedServer() as other:
        elsewhere = other.url("/stolen").replace("127.0.0.1", "localhost")
        with ScriptedServer(moved(lambda: elsewhere)) as server:
            assert reason(server.url("/old", USER)).startswith("redirects to another host, which is not allowed")
        assert other.connections == 0


def test_redirect_on_the_same_host_is_followed() -> None:
    with ScriptedServer() as server:
        server.answer = moved(lambda: server.url("/new"))
        session = open_briefly(server.url("/old", USER))
        assert session.server.path == "/new"
        assert server.requests[-1].uri == server.url("/new")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("http://127.0.0.1/x", "redirects to an address that is not RTSP"),
        ("", "redirects to an address that is not RTSP"),
        ("rtsp://127.0.0.1:99999/x", "redirects to an address that is not valid"),
        ("rtsp://[gar4den-gate/x", "redirects to an address that is not valid"),
        ("rtsp://127.0.0.1/\udcff", "redirects to an address that is not RTSP"),
    ],
)
def test_other_redirects_are_refused(location: str, expected: str) -> None:
    with ScriptedServer(moved(lambda: location)) as server:
        server.answer = lambda _: response("302 x", "Location: LOCATION").replace(
            b"LOCATION", location.encode(errors="surrogateescape")
        )
        assert reason(server.url("/old", USER)) == expected


def test_endless_redirects_are_given_up() -> None:
    with ScriptedServer() as server:
        server.answer = moved(lambda: server.url(f"/old{server.connections}"))
        assert reason(server.url("/old")) == "redirects more than 3 times"
        assert server.connections == 4


# -- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def serving(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    return context


def test_camera_with_trusted_certificate_is_used(authority: Authority) -> None:
    with ScriptedServer(tls=serving(authority.issue("good"))) as server:
        open_briefly(server.url(user=USER, scheme="rtsps"), Tls(ca=authority.cert))
        assert server.requests[-1].uri == server.url(scheme="rtsps")


@pytest.mark.parametrize(
    ("hosts", "days", "trusted", "words"),
    [
        ("IP:127.0.0.1", 2, False, "not from a known authority"),
        ("DNS:other.invalid", 2, True, "for another name"),
        ("IP:127.0.0.1", -1, True, "expired"),
    ],
)
def test_impostor_gets_no_request(authority: Authority, hosts: str, days: int, trusted: bool, words: str) -> None:
    certificate = authority.issue(f"bad{abs(hash((hosts, days)))}", hosts, days)
    with ScriptedServer(tls=serving(certificate)) as server:
        url = server.url(user=USER, scheme="rtsps")
        assert words in reason(url, Tls(ca=authority.cert) if trusted else None)
        assert server.requests == []
        open_briefly(url, Tls(verify=False))


def test_tls_to_a_port_without_tls_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(b"RTSP/1.0 400 Bad Request\r\n\r\n")
                connection.recv(4096)

        threading.Thread(target=serve).start()
        assert "does not speak TLS on this port" in reason(f"rtsps://127.0.0.1:{listener.getsockname()[1]}/cam")


def test_missing_ca_file_loses_only_this_connection(tmp_path: Path) -> None:
    with ScriptedServer() as server:
        missing = reason(server.url(scheme="rtsps"), Tls(ca=tmp_path / "none.pem"))
        assert missing.startswith("cannot use the certificates in ")


def test_redirect_from_tls_to_no_tls_is_refused(authority: Authority) -> None:
    with ScriptedServer() as plain:
        moving = moved(lambda: plain.url("/new"))
        with ScriptedServer(moving, serving(authority.issue("moving"))) as server:
            url = server.url("/old", USER, "rtsps")
            assert reason(url, Tls(ca=authority.cert)).startswith("redirects from rtsps:// to rtsp://")
        assert plain.connections == 0

"""Each cause of a failed connection has its own text."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from streamer.core.errors import SourceLost, SourceRefused
from streamer.core.network_failures import describe_os_error, describe_status, status_failure

CAUSES: list[tuple[OSError, str]] = [
    (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "connection refused: nothing listens there"),
    (OSError(errno.EHOSTUNREACH, "x"), "host unreachable: it is off, or there is no route to it"),
    (OSError(errno.ENETUNREACH, "x"), "network unreachable: this computer has no route to the address"),
    (ConnectionResetError(errno.ECONNRESET, "x"), "the connection broke off"),
    (TimeoutError("timed out"), "the connection timed out"),
    (PermissionError(errno.EACCES, "x"), "connection not permitted: a firewall or a sandbox"),
    (OSError(errno.EXDEV, "secret.example"), "the connection failed (EXDEV)"),
    (OSError("secret.example"), "the connection failed (unknown error)"),
    (socket.gaierror(socket.EAI_NONAME, "x"), "host name unknown: check its spelling"),
    (socket.gaierror(socket.EAI_AGAIN, "x"), "host name lookup failed: no DNS server answers"),
    (ssl.SSLZeroReturnError("secret"), "TLS: "),
    (socket.gaierror(-99, "x"), "host name lookup failed (error -99)"),
]


@pytest.mark.parametrize(("error", "reason"), CAUSES, ids=lambda value: value if isinstance(value, str) else "")
def test_each_error_has_its_reason(error: OSError, reason: str) -> None:
    found = describe_os_error(error)
    assert found.startswith(reason)
    assert "secret" not in found


STATUSES = [400, 401, 403, 404, 410, 429, 451, 453, 454, 461, 500, 503, 504, 505, 551, 302, 999]


def test_each_status_has_its_reason() -> None:
    texts = [describe_status(status, has_user=False) for status in STATUSES]
    assert len(set(texts)) == len(texts)
    assert all(f"({status})" in text for status, text in zip(STATUSES, texts, strict=True))


def test_refusals_are_retried_rarely() -> None:
    assert {status for status in STATUSES if isinstance(status_failure(status, False), SourceRefused)} == {401, 403}
    assert isinstance(status_failure(404, False), SourceLost)


def test_401_tells_missing_from_wrong_password() -> None:
    assert describe_status(401, has_user=False) == "needs a user and password (401)"
    assert describe_status(401, has_user=True) == "refused the user or password"

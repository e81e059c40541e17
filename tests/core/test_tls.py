"""TLS settings, with real certificates and servers."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from streamer.core.errors import ConfigError
from streamer.core.tls import ClientTls, Tls, describe_tls_error
from tests.support.certificates import Authority, Certificate


def test_context_trusts_the_ca_and_shows_the_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine = authority.issue("agent")
    context = ClientTls(ca=authority.cert, cert=mine.cert, key=mine.key).tls_context()

    assert [dict(one)["subject"] for one in context.get_ca_certs()] == [((("commonName", "ca"),),)]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_certificates_are_checked_unless_verify_is_false() -> None:
    assert Tls().tls_context().verify_mode is ssl.CERT_REQUIRED
    assert Tls(verify=False).tls_context().verify_mode is ssl.CERT_NONE


def test_unusable_files_are_config_errors(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine, other = authority.issue("agent"), authority.issue("other")
    text = tmp_path / "text.pem"
    text.write_text("hello")
    for settings, message in [
        (ClientTls(ca=tmp_path / "none.pem"), r"certificates in \S+none\.pem: No such file"),
        (ClientTls(ca=text), r"text\.pem: it holds no certificate in PEM format"),
        (ClientTls(cert=tmp_path / "none.pem"), r"client certificate in \S+none\.pem: No such file"),
        (ClientTls(cert=mine.cert, key=text), r"with the key in \S+text\.pem: it holds no certificate with its key"),
        (ClientTls(cert=mine.cert, key=other.key), "with the key in"),
        (ClientTls(cert=mine.cert), "or the key is encrypted"),
    ]:
        with pytest.raises(ConfigError, match=message):
            settings.tls_context()


def test_encrypted_key_is_refused_without_a_question(tmp_path: Path) -> None:
    mine = Authority(tmp_path).issue("agent")
    locked = tmp_path / "locked.key"
    words = f"ec -in {mine.key} -aes128 -passout pass:secret -out {locked}"
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True)

    with pytest.raises(ConfigError, match="the key is encrypted"):
        ClientTls(cert=mine.cert, key=locked).tls_context()


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"key": "a.pem"}, "give `cert` too"), ({"verify": False, "ca": "a.pem"}, "no effect with `verify: false`")],
)
def test_keys_that_need_another_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Tls(**keys)


@contextmanager
def _server(certificate: Certificate | None) -> Iterator[int]:
    """Accept connections on 127.0.0.1, with TLS or without; yield the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if certificate is not None:
        context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection = server.accept()[0]
                    with closing(connection), suppress(OSError):
                        if certificate is None:
                            connection.sendall(b"220 ready\r\n")
                        else:
                            context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _failure(tls: Tls, port: int) -> str | None:
    """Return why a connection fails, None if it does not."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        try:
            tls.tls_context().wrap_socket(connection, server_hostname="127.0.0.1").close()
        except ssl.SSLError as error:
            return describe_tls_error(error)
    return None


def test_certificate_of_unknown_authority_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with _server(authority.issue("camera")) as port:
        assert "not from a known authority" in (_failure(Tls(), port) or "")
        assert _failure(Tls(ca=authority.cert), port) is None
        assert _failure(Tls(verify=False), port) is None


def test_self_signed_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with _server(Certificate(authority.cert, tmp_path / "ca.key")) as port:
        assert "certificate is self-signed" in (_failure(Tls(), port) or "")


def test_certificate_of_another_name_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with _server(authority.issue("camera", hosts="DNS:other.invalid")) as port:
        assert "certificate is for another name" in (_failure(Tls(ca=authority.cert), port) or "")


def test_expired_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with _server(authority.issue("camera", days=-1)) as port:
        assert "certificate has expired" in (_failure(Tls(ca=authority.cert), port) or "")


def test_server_without_tls_is_named() -> None:
    with _server(None) as port:
        assert "does not speak TLS on this port" in (_failure(Tls(), port) or "")

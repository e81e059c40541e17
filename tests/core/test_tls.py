"""TLS settings, with real certificates."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from streamer.core.errors import ConfigError
from streamer.core.tls import ClientTls, Tls
from tests.support.certificates import Authority


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

"""TLS of the connections that this program opens: the certificates it trusts, and the one it shows."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Self

from pydantic import model_validator

from streamer.core.errors import ConfigError
from streamer.core.settings import Settings, variable_hint

_SELF_SIGNED = "its certificate is self-signed: give that certificate as `{ca}`"
_UNKNOWN_ISSUER = "its certificate is not from a known authority: give that of its authority as `{ca}`"
_OTHER_NAME = "its certificate is for another name: use that name in the URL"
_CERTIFICATE_FAULTS = {
    9: "its certificate is not valid yet: check the clock of this computer",
    10: "its certificate has expired: renew it",
    18: _SELF_SIGNED,
    19: _UNKNOWN_ISSUER,
    20: _UNKNOWN_ISSUER,
    21: _UNKNOWN_ISSUER,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
"""Faults by OpenSSL's code of a failed verification (X509_V_ERR_...)."""
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})
"""OpenSSL's reasons for bytes that are no TLS record."""

_NEEDS_CERTIFICATE = frozenset(
    {"TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_BAD_CERTIFICATE"}
)
"""OpenSSL's reasons for a server that refuses the client's certificate, or misses one."""


class ClientTls(Settings):
    """The TLS keys of a connection that always checks the certificate of the other side."""

    ca: Path | None = None
    """PEM file of certificates to trust instead of the system's."""
    cert: Path | None = None
    """PEM file of the certificate that this program shows to the other side."""
    key: Path | None = None
    """PEM file of the private key of `cert`, not encrypted. Default: the file of `cert`."""

    @model_validator(mode="after")
    def _key_belongs_to_cert(self) -> Self:
        if self.key is not None and self.cert is None:
            raise ValueError("`key` belongs to a client certificate: give `cert` too")
        return self

    @property
    def files(self) -> list[Path]:
        """The files that the keys name."""
        return [file for file in (self.ca, self.cert, self.key) if file is not None]

    def tls_context(self) -> ssl.SSLContext:
        """Return the context, read from the files as they are now. Raises ConfigError when one cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            cause = _cause(error, "no certificate") + (variable_hint(self.ca) if self.ca else "")
            raise ConfigError(f"cannot use the certificates in {self.ca}: {cause}") from None
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key, password=lambda: "")  # else it asks on the terminal
            except OSError as error:
                key = f" with the key in {self.key}" if self.key else ""
                cause = _cause(error, "no certificate with its key, or the key is encrypted")
                cause += variable_hint(self.cert) or variable_hint(self.key or self.cert)
                raise ConfigError(f"cannot use the client certificate in {self.cert}{key}: {cause}") from None
        return context


class Tls(ClientTls):
    """The TLS keys of a connection to a device, which often has a certificate that nobody can check."""

    verify: bool = True
    """Check the certificate of the other side. With `false` anyone in between can read and change what is sent."""

    @model_validator(mode="after")
    def _ca_is_used(self) -> Self:
        if self.ca is not None and not self.verify:
            raise ValueError("`ca` has no effect with `verify: false`")
        return self

    def tls_context(self) -> ssl.SSLContext:
        context = super().tls_context()
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED  # old devices; nothing is secret here anyway
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
        return context


def require_tls_scheme(tls: Tls, scheme: str) -> None:
    """Raise ValueError for TLS keys beside an RTSP URL without TLS."""
    if tls != Tls() and scheme != "rtsps":
        raise ValueError("`tls` has no effect with rtsp://: use rtsps://")


def describe_tls_error(error: ssl.SSLError, always_verified: bool = False) -> str:
    """Return why TLS failed. OpenSSL's own text is not shown: it may repeat bytes of the other side.

    `always_verified`: the config has the keys of `ClientTls`, not those of `Tls`.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        fault = _CERTIFICATE_FAULTS.get(error.verify_code, "its certificate is not valid")
        if always_verified:
            return f"TLS: {fault.format(ca='ca: FILE')}"
        return f"TLS: {fault.format(ca='tls: {ca: FILE}')}, or set `tls: {{verify: false}}` to accept any"
    reason = getattr(error, "reason", None)  # Python sets none on errors of its own
    if reason in _NEEDS_CERTIFICATE:
        return "TLS: the other side requires a client certificate that it trusts: give `cert` and `key`"
    if reason in _NOT_TLS:
        return "TLS: the other side does not speak TLS on this port: check scheme and port of the URL"
    if isinstance(error, ssl.SSLEOFError) or reason is None:
        return "TLS: the connection broke off during the handshake"
    common = "TLS: no version or cipher in common"
    return common if always_verified else f"{common}; `tls: {{verify: false}}` also allows old ones"


def _cause(error: OSError, otherwise: str) -> str:
    """Return the cause in words: an `ssl.SSLError` means that the file does not hold what it should."""
    if isinstance(error, ssl.SSLError) or not error.strerror:
        return f"it holds {otherwise} in PEM format"
    return error.strerror

"""Redaction of credentials, and URLs that may hold some.

Texts are redacted where they leave the process: log formatter, event builder, config errors, RPC errors, dead letters,
command line output.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

_USERINFO = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s'\"@]*@")
_known: set[str] = set()


def remember(secret: str) -> None:
    """Make `redact` replace this text, plain or percent-encoded. Texts of one or two characters are ignored."""
    _known.update(form for form in (secret, unquote(secret), quote(secret, safe="")) if len(form) > 2)


def redact(text: str) -> str:
    """Return `text` with every remembered secret and the user part of every URL replaced by `***`."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _USERINFO.sub(r"\g<scheme>***@", text)


class Url:
    """A URL that may hold credentials. `str()` redacts them; only `reveal()` returns the whole."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        parts = urlsplit(text)
        if not parts.scheme or not parts.hostname:
            raise ValueError(f"is not a URL with a scheme and a host: {text}")
        try:
            _ = parts.port
        except ValueError:  # not chained: its text may hold part of a password
            raise ValueError(
                "has a port that is not a number from 0 to 65535 (is @ or / in a password written as %40 or %2F?)"
            ) from None
        for secret in (parts.password, *(value for _, value in parse_qsl(parts.query))):
            if secret:
                remember(secret)
        self._text = text

    @property
    def scheme(self) -> str:
        return urlsplit(self._text).scheme.lower()

    def reveal(self) -> str:
        """Return the URL with its credentials, for the call that connects."""
        return self._text

    def __str__(self) -> str:
        return redact(self._text)

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any) -> Url:
            if isinstance(value, Url):
                return value
            if not isinstance(value, str):
                raise ValueError("must be a URL")
            return cls(value)

        return core_schema.no_info_plain_validator_function(check, serialization=core_schema.to_string_ser_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "format": "uri"}


def require_scheme(*schemes: str) -> AfterValidator:
    """Return the validator of a `Url` field that accepts only these schemes."""

    def check(url: Url) -> Url:
        if url.scheme not in schemes:
            raise ValueError(f"must begin with {' or '.join(f'{name}://' for name in schemes)}, not {url.scheme}://")
        return url

    return AfterValidator(check)

"""URLs of notification services. In most of them host and path are the token, so only the scheme is ever shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from streamer.core.redact import remember, remember_url

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(.+)", re.DOTALL)
_MIN_SECRET = 8
"""Characters from which a part of a URL is hidden in all texts; shorter ones are words such as a topic `home`."""
_HOST = re.compile(r"localhost|[\w-]+(?:\.[\w-]+)+")


@dataclass(frozen=True, slots=True, repr=False)
class SecretUrl:
    """A URL of which `str()` shows the scheme only; `reveal()` returns the whole."""

    _text: str

    def __post_init__(self) -> None:
        match = _URL.fullmatch(self._text)
        if match is None:
            raise ValueError("must be an Apprise URL such as ntfys://ntfy.example/topic")
        if character := re.search(r"[\x00-\x20\x7f]", self._text):
            raise ValueError(f"holds a space or control character: it must be written with {quote(character[0])}")
        remember_url(self._text)
        for part in re.split(r"[/?&#=:@]", match[2]):
            if len(part) >= _MIN_SECRET and not _HOST.fullmatch(part):
                remember(part)
                remember(unquote(part))

    @property
    def scheme(self) -> str:
        return self._text.partition("://")[0].lower()

    def reveal(self) -> str:
        """Return the whole URL, for the call that connects."""
        return self._text

    def __str__(self) -> str:
        return f"{self.scheme}://***"

    def __repr__(self) -> str:
        return f"SecretUrl({str(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any) -> SecretUrl:
            if isinstance(value, SecretUrl):
                return value
            if not isinstance(value, str):
                raise ValueError("must be a URL")
            return cls(value)

        return core_schema.no_info_plain_validator_function(check, serialization=core_schema.to_string_ser_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "format": "uri"}

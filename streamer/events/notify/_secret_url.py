"""URLs of notification services. In most of them host and path are the token, so only the scheme is ever shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from streamer.core.redact import Url, remember, remember_url

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(.+)", re.DOTALL)
_MIN_SECRET = 8
"""Characters from which a part of a URL is hidden in all texts; shorter ones are words such as a topic `home`."""
_HOST = re.compile(r"localhost|[\w-]+(?:\.[\w-]+)+")


@dataclass(frozen=True, slots=True, repr=False)
class SecretUrl(Url):
    """A URL of which `str()` shows the scheme only; `reveal()` returns the whole."""

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

    def __str__(self) -> str:
        return f"{self.scheme}://***"

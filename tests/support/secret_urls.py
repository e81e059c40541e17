"""URLs of every shape that people write, each with a secret in it; many do not parse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

SCHEMES = ("rtsp://", "rtsps://", "http://", "https://", "mqtt://", "rtmp://", "srt://", "x-cam+v1://", "rtsp:/", "")
CHARACTERS = (
    "", "/", "@", ":", "#", "?", "%", "&", "=", "+", "[", "]", "'", '"', "\\", ",", ";", "!", "$", "<", "{", "|", "^",
    "`", "~", "*", "(", "é", "℀", "%2F", "%40", "/1@", "@:/", "://", "%zz",
)  # fmt: skip
"""Parts of a password. The first is a harmless one, the last ones are combinations."""
KEYS = (
    "user", "username", "pass", "passwd", "password", "pwd", "token", "key", "secret", "auth", "apikey", "api_key",
    "access_token", "X-Amz-Signature", "loginpas",
)  # fmt: skip
HOST = "127.0.0.1:9"


class SecretUrl(NamedTuple):
    text: str
    secrets: tuple[str, ...]
    """Parts that no output may contain."""


def all_urls() -> Iterator[SecretUrl]:
    """Yield about 500 URLs. Each secret is a word of its own, so that one URL does not hide those of another."""
    for scheme in SCHEMES:
        for character in CHARACTERS if scheme in ("rtsp://", "http://", "rtmp://", "") else CHARACTERS[:8]:
            yield from _with(scheme, character)
        for key in KEYS if scheme else ():
            yield from _with_key(scheme, key)


def parsable(url: SecretUrl) -> bool:
    """Return whether a camera or a sink accepts it."""
    from streamer.core.redact import Url

    try:
        return Url(url.text).scheme in ("rtsp", "rtsps", "http", "https")
    except ValueError:
        return False


_count = 0


def _words() -> tuple[str, str, str]:
    global _count
    _count += 1
    return f"Wo{_count:04}na", f"Hid{_count:04}", f"Den{_count:04}"


def _with(scheme: str, character: str) -> Iterator[SecretUrl]:
    """Yield the character in the password, and in the user where that is a place people use."""
    user, first, second = _words()
    yield SecretUrl(f"{scheme}{user}:{first}{character}{second}@{HOST}/stream1", (user, first, second))
    if scheme and character in ("", "/", "@", "#", "?"):
        user, first, second = _words()
        yield SecretUrl(f"{scheme}{user}{character}x:{first}{second}@{HOST}/", (user, first, second))


def _with_key(scheme: str, key: str) -> Iterator[SecretUrl]:
    """Yield the key in the query, the fragment, and the path."""
    for place in ("/live?channel=1&{}={}&subtype=0", "/live?{}={}", "/live#{}={}", "/{}={}/live"):
        _, first, second = _words()
        yield SecretUrl(f"{scheme}{HOST}{place.format(key, first + '+' + second + '==')}", (first, second))
    user, first, second = _words()
    yield SecretUrl(
        f"{scheme}{HOST}/user={user}_password={first}_{second}_channel=1_stream=0.sdp?real_stream",
        (user, first, second),
    )

"""Answers to `WWW-Authenticate` challenges of HTTP and RTSP servers: Basic (RFC 7617) and Digest (RFC 7616, RFC 2069).

Digest can use MD5, SHA-256 and SHA-512-256, each also as a session variant, with any `qop`. Texts are encoded as UTF-8;
bytes that a caller decoded with `surrogateescape` are hashed as they were.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

MAX_CHALLENGE_CHARS = 16_384
"""Longest part of one header that is read."""
MAX_TRIES = 3
"""Attempts of one request: without a valid challenge, with one, and once more after an expired nonce."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_SCHEME = re.compile(rf"{_TOKEN}(?=[\s,]|$)")
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
_HASHES = ("sha-512-256", "sha-256", "md5")
"""Hash algorithms, the strongest first."""
_UNSPOKEN_SCHEMES = re.compile(r"aws4-hmac-sha256|bearer|dpop|hoba|mutual|negotiate|ntlm|oauth|scram-sha-\d{1,3}")
_UNSPOKEN_ALGORITHM = re.compile(r"sha[0-9-]{1,8}(-sess)?")
"""Names that may appear in an error. Any other bytes of a server stay out of it."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a server offers."""

    scheme: str
    """Lower case, for example `digest`."""
    parameters: Mapping[str, str]
    """Values without quotes by lower-case name."""

    @property
    def algorithm(self) -> str:
        """Lower-case name of the digest's algorithm."""
        name = self.parameters.get("algorithm", "md5").lower()
        return re.sub(r"^sha_?(?=256|512)", "sha-", name)  # some cameras write SHA256

    @property
    def is_stale(self) -> bool:
        """True if only the nonce was rejected, because it has expired."""
        return self.parameters.get("stale", "").lower() == "true"

    @property
    def qop(self) -> str | None:
        """Quality of protection to use: `auth`, `auth-int`, None if the server names none, `` if it names others."""
        if not self.parameters.get("qop"):
            return None
        offered = re.split(r"[\s,]+", self.parameters["qop"].lower())
        return next((known for known in ("auth", "auth-int") if known in offered), "")

    def describe(self) -> str:
        """Return the name of the authentication for an error."""
        if self.scheme != "digest":
            return self.scheme.upper() if _UNSPOKEN_SCHEMES.fullmatch(self.scheme) else "an unknown kind of"
        if self.qop == "":
            return "digest of an unknown protection (qop)"
        return f"{self.algorithm.upper()} digest" if _UNSPOKEN_ALGORITHM.fullmatch(self.algorithm) else "unknown digest"


class AuthenticationUnsupportedError(Exception):
    """A server offers only ways to authenticate that streamer does not speak. The text says which."""


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return the challenges of all `WWW-Authenticate` headers of a response, in their order.

    Anything that is neither a scheme nor a parameter is skipped.
    """
    challenges: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        text = _CONTROL_CHARACTERS.sub(" ", header[:MAX_CHALLENGE_CHARS])
        at = 0
        while at < len(text):
            if match := _PARAMETER.match(text, at):
                if challenges:
                    quoted = match[2]
                    value = match[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                    challenges[-1][1].setdefault(match[1].lower(), value)
            elif match := _SCHEME.match(text, at):
                challenges.append((match[0].lower(), {}))
            at = match.end() if match else at + 1
    return [Challenge(scheme, parameters) for scheme, parameters in challenges]


def choose_challenge(challenges: Iterable[Challenge]) -> Challenge:
    """Return the strongest challenge that can be answered. Raises AuthenticationUnsupportedError if there is none."""
    offered = list(challenges)
    spoken = [challenge for challenge in offered if _strength(challenge)]
    if spoken:
        return max(spoken, key=_strength)
    if not offered:
        raise AuthenticationUnsupportedError("refuses access without saying which authentication it needs")
    names = " or ".join(dict.fromkeys(challenge.describe() for challenge in offered[:4]))
    raise AuthenticationUnsupportedError(f"needs {names} authentication, which streamer does not speak")


def basic(user: str, password: str) -> str:
    """Return the value of an `Authorization` or `Proxy-Authorization` header for Basic authentication."""
    return "Basic " + base64.b64encode(_encode(f"{user}:{password}")).decode()


def authorization(
    challenge: Challenge,
    user: str,
    password: str,
    method: str,
    uri: str,
    body: bytes = b"",
    *,
    count: int = 1,
    cnonce: str | None = None,
) -> str:
    """Return the value of the `Authorization` header for one request.

    `uri`: as in the request line. `count`: number of the request with the challenge's nonce, from 1. `cnonce`: random
    by default.
    """
    if challenge.scheme == "basic":
        return basic(user, password)
    parameters, qop = challenge.parameters, challenge.qop
    realm, nonce = parameters.get("realm", ""), parameters.get("nonce", "")
    cnonce = cnonce or secrets.token_hex(16)
    digest = _hasher(challenge.algorithm.removesuffix("-sess"))
    key = digest(f"{user}:{realm}:{password}")
    if challenge.algorithm.endswith("-sess"):
        key = digest(f"{key}:{nonce}:{cnonce}")
    request = f"{method}:{uri}" + (f":{digest(body)}" if qop == "auth-int" else "")
    middle = f"{nonce}:{count:08x}:{cnonce}:{qop}" if qop else nonce
    hide_user = parameters.get("userhash", "").lower() == "true"
    fields = {
        "username": _quote(digest(f"{user}:{realm}") if hide_user else user),
        "realm": _quote(realm),
        "nonce": _quote(nonce),
        "uri": _quote(uri),
        "response": _quote(digest(f"{key}:{middle}:{digest(request)}")),
    }
    if "algorithm" in parameters:
        fields["algorithm"] = parameters["algorithm"]
    if "opaque" in parameters:
        fields["opaque"] = _quote(parameters["opaque"])
    if qop:
        fields |= {"qop": qop, "nc": f"{count:08x}"}
    if qop or challenge.algorithm.endswith("-sess"):
        fields["cnonce"] = _quote(cnonce)
    if hide_user:
        fields["userhash"] = "true"
    return "Digest " + ", ".join(f"{name}={value}" for name, value in fields.items())


class Authenticator:
    """User and password for one server. Keeps its newest challenge, to answer it in advance in later requests."""

    def __init__(self, user: str, password: str) -> None:
        self._user, self._password = user, password
        self._challenge: Challenge | None = None
        self._count = 0

    def accept(self, headers: Iterable[str], tries: int) -> bool:
        """Take the challenges of a 401 response. Return True if the request should be sent again.

        `tries`: how often the request was sent; from the second time on it answered a challenge made for it. Raises
        AuthenticationUnsupportedError.
        """
        challenge = choose_challenge(parse_challenges(headers))
        may_retry = tries < 2 or (challenge.is_stale and tries < MAX_TRIES)
        self._challenge, self._count = challenge, 0
        return may_retry

    def authorization(self, method: str, uri: str, body: bytes = b"") -> str | None:
        """Return the value of the `Authorization` header, None before the first challenge."""
        if self._challenge is None:
            return None
        self._count += 1
        return authorization(self._challenge, self._user, self._password, method, uri, body, count=self._count)


def _strength(challenge: Challenge) -> int:
    """Return a number that is larger for a stronger challenge, 0 if it cannot be answered."""
    if challenge.scheme == "basic":
        return 1
    algorithm = challenge.algorithm.removesuffix("-sess")
    if challenge.scheme != "digest" or algorithm not in _HASHES or challenge.qop == "" or not _is_available(algorithm):
        return 0
    is_plain = algorithm == challenge.algorithm
    return 2 + 2 * (len(_HASHES) - 1 - _HASHES.index(algorithm)) + is_plain


def _is_available(algorithm: str) -> bool:
    return algorithm != "sha-512-256" or "sha512_256" in hashlib.algorithms_available


def _hasher(algorithm: str) -> Callable[[str | bytes], str]:
    """Return the function that hashes a text or bytes to hexadecimal digits."""
    name = {"sha-512-256": "sha512_256", "sha-256": "sha256", "md5": "md5"}[algorithm]

    def digest(value: str | bytes) -> str:
        data = _encode(value) if isinstance(value, str) else value
        return hashlib.new(name, data, usedforsecurity=False).hexdigest()  # MD5 also where the system forbids it

    return digest


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

"""Redaction of credentials, and URLs that may hold some.

Texts are redacted where they leave the process: log formatter, event builder, config errors, RPC errors, dead letters,
command line output. No step needs a URL that parses: a password with an unencoded `/` or `@` is hidden too. Where it is
unclear at which character a secret ends, more is hidden.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

MIN_SECRET = 3
"""Characters of the shortest text that is remembered; a shorter one is part of many words."""
_MAX_WORD = 7
"""A remembered text of at most this many characters is replaced only where it is a whole word."""
_LONG_VALUE = 8
"""Characters from which a query value counts as a secret although its key does not say so."""

_SCHEME = r"[a-zA-Z][a-zA-Z0-9+.-]*"
_CHARACTER = r"""(?:[^\s"'`]|["'`](?![\s,;:.)}\]]|$))"""
"""A character of a URL. A quote ends the URL if a space or punctuation follows; else it may be part of a password."""
_USERINFO = re.compile(
    rf"""(?<![a-zA-Z0-9+.-])({_SCHEME}:/+){_CHARACTER}*@"""  # up to the last @
    rf"""|(?<![^\s"'`(=,<\[{{])[^\s:@"'`(=,<\[{{]*:(?=[^\s:"'`]){_CHARACTER}*@(?=[\w.\[*-])"""  # without a scheme
)
_STRONG_KEY = r"[\w.-]{0,40}?(?:pass(?:wd|word|code|phrase)?|pwd|token|secret|api[_-]?key|credentials?|signature)"
_WEAK_KEY = r"(?:[\w.-]{0,40}[._-])?(?:user(?:name)?|usr|key|auth|authorization|pw|pas|login(?:use|pas)?|sig)"
_NEXT_KEY = rf"(?:&[\w.\[\]%-]+|[;_/?#,](?:{_STRONG_KEY}|{_WEAK_KEY}|channel|stream|subtype))="
"""The start of another `key=` in an address. Other separators may be part of a password."""
_VALUE = rf"(?:=|%3[dD])((?:(?!{_NEXT_KEY}){_CHARACTER})+)"
_STRONG_VALUE = re.compile(rf"(?<![a-zA-Z0-9])({_STRONG_KEY}){_VALUE}", re.IGNORECASE)
"""Hidden in every text."""
_WEAK_VALUE = re.compile(rf"(?<![a-zA-Z0-9])({_WEAK_KEY}){_VALUE}", re.IGNORECASE)
"""Hidden only in a word with `/`, `?` or `&`: `key=value` is also ordinary text."""
_USER_KEY = re.compile(r"(?:user|username|usr|login|loginuse)$", re.IGNORECASE)
"""Keys of which the value is a name, hidden in addresses but not in other texts."""
_MAX_ENDS = 8
_WORD = re.compile(r"\S+")
_HEADER = re.compile(r"(authorization\W{1,8}(?:basic|bearer|digest) +)[^\s'\"]+", re.IGNORECASE)

_remembered: set[str] = set()
_forms: list[str] = []
"""Forms of the remembered secrets, the longest first."""


def remember(secret: str) -> None:
    """Make `redact` replace this text, also percent-encoded or in JSON. Texts of one or two characters are ignored."""
    if len(secret) < MIN_SECRET or secret in _remembered:
        return
    _remembered.add(secret)
    _forms[:] = sorted({*_forms, *_forms_of(secret)}, key=len, reverse=True)


def remembered() -> tuple[str, ...]:
    """Return all texts given to `remember`, for another process."""
    return tuple(sorted(_remembered))


def remember_url(text: str) -> None:
    """Remember the passwords and tokens of a URL, whether it is valid or not. User names are not remembered."""
    rest = re.sub(rf"^{_SCHEME}:/+", "", text)
    userinfo, _, address = rest.rpartition("@")
    user, colon, password = userinfo.partition(":")
    if colon:
        ends = [match.start() for match in re.finditer("@", password)][-_MAX_ENDS:]
        for end in (*ends, len(password)):  # each may be the end of the password
            remember(password[:end])
            pair = f"{unquote(user)}:{unquote(password[:end])}".encode(errors="replace")
            remember(base64.b64encode(pair).decode())  # as HTTP Basic sends it
    else:
        _remember_if_long(userinfo)
    _remember_values(address)


def _remember_values(address: str) -> None:
    """Remember the values in path, query and fragment that are secrets by their keys or by their length."""
    for pattern in (_STRONG_VALUE, _WEAK_VALUE):
        for match in pattern.finditer(address):
            if not _USER_KEY.search(match[1]):
                remember(match[2])
                remember(re.split("[/?#,;]", match[2])[0])  # the rest may belong to the address
    for item in re.split("[&#?]", address)[1:]:
        key, equals, value = item.partition("=")
        _remember_if_long(value if equals else key)


def redact(text: str) -> str:
    """Return `text` with `***` for every remembered secret, the user part of URLs, and values such as `token=...`."""
    for form in _forms:
        if form in text:
            text = _replace(form, text)
    if "@" in text:
        text = _USERINFO.sub(lambda match: f"{match[1] or ''}***@", text)
    if "=" in text or "%3" in text:
        text = _WORD.sub(_hide_weak_values, _STRONG_VALUE.sub(r"\1=***", text))
    return _HEADER.sub(r"\1***", text)


def _remember_if_long(value: str) -> None:
    if len(value) >= _LONG_VALUE:
        remember(value)


def _forms_of(secret: str) -> set[str]:
    plain = {secret, unquote(secret), unquote_plus(secret)}
    quoted = {quote(one, safe=safe, errors="replace") for one in plain for safe in ("", "/", "!$&'()*+,;=:@/?~")}
    lower = {re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), one) for one in quoted}
    escaped = {form[1:-1] for one in plain for form in (json.dumps(one), repr(one))}
    return {form for form in plain | quoted | lower | escaped if len(form) >= MIN_SECRET}


def _replace(form: str, text: str) -> str:
    if len(form) > _MAX_WORD:
        return text.replace(form, "***")
    return re.sub(rf"(?:(?<![^\W_])|(?<=%[0-9A-Fa-f]{{2}})){re.escape(form)}(?![^\W_])", "***", text)


def _hide_weak_values(word: re.Match[str]) -> str:
    return _WEAK_VALUE.sub(r"\1=***", word[0]) if any(mark in word[0] for mark in "/?&") else word[0]


@dataclass(frozen=True, slots=True, repr=False)
class Url:
    """A URL that may hold credentials. `str()` redacts them; only `reveal()` returns the whole."""

    _text: str

    def __post_init__(self) -> None:
        remember_url(self._text)
        if problem := _problem_of(self._text):
            raise ValueError(problem)
        _remember_values(re.sub(rf"^{_SCHEME}://[^/?#]*", "", self._text))

    @property
    def scheme(self) -> str:
        return urlsplit(self._text).scheme.lower()

    def reveal(self) -> str:
        """Return the URL with its credentials, for the call that connects."""
        return self._text

    def __str__(self) -> str:
        return redact(self._text)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any) -> Url:
            if isinstance(value, cls):
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


def _problem_of(text: str) -> str | None:
    """Return why `text` is not a usable URL, without its secrets, or None."""
    if character := re.search(r"[\x00-\x20\x7f]", text):
        return f"holds a space or control character: it must be written with {quote(character[0])}"
    match = re.match(rf"{_SCHEME}://([^/?#]*)(.?)", text)
    if match is None or not match[1].rpartition("@")[2]:
        if match is None or "@" not in text[match.end() :]:
            return f"is not a URL with a scheme and a host: {redact(text)}"
        return _must_encode(match[2])
    user, at, host = match[1].rpartition("@")
    if re.search("%(?:[01][0-9a-fA-F]|7[fF])", user):
        return "holds a control character (%00 to %1F, %7F) in user or password"
    before, late, _ = text[match.end() :].rpartition("@")
    if late and (at or ":" in before or re.search(r":[^\]]*$", host)):
        return f"{_must_encode(match[2])}; `@` after the host with %40"
    try:
        parts = urlsplit(text)
    except ValueError:  # its text holds part of the URL
        unusual = re.search(r"[\[\]]|[^\x00-\x7f]", user)
        return _must_encode(unusual[0]) if unusual else f"has a host that is not valid: {redact(text)}"
    try:
        _ = parts.port
    except ValueError:
        return "has a port that is not a number from 0 to 65535 (is @ or / in a password written as %40 or %2F?)"
    return None if parts.hostname else f"is not a URL with a scheme and a host: {redact(text)}"


def _must_encode(character: str) -> str:
    return f"a password with `{character}` must be written with {quote(character, safe='')}"

"""Kinds of source. A new kind is one file here, one class in `Kinds` and, for a text form, one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

from streamer.capture.interfaces import Source
from streamer.capture.sources.file import File
from streamer.capture.sources.http import Http, Snapshot
from streamer.capture.sources.remote import Remote
from streamer.capture.sources.rtsp import Rtsp
from streamer.capture.sources.synthetic import Synthetic
from streamer.capture.sources.webcam import Webcam
from streamer.core.redact import redact, remember_url
from streamer.core.settings import Settings, was_checked
from streamer.types import Pace

__all__ = [
    "File", "Http", "Remote", "Rtsp", "Snapshot", "SourceField", "SourceSummary", "Synthetic", "Webcam", "parse_source",
]  # fmt: skip

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://|(rtsps?|https?):")
_NO_SCHEME = re.compile(r"[^\s:/@]*:.*@.|[\w.-]+:\d+(/|$)|\d+\.\d+\.\d+\.\d+(/|$)")
"""`user:password@host`, `host:port/` or an IP address, without a scheme."""
_KINDS = {"rtsp": "rtsp", "rtsps": "rtsp", "http": "http", "https": "http", "streamer": "remote"}


def parse_source(value: Any) -> Any:
    """Return the settings mapping for a text form; return anything else unchanged. Raises ValueError.

    Forms: `rtsp://…`, `rtsps://…`, `http://…`, `https://…`, `streamer://…`, `file://…`, `/dev/…`, the number of a
    webcam, `synthetic`, `synthetic?seed=1&fps=25`. Any other text is the path of a file.
    """
    if isinstance(value, bool) or not isinstance(value, (str, Path, int)):
        return value
    text = str(value)
    if not text.strip():
        raise ValueError("must be a URL, a device, a file or `synthetic`")
    name, _, query = text.partition("?")
    if name == "synthetic":
        return _synthetic(query)
    if text.isascii() and text.isdecimal():
        return {"kind": "webcam", "device": f"/dev/video{int(text)}"}
    if text.startswith("/dev/"):
        return {"kind": "webcam", "device": text}
    if text[:5].lower() == "file:":
        return {"kind": "file", "path": _file_path(text)}
    match = _SCHEME.match(text)
    if match is None:
        if _NO_SCHEME.match(text) and not Path(text).exists():
            remember_url(text)
            raise ValueError(f"the scheme is missing: write rtsp:// or http:// before {redact(text)}")
        return {"kind": "file", "path": text}
    scheme = (match[1] or match[2]).lower()
    if scheme not in _KINDS:
        remember_url(text)
        raise ValueError(
            f"unknown scheme `{scheme}` in {redact(text)}: use rtsp://, rtsps://, http://, https:// or streamer://"
        )
    return {"kind": _KINDS[scheme], "url": text}


def _file_path(url: str) -> str:
    """Return the path of a `file:` URL. Raises ValueError."""
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"`file://` takes a path on this computer, such as file:///videos/clip.mp4, not {redact(url)}")
    return unquote(url.split(":", 1)[1].removeprefix("//localhost").removeprefix("//"))


def _synthetic(query: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in settings or key == "kind":
            raise ValueError(f"`{key}` cannot stand here" if key == "kind" else f"`{key}` is given twice")
        settings[key] = value
    return {**settings, "kind": "synthetic"}


Kinds = Rtsp | Webcam | File | Http | Snapshot | Remote | Synthetic
"""The settings classes, one per kind."""


class SourceSummary(Settings):
    """The facts about a source that other processes than its capture need. It holds no address and no secret."""

    kind: str
    pace: Pace

    def open(self, read_limit: float = 15.0) -> Source:
        raise NotImplementedError


def _validate(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    if was_checked(info) and isinstance(value, dict) and value.keys() == {"kind", "pace"}:
        return SourceSummary.model_validate(value)
    return handler(parse_source(value))


SourceField = Annotated[
    Annotated[Kinds, Field(discriminator="kind")], WrapValidator(_validate, json_schema_input_type=str | int | Kinds)
]
"""The settings of any source: a mapping with `kind`, or a text or number as `parse_source` takes it."""

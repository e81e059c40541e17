"""Frames of a source at an interval, without an agent: for `streamer model quantize` and `streamer dataset collect`."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamer.core.errors import ConfigError, SourceEnded, SourceLost, StreamerError
from streamer.core.proxies import forget_proxies
from streamer.core.redact import redact
from streamer.core.settings import in_words
from streamer.types import Image

if TYPE_CHECKING:
    from streamer.capture.interfaces import SourceSettings
    from streamer.config.model import Config

WAIT_S = 30.0
"""Longest wait for the next frame of a source."""


class Moment(NamedTuple):
    """A frame of a source."""

    image: Image
    pts: float | None
    """Media time in seconds; None where the source gives none."""


def find_sources(config: Config | None, source: str | None) -> Mapping[str, SourceSettings]:
    """Return the sources of `--from` by stream, "" for a source that no stream of the config has.

    `source`: name of a stream or text of a source; None: all streams. Raises ConfigError for a text that is neither.
    """
    streams = config.streams if config else {}
    if source is None:
        return {name: stream.source for name, stream in streams.items()}
    if source in streams:
        return {source: streams[source].source}
    from pydantic import TypeAdapter, ValidationError

    from streamer.capture.sources import SourceField

    adapter: TypeAdapter[SourceSettings] = TypeAdapter(SourceField)
    try:
        return {"": adapter.validate_python(source)}
    except ValidationError as error:
        reason = in_words(error.errors()[0])
        known = f"; streams of the config: {', '.join(streams)}" if streams else ""
        raise ConfigError(redact(f"--from: {source} is no stream, folder or source: {reason}{known}")) from None


def spaced(source: SourceSettings, every: float, where: str) -> Iterator[Moment]:
    """Yield a frame each `every` seconds until the source ends: by the clock for a camera, by media time for a file.

    `where` names the source in errors. Raises StreamerError.
    """
    environment = dict(os.environ)
    forget_proxies()  # no camera is reached through a proxy; a checkpoint may be
    try:
        yield from _spaced(source, every)
    except SourceEnded:
        return
    except StreamerError as error:
        raise type(error)(redact(f"{where}: {error}")) from None
    finally:
        os.environ.update(environment)


def _spaced(source: SourceSettings, every: float) -> Iterator[Moment]:
    next_at, waiting_since = -math.inf, time.monotonic()
    with closing(source.open()) as opened:
        opened.set_interval(every)
        for picture in opened:
            now = time.monotonic()
            if picture is not None:
                at = now if source.pace == "live" or picture.pts is None else picture.pts
                if at >= next_at:
                    next_at, waiting_since = at + every, now
                    image = np.empty((picture.height, picture.width, 3), np.uint8)
                    picture.write_bgr(image)
                    yield Moment(image, picture.pts)
            if now - waiting_since > WAIT_S + every:
                raise SourceLost(f"no picture for {WAIT_S + every:g} s")

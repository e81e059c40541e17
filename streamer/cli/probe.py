"""Opens the sources of a config for a moment and says what they send."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from itertools import islice, pairwise

from streamer.config.model import Config
from streamer.core.errors import ConfigError, SourceEnded, SourceLost
from streamer.core.redact import redact
from streamer.types import Picture, SourceSettings

LIMIT_S = 30.0
"""For a camera with ten seconds between its pictures, of which the first is only known once the second begins."""
PICTURES, PICTURES_S = 15, 4.0
"""Enough to see the frame rate; of a slow camera two are."""


def probe_all(config: Config) -> bool:
    """Print one line per stream; whether all of them sent a picture within LIMIT_S seconds."""
    probes = {name: _Probe(stream.source) for name, stream in config.streams.items()}
    deadline = time.monotonic() + LIMIT_S
    for name, probe in probes.items():
        probe.thread.join(max(0.0, deadline - time.monotonic()))
        print(f"{name}: {redact(probe.words())}", flush=True)
    return all(probe.size for probe in probes.values())


class _Probe:
    """One source in a thread of its own, because nothing can interrupt a call that hangs inside the video library."""

    def __init__(self, settings: SourceSettings) -> None:
        self.size: tuple[int, int] | None = None
        self.rate: float | None = None
        self.problem: str | None = None
        self.thread = threading.Thread(target=self._look, args=(settings,), daemon=True)
        self.thread.start()

    def words(self) -> str:
        if self.size is None:
            return self.problem or f"no picture within {LIMIT_S:g} s"
        rate = f"{self.rate:.3g} fps" if self.rate else "frame rate unknown"
        return f"{self.size[0]}x{self.size[1]}, {rate}"

    def _look(self, settings: SourceSettings) -> None:
        try:
            source = settings.open()
            try:
                self._read(iter(source))
            finally:
                source.close()
        except (SourceLost, SourceEnded, ConfigError) as error:
            self.problem = str(error)
        else:
            if self.size is None:
                self.problem = "ended without a picture"

    def _read(self, pictures: Iterator[Picture | None]) -> None:
        times: list[float] = []
        began = time.monotonic()
        for picture in islice((picture for picture in pictures if picture is not None), PICTURES):
            self.size = (picture.width, picture.height)
            if picture.pts is not None:
                times.append(picture.pts)
            if len(times) > 1 and time.monotonic() - began > PICTURES_S:
                break
        gaps = [after - before for before, after in pairwise(times) if after > before]
        if gaps:
            self.rate = 1 / statistics.median(gaps)  # a picture may be missing here and there

"""`streamer check --probe`: open each source of a config for a few seconds and print its frame size and rate."""

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

TIMEOUT_S = 30.0
"""Enough for a camera with a frame every 10 s: its first frame is complete only when the second begins."""
MAX_FRAMES, MAX_S = 15, 4.0
"""Frames and seconds from which the rate is measured; after MAX_S, two frames are enough."""


def probe_all(config: Config) -> bool:
    """Print one line per stream; return whether every source sent a frame within TIMEOUT_S."""
    probes = {name: _Probe(stream.source) for name, stream in config.streams.items()}
    deadline = time.monotonic() + TIMEOUT_S
    for name, probe in probes.items():
        probe.thread.join(max(0.0, deadline - time.monotonic()))
        print(f"{name}: {redact(probe.describe())}", flush=True)
    return all(probe.size for probe in probes.values())


class _Probe:
    """Opens and reads one source in a thread, because a call that hangs in the video library cannot be interrupted."""

    def __init__(self, settings: SourceSettings) -> None:
        self.size: tuple[int, int] | None = None
        self.rate: float | None = None
        self.problem: str | None = None
        self.thread = threading.Thread(target=self._run, args=(settings,), daemon=True)
        self.thread.start()

    def describe(self) -> str:
        if self.size is None:
            return self.problem or f"no frame within {TIMEOUT_S:g} s"
        rate = f"{self.rate:.3g} fps" if self.rate else "frame rate unknown"
        return f"{self.size[0]}x{self.size[1]}, {rate}"

    def _run(self, settings: SourceSettings) -> None:
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
                self.problem = "ended without a frame"

    def _read(self, pictures: Iterator[Picture | None]) -> None:
        times: list[float] = []
        started = time.monotonic()
        for picture in islice((picture for picture in pictures if picture is not None), MAX_FRAMES):
            self.size = (picture.width, picture.height)
            if picture.pts is not None:
                times.append(picture.pts)
            if len(times) > 1 and time.monotonic() - started > MAX_S:
                break
        gaps = [after - before for before, after in pairwise(times) if after > before]
        if gaps:
            self.rate = 1 / statistics.median(gaps)  # the median ignores gaps of lost frames

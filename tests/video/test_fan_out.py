"""A view's pictures of any size on their way to its outputs: drawn, encoded, or that output is down in words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamer.bus.event_channel import EventClient
from streamer.events.schema import StatusEvent
from streamer.types import Frame, Zone
from streamer.video.encoder import MAX_SIDE
from streamer.video.fan_out import FanOut
from streamer.video.frame_intake import with_even_sides
from streamer.video.outputs.hls import Hls
from streamer.video.outputs.mp4 import Mp4
from streamer.video.pacing import PacedFrame
from streamer.video.renderer import Renderer
from tests.support.agents import until
from tests.support.sample_events import event
from tests.support.viewing import StatusCollector, ffprobe, files

GOOD = 64, 48
EPOCH = event().data.epoch


class Outputs:
    """An HLS and an MP4 output of one stream; `show` draws and sends pictures of one size."""

    def __init__(self, folder: Path, events: EventClient, statuses: StatusCollector) -> None:
        (folder / "video").mkdir()
        outputs = [Hls(stream="gate"), Mp4(stream="gate", path=folder / "video")]
        self.fan_out = FanOut("home", outputs, folder, events)
        self._events, self._statuses = events, statuses
        self._renderer = Renderer(time.monotonic())
        zone = Zone("door", ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9)))
        self._renderer.set_tasks({"people": 1.0}, 1.0, [zone], time.monotonic())
        self._number = 0

    def show(self, size: tuple[int, int], count: int = 3) -> None:
        width, height = size
        rng = np.random.default_rng(1)
        for _ in range(count):
            self._number += 1
            now = time.monotonic()
            image = with_even_sides(rng.integers(0, 255, (height, width, 3), np.uint8))
            frame = Frame("gate", EPOCH, self._number, time.time(), now, 34.7 + self._number / 25, image)
            self._renderer.overlays.add(event("gate", self._number), now)
            drawn = self._renderer.render(PacedFrame(frame, now, is_repeat=False), now)
            assert drawn is not None
            assert drawn.shape == (height + height % 2, width + width % 2, 3)
            self.fan_out.write(drawn, self._number / 25, 25)
        late = self._renderer.render(PacedFrame(frame, now, is_repeat=True), now + 3600)  # writes the age of the answer
        assert late is not None
        lost = self._renderer.render(PacedFrame(frame, now, is_repeat=True, lost_s=5.0), now)
        assert lost is not None

    def shows_size(self, size: tuple[int, int]) -> bool:
        """Show pictures of this size; return whether they were encoded. A second change of the size has to wait."""
        self.show(size, count=1)
        encoder = self.fan_out._encoder
        return encoder is not None and encoder.size == size

    def events(self) -> list[StatusEvent]:
        self._events.flush(0.01)
        self._events.resend()
        received = {one.id: one for one in self._statuses.receive()}  # an event may be delivered twice
        return [one for one in received.values() if one.subject.startswith("output.")]


@pytest.fixture
def outputs(tmp_path: Path) -> Iterator[Outputs]:
    with StatusCollector(tmp_path) as statuses, EventClient(tmp_path, "view-gate") as events:
        found = Outputs(tmp_path, events, statuses)
        yield found
        found.fan_out.close()


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (16, 16), (1, 5000), (5000, 1), (MAX_SIDE, 2)], ids=str)
def test_every_size_of_the_encoder_is_shown(outputs: Outputs, tmp_path: Path, size: tuple[int, int]) -> None:
    outputs.show(GOOD)
    outputs.show(size)
    until(lambda: outputs.shows_size(GOOD), 5, "the first size again")
    assert outputs.events() == []
    outputs.fan_out.close()
    found = [(probe["width"], probe["height"]) for probe in map(ffprobe, files(tmp_path / "video"))]
    assert found == [GOOD, (size[0] + size[0] % 2, size[1] + size[1] % 2), GOOD]


def test_size_that_changes_each_frame_starts_few_files(outputs: Outputs, tmp_path: Path) -> None:
    for number in range(60):
        outputs.show((64 + 16 * (number % 5), 48), count=1)
        time.sleep(0.02)
    assert len(files(tmp_path / "video")) <= 5  # in 1.2 s and the time of the encoder
    assert outputs.events() == []


@pytest.mark.parametrize("size", [(60_000, 100), (100, 60_000), (MAX_SIDE + 2, 2)], ids=str)
def test_too_large_picture_is_an_output_that_is_down(outputs: Outputs, size: tuple[int, int]) -> None:
    outputs.show(GOOD)
    outputs.show(size)
    down = until(lambda: found if len(found := outputs.events()) == 2 else [], 5, "both outputs are down")
    assert {one.subject for one in down} == {"output.down"}
    assert {one.data.output for one in down} == {"gate-hls", "gate-mp4"}
    assert {one.data.reason for one in down} == {
        f"pictures of {size[0]}x{size[1]} pixels: H.264 has at most {MAX_SIDE} pixels a side"
    }

    def is_up() -> bool:
        outputs.show(GOOD)
        return len(outputs.events()) == 4

    until(is_up, 10, "both are up again")
    assert {one.subject for one in outputs.events()[2:]} == {"output.up"}

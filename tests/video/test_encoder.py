"""The H.264 encoder of views."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from streamer.video.encoder import Encoder
from streamer.video.outputs.base import CLOCK_HZ

RGB = (200, 50, 20)


@pytest.mark.parametrize(("lines", "matrix"), [(480, 6), (720, 1)])
def test_video_states_its_colours(tmp_path: Path, lines: int, matrix: int) -> None:
    encoder = Encoder("libx264", 128, lines, 25)
    image = np.full((lines, 128, 3), RGB[::-1], np.uint8)
    with av.open(str(tmp_path / "clip.mp4"), "w") as clip:
        stream = clip.add_stream_from_template(encoder.template)
        for number in range(3):
            for encoded in encoder.encode(image, number / 25):
                packet = av.Packet(encoded.data)
                packet.stream, packet.time_base = stream, Fraction(1, CLOCK_HZ)
                packet.pts = packet.dts = encoded.pts
                clip.mux(packet)
    encoder.close()
    with av.open(str(tmp_path / "clip.mp4")) as clip:
        frame = next(clip.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (matrix, 1)
        shown = frame.to_ndarray(format="rgb24")
    assert np.abs(shown.astype(int) - RGB).max() <= 4
